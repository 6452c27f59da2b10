//! The embedded store: one folder, no server, durable on local disk.
//!
//! ```text
//! lock          held while a process has the folder open
//! store         id, base epoch and owner epoch
//! log/          the truth: segments of checksummed, chained records ([`log`])
//! snapshot-…    what must outlive segments that retention unlinked ([`snapshot`])
//! index/        what can be looked up; fjall; can be made again from the above at any time ([`index`])
//! ```
//!
//! Invariants:
//! * [`EmbeddedStore::commit`] returns after one write and one fdatasync. A failed write or fsync ends the store: every later
//!   commit fails too, and only a new opening, which reads the disk, can tell what is there. Records of such a batch that
//!   reached the disk whole stay in the log, though they were never answered: a caller's retry finds its own key.
//! * Readers see a batch whole or not at all, and see it once its commit has returned.
//! * Every record read back is checked; what does not fit its checksum is [`StoreError::Fatal`] with file and offset.
//!
//! It does not replicate: a lost disk is a lost store.

pub(crate) mod codec;
pub mod error;
mod index;
mod indexer;
pub(crate) mod log;
mod open;
mod overlay;
mod reader;
mod recent;
mod retention;
mod shared;
mod snapshot;
mod store_file;
mod verify;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tidegate_control_core::domain::{Epoch, Gid, Lsn, OwnerEpoch, Record, Seq, StreamKey, Timestamp, Uid};
use tidegate_control_core::ports::{
    DEVICE_MARKS_MAX, DedupHit, DeviceMark, Group, Head, Member, MessageStore, Page, PageLimit, Progress, ReplayPage,
    StoreError, StoreReader,
};

use error::chain;
use indexer::{FLUSH_RECORDS, Indexer};
use log::write::AppendError;
use log::{Location, LogWriter};
use retention::{Retention, RetentionLimits, TrimError, Trimming};
use shared::Shared;
use store_file::StoreFile;

pub use error::OpenError;
pub use index::DedupStats;
pub use reader::EmbeddedReader;
pub use verify::{Report, TornTail, verify};

/// Largest [`EmbeddedOptions::segment_bytes`]: offsets within a segment have 32 bits.
pub const SEGMENT_BYTES_MAX: u64 = 1024 * 1024 * 1024;

#[derive(Clone, Debug)]
pub struct EmbeddedOptions {
    /// A segment that has grown to this is followed by a new one. At most [`SEGMENT_BYTES_MAX`].
    pub segment_bytes: u64,
    /// Memory for the newest records, which are then read without the disk.
    pub recent_bytes: usize,
    /// Memory for blocks of the index.
    pub index_cache_bytes: u64,
    /// Segments whose newest record is older than this go.
    pub retention_age_s: u64,
    /// The oldest segments go while the log is larger than this.
    pub retention_bytes: u64,
    /// Retention acts at most this often: each time it writes a snapshot of all groups and heads.
    pub retention_every_s: u64,
    /// For how long a caller's key is remembered; shorter if there are more than `dedup_max_keys`, or if the index has to
    /// be made again from a log that retention cut shorter than this.
    pub dedup_horizon_s: u64,
    pub dedup_max_keys: u64,
}

impl Default for EmbeddedOptions {
    fn default() -> EmbeddedOptions {
        EmbeddedOptions {
            segment_bytes: 64 * 1024 * 1024,
            recent_bytes: 64 * 1024 * 1024,
            index_cache_bytes: 32 * 1024 * 1024,
            retention_age_s: 7 * 24 * 3600,
            retention_bytes: u64::MAX,
            retention_every_s: 600,
            dedup_horizon_s: 24 * 3600,
            dedup_max_keys: 100_000_000,
        }
    }
}

/// The owner's side. Dropping it brings the index up to date and releases the folder once no [`EmbeddedReader`] is left.
#[derive(Debug)]
pub struct EmbeddedStore {
    // Dropped in this order: a trimming needs the index thread until it has ended.
    retention: Retention,
    indexer: Indexer,
    writer: LogWriter,
    reader: EmbeddedReader,
    store: StoreFile,
    dir: PathBuf,
    torn_bytes: u64,
}

impl EmbeddedStore {
    /// Opens the store in `dir`, or makes one in an empty or absent folder. Reads the whole log.
    pub fn open(dir: &Path, mut options: EmbeddedOptions) -> Result<EmbeddedStore, OpenError> {
        options.segment_bytes = options.segment_bytes.min(SEGMENT_BYTES_MAX);
        let opened = open::open(dir, &options)?;
        let indexer = Indexer::start(opened.shared.clone()).map_err(OpenError::io(dir, "start the index thread"))?;
        let limits = RetentionLimits {
            age_ms: i64::try_from(options.retention_age_s.saturating_mul(1_000)).unwrap_or(i64::MAX),
            bytes_max: options.retention_bytes,
            every_ms: i64::try_from(options.retention_every_s.saturating_mul(1_000)).unwrap_or(i64::MAX),
        };
        Ok(EmbeddedStore {
            retention: Retention::new(limits),
            indexer,
            writer: opened.writer,
            reader: EmbeddedReader { shared: opened.shared },
            store: opened.store,
            dir: dir.to_path_buf(),
            torn_bytes: opened.torn_bytes,
        })
    }

    /// For look-ups from other threads.
    pub fn reader(&self) -> EmbeddedReader {
        self.reader.clone()
    }

    /// Bytes of a torn tail that this opening cut.
    pub fn torn_bytes(&self) -> u64 {
        self.torn_bytes
    }

