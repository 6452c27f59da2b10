//! What must outlive the log's beginning: heads, groups, members, marks and cursors, written before retention unlinks the
//! records that said so. From the newest snapshot and the log after it the index can always be made again.
//!
//! A file `snapshot-<lsn>`, little endian:
//! `magic 8 | version u32 | store id u64 | at u64 | trimmed u64 | trimmed crc u32 | newest i64`, then rows
//! `table u8 | key length u32 | value length u32 | key | value`, a zero byte, the number of rows u64, and the crc32 of
//! everything before.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use tidegate_control_core::domain::{Lsn, Timestamp};

use super::error::{IndexError, OpenError};
use super::index::{Index, KeptRow, KeptTable};
use super::log::format::StoreId;
use super::log::recover::LogBegin;
use super::log::sync_dir;

const MAGIC: &[u8; 8] = b"TIDESNP\n";
const VERSION: u32 = 1;
/// Longest key or value; anything above is damage.
const FIELD_BYTES_MAX: u32 = 1024 * 1024;
const BUFFER_BYTES: usize = 256 * 1024;

/// A whole, verified snapshot file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub file: PathBuf,
    /// The tables are as of this record.
    pub at: Lsn,
    /// Records up to here are given up.
    pub trimmed: Lsn,
    /// Header crc of the record at `trimmed`: the log's first record continues it.
    pub trimmed_crc: u32,
    pub newest: Timestamp,
    pub rows: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("{}: cannot write the snapshot", file.display())]
    Io { file: PathBuf, source: io::Error },
    #[error("the snapshot cannot be taken")]
    Index(#[from] IndexError),
}

impl Snapshot {
    pub fn begin(&self) -> LogBegin {
        LogBegin { first: self.trimmed.next(), previous: self.trimmed_crc, newest: self.newest }
    }
}

/// The newest snapshot, read through and verified. `None`: there is none.
pub fn find(dir: &Path, store: StoreId) -> Result<Option<Snapshot>, OpenError> {
    let Some(file) = list(dir)?.pop() else { return Ok(None) };
    let mut reader = RowReader::open(&file, store)?;
    while reader.next_row()?.is_some() {}
    Ok(Some(reader.finish()?))
}

/// Removes older snapshots and half-written ones.
pub fn clean(dir: &Path, keep: Option<&Snapshot>) -> Result<(), OpenError> {
    for file in list(dir)? {
        if keep.is_none_or(|keep| keep.file != file) {
            fs::remove_file(&file).map_err(OpenError::io(&file, "remove"))?;
        }
    }
    match fs::remove_file(dir.join("snapshot.new")) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(OpenError::io(dir, "remove snapshot.new")(e)),
        _ => Ok(()),
    }
}

/// Puts the rows into an empty index.
pub fn load(snapshot: &Snapshot, store: StoreId, index: &Index) -> Result<Result<(), IndexError>, OpenError> {
    let mut reader = RowReader::open(&snapshot.file, store)?;
    let mut failed = None;
    let rows = std::iter::from_fn(|| {
        reader.next_row().unwrap_or_else(|error| {
            failed = Some(error);
            None
        })
    });
    let loaded = index.load(rows);
    match failed {
        Some(error) => Err(error),
        None => Ok(loaded),
    }
}

/// Returns once the file is durable under its name.
pub fn write(
    dir: &Path,
    store: StoreId,
    snapshot: &Snapshot,
    index: &Index,
    view: &fjall::Snapshot,
) -> Result<(), SnapshotError> {
    let new = dir.join("snapshot.new");
    let failed = |source| SnapshotError::Io { file: new.clone(), source };
    let file = File::create(&new).map_err(failed)?;
    let mut out = Summed::new(BufWriter::with_capacity(BUFFER_BYTES, file));
    out.write_all(&header_bytes(store, snapshot)).map_err(failed)?;
    let mut count = 0u64;
    for table in KeptTable::ALL {
        for row in index.rows(view, table) {
            let (key, value) = row?;
            let mut put = || {
                out.write_all(&[table as u8])?;
                out.write_all(&(key.len() as u32).to_le_bytes())?;
                out.write_all(&(value.len() as u32).to_le_bytes())?;
                out.write_all(&key)?;
                out.write_all(&value)
            };
            put().map_err(failed)?;
            count += 1;
        }
    }
    let mut finish = || {
        out.write_all(&[0])?;
        out.write_all(&count.to_le_bytes())?;
        let crc = out.crc.clone().finalize();
        out.write_all(&crc.to_le_bytes())?;
        out.flush()?;
        out.inner.get_ref().sync_all()?;
        fs::rename(&new, &snapshot.file)?;
        sync_dir(dir)
    };
    finish().map_err(failed)
}

