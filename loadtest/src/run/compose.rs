//! Puts a run's result together.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::drive::Border;
use super::watch::Watch;
use super::{Connected, Course, Memory, Options, QUIET};
use crate::fleet::{Drain, Judgement};
use crate::judge::Kind;
use crate::latency::{Latency, histogram};
use crate::measure::machine;
use crate::publish::{LoadOutcome, PhaseOutcome, Published};
use crate::result::{
    Connections, Deliveries, Floor, Generator, LoadResult, Percentiles, PhaseResult, RunResult, SCHEMA, Second, Server,
    Settings, SlowResult, Verdict, encode,
};
use crate::scenario::{Scenario, Slow};
use crate::verdict::{self, Evidence};

/// A turn of armed clients that keeps nobody waiting.
const ARMED_TURN: Duration = Duration::from_millis(20);

/// Everything that a run found.
#[derive(Debug)]
pub struct Findings {
    pub connected: Connected,
    pub memory: Memory,
    pub course: Course,
    pub floor: Option<Result<Floor, String>>,
    pub published: Published,
    pub judgement: Option<Judgement>,
    pub timeline: Vec<Second>,
    pub interrupted: bool,
}

impl Findings {
    pub fn compose(
        mut self,
        scenario: &Scenario,
        options: &Options,
        watch: &Watch,
        started: SystemTime,
        seconds: f64,
    ) -> RunResult {
        let latency = self.latency(scenario);
        self.date_latencies(&latency);
        let published = self.published.loads.iter().map(|load| load.answered).sum();
        let loads = (0..scenario.loads.len()).map(|load| self.load(scenario, watch, load)).collect();
        let (floor, no_floor) = match self.floor.take() {
            Some(Ok(floor)) => (Some(floor), None),
            Some(Err(why)) => (None, Some(why)),
            None => (None, None),
        };
        let (certificate_swap, no_swap) = match self.course.swap.take() {
            Some(Ok(swap)) => (Some(swap), None),
            Some(Err(why)) => (None, Some(why)),
            None => (None, None),
        };
        let mut result = RunResult {
            schema: SCHEMA,
            scenario: scenario.name.clone(),
            verdict: Verdict::Pass,
            reasons: Vec::new(),
            findings: self.judgement.as_ref().map_or_else(Vec::new, |judged| judged.findings.texts().to_vec()),
            started: rfc3339(started),
            seconds,
            commit: machine::commit(),
            machine: machine::machine(),
            settings: Settings {
                target: options.target.clone(),
                seed: scenario.seed,
                scenario_toml: scenario.text.clone(),
            },
            connections: self.connections(scenario),
            published,
            deliveries: self.deliveries(),
            latency_ms: Percentiles::of_us(&latency.all),
            loads,
            slow: scenario.slow.and_then(|slow| self.slow(slow, &latency)),
            certificate_swap,
            server: self.server(watch),
            floor,
            generator: self.generator(scenario),
            thresholds: Vec::new(),
            histogram: (!latency.all.is_empty()).then(|| encode(&latency.all)).flatten(),
            timeline: std::mem::take(&mut self.timeline),
        };
        let evidence = Evidence {
            findings: self.judgement.as_ref().map(|judged| &judged.findings),
            loads: &self.published.loads,
            seqs_used_twice: self.published.ledger.seqs_used_twice(),
            latency: self.judgement.as_ref().map_or(&[], |judged| judged.latency.as_slice()),
            told_a_gap: self.judgement.as_ref().map(|judged| judged.slow_with_gap),
            no_floor,
            no_swap,
            interrupted: self.interrupted,
        };
        verdict::conclude(&mut result, scenario, &evidence);
        result
    }

    /// Of all loads, without the slow clients'.
    fn latency(&self, scenario: &Scenario) -> Latency {
        let mut all = Latency::default();
        if let Some(judged) = &self.judgement {
            judged.latency.iter().take(scenario.loads.len()).for_each(|load| all.merge(load));
        }
        all
    }

    fn date_latencies(&mut self, latency: &Latency) {
        for second in &mut self.timeline {
            let bucket = latency.seconds.get(second.at_s as usize).and_then(Percentiles::of_us);
            second.p50_ms = bucket.map(|bucket| bucket.p50);
            second.p99_ms = bucket.map(|bucket| bucket.p99);
            second.max_ms = bucket.map(|bucket| bucket.max);
        }
    }

