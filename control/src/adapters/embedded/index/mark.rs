//! How far the index can be relied on, in two small files of our own beside fjall's.
//!
//! fjall's tables carry checksums, its journal does not cover everything: measured on 3.1, a flipped byte in a sealed
//! journal loses the rest of it without a word while later journals still count, and batch headers are not checked at all.
//! A stale head could then give a seq twice. So the journal is thrown away at opening, and only what was known to be in
//! tables counts:
//!
//! * `mark`: every row of records up to here is in a table. Written after all memory tables were; what follows is applied
//!   again from the log, over whatever newer rows some tables already hold.
//! * `ceiling`: no table holds a row of a record after this one. Durable before such rows are written at all, so that an
//!   index that knows records which the log has lost is noticed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use tidegate_control_core::domain::{Lsn, Timestamp};

use crate::adapters::embedded::log::format::StoreId;
use crate::adapters::embedded::log::sync_dir;

/// Changed together with the form of any row: an index of another version is made anew.
const VERSION: u64 = 2;

/// What the index is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexState {
    pub store: StoreId,
    pub indexed: Lsn,
    /// Header crc of the record at `indexed`: shows that this index belongs to this very log.
    pub crc: u32,
    pub newest: Timestamp,
    /// Streams' firsts are moved past the records up to here.
    pub trimmed: Lsn,
    /// Groups, marks and cursors of records up to here came from a snapshot.
    pub known: Lsn,
}

/// The newest record that any row may come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ceiling {
    pub lsn: Lsn,
    pub crc: u32,
}

/// Writes both files; the ceiling stays open, since it moves with every batch.
#[derive(Debug)]
pub struct Marks {
    dir: PathBuf,
    ceiling: File,
}

/// Both as found; `None`: absent, damaged or of another version.
pub fn read(dir: &Path) -> Option<(IndexState, Ceiling)> {
    let numbers = numbers::<7>(&fs::read(dir.join("mark")).ok()?)?;
    let [version, store, indexed, crc, newest, trimmed, known] = numbers;
    if version != VERSION {
        return None;
    }
    let state = IndexState {
        store: StoreId(store),
        indexed: Lsn(indexed),
        crc: crc as u32,
        newest: Timestamp(newest as i64),
        trimmed: Lsn(trimmed),
        known: Lsn(known),
    };
    let [lsn, crc] = numbers_of_ceiling(dir)?;
    Some((state, Ceiling { lsn: Lsn(lsn), crc: crc as u32 }))
}

fn numbers_of_ceiling(dir: &Path) -> Option<[u64; 2]> {
    numbers(&fs::read(dir.join("ceiling")).ok()?)
}

impl Marks {
    pub fn open(dir: &Path) -> io::Result<Marks> {
        let path = dir.join("ceiling");
        let ceiling = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        Ok(Marks { dir: dir.to_path_buf(), ceiling })
    }

    /// Durable and whole, or as before.
    pub fn write(&self, state: IndexState) -> io::Result<()> {
        let IndexState { store, indexed, crc, newest, trimmed, known } = state;
        let bytes = row([VERSION, store.0, indexed.0, u64::from(crc), newest.0 as u64, trimmed.0, known.0]);
        let new = self.dir.join("mark.new");
        let mut file = File::create(&new)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&new, self.dir.join("mark"))?;
        sync_dir(&self.dir)
    }

    /// Durable. In place: it fits a sector, and a torn one reads as absent.
    pub fn raise(&self, ceiling: Ceiling) -> io::Result<()> {
        self.ceiling.write_all_at(&row([ceiling.lsn.0, u64::from(ceiling.crc)]), 0)?;
        self.ceiling.sync_data()
    }
}

