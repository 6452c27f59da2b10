//! What a partition's messages are told to others by way of the bus, after their commit: the log is the outbox, and a relay
//! reads it from a place that it keeps.
//!
//! Invariants:
//! * Nothing is told that is not committed: a relay reads what the store says is in the log.
//! * The place moves only past what the bus has acknowledged. After a crash or a change of owner some of it is told again,
//!   under the same names; nothing is passed over, as long as the log reaches back.
//! * It takes no part in a commit: while the bus is away, messages wait in the log, and nobody waits for them.

pub(crate) mod away;
pub(crate) mod history;
pub(crate) mod places;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tidegate_control_core::domain::{Lsn, Record};
use tidegate_control_core::partition::Origin;
use tidegate_control_core::ports::{PageLimit, StoreReader};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use away::AwayParts;
use history::History;
use places::Places;

const PAGE: PageLimit = PageLimit { messages: 500, bytes: 1 << 20 };
/// Between two looks at a log that had nothing, or little, that is new: a look is a question to the store.
const PAUSE: Duration = Duration::from_millis(200);
const LITTLE: usize = PAGE.messages / 4;
const RETRY: Duration = Duration::from_secs(1);
/// At most so often the place is written: so much is told again after a crash.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// What becomes of a partition's records.
pub(crate) trait Teller: Send + Sync {
    /// Of its place; never changed.
    fn name(&self) -> &'static str;

    /// Tells of them, in the order of the log, and returns when that is safe. It may be told of some again.
    fn tell<'a>(&'a self, origin: Origin, page: &'a [(Lsn, Record)]) -> BoxFuture<'a, ()>;
}

/// Which tellers a partition has.
pub(crate) struct Tellers {
    pub history: Option<Arc<History>>,
    pub away: Option<AwayParts>,
}

impl Tellers {
    /// `reader`: of the partition.
    pub fn of(&self, reader: &Arc<dyn StoreReader>) -> Vec<Arc<dyn Teller>> {
        let history = self.history.clone().map(|history| history as Arc<dyn Teller>);
        let away = self.away.as_ref().map(|parts| Arc::new(parts.of(Arc::clone(reader))) as Arc<dyn Teller>);
        history.into_iter().chain(away).collect()
    }
}

/// One teller's way through one partition's log.
pub(crate) struct Relay {
    pub origin: Origin,
    pub reader: Arc<dyn StoreReader>,
    pub places: Arc<dyn Places>,
    pub teller: Arc<dyn Teller>,
}

impl Relay {
    /// Until the task is aborted.
    pub fn spawn(self) -> JoinHandle<()> {
        // What is committed from here on is told in any case.
        let newest = self.reader.last_lsn();
        tokio::spawn(self.run(newest))
    }

    async fn run(self, newest: Lsn) {
        let (partition, name) = (self.origin.partition, self.teller.name());
        let mut at = self.begin(newest).await;
        let (mut saved, mut saved_at) = (at, Instant::now());
        loop {
            if at > saved && saved_at.elapsed() >= SAVE_EVERY {
                if self.save(at).await {
                    saved = at;
                }
                saved_at = Instant::now();
            }
            if self.reader.last_lsn() <= at {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            let (reader, after) = (Arc::clone(&self.reader), at);
            match tokio::task::spawn_blocking(move || reader.replay(after, PAGE)).await {
                Ok(Ok(Some(page))) => {
                    self.teller.tell(self.origin, &page.records).await;
                    at = page.upto;
                    if page.records.len() < LITTLE {
                        tokio::time::sleep(PAUSE).await;
                    }
                }
                Ok(Ok(None)) => {
                    let newest = self.reader.last_lsn();
                    tracing::error!(
                        partition = partition.0,
                        name,
                        from = at.0,
                        to = newest.0,
                        "the log was trimmed first"
                    );
                    at = newest;
                }
                Ok(Err(error)) => {
                    tracing::warn!(%error, partition = partition.0, name, "the log cannot be read");
                    tokio::time::sleep(RETRY).await;
                }
                // The runtime ends.
                Err(_) => return,
            }
        }
    }

    /// Where its predecessor left off. One without a place begins with what comes from now on, and says so at once: who follows
    /// it must not begin later.
    async fn begin(&self, newest: Lsn) -> Lsn {
        loop {
            let (places, partition, name) = (Arc::clone(&self.places), self.origin.partition, self.teller.name());
            match tokio::task::spawn_blocking(move || places.load(partition, name)).await {
                Ok(Ok(Some(place))) => return place,
                Ok(Ok(None)) if self.save(newest).await => return newest,
                Ok(Ok(None)) => {}
                Ok(Err(error)) => tracing::warn!(%error, partition = partition.0, name, "a place cannot be read"),
                Err(_) => return newest,
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn save(&self, at: Lsn) -> bool {
        let (places, partition, name) = (Arc::clone(&self.places), self.origin.partition, self.teller.name());
        let saved = tokio::task::spawn_blocking(move || places.save(partition, name, at)).await;
        if let Ok(Err(error)) = &saved {
            tracing::warn!(%error, partition = partition.0, name, "a place cannot be kept");
        }
        matches!(saved, Ok(Ok(())))
    }
}
