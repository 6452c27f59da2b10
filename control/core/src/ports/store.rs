//! The store: the durable log and what can be looked up in it.

use std::sync::Arc;

use crate::domain::{
    Body, Epoch, Fingerprint, Gid, Lsn, MessageId, OwnerEpoch, Record, Role, Seq, StreamKey, Timestamp, Uid,
};

/// Errors of a store. None of them uses up a retry of a message: the partition pauses, or the process ends.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Worth trying again later: nothing of the batch is visible.
    #[error("the store is unavailable: {0}")]
    Unavailable(Box<str>),
    /// Another owner has taken the partition: this one must stop.
    #[error("fenced: a newer owner has this partition")]
    Fenced,
    /// A failed write or fsync, or corruption: the process must end and recover from the log. Never answered OK.
    #[error("the store failed: {0}")]
    Fatal(Box<str>),
}

/// Devices whose mark in one stream is kept for one user; the mark of one more replaces the oldest (by time).
pub const DEVICE_MARKS_MAX: usize = 16;

/// Where a stream stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub epoch: Epoch,
    pub head: Seq,
    /// Oldest seq still stored; `head + 1` if none is.
    pub first: Seq,
}

/// What a caller's key was used for before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DedupHit {
    pub epoch: Epoch,
    pub seq: Seq,
    pub id: MessageId,
    pub fingerprint: Fingerprint,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageLimit {
    pub messages: usize,
    /// Of bodies; at least one message is returned whatever its size.
    pub bytes: usize,
}

/// A stored message at one of its places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub seq: Seq,
    pub body: Arc<Body>,
    /// For an inbox entry of a one-to-one message: the conversation and the place there.
    pub conversation: Option<(StreamKey, Seq)>,
}

/// Messages of `(after, upto]` in order. A seq of the range that is absent is gone (trimmed). `upto` is the seq of the last
/// message, or `after` if there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    pub after: Seq,
    pub upto: Seq,
    pub messages: Vec<Stored>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    pub gid: Gid,
    pub epoch: Epoch,
    pub open: bool,
    pub name: Box<str>,
    pub creator: Box<str>,
    pub created: Timestamp,
    pub dismissed: bool,
}

/// `(gid, uid, joined_seq, left_seq)`; a member who left and came back has the newest interval. A change of role keeps
/// `joined`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub gid: Gid,
    pub uid: Uid,
    pub role: Role,
    pub joined: Seq,
    /// The place of the leaving; `None`: still a member.
    pub left: Option<Seq>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceMark {
    pub device: Box<str>,
    pub epoch: Epoch,
    pub seq: Seq,
    pub ts: Timestamp,
}

/// Records of `(from, upto]` in log order.
#[derive(Clone, Debug)]
pub struct ReplayPage {
    pub records: Vec<(Lsn, Record)>,
    /// Everything up to here was looked at.
    pub upto: Lsn,
}

/// Where a partition's owner reads what was appended for it: a partition of the upstream topic, and the next offset there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Consumed {
    pub source: u32,
    pub next: u64,
}

/// How far an owner came beside its log; committed with it, so that a successor goes on at exactly that place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Everything before it is in the log, or was refused. `None` in a commit: as before.
    pub consumed: Option<Consumed>,
    /// What the records up to here owe to other partitions has arrived there. `None` in a commit: as before.
    pub routed: Option<Lsn>,
}

impl Progress {
    pub fn is_empty(&self) -> bool {
        *self == Progress::default()
    }

    /// As if `newer` had been committed after this.
    pub fn advance(&mut self, newer: Progress) {
        self.consumed = newer.consumed.or(self.consumed);
        self.routed = newer.routed.max(self.routed);
    }
}

