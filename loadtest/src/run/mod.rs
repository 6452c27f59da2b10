//! Runs a scenario: connect, hold, publish, settle, compare with the floor, judge.
//!
//! The clients have a thread of their own, and so have the publishers; a third thread samples once a second; this one
//! decides what happens when. A first Ctrl-C ends the publishing and goes on from there, so that what was published up to
//! then is judged and reported.

mod compose;
mod drive;
mod pairs;
mod sampler;
mod stop;
mod swap;
mod watch;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

pub use sampler::Status;
pub use stop::Stop;
pub use swap::Successor;
pub use watch::{BOTH, CONTROL, GATEWAY};

use crate::clock::Clock;
use crate::fleet::{Fleet, FleetConfig, Judgement, Mode};
use crate::measure::kernel::{KernelMemory, bare_socket_bytes};
use crate::measure::process::Watched;
use crate::population::{Population, StreamNo};
use crate::publish::{Endpoints, LoadPlan, PATIENCE, Published, Publishers};
use crate::result::{Floor, RunResult};
use crate::scenario::{Load, Phase, Scenario, To, Until};
use crate::schedule::Schedule;
use crate::tls::{Connector, TlsError};
use compose::Findings;
use drive::{Border, Driven};
use sampler::{Sampler, Stage};
use swap::Swapped;
use watch::{Snapshot, Watch};

/// Connecting is over when no further client stands for so long, settling when nothing more is shown.
const NO_PROGRESS: Duration = Duration::from_secs(15);
/// After everything was shown: time for what must not come, such as a message a second time.
const QUIET: Duration = Duration::from_millis(500);
const LOOK: Duration = Duration::from_millis(10);
/// Below so many connections the machine's other sockets are seen more than ours.
const KERNEL_CONNECTIONS_MIN: u32 = 1_000;
/// Pairs that are opened to see what a client's own socket costs.
const BARE_SOCKETS: usize = 4_000;
/// Name of the phase that is published beside the floor; not one of the scenario's.
const SLICE: &str = "slice";

/// Where the server is and how it is measured.
#[derive(Clone, Debug)]
pub struct Options {
    /// As it was given, for the result.
    pub target: String,
    /// Client listeners of the gateways.
    pub clients: Vec<SocketAddr>,
    /// `None`: plain.
    pub tls: Option<Tls>,
    pub endpoints: Endpoints,
    /// Admin listeners of the gateways.
    pub admins: Vec<SocketAddr>,
    /// Server processes, by the names of this module: [`GATEWAY`], [`CONTROL`], or [`BOTH`]; of several the n-th is called
    /// `gateway-n` or `control-n`. Others are only reported.
    pub watched: Vec<Watched>,
    /// Makes uids, groups and keys of this run unique.
    pub run: String,
    /// A `tidegate-load`, for the bare servers of a floor.
    pub binary: PathBuf,
}

