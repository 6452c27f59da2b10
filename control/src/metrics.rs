//! What control counts, in Prometheus' text form at `/metrics`.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use tidegate_bus::dead_letters::HandlingStats;
use tidegate_bus::records::ErrorClass;
use tidegate_bus::stats::ProducerStats;
use tidegate_control_core::breaker::BreakerConfig;
use tidegate_control_core::domain::PartitionId;
use tidegate_control_core::partition::PartitionStats;
use tidegate_control_core::partition::stats::CODES;
use tidegate_control_core::ports::cache::Health;

use crate::cache::bounded::Tally;
use crate::cluster::TaskMetrics;
use crate::guard::Guard;
use crate::records::FeedMetrics;

mod dependencies;

use dependencies::Dependencies;
pub use dependencies::StoreSeconds;

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
    /// Of tasks and users' states.
    pub tasks: TaskMetrics,
    interest: Gauge,
    queue_depth: Gauge,
    connections: Gauge,
    log_records: Gauge,
    last: Mutex<HashMap<PartitionId, PartitionStats>>,
    cluster: ClusterGauges,
    dependencies: Dependencies,
}

/// Set whenever somebody asks, from counters that are kept elsewhere.
#[derive(Default)]
struct ClusterGauges {
    owned: Gauge,
    lag: Family<LagOf, Gauge>,
    dead_letters: Family<Given, Counter>,
    retries: Family<Of, Counter>,
    waits: Family<Of, Counter>,
    paused: Family<Of, Gauge>,
    history: Counter,
    history_left_out: Counter,
    rekeyed: Gauge,
    appended: Gauge,
    append_failures: Gauge,
    append_retries: Gauge,
    buffered: Gauge,
    compression_ratio: Gauge<f64, AtomicU64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LagOf {
    topic: String,
    group: &'static str,
    partition: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Given {
    topic: String,
    group: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Of {
    group: &'static str,
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
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub queue_depth: usize,
    /// Records in the log since its beginning.
    pub log_records: u64,
    /// Live client connections that gateways have told of.
    pub connections: usize,
    /// Of a node of a cluster.
    pub cluster: Option<ClusterFigures>,
}

/// What a node of a cluster adds.
#[derive(Clone, Debug, Default)]
pub struct ClusterFigures {
    pub owned: usize,
    /// Of the sequencers, and of each group that this node is a member of.
    pub groups: Vec<GroupFigures>,
    /// Records in `message-history`, and those that were too large for it.
    pub history: (u64, u64),
    pub rekeyed: u64,
    pub producer: ProducerStats,
    /// `None`: it has no cache.
    pub cache: Option<Health>,
}

/// What the readers of a topic do here.
#[derive(Clone, Debug)]
pub struct GroupFigures {
    pub group: &'static str,
    pub topic: String,
    /// Records that are not handled yet, by the topic's partition. Of the sequencers: of those that are read here.
    pub behind: HashMap<u32, u64>,
    pub handling: HandlingStats,
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
            tasks: TaskMetrics::default(),
            interest: Gauge::default(),
            queue_depth: Gauge::default(),
            connections: Gauge::default(),
            log_records: Gauge::default(),
            last: Mutex::default(),
            cluster: ClusterGauges::default(),
            dependencies: Dependencies::new(),
        };
        metrics.registered()
    }

    fn registered(mut self) -> Metrics {
        let (r, p) = (&mut self.registry, &self.partition);
        self.records.register(r);
        self.tasks.register(r);
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
        let c = &self.cluster;
        r.register("partitions_owned", "Partitions that this node owns", c.owned.clone());
        r.register("bus_lag", "Messages of a topic's partition that are not handled yet", c.lag.clone());
        r.register("dead_letters", "Records that were given up, by topic and reason", c.dead_letters.clone());
        r.register("task_retries", "Attempts after the first, of records that failed by themselves", c.retries.clone());
        r.register("task_waits", "Times that a group's partition waited for a dependency", c.waits.clone());
        r.register("task_paused", "Partitions that wait now", c.paused.clone());
        r.register("history_records", "Messages told to the history, once for each place", c.history.clone());
        r.register("history_left_out", "Messages that the bus takes nowhere: too large", c.history_left_out.clone());
        r.register("bus_rekeyed", "Records put where their stream belongs, since the start", c.rekeyed.clone());
        r.register("bus_appended", "Records that the bus acknowledged, since the start", c.appended.clone());
        r.register("bus_failures", "Records that the bus did not take, since the start", c.append_failures.clone());
        r.register("bus_retries", "Sends to the bus that were repeated, since the start", c.append_retries.clone());
        r.register("bus_buffered", "Records that wait for the bus's acknowledgement", c.buffered.clone());
        r.register("bus_compression_ratio", "Bytes after by bytes before compression", c.compression_ratio.clone());
        r.register("log_records", "Records in the log since its beginning", self.log_records.clone());
        self
    }

    /// Takes a partition's counters over.
    pub fn partition(&self, partition: PartitionId, now: &PartitionStats) {
        let mut all = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let last = all.entry(partition).or_default();
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
        *last = *now;
        self.interest.set(all.values().map(|stats| stats.interest as i64).sum());
    }

    /// The partition is owned elsewhere from now on; should it come back, its counters begin anew.
    pub fn partition_gone(&self, partition: PartitionId) {
        let mut all = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(&partition);
        self.interest.set(all.values().map(|stats| stats.interest as i64).sum());
    }

    /// Targets of pushes that were refused, whoever refused them.
    pub fn refused(&self, targets: u64) {
        self.refused_pushes.inc_by(targets);
    }

    /// Requests to the store by operation.
    pub fn store_seconds(&self) -> StoreSeconds {
        self.dependencies.store_seconds.clone()
    }

    /// What is asked of the cache of this name.
    pub fn tally(&self, cache: &'static str) -> Tally {
        self.dependencies.tally(cache)
    }

    /// A circuit breaker in front of a dependency, whose state is shown under this name.
    pub fn guard(&self, dependency: &'static str, config: BreakerConfig) -> Arc<Guard> {
        self.dependencies.guard(dependency, config)
    }

    /// Committed records whose facts found no room on their way to the cache.
    pub fn cache_passed_over(&self) -> Counter {
        self.dependencies.cache_passed_over.clone()
    }

    /// The text that a scraper reads (OpenMetrics).
    pub fn encode(&self, now: Snapshot) -> Result<String, fmt::Error> {
        self.queue_depth.set(now.queue_depth as i64);
        self.log_records.set(now.log_records as i64);
        self.connections.set(now.connections as i64);
        if let Some(cluster) = now.cluster {
            self.cluster.set(&cluster);
            self.dependencies.set(cluster.cache.as_ref());
        }
        self.dependencies.look();
        let mut out = String::new();
        text::encode_registry(&mut out, &self.registry)?;
        text::encode_registry(&mut out, &self.dependencies.registry)?;
        text::encode_eof(&mut out)?;
        Ok(out)
    }
}

impl ClusterGauges {
    fn set(&self, now: &ClusterFigures) {
        self.owned.set(now.owned as i64);
        self.lag.clear();
        for GroupFigures { group, topic, behind, handling } in &now.groups {
            for (partition, behind) in behind {
                let of = LagOf { topic: topic.clone(), group, partition: *partition };
                self.lag.get_or_create(&of).set(*behind as i64);
            }
            for (class, count) in ErrorClass::ALL.iter().zip(handling.dead_letters_by_class) {
                let given = Given { topic: topic.clone(), group, reason: class.as_str() };
                rise(&self.dead_letters.get_or_create(&given), count);
            }
            let of = Of { group };
            rise(&self.retries.get_or_create(&of), handling.retries);
            rise(&self.waits.get_or_create(&of), handling.dependency_failures);
            self.paused.get_or_create(&of).set(handling.paused as i64);
        }
        let (told, left_out) = now.history;
        rise(&self.history, told);
        rise(&self.history_left_out, left_out);
        self.rekeyed.set(now.rekeyed as i64);
        self.appended.set(now.producer.acked as i64);
        self.append_failures.set((now.producer.failed + now.producer.refused) as i64);
        self.append_retries.set(now.producer.retries as i64);
        self.buffered.set(now.producer.buffered_records as i64);
        self.compression_ratio.set(now.producer.compression_ratio());
    }
}

/// Counters that are kept elsewhere.
fn rise(counter: &Counter, to: u64) {
    counter.inc_by(to.saturating_sub(counter.get()));
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tidegate_control_core::breaker::Outcome;

    use super::*;

    #[test]
    fn the_text_follows_the_partition_and_the_api() {
        let metrics = Metrics::new();
        let mut stats = PartitionStats { pushes: 3, duplicates: 2, records: 4, interest: 6, ..Default::default() };
        metrics.partition(PartitionId(0), &stats);
        stats.pushes = 5;
        stats.refusals[0] = 1;
        metrics.partition(PartitionId(0), &stats);
        metrics.partition(PartitionId(0), &stats);
        metrics.refused(1);
        metrics.commit_seconds.observe(0.004);
        metrics.store_seconds().observe("commit", Duration::from_millis(3));
        metrics.tally("members").hits.inc();
        let _of_before = metrics.guard("store", BreakerConfig::default());
        let store = metrics.guard("store", BreakerConfig { requests_min: 1, ..BreakerConfig::default() });
        store.record(store.allow().expect("closed"), Outcome::Failure);
        let _records = metrics.guard("records", BreakerConfig::default());
        let cluster = Some(ClusterFigures::default());
        let text = metrics.encode(Snapshot { queue_depth: 7, log_records: 12, connections: 5, cluster }).expect("text");
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
            "tidegate_store_seconds_count{op=\"commit\"} 1",
            "tidegate_cache_hits_total{cache=\"members\"} 1",
            "tidegate_cache_misses_total{cache=\"members\"} 0",
            "tidegate_breaker_state{dependency=\"store\"} 2",
            "tidegate_breaker_state{dependency=\"records\"} 0",
            "# EOF",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn groups_are_told_apart_and_what_was_given_up_rises() {
        let metrics = Metrics::new();
        let handling = HandlingStats { retries: 2, dead_letters_by_class: [1, 0, 0], ..Default::default() };
        let topic = "im-task-topic".to_owned();
        let group = GroupFigures { group: "im-task-group", topic, behind: HashMap::from([(3, 7)]), handling };
        let cluster = ClusterFigures { groups: vec![group], history: (5, 0), ..ClusterFigures::default() };
        let now = Snapshot { queue_depth: 0, log_records: 0, connections: 0, cluster: Some(cluster) };
        metrics.encode(now.clone()).expect("text");
        let text = metrics.encode(now).expect("text");
        for line in [
            "tidegate_control_bus_lag{topic=\"im-task-topic\",group=\"im-task-group\",partition=\"3\"} 7",
            "tidegate_control_dead_letters_total{topic=\"im-task-topic\",group=\"im-task-group\",reason=\"undecodable\"} 1",
            "tidegate_control_dead_letters_total{topic=\"im-task-topic\",group=\"im-task-group\",reason=\"refused\"} 0",
            "tidegate_control_task_retries_total{group=\"im-task-group\"} 2",
            "tidegate_control_history_records_total 5",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
    }
}
