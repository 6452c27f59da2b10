//! Look-ups of the API, in partitions that other nodes may own: behind a breaker, timed, and with what was asked lately kept until
//! it is told to have changed.

use std::sync::Arc;
use std::time::Instant;

use tidegate_control_core::breaker::Outcome;
use tidegate_control_core::domain::{Epoch, Gid, Lsn, Seq, StreamKey, Timestamp, Uid};
use tidegate_control_core::ports::{
    DedupHit, DeviceMark, Group, Head, Member, Page, PageLimit, ReplayPage, StoreError, StoreReader,
};

use super::older::Trail;
use crate::adapters::postgres::SpreadReader;
use crate::cache::Caches;
use crate::guard::Guard;
use crate::metrics::StoreSeconds;

pub(crate) struct Lookups<R> {
    pub store: R,
    pub seconds: StoreSeconds,
    pub guard: Arc<Guard>,
    /// `None`: nobody tells what changes, so nothing is kept.
    pub caches: Option<Arc<Caches>>,
}

impl<R> Lookups<R> {
    /// Not at all while the store is away: nobody waits for it just to hear that.
    fn ask<T>(&self, op: &'static str, ask: impl FnOnce(&R) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let permit = self.guard.allow().ok_or_else(|| StoreError::Unavailable("it failed a moment ago".into()))?;
        let began = Instant::now();
        let answer = ask(&self.store);
        self.seconds.observe(op, began.elapsed());
        let away = matches!(answer, Err(StoreError::Unavailable(_)));
        self.guard.record(permit, if away { Outcome::Failure } else { Outcome::Success });
        answer
    }
}

impl Trail for Lookups<SpreadReader> {
    fn trail(&self, stream: &StreamKey, epoch: Epoch, at: Seq) -> Result<Option<(Seq, Timestamp)>, StoreError> {
        self.ask("trail", |store| store.trail(stream, epoch, at))
    }
}

impl<R: StoreReader> StoreReader for Lookups<R> {
    fn head(&self, stream: &StreamKey) -> Result<Option<Head>, StoreError> {
        self.ask("head", |store| store.head(stream))
    }

    fn dedup(&self, key: &[u8; 16]) -> Result<Option<DedupHit>, StoreError> {
        self.ask("dedup", |store| store.dedup(key))
    }

    fn page(&self, stream: &StreamKey, after: Seq, limit: PageLimit) -> Result<Page, StoreError> {
        self.ask("page", |store| store.page(stream, after, limit))
    }

    fn seq_before(&self, stream: &StreamKey, ts: Timestamp) -> Result<Seq, StoreError> {
        self.ask("page", |store| store.seq_before(stream, ts))
    }

    fn group(&self, gid: &Gid) -> Result<Option<Group>, StoreError> {
        let ask = || self.ask("group", |store| store.group(gid));
        let Some(caches) = &self.caches else { return ask() };
        let ticket = match caches.groups.find(gid) {
            Ok(group) => return Ok(Some(Group::clone(&group))),
            Err(ticket) => ticket,
        };
        let found = ask()?;
        if let Some(group) = &found {
            caches.groups.keep(ticket, gid.clone(), Arc::new(group.clone()));
        }
        Ok(found)
    }

    fn member(&self, gid: &Gid, uid: &Uid) -> Result<Option<Member>, StoreError> {
        let ask = || self.ask("member", |store| store.member(gid, uid));
        let Some(caches) = &self.caches else { return ask() };
        let key = (gid.clone(), uid.clone());
        let ticket = match caches.members.find(&key) {
            Ok(member) => return Ok(Some(Member::clone(&member))),
            Err(ticket) => ticket,
        };
        let found = ask()?;
        if let Some(member) = found.as_ref().filter(|member| member.left.is_none()) {
            caches.members.keep(ticket, key, Arc::new(member.clone()));
        }
        Ok(found)
    }

    fn members(&self, gid: &Gid, after: Option<&Uid>, limit: usize) -> Result<Vec<Member>, StoreError> {
        self.ask("member", |store| store.members(gid, after, limit))
    }

    /// Never kept: whoever just joined a group must find it, on every node.
    fn groups_of(&self, uid: &Uid, limit: usize) -> Result<Vec<Gid>, StoreError> {
        self.ask("groups_of", |store| store.groups_of(uid, limit))
    }

    fn marks(&self, uid: &Uid, stream: &StreamKey) -> Result<Vec<DeviceMark>, StoreError> {
        self.ask("mark", |store| store.marks(uid, stream))
    }

    fn read_cursor(&self, uid: &Uid, stream: &StreamKey) -> Result<Option<(Epoch, Seq)>, StoreError> {
        self.ask("mark", |store| store.read_cursor(uid, stream))
    }

    fn is_remote(&self) -> bool {
        self.store.is_remote()
    }

    fn last_lsn(&self) -> Lsn {
        self.store.last_lsn()
    }

    fn replay(&self, from: Lsn, limit: PageLimit) -> Result<Option<ReplayPage>, StoreError> {
        self.ask("replay", |store| store.replay(from, limit))
    }
}
