//! The server seen from outside: what its processes use, what the gateway counts, what the clients were shown.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use crate::clock::Clock;
use crate::fleet::{Fleet, LoopHealth, Progress};
use crate::measure::counters::Counters;
use crate::measure::process::{Probe, Usage, Watched, gateway_cpu_us};
use crate::publish::Meter;
use crate::result::{Process, Server};
use crate::run::Options;

/// Names by which watched processes are known.
pub const GATEWAY: &str = "gateway";
pub const CONTROL: &str = "control";
/// Gateway and control in one process.
pub const BOTH: &str = "tidegate";

#[derive(Debug)]
pub struct Watch {
    clock: Clock,
    admins: Vec<SocketAddr>,
    roles: Arc<Roles>,
    probes: Mutex<Vec<Probe>>,
    own: Mutex<Probe>,
    fleet: Mutex<Option<Arc<Fleet>>>,
    meter: Meter,
}

/// Which of the watched processes is what.
#[derive(Clone, Debug, Default)]
struct Roles {
    gateways: Vec<usize>,
    controls: Vec<usize>,
    /// The gateway's process holds both.
    shared: bool,
}

/// One moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub at_us: u64,
    /// By watched process; `None`: it has ended.
    usages: Vec<Option<Usage>>,
    roles: Arc<Roles>,
    /// The harness itself.
    pub own: Option<Usage>,
    pub counters: Option<Counters>,
    pub progress: Progress,
    pub health: Option<LoopHealth>,
    pub answered: u64,
}

impl Roles {
    fn of(watched: &[Watched]) -> Roles {
        let places = |is_so: &dyn Fn(&str) -> bool| {
            let found = watched.iter().enumerate().filter(|(_, watched)| is_so(&watched.name));
            found.map(|(at, _)| at).collect::<Vec<_>>()
        };
        let gateways = places(&|name| is_one_of(name, GATEWAY));
        let shared = places(&|name| name == BOTH);
        let controls = places(&|name| is_one_of(name, CONTROL));
        match gateways.is_empty() {
            true => Roles { shared: !shared.is_empty(), gateways: shared, controls },
            false => Roles { gateways, controls, shared: false },
        }
    }
}

/// `gateway`, `gateway-1`, `gateway-2` …
fn is_one_of(name: &str, role: &str) -> bool {
    let number = name.strip_prefix(role).map(|rest| rest.strip_prefix('-').unwrap_or(rest));
    number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
}

impl Watch {
    pub fn new(options: &Options, clock: Clock, fleet: Option<Arc<Fleet>>, meter: Meter) -> Watch {
        let roles = Roles::of(&options.watched);
        Watch {
            clock,
            admins: options.admins.clone(),
            roles: Arc::new(roles),
            probes: Mutex::new(options.watched.iter().cloned().map(Probe::new).collect()),
            own: Mutex::new(Probe::new(Watched { name: "generator".to_owned(), pid: std::process::id() })),
            fleet: Mutex::new(fleet),
            meter,
        }
    }

    /// Everything, with the gateways' own counters; blocks for a round trip to each.
    pub fn snapshot(&self) -> Snapshot {
        let pages: Option<Vec<Counters>> = self.admins.iter().map(|admin| Counters::scrape(*admin).ok()).collect();
        let counters = pages.and_then(|pages| pages.into_iter().reduce(|sum, page| sum.and(&page)));
        Snapshot { counters, health: self.with_fleet(Fleet::health), ..self.glance() }
    }

    /// What can be had from this machine alone.
    pub fn glance(&self) -> Snapshot {
        let mut probes = self.probes.lock().expect("no holder panics");
        Snapshot {
            at_us: self.clock.now_us(),
            usages: probes.iter_mut().map(|probe| probe.usage().ok()).collect(),
            roles: Arc::clone(&self.roles),
            own: self.own.lock().expect("no holder panics").usage().ok(),
            counters: None,
            progress: self.with_fleet(Fleet::progress).unwrap_or_default(),
            health: None,
            answered: self.meter.answered(),
        }
    }

    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// The fleet belongs to the judge from now on.
    pub fn let_go(&self) {
        self.fleet.lock().expect("no holder panics").take();
    }

    /// What the server used between two moments.
    pub fn cost(&self, from: &Snapshot, to: &Snapshot) -> Option<Server> {
        let seconds = (to.at_us.saturating_sub(from.at_us)) as f64 / 1e6;
        let gateway_us = delta(from.gateway_cpu_us(), to.gateway_cpu_us());
        let control_us = delta(from.control_cpu_us(), to.control_cpu_us());
        let shown = to.progress.shown.saturating_sub(from.progress.shown) as f64;
        let bytes = to.progress.bytes.saturating_sub(from.progress.bytes) as f64;
        let answered = to.answered.saturating_sub(from.answered) as f64;
        let counters = from.counters.zip(to.counters);
        let sends = counters.map(|(from, to)| to.sends.saturating_sub(from.sends) as f64);
        let delivered = counters.map(|(from, to)| to.deliveries.saturating_sub(from.deliveries) as f64);
        if gateway_us.is_none() && control_us.is_none() && sends.is_none() {
            return None;
        }
        let per = |cost: Option<f64>, count: f64| cost.filter(|_| count > 0.0).map(|cost| cost / count);
        Some(Server {
            cpu_us_per_delivery: per(gateway_us, shown),
            control_cpu_us_per_delivery: per(control_us, shown),
            control_cpu_us_per_message: per(control_us, answered),
            cpu_us_per_send: sends.and_then(|sends| per(gateway_us, sends)),
            messages_per_send: sends.and_then(|sends| per(delivered, sends)),
            bytes_per_delivery: per(Some(bytes), shown),
            cpu_percent: per(gateway_us, seconds).map(|us| us / 1e4),
            rss_bytes: to.sum(&to.roles.gateways, |usage| usage.rss_bytes),
            ..Server::default()
        })
    }

