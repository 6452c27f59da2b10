//! Verification at opening: every byte of the log is read and checked, segments in parallel.
//!
//! What is found decides by one rule: an invalid record with nothing valid after it, at the very end of the last segment,
//! is a torn tail of an unanswered batch and is cut. Anything else that is invalid stood in what was acknowledged: the log
//! is refused with the place. (A torn write whose later part reached the disk before its earlier part is refused too;
//! cutting it could as well cut acknowledged records, so a person has to decide.) A damaged record right at the end cannot
//! be told from a torn one, and is cut.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tidegate_control_core::domain::{Lsn, Timestamp};

use super::format::{RECORD_HEADER_BYTES, RecordHeader, SEGMENT_HEADER_BYTES, SegmentHeader, StoreId};
use super::read::SegmentReader;
use super::write::LogEnd;
use super::{Segment, segment_path, sync_dir};
use crate::adapters::embedded::codec;
use crate::adapters::embedded::error::{OpenError, ReadError};

const READ_CHUNK_BYTES: usize = 1024 * 1024;
const THREADS_MAX: usize = 4;

/// Where the log has to begin: after what retention unlinked.
#[derive(Clone, Copy, Debug)]
pub struct LogBegin {
    pub first: Lsn,
    /// Header crc of the record before it.
    pub previous: u32,
    pub newest: Timestamp,
}

/// A tail to cut: the remains of a batch that was not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTail {
    pub file: PathBuf,
    pub offset: u64,
    pub bytes: u64,
    /// Not even the segment's header is whole: the file goes.
    pub whole_file: bool,
}

#[derive(Debug)]
pub struct Checked {
    pub segments: Vec<Segment>,
    /// `None`: there is no segment.
    pub end: Option<LogEnd>,
    pub torn: Option<TornTail>,
    /// Segments that retention had given up when the process ended.
    pub obsolete: Vec<PathBuf>,
    pub records: u64,
    pub bytes: u64,
}

struct SegmentCheck {
    segment: Segment,
    /// As its header says.
    previous: u32,
    last_crc: u32,
    torn: Option<TornTail>,
}

/// Reads and verifies all; changes nothing.
pub fn check(dir: &Path, store: StoreId, begin: LogBegin) -> Result<Checked, OpenError> {
    let mut names = segment_names(dir)?;
    let obsolete = names.windows(2).take_while(|pair| pair[1] <= begin.first).count();
    let obsolete: Vec<PathBuf> = names.drain(..obsolete).map(|first| segment_path(dir, first)).collect();
    let checks = check_all(dir, store, &names)?;

    let mut checked = Checked { segments: Vec::new(), end: None, torn: None, obsolete, records: 0, bytes: 0 };
    let mut at = LogEnd { segment: begin.first, offset: 0, last: begin.first, last_crc: 0, newest: begin.newest };
    for (number, check) in checks.into_iter().enumerate() {
        let file = segment_path(dir, check.segment.first);
        if let Some(torn) = &check.torn {
            checked.torn = Some(torn.clone());
            if torn.whole_file {
                break;
            }
        }
        // A first segment from before `begin` is one that retention did not get to unlink.
        let expected = match number {
            0 if check.segment.first == begin.first => Some((begin.first, begin.previous)),
            0 if check.segment.first < begin.first => None,
            0 => Some((begin.first, begin.previous)),
            _ => Some((at.last.next(), at.last_crc)),
        };
        match expected {
            Some((first, _)) if first != check.segment.first => {
                return Err(OpenError::Incomplete { file, what: "the segment before this one is missing" });
            }
            Some((_, previous)) if previous != check.previous => {
                let what = "the segment does not continue the one before it";
                return Err(OpenError::Corrupt { file, offset: 0, what });
            }
            _ => {}
        }
        let mut segment = check.segment;
        segment.newest = segment.newest.max(at.newest);
        (checked.records, checked.bytes) =
            (checked.records + (segment.last.0 + 1 - segment.first.0), checked.bytes + segment.bytes);
        at = LogEnd {
            segment: segment.first,
            offset: segment.bytes,
            last: segment.last,
            last_crc: check.last_crc,
            newest: segment.newest,
        };
        checked.end = Some(at);
        checked.segments.push(segment);
    }
    Ok(checked)
}

/// Cuts the torn tail and removes what retention had given up.
pub fn repair(dir: &Path, checked: &Checked) -> Result<(), OpenError> {
    for file in &checked.obsolete {
        fs::remove_file(file).map_err(OpenError::io(file, "remove"))?;
    }
    if let Some(torn) = &checked.torn {
        let cut = || {
            if torn.whole_file {
                return fs::remove_file(&torn.file);
            }
            let file = OpenOptions::new().write(true).open(&torn.file)?;
            file.set_len(torn.offset)?;
            file.sync_all()
        };
        cut().map_err(OpenError::io(&torn.file, "cut the torn tail"))?;
    }
    sync_dir(dir).map_err(OpenError::io(dir, "sync the folder"))
}

pub fn segment_names(dir: &Path) -> Result<Vec<Lsn>, OpenError> {
    let list = || {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            let stem = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
            match (path.extension().is_some_and(|e| e == "seg"), stem) {
                (true, Some(first)) => names.push(Lsn(first)),
                _ => tracing::warn!(file = %path.display(), "not a segment, left alone"),
            }
        }
        names.sort_unstable();
        Ok(names)
    };
    list().map_err(OpenError::io(dir, "list the segments"))
}

