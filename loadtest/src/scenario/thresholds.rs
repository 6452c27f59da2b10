//! `[thresholds]`: what a run must keep beside losing nothing, which is always asked.

use super::reader::{Section, nearest};
use super::{Load, To};

/// One thing that must hold.
#[derive(Clone, Debug, PartialEq)]
pub struct Threshold {
    /// The key's whole path in the file.
    pub key: String,
    pub metric: Metric,
    pub rule: Rule,
    pub limit: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    AtMost,
    AtLeast,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantile {
    P50,
    P99,
    P999,
}

/// What is measured. Loads and phases are indexes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Metric {
    /// Intended time → shown, in ms; of all loads together without a load.
    Latency {
        load: Option<usize>,
        quantile: Quantile,
    },
    /// Push → answer, in ms.
    Answer {
        load: usize,
        quantile: Quantile,
    },
    PublishedPerSecond {
        load: usize,
    },
    /// Deliveries per second of the load's best phase.
    PeakDeliveries {
        load: usize,
    },
    /// Seconds from the end of a phase until every later second's P99 is below this.
    Recovery {
        load: usize,
        phase: usize,
        p99_ms: f64,
    },
    ConnectionsPerSecond,
    RssPerConnection,
    KernelPerConnection,
    GatewayCpuPerDelivery,
    ControlCpuPerDelivery,
    FloorRatio,
    /// Half the width of the ratio's 95 % interval.
    FloorHalfWidth,
    /// Slow clients that were told a gap.
    SlowToldAGap,
    /// P99 of the others while the slow ones do not read; the limit follows from their P99 before.
    SlowOthers {
        times: f64,
        more_ms: f64,
    },
}

const LATENCIES: [(&str, Quantile); 3] = [
    ("latency_p50_ms_max", Quantile::P50),
    ("latency_p99_ms_max", Quantile::P99),
    ("latency_p999_ms_max", Quantile::P999),
];
const ANSWERS: [(&str, Quantile); 2] = [("answer_p50_ms_max", Quantile::P50), ("answer_p99_ms_max", Quantile::P99)];
/// Any limit: larger ones say nothing.
const LIMIT_MAX: f64 = 1e12;
/// A slow client's share of what [`Metric::SlowOthers`] allows, where the file names only the other one.
const NO_TIMES: f64 = 1.0;
const NO_MORE_MS: f64 = 0.0;

/// What the rest of the file can measure.
#[derive(Clone, Copy, Debug)]
pub struct Measurable<'a> {
    pub loads: &'a [Load],
    pub connections: bool,
    pub slow: Option<u32>,
    pub floor: bool,
}

impl Measurable<'_> {
    fn deliveries(&self) -> bool {
        self.connections && self.loads.iter().any(|load| !matches!(load.to, To::Streams(_)))
    }
}

pub fn read(section: &mut Section<'_>, may: Measurable<'_>) -> Vec<Threshold> {
    let mut gathered = Gathered { thresholds: Vec::new() };
    let no_deliveries = (!may.deliveries()).then_some("nothing that this scenario publishes is shown to anybody");
    let no_connections = (!may.connections).then_some("this scenario has no connections");
    let no_floor = (!may.floor).then_some("this scenario has no [floor]");
    for (key, quantile) in LATENCIES {
        gathered.most(section, key, Metric::Latency { load: None, quantile }, no_deliveries);
    }
    gathered.least(section, "connections_per_second_min", Metric::ConnectionsPerSecond, no_connections);
    gathered.most(section, "rss_bytes_per_connection_max", Metric::RssPerConnection, no_connections);
    gathered.most(section, "kernel_bytes_per_connection_max", Metric::KernelPerConnection, no_connections);
    gathered.most(section, "gateway_cpu_us_per_delivery_max", Metric::GatewayCpuPerDelivery, no_deliveries);
    gathered.most(section, "control_cpu_us_per_delivery_max", Metric::ControlCpuPerDelivery, no_deliveries);
    gathered.most(section, "floor_ratio_max", Metric::FloorRatio, no_floor);
    gathered.most(section, "floor_half_width_max", Metric::FloorHalfWidth, no_floor);
    gathered.slow(section, may.slow);
    if let Some(mut loads) = section.section("loads") {
        for (name, mut section) in loads.children() {
            match may.loads.iter().position(|load| load.name == name) {
                Some(index) => gathered.load(&mut section, index, may),
                None => {
                    let hint = nearest(name, may.loads.iter().map(|load| load.name.as_str()));
                    let hint = hint.map(|meant| format!("; did you mean `{meant}`?")).unwrap_or_default();
                    loads.problem(name, format!("no [[publish]] has this name{hint}"));
                    continue;
                }
            }
            section.end();
        }
    }
    gathered.thresholds
}

