//! Passed, failed or void: what a result means.
//!
//! A run fails if anything was lost, twice, out of order or otherwise wrong, if the server refused, did not answer or
//! closed, or if a threshold was missed. It is void if the generator was the bottleneck: then what the thresholds say is
//! not about the server. A slow generator does not explain a loss, so void never takes the place of one.

use crate::judge::{Findings, Kind};
use crate::latency::Latency;
use crate::publish::LoadOutcome;
use crate::result::{Judged, Percentiles, RunResult, Verdict};
use crate::scenario::{Metric, Quantile, Rule, Scenario, Threshold};

/// Findings that a reason quotes; the result holds more.
const QUOTED_MAX: usize = 3;

/// What a verdict rests on beside the result's own figures.
#[derive(Debug)]
pub struct Evidence<'a> {
    pub findings: Option<&'a Findings>,
    pub loads: &'a [LoadOutcome],
    pub seqs_used_twice: u64,
    /// By load, without the slow clients'.
    pub latency: &'a [Latency],
    /// Slow clients that were told a gap.
    pub told_a_gap: Option<u32>,
    /// Why the floor that the scenario asks for was not measured.
    pub no_floor: Option<String>,
    /// Why newcomers were not shown the certificate that the scenario puts in the place of the first.
    pub no_swap: Option<String>,
    pub interrupted: bool,
}

/// Sets verdict, reasons and thresholds.
pub fn conclude(result: &mut RunResult, scenario: &Scenario, evidence: &Evidence<'_>) {
    let wrong = wrongs(result, scenario, evidence);
    result.thresholds = scenario.thresholds.iter().map(|threshold| held(threshold, result, evidence)).collect();
    let judged = scenario.thresholds.iter().zip(&result.thresholds);
    let mut missed: Vec<String> =
        judged.filter(|(_, judged)| !judged.kept).map(|(threshold, judged)| miss(threshold.metric, judged)).collect();
    missed.extend(evidence.no_floor.clone());
    let late = bottlenecks(result, scenario);
    result.verdict = decide(!wrong.is_empty(), !late.is_empty(), !missed.is_empty());
    result.reasons = [wrong, late, missed].concat();
}

fn decide(wrong: bool, late: bool, missed: bool) -> Verdict {
    match (wrong, late, missed) {
        (true, _, _) => Verdict::Fail,
        (false, true, _) => Verdict::Void,
        (false, false, true) => Verdict::Fail,
        (false, false, false) => Verdict::Pass,
    }
}

/// What no threshold forgives and no slow generator explains.
fn wrongs(result: &RunResult, scenario: &Scenario, evidence: &Evidence<'_>) -> Vec<String> {
    let mut reasons = Vec::new();
    if evidence.interrupted {
        reasons.push("interrupted".to_owned());
    }
    if let Some(findings) = evidence.findings.filter(|findings| !findings.is_clean()) {
        for kind in Kind::ALL.into_iter().filter(|kind| findings.count(*kind) > 0) {
            reasons.push(format!("{} {kind}", findings.count(kind)));
        }
        reasons.extend(findings.texts().iter().take(QUOTED_MAX).cloned());
    }
    if evidence.seqs_used_twice > 0 {
        reasons.push(format!("{} answers named a seq that was taken or cannot be", evidence.seqs_used_twice));
    }
    for (load, outcome) in scenario.loads.iter().zip(evidence.loads) {
        let name = &load.name;
        if outcome.unanswered > 0 {
            reasons.push(format!("{name}: {} pushes were never answered", outcome.unanswered));
        }
        for (code, count) in &outcome.refused {
            reasons.push(format!("{name}: {count} pushes were refused with {code}"));
        }
        if outcome.wrong.count > 0 {
            reasons.push(format!("{name}: {} answers were wrong", outcome.wrong.count));
            reasons.extend(outcome.wrong.texts.iter().take(QUOTED_MAX).map(|text| format!("{name}: {text}")));
        }
    }
    reasons.extend(evidence.no_swap.clone());
    let connections = &result.connections;
    if connections.failed > 0 {
        reasons.push(format!("{} of {} connections were not established", connections.failed, connections.asked));
    }
    if connections.closed_unexpectedly > 0 {
        reasons.push(format!("{} connections were closed unexpectedly", connections.closed_unexpectedly));
    }
    reasons
}