    fn connections(&self, scenario: &Scenario) -> Connections {
        let progress = &self.course.end.progress;
        let (asked, established) = (u64::from(scenario.connections.count), u64::from(self.connected.established));
        // An interrupt while clients connect leaves the others unasked for.
        let missing = if self.interrupted { u64::from(progress.failed) } else { asked - established.min(asked) };
        let rate = (established > 0).then(|| established as f64 / self.connected.seconds.max(1e-3));
        Connections {
            asked,
            established,
            failed: missing,
            closed_unexpectedly: progress.closed,
            reconnects: progress.reconnects,
            per_second: rate,
        }
    }

    fn deliveries(&self) -> Option<Deliveries> {
        let judged = self.judgement.as_ref()?;
        let count = |kind| judged.findings.count(kind);
        let shown = self.course.end.progress.shown.saturating_sub(self.course.begin.progress.shown);
        Some(Deliveries {
            expected: judged.expected,
            received: judged.received,
            lost: count(Kind::Lost),
            duplicated: count(Kind::Duplicated),
            reordered: count(Kind::Reordered),
            wrong_recipient: count(Kind::WrongRecipient),
            wrong_payload: count(Kind::WrongPayload),
            unhealed_holes: count(Kind::UnhealedHole),
            against_protocol: count(Kind::Protocol),
            holes_healed: judged.holes_healed,
            gaps: judged.gaps,
            overlaps: judged.overlaps,
            per_second: shown as f64 / self.shown_seconds(),
        })
    }

    /// From the first load's begin to when everything was shown.
    fn shown_seconds(&self) -> f64 {
        let us = self.course.end.at_us.saturating_sub(self.course.base_us + QUIET.as_micros() as u64);
        (us as f64 / 1e6).max(1e-3)
    }

    fn load(&self, scenario: &Scenario, watch: &Watch, load: usize) -> LoadResult {
        let outcome = &self.published.loads[load];
        let named = &scenario.loads[load];
        let latency = self.judgement.as_ref().and_then(|judged| judged.latency.get(load));
        let of_scenario = |phase: &&PhaseOutcome| phase.phase < named.phases.len() && phase.to_us > phase.from_us;
        let phases: Vec<PhaseResult> = outcome
            .phases
            .iter()
            .filter(of_scenario)
            .map(|phase| {
                let border = self.course.borders.iter().find(|b| b.load == load && b.phase == phase.phase);
                self.phase(watch, &named.phases[phase.phase].name, phase, border, latency)
            })
            .collect();
        LoadResult {
            name: named.name.clone(),
            sent: outcome.sent,
            published: outcome.answered,
            published_per_second: published_per_second(outcome, named.phases.len()),
            refused: outcome.refused.clone(),
            unanswered: outcome.unanswered,
            answer_ms: Percentiles::of_us(&outcome.answer_us),
            latency_ms: latency.and_then(|latency| Percentiles::of_us(&latency.all)),
            phases,
        }
    }

    fn phase(
        &self,
        watch: &Watch,
        name: &str,
        phase: &PhaseOutcome,
        border: Option<&Border>,
        latency: Option<&Latency>,
    ) -> PhaseResult {
        let seconds = |border: &Border| border.to.at_us.saturating_sub(border.from.at_us) as f64 / 1e6;
        let shown = |border: &Border| border.to.progress.shown.saturating_sub(border.from.progress.shown) as f64;
        let followed = border.filter(|border| seconds(border) > 0.0 && self.judgement.is_some());
        PhaseResult {
            name: name.to_owned(),
            from_s: phase.from_us as f64 / 1e6,
            to_s: phase.to_us as f64 / 1e6,
            published: phase.answered,
            published_per_second: phase.answered as f64 / phase_seconds(phase),
            deliveries_per_second: followed.map(|border| shown(border) / seconds(border)),
            latency_ms: latency.and_then(|latency| within(latency, phase.from_us, phase.to_us)),
            server: border.and_then(|border| watch.cost(&border.from, &border.to)),
        }
    }

    fn server(&self, watch: &Watch) -> Option<Server> {
        let Course { begin, end, .. } = &self.course;
        let measured = watch.cost(begin, end);
        let processes = watch.processes(begin, end);
        if measured.is_none() && processes.is_empty() {
            return None;
        }
        Some(Server {
            rss_bytes_per_connection: self.memory.rss_bytes_per_connection,
            kernel_bytes_per_connection: self.memory.kernel_bytes_per_connection,
            processes,
            ..measured.unwrap_or_default()
        })
    }

