//! The result of a run, as JSON (`result.json`). Fields that do not apply are absent, never zero.

use base64::Engine as _;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Serializer as _, V2Serializer};
use serde::Serialize;

#[derive(Debug, Serialize)]
pub struct RunResult {
    pub schema: u32,
    pub scenario: String,
    pub verdict: &'static str,
    pub reasons: Vec<String>,
    /// Milliseconds since the Unix epoch.
    pub started_ms: u64,
    pub seconds: f64,
    pub connections: ConnectionsResult,
    pub published: u64,
    pub published_per_second: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deliveries: Option<Deliveries>,
    /// Intended send → shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<Percentiles>,
    /// Push → answer.
    pub answer_latency_ms: Percentiles,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unary_latency_ms: Option<Percentiles>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<Server>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub histogram: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct ConnectionsResult {
    pub asked: usize,
    pub established: usize,
    pub failed: usize,
    pub reconnects: u64,
}

#[derive(Debug, Serialize)]
pub struct Deliveries {
    pub expected: u64,
    pub received: u64,
    pub lost: u64,
    pub duplicated: u64,
    pub reordered: u64,
    pub wrong: u64,
    pub overlaps: u64,
    pub holes_healed: u64,
    pub gaps: u64,
    pub per_second: f64,
}

#[derive(Debug, Serialize)]
pub struct Percentiles {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

#[derive(Debug, Serialize)]
pub struct Server {
    pub cpu_seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_us_per_delivery: Option<f64>,
    pub rss_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rss_bytes_per_connection: Option<f64>,
}

impl Percentiles {
    pub fn of_us(histogram: &Histogram<u64>) -> Percentiles {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
        Percentiles { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max: histogram.max() as f64 / 1000.0 }
    }
}

/// HdrHistogram V2, base64.
pub fn encode(histogram: &Histogram<u64>) -> Option<String> {
    let mut bytes = Vec::new();
    V2Serializer::new().serialize(histogram, &mut bytes).ok()?;
    Some(base64::engine::general_purpose::STANDARD.encode(bytes))
}
