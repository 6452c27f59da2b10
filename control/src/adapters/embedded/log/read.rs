//! Reading records back, always verified: what does not fit its checksums is never handed out.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use tidegate_control_core::domain::Lsn;

use super::format::{RECORD_HEADER_BYTES, RecordHeader};
use super::{Location, Log, Segment};
use crate::adapters::embedded::error::ReadError;

/// A record as it stands in a reader's buffer.
#[derive(Debug)]
pub struct RecordView<'a> {
    pub header: RecordHeader,
    /// Of the header: what the next record names as its previous one.
    pub crc: u32,
    pub body: &'a [u8],
    /// Where the next record begins.
    pub next: u64,
}

/// Reads one segment file through a buffer of its own (`pread`, so readers do not disturb each other).
#[derive(Debug)]
pub struct SegmentReader {
    file: Arc<File>,
    path: PathBuf,
    seed: u32,
    chunk: usize,
    buf: Vec<u8>,
    /// Place of the buffer in the file.
    at: u64,
}

impl SegmentReader {
    /// `chunk`: bytes to read at once; small for look-ups, large for walks.
    pub fn new(file: Arc<File>, path: PathBuf, seed: u32, chunk: usize) -> SegmentReader {
        SegmentReader { file, path, seed, chunk, buf: Vec::new(), at: 0 }
    }

    pub fn record_at(&mut self, offset: u64) -> Result<RecordView<'_>, ReadError> {
        let seed = self.seed;
        let Some((header, crc)) = RecordHeader::decode(self.fill(offset, RECORD_HEADER_BYTES)?, seed) else {
            return Err(self.damaged(offset, "invalid record header"));
        };
        let whole = header.record_bytes() as usize;
        let bytes = self.fill(offset, whole)?;
        if bytes.len() < whole {
            return Err(self.damaged(offset, "record cut off"));
        }
        if crc32fast::hash(&bytes[RECORD_HEADER_BYTES..whole]) != header.body_crc {
            return Err(self.damaged(offset, "record body does not match its checksum"));
        }
        let start = (offset - self.at) as usize;
        let body = &self.buf[start + RECORD_HEADER_BYTES..start + whole];
        Ok(RecordView { header, crc, body, next: offset + whole as u64 })
    }

    /// At least `len` bytes from `offset`, fewer only at the end of the file.
    pub fn fill(&mut self, offset: u64, len: usize) -> Result<&[u8], ReadError> {
        let buffered = offset >= self.at && offset + len as u64 <= self.at + self.buf.len() as u64;
        if !buffered {
            self.buf.resize(len.max(self.chunk), 0);
            self.at = offset;
            let read = read_full(&self.file, &mut self.buf, offset);
            self.buf.truncate(*read.as_ref().unwrap_or(&0));
            read.map_err(|source| ReadError::Io { file: self.path.clone(), offset, source })?;
        }
        Ok(&self.buf[(offset - self.at) as usize..])
    }

    pub fn damaged(&self, offset: u64, what: &'static str) -> ReadError {
        ReadError::Damaged { file: self.path.clone(), offset, what }
    }
}

fn read_full(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(&mut buf[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

/// Looks records up by location; stays on a segment as long as the locations do.
#[derive(Debug)]
pub struct LogCursor<'a> {
    log: &'a Log,
    chunk: usize,
    on: Option<(Lsn, Lsn, SegmentReader)>,
}

impl<'a> LogCursor<'a> {
    pub fn new(log: &'a Log, chunk: usize) -> LogCursor<'a> {
        LogCursor { log, chunk, on: None }
    }

    pub fn read(&mut self, location: Location) -> Result<RecordView<'_>, ReadError> {
        let on_it = matches!(&self.on, Some((first, last, _)) if (*first..=*last).contains(&location.lsn));
        if !on_it {
            let (first, last) = self.log.with_segment(location.lsn, |s| (s.first, s.last)).ok_or(ReadError::Trimmed)?;
            self.on = Some((first, last, self.log.segment_reader(first, self.chunk)?));
        }
        let Some((_, _, reader)) = &mut self.on else { return Err(ReadError::Trimmed) };
        let offset = u64::from(location.offset);
        let found = reader.record_at(offset)?.header.lsn;
        if found != location.lsn {
            return Err(reader.damaged(offset, "another record stands here"));
        }
        reader.record_at(offset)
    }
}

/// Walks the log forward from a place, over segment borders, up to a place known to be committed.
#[derive(Debug)]
pub struct LogScan<'a> {
    cursor: LogCursor<'a>,
    next: Lsn,
    offset: u64,
    upto: Lsn,
}

impl<'a> LogScan<'a> {
    /// Records of `(from, upto]`. [`ReadError::Trimmed`]: the log begins after `from`'s successor.
    pub fn new(log: &'a Log, from: Lsn, upto: Lsn, chunk: usize) -> Result<LogScan<'a>, ReadError> {
        let next = from.next();
        let mut scan = LogScan { cursor: LogCursor::new(log, chunk), next, offset: 0, upto };
        if next <= upto {
            let (at, offset) = log.with_segment(next, |s| s.mark_before(next)).ok_or(ReadError::Trimmed)?;
            (scan.next, scan.offset) = (at, offset);
            while scan.next < next {
                scan.step()?;
            }
        }
        Ok(scan)
    }

    /// The next record, or `None` at the end. [`ReadError::Trimmed`] if retention overtook the walk.
    pub fn step(&mut self) -> Result<Option<(Location, RecordView<'_>)>, ReadError> {
        if self.next > self.upto {
            return Ok(None);
        }
        let begins_segment = matches!(&self.cursor.on, Some((_, last, _)) if self.next == last.next());
        if begins_segment || self.cursor.on.is_none() {
            let (_, offset) = self
                .cursor
                .log
                .with_segment(self.next, |s| s.place_of(self.next, self.offset))
                .ok_or(ReadError::Trimmed)?;
            self.offset = offset;
        }
        let location = Location { lsn: self.next, offset: self.offset as u32 };
        let view = self.cursor.read(location)?;
        self.next = self.next.next();
        self.offset = view.next;
        Ok(Some((location, view)))
    }
}

impl Segment {
    /// The nearest noted record at or before `lsn` and its offset.
    fn mark_before(&self, lsn: Lsn) -> (Lsn, u64) {
        let after = self.marks.partition_point(|(at, _)| *at <= lsn);
        let (at, offset) = self.marks[after.saturating_sub(1)];
        (at, u64::from(offset))
    }

    fn place_of(&self, lsn: Lsn, otherwise: u64) -> (Lsn, u64) {
        if lsn == self.first { self.mark_before(lsn) } else { (lsn, otherwise) }
    }
}