/// Where the generator was slower than the scenario allows.
fn bottlenecks(result: &RunResult, scenario: &Scenario) -> Vec<String> {
    let (found, limits) = (&result.generator, &scenario.generator);
    let lags = [
        ("the clients' loop was late", found.loop_lag_ms_p99, limits.loop_lag_p99_ms_max, " ms (P99)"),
        ("messages were published late", found.publish_lag_ms_p99, limits.publish_lag_p99_ms_max, " ms (P99)"),
        ("a thread of the generator was busy", found.cpu_percent, limits.cpu_percent_max, " % of a core"),
    ];
    let beyond = lags.into_iter().filter(|(_, value, limit, _)| value > limit);
    beyond.map(|(what, value, limit, unit)| format!("{what}: {value:.1}{unit}, limit {limit:.1}{unit}")).collect()
}

/// A threshold held against the result. What could not be measured is not kept.
fn held(threshold: &Threshold, result: &RunResult, evidence: &Evidence<'_>) -> Judged {
    let value = measured(threshold.metric, result, evidence).filter(|value| value.is_finite());
    let limit = match (threshold.metric, &result.slow) {
        (Metric::SlowOthers { times, more_ms }, Some(slow)) => {
            (slow.others_p99_before_ms * times).max(slow.others_p99_before_ms + more_ms)
        }
        _ => threshold.limit,
    };
    let (rule, kept) = match threshold.rule {
        Rule::AtMost => ("at most", value.is_some_and(|value| value <= limit)),
        Rule::AtLeast => ("at least", value.is_some_and(|value| value >= limit)),
    };
    Judged { name: threshold.key.clone(), rule: rule.to_owned(), limit, value, kept }
}

fn miss(metric: Metric, judged: &Judged) -> String {
    let Judged { name, rule, limit, .. } = judged;
    match (judged.value, metric) {
        (Some(value), _) => format!("{name}: {value:.3}, must be {rule} {limit}"),
        (None, Metric::Recovery { .. }) => format!("{name}: did not recover, must be {rule} {limit}"),
        (None, _) => format!("{name}: could not be measured, must be {rule} {limit}"),
    }
}

fn measured(metric: Metric, result: &RunResult, evidence: &Evidence<'_>) -> Option<f64> {
    let server = result.server.as_ref();
    match metric {
        Metric::Latency { load: None, quantile } => of(result.latency_ms, quantile),
        Metric::Latency { load: Some(load), quantile } => of(result.loads.get(load)?.latency_ms, quantile),
        Metric::Answer { load, quantile } => of(result.loads.get(load)?.answer_ms, quantile),
        Metric::PublishedPerSecond { load } => Some(result.loads.get(load)?.published_per_second),
        Metric::PeakDeliveries { load } => {
            let rates = result.loads.get(load)?.phases.iter().filter_map(|phase| phase.deliveries_per_second);
            rates.max_by(f64::total_cmp)
        }
        Metric::Recovery { load, phase, p99_ms } => recovery(result, evidence.latency.get(load)?, load, phase, p99_ms),
        Metric::ConnectionsPerSecond => result.connections.per_second,
        Metric::RssPerConnection => server?.rss_bytes_per_connection,
        Metric::KernelPerConnection => server?.kernel_bytes_per_connection,
        Metric::GatewayCpuPerDelivery => server?.cpu_us_per_delivery,
        Metric::ControlCpuPerDelivery => server?.control_cpu_us_per_delivery,
        Metric::FloorRatio => result.floor.as_ref()?.ratio,
        Metric::FloorHalfWidth => {
            let floor = result.floor.as_ref()?;
            Some((floor.ratio_high? - floor.ratio_low?) / 2.0)
        }
        Metric::SlowToldAGap => evidence.told_a_gap.map(f64::from),
        Metric::SlowOthers { .. } => Some(result.slow.as_ref()?.others_p99_during_ms),
    }
}

fn of(percentiles: Option<Percentiles>, quantile: Quantile) -> Option<f64> {
    let percentiles = percentiles?;
    Some(match quantile {
        Quantile::P50 => percentiles.p50,
        Quantile::P99 => percentiles.p99,
        Quantile::P999 => percentiles.p999,
    })
}

/// Seconds from the end of a phase to the end of the last later second whose P99 is above the limit. `None`: the run ended
/// with such a second.
fn recovery(result: &RunResult, latency: &Latency, load: usize, phase: usize, p99_ms: f64) -> Option<f64> {
    let load = result.loads.get(load)?;
    let from = load.phases.get(phase)?.to_s.ceil() as usize;
    let later = latency.seconds.iter().enumerate().skip(from).filter(|(_, second)| !second.is_empty());
    let above: Vec<(usize, bool)> =
        later.map(|(at, second)| (at, second.value_at_quantile(0.99) as f64 / 1000.0 > p99_ms)).collect();
    match above.last() {
        None | Some((_, true)) => None,
        Some((_, false)) => {
            let last = above.iter().rev().find(|(_, above)| *above);
            Some(last.map_or(0.0, |(at, _)| (at + 1 - from) as f64))
        }
    }
}

#[cfg(test)]
mod tests;
