//! A store in memory, for tests and for the simulator: the whole contract, without a disk.
//!
//! [`MemoryDisk`] is what survives a crash: drop the [`MemoryStore`] and open another one on the same disk. Faults can be
//! planted there, so that a test sees what a partition does when a commit fails before or after it became durable.

mod index;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use self::index::Index;
use super::store::{
    DedupHit, DeviceMark, Group, Head, Member, MessageStore, Page, PageLimit, Progress, ReplayPage, StoreError,
    StoreReader,
};
use crate::domain::{Epoch, Gid, Lsn, OwnerEpoch, Record, Seq, StreamKey, Timestamp, Uid};
use crate::planted::{self, Bug};

/// What the next commits do instead of succeeding, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Succeeds: lets a test fail a later commit.
    None,
    /// Nothing was written; worth trying again.
    Unavailable,
    /// The process dies before anything is durable.
    DiesBefore,
    /// The records are durable, but the process dies before it hears so.
    DiesAfter,
    /// The process dies in the middle: the first so many records are durable, the torn rest is cut at the next opening.
    DiesWithin { kept: usize },
}

/// The durable part; clones are the same disk.
#[derive(Clone, Debug)]
pub struct MemoryDisk(Arc<Mutex<Platter>>);

#[derive(Debug)]
struct Platter {
    base_epoch: Epoch,
    owner_epoch: OwnerEpoch,
    /// What the trimmed records said, without their messages.
    trimmed: Index,
    records: Vec<(Lsn, Record)>,
    progress: Progress,
    faults: VecDeque<Fault>,
}

#[derive(Debug)]
pub struct MemoryStore {
    disk: MemoryDisk,
    owner_epoch: OwnerEpoch,
    index: Index,
}

impl MemoryDisk {
    pub fn new(base_epoch: Epoch) -> MemoryDisk {
        MemoryDisk(Arc::new(Mutex::new(Platter {
            base_epoch,
            owner_epoch: OwnerEpoch(0),
            trimmed: Index::default(),
            records: Vec::new(),
            progress: Progress::default(),
            faults: VecDeque::new(),
        })))
    }

    /// Opens the disk as a new owner; an older one that still lives is fenced.
    pub fn open(&self) -> MemoryStore {
        let mut platter = self.platter();
        platter.owner_epoch.0 += 1;
        let mut index = platter.trimmed.clone();
        for (lsn, record) in &platter.records {
            index.apply(*lsn, record);
        }
        MemoryStore { disk: self.clone(), owner_epoch: platter.owner_epoch, index }
    }

    pub fn base_epoch(&self) -> Epoch {
        self.platter().base_epoch
    }

    pub fn plant(&self, fault: Fault) {
        self.platter().faults.push_back(fault);
    }

    /// Forgets faults that were not met yet.
    pub fn heal(&self) {
        self.platter().faults.clear();
    }

    /// All that is durable and was not trimmed.
    pub fn records(&self) -> Vec<(Lsn, Record)> {
        self.platter().records.clone()
    }

    fn platter(&self) -> MutexGuard<'_, Platter> {
        // A panic while the lock was held cannot leave the platter half changed in a way a test could trust.
        self.0.lock().expect("no test thread panicked with the disk")
    }
}

impl MemoryStore {
    pub fn disk(&self) -> &MemoryDisk {
        &self.disk
    }

    /// Drops the records up to `upto`, as retention does with segments.
    pub fn trim(&mut self, upto: Lsn) {
        let mut platter = self.disk.platter();
        let keep_from = platter.records.partition_point(|(lsn, _)| *lsn <= upto);
        let gone: Vec<_> = platter.records.drain(..keep_from).collect();
        for (lsn, record) in gone {
            platter.trimmed.apply(lsn, &record);
        }
        platter.trimmed.trim(upto);
        self.index.trim(upto);
    }
}

impl StoreReader for MemoryStore {
    fn head(&self, stream: &StreamKey) -> Result<Option<Head>, StoreError> {
        Ok(self.index.head(stream))
    }

    fn dedup(&self, key: &[u8; 16]) -> Result<Option<DedupHit>, StoreError> {
        Ok(self.index.dedup.get(key).copied())
    }

    fn page(&self, stream: &StreamKey, after: Seq, limit: PageLimit) -> Result<Page, StoreError> {
        Ok(self.index.page(stream, after, limit))
    }

    fn seq_before(&self, stream: &StreamKey, ts: Timestamp) -> Result<Seq, StoreError> {
        Ok(self.index.seq_before(stream, ts))
    }

    fn group(&self, gid: &Gid) -> Result<Option<Group>, StoreError> {
        Ok(self.index.groups.get(gid).cloned())
    }

    fn member(&self, gid: &Gid, uid: &Uid) -> Result<Option<Member>, StoreError> {
        Ok(self.index.members.get(&(gid.clone(), uid.clone())).cloned())
    }

    fn members(&self, gid: &Gid, after: Option<&Uid>, limit: usize) -> Result<Vec<Member>, StoreError> {
        Ok(self.index.present_members(gid, after, limit))
    }

    fn groups_of(&self, uid: &Uid, limit: usize) -> Result<Vec<Gid>, StoreError> {
        Ok(self.index.groups_of(uid, limit))
    }

