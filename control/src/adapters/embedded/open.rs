//! Opening: verify the truth, cut a torn tail, then bring the index to the log's end or make it anew.

use std::fs::{self, File};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use tidegate_control_core::domain::{Lsn, OwnerEpoch};

use super::EmbeddedOptions;
use super::error::{IndexError, OpenError, ReadError, chain};
use super::index::mark::{self, Ceiling, IndexState};
use super::index::{DedupLimits, Index};
use super::log::format::StoreId;
use super::log::read::LogScan;
use super::log::recover::{self, Checked, LogBegin};
use super::log::write::{LogEnd, create_segment};
use super::log::{Log, LogWriter};
use super::shared::{Live, Shared, WALK_CHUNK_BYTES};
use super::snapshot::{self, Snapshot};
use super::store_file::{DirLock, StoreFile};

pub(super) struct Opened {
    pub shared: Arc<Shared>,
    pub writer: LogWriter,
    pub store: StoreFile,
    pub torn_bytes: u64,
}

pub(super) fn open(dir: &Path, options: &EmbeddedOptions) -> Result<Opened, OpenError> {
    fs::create_dir_all(dir).map_err(OpenError::io(dir, "create the data folder"))?;
    let lock = Arc::new(DirLock::acquire(dir)?);
    let mut store = store_file(dir)?;
    let truth = Truth::check(dir, &store)?;
    let torn_bytes = truth.repair()?;
    let snapshot = truth.snapshot.clone();
    snapshot::clean(dir, snapshot.as_ref())?;

    let log = Arc::new(Log::new(truth.log_dir.clone(), store.id, truth.checked.segments.clone()));
    let end = match truth.checked.end {
        Some(end) => end,
        None => begin_log(&log, store.id, truth.begin)?,
    };
    let writer = LogWriter::new(log.clone(), store.id, options.segment_bytes, end);
    let writer = writer.map_err(|error| OpenError::Io {
        file: truth.log_dir.clone(),
        what: "open the last segment",
        source: std::io::Error::other(error),
    })?;
    store.owner_epoch = OwnerEpoch(store.owner_epoch.0 + 1);
    store.save(dir)?;

    let indexing = Indexing { dir, options, store: store.id, log, end, begin: truth.begin, snapshot, lock };
    Ok(Opened { shared: indexing.open()?, writer, store, torn_bytes })
}

/// Loads the store file, or makes a new one in an empty folder.
fn store_file(dir: &Path) -> Result<StoreFile, OpenError> {
    if let Some(store) = StoreFile::load(dir)? {
        return Ok(store);
    }
    let holds_data = dir.join("log").exists() || dir.join("index").exists();
    if holds_data {
        let file = dir.join("store");
        return Err(OpenError::Incomplete { file, what: "missing, although the folder holds a log" });
    }
    let store = StoreFile::random().map_err(OpenError::io(dir, "draw a random store id"))?;
    store.save(dir)?;
    Ok(store)
}

/// Everything that cannot be made again, as found.
pub(super) struct Truth {
    pub log_dir: PathBuf,
    pub snapshot: Option<Snapshot>,
    pub begin: LogBegin,
    pub checked: Checked,
}

impl Truth {
    /// Reads and verifies; changes nothing but an empty log folder of a store that was never opened.
    pub fn check(dir: &Path, store: &StoreFile) -> Result<Truth, OpenError> {
        let started = Instant::now();
        let log_dir = dir.join("log");
        let never_opened = store.owner_epoch == OwnerEpoch(0);
        if never_opened {
            fs::create_dir_all(&log_dir).map_err(OpenError::io(&log_dir, "create the log's folder"))?;
        }
        let snapshot = snapshot::find(dir, store.id)?;
        let fresh = LogBegin { first: Lsn(1), previous: store.id.seed(), newest: Default::default() };
        let begin = snapshot.as_ref().map_or(fresh, Snapshot::begin);
        let checked = recover::check(&log_dir, store.id, begin)?;
        if checked.end.is_none() && !never_opened {
            // The first segment is durable before the first owner epoch is.
            return Err(OpenError::Incomplete { file: log_dir, what: "the log has no whole segment any more" });
        }
        let ms = started.elapsed().as_millis() as u64;
        let (segments, records, bytes) = (checked.segments.len(), checked.records, checked.bytes);
        tracing::info!(segments, records, bytes, ms, "verified the log");
        Ok(Truth { log_dir, snapshot, begin, checked })
    }

