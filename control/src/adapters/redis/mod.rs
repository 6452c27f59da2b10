//! The cache in Redis: one server, or a cluster.
//!
//! Invariants:
//! * Writing never waits: facts go through a bounded [`backlog`] to one [`writer`], in pipelines, one per slot.
//! * Reading waits at most one time limit, and not at all while the breaker is open. What fails is a miss.
//! * Every decision about newer and older is made in the server, by the scripts in `lua/`: several nodes write at once.
//! * Keys are made in [`keys`] alone, from checked names.
//!
//! What it does not do: hold anything that is not committed elsewhere, or ask the server for its configuration (docs/redis.md
//! says what that should be).

mod backlog;
mod calls;
mod codec;
mod facts;
mod keys;
mod link;
mod notices;
mod reader;
mod settings;
mod shared;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tidegate_control_core::domain::{Epoch, Seq, StreamKey, Uid};
use tidegate_control_core::ports::DedupHit;
use tidegate_control_core::ports::cache::{
    Cache, Channel, Connection, CursorKey, Entry, Fact, Health, Incarnation, Live, Pending, Published, Queued, Ring,
    RunQuery, Subscription, Sweep,
};

use shared::Shared;

pub use keys::BadTemplate;
pub use settings::{BoundSettings, BreakerSettings, KeySettings, RedisSettings, TtlSettings};

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{0} cannot be read")]
    File(PathBuf, #[source] std::io::Error),
    #[error("the name of a key is not valid")]
    Template(#[from] BadTemplate),
    #[error("no URL of a server")]
    NoUrl,
    /// Of the settings: nobody is connected to yet. Its text may name hosts, never a password.
    #[error("the address of a server is not valid")]
    Address(#[from] redis::RedisError),
    #[error("no randomness")]
    Random,
}

/// Dropping it ends its tasks; facts that still wait are dropped. [`Cache::settled`] comes first where that matters.
pub struct RedisCache {
    shared: Arc<Shared>,
}

impl RedisCache {
    /// Needs a tokio runtime around it, and no server: one that is away is found by and by.
    pub fn open(settings: &RedisSettings) -> Result<RedisCache, OpenError> {
        let shared = Arc::new(Shared::new(settings)?);
        shared.runtime.spawn(writer::run(Arc::clone(&shared)));
        Ok(RedisCache { shared })
    }
}

impl Drop for RedisCache {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl Cache for RedisCache {
    fn write(&self, facts: Vec<Fact>) {
        self.shared.push(facts);
    }

    fn routes_of<'a>(&'a self, users: &'a [Uid], live: &'a Live) -> Pending<'a, Vec<Option<Vec<Connection>>>> {
        Box::pin(self.shared.routes_of(users, live))
    }

    fn route_counts<'a>(&'a self, gateways: &'a [Incarnation]) -> Pending<'a, Vec<Option<u64>>> {
        Box::pin(self.shared.route_counts(gateways))
    }

    fn sweep<'a>(&'a self, live: &'a Live) -> Pending<'a, Sweep> {
        Box::pin(self.shared.sweep(live))
    }

    fn heads<'a>(&'a self, streams: &'a [StreamKey]) -> Pending<'a, Vec<Option<(Epoch, Seq)>>> {
        Box::pin(self.shared.heads(streams))
    }

    fn dedup<'a>(&'a self, keys: &'a [[u8; 16]]) -> Pending<'a, Vec<Option<DedupHit>>> {
        Box::pin(self.shared.dedup(keys))
    }

    fn hot<'a>(&'a self, places: &'a [RunQuery]) -> Pending<'a, Vec<Option<Vec<Entry>>>> {
        Box::pin(self.shared.hot(places))
    }

    fn queued<'a>(&'a self, places: &'a [RunQuery]) -> Pending<'a, Vec<Queued>> {
        Box::pin(self.shared.queued(places))
    }

    fn cursors<'a>(&'a self, keys: &'a [CursorKey]) -> Pending<'a, Vec<Option<(Epoch, Seq)>>> {
        Box::pin(self.shared.cursors(keys))
    }

    fn ring(&self) -> Pending<'_, Option<Ring>> {
        Box::pin(self.shared.ring())
    }

    fn publish_ring(&self, ring: Ring) -> Pending<'_, Published> {
        Box::pin(self.shared.publish_ring(ring))
    }

    fn subscribe(&self, channels: &[Channel]) -> Box<dyn Subscription> {
        Box::new(notices::subscribe(&self.shared, channels))
    }

    fn generation(&self) -> u64 {
        self.shared.generation()
    }

    fn health(&self) -> Health {
        let shared = &self.shared;
        let backlog = shared.backlog();
        let breaker = shared.breaker();
        Health {
            breaker: breaker.state(),
            breaker_opened: breaker.opened(),
            reads_failed: shared.counters.reads_failed.load(Ordering::Relaxed),
            writes_dropped: backlog.dropped,
            writes_refused: shared.counters.writes_refused.load(Ordering::Relaxed),
            writes_done: shared.counters.writes_done.load(Ordering::Relaxed),
            queued: backlog.len(),
            owed: backlog.owed(),
        }
    }

    fn settled(&self) -> Pending<'_, ()> {
        Box::pin(self.shared.settled())
    }
}