    /// Each process between two moments.
    pub fn processes(&self, from: &Snapshot, to: &Snapshot) -> Vec<Process> {
        let probes = self.probes.lock().expect("no holder panics");
        let process = |(at, probe): (usize, &Probe)| {
            let watched = probe.watched();
            let (before, after) =
                (from.usage(at).cloned().unwrap_or_default(), to.usage(at).cloned().unwrap_or_default());
            let threads = after.threads.iter().map(|(name, us)| {
                let since = us.saturating_sub(before.threads.get(name).copied().unwrap_or(0));
                (name.clone(), since as f64 / 1e6)
            });
            Process {
                name: watched.name.clone(),
                pid: watched.pid,
                cpu_seconds: after.cpu_us.saturating_sub(before.cpu_us) as f64 / 1e6,
                rss_bytes: after.rss_bytes,
                threads: threads.filter(|(_, seconds)| *seconds > 0.0).collect(),
            }
        };
        probes.iter().enumerate().map(process).collect()
    }

    fn with_fleet<T>(&self, ask: impl Fn(&Fleet) -> T) -> Option<T> {
        let fleet = self.fleet.lock().expect("no holder panics").clone();
        fleet.map(|fleet| ask(&fleet))
    }
}

impl Snapshot {
    pub fn usage(&self, at: usize) -> Option<&Usage> {
        self.usages.get(at)?.as_ref()
    }

    pub fn usages(&self) -> &[Option<Usage>] {
        &self.usages
    }

    /// Places of the gateways' processes.
    pub fn gateways(&self) -> &[usize] {
        &self.roles.gateways
    }

    pub fn gateway_cpu_us(&self) -> Option<u64> {
        let shared = self.roles.shared;
        self.sum(&self.roles.gateways, |usage| if shared { gateway_cpu_us(usage) } else { usage.cpu_us })
    }

    fn control_cpu_us(&self) -> Option<u64> {
        if !self.roles.controls.is_empty() {
            return self.sum(&self.roles.controls, |usage| usage.cpu_us);
        }
        let shared = self.roles.gateways.as_slice();
        let shared = if self.roles.shared { shared } else { &[] };
        self.sum(shared, |both| both.cpu_us.saturating_sub(gateway_cpu_us(both)))
    }

    /// Of several processes together; `None`: there are none, or one has ended.
    fn sum(&self, places: &[usize], of: impl Fn(&Usage) -> u64) -> Option<u64> {
        let all: Option<Vec<u64>> = places.iter().map(|at| self.usage(*at).map(&of)).collect();
        all.filter(|all| !all.is_empty()).map(|all| all.iter().sum())
    }

    /// Of one core, the busiest thread of the harness since `from`.
    pub fn generator_percent(&self, from: &Snapshot) -> Option<f64> {
        let seconds = self.at_us.saturating_sub(from.at_us) as f64 / 1e6;
        let (before, after) = (from.own.as_ref()?, self.own.as_ref()?);
        let used = |(name, us): (&String, &u64)| us.saturating_sub(before.threads.get(name).copied().unwrap_or(0));
        let busiest = after.threads.iter().map(used).max()?;
        (seconds > 0.0).then(|| busiest as f64 / 1e4 / seconds)
    }
}

/// Resident bytes of the processes now.
pub fn resident(watched: &[Watched]) -> Vec<Option<u64>> {
    watched.iter().map(|watched| Some(Probe::new(watched.clone()).usage().ok()?.rss_bytes)).collect()
}

fn delta(from: Option<u64>, to: Option<u64>) -> Option<f64> {
    Some(to?.saturating_sub(from?) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_told_apart_by_their_names() {
        let watched = |names: &[&str]| -> Vec<Watched> {
            names.iter().map(|name| Watched { name: (*name).to_owned(), pid: 1 }).collect()
        };
        let roles = Roles::of(&watched(&["control-1", "gateway-1", "gateway-2", "gateway-x", "control-2"]));
        assert_eq!((roles.gateways, roles.controls, roles.shared), (vec![1, 2], vec![0, 4], false));
        let roles = Roles::of(&watched(&["tidegate"]));
        assert_eq!((roles.gateways, roles.controls, roles.shared), (vec![0], vec![], true));
        let roles = Roles::of(&watched(&["gateway", "control"]));
        assert_eq!((roles.gateways, roles.controls, roles.shared), (vec![0], vec![1], false));
        let roles = Roles::of(&watched(&["server-1"]));
        assert_eq!((roles.gateways, roles.controls, roles.shared), (vec![], vec![], false));
    }
}