    /// Returns the bytes that were cut.
    fn repair(&self) -> Result<u64, OpenError> {
        if let Some(torn) = &self.checked.torn {
            let (file, offset, bytes) = (torn.file.display(), torn.offset, torn.bytes);
            tracing::warn!(%file, offset, bytes, "cutting a torn tail: a batch that was never answered");
        }
        recover::repair(&self.log_dir, &self.checked)?;
        Ok(self.checked.torn.as_ref().map_or(0, |torn| torn.bytes))
    }
}

fn begin_log(log: &Log, store: StoreId, begin: LogBegin) -> Result<LogEnd, OpenError> {
    create_segment(log, store, begin.first, begin.previous).map_err(OpenError::io(log.dir(), "begin the log"))?;
    log.begin(begin.first);
    Ok(LogEnd {
        segment: begin.first,
        offset: super::log::format::SEGMENT_HEADER_BYTES as u64,
        last: Lsn(begin.first.0 - 1),
        last_crc: begin.previous,
        newest: begin.newest,
    })
}

struct Indexing<'a> {
    dir: &'a Path,
    options: &'a EmbeddedOptions,
    store: StoreId,
    log: Arc<Log>,
    end: LogEnd,
    begin: LogBegin,
    snapshot: Option<Snapshot>,
    lock: Arc<DirLock>,
}

