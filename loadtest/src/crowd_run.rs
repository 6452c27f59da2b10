//! Runs a scenario: connect, follow, publish, judge.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;

use crate::crowd::Fleet;
use crate::crowd_judge::{Ledger, Verdict};
use crate::crowd_publish::{self as publish, Outcome, Plan};
use crate::crowd_result::{self, ConnectionsResult, Deliveries, Percentiles, RunResult, Server};
use crate::crowd_scenario::{Scenario, Slow, To};
use crate::follower::{Controls, Follower};
use crate::process::{self, Usage};
use crate::session::Target;

/// Nothing new for so long: the clients have shown what they will show.
const QUIET: Duration = Duration::from_secs(3);

#[derive(Clone, Debug)]
pub struct Options {
    /// The gateway's client listener.
    pub client: SocketAddr,
    /// `http://host:port` of control's gRPC listener.
    pub grpc: String,
    /// Processes whose CPU and memory are reported.
    pub server_pids: Vec<u32>,
    /// Makes uids, groups and keys of this run unique.
    pub run: String,
}

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("publishing failed")]
    Publish(#[from] publish::PublishError),
    #[error("cannot read the server's process {pid}")]
    Process { pid: u32, source: std::io::Error },
}

/// Runs the scenario to its end.
pub async fn run(scenario: &Scenario, options: &Options) -> Result<RunResult, RunError> {
    let started_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    let origin = Instant::now();
    let unary = match scenario.unary_pushes {
        0 => None,
        count => {
            let stream = format!("g:{}-unary", options.run);
            Some(publish::unary(&options.grpc, &stream, count, scenario.publish.payload_bytes).await?)
        }
    };
    let idle = usage(options)?;
    let (fleet, latency_us) = connect(scenario, options, origin).await;
    let established = fleet.established();
    let before = usage(options)?;
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    let slow = scenario.slow.clone().map(|slow| tokio::spawn(stop_reading(slow, fleet.controls.clone())));
    let outcome = publish::publish(plan(scenario, options, origin), ledger.clone()).await;
    if let Some(slow) = slow {
        let _ = slow.await;
    }
    let ledger = std::mem::take(&mut *ledger.lock().expect("no holder panics"));
    fleet.settle(&ledger, QUIET).await;
    let after = usage(options)?;
    let seconds = origin.elapsed().as_secs_f64();
    let reconnects = fleet.controls.iter().map(|c| c.connects.load(Ordering::SeqCst).saturating_sub(1)).sum();
    let asked = fleet.controls.len();
    let slow_count = scenario.slow.as_ref().map_or(0, |slow| slow.count);
    let mut slow_with_gap = 0;
    let verdict = fleet
        .judge(&ledger, |name, logs| {
            let number = name.rsplit_once('-').and_then(|(_, n)| n.parse::<usize>().ok()).unwrap_or(usize::MAX);
            slow_with_gap += usize::from(number < slow_count && logs.values().any(|log| log.gaps > 0));
        })
        .await;
    let latency = latency_us.lock().expect("no holder panics").clone();
    let connections = ConnectionsResult { asked, established, failed: asked - established, reconnects };
    let costs = Costs { idle, before, after, connections: established };
    let mut report = compose(scenario, &outcome, connections, &verdict, costs, unary.as_ref());
    report.started_ms = started_ms;
    report.seconds = seconds;
    if !latency.is_empty() {
        report.latency_ms = Some(Percentiles::of_us(&latency));
        report.histogram = crowd_result::encode(&latency);
    }
    if scenario.thresholds.slow_clients_get_a_gap && slow_with_gap < slow_count {
        report.reasons.push(format!("only {slow_with_gap} of {slow_count} slow clients got a gap"));
    }
    check(scenario, &mut report);
    Ok(report)
}

fn usage(options: &Options) -> Result<Usage, RunError> {
    let mut sum = Usage::default();
    for pid in &options.server_pids {
        let usage = process::usage(*pid).map_err(|source| RunError::Process { pid: *pid, source })?;
        sum.cpu_us += usage.cpu_us;
        sum.rss_bytes += usage.rss_bytes;
    }
    Ok(sum)
}

fn group(options: &Options, number: usize) -> String {
    format!("g:{}-{number}", options.run)
}

fn plan(scenario: &Scenario, options: &Options, origin: Instant) -> Plan {
    let publish = &scenario.publish;
    let targets = match publish.to {
        To::Groups => (0..scenario.connections.groups).map(|n| group(options, n)).collect(),
        To::Inboxes => (0..scenario.connections.count).map(|n| format!("u:{}-{n}", options.run)).collect(),
        To::Streams => (0..publish.streams).map(|n| format!("g:{}-s{n}", options.run)).collect(),
    };
    Plan {
        grpc: options.grpc.clone(),
        rate: (publish.per_second > 0.0).then_some(publish.per_second),
        messages: publish.messages,
        stop: Arc::default(),
        targets,
        payload_bytes: publish.payload_bytes,
        key_prefix: options.run.clone(),
        in_flight_max: publish.in_flight,
        origin,
    }
}