struct Gathered {
    thresholds: Vec<Threshold>,
}

impl Gathered {
    fn most(&mut self, section: &mut Section<'_>, key: &'static str, metric: Metric, why_not: Option<&str>) {
        self.number(section, key, metric, Rule::AtMost, why_not);
    }

    fn least(&mut self, section: &mut Section<'_>, key: &'static str, metric: Metric, why_not: Option<&str>) {
        self.number(section, key, metric, Rule::AtLeast, why_not);
    }

    fn number(
        &mut self,
        section: &mut Section<'_>,
        key: &'static str,
        metric: Metric,
        rule: Rule,
        why_not: Option<&str>,
    ) {
        let Some(limit) = section.number(key, 0.0..=LIMIT_MAX) else { return };
        match why_not {
            Some(why) => section.problem(key, format!("cannot be measured: {why}")),
            None => self.thresholds.push(Threshold { key: section.key(key), metric, rule, limit }),
        }
    }

    fn slow(&mut self, section: &mut Section<'_>, slow: Option<u32>) {
        let no_slow = "cannot be measured: this scenario has no [slow]";
        let told = section.flag("slow_told_a_gap");
        let times = section.number("slow_others_p99_times_max", 1.0..=LIMIT_MAX);
        let more_ms = section.number("slow_others_p99_more_ms_max", 0.0..=LIMIT_MAX);
        match (told, slow) {
            (Some(true), Some(count)) => self.thresholds.push(Threshold {
                key: section.key("slow_told_a_gap"),
                metric: Metric::SlowToldAGap,
                rule: Rule::AtLeast,
                limit: f64::from(count),
            }),
            (Some(_), None) => section.problem("slow_told_a_gap", no_slow),
            (Some(false) | None, _) => {}
        }
        let key = if times.is_some() { "slow_others_p99_times_max" } else { "slow_others_p99_more_ms_max" };
        match slow {
            _ if times.is_none() && more_ms.is_none() => {}
            None => section.problem(key, no_slow),
            Some(_) => {
                let (times, more_ms) = (times.unwrap_or(NO_TIMES), more_ms.unwrap_or(NO_MORE_MS));
                let metric = Metric::SlowOthers { times, more_ms };
                self.thresholds.push(Threshold { key: section.key(key), metric, rule: Rule::AtMost, limit: 0.0 });
            }
        }
    }

    fn load(&mut self, section: &mut Section<'_>, load: usize, may: Measurable<'_>) {
        let followed = may.connections && !matches!(may.loads[load].to, To::Streams(_));
        let unfollowed = (!followed).then_some("nobody follows what this load publishes");
        for (key, quantile) in LATENCIES {
            self.most(section, key, Metric::Latency { load: Some(load), quantile }, unfollowed);
        }
        for (key, quantile) in ANSWERS {
            self.most(section, key, Metric::Answer { load, quantile }, None);
        }
        self.least(section, "published_per_second_min", Metric::PublishedPerSecond { load }, None);
        self.least(section, "peak_deliveries_per_second_min", Metric::PeakDeliveries { load }, unfollowed);
        self.recovery(section, load, &may.loads[load], unfollowed);
    }

    fn recovery(&mut self, section: &mut Section<'_>, load: usize, named: &Load, why_not: Option<&str>) {
        let after = section.text("recovery_after");
        let p99_ms = section.number("recovery_p99_ms", 0.0..=LIMIT_MAX);
        let within = section.number("recovery_s_max", 0.0..=LIMIT_MAX);
        if after.is_none() && p99_ms.is_none() && within.is_none() {
            return;
        }
        let after = section.required("recovery_after", after);
        let p99_ms = section.required("recovery_p99_ms", p99_ms);
        let within = section.required("recovery_s_max", within);
        if let Some(why) = why_not {
            section.problem("recovery_after", format!("cannot be measured: {why}"));
        }
        let Some(after) = after else { return };
        let last = named.phases.len().saturating_sub(1);
        match named.phases.iter().position(|phase| phase.name == after) {
            None => section.problem("recovery_after", format!("the load has no phase \"{after}\"")),
            Some(phase) if phase == last => {
                section.problem("recovery_after", "cannot be measured: no phase follows it");
            }
            Some(phase) => {
                if let (Some(p99_ms), Some(limit)) = (p99_ms, within) {
                    let metric = Metric::Recovery { load, phase, p99_ms };
                    let key = section.key("recovery_s_max");
                    self.thresholds.push(Threshold { key, metric, rule: Rule::AtMost, limit });
                }
            }
        }
    }
}
