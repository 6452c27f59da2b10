//! Look-ups by nodes that need not own what they look up: each stream in its own partition.

use std::collections::HashMap;

use tidegate_control_core::domain::{Epoch, Gid, Lsn, PartitionId, Seq, StreamKey, Timestamp, Uid};
use tidegate_control_core::ports::{
    DedupHit, DeviceMark, Group, Head, Member, Page, PageLimit, ReplayPage, StoreError, StoreReader,
};

use super::{Postgres, PostgresReader};

#[derive(Debug)]
pub struct SpreadReader {
    readers: HashMap<PartitionId, PostgresReader>,
    partitions: u32,
}

impl SpreadReader {
    pub fn new(postgres: &Postgres) -> SpreadReader {
        let partitions = postgres.partitions().max(1);
        let readers = (0..partitions).map(PartitionId).map(|partition| (partition, postgres.reader(partition)));
        SpreadReader { readers: readers.collect(), partitions }
    }

    fn of(&self, stream: &StreamKey) -> Result<&PostgresReader, StoreError> {
        let partition = PartitionId::of(stream, self.partitions);
        self.readers.get(&partition).ok_or_else(|| StoreError::Fatal("a partition without a reader".into()))
    }

    /// As [`PostgresReader::trail`].
    pub fn trail(&self, stream: &StreamKey, epoch: Epoch, at: Seq) -> Result<Option<(Seq, Timestamp)>, StoreError> {
        self.of(stream)?.trail(stream, epoch, at)
    }
}

impl StoreReader for SpreadReader {
    fn head(&self, stream: &StreamKey) -> Result<Option<Head>, StoreError> {
        self.of(stream)?.head(stream)
    }

    /// A key says nothing of its partition: only owners ask for one.
    fn dedup(&self, _key: &[u8; 16]) -> Result<Option<DedupHit>, StoreError> {
        Ok(None)
    }

    fn page(&self, stream: &StreamKey, after: Seq, limit: PageLimit) -> Result<Page, StoreError> {
        self.of(stream)?.page(stream, after, limit)
    }

    fn seq_before(&self, stream: &StreamKey, ts: Timestamp) -> Result<Seq, StoreError> {
        self.of(stream)?.seq_before(stream, ts)
    }

    fn group(&self, gid: &Gid) -> Result<Option<Group>, StoreError> {
        self.of(&gid.stream())?.group(gid)
    }

    fn member(&self, gid: &Gid, uid: &Uid) -> Result<Option<Member>, StoreError> {
        self.of(&gid.stream())?.member(gid, uid)
    }

    fn members(&self, gid: &Gid, after: Option<&Uid>, limit: usize) -> Result<Vec<Member>, StoreError> {
        self.of(&gid.stream())?.members(gid, after, limit)
    }

    /// In all partitions.
    fn groups_of(&self, uid: &Uid, limit: usize) -> Result<Vec<Gid>, StoreError> {
        self.of(&uid.stream())?.groups_of(uid, limit)
    }

    fn marks(&self, uid: &Uid, stream: &StreamKey) -> Result<Vec<DeviceMark>, StoreError> {
        self.of(stream)?.marks(uid, stream)
    }

    fn read_cursor(&self, uid: &Uid, stream: &StreamKey) -> Result<Option<(Epoch, Seq)>, StoreError> {
        self.of(stream)?.read_cursor(uid, stream)
    }

    fn is_remote(&self) -> bool {
        true
    }

    fn last_lsn(&self) -> Lsn {
        Lsn(0)
    }

    fn replay(&self, _from: Lsn, _limit: PageLimit) -> Result<Option<ReplayPage>, StoreError> {
        Ok(None)
    }
}
