//! What the owner, its index thread and all readers share: the log, the index, and what is committed but not indexed yet.

use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use tidegate_control_core::domain::{Gid, Lsn, Record, StreamKey, Timestamp, Uid};
use tidegate_control_core::ports::StoreError;

use super::codec;
use super::error::{IndexError, ReadError, chain};
use super::index::Index;
use super::index::mark::IndexState;
use super::log::read::{LogCursor, LogScan};
use super::log::{Location, Log};
use super::overlay::{GroupRow, HeadRow, MemberRow, Overlay, Prior};
use super::recent::Recent;
use super::store_file::DirLock;

/// Records that wait for the index at most, beside those being written into it; a commit waits past this.
pub const OVERLAY_RECORDS_MAX: usize = 131_072;
/// Bytes read at once for a single record, and for a walk.
const LOOKUP_CHUNK_BYTES: usize = 4 * 1024;
pub const WALK_CHUNK_BYTES: usize = 256 * 1024;
/// Records between two writes of the index while it catches up.
const CATCH_UP_RECORDS: usize = 32_768;
/// Records between two checkpoints: what a crash makes the next opening apply again, at most.
pub const CHECKPOINT_RECORDS: u64 = 2_000_000;
pub const CHECKPOINT_PATIENCE: Duration = Duration::from_secs(30);
const HOUR_MS: i64 = 3_600_000;

#[derive(Debug)]
pub struct Shared {
    pub log: Arc<Log>,
    pub index: Index,
    live: RwLock<Live>,
    /// What the index holds now; only the index thread (and opening, before it) changes it.
    state: Mutex<IndexState>,
    failure: OnceLock<Box<str>>,
    room: (Mutex<()>, Condvar),
    /// Wall clock as of the last maintenance.
    pub now: AtomicI64,
    /// Written when the index fails, so that the next opening makes it anew.
    failed_marker: PathBuf,
    _lock: Arc<DirLock>,
}

#[derive(Debug)]
pub struct Live {
    pub active: Overlay,
    /// Being written into the index.
    pub flushing: Option<Arc<Overlay>>,
    pub recent: Recent,
    pub last: Lsn,
    pub newest: Timestamp,
}

impl Live {
    pub fn new(recent_bytes: usize, last: Lsn, newest: Timestamp) -> Live {
        let recent = Recent::new(recent_bytes, last.next());
        Live { active: Overlay::default(), flushing: None, recent, last, newest }
    }

    /// Newest first.
    pub fn overlays(&self) -> impl Iterator<Item = &Overlay> {
        std::iter::once(&self.active).chain(self.flushing.as_deref())
    }
}

impl Shared {
    pub fn new(
        log: Arc<Log>,
        index: Index,
        live: Live,
        state: IndexState,
        failed_marker: PathBuf,
        lock: Arc<DirLock>,
    ) -> Shared {
        Shared {
            log,
            index,
            live: RwLock::new(live),
            state: Mutex::new(state),
            failure: OnceLock::new(),
            room: (Mutex::new(()), Condvar::new()),
            now: AtomicI64::new(0),
            failed_marker,
            _lock: lock,
        }
    }

