//! The store of the world: the memory adapter with explicit durability, the whole history beside it for the oracles, and
//! reads that fail when the run says so.

use std::sync::{Arc, Mutex, MutexGuard};

use tidegate_control_core::domain::{Epoch, Gid, Lsn, OwnerEpoch, Record, Seq, StreamKey, Timestamp, Uid};
use tidegate_control_core::ports::memory::{Fault, MemoryDisk, MemoryStore};
use tidegate_control_core::ports::{
    DedupHit, DeviceMark, Group, Head, Member, MessageStore, Page, PageLimit, Progress, ReplayPage, StoreError,
    StoreReader,
};

use crate::rng::Rng;

/// What survives control's crashes, and all that was ever durable on it.
#[derive(Clone, Debug)]
pub struct Disk {
    platters: MemoryDisk,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    /// Durable records in log order, trimmed ones too.
    history: Vec<(Lsn, Record)>,
    rng: Rng,
    /// Reads that fail, in cases of 1,000.
    reads_fail: u64,
    /// Everything up to here is to be trimmed by the next housekeeping.
    trim: Option<Lsn>,
    trimmed: Lsn,
}

#[derive(Debug)]
pub struct SimStore {
    inner: MemoryStore,
    disk: Disk,
}

impl Disk {
    pub fn new(base: Epoch, rng: Rng) -> Disk {
        let state = State { history: Vec::new(), rng, reads_fail: 0, trim: None, trimmed: Lsn(0) };
        Disk { platters: MemoryDisk::new(base), state: Arc::new(Mutex::new(state)) }
    }

    /// As a new owner. What a dying owner made durable is part of history from here on.
    pub fn open(&self) -> SimStore {
        let mut state = self.state();
        let last = state.history.last().map_or(Lsn(0), |(lsn, _)| *lsn);
        state.history.extend(self.platters.records().into_iter().filter(|(lsn, _)| *lsn > last));
        drop(state);
        SimStore { inner: self.platters.open(), disk: self.clone() }
    }

    pub fn base_epoch(&self) -> Epoch {
        self.platters.base_epoch()
    }

    pub fn plant(&self, fault: Fault) {
        self.platters.plant(fault);
    }

    /// From now on it works.
    pub fn heal(&self) {
        self.platters.heal();
        let mut state = self.state();
        (state.reads_fail, state.trim) = (0, None);
    }

    pub fn reads_fail(&self, per_mille: u64) {
        self.state().reads_fail = per_mille;
    }

    /// The next housekeeping leaves about so many records.
    pub fn trim(&self, keep: u64) {
        let mut state = self.state();
        state.trim = state.history.last().map(|(lsn, _)| Lsn(lsn.0.saturating_sub(keep)));
    }

    /// Everything durable after the first `known` records.
    pub fn news(&self, known: usize, mut each: impl FnMut(Lsn, &Record)) -> usize {
        let state = self.state();
        state.history[known..].iter().for_each(|(lsn, record)| each(*lsn, record));
        state.history.len()
    }

    pub fn trimmed(&self) -> Lsn {
        self.state().trimmed
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // One thread, and a panic ends the run.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn read(&self) -> Result<(), StoreError> {
        let mut state = self.state();
        let fails = state.reads_fail;
        match fails > 0 && state.rng.chance(fails) {
            true => Err(StoreError::Unavailable("a read failed".into())),
            false => Ok(()),
        }
    }
}

impl StoreReader for SimStore {
    fn head(&self, stream: &StreamKey) -> Result<Option<Head>, StoreError> {
        self.disk.read()?;
        self.inner.head(stream)
    }

    fn dedup(&self, key: &[u8; 16]) -> Result<Option<DedupHit>, StoreError> {
        self.disk.read()?;
        self.inner.dedup(key)
    }

    fn page(&self, stream: &StreamKey, after: Seq, limit: PageLimit) -> Result<Page, StoreError> {
        self.disk.read()?;
        self.inner.page(stream, after, limit)
    }

    fn seq_before(&self, stream: &StreamKey, ts: Timestamp) -> Result<Seq, StoreError> {
        self.disk.read()?;
        self.inner.seq_before(stream, ts)
    }

    fn group(&self, gid: &Gid) -> Result<Option<Group>, StoreError> {
        self.disk.read()?;
        self.inner.group(gid)
    }

    fn member(&self, gid: &Gid, uid: &Uid) -> Result<Option<Member>, StoreError> {
        self.disk.read()?;
        self.inner.member(gid, uid)
    }

    fn members(&self, gid: &Gid, after: Option<&Uid>, limit: usize) -> Result<Vec<Member>, StoreError> {
        self.disk.read()?;
        self.inner.members(gid, after, limit)
    }

    fn groups_of(&self, uid: &Uid, limit: usize) -> Result<Vec<Gid>, StoreError> {
        self.disk.read()?;
        self.inner.groups_of(uid, limit)
    }

    fn marks(&self, uid: &Uid, stream: &StreamKey) -> Result<Vec<DeviceMark>, StoreError> {
        self.disk.read()?;
        self.inner.marks(uid, stream)
    }

    fn read_cursor(&self, uid: &Uid, stream: &StreamKey) -> Result<Option<(Epoch, Seq)>, StoreError> {
        self.disk.read()?;
        self.inner.read_cursor(uid, stream)
    }

    fn last_lsn(&self) -> Lsn {
        self.inner.last_lsn()
    }

    fn replay(&self, from: Lsn, limit: PageLimit) -> Result<Option<ReplayPage>, StoreError> {
        self.disk.read()?;
        self.inner.replay(from, limit)
    }
}

impl MessageStore for SimStore {
    fn owner_epoch(&self) -> OwnerEpoch {
        self.inner.owner_epoch()
    }

    fn base_epoch(&self) -> Epoch {
        self.inner.base_epoch()
    }

    fn last_timestamp(&self) -> Timestamp {
        self.inner.last_timestamp()
    }

    fn commit_with(&mut self, records: &[Record], progress: Progress) -> Result<Lsn, StoreError> {
        let before = self.inner.last_lsn();
        let last = self.inner.commit_with(records, progress)?;
        let numbered = records.iter().enumerate().map(|(at, record)| (Lsn(before.0 + at as u64 + 1), record.clone()));
        self.disk.state().history.extend(numbered);
        Ok(last)
    }

    fn progress(&self) -> Progress {
        self.inner.progress()
    }

    fn maintain(&mut self, now: Timestamp) -> Result<(), StoreError> {
        self.inner.maintain(now)?;
        let trim = self.disk.state().trim.take();
        if let Some(upto) = trim {
            self.inner.trim(upto);
            let mut state = self.disk.state();
            state.trimmed = state.trimmed.max(upto);
        }
        Ok(())
    }
}
