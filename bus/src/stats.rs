//! Figures of a bus, for metrics. Counters rise from the start of the process.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProducerStats {
    /// Taken into the buffer.
    pub produced: u64,
    pub acked: u64,
    /// Taken, and ended with an error.
    pub failed: u64,
    /// Not taken: the buffer was full.
    pub refused: u64,
    /// Requests that were sent again because a connection broke or gave no answer.
    pub retries: u64,
    /// Times that the producers had to be made anew.
    pub renewed: u64,
    /// Bytes of keys and values of all acknowledged records.
    pub bytes_acked: u64,
    /// What the compressing producer was given, and what it sent for it, framing included; the latter is brought up to date
    /// once a second.
    pub compressed_records: u64,
    pub compressed_bytes_before: u64,
    pub compressed_bytes_after: u64,
    /// Records that waited until their lane had changed the producer.
    pub switched: u64,
    pub buffered_records: u64,
    pub buffered_bytes: u64,
    pub buffer_records_max: u64,
    pub buffer_bytes_max: u64,
    pub broker_errors: u64,
}

impl ProducerStats {
    /// Bytes after by bytes before; 1 if nothing was compressed.
    pub fn compression_ratio(&self) -> f64 {
        if self.compressed_bytes_before == 0 {
            return 1.0;
        }
        self.compressed_bytes_after as f64 / self.compressed_bytes_before as f64
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConsumerStats {
    pub records: u64,
    pub bytes: u64,
    pub errors: u64,
    pub rebalances: u64,
    pub commits: u64,
    pub commit_errors: u64,
    /// Partition readers that are open.
    pub readers: u64,
}

#[derive(Debug, Default)]
pub(crate) struct ConsumerCounters {
    pub records: AtomicU64,
    pub bytes: AtomicU64,
    pub errors: AtomicU64,
    pub rebalances: AtomicU64,
    pub commits: AtomicU64,
    pub commit_errors: AtomicU64,
    pub readers: AtomicU64,
}

impl ConsumerCounters {
    pub fn took(&self, records: &[crate::port::Record]) {
        self.records.fetch_add(records.len() as u64, Relaxed);
        let bytes: usize = records.iter().map(|record| record.value.len()).sum();
        self.bytes.fetch_add(bytes as u64, Relaxed);
    }

    pub fn stats(&self) -> ConsumerStats {
        ConsumerStats {
            records: self.records.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            errors: self.errors.load(Relaxed),
            rebalances: self.rebalances.load(Relaxed),
            commits: self.commits.load(Relaxed),
            commit_errors: self.commit_errors.load(Relaxed),
            readers: self.readers.load(Relaxed),
        }
    }
}