/// Look-ups. They see every record of every [`MessageStore::commit`] that has returned. Callable from any thread.
pub trait StoreReader: Send + Sync + 'static {
    /// `None`: the stream never had a message (an open group without messages has its epoch in [`StoreReader::group`]).
    /// After a group began anew this may still be the older epoch's head, until the first message of the new one.
    fn head(&self, stream: &StreamKey) -> Result<Option<Head>, StoreError>;

    fn dedup(&self, key: &[u8; 16]) -> Result<Option<DedupHit>, StoreError>;

    /// As [`StoreReader::dedup`] of each key, in order; a store that is far away answers them together.
    fn dedup_many(&self, keys: &[[u8; 16]]) -> Result<Vec<Option<DedupHit>>, StoreError> {
        keys.iter().map(|key| self.dedup(key)).collect()
    }

    /// As [`StoreReader::head`] of each stream, in order.
    fn heads_of(&self, streams: &[StreamKey]) -> Result<Vec<Option<Head>>, StoreError> {
        streams.iter().map(|stream| self.head(stream)).collect()
    }

    /// Whether look-ups of one batch should be made together before it is decided: each alone is a journey.
    fn is_remote(&self) -> bool {
        false
    }

    /// Messages after `after`, oldest first. Below `first`, the page begins at `first - 1` (its `after` says so).
    fn page(&self, stream: &StreamKey, after: Seq, limit: PageLimit) -> Result<Page, StoreError>;

    /// The highest seq whose message is older than `ts`: where a reader that wants everything since `ts` starts.
    fn seq_before(&self, stream: &StreamKey, ts: Timestamp) -> Result<Seq, StoreError>;

    fn group(&self, gid: &Gid) -> Result<Option<Group>, StoreError>;

    /// The newest interval of this user in this group.
    fn member(&self, gid: &Gid, uid: &Uid) -> Result<Option<Member>, StoreError>;

    /// Present members after `after` (by uid), at most `limit`. A group that was dismissed or begun anew has no members of
    /// before: its [`Record::Group`] ended their membership.
    fn members(&self, gid: &Gid, after: Option<&Uid>, limit: usize) -> Result<Vec<Member>, StoreError>;

    /// Groups that the user is a present member of, at most `limit`, the one with the newest message first.
    fn groups_of(&self, uid: &Uid, limit: usize) -> Result<Vec<Gid>, StoreError>;

    /// Marks of the user's devices in a stream, at most [`DEVICE_MARKS_MAX`].
    fn marks(&self, uid: &Uid, stream: &StreamKey) -> Result<Vec<DeviceMark>, StoreError>;

    /// How far the user has read.
    fn read_cursor(&self, uid: &Uid, stream: &StreamKey) -> Result<Option<(Epoch, Seq)>, StoreError>;

    /// The newest committed record.
    fn last_lsn(&self) -> Lsn;

    /// Records after `from`; `None`: the log no longer reaches back that far. Used to catch links up.
    fn replay(&self, from: Lsn, limit: PageLimit) -> Result<Option<ReplayPage>, StoreError>;
}

/// The owner's side of a partition's store.
pub trait MessageStore: StoreReader {
    /// The fence that every commit carries; raised at each opening.
    fn owner_epoch(&self) -> OwnerEpoch;

    /// Random base of epochs, made once with the store: streams begin with it, recreated groups derive theirs from it.
    fn base_epoch(&self) -> Epoch;

    /// Timestamp of the newest record, so that ids and times never run backwards over a restart.
    fn last_timestamp(&self) -> Timestamp;

    /// Makes the records durable, in order, and visible to every reader. Returns the lsn of the last one; the records got
    /// contiguous lsns. An error means that none of them may be answered; after [`StoreError::Fatal`] the process ends.
    fn commit(&mut self, records: &[Record]) -> Result<Lsn, StoreError> {
        self.commit_with(records, Progress::default())
    }

    /// As [`MessageStore::commit`], and with the records how far the owner came; there need be no record. A store of a single
    /// process keeps no progress: nobody follows its owner.
    fn commit_with(&mut self, records: &[Record], progress: Progress) -> Result<Lsn, StoreError>;

    /// As it was committed last, by this owner or by those before it.
    fn progress(&self) -> Progress {
        Progress::default()
    }

    /// Housekeeping between batches: retention, compaction. `now` is wall-clock time.
    fn maintain(&mut self, now: Timestamp) -> Result<(), StoreError>;
}