async fn connect(scenario: &Scenario, options: &Options, origin: Instant) -> (Fleet, Arc<Mutex<Histogram<u64>>>) {
    let latency_us = Arc::new(Mutex::new(publish::histogram()));
    let mut fleet = Fleet::default();
    let pause = Duration::from_secs_f64(1.0 / scenario.connections.ramp_per_second);
    let slow = scenario.slow.as_ref().map_or(0, |slow| slow.count);
    let begin = Instant::now();
    for number in 0..scenario.connections.count {
        let uid = format!("{}-{number}", options.run);
        let mut target = Target::dev(options.client, &uid);
        if number < slow {
            target.receive_buffer = Some(16 * 1024);
        }
        let streams = match scenario.connections.groups {
            0 => Vec::new(),
            groups => vec![group(options, number % groups)],
        };
        let mut follower = Follower::new(uid, target, streams);
        let latency_us = latency_us.clone();
        // The slow ones' own lateness is theirs; the latency is that of the others.
        if number >= slow {
            follower.on_shown = Some(Arc::new(move |message, now| {
                if let Some(intended) = publish::intended_us(&message.content) {
                    let at = now.saturating_duration_since(origin).as_micros() as u64;
                    let _ = latency_us.lock().expect("no holder panics").record(at.saturating_sub(intended).max(1));
                }
            }));
        }
        fleet.follow(follower);
        let due = begin + pause * (number as u32 + 1);
        if due > Instant::now() {
            tokio::time::sleep_until(due.into()).await;
        }
    }
    fleet.gather().await;
    (fleet, latency_us)
}

async fn stop_reading(slow: Slow, controls: Vec<Arc<Controls>>) {
    tokio::time::sleep(Duration::from_secs_f64(slow.after_s)).await;
    controls.iter().take(slow.count).for_each(|c| c.pause(true));
    tokio::time::sleep(Duration::from_secs_f64(slow.for_s)).await;
    controls.iter().take(slow.count).for_each(|c| c.pause(false));
}

struct Costs {
    idle: Usage,
    before: Usage,
    after: Usage,
    connections: usize,
}

fn compose(
    scenario: &Scenario,
    outcome: &Outcome,
    connections: ConnectionsResult,
    verdict: &Verdict,
    costs: Costs,
    unary: Option<&Histogram<u64>>,
) -> RunResult {
    let deliveries = (connections.asked > 0).then(|| Deliveries {
        expected: verdict.expected,
        received: verdict.received,
        lost: verdict.lost,
        duplicated: verdict.duplicated,
        reordered: verdict.reordered,
        wrong: verdict.wrong,
        overlaps: verdict.overlaps,
        holes_healed: verdict.holes_healed,
        gaps: verdict.gaps,
        per_second: verdict.received as f64 / outcome.seconds.max(0.001),
    });
    let server = (costs.after.rss_bytes > 0).then(|| {
        let cpu_us = (costs.after.cpu_us - costs.before.cpu_us) as f64;
        let grown = costs.before.rss_bytes.saturating_sub(costs.idle.rss_bytes) as f64;
        Server {
            cpu_seconds: cpu_us / 1e6,
            cpu_us_per_delivery: (verdict.received > 0).then(|| cpu_us / verdict.received as f64),
            rss_bytes: costs.after.rss_bytes,
            rss_bytes_per_connection: (costs.connections > 0).then(|| grown / costs.connections as f64),
        }
    });
    let mut reasons = verdict.findings.clone();
    if outcome.unanswered > 0 {
        reasons.push(format!("{} pushes were never answered", outcome.unanswered));
    }
    for (code, count) in &outcome.refused {
        reasons.push(format!("{count} pushes were refused with {code}"));
    }
    if connections.failed > 0 {
        reasons.push(format!("{} connections were not established", connections.failed));
    }
    RunResult {
        schema: 1,
        scenario: scenario.name.clone(),
        verdict: "pass",
        reasons,
        started_ms: 0,
        seconds: 0.0,
        connections,
        published: outcome.answered,
        published_per_second: outcome.answered as f64 / outcome.seconds.max(0.001),
        deliveries,
        latency_ms: None,
        answer_latency_ms: Percentiles::of_us(&outcome.latency_us),
        unary_latency_ms: unary.map(Percentiles::of_us),
        server,
        histogram: None,
    }
}

/// Holds the result against the scenario's thresholds and sets the verdict.
fn check(scenario: &Scenario, report: &mut RunResult) {
    let thresholds = &scenario.thresholds;
    let mut at_most = |name: &str, limit: Option<f64>, value: Option<f64>| {
        if let (Some(limit), Some(value)) = (limit, value)
            && value > limit
        {
            report.reasons.push(format!("{name} is {value:.2} ms, above {limit} ms"));
        }
    };
    at_most("latency P50", thresholds.p50_ms, report.latency_ms.as_ref().map(|l| l.p50));
    at_most("latency P99", thresholds.p99_ms, report.latency_ms.as_ref().map(|l| l.p99));
    at_most("unary push P50", thresholds.unary_p50_ms, report.unary_latency_ms.as_ref().map(|l| l.p50));
    if let Some(limit) = thresholds.published_per_second
        && report.published_per_second < limit
    {
        report.reasons.push(format!("published {:.0} messages/s, below {limit:.0}", report.published_per_second));
    }
    if !report.reasons.is_empty() {
        report.verdict = "fail";
    }
}