pub fn path(dir: &Path, at: Lsn) -> PathBuf {
    dir.join(format!("snapshot-{:020}", at.0))
}

/// Oldest first: the digits sort.
fn list(dir: &Path) -> Result<Vec<PathBuf>, OpenError> {
    let entries = fs::read_dir(dir).and_then(|entries| entries.map(|e| Ok(e?.path())).collect::<io::Result<Vec<_>>>());
    let mut files = entries.map_err(OpenError::io(dir, "list the snapshots"))?;
    files.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("snapshot-")));
    files.sort();
    Ok(files)
}

fn header_bytes(store: StoreId, snapshot: &Snapshot) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&store.0.to_le_bytes());
    bytes.extend_from_slice(&snapshot.at.0.to_le_bytes());
    bytes.extend_from_slice(&snapshot.trimmed.0.to_le_bytes());
    bytes.extend_from_slice(&snapshot.trimmed_crc.to_le_bytes());
    bytes.extend_from_slice(&snapshot.newest.0.to_le_bytes());
    bytes
}

struct RowReader {
    file: PathBuf,
    input: Summed<BufReader<File>>,
    offset: u64,
    snapshot: Snapshot,
    ended: bool,
}

impl RowReader {
    fn open(path: &Path, store: StoreId) -> Result<RowReader, OpenError> {
        let file = File::open(path).map_err(OpenError::io(path, "open"))?;
        let input = Summed::new(BufReader::with_capacity(BUFFER_BYTES, file));
        let snapshot = Snapshot {
            file: path.to_path_buf(),
            at: Lsn(0),
            trimmed: Lsn(0),
            trimmed_crc: 0,
            newest: Timestamp(0),
            rows: 0,
        };
        let mut reader = RowReader { file: path.to_path_buf(), input, offset: 0, snapshot, ended: false };
        if &reader.bytes::<8>()? != MAGIC || u32::from_le_bytes(reader.bytes()?) != VERSION {
            return Err(reader.corrupt("not a snapshot of this version"));
        }
        if u64::from_le_bytes(reader.bytes()?) != store.0 {
            return Err(reader.corrupt("the snapshot belongs to another store"));
        }
        reader.snapshot.at = Lsn(u64::from_le_bytes(reader.bytes()?));
        reader.snapshot.trimmed = Lsn(u64::from_le_bytes(reader.bytes()?));
        reader.snapshot.trimmed_crc = u32::from_le_bytes(reader.bytes()?);
        reader.snapshot.newest = Timestamp(i64::from_le_bytes(reader.bytes()?));
        Ok(reader)
    }

    fn next_row(&mut self) -> Result<Option<KeptRow>, OpenError> {
        if self.ended {
            return Ok(None);
        }
        let [number] = self.bytes()?;
        if number == 0 {
            self.ended = true;
            return Ok(None);
        }
        let table = KeptTable::ALL.into_iter().find(|table| *table as u8 == number);
        let table = table.ok_or_else(|| self.corrupt("the snapshot is damaged"))?;
        let (key, value) = (u32::from_le_bytes(self.bytes()?), u32::from_le_bytes(self.bytes()?));
        if key > FIELD_BYTES_MAX || value > FIELD_BYTES_MAX {
            return Err(self.corrupt("the snapshot is damaged"));
        }
        let (mut key, mut value) = (vec![0; key as usize], vec![0; value as usize]);
        self.fill(&mut key)?;
        self.fill(&mut value)?;
        self.snapshot.rows += 1;
        Ok(Some((table, key, value)))
    }

    /// After the last row: compares the count and the checksum.
    fn finish(mut self) -> Result<Snapshot, OpenError> {
        let count = u64::from_le_bytes(self.bytes()?);
        let crc = self.input.crc.clone().finalize();
        if count != self.snapshot.rows || u32::from_le_bytes(self.bytes()?) != crc {
            return Err(self.corrupt("the snapshot does not match its checksum"));
        }
        Ok(self.snapshot)
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], OpenError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), OpenError> {
        self.input.read_exact(bytes).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => self.corrupt("the snapshot is cut off"),
            _ => OpenError::io(&self.file, "read")(e),
        })?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    fn corrupt(&self, what: &'static str) -> OpenError {
        OpenError::Corrupt { file: self.file.clone(), offset: self.offset, what }
    }
}

/// Sums up what passes through.
struct Summed<T> {
    inner: T,
    crc: crc32fast::Hasher,
}

impl<T> Summed<T> {
    fn new(inner: T) -> Summed<T> {
        Summed { inner, crc: crc32fast::Hasher::new() }
    }
}

impl<T: Write> Write for Summed<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.crc.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<T: Read> Read for Summed<T> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(bytes)?;
        self.crc.update(&bytes[..read]);
        Ok(read)
    }
}