/// TLS with the gateway.
#[derive(Clone, Debug)]
pub struct Tls {
    pub connector: Connector,
    /// Of a gateway whose certificate can be replaced.
    pub successor: Option<Successor>,
}

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(
        "the certificate of {target} is refused; --ca FILE names an authority to trust, --insecure accepts any certificate"
    )]
    Certificate { target: String, source: TlsError },
    #[error("no TLS with {target}")]
    Tls { target: String, source: TlsError },
    #[error("[certificate_swap] needs --serve: the certificate files of another gateway are not ours to replace")]
    ForeignCertificate,
    #[error("the clients could not be started")]
    Fleet(#[source] io::Error),
    #[error("the publishers could not be started")]
    Publishers(#[source] io::Error),
    #[error("the sampling thread could not be started")]
    Sampler(#[source] io::Error),
}

/// Runs the scenario to its end, which an interrupt through `stop` brings nearer. `show` is told once a second.
pub fn run(
    scenario: &Scenario,
    options: &Options,
    stop: &Stop,
    show: impl FnMut(&Status) + Send + 'static,
) -> Result<RunResult, RunError> {
    let started = SystemTime::now();
    check_tls(scenario, options)?;
    let population = Arc::new(scenario.population(&options.run));
    let idle = Idle::read(scenario, options);
    let clock = Clock::start();
    let publishers =
        Publishers::start(plans(scenario, &population), options.endpoints.clone(), population.clone(), clock)
            .map_err(RunError::Publishers)?;
    let fleet = match scenario.connections.count {
        0 => None,
        _ => Some(Arc::new(start_fleet(scenario, options, &population, clock).map_err(RunError::Fleet)?)),
    };
    let watch = Arc::new(Watch::new(options, clock, fleet.clone(), publishers.meter()));
    let sampler = Sampler::start(Arc::clone(&watch), scenario, show).map_err(RunError::Sampler)?;
    let run = Run { scenario, options, stop, clock, publishers, fleet, watch, sampler, population };
    let connected = run.connect();
    run.hold();
    let memory = Memory::read(&idle, &run.watch.snapshot(), connected.established, scenario);
    let course = run.publish();
    let floor = run.compare();
    let seconds = clock.now_us() as f64 / 1e6;
    run.sampler.stage(Stage::Judging);
    let interrupted = stop.is_set();
    let (published, judgement, timeline, watch) = run.judge();
    let findings = Findings { connected, memory, course, floor, published, judgement, timeline, interrupted };
    Ok(findings.compose(scenario, options, &watch, started, seconds))
}

/// Before anything is started: a newcomer must be shown a certificate that he trusts, and one that is to be replaced must
/// be ours.
fn check_tls(scenario: &Scenario, options: &Options) -> Result<(), RunError> {
    let Some(tls) = &options.tls else { return Ok(()) };
    if scenario.swap_after.is_some() && tls.successor.is_none() {
        return Err(RunError::ForeignCertificate);
    }
    let target = options.target.clone();
    let Some(client) = options.clients.first() else { return Ok(()) };
    tls.connector.shown(*client).map(drop).map_err(|source| match &source {
        TlsError::Rustls(rustls::Error::InvalidCertificate(_)) => RunError::Certificate { target, source },
        _ => RunError::Tls { target, source },
    })
}

struct Run<'a> {
    scenario: &'a Scenario,
    options: &'a Options,
    stop: &'a Stop,
    clock: Clock,
    population: Arc<Population>,
    publishers: Publishers,
    fleet: Option<Arc<Fleet>>,
    watch: Arc<Watch>,
    sampler: Sampler,
}

/// How connecting went.
#[derive(Clone, Copy, Debug)]
struct Connected {
    established: u32,
    seconds: f64,
}

/// What publishing showed from outside.
#[derive(Debug)]
struct Course {
    /// When the first load began.
    base_us: u64,
    begin: Snapshot,
    end: Snapshot,
    borders: Vec<Border>,
    swap: Option<Swapped>,
}

impl Run<'_> {
    /// Waits until every client stands, or no further one does.
    fn connect(&self) -> Connected {
        let (Some(fleet), asked) = (&self.fleet, self.scenario.connections.count) else {
            return Connected { established: 0, seconds: 0.0 };
        };
        let mut last = (0, Instant::now(), self.clock.now_us());
        while last.0 < asked && last.1.elapsed() < NO_PROGRESS && !self.stop.is_set() {
            std::thread::sleep(LOOK);
            let established = fleet.progress().established;
            if established > last.0 {
                last = (established, Instant::now(), self.clock.now_us());
            }
        }
        Connected { established: last.0, seconds: last.2 as f64 / 1e6 }
    }

    fn hold(&self) {
        self.sampler.stage(Stage::Holding);
        let until = Instant::now() + self.scenario.connections.hold;
        while Instant::now() < until && !self.stop.is_set() {
            std::thread::sleep(LOOK);
        }
    }

    fn publish(&self) -> Course {
        self.sampler.stage(Stage::Publishing);
        let base_us = self.next_second();
        let Driven { begin, borders, swap } = drive::drive(self, base_us);
        self.sampler.stage(Stage::Settling);
        self.settle();
        Course { base_us, begin, end: self.watch.snapshot(), borders, swap }
    }

    /// Waits until everything that was answered has been shown, or nothing more is.
    fn settle(&self) {
        let Some(fleet) = &self.fleet else { return };
        let meter = self.publishers.meter();
        let mut last = (fleet.progress().shown, Instant::now());
        while last.0 < meter.expected() {
            std::thread::sleep(LOOK);
            if last.1.elapsed() > NO_PROGRESS {
                wait_for_a_turn(fleet);
                if fleet.progress().shown == last.0 {
                    break;
                }
            }
            let shown = fleet.progress().shown;
            if shown != last.0 {
                last = (shown, Instant::now());
            }
        }
        std::thread::sleep(QUIET);
    }

    /// The pairs with the bare servers, if the scenario asks for them. `Err`: why there are none.
    fn compare(&self) -> Option<Result<Floor, String>> {
        let pairs = self.scenario.floor.filter(|_| !self.stop.is_set())?;
        self.sampler.stage(Stage::Comparing);
        Some(pairs::measure(self, pairs))
    }

    fn judge(self) -> (Published, Option<Judgement>, Vec<crate::result::Second>, Arc<Watch>) {
        let Run { publishers, fleet, watch, sampler, .. } = self;
        let published = publishers.finish();
        let timeline = sampler.end();
        watch.let_go();
        let fleet = fleet.map(|fleet| Arc::into_inner(fleet).expect("the sampler and the watch have let it go"));
        let judgement = fleet.map(|fleet| fleet.judge(&published.ledger));
        (published, judgement, timeline, watch)
    }

    /// A whole second of the run's clock, not so near that it is missed: then the seconds of phases are those of the
    /// latencies.
    fn next_second(&self) -> u64 {
        (self.clock.now_us() + 200_000).div_ceil(1_000_000) * 1_000_000
    }

    /// The stream of a load that goes to one group.
    fn group(&self, load: &Load) -> Option<StreamNo> {
        let To::Groups(class) = load.to else { return None };
        self.population.class(&self.scenario.groups[class].name).map(|groups| StreamNo(groups.start))
    }
}