    /// Unlinks segments whose records are all at or before `upto`, whatever the retention says, and waits for it. The last
    /// segment always stays. Returns up to where the log was cut.
    pub fn trim(&mut self, upto: Lsn) -> Result<Lsn, StoreError> {
        self.finish_maintenance()?;
        self.start_trimming(upto)?;
        match self.retention.finished(true) {
            Some(Ok(lsn)) => Ok(lsn),
            Some(Err(error)) => Err(StoreError::Unavailable(chain(&error).into())),
            None => Ok(Lsn(self.shared().log.start().0 - 1)),
        }
    }

    /// Waits for what [`MessageStore::maintain`] began in the background.
    pub fn finish_maintenance(&mut self) -> Result<(), StoreError> {
        self.settle_trimming(true)
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.reader.shared
    }

    fn start_trimming(&mut self, upto: Lsn) -> Result<(), StoreError> {
        let trimming = Trimming {
            shared: self.shared().clone(),
            tasks: self.indexer.tasks(),
            dir: self.dir.clone(),
            store: self.store.id,
        };
        let started = self.retention.start(upto, trimming);
        started.map_err(|error| StoreError::Unavailable(format!("cannot start the retention thread: {error}").into()))
    }

    fn settle_trimming(&mut self, wait: bool) -> Result<(), StoreError> {
        match self.retention.finished(wait) {
            Some(Err(TrimError::Read(error))) => {
                self.shared().fail(chain(&error));
                Err(error.into())
            }
            Some(Err(error)) => {
                tracing::error!(error = chain(&error), "retention failed; it will be tried again");
                Ok(())
            }
            Some(Ok(_)) | None => Ok(()),
        }
    }
}

impl MessageStore for EmbeddedStore {
    fn owner_epoch(&self) -> OwnerEpoch {
        self.store.owner_epoch
    }

    fn base_epoch(&self) -> Epoch {
        self.store.base_epoch
    }

    fn last_timestamp(&self) -> Timestamp {
        self.shared().live().newest
    }

    fn commit_with(&mut self, records: &[Record], _progress: Progress) -> Result<Lsn, StoreError> {
        let shared = &self.reader.shared;
        shared.wait_for_room()?;
        if records.is_empty() {
            return Ok(self.writer.last());
        }
        let prior = shared.prior(records).map_err(|error| shared.index_failed(error))?;
        let appended = match self.writer.append(records) {
            Ok(appended) => appended,
            Err(error @ AppendError::TooLarge { .. }) => return Err(StoreError::Fatal(chain(&error).into())),
            Err(error) => {
                shared.fail(chain(&error));
                return Err(StoreError::Fatal(chain(&error).into()));
            }
        };
        let mut live = shared.live_mut();
        for ((record, offset), lsn) in records.iter().zip(appended.offsets).zip(appended.first.0..) {
            let at = Location { lsn: Lsn(lsn), offset: *offset };
            live.active.apply(at, record, &prior);
            live.recent.push(at.lsn, record.clone());
        }
        live.active.last_crc = appended.crc;
        live.last = appended.last;
        live.newest = live.newest.max(appended.newest);
        let full = live.active.records >= FLUSH_RECORDS;
        drop(live);
        if full {
            self.indexer.nudge();
        }
        Ok(appended.last)
    }

    fn maintain(&mut self, now: Timestamp) -> Result<(), StoreError> {
        self.shared().check()?;
        self.shared().now.store(now.0, Ordering::Relaxed);
        self.settle_trimming(false)?;
        let log = self.shared().log.clone();
        match self.retention.due(now, &log) {
            Some(upto) => self.start_trimming(upto),
            None => Ok(()),
        }
    }
}

impl StoreReader for EmbeddedStore {
    fn head(&self, stream: &StreamKey) -> Result<Option<Head>, StoreError> {
        self.reader.head(stream)
    }

    fn dedup(&self, key: &[u8; 16]) -> Result<Option<DedupHit>, StoreError> {
        self.reader.dedup(key)
    }

    fn page(&self, stream: &StreamKey, after: Seq, limit: PageLimit) -> Result<Page, StoreError> {
        self.reader.page(stream, after, limit)
    }

    fn seq_before(&self, stream: &StreamKey, ts: Timestamp) -> Result<Seq, StoreError> {
        self.reader.seq_before(stream, ts)
    }

    fn group(&self, gid: &Gid) -> Result<Option<Group>, StoreError> {
        self.reader.group(gid)
    }

    fn member(&self, gid: &Gid, uid: &Uid) -> Result<Option<Member>, StoreError> {
        self.reader.member(gid, uid)
    }

    fn members(&self, gid: &Gid, after: Option<&Uid>, limit: usize) -> Result<Vec<Member>, StoreError> {
        self.reader.members(gid, after, limit)
    }

    fn groups_of(&self, uid: &Uid, limit: usize) -> Result<Vec<Gid>, StoreError> {
        self.reader.groups_of(uid, limit)
    }

    fn marks(&self, uid: &Uid, stream: &StreamKey) -> Result<Vec<DeviceMark>, StoreError> {
        self.reader.marks(uid, stream)
    }

    fn read_cursor(&self, uid: &Uid, stream: &StreamKey) -> Result<Option<(Epoch, Seq)>, StoreError> {
        self.reader.read_cursor(uid, stream)
    }

    fn last_lsn(&self) -> Lsn {
        self.reader.last_lsn()
    }

    fn replay(&self, from: Lsn, limit: PageLimit) -> Result<Option<ReplayPage>, StoreError> {
        self.reader.replay(from, limit)
    }
}
