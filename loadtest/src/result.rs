//! The result of a run, as JSON (`result.json`). Fields that do not apply are absent, never zero, and every number is
//! finite: JSON has no NaN, so a result that held one could not be read again.

use base64::Engine as _;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Serializer as _, V2Serializer};
use serde::{Deserialize, Serialize};

pub const SCHEMA: u32 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Kept its thresholds and lost nothing.
    Pass,
    Fail,
    /// The generator was the bottleneck: the run says nothing about the server.
    Void,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunResult {
    pub schema: u32,
    pub scenario: String,
    pub verdict: Verdict,
    pub reasons: Vec<String>,
    /// What the oracle found, with client, stream and seq: the first [`crate::judge::FINDINGS_MAX`].
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub findings: Vec<String>,
    /// RFC 3339.
    pub started: String,
    pub seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    pub machine: Machine,
    pub settings: Settings,
    pub connections: Connections,
    /// Messages answered OK.
    pub published: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deliveries: Option<Deliveries>,
    /// Intended time → shown, over all loads; what never came counts as an hour.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<Percentiles>,
    pub loads: Vec<LoadResult>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow: Option<SlowResult>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub certificate_swap: Option<CertificateSwap>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<Server>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub floor: Option<Floor>,
    pub generator: Generator,
    pub thresholds: Vec<Judged>,
    /// HdrHistogram V2, base64, µs: the latencies of `latency_ms`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub histogram: Option<String>,
    /// One entry per second; a second without an entry was not observed.
    pub timeline: Vec<Second>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Machine {
    pub cpu: String,
    pub cores: u32,
    pub memory_bytes: u64,
    pub kernel: String,
}

/// What was asked for, so that a result can be read alone.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Settings {
    pub target: String,
    pub seed: u64,
    /// The scenario file's text.
    pub scenario_toml: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Connections {
    pub asked: u64,
    pub established: u64,
    pub failed: u64,
    pub closed_unexpectedly: u64,
    pub reconnects: u64,
    /// Establishment rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_second: Option<f64>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Deliveries {
    /// Answered messages × their audiences.
    pub expected: u64,
    pub received: u64,
    pub lost: u64,
    pub duplicated: u64,
    pub reordered: u64,
    pub wrong_recipient: u64,
    pub wrong_payload: u64,
    pub unhealed_holes: u64,
    pub against_protocol: u64,
    pub holes_healed: u64,
    pub gaps: u64,
    pub overlaps: u64,
    pub per_second: f64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

/// One `[[publish]]` of the scenario.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LoadResult {
    pub name: String,
    pub sent: u64,
    pub published: u64,
    pub published_per_second: f64,
    /// Answers with an error, by code.
    pub refused: std::collections::BTreeMap<String, u64>,
    pub unanswered: u64,
    /// Push → answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer_ms: Option<Percentiles>,
    /// Intended time → shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<Percentiles>,
    pub phases: Vec<PhaseResult>,
}

/// One phase of a load's schedule.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PhaseResult {
    pub name: String,
    /// From the run's start.
    pub from_s: f64,
    pub to_s: f64,
    pub published: u64,
    pub published_per_second: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deliveries_per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<Percentiles>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<Server>,
}

/// The clients that stopped reading, and the others meanwhile.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SlowResult {
    pub clients: u64,
    pub told_a_gap: u64,
    /// P99 of the other clients before, and while the slow ones did not read.
    pub others_p99_before_ms: f64,
    pub others_p99_during_ms: f64,
}

/// The gateway's certificate was replaced, and a newcomer was shown the new one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CertificateSwap {
    /// Files replaced → handshake with the new certificate ended.
    pub shown_after_ms: f64,
    /// Handshakes of newcomers until then, that one included.
    pub handshakes: u64,
}

/// What the server cost, seen from outside.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Server {
    /// Of the gateway's process, or of its threads where one process holds gateway and control.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_us_per_delivery: Option<f64>,
    /// The same of control.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control_cpu_us_per_delivery: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control_cpu_us_per_message: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_us_per_send: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages_per_send: Option<f64>,
    /// Read by clients, WebSocket heads and all.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bytes_per_delivery: Option<f64>,
    /// Resident memory that came with the connections, divided by them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rss_bytes_per_connection: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_bytes_per_connection: Option<f64>,
    /// Of one core.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_percent: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rss_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub processes: Vec<Process>,
}

/// One watched process over the time that it was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Process {
    pub name: String,
    pub pid: u32,
    pub cpu_seconds: f64,
    pub rss_bytes: u64,
    /// CPU seconds by thread name.
    pub threads: std::collections::BTreeMap<String, f64>,
}

/// The bare loops beside the server, in interleaved pairs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Floor {
    /// `epoll` or `io_uring`: the cheaper of the two.
    pub loop_name: String,
    /// Median over the pairs.
    pub cpu_us_per_send: f64,
    /// Median of server ÷ floor over the pairs, with its 95 % interval (bootstrap).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio_low: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio_high: Option<f64>,
    pub frame_bytes: usize,
    pub sockets: u64,
    pub pairs: Vec<Pair>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    /// CPU µs per send.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoll: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_uring: Option<f64>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Generator {
    /// Of one core, the busiest thread of the harness while messages were published.
    pub cpu_percent: f64,
    pub loop_lag_ms_p99: f64,
    /// How late messages were handed to the server's connection.
    pub publish_lag_ms_p99: f64,
    /// `timer` or `armed`.
    pub drain: String,
}

/// One threshold of the scenario.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Judged {
    pub name: String,
    /// `at most` or `at least`.
    pub rule: String,
    pub limit: f64,
    /// Absent: could not be measured, which fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    pub kept: bool,
}

/// One second of the run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Second {
    /// Seconds since the run's start.
    pub at_s: f64,
    pub established: u64,
    pub published_per_second: f64,
    pub deliveries_per_second: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_ms: Option<f64>,
    /// By watched process, in the order of `server.processes`; empty where nothing was sampled.
    pub cpu_percent: Vec<f64>,
    pub rss_bytes: Vec<u64>,
    pub generator_cpu_percent: f64,
}

impl Percentiles {
    /// `None` of an empty histogram.
    pub fn of_us(histogram: &Histogram<u64>) -> Option<Percentiles> {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
        let max = histogram.max() as f64 / 1000.0;
        (!histogram.is_empty()).then(|| Percentiles { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max })
    }
}

/// HdrHistogram V2, base64.
pub fn encode(histogram: &Histogram<u64>) -> Option<String> {
    let mut bytes = Vec::new();
    V2Serializer::new().serialize(histogram, &mut bytes).ok()?;
    Some(base64::engine::general_purpose::STANDARD.encode(bytes))
}

/// The histogram of [`encode`].
pub fn decode(text: &str) -> Option<Histogram<u64>> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).ok()?;
    hdrhistogram::serialization::Deserializer::new().deserialize(&mut bytes.as_slice()).ok()
}