/// The clients say what they were shown after each turn of their loop, which reads all that has come up; a turn after
/// an overload may take longer than our patience. They answer a question between two turns.
fn wait_for_a_turn(fleet: &Fleet) {
    let _ = fleet.sample_frame(StreamNo(0));
}

/// Before anything stands.
#[derive(Debug)]
struct Idle {
    usages: Vec<Option<u64>>,
    kernel: Option<KernelMemory>,
    bare_socket_bytes: Option<f64>,
}

/// What came with the connections.
#[derive(Clone, Copy, Debug, Default)]
struct Memory {
    rss_bytes_per_connection: Option<f64>,
    kernel_bytes_per_connection: Option<f64>,
}

impl Idle {
    fn read(scenario: &Scenario, options: &Options) -> Idle {
        let usages = watch::resident(&options.watched);
        let many = scenario.connections.count >= KERNEL_CONNECTIONS_MIN && !options.watched.is_empty();
        // Where slabs cannot be read the figure is absent; a threshold on it then fails.
        let bare_socket_bytes = if many { bare_socket_bytes(BARE_SOCKETS).ok() } else { None };
        let kernel = bare_socket_bytes.and_then(|_| KernelMemory::read_settled().ok());
        Idle { usages, kernel, bare_socket_bytes }
    }
}

impl Memory {
    fn read(idle: &Idle, held: &Snapshot, established: u32, scenario: &Scenario) -> Memory {
        if established == 0 {
            return Memory::default();
        }
        let connections = f64::from(established);
        let of_gateway = |at: &usize| Some((idle.usages.get(*at).copied()??, held.usage(*at)?.rss_bytes));
        let of_gateways: Option<Vec<(u64, u64)>> = held.gateways().iter().map(of_gateway).collect();
        let sums = |all: Vec<(u64, u64)>| all.iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        let rss = of_gateways.filter(|all| !all.is_empty()).map(sums);
        let kernel = idle.kernel.as_ref().zip(KernelMemory::read().ok());
        let sockets = f64::from(scenario.connections.count.min(established));
        Memory {
            rss_bytes_per_connection: rss.map(|(before, after)| (after as f64 - before as f64) / connections),
            kernel_bytes_per_connection: kernel
                .zip(idle.bare_socket_bytes)
                .map(|((before, now), bare)| (now.grown_bytes(before) as f64 - sockets * bare) / connections),
        }
    }
}

fn start_fleet(
    scenario: &Scenario,
    options: &Options,
    population: &Arc<Population>,
    clock: Clock,
) -> io::Result<Fleet> {
    let connections = &scenario.connections;
    let config = FleetConfig {
        targets: options.clients.clone(),
        tls: options.tls.as_ref().map(|tls| tls.connector.clone()),
        compression: connections.compression,
        mode: Mode::Follow,
        drain: connections.drain,
        ramp_per_second: connections.ramp_per_second,
        slow: 0..scenario.slow.map_or(0, |slow| slow.count),
        reconnect: connections.reconnect,
        loads: scenario.loads.len(),
    };
    Fleet::start(config, Arc::clone(population), clock)
}

/// The scenario's loads; with a floor each also has the phase that is repeated beside it.
fn plans(scenario: &Scenario, population: &Population) -> Vec<LoadPlan> {
    let plan = |(index, load): (usize, &Load)| {
        let targets = match load.to {
            To::Groups(class) => population.class(&scenario.groups[class].name).unwrap_or(0..0),
            To::Inboxes => population.inbox_range(),
            To::Streams(count) => {
                let first = population.unfollowed_range().start + scenario.unfollowed_before(index);
                first..first + count
            }
        };
        let mut phases = load.phases.clone();
        if let Some(floor) = scenario.floor {
            let until = Until::Seconds(floor.slice.as_secs_f64());
            phases.push(Phase { name: SLICE.to_owned(), per_second: load.phases[0].per_second, until });
        }
        let schedule = Schedule { load: index as u16, seed: scenario.seed, pick: load.pick, targets, phases };
        let Load { via, payload_bytes, filling, in_flight, .. } = *load;
        LoadPlan { schedule, via, payload_bytes, filling, in_flight, patience: PATIENCE }
    };
    scenario.loads.iter().enumerate().map(plan).collect()
}
