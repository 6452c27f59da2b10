//! The segmented log: the one truth of the store.
//!
//! A segment is a file `<first-lsn>.seg` (20 digits). Only the last one grows; a batch never spans two. Segments are new
//! files, never recycled ones, so nothing older can stand behind a torn tail and be taken for a record.
//!
//! [`LogWriter`] (one owner) appends and makes durable; [`Log`] (shared by readers) knows the segments and reads them;
//! [`recover`] verifies everything at opening.

pub mod format;
pub mod read;
pub mod recover;
pub mod write;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use hashbrown::HashMap;
use tidegate_control_core::domain::{Lsn, Timestamp};

use super::error::ReadError;
use format::{SEGMENT_HEADER_BYTES, StoreId};
use read::SegmentReader;

pub use write::LogWriter;

/// Segment files kept open for reading.
const FILES_MAX: usize = 128;
/// Bytes of log between two noted places of a segment: what a walk from any lsn reads in vain at most.
pub const MARK_EVERY_BYTES: u64 = 256 * 1024;

/// Where a record stands. The segment follows from the lsn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    pub lsn: Lsn,
    pub offset: u32,
}

#[derive(Clone, Debug)]
pub struct Segment {
    pub first: Lsn,
    /// `first - 1`: no record yet.
    pub last: Lsn,
    pub bytes: u64,
    /// Of the newest record; retention by age goes by it.
    pub newest: Timestamp,
    /// Records at least [`MARK_EVERY_BYTES`] apart, the first one included.
    pub marks: Vec<(Lsn, u32)>,
}

impl Segment {
    pub fn empty(first: Lsn) -> Segment {
        let marks = vec![(first, SEGMENT_HEADER_BYTES as u32)];
        Segment { first, last: Lsn(first.0 - 1), bytes: SEGMENT_HEADER_BYTES as u64, newest: Timestamp(0), marks }
    }

    /// Takes note of a record at `offset`.
    pub fn note(&mut self, lsn: Lsn, offset: u32) {
        let noted = self.marks.last().map_or(0, |(_, at)| *at);
        if u64::from(offset) >= u64::from(noted) + MARK_EVERY_BYTES {
            self.marks.push((lsn, offset));
        }
    }
}

/// The segments, for readers on any thread.
#[derive(Debug)]
pub struct Log {
    dir: PathBuf,
    store: StoreId,
    /// Oldest first, without gaps; never empty once opened.
    segments: RwLock<Vec<Segment>>,
    files: Mutex<OpenFiles>,
}

#[derive(Debug, Default)]
struct OpenFiles {
    clock: u64,
    by_segment: HashMap<Lsn, (Arc<File>, u64)>,
}

impl Log {
    pub fn new(dir: PathBuf, store: StoreId, segments: Vec<Segment>) -> Log {
        Log { dir, store, segments: RwLock::new(segments), files: Mutex::default() }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The oldest lsn still in the log, or the next one to come if there is none.
    pub fn start(&self) -> Lsn {
        self.segments.read().unwrap_or_else(PoisonError::into_inner).first().map_or(Lsn(1), |s| s.first)
    }

    pub fn segments(&self) -> Vec<Segment> {
        self.segments.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn with_segments<R>(&self, look: impl FnOnce(&[Segment]) -> R) -> R {
        look(&self.segments.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The segment that holds `lsn`, if the log does.
    pub fn with_segment<R>(&self, lsn: Lsn, look: impl FnOnce(&Segment) -> R) -> Option<R> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        let after = segments.partition_point(|s| s.first <= lsn);
        let segment = segments[..after].last().filter(|s| lsn <= s.last)?;
        Some(look(segment))
    }

    pub fn segment_reader(&self, first: Lsn, chunk: usize) -> Result<SegmentReader, ReadError> {
        let path = segment_path(&self.dir, first);
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.clock += 1;
        let now = files.clock;
        if let Some((file, used)) = files.by_segment.get_mut(&first) {
            *used = now;
            return Ok(SegmentReader::new(file.clone(), path, self.store.seed(), chunk));
        }
        let file = File::open(&path).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => ReadError::Trimmed,
            _ => ReadError::Io { file: path.clone(), offset: 0, source },
        })?;
        let file = Arc::new(file);
        if files.by_segment.len() >= FILES_MAX {
            let oldest = files.by_segment.iter().min_by_key(|(_, (_, used))| *used).map(|(first, _)| *first);
            oldest.map(|first| files.by_segment.remove(&first));
        }
        files.by_segment.insert(first, (file.clone(), now));
        Ok(SegmentReader::new(file, path, self.store.seed(), chunk))
    }

    /// The first segment of an empty log, just created.
    pub fn begin(&self, first: Lsn) {
        self.update(|segments| segments.push(Segment::empty(first)));
    }

    fn update(&self, change: impl FnOnce(&mut Vec<Segment>)) {
        change(&mut self.segments.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Forgets and unlinks the segments whose records are all at or before `upto`; the last segment always stays.
    /// Readers that have one open finish with it.
    pub fn unlink_upto(&self, upto: Lsn) -> std::io::Result<usize> {
        let mut gone = Vec::new();
        self.update(|segments| {
            let keep = segments.iter().position(|s| s.last > upto).unwrap_or(segments.len());
            gone.extend(segments.drain(..keep.min(segments.len().saturating_sub(1))).map(|s| s.first));
        });
        for first in &gone {
            self.files.lock().unwrap_or_else(PoisonError::into_inner).by_segment.remove(first);
            std::fs::remove_file(segment_path(&self.dir, *first))?;
        }
        if !gone.is_empty() {
            sync_dir(&self.dir)?;
        }
        Ok(gone.len())
    }
}

pub fn segment_path(dir: &Path, first: Lsn) -> PathBuf {
    dir.join(format!("{:020}.seg", first.0))
}

/// Makes creations, renames and unlinks in a folder durable.
pub fn sync_dir(dir: &Path) -> std::io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests;
