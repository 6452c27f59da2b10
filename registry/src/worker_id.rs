//! Worker ids for Snowflake message ids: a small number that only one node has at a time.
//!
//! A claim alone would not do. A node's clock may run ahead of that of the next holder, and its generator may have borrowed
//! from the future: so the next holder could give the same milliseconds again. And a registry that was flushed has forgotten a
//! claim whose holder still runs. So:
//!
//! INV-1: beside each claim stands a permanent stamp: the last millisecond that its holder may use. It is written before it is
//! used, and pushed on while the lease lives.
//! INV-2: an id is leased again only after its stamp has passed, and its new holder begins after it.
//! INV-3: a registry that may have forgotten stamps leases nothing before a term has passed since it began to remember: by then
//! every holder from before has noticed. For this all nodes of a cluster use the same term.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::backoff::random;
use crate::error::{RegistryError, chain};
use crate::names::{Names, name_of};
use crate::registry::Registry;
use crate::session::{Claimed, Session};

/// Ten bits of a Snowflake id.
pub const WORKER_IDS_MAX: u16 = 1024;
/// How far ahead of now a stamp is written, and how often, in terms and their parts: a stamp outlasts the lease that it is for.
const STAMP_TERMS: u32 = 2;
const STAMPS_PER_TERM: u32 = 2;

/// Who leases them out.
#[derive(Clone, Debug)]
pub struct WorkerIds {
    registry: Registry,
    names: Names,
    count: u16,
}

#[derive(Debug, Serialize, Deserialize)]
struct Stamp {
    until_ms: u64,
    /// Which lease wrote it.
    holder: String,
}

/// A worker id, this node's alone. Dropped, it is free again once its stamp has passed; [`WorkerId::release`] is faster.
#[derive(Debug)]
pub struct WorkerId {
    id: u16,
    not_before_ms: u64,
    session: Session,
    stamped: Arc<Stamped>,
    keeper: Keeper,
}

#[derive(Debug)]
struct Keeper(JoinHandle<()>);

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[derive(Debug)]
struct Stamped {
    registry: Registry,
    key: String,
    holder: String,
    ahead: Duration,
    /// Zero: it is another's by now.
    until_ms: AtomicU64,
    taken: Notify,
}

impl WorkerIds {
    pub fn new(registry: &Registry, names: &Names) -> WorkerIds {
        WorkerIds { registry: registry.clone(), names: names.clone(), count: WORKER_IDS_MAX }
    }

    /// Only ids below `count`, which is at most [`WORKER_IDS_MAX`].
    pub fn with_count(self, count: u16) -> WorkerIds {
        WorkerIds { count: count.min(WORKER_IDS_MAX), ..self }
    }

    /// `node` is for people who look. [`RegistryError::NoWorkerId`]: all are leased or cool down.
    pub async fn lease(&self, node: &str, ttl: Duration) -> Result<WorkerId, RegistryError> {
        self.settle(ttl).await?;
        let candidates = self.candidates().await?;
        if candidates.is_empty() {
            return Err(RegistryError::NoWorkerId);
        }
        let session = self.registry.session(ttl).await?;
        let holder = session.lease().unique();
        for id in candidates {
            let key = self.names.worker(id);
            if session.claim(&key, node).await? != Claimed::Ours {
                continue;
            }
            let stamped = Stamped {
                registry: self.registry.clone(),
                key: self.names.worker_until(id),
                holder: holder.clone(),
                ahead: ttl * STAMP_TERMS,
                until_ms: AtomicU64::new(0),
                taken: Notify::new(),
            };
            let Some(not_before_ms) = stamped.first().await? else {
                session.release(&key).await?;
                continue;
            };
            let stamped = Arc::new(stamped);
            let keeper = Keeper(tokio::spawn(push_on(Arc::clone(&stamped), ttl / STAMPS_PER_TERM)));
            return Ok(WorkerId { id, not_before_ms, session, stamped, keeper });
        }
        Err(RegistryError::NoWorkerId)
    }

    /// INV-3.
    async fn settle(&self, term: Duration) -> Result<(), RegistryError> {
        if !self.registry.backend().forgets() {
            return Ok(());
        }
        let key = self.names.worker_since();
        let since = match self.registry.get(&key).await? {
            Some(entry) => entry.parse::<u64>()?,
            None => {
                let now = now_ms();
                self.registry.create(&key, &now.to_string()).await?;
                now
            }
        };
        let settled = since.saturating_add(millis(term));
        let wait = Duration::from_millis(settled.saturating_sub(now_ms()));
        // Not longer than a term, even if the clock that wrote it was ahead.
        tokio::time::sleep(wait.min(term)).await;
        Ok(())
    }