    /// The others' P99 in the whole seconds before, and while the slow ones did not read.
    fn slow(&self, slow: Slow, latency: &Latency) -> Option<SlowResult> {
        let from_us = self.course.base_us + slow.after.as_micros() as u64;
        let to_us = from_us + slow.for_time.as_micros() as u64;
        Some(SlowResult {
            clients: u64::from(slow.count),
            told_a_gap: u64::from(self.judgement.as_ref()?.slow_with_gap),
            others_p99_before_ms: within(latency, self.course.base_us, from_us)?.p99,
            others_p99_during_ms: within(latency, from_us, to_us)?.p99,
        })
    }

    /// While messages were published; of a run that published nothing, nothing could be late.
    fn generator(&self, scenario: &Scenario) -> Generator {
        let Course { begin, end, .. } = &self.course;
        let p99 = |us: &hdrhistogram::Histogram<u64>| us.value_at_quantile(0.99) as f64 / 1000.0;
        let every = match scenario.connections.drain {
            Drain::Armed => ARMED_TURN,
            Drain::Timer { every } => every,
        };
        let lag = begin.health.as_ref().zip(end.health.as_ref()).map(|(before, after)| {
            let mut lag = after.lag_us.clone();
            // The lag of connecting is not that of publishing. An earlier state of the same histogram can be taken off.
            let _ = lag.subtract(&before.lag_us);
            // A turn that was late by ten intervals kept the work of ten waiting.
            p99(&lag.clone_correct(every.as_micros() as u64))
        });
        let publish_lag =
            self.published.loads.iter().filter(|load| !load.lag_us.is_empty()).map(|load| p99(&load.lag_us));
        Generator {
            cpu_percent: end.generator_percent(begin).unwrap_or(0.0),
            loop_lag_ms_p99: lag.unwrap_or(0.0),
            publish_lag_ms_p99: publish_lag.fold(0.0, f64::max),
            drain: match scenario.connections.drain {
                Drain::Armed => "armed".to_owned(),
                Drain::Timer { .. } => "timer".to_owned(),
            },
        }
    }
}

fn published_per_second(outcome: &LoadOutcome, phases: usize) -> f64 {
    let of_scenario = || outcome.phases.iter().filter(|phase| phase.phase < phases);
    let answered: u64 = of_scenario().map(|phase| phase.answered).sum();
    let from_us = of_scenario().map(|phase| phase.from_us).min().unwrap_or(0);
    let to_us = of_scenario().map(|phase| phase.to_us.max(phase.answered_us)).max().unwrap_or(0);
    answered as f64 / (to_us.saturating_sub(from_us) as f64 / 1e6).max(1e-3)
}

/// To its last answer, if that came after its end.
fn phase_seconds(phase: &PhaseOutcome) -> f64 {
    (phase.to_us.max(phase.answered_us).saturating_sub(phase.from_us) as f64 / 1e6).max(1e-3)
}

/// Of what was to be sent in the whole seconds of this time.
pub fn within(latency: &Latency, from_us: u64, to_us: u64) -> Option<Percentiles> {
    let mut all = histogram();
    let (from, to) = (from_us.div_ceil(1_000_000) as usize, (to_us / 1_000_000) as usize);
    for bucket in latency.seconds.get(from..to.min(latency.seconds.len())).unwrap_or_default() {
        all.add(bucket).expect("all are of the latency module");
    }
    Percentiles::of_us(&all)
}

/// Civil time from days since the epoch (Hinnant, "chrono-compatible low-level date algorithms").
fn rfc3339(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let era_day = shifted % 146_097;
    let era_year = (era_day - era_day / 1_460 + era_day / 36_524 - era_day / 146_096) / 365;
    let year_day = era_day - (365 * era_year + era_year / 4 - era_year / 100);
    let month_from_march = (5 * year_day + 2) / 153;
    let day = year_day - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = shifted / 146_097 * 400 + era_year + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let at = |seconds| rfc3339(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(at(4_107_542_399), "2100-02-28T23:59:59Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00Z");
    }

    #[test]
    fn only_whole_seconds_count() {
        let mut latency = Latency::default();
        latency.record(1_500_000, 1_000);
        latency.record(2_500_000, 9_000);
        assert!(within(&latency, 1_200_000, 2_900_000).is_none());
        assert!(within(&latency, 1_000_000, 2_000_000).expect("one second").max < 2.0);
        assert!(within(&latency, 1_000_000, 9_000_000).expect("two seconds").max > 8.0);
    }
}