    fn marks(&self, uid: &Uid, stream: &StreamKey) -> Result<Vec<DeviceMark>, StoreError> {
        Ok(self.index.marks.get(&(uid.clone(), stream.clone())).cloned().unwrap_or_default())
    }

    fn read_cursor(&self, uid: &Uid, stream: &StreamKey) -> Result<Option<(Epoch, Seq)>, StoreError> {
        Ok(self.index.reads.get(&(uid.clone(), stream.clone())).map(|m| (m.epoch, m.seq)))
    }

    fn last_lsn(&self) -> Lsn {
        self.index.last_lsn
    }

    fn replay(&self, from: Lsn, limit: PageLimit) -> Result<Option<ReplayPage>, StoreError> {
        let platter = self.disk.platter();
        if from < platter.trimmed.last_lsn {
            return Ok(None);
        }
        let begin = platter.records.partition_point(|(lsn, _)| *lsn <= from);
        let mut page = ReplayPage { records: Vec::new(), upto: from };
        let mut bytes = 0;
        for (lsn, record) in &platter.records[begin..] {
            bytes += match record {
                Record::Append(append) => append.body.content.len() + append.body.metadata.len(),
                _ => 0,
            };
            let full = page.records.len() >= limit.messages || bytes > limit.bytes;
            if full && !page.records.is_empty() {
                break;
            }
            page.upto = *lsn;
            page.records.push((*lsn, record.clone()));
        }
        Ok(Some(page))
    }
}

impl MessageStore for MemoryStore {
    fn owner_epoch(&self) -> OwnerEpoch {
        self.owner_epoch
    }

    fn base_epoch(&self) -> Epoch {
        self.disk.base_epoch()
    }

    fn last_timestamp(&self) -> Timestamp {
        self.index.last_timestamp
    }

    fn progress(&self) -> Progress {
        self.disk.platter().progress
    }

    fn commit_with(&mut self, records: &[Record], progress: Progress) -> Result<Lsn, StoreError> {
        let mut platter = self.disk.platter();
        if platter.owner_epoch != self.owner_epoch && !planted::is(Bug::ZombieOwnerWrites) {
            return Err(StoreError::Fenced);
        }
        if records.is_empty() && progress.is_empty() {
            return Ok(self.index.last_lsn);
        }
        let fault = platter.faults.pop_front().unwrap_or(Fault::None);
        let kept = match fault {
            Fault::None | Fault::DiesAfter => records.len(),
            Fault::Unavailable => return Err(StoreError::Unavailable("planted".into())),
            Fault::DiesBefore => 0,
            Fault::DiesWithin { kept } => kept.min(records.len()),
        };
        let mut lsn = self.index.last_lsn;
        for record in &records[..kept] {
            lsn = lsn.next();
            platter.records.push((lsn, record.clone()));
        }
        if kept == records.len() && fault != Fault::DiesBefore {
            platter.progress.advance(progress);
        }
        if fault != Fault::None {
            return Err(StoreError::Fatal("planted at the write".into()));
        }
        let mut lsn = self.index.last_lsn;
        for record in records {
            lsn = lsn.next();
            self.index.apply(lsn, record);
        }
        Ok(lsn)
    }

    fn maintain(&mut self, _now: Timestamp) -> Result<(), StoreError> {
        match self.disk.platter().owner_epoch == self.owner_epoch {
            true => Ok(()),
            false => Err(StoreError::Fenced),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::store::StoreFactory;

    struct Factory;

    impl StoreFactory for Factory {
        type Store = MemoryStore;

        fn open(&mut self) -> MemoryStore {
            MemoryDisk::new(Epoch(0x5eed)).open()
        }

        fn reopen(&mut self, store: MemoryStore) -> MemoryStore {
            let disk = store.disk().clone();
            drop(store);
            disk.open()
        }

        fn trim(&mut self, store: &mut MemoryStore, upto: Lsn) -> bool {
            store.trim(upto);
            true
        }
    }

    crate::store_contract!(Factory);

    #[test]
    fn an_older_owner_is_fenced() {
        let disk = MemoryDisk::new(Epoch(1));
        let mut older = disk.open();
        let newer = disk.open();
        assert!(newer.owner_epoch() > older.owner_epoch());
        assert!(matches!(older.commit(&[]), Err(StoreError::Fenced)));
    }

    #[test]
    fn faults_say_what_became_durable() {
        let disk = MemoryDisk::new(Epoch(1));
        let mut store = disk.open();
        let record = crate::contract::store::group_begins("g", Epoch(7), true, 1);
        disk.plant(Fault::Unavailable);
        disk.plant(Fault::DiesBefore);
        disk.plant(Fault::DiesAfter);
        assert!(matches!(store.commit(std::slice::from_ref(&record)), Err(StoreError::Unavailable(_))));
        assert!(matches!(store.commit(std::slice::from_ref(&record)), Err(StoreError::Fatal(_))));
        assert_eq!(disk.open().last_lsn(), Lsn(0));
        let mut store = disk.open();
        assert!(matches!(store.commit(&[record]), Err(StoreError::Fatal(_))));
        assert_eq!(disk.open().last_lsn(), Lsn(1));
    }
}
