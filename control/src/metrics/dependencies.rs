//! What is counted about servers that a node depends on, and about what it keeps near: names that begin with `tidegate_` alone.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use tidegate_control_core::breaker::{BreakerConfig, BreakerState};
use tidegate_control_core::ports::cache::Health;

use crate::cache::bounded::Tally;
use crate::guard::Guard;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CacheName {
    cache: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Dependency {
    dependency: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Operation {
    op: &'static str,
}

/// Requests to the store by operation; clones count together.
#[derive(Clone, Debug)]
pub struct StoreSeconds(Family<Operation, Histogram>);

impl Default for StoreSeconds {
    fn default() -> StoreSeconds {
        StoreSeconds(Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.000_25, 2.0, 15))))
    }
}

impl StoreSeconds {
    pub fn observe(&self, op: &'static str, took: Duration) {
        self.0.get_or_create(&Operation { op }).observe(took.as_secs_f64());
    }
}

pub(super) struct Dependencies {
    pub registry: Registry,
    pub store_seconds: StoreSeconds,
    /// Committed records whose facts found no room on their way to the cache.
    pub cache_passed_over: Counter,
    hits: Family<CacheName, Counter>,
    misses: Family<CacheName, Counter>,
    invalidated: Family<CacheName, Counter>,
    breakers: Family<Dependency, Gauge>,
    /// Whose states are shown.
    guards: Mutex<Vec<(&'static str, Arc<Guard>)>>,
    reads_failed: Gauge,
    writes: Gauge,
    dropped: Gauge,
    refused: Gauge,
    queued: Gauge,
    owed: Gauge,
}

impl Dependencies {
    pub fn new() -> Dependencies {
        let dependencies = Dependencies {
            registry: Registry::with_prefix("tidegate"),
            store_seconds: StoreSeconds::default(),
            cache_passed_over: Counter::default(),
            hits: Family::default(),
            misses: Family::default(),
            invalidated: Family::default(),
            breakers: Family::default(),
            guards: Mutex::default(),
            reads_failed: Gauge::default(),
            writes: Gauge::default(),
            dropped: Gauge::default(),
            refused: Gauge::default(),
            queued: Gauge::default(),
            owed: Gauge::default(),
        };
        dependencies.registered()
    }

    fn registered(mut self) -> Dependencies {
        let r = &mut self.registry;
        r.register("store_seconds", "Requests to the store, by operation", self.store_seconds.0.clone());
        r.register("cache_hits", "Look-ups that were answered from near, by what was kept", self.hits.clone());
        r.register("cache_misses", "Look-ups that had to be asked elsewhere", self.misses.clone());
        r.register("cache_invalidated", "What was kept and was told to have changed", self.invalidated.clone());
        r.register(
            "cache_passed_over",
            "Committed records whose facts found no room on their way to the cache",
            self.cache_passed_over.clone(),
        );
        r.register(
            "breaker_state",
            "0: requests go to the dependency; 1: a few try it; 2: none does",
            self.breakers.clone(),
        );
        r.register(
            "cache_reads_failed",
            "Look-ups that the cache did not answer, since the start",
            self.reads_failed.clone(),
        );
        r.register("cache_writes", "Facts that the cache has, since the start", self.writes.clone());
        r.register(
            "cache_dropped",
            "Facts that were dropped while the cache was away, since the start",
            self.dropped.clone(),
        );
        r.register("cache_refused", "Facts that the cache refused, since the start", self.refused.clone());
        r.register("cache_queued", "Facts that wait for the cache", self.queued.clone());
        r.register("cache_owed", "Streams and routes that the cache must forget or be told again", self.owed.clone());
        self
    }

    pub fn tally(&self, cache: &'static str) -> Tally {
        let name = CacheName { cache };
        Tally {
            hits: self.hits.get_or_create(&name).clone(),
            misses: self.misses.get_or_create(&name).clone(),
            invalidated: self.invalidated.get_or_create(&name).clone(),
        }
    }

    pub fn guard(&self, dependency: &'static str, config: BreakerConfig) -> Arc<Guard> {
        let guard = Arc::new(Guard::new(config));
        let mut guards = self.guards.lock().unwrap_or_else(PoisonError::into_inner);
        // Who begins again has the newest.
        guards.retain(|(known, _)| *known != dependency);
        guards.push((dependency, Arc::clone(&guard)));
        guard
    }

    /// Of all that have a guard.
    pub fn look(&self) {
        for (dependency, guard) in &*self.guards.lock().unwrap_or_else(PoisonError::into_inner) {
            self.show(dependency, guard.state());
        }
    }

    fn show(&self, dependency: &'static str, state: BreakerState) {
        let number = match state {
            BreakerState::Closed => 0,
            BreakerState::HalfOpen => 1,
            BreakerState::Open => 2,
        };
        self.breakers.get_or_create(&Dependency { dependency }).set(number);
    }

    pub fn set(&self, cache: Option<&Health>) {
        let Some(cache) = cache else { return };
        self.show("cache", cache.breaker);
        self.reads_failed.set(cache.reads_failed as i64);
        self.writes.set(cache.writes_done as i64);
        self.dropped.set(cache.writes_dropped as i64);
        self.refused.set(cache.writes_refused as i64);
        self.queued.set(cache.queued as i64);
        self.owed.set(cache.owed as i64);
    }
}