/// Empties fjall's journals before it opens. The newest file stays, empty: without any, fjall would begin numbering its
/// writes anew and older rows would hide newer ones. False: there is none, so these tables must not be used.
pub fn forget_journals(tables: &Path) -> io::Result<bool> {
    let mut journals = Vec::new();
    for entry in fs::read_dir(tables)? {
        let path = entry?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<u64>().ok());
        if let Some(number) = number.filter(|_| path.extension().is_some_and(|extension| extension == "jnl")) {
            journals.push((number, path));
        }
    }
    journals.sort();
    let Some((_, newest)) = journals.pop() else { return Ok(false) };
    OpenOptions::new().write(true).open(&newest)?.set_len(0)?;
    for (_, older) in journals {
        fs::remove_file(older)?;
    }
    Ok(true)
}

fn row<const N: usize>(numbers: [u64; N]) -> Vec<u8> {
    let mut bytes = numbers.map(u64::to_le_bytes).concat();
    bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
    bytes
}

fn numbers<const N: usize>(bytes: &[u8]) -> Option<[u64; N]> {
    let (numbers, crc) = bytes.split_last_chunk::<4>()?;
    if numbers.len() != N * 8 || crc32fast::hash(numbers).to_le_bytes() != *crc {
        return None;
    }
    let (chunks, _) = numbers.as_chunks::<8>();
    let mut out = [0; N];
    out.iter_mut().zip(chunks).for_each(|(number, chunk)| *number = u64::from_le_bytes(*chunk));
    Some(out)
}

#[cfg(test)]
mod tests {
    use fjall::{Database, KeyspaceCreateOptions};
    use tempfile::TempDir;

    use super::*;

    /// What the index rests on in fjall 3.1: rows that reached a table survive without any journal, and writes after such an
    /// opening win over them. Must be looked at again with every new version of fjall.
    #[test]
    fn tables_stand_without_their_journal() {
        let dir = TempDir::new().unwrap();
        let open = || {
            let db = Database::builder(dir.path()).open().unwrap();
            let table = db.keyspace("table", KeyspaceCreateOptions::default).unwrap();
            (db, table)
        };
        let (db, table) = open();
        for round in 0..100u8 {
            table.insert("kept", [round]).unwrap();
        }
        table.rotate_memtable_and_wait().unwrap();
        table.insert("kept", [200]).unwrap();
        table.insert("lost", [200]).unwrap();
        drop((db, table));

        assert!(forget_journals(dir.path()).unwrap());
        let (db, table) = open();
        assert_eq!(table.get("kept").unwrap().as_deref(), Some(&[99][..]));
        assert_eq!(table.get("lost").unwrap(), None);
        table.insert("kept", [201]).unwrap();
        assert_eq!(table.get("kept").unwrap().as_deref(), Some(&[201][..]));
        table.rotate_memtable_and_wait().unwrap();
        drop((db, table));

        assert!(forget_journals(dir.path()).unwrap());
        let (_db, table) = open();
        assert_eq!(table.get("kept").unwrap().as_deref(), Some(&[201][..]));
    }

    #[test]
    fn marks_come_back_whole_or_not_at_all() {
        let dir = TempDir::new().unwrap();
        let state = IndexState {
            store: StoreId(1),
            indexed: Lsn(2),
            crc: 3,
            newest: Timestamp(-4),
            trimmed: Lsn(5),
            known: Lsn(6),
        };
        let ceiling = Ceiling { lsn: Lsn(7), crc: u32::MAX };
        assert_eq!(read(dir.path()), None);
        let marks = Marks::open(dir.path()).unwrap();
        marks.write(state).unwrap();
        assert_eq!(read(dir.path()), None, "the ceiling is missing");
        marks.raise(ceiling).unwrap();
        assert_eq!(read(dir.path()), Some((state, ceiling)));
        for name in ["mark", "ceiling"] {
            let whole = fs::read(dir.path().join(name)).unwrap();
            for at in 0..whole.len() {
                let mut bytes = whole.clone();
                bytes[at] ^= 1;
                fs::write(dir.path().join(name), bytes).unwrap();
                assert_eq!(read(dir.path()), None, "{name}, byte {at}");
            }
            fs::write(dir.path().join(name), whole).unwrap();
        }
    }
}