    pub fn live(&self) -> RwLockReadGuard<'_, Live> {
        self.live.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn live_mut(&self) -> RwLockWriteGuard<'_, Live> {
        self.live.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn state(&self) -> IndexState {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn now(&self) -> Timestamp {
        Timestamp(self.now.load(Ordering::Relaxed))
    }

    /// From here on every commit fails.
    pub fn fail(&self, why: impl Into<Box<str>>) {
        let why = why.into();
        tracing::error!(why = %why, "the store failed");
        let _ = self.failure.set(why);
        self.room.1.notify_all();
    }

    pub fn index_failed(&self, error: IndexError) -> StoreError {
        if !matches!(error, IndexError::Log(_)) {
            // If this fails too, the next opening may meet the same defect and end the same way.
            let _ = std::fs::write(&self.failed_marker, b"");
        }
        let why: Box<str> = chain(&error).into();
        self.fail(why.clone());
        StoreError::Fatal(why)
    }

    pub fn check(&self) -> Result<(), StoreError> {
        self.failure.get().map_or(Ok(()), |why| Err(StoreError::Fatal(why.clone())))
    }

    /// Waits while too much is not indexed yet.
    pub fn wait_for_room(&self) -> Result<(), StoreError> {
        while self.live().active.records > OVERLAY_RECORDS_MAX {
            self.check()?;
            let guard = self.room.0.lock().unwrap_or_else(PoisonError::into_inner);
            // The time-out covers a wake-up between the look and the wait.
            drop(self.room.1.wait_timeout(guard, Duration::from_millis(5)));
        }
        self.check()
    }

    /// Writes what waits into the index. False: there was nothing.
    pub fn flush(&self) -> Result<bool, IndexError> {
        let overlay = {
            let mut live = self.live_mut();
            if live.active.is_empty() {
                return Ok(false);
            }
            let overlay = Arc::new(std::mem::take(&mut live.active));
            live.flushing = Some(overlay.clone());
            overlay
        };
        self.room.1.notify_all();
        let mut state = self.state();
        (state.indexed, state.crc) = (overlay.last, overlay.last_crc);
        state.newest = state.newest.max(overlay.newest);
        self.index.apply(&overlay)?;
        self.set_state(state);
        self.live_mut().flushing = None;
        Ok(true)
    }

    pub fn set_state(&self, state: IndexState) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// Moves the index into tables and marks how far it came. False: that took too long; the older mark stands.
    pub fn checkpoint(&self) -> Result<bool, IndexError> {
        let started = Instant::now();
        let mut checkpoint = self.index.begin_checkpoint(self.state())?;
        while !self.index.finish_checkpoint(&mut checkpoint)? {
            if started.elapsed() > CHECKPOINT_PATIENCE {
                tracing::warn!("the index is slow to reach the disk; the next opening will take longer");
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(true)
    }

    /// Indexes what the log holds after the index's place. Called before anything else runs.
    pub fn catch_up(&self) -> Result<u64, IndexError> {
        let state = self.state();
        let upto = self.live().last;
        let from = Lsn(state.indexed.0.max(self.log.start().0 - 1));
        let mut scan = LogScan::new(&self.log, from, upto, WALK_CHUNK_BYTES)?;
        let mut hour = None;
        let mut count = 0;
        while let Some((at, view)) = scan.step()? {
            let crc = view.crc;
            let record = codec::decode(view.body).map_err(|_| IndexError::Row { table: "log" })?;
            // Dedup buckets are begun by the hour, so an overlay does not span two.
            let this_hour = codec::timestamp(&record).0.div_euclid(HOUR_MS);
            if hour.is_some_and(|hour| hour != this_hour) || self.live().active.records >= CATCH_UP_RECORDS {
                self.flush()?;
            }
            hour = Some(this_hour);
            count += 1;
            if count % CHECKPOINT_RECORDS == 0 {
                self.flush()?;
                self.checkpoint()?;
            }
            if at.lsn <= state.known {
                self.live_mut().active.apply_known(at, &record);
            } else {
                let prior = self.prior(std::slice::from_ref(&record))?;
                self.live_mut().active.apply(at, &record, &prior);
            }
            self.live_mut().active.last_crc = crc;
        }
        self.flush()?;
        // The log's last record says when it was made; the newest time of all is known to the index.
        let newest = self.state().newest;
        let mut live = self.live_mut();
        live.newest = live.newest.max(newest);
        Ok(count)
    }
}

/// Look-ups through all layers.
impl Shared {
    pub fn head_row(&self, stream: &StreamKey) -> Result<Option<HeadRow>, IndexError> {
        let live = self.live();
        if let Some(delta) = live.overlays().find_map(|overlay| overlay.streams.get(stream)) {
            return Ok(Some(delta.row));
        }
        drop(live);
        self.index.head(stream)
    }

    pub fn group_row(&self, gid: &Gid) -> Result<Option<GroupRow>, IndexError> {
        let live = self.live();
        if let Some(row) = live.overlays().find_map(|overlay| overlay.groups.get(gid)) {
            return Ok(Some(row.clone()));
        }
        drop(live);
        self.index.group(gid)
    }

    /// The membership, if it is one of the group's present life.
    pub fn member_row(&self, gid: &Gid, uid: &Uid) -> Result<Option<MemberRow>, IndexError> {
        let key = (gid.clone(), uid.clone());
        let known = self.live().overlays().find_map(|overlay| overlay.members.get(&key).cloned());
        let row = match known {
            Some(row) => Some(row),
            None => self.index.member(gid, uid)?,
        };
        let Some(row) = row else { return Ok(None) };
        let begun = self.group_row(gid)?.map_or(Lsn(0), |group| group.lsn);
        Ok((row.lsn > begun).then_some(row))
    }

    /// What applying these records depends on.
    pub fn prior(&self, records: &[Record]) -> Result<Prior, IndexError> {
        let mut prior = Prior::default();
        for record in records {
            let (gid, uid) = match record {
                Record::Group(change) => (&change.gid, None),
                Record::Append(append) => match &append.membership {
                    Some(change) => (&change.gid, Some(&change.uid)),
                    None => continue,
                },
                Record::Mark(_) | Record::Read(_) | Record::Joined(_) => continue,
            };
            if !prior.groups.contains_key(gid) {
                prior.groups.extend(self.group_row(gid)?.map(|row| (gid.clone(), row)));
            }
            if let Some(uid) = uid {
                prior.members.extend(self.member_row(gid, uid)?.map(|row| ((gid.clone(), uid.clone()), row)));
            }
        }
        Ok(prior)
    }

    /// The records at these places, from memory or from the log.
    pub fn records_at(&self, places: &[Location]) -> Result<Vec<Record>, ReadError> {
        let mut found: Vec<Option<Record>> = {
            let live = self.live();
            places.iter().map(|place| live.recent.record(place.lsn).cloned()).collect()
        };
        let mut cursor = LogCursor::new(&self.log, LOOKUP_CHUNK_BYTES);
        for (record, place) in found.iter_mut().zip(places) {
            if record.is_none() {
                let body = cursor.read(*place)?.body;
                *record = Some(codec::decode(body).map_err(|_| self.undecodable(*place))?);
            }
        }
        Ok(found.into_iter().flatten().collect())
    }

    pub fn undecodable(&self, at: Location) -> ReadError {
        let segment = self.log.with_segment(at.lsn, |segment| segment.first).unwrap_or(at.lsn);
        let file = super::log::segment_path(self.log.dir(), segment);
        ReadError::Damaged { file, offset: u64::from(at.offset), what: "the record cannot be decoded" }
    }
}
