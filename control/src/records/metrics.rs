//! What the feeder counts.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Clones count together.
#[derive(Clone, Debug, Default)]
pub struct FeedMetrics {
    /// Left out because the queue was full, or because the process ended before the index took them.
    pub dropped: Counter,
    /// Taken by the index.
    pub written: Counter,
    /// Of the written: those that told it something new.
    pub changed: Counter,
    /// That the index will never take.
    pub refused: Counter,
    /// Times that the index was away or busy.
    pub failures: Counter,
    /// In the queue and in hand.
    pub waiting: Gauge,
}

impl FeedMetrics {
    pub fn register(&self, registry: &mut Registry) {
        let records = registry.sub_registry_with_prefix("records");
        records.register("dropped", "Push records and texts left out: the queue was full", self.dropped.clone());
        records.register("written", "Push records and texts taken by their index", self.written.clone());
        records.register("changed", "Those that told it something new", self.changed.clone());
        records.register("refused", "Push records and texts that their index never takes", self.refused.clone());
        records.register("failures", "Times that the index was away or busy", self.failures.clone());
        records.register("waiting", "Push records and texts that wait for their index", self.waiting.clone());
    }
}