    /// Free ids, beginning somewhere, so that nodes that begin together do not all want the same one.
    async fn candidates(&self) -> Result<Vec<u16>, RegistryError> {
        let claimed = self.registry.list(&self.names.worker_prefix()).await?;
        let stamps = self.registry.list(&self.names.worker_until_prefix()).await?;
        let mut busy = BTreeMap::new();
        for entry in stamps {
            busy.insert(name_of(&entry.key).to_owned(), entry.parse::<Stamp>()?.until_ms);
        }
        for entry in claimed {
            busy.insert(name_of(&entry.key).to_owned(), u64::MAX);
        }
        let now = now_ms();
        let is_free = |id: &u16| busy.get(&id.to_string()).is_none_or(|until| *until < now);
        let mut free: Vec<u16> = (0..self.count).filter(is_free).collect();
        let middle = usize::try_from(random() % (free.len() as u64).max(1)).unwrap_or(0);
        free.rotate_left(middle);
        Ok(free)
    }
}

impl WorkerId {
    pub fn id(&self) -> u16 {
        self.id
    }

    /// Message ids of this holder have later milliseconds than this (since 1970): those up to it may be taken.
    pub fn not_before_ms(&self) -> u64 {
        self.not_before_ms
    }

    /// Whether an id may be made for this millisecond. It may not if the lease may be over, or if the clock runs ahead of what
    /// was stamped: then wait, the stamp is pushed on.
    pub fn covers(&self, timestamp_ms: u64) -> bool {
        let until_ms = self.stamped.until_ms.load(Ordering::Acquire);
        timestamp_ms > self.not_before_ms && timestamp_ms <= until_ms && self.session.is_alive()
    }

    /// False: make no more ids, and lease another.
    pub fn is_alive(&self) -> bool {
        self.stamped.until_ms.load(Ordering::Acquire) > 0 && self.session.is_alive()
    }

    /// Resolves when [`WorkerId::is_alive`] turns false.
    pub async fn lost(&self) {
        let taken = self.stamped.taken.notified();
        if !self.is_alive() {
            return;
        }
        tokio::select! {
            () = self.session.lost() => {}
            () = taken => {}
        }
    }

    /// Gives it back. It is free for others as soon as `last_used_ms` has passed, which for most is now.
    pub async fn release(self, last_used_ms: u64) -> Result<(), RegistryError> {
        self.keeper.0.abort();
        let stamped = self.stamped.write(last_used_ms.max(self.not_before_ms)).await;
        self.session.end().await?;
        stamped.map(drop)
    }

    /// As [`Session::abandon`].
    pub fn abandon(&mut self) {
        self.keeper.0.abort();
        self.session.abandon();
    }
}

impl Stamped {
    /// Takes the id over from whoever had it, and returns until when that one may have used it; `None`: it must cool down.
    async fn first(&self) -> Result<Option<u64>, RegistryError> {
        let now = now_ms();
        let until_ms = now + millis(self.ahead);
        let (written, before) = match self.registry.get(&self.key).await? {
            None => (self.registry.create(&self.key, &self.text(until_ms)).await?, 0),
            Some(entry) => {
                let before = entry.parse::<Stamp>()?.until_ms;
                if before >= now {
                    return Ok(None);
                }
                (self.registry.replace(&self.key, entry.version, &self.text(until_ms)).await?, before)
            }
        };
        self.until_ms.store(until_ms, Ordering::Release);
        Ok(written.then_some(before))
    }

    /// False: the stamp is another's, or gone.
    async fn write(&self, until_ms: u64) -> Result<bool, RegistryError> {
        let Some(entry) = self.registry.get(&self.key).await? else { return Ok(false) };
        if entry.parse::<Stamp>()?.holder != self.holder {
            return Ok(false);
        }
        self.registry.replace(&self.key, entry.version, &self.text(until_ms)).await
    }

    fn text(&self, until_ms: u64) -> String {
        serde_json::json!(Stamp { until_ms, holder: self.holder.clone() }).to_string()
    }
}

async fn push_on(stamped: Arc<Stamped>, period: Duration) {
    loop {
        tokio::time::sleep(period).await;
        let until_ms = now_ms() + millis(stamped.ahead);
        match stamped.write(until_ms).await {
            Ok(true) => stamped.until_ms.store(until_ms, Ordering::Release),
            Ok(false) => {
                tracing::error!(key = stamped.key, "a worker id was taken over");
                stamped.until_ms.store(0, Ordering::Release);
                stamped.taken.notify_waiters();
                return;
            }
            // The next one is in time: a stamp reaches further than the lease.
            Err(error) => tracing::warn!(key = stamped.key, error = chain(&error), "a worker id's stamp is late"),
        }
    }
}

fn now_ms() -> u64 {
    UNIX_EPOCH.elapsed().map_or(0, millis)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