impl Indexing<'_> {
    fn open(&self) -> Result<Arc<Shared>, OpenError> {
        match self.existing() {
            Ok(Some(shared)) => return Ok(shared),
            Ok(None) => tracing::info!("building the index from the log"),
            Err(IndexError::Backend(fjall::Error::Locked)) => {
                return Err(OpenError::Locked { dir: self.dir.to_path_buf() });
            }
            Err(IndexError::Log(error)) => return Err(self.log_error(error)),
            Err(error) => tracing::warn!(error = chain(&error), "the index is unusable; building it from the log"),
        }
        self.rebuilt()
    }

    /// The index as found, caught up; `None` if it does not belong to this log as it is now.
    fn existing(&self) -> Result<Option<Arc<Shared>>, IndexError> {
        let opening = opening_marker(self.dir);
        if failed_marker(self.dir).exists() || opening.exists() || !self.index_dir().exists() {
            return Ok(None);
        }
        let Some((state, ceiling)) = mark::read(&self.index_dir()) else { return Ok(None) };
        if !self.belongs(state, ceiling)? {
            return Ok(None);
        }
        match self.try_index(&opening, state)? {
            Some(index) => self.caught_up(index, state).map(Some),
            None => Ok(None),
        }
    }

    /// fjall was seen to panic on damaged files. Where panics unwind, that is as good as an error; where they abort, the
    /// marker tells the next start not to try again.
    fn try_index(&self, marker: &Path, state: IndexState) -> Result<Option<Index>, IndexError> {
        let marked = File::create(marker).and_then(|file| file.sync_all());
        if let Err(error) = marked {
            tracing::warn!(%error, "cannot mark the index as being opened");
        }
        let opened = std::panic::catch_unwind(AssertUnwindSafe(|| self.open_index(state.trimmed)));
        if matches!(opened, Ok(Ok(_))) {
            // If it stays, the index is made anew next time: slow, but right.
            let _ = fs::remove_file(marker);
        }
        match opened {
            Ok(result) => result.map(Some),
            Err(_panic) => {
                tracing::warn!("opening the index panicked");
                Ok(None)
            }
        }
    }

    fn rebuilt(&self) -> Result<Arc<Shared>, OpenError> {
        let dir = self.index_dir();
        let failed = |source| OpenError::Index { dir: dir.clone(), source };
        if dir.exists() {
            fs::remove_dir_all(&dir).map_err(OpenError::io(&dir, "remove the old index"))?;
        }
        let state = IndexState {
            store: self.store,
            indexed: Lsn(self.begin.first.0 - 1),
            crc: self.begin.previous,
            newest: self.begin.newest,
            trimmed: Lsn(self.begin.first.0 - 1),
            known: self.snapshot.as_ref().map_or(Lsn(0), |snapshot| snapshot.at),
        };
        let index = self.open_index(state.trimmed).map_err(failed)?;
        index.raise(Ceiling { lsn: state.indexed, crc: state.crc }).map_err(failed)?;
        if let Some(snapshot) = &self.snapshot {
            snapshot::load(snapshot, self.store, &index)?.map_err(failed)?;
        }
        let shared = self.caught_up(index, state).map_err(|error| match error {
            IndexError::Log(error) => self.log_error(error),
            error => failed(error),
        })?;
        for marker in [failed_marker(self.dir), opening_marker(self.dir)] {
            if marker.exists() {
                fs::remove_file(&marker).map_err(OpenError::io(&marker, "remove"))?;
            }
        }
        Ok(shared)
    }

    fn open_index(&self, trimmed: Lsn) -> Result<Index, IndexError> {
        let limits = DedupLimits {
            horizon_ms: self.options.dedup_horizon_s.saturating_mul(1_000) as i64,
            keys_max: self.options.dedup_max_keys,
        };
        Index::open(&self.index_dir(), trimmed, self.options.index_cache_bytes, limits)
    }

    /// Whether the index was made from this very log, and from no more of it than there is: after a torn tail was cut, or
    /// an older copy of the log put back, it may know records that do not exist.
    fn belongs(&self, state: IndexState, ceiling: Ceiling) -> Result<bool, IndexError> {
        let start = self.log.start();
        let reaches = state.indexed.next() >= start && state.trimmed.next() >= start;
        let same = state.store == self.store && reaches;
        Ok(same && self.holds(state.indexed, state.crc)? && self.holds(ceiling.lsn, ceiling.crc)?)
    }

    /// Whether the log has this very record, or had it before its present beginning.
    fn holds(&self, lsn: Lsn, crc: u32) -> Result<bool, IndexError> {
        let start = self.log.start();
        if lsn.next() <= start {
            return Ok(lsn.next() < start || crc == self.begin.previous);
        }
        if lsn > self.end.last {
            return Ok(false);
        }
        let mut scan = LogScan::new(&self.log, Lsn(lsn.0 - 1), lsn, WALK_CHUNK_BYTES)?;
        Ok(scan.step()?.is_some_and(|(_, view)| view.crc == crc))
    }

    fn caught_up(&self, index: Index, state: IndexState) -> Result<Arc<Shared>, IndexError> {
        let started = Instant::now();
        let live = Live::new(self.options.recent_bytes, self.end.last, self.end.newest);
        let failed = failed_marker(self.dir);
        let shared = Arc::new(Shared::new(self.log.clone(), index, live, state, failed, self.lock.clone()));
        let records = shared.catch_up()?;
        if records > 0 {
            shared.checkpoint()?;
            tracing::info!(records, ms = started.elapsed().as_millis() as u64, "brought the index to the log's end");
        }
        Ok(shared)
    }

    fn index_dir(&self) -> PathBuf {
        self.dir.join("index")
    }

    fn log_error(&self, error: ReadError) -> OpenError {
        match error {
            ReadError::Damaged { file, offset, what } => OpenError::Corrupt { file, offset, what },
            ReadError::Io { file, source, .. } => OpenError::Io { file, what: "read", source },
            ReadError::Trimmed => OpenError::Incomplete {
                file: self.log.dir().to_path_buf(),
                what: "a segment vanished while it was read",
            },
        }
    }
}

/// Left behind when the index failed at work, since it may well open again and fail again at the same place.
fn failed_marker(dir: &Path) -> PathBuf {
    dir.join("index.failed")
}

/// There while the index is being opened: left behind by a start that died of it.
fn opening_marker(dir: &Path) -> PathBuf {
    dir.join("index.opening")
}
