//! What the producers count, and what they are told.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::Deserialize;

use crate::stats::ProducerStats;

#[derive(Default)]
pub struct Counters {
    pub produced: AtomicU64,
    pub acked: AtomicU64,
    pub failed: AtomicU64,
    pub refused: AtomicU64,
    pub bytes_acked: AtomicU64,
    pub switched: AtomicU64,
    pub renewed: AtomicU64,
    pub errors: AtomicU64,
    pub compressed_records: AtomicU64,
    pub compressed_bytes_before: AtomicU64,
    pub compressed_bytes_after: AtomicU64,
    pub retries: AtomicU64,
}

impl Counters {
    /// All but the buffer's use.
    pub fn stats(&self) -> ProducerStats {
        ProducerStats {
            produced: self.produced.load(Relaxed),
            acked: self.acked.load(Relaxed),
            failed: self.failed.load(Relaxed),
            refused: self.refused.load(Relaxed),
            bytes_acked: self.bytes_acked.load(Relaxed),
            switched: self.switched.load(Relaxed),
            renewed: self.renewed.load(Relaxed),
            broker_errors: self.errors.load(Relaxed),
            compressed_records: self.compressed_records.load(Relaxed),
            compressed_bytes_before: self.compressed_bytes_before.load(Relaxed),
            compressed_bytes_after: self.compressed_bytes_after.load(Relaxed),
            retries: self.retries.load(Relaxed),
            ..ProducerStats::default()
        }
    }
}

/// Of librdkafka's many figures those that only it knows.
#[derive(Deserialize)]
pub struct Statistics {
    #[serde(default)]
    pub tx_bytes: u64,
    #[serde(default)]
    pub brokers: HashMap<String, BrokerStatistics>,
}

#[derive(Deserialize)]
pub struct BrokerStatistics {
    #[serde(default)]
    pub txretries: u64,
}
