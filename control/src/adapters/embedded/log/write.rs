//! Appending: one write and one fdatasync per batch.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use tidegate_control_core::domain::{Lsn, Record, Timestamp};

use super::format::{RECORD_BYTES_MAX, RECORD_HEADER_BYTES, RecordHeader, SegmentHeader, StoreId};
use super::{Log, Segment, segment_path, sync_dir};
use crate::adapters::embedded::codec;

/// Longest batch, in bytes: keeps offsets within 32 bits.
const BATCH_BYTES_MAX: usize = 1024 * 1024 * 1024;
/// Kept between batches; a larger buffer is given back.
const BUFFER_KEPT_BYTES_MAX: usize = 8 * 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// Nothing was written: such a record or batch can never be stored.
    #[error("a record of {bytes} bytes is over the limit of {max}")]
    TooLarge { bytes: usize, max: usize },
    /// It is unknown how much is on disk; only a new opening can tell.
    #[error("{}: cannot {what}", file.display())]
    Io { file: PathBuf, what: &'static str, source: io::Error },
}

/// Where a batch went. Record `i` has lsn `first + i` and stands at `offsets[i]`.
#[derive(Debug)]
pub struct Appended<'a> {
    pub first: Lsn,
    pub last: Lsn,
    pub offsets: &'a [u32],
    /// Header crc of the last record.
    pub crc: u32,
    pub newest: Timestamp,
}

/// The owner of the log's end. After an [`AppendError::Io`] it must not be used again.
#[derive(Debug)]
pub struct LogWriter {
    log: Arc<Log>,
    store: StoreId,
    segment_bytes_max: u64,
    file: File,
    segment: Lsn,
    /// Where the next record goes.
    end: u64,
    last: Lsn,
    last_crc: u32,
    newest: Timestamp,
    buf: Vec<u8>,
    offsets: Vec<u32>,
}

/// Where a log ends; handed from recovery to the writer.
#[derive(Clone, Copy, Debug)]
pub struct LogEnd {
    pub segment: Lsn,
    pub offset: u64,
    pub last: Lsn,
    pub last_crc: u32,
    pub newest: Timestamp,
}

impl LogWriter {
    pub fn new(log: Arc<Log>, store: StoreId, segment_bytes_max: u64, end: LogEnd) -> Result<LogWriter, AppendError> {
        let path = segment_path(log.dir(), end.segment);
        let file = OpenOptions::new().write(true).open(&path).map_err(io_error(&path, "open the segment"))?;
        let (buf, offsets) = (Vec::new(), Vec::new());
        let LogEnd { segment, offset, last, last_crc, newest } = end;
        Ok(LogWriter {
            log,
            store,
            segment_bytes_max,
            file,
            segment,
            end: offset,
            last,
            last_crc,
            newest,
            buf,
            offsets,
        })
    }

    pub fn last(&self) -> Lsn {
        self.last
    }

    /// Returns when all records are durable. `records` must not be empty.
    pub fn append(&mut self, records: &[Record]) -> Result<Appended<'_>, AppendError> {
        let previous = self.last_crc;
        let newest = self.encode(records)?;
        if self.end >= self.segment_bytes_max && self.last >= self.segment {
            self.begin_segment(previous)?;
        }
        let path = segment_path(self.log.dir(), self.segment);
        let base = self.end as u32;
        self.offsets.iter_mut().for_each(|offset| *offset += base);
        self.file.write_all_at(&self.buf, self.end).map_err(io_error(&path, "write"))?;
        self.file.sync_data().map_err(io_error(&path, "fdatasync"))?;

        let first = self.last.next();
        self.last = Lsn(self.last.0 + records.len() as u64);
        self.end += self.buf.len() as u64;
        self.newest = newest;
        self.note(first);
        if self.buf.capacity() > BUFFER_KEPT_BYTES_MAX {
            self.buf = Vec::new();
        }
        Ok(Appended { first, last: self.last, offsets: &self.offsets, crc: self.last_crc, newest })
    }

    /// Fills `buf`, and `offsets` relative to its beginning.
    fn encode(&mut self, records: &[Record]) -> Result<Timestamp, AppendError> {
        let seed = self.store.seed();
        self.buf.clear();
        self.offsets.clear();
        let (mut lsn, mut crc, mut newest) = (self.last, self.last_crc, self.newest);
        for record in records {
            let start = self.buf.len();
            self.buf.extend_from_slice(&[0; RECORD_HEADER_BYTES]);
            codec::encode(record, &mut self.buf);
            let body = &self.buf[start + RECORD_HEADER_BYTES..];
            if body.len() > RECORD_BYTES_MAX || self.buf.len() > BATCH_BYTES_MAX {
                return Err(AppendError::TooLarge { bytes: body.len(), max: RECORD_BYTES_MAX });
            }
            lsn = lsn.next();
            let body_crc = crc32fast::hash(body);
            let header = RecordHeader { len: body.len() as u32, body_crc, lsn, previous: crc };
            let (bytes, header_crc) = header.encode(seed);
            crc = header_crc;
            self.buf[start..start + RECORD_HEADER_BYTES].copy_from_slice(&bytes);
            self.offsets.push(start as u32);
            newest = newest.max(codec::timestamp(record));
        }
        self.last_crc = crc;
        Ok(newest)
    }

    /// Durable before the first record goes into it: a segment after this one proves that this one is whole.
    fn begin_segment(&mut self, previous: u32) -> Result<(), AppendError> {
        let first = self.last.next();
        let path = segment_path(self.log.dir(), first);
        self.file =
            create_segment(&self.log, self.store, first, previous).map_err(io_error(&path, "begin a segment"))?;
        self.segment = first;
        self.end = super::format::SEGMENT_HEADER_BYTES as u64;
        self.log.update(|segments| segments.push(Segment::empty(first)));
        Ok(())
    }

    fn note(&self, first: Lsn) {
        self.log.update(|segments| {
            let Some(segment) = segments.last_mut() else { return };
            for (i, offset) in self.offsets.iter().enumerate() {
                segment.note(Lsn(first.0 + i as u64), *offset);
            }
            segment.last = self.last;
            segment.bytes = self.end;
            segment.newest = self.newest;
        });
    }
}

pub fn create_segment(log: &Log, store: StoreId, first: Lsn, previous: u32) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create_new(true).open(segment_path(log.dir(), first))?;
    file.write_all_at(&SegmentHeader { first, previous }.encode(store), 0)?;
    file.sync_all()?;
    sync_dir(log.dir())?;
    Ok(file)
}

fn io_error(path: &std::path::Path, what: &'static str) -> impl FnOnce(io::Error) -> AppendError {
    let file = path.to_path_buf();
    move |source| AppendError::Io { file, what, source }
}
