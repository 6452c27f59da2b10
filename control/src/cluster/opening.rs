//! Opens a partition of this node: its store, its thread, what feeds it, and what carries its errands.

use std::sync::Arc;

use tidegate_control_core::domain::{Lsn, PartitionId};
use tidegate_control_core::partition::{Partition, PartitionConfig};
use tidegate_control_core::ports::{MessageStore as _, StoreError, StoreReader};
use tokio::task::JoinHandle;

use super::background::Background;
use super::carrier::{self, Carrier};
use super::outbox::places::Places;
use super::outbox::{Relay, Tellers};
use super::seats::{Hosted, Seat};
use super::spread::Spread;
use super::store::Watched;
use super::upstream::Upstream;
use crate::adapters::postgres::{OpenError, Postgres, PostgresStore};
use crate::cache::committed::{self, Memory};
use crate::compose::seed;
use crate::guard::Guard;
use crate::metrics::Metrics;
use crate::records::{Feed, follow};
use crate::runtime::{self, Hooks, OnFatal, Running};

pub(crate) struct Opener {
    pub postgres: Postgres,
    pub config: PartitionConfig,
    pub spread: Arc<Spread>,
    pub upstream: Arc<Upstream>,
    pub metrics: Arc<Metrics>,
    pub feed: Option<Feed>,
    pub tellers: Tellers,
    /// Where what is committed is told for those who ask elsewhere.
    pub memory: Option<Memory>,
    pub store_guard: Arc<Guard>,
    /// Where partitions are opened, and with them all that works for them.
    pub background: Background,
}

/// A partition that runs here.
pub(crate) struct OpenPartition {
    pub hosted: Hosted,
    running: Running,
    feed: JoinHandle<()>,
    carrier: JoinHandle<()>,
    indexed: Option<JoinHandle<()>>,
    relays: Vec<JoinHandle<()>>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum OpeningError {
    #[error("the store: {0}")]
    Open(#[from] OpenError),
    #[error("the store: {0}")]
    Store(#[from] StoreError),
    #[error("no thread or no randomness: {0}")]
    System(#[from] std::io::Error),
    #[error("the node is stopping")]
    Stopping,
}

impl Opener {
    /// `on_end` is told when the partition's thread ends by itself.
    pub async fn open(self: Arc<Self>, partition: PartitionId, on_end: OnFatal) -> Result<OpenPartition, OpeningError> {
        let opener = Arc::clone(&self);
        let taken = tokio::task::spawn_blocking(move || opener.postgres.open(partition)).await;
        let store = taken.map_err(|_| OpeningError::Stopping)??;
        let progress = store.progress();
        let reader: Arc<dyn StoreReader> = Arc::new(store.reader());
        let config = PartitionConfig { worker: partition.0 as u16, ..self.config.clone() };
        let partitions = config.partitions;
        let sequencer = Partition::new(partition, self.watched(store), config, seed()?)?;
        let origin = sequencer.origin();
        let (errands, owed) = carrier::queue();
        let overflowed = Arc::clone(&errands.overflowed);
        let metrics = Arc::clone(&self.metrics);
        let started =
            runtime::spawn(sequencer, Hooks { partition, metrics, on_fatal: on_end, errands: Some(errands) })?;
        let hosted = Hosted { sequencer: started.sequencer, origin };
        self.spread.seats.set(partition, Seat::Ours(hosted.clone()));
        let routed = progress.routed.unwrap_or(Lsn(0));
        let indexed = self.feed.clone().map(|index| follow(Arc::clone(&reader), index, routed));
        let relays = self.relays(&hosted, &reader);
        let feed = self.upstream.feed(hosted.clone(), progress.consumed);
        let carrier = Carrier {
            spread: Arc::clone(&self.spread),
            hosted: hosted.clone(),
            reader,
            routed,
            errands: owed,
            overflowed,
            partitions,
        };
        Ok(OpenPartition { hosted, running: started.running, feed, carrier: carrier.spawn(), indexed, relays })
    }

    fn relays(&self, hosted: &Hosted, reader: &Arc<dyn StoreReader>) -> Vec<JoinHandle<()>> {
        let places: Arc<dyn Places> = Arc::new(self.postgres.clone());
        let relay =
            |teller| Relay { origin: hosted.origin, reader: Arc::clone(reader), places: Arc::clone(&places), teller };
        self.tellers.of(reader).into_iter().map(|teller| relay(teller).spawn()).collect()
    }
}

impl Opener {
    fn watched(&self, store: PostgresStore) -> Watched<PostgresStore> {
        let (metrics, owner) = (&self.metrics, store.owner_epoch());
        let members = metrics.tally("own_members");
        let store = Watched::new(store, metrics.store_seconds(), members, Arc::clone(&self.store_guard));
        match &self.memory {
            // Its task ends with the store.
            Some(memory) => store.telling(committed::follow(owner, memory.clone()).0),
            None => store,
        }
    }
}

impl OpenPartition {
    /// `gracefully`: what was taken in is finished first. Otherwise the thread ends where it stands.
    pub async fn close(self, gracefully: bool) {
        self.feed.abort();
        self.indexed.iter().chain(&self.relays).for_each(JoinHandle::abort);
        let running = self.running;
        if gracefully {
            if tokio::task::spawn_blocking(move || running.stop()).await.is_err() {
                tracing::error!("a partition's end could not be awaited");
            }
        } else {
            running.abandon();
        }
        // What it has not carried is in the log.
        self.carrier.abort();
    }
}
