//! What control counts, in Prometheus' text form at `/metrics`.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use tidegate_control_core::partition::PartitionStats;
use tidegate_control_core::partition::stats::CODES;

use crate::records::FeedMetrics;

/// Every metric of the process. Histograms are observed once a batch; the partition's own counters are taken over with every
/// tick of its loop.
pub struct Metrics {
    registry: Registry,
    partition: Counted,
    refusals: Family<Refused, Counter>,
    refused_pushes: Counter,
    /// Inputs of one turn of the partition's loop.
    pub batch_inputs: Histogram,
    /// From taking a batch to its durable commit.
    pub commit_seconds: Histogram,
    /// Attached gateways.
    pub links: Gauge,
    /// Attachments ended by us because of what they sent or how far behind they were.
    pub links_refused: Counter,
    /// Of the feeder of push records.
    pub records: FeedMetrics,
    interest: Gauge,
    queue_depth: Gauge,
    connections: Gauge,
    log_records: Gauge,
    last: Mutex<PartitionStats>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refused {
    code: &'static str,
}

/// Counters that follow the partition's.
#[derive(Default)]
struct Counted {
    pushes: Counter,
    ephemerals: Counter,
    dedup_hits: Counter,
    records: Counter,
    batches: Counter,
    deliveries: Counter,
    ephemeral_drops: Counter,
    opens: Counter,
    catch_ups: Counter,
    replayed_records: Counter,
    resets: Counter,
    detached: Counter,
    commits_unavailable: Counter,
}

/// Figures that are read when somebody asks.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot {
    pub queue_depth: usize,
    /// Records in the log since its beginning.
    pub log_records: u64,
    /// Live client connections that gateways have told of.
    pub connections: usize,
}

impl Metrics {
    #[allow(clippy::new_without_default)]
    pub fn new() -> Metrics {
        let metrics = Metrics {
            registry: Registry::with_prefix("tidegate_control"),
            partition: Counted::default(),
            refusals: Family::default(),
            refused_pushes: Counter::default(),
            batch_inputs: Histogram::new(exponential_buckets(1.0, 4.0, 8)),
            commit_seconds: Histogram::new(exponential_buckets(0.000_25, 2.0, 14)),
            links: Gauge::default(),
            links_refused: Counter::default(),
            records: FeedMetrics::default(),
            interest: Gauge::default(),
            queue_depth: Gauge::default(),
            connections: Gauge::default(),
            log_records: Gauge::default(),
            last: Mutex::default(),
        };
        metrics.registered()
    }

    fn registered(mut self) -> Metrics {
        let (r, p) = (&mut self.registry, &self.partition);
        self.records.register(r);
        r.register("pushes", "Durable messages that got a place", p.pushes.clone());
        r.register("ephemerals", "Ephemeral messages routed", p.ephemerals.clone());
        r.register("dedup_hits", "Messages that had been stored before under the same key", p.dedup_hits.clone());
        r.register("records", "Records committed", p.records.clone());
        r.register("batches", "Commits that wrote something", p.batches.clone());
        r.register("deliveries", "Messages handed to links, once per gateway", p.deliveries.clone());
        r.register(
            "ephemeral_drops",
            "Ephemeral messages not handed to a link that was behind",
            p.ephemeral_drops.clone(),
        );
        r.register("opens", "Connections that were opened", p.opens.clone());
        r.register("catch_ups", "Links that were caught up from a place in the log", p.catch_ups.clone());
        r.register("replayed_records", "Records read again for links", p.replayed_records.clone());
        r.register("resets", "Links whose place could not be replayed", p.resets.clone());
        r.register("detached", "Links ended by the partition", p.detached.clone());
        r.register("commits_unavailable", "Commits that found the store unavailable", p.commits_unavailable.clone());
        r.register("refusals", "Commands that the partition refused", self.refusals.clone());
        r.register(
            "refused_pushes",
            "Targets of backends' pushes that were refused, for any reason",
            self.refused_pushes.clone(),
        );
        r.register("batch_inputs", "Inputs handled in one turn", self.batch_inputs.clone());
        r.register("commit_seconds", "From taking a batch to its durable commit", self.commit_seconds.clone());
        r.register("links", "Attached gateways", self.links.clone());
        r.register("links_refused", "Attachments that we ended", self.links_refused.clone());
        r.register("interest", "Streams that gateways are interested in", self.interest.clone());
        r.register("queue_depth", "Slots of what waits for the partition's thread", self.queue_depth.clone());
        r.register("connections", "Live client connections of all gateways", self.connections.clone());
        r.register("log_records", "Records in the log since its beginning", self.log_records.clone());
        self
    }

    /// Takes the partition's counters over.
    pub fn partition(&self, now: &PartitionStats) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let p = &self.partition;
        let rises = [
            (&p.pushes, last.pushes, now.pushes),
            (&p.ephemerals, last.ephemerals, now.ephemerals),
            (&p.dedup_hits, last.duplicates, now.duplicates),
            (&p.records, last.records, now.records),
            (&p.batches, last.batches, now.batches),
            (&p.deliveries, last.deliveries, now.deliveries),
            (&p.ephemeral_drops, last.ephemeral_drops, now.ephemeral_drops),
            (&p.opens, last.opens, now.opens),
            (&p.catch_ups, last.catch_ups, now.catch_ups),
            (&p.replayed_records, last.replayed_records, now.replayed_records),
            (&p.resets, last.resets, now.resets),
            (&p.detached, last.detached, now.detached),
            (&p.commits_unavailable, last.commits_unavailable, now.commits_unavailable),
        ];
        for (counter, before, after) in rises {
            counter.inc_by(after.saturating_sub(before));
        }
        for (at, code) in CODES.iter().enumerate() {
            let rise = now.refusals[at].saturating_sub(last.refusals[at]);
            if rise > 0 {
                self.refusals.get_or_create(&Refused { code: code.as_str() }).inc_by(rise);
            }
        }
        self.interest.set(now.interest as i64);
        *last = *now;
    }

    /// Targets of pushes that were refused, whoever refused them.
    pub fn refused(&self, targets: u64) {
        self.refused_pushes.inc_by(targets);
    }

    /// The text that a scraper reads (OpenMetrics).
    pub fn encode(&self, now: Snapshot) -> Result<String, fmt::Error> {
        self.queue_depth.set(now.queue_depth as i64);
        self.log_records.set(now.log_records as i64);
        self.connections.set(now.connections as i64);
        let mut out = String::new();
        text::encode(&mut out, &self.registry)?;
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_follows_the_partition_and_the_api() {
        let metrics = Metrics::new();
        let mut stats = PartitionStats { pushes: 3, duplicates: 2, records: 4, interest: 6, ..Default::default() };
        metrics.partition(&stats);
        stats.pushes = 5;
        stats.refusals[0] = 1;
        metrics.partition(&stats);
        metrics.partition(&stats);
        metrics.refused(1);
        metrics.commit_seconds.observe(0.004);
        let text = metrics.encode(Snapshot { queue_depth: 7, log_records: 12, connections: 5 }).expect("text");
        for line in [
            "tidegate_control_pushes_total 5",
            "tidegate_control_dedup_hits_total 2",
            "tidegate_control_records_total 4",
            "tidegate_control_refusals_total{code=\"BAD_REQUEST\"} 1",
            "tidegate_control_refused_pushes_total 1",
            "tidegate_control_interest 6",
            "tidegate_control_queue_depth 7",
            "tidegate_control_log_records 12",
            "tidegate_control_connections 5",
            "tidegate_control_commit_seconds_count 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
    }
}