fn check_all(dir: &Path, store: StoreId, names: &[Lsn]) -> Result<Vec<SegmentCheck>, OpenError> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX).min(names.len());
    let turn = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let number = turn.fetch_add(1, Ordering::Relaxed);
            let Some(first) = names.get(number) else { return done };
            done.push((number, check_segment(dir, store, *first, number + 1 == names.len())));
        }
    };
    let mut all: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut all = work();
        for worker in workers {
            all.extend(worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        all
    });
    all.sort_unstable_by_key(|(number, _)| *number);
    all.into_iter().map(|(_, check)| check).collect()
}

fn check_segment(dir: &Path, store: StoreId, first: Lsn, is_last: bool) -> Result<SegmentCheck, OpenError> {
    let path = segment_path(dir, first);
    let corrupt = |offset, what| OpenError::Corrupt { file: path.clone(), offset, what };
    let file = File::open(&path).map_err(OpenError::io(&path, "open"))?;
    let length = file.metadata().map_err(OpenError::io(&path, "stat"))?.len();
    let mut reader = SegmentReader::new(Arc::new(file), path.clone(), store.seed(), READ_CHUNK_BYTES);
    let mut segment = Segment::empty(first);

    let header = SegmentHeader::decode(reader.fill(0, SEGMENT_HEADER_BYTES).map_err(open_error)?, store);
    let header = header.and_then(|h| if h.first == first { Ok(h) } else { Err("the file name is not the first lsn") });
    let header = match header {
        Ok(header) => header,
        Err(what) => {
            // A header is durable before anything else happens; only a creation cut short leaves a last one like this.
            if !is_last || has_record_after(&path, store, 0, Lsn(first.0 - 1))? {
                return Err(corrupt(0, what));
            }
            let torn = TornTail { file: path, offset: 0, bytes: length, whole_file: true };
            return Ok(SegmentCheck { segment, previous: 0, last_crc: 0, torn: Some(torn) });
        }
    };
    let mut last_crc = header.previous;
    let mut torn = None;
    let mut last_at = None;
    while segment.bytes < length {
        let offset = segment.bytes;
        let (next, crc) = match next_record(&mut reader, offset, segment.last.next(), last_crc) {
            Ok(found) => found,
            Err(ReadError::Damaged { what, .. }) => {
                if !is_last || has_record_after(&path, store, offset, segment.last)? {
                    return Err(corrupt(offset, what));
                }
                torn = Some(TornTail { file: path.clone(), offset, bytes: length - offset, whole_file: false });
                break;
            }
            Err(error) => return Err(open_error(error)),
        };
        segment.last = segment.last.next();
        segment.note(segment.last, offset as u32);
        (segment.bytes, last_crc, last_at) = (next, crc, Some(offset));
    }
    if let Some(offset) = last_at {
        let view = reader.record_at(offset).map_err(open_error)?;
        let record = codec::decode(view.body).map_err(|_| corrupt(offset, "the record cannot be decoded"))?;
        segment.newest = codec::timestamp(&record);
    } else if !is_last {
        return Err(corrupt(length, "the segment has no record, but another follows"));
    }
    Ok(SegmentCheck { segment, previous: header.previous, last_crc, torn })
}

fn next_record(reader: &mut SegmentReader, offset: u64, lsn: Lsn, previous: u32) -> Result<(u64, u32), ReadError> {
    let view = reader.record_at(offset)?;
    let (next, crc, header) = (view.next, view.crc, view.header);
    if header.lsn != lsn {
        return Err(reader.damaged(offset, "the record is out of order"));
    }
    if header.previous != previous {
        return Err(reader.damaged(offset, "the record does not continue the one before it"));
    }
    Ok((next, crc))
}

/// Whether a valid record with a higher lsn stands anywhere after `offset`.
fn has_record_after(path: &Path, store: StoreId, offset: u64, last: Lsn) -> Result<bool, OpenError> {
    let bytes = fs::read(path).map_err(OpenError::io(path, "read"))?;
    let rest = bytes.get(offset as usize + 1..).unwrap_or_default();
    let seed = store.seed();
    // More records than fit between here and the end cannot have been written.
    let highest = last.0 + 1 + bytes.len() as u64 / RECORD_HEADER_BYTES as u64;
    let found = rest.windows(RECORD_HEADER_BYTES).enumerate().any(|(at, window)| {
        let lsn = u64::from_le_bytes([
            window[12], window[13], window[14], window[15], window[16], window[17], window[18], window[19],
        ]);
        if lsn <= last.0 || lsn > highest {
            return false;
        }
        let Some((header, _)) = RecordHeader::decode(window, seed) else { return false };
        let body = rest.get(at + RECORD_HEADER_BYTES..at + header.record_bytes() as usize);
        body.is_some_and(|body| crc32fast::hash(body) == header.body_crc)
    });
    Ok(found)
}

fn open_error(error: ReadError) -> OpenError {
    match error {
        ReadError::Damaged { file, offset, what } => OpenError::Corrupt { file, offset, what },
        ReadError::Io { file, source, .. } => OpenError::Io { file, what: "read", source },
        ReadError::Trimmed => {
            OpenError::Incomplete { file: PathBuf::new(), what: "a segment vanished while it was read" }
        }
    }
}
