//! A partition's store as a node of a cluster uses it: each request is timed, memberships that were asked for are kept, and what
//! is committed is told to the cache.
//!
//! A membership is kept only here, in the hands of the one who may change it: a commit of ours is the only thing that makes it
//! old, and whoever owns the partition next begins with nothing.

use std::time::Instant;

use tidegate_control_core::breaker::Outcome;
use tidegate_control_core::domain::{Epoch, Gid, Lsn, OwnerEpoch, Record, Seq, StreamKey, Timestamp, Uid};
use tidegate_control_core::ports::{
    DedupHit, DeviceMark, Group, Head, Member, MessageStore, Page, PageLimit, Progress, ReplayPage, StoreError,
    StoreReader,
};

use std::sync::Arc;

use crate::cache::bounded::{Bounded, Tally};
use crate::cache::committed::Committed;
use crate::guard::Guard;
use crate::metrics::StoreSeconds;

/// Memberships that are kept for one partition.
const MEMBERS_MAX: usize = 65_536;

pub(crate) struct Watched<S> {
    store: S,
    seconds: StoreSeconds,
    members: Bounded<(Gid, Uid), Option<Member>>,
    /// Hears how commits fare.
    guard: Arc<Guard>,
    committed: Option<Committed>,
}

impl<S> Watched<S> {
    pub fn new(store: S, seconds: StoreSeconds, members: Tally, guard: Arc<Guard>) -> Watched<S> {
        Watched { store, seconds, members: Bounded::new(MEMBERS_MAX, None, members), guard, committed: None }
    }

    /// What is committed from now on is told.
    pub fn telling(self, committed: Committed) -> Watched<S> {
        Watched { committed: Some(committed), ..self }
    }

    fn timed<T>(&self, op: &'static str, ask: impl FnOnce(&S) -> T) -> T {
        let began = Instant::now();
        let answer = ask(&self.store);
        self.seconds.observe(op, began.elapsed());
        answer
    }

    fn forget_members(&self, records: &[Record]) {
        for record in records {
            match record {
                Record::Append(append) => {
                    if let Some(change) = &append.membership {
                        self.members.invalidate(&(change.gid.clone(), change.uid.clone()));
                    }
                }
                Record::Group(_) => self.members.clear(),
                Record::Mark(_) | Record::Read(_) | Record::Joined(_) => {}
            }
        }
    }
}

impl<S: MessageStore> MessageStore for Watched<S> {
    fn owner_epoch(&self) -> OwnerEpoch {
        self.store.owner_epoch()
    }

    fn base_epoch(&self) -> Epoch {
        self.store.base_epoch()
    }

    fn last_timestamp(&self) -> Timestamp {
        self.store.last_timestamp()
    }

    fn commit_with(&mut self, records: &[Record], progress: Progress) -> Result<Lsn, StoreError> {
        let (began, permit) = (Instant::now(), self.guard.allow());
        let committed = self.store.commit_with(records, progress);
        self.seconds.observe("commit", began.elapsed());
        // The partition itself pauses and tries again, whatever the breaker says.
        match (&committed, permit) {
            (Ok(_), Some(permit)) => self.guard.record(permit, Outcome::Success),
            (Err(StoreError::Unavailable(_)), Some(permit)) => self.guard.record(permit, Outcome::Failure),
            _ => {}
        }
        if committed.is_ok() {
            self.forget_members(records);
            if let Some(told) = &self.committed {
                told.tell(records);
            }
        }
        committed
    }

    fn progress(&self) -> Progress {
        self.store.progress()
    }

    fn maintain(&mut self, now: Timestamp) -> Result<(), StoreError> {
        self.store.maintain(now)
    }
}

impl<S: StoreReader> StoreReader for Watched<S> {
    fn head(&self, stream: &StreamKey) -> Result<Option<Head>, StoreError> {
        self.timed("head", |store| store.head(stream))
    }

    fn dedup(&self, key: &[u8; 16]) -> Result<Option<DedupHit>, StoreError> {
        self.timed("dedup", |store| store.dedup(key))
    }

    fn dedup_many(&self, keys: &[[u8; 16]]) -> Result<Vec<Option<DedupHit>>, StoreError> {
        self.timed("dedup", |store| store.dedup_many(keys))
    }

    fn heads_of(&self, streams: &[StreamKey]) -> Result<Vec<Option<Head>>, StoreError> {
        self.timed("head", |store| store.heads_of(streams))
    }

    fn is_remote(&self) -> bool {
        self.store.is_remote()
    }

    fn page(&self, stream: &StreamKey, after: Seq, limit: PageLimit) -> Result<Page, StoreError> {
        self.timed("page", |store| store.page(stream, after, limit))
    }

    fn seq_before(&self, stream: &StreamKey, ts: Timestamp) -> Result<Seq, StoreError> {
        self.timed("page", |store| store.seq_before(stream, ts))
    }

    fn group(&self, gid: &Gid) -> Result<Option<Group>, StoreError> {
        self.timed("group", |store| store.group(gid))
    }

    fn member(&self, gid: &Gid, uid: &Uid) -> Result<Option<Member>, StoreError> {
        let key = (gid.clone(), uid.clone());
        self.members.find_or(&key, || self.timed("member", |store| store.member(gid, uid)))
    }

    fn members(&self, gid: &Gid, after: Option<&Uid>, limit: usize) -> Result<Vec<Member>, StoreError> {
        self.timed("member", |store| store.members(gid, after, limit))
    }

    fn groups_of(&self, uid: &Uid, limit: usize) -> Result<Vec<Gid>, StoreError> {
        self.timed("groups_of", |store| store.groups_of(uid, limit))
    }

    fn marks(&self, uid: &Uid, stream: &StreamKey) -> Result<Vec<DeviceMark>, StoreError> {
        self.timed("mark", |store| store.marks(uid, stream))
    }

    fn read_cursor(&self, uid: &Uid, stream: &StreamKey) -> Result<Option<(Epoch, Seq)>, StoreError> {
        self.timed("mark", |store| store.read_cursor(uid, stream))
    }

    fn last_lsn(&self) -> Lsn {
        self.store.last_lsn()
    }

    fn replay(&self, from: Lsn, limit: PageLimit) -> Result<Option<ReplayPage>, StoreError> {
        self.timed("replay", |store| store.replay(from, limit))
    }
}

#[cfg(test)]
mod tests;
