//! What can be looked up in the log, kept in fjall.
//!
//! Invariants:
//! * It is never the truth: everything here can be made again from the log (and the snapshot that retention left).
//! * Only rows known to stand in fjall's tables count after an opening, never its journal ([`mark`]); records after the mark
//!   are applied again. Tables may hold rows of newer records already, each table its own, so applying a record must come
//!   to the same over older and over newer rows.
//! * One thread writes; any thread reads.

mod dedup;
mod filter;
pub mod mark;
pub mod rows;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, Readable as _};
use hashbrown::HashMap;
use tidegate_control_core::domain::{Epoch, Gid, Lsn, Seq, StreamKey, Uid};
use tidegate_control_core::ports::{DedupHit, DeviceMark};

use super::DEVICE_MARKS_MAX;
use super::error::IndexError;
use super::log::Location;
use super::overlay::{GroupRow, HeadRow, MemberRow, Overlay, StreamDelta};
use mark::{Ceiling, IndexState, Marks};
use rows::RUN_SEQS_MAX;

pub use dedup::{DedupLimits, DedupStats};

/// Rows of a snapshot written into the index at once.
const LOAD_ROWS_MAX: usize = 20_000;
/// Never read again, so fjall's least.
const JOURNAL_BYTES_MAX: u64 = 64 * 1024 * 1024;
const MEMTABLE_BYTES_MAX: u64 = 16 * 1024 * 1024;

pub struct Index {
    db: Database,
    meta: Keyspace,
    heads: Keyspace,
    firsts: Keyspace,
    places: Keyspace,
    groups: Keyspace,
    members: Keyspace,
    memberships: Keyspace,
    marks: Keyspace,
    reads: Keyspace,
    dedup: dedup::Dedup,
    marks_of_progress: Marks,
    /// [`IndexState::trimmed`]; zero spares every look-up of a first.
    trimmed: AtomicU64,
}

/// Memory tables on their way to disk; when none is left, everything up to the state's record is in tables.
pub struct Checkpoint {
    state: IndexState,
    waiting: Vec<Keyspace>,
}

/// Tables that a snapshot holds: what the log alone cannot give back once its beginning is unlinked. The numbers stand in
/// snapshot files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeptTable {
    Heads = 1,
    Firsts = 2,
    Groups = 3,
    Members = 4,
    Memberships = 5,
    Marks = 6,
    Reads = 7,
}

/// The highest seq of each stream and epoch among some records.
pub type Highest = HashMap<(StreamKey, Epoch), Seq>;

/// Table, key and value, as they stand in both index and snapshot.
pub type KeptRow = (KeptTable, Vec<u8>, Vec<u8>);

impl KeptTable {
    pub const ALL: [KeptTable; 7] = [
        KeptTable::Heads,
        KeptTable::Firsts,
        KeptTable::Groups,
        KeptTable::Members,
        KeptTable::Memberships,
        KeptTable::Marks,
        KeptTable::Reads,
    ];
}

pub(super) fn table_options() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES_MAX)
}

impl Index {
    /// Opens the tables in `dir`, or makes new ones; `trimmed` as the mark says.
    pub fn open(dir: &Path, trimmed: Lsn, cache_bytes: u64, limits: DedupLimits) -> Result<Index, IndexError> {
        let tables = dir.join("tables");
        std::fs::create_dir_all(dir)?;
        if tables.exists() && !mark::forget_journals(&tables)? {
            return Err(IndexError::Row { table: "journal" });
        }
        let db = Database::builder(&tables)
            .cache_size(cache_bytes)
            .worker_threads(2)
            .max_journaling_size(JOURNAL_BYTES_MAX)
            .manual_journal_persist(true)
            .open()?;
        let table = |name: &str| db.keyspace(name, table_options);
        let meta = table("meta")?;
        let dedup = dedup::Dedup::open(&db, &meta, limits)?;
        Ok(Index {
            heads: table("heads")?,
            firsts: table("firsts")?,
            places: table("places")?,
            groups: table("groups")?,
            members: table("members")?,
            memberships: table("memberships")?,
            marks: table("marks")?,
            reads: table("reads")?,
            meta,
            dedup,
            db,
            marks_of_progress: Marks::open(dir)?,
            trimmed: AtomicU64::new(trimmed.0),
        })
    }

    /// Says durably that rows of records up to here may come.
    pub fn raise(&self, ceiling: Ceiling) -> Result<(), IndexError> {
        Ok(self.marks_of_progress.raise(ceiling)?)
    }

    /// Begins to move everything into tables.
    pub fn begin_checkpoint(&self, state: IndexState) -> Result<Checkpoint, IndexError> {
        let fixed = [&self.meta, &self.heads, &self.firsts, &self.places, &self.groups];
        let others = [&self.members, &self.memberships, &self.marks, &self.reads];
        let mut waiting: Vec<Keyspace> = fixed.into_iter().chain(others).cloned().collect();
        waiting.extend(self.dedup.keyspaces());
        for keyspace in &waiting {
            keyspace.rotate_memtable()?;
        }
        Ok(Checkpoint { state, waiting })
    }

    /// True: the checkpoint is complete and marked.
    pub fn finish_checkpoint(&self, checkpoint: &mut Checkpoint) -> Result<bool, IndexError> {
        checkpoint.waiting.retain(|keyspace| keyspace.sealed_memtable_count() > 0);
        if !checkpoint.waiting.is_empty() {
            return Ok(false);
        }
        self.marks_of_progress.write(checkpoint.state)?;
        Ok(true)
    }

    pub fn dedup_stats(&self) -> DedupStats {
        self.dedup.stats()
    }

    /// Makes look-ups of keys from before this opening as cheap as those of new ones.
    pub fn build_filters(&self, stop: &AtomicBool) -> Result<(), IndexError> {
        self.dedup.build_filters(stop)
    }
}

/// Look-ups.
impl Index {
    pub fn head(&self, stream: &StreamKey) -> Result<Option<HeadRow>, IndexError> {
        self.heads.get(stream.as_str())?.map(|row| rows::decode_head(&row)).transpose()
    }

    /// Oldest seq of this epoch that was not trimmed.
    pub fn first(&self, stream: &StreamKey, epoch: Epoch) -> Result<Seq, IndexError> {
        if self.trimmed.load(Ordering::Acquire) == 0 {
            return Ok(Seq(1));
        }
        let row = self.firsts.get(stream.as_str())?.map(|row| rows::decode_cursor(&row)).transpose()?;
        Ok(row.filter(|(of, _)| *of == epoch).map_or(Seq(1), |(_, first)| first))
    }

    /// Places of `(after, upto]`, in order.
    pub fn places(
        &self,
        stream: &StreamKey,
        epoch: Epoch,
        after: Seq,
        upto: Seq,
    ) -> Result<Vec<(Seq, Location)>, IndexError> {
        let from = after.next();
        let wide = Seq(from.0.saturating_sub(RUN_SEQS_MAX - 1));
        let key = |seq| rows::run_key(stream, epoch, seq);
        let nearest = self.places.range(key(wide)..=key(from)).next_back();
        let near = match nearest {
            Some(row) => rows::run_key_seq(&row.key()?)?,
            None => from,
        };
        let mut found = self.runs(stream, epoch, near, after, upto)?;
        // Indexing again after a crash may cut rows differently, so that a longer row stands behind the nearest one.
        if (found.len() as u64) < upto.0 - after.0 && wide < near {
            found = self.runs(stream, epoch, wide, after, upto)?;
        }
        Ok(found)
    }

    fn runs(
        &self,
        stream: &StreamKey,
        epoch: Epoch,
        from: Seq,
        after: Seq,
        upto: Seq,
    ) -> Result<Vec<(Seq, Location)>, IndexError> {
        let mut found = Vec::new();
        let keys = rows::run_key(stream, epoch, from)..=rows::run_key(stream, epoch, upto);
        for row in self.places.range(keys) {
            let (key, value) = row.into_inner()?;
            rows::decode_run(rows::run_key_seq(&key)?, &value, &mut found)?;
        }
        found.retain(|(seq, _)| *seq > after && *seq <= upto);
        found.sort_by_key(|(seq, location)| (*seq, location.lsn));
        found.dedup_by_key(|(seq, _)| *seq);
        Ok(found)
    }

    pub fn dedup(&self, key: &[u8; 16]) -> Result<Option<DedupHit>, IndexError> {
        self.dedup.find(key)
    }

    pub fn group(&self, gid: &Gid) -> Result<Option<GroupRow>, IndexError> {
        self.groups.get(gid.as_str())?.map(|row| rows::decode_group(gid, &row)).transpose()
    }

    pub fn member(&self, gid: &Gid, uid: &Uid) -> Result<Option<MemberRow>, IndexError> {
        let row = self.members.get(rows::pair_key(gid.as_str(), uid.as_str()))?;
        row.map(|row| rows::decode_member(gid, uid, &row)).transpose()
    }

    /// Rows of a group after a uid, in order of uid, present or not.
    pub fn members<'a>(
        &self,
        gid: &'a Gid,
        after: Option<&Uid>,
    ) -> impl Iterator<Item = Result<MemberRow, IndexError>> + use<'a> {
        let prefix = rows::prefix_key(gid.as_str());
        let mut from = after.map_or_else(|| prefix.clone(), |uid| rows::pair_key(gid.as_str(), uid.as_str()));
        from.push(0);
        let mut end = prefix.clone();
        end.pop();
        end.push(1);
        let start = if after.is_some() { from } else { prefix.clone() };
        self.members.range(start..end).map(move |row| {
            let (key, value) = row.into_inner()?;
            rows::decode_member(gid, &rows::name_after(&key, &prefix, "members")?, &value)
        })
    }

    /// Groups that a user was ever a member of since they began.
    pub fn memberships(&self, uid: &Uid) -> Result<Vec<Gid>, IndexError> {
        let prefix = rows::prefix_key(uid.as_str());
        let rows = self.memberships.prefix(&prefix);
        rows.map(|row| rows::name_after(&row.key()?, &prefix, "memberships")).collect()
    }

    pub fn marks(&self, uid: &Uid, stream: &StreamKey) -> Result<Vec<DeviceMark>, IndexError> {
        let prefix = rows::mark_prefix(uid, stream);
        let rows = self.marks.prefix(&prefix).map(|row| {
            let (key, value) = row.into_inner()?;
            rows::decode_mark(&key[prefix.len()..], &value)
        });
        rows.collect()
    }

    pub fn read_cursor(&self, uid: &Uid, stream: &StreamKey) -> Result<Option<(Epoch, Seq)>, IndexError> {
        let row = self.reads.get(rows::pair_key(uid.as_str(), stream.as_str()))?;
        row.map(|row| rows::decode_cursor(&row)).transpose()
    }
}

/// Writing; by one thread.
impl Index {
    /// Makes the overlay's rows part of the index.
    pub fn apply(&self, overlay: &Overlay) -> Result<(), IndexError> {
        self.raise(Ceiling { lsn: overlay.last, crc: overlay.last_crc })?;
        let mut batch = OwnedWriteBatch::with_capacity(self.db.clone(), overlay.records * 2);
        for (stream, delta) in &overlay.streams {
            self.stage_places(&mut batch, stream, delta);
            batch.insert(&self.heads, stream.as_str(), rows::encode_head(delta.row));
        }
        for (gid, row) in &overlay.groups {
            batch.insert(&self.groups, gid.as_str(), rows::encode_group(row));
            self.stage_forgetting_members(&mut batch, row, overlay)?;
        }
        for ((gid, uid), row) in &overlay.members {
            if overlay.groups.get(gid).is_none_or(|group| row.lsn > group.lsn) {
                batch.insert(&self.members, rows::pair_key(gid.as_str(), uid.as_str()), rows::encode_member(row));
                batch.insert(&self.memberships, rows::pair_key(uid.as_str(), gid.as_str()), Vec::new());
            }
        }
        for ((uid, stream), marks) in &overlay.marks {
            self.stage_marks(&mut batch, uid, stream, marks)?;
        }
        for ((uid, stream), (epoch, seq)) in &overlay.reads {
            let key = rows::pair_key(uid.as_str(), stream.as_str());
            batch.insert(&self.reads, key, rows::encode_cursor(*epoch, *seq));
        }
        let mut keys: Vec<_> = overlay.dedup.iter().collect();
        keys.sort_unstable_by_key(|(key, _)| **key);
        let gone = self.dedup.stage(&self.db, &self.meta, &mut batch, &keys, overlay.newest)?;
        batch.commit()?;
        for keyspace in gone {
            self.db.delete_keyspace(keyspace)?;
        }
        Ok(())
    }

    fn stage_places(&self, batch: &mut OwnedWriteBatch, stream: &StreamKey, delta: &StreamDelta) {
        let mut rest = &delta.places[..];
        while let Some((first, _)) = rest.first() {
            let end = Seq(first.0.saturating_add(RUN_SEQS_MAX));
            let (run, after) = rest.split_at(rest.partition_point(|(seq, _)| *seq < end));
            batch.insert(&self.places, rows::run_key(stream, delta.row.epoch, *first), rows::encode_run(run));
            rest = after;
        }
    }

    /// Members of a group's earlier life would otherwise stay for ever. A key stands in a batch once: those that joined
    /// again are overwritten instead.
    fn stage_forgetting_members(
        &self,
        batch: &mut OwnedWriteBatch,
        row: &GroupRow,
        overlay: &Overlay,
    ) -> Result<(), IndexError> {
        let gid = &row.group.gid;
        for member in self.members(gid, None) {
            let member = member?;
            let key = (gid.clone(), member.member.uid);
            let again = overlay.members.get(&key).is_some_and(|new| new.lsn > row.lsn);
            if member.lsn < row.lsn && !again {
                batch.remove(&self.members, rows::pair_key(gid.as_str(), key.1.as_str()));
                batch.remove(&self.memberships, rows::pair_key(key.1.as_str(), gid.as_str()));
            }
        }
        Ok(())
    }

    fn stage_marks(
        &self,
        batch: &mut OwnedWriteBatch,
        uid: &Uid,
        stream: &StreamKey,
        marks: &[DeviceMark],
    ) -> Result<(), IndexError> {
        let prefix = rows::mark_prefix(uid, stream);
        let key = |device: &str| [&prefix, device.as_bytes()].concat();
        let before = self.marks(uid, stream)?;
        let after = merge_marks(before.clone(), marks);
        for mark in marks.iter().filter(|mark| after.contains(mark)) {
            batch.insert(&self.marks, key(&mark.device), rows::encode_mark(mark));
        }
        for mark in before.iter().filter(|old| !after.iter().any(|new| new.device == old.device)) {
            batch.remove(&self.marks, key(&mark.device));
        }
        Ok(())
    }

    /// Moves the firsts of streams past messages that are about to go. `highest` maps a stream to the highest seq of that
    /// epoch that goes, with all records up to `trimmed`.
    pub fn move_firsts(&self, highest: &Highest, trimmed: Lsn) -> Result<(), IndexError> {
        let mut batch = self.db.batch();
        for ((stream, epoch), upto) in highest {
            if self.head(stream)?.is_some_and(|head| head.epoch == *epoch) {
                batch.insert(&self.firsts, stream.as_str(), rows::encode_cursor(*epoch, upto.next()));
            }
        }
        self.trimmed.fetch_max(trimmed.0, Ordering::AcqRel);
        Ok(batch.commit()?)
    }

    /// Forgets the places of messages that go; only once their streams' moved firsts are in tables, since a first without
    /// its places would look like messages that never were.
    pub fn forget_places(&self, highest: &Highest) -> Result<(), IndexError> {
        let mut batch = self.db.batch();
        let mut run = Vec::new();
        for ((stream, epoch), upto) in highest {
            let keys = rows::run_key(stream, *epoch, Seq::ZERO)..=rows::run_key(stream, *epoch, *upto);
            for row in self.places.range(keys) {
                let (key, value) = row.into_inner()?;
                run.clear();
                rows::decode_run(rows::run_key_seq(&key)?, &value, &mut run)?;
                if run.last().is_none_or(|(seq, _)| seq <= upto) {
                    batch.remove(&self.places, key);
                }
            }
        }
        Ok(batch.commit()?)
    }
}

/// Snapshots.
impl Index {
    fn kept(&self, table: KeptTable) -> &Keyspace {
        match table {
            KeptTable::Heads => &self.heads,
            KeptTable::Firsts => &self.firsts,
            KeptTable::Groups => &self.groups,
            KeptTable::Members => &self.members,
            KeptTable::Memberships => &self.memberships,
            KeptTable::Marks => &self.marks,
            KeptTable::Reads => &self.reads,
        }
    }

    /// A view of all tables at one moment, which later writes do not change.
    pub fn view(&self) -> fjall::Snapshot {
        self.db.snapshot()
    }

    pub fn rows<'a>(
        &'a self,
        view: &'a fjall::Snapshot,
        table: KeptTable,
    ) -> impl Iterator<Item = Result<(fjall::Slice, fjall::Slice), IndexError>> + 'a {
        view.iter(self.kept(table)).map(|row| Ok(row.into_inner()?))
    }

    /// Rows of a snapshot, into an empty index.
    pub fn load(&self, rows: impl Iterator<Item = KeptRow>) -> Result<(), IndexError> {
        let mut batch = self.db.batch();
        for (table, key, value) in rows {
            batch.insert(self.kept(table), key, value);
            if batch.len() >= LOAD_ROWS_MAX {
                std::mem::replace(&mut batch, self.db.batch()).commit()?;
            }
        }
        Ok(batch.commit()?)
    }
}

/// Newer marks over older ones, within the bound of devices.
pub fn merge_marks(mut before: Vec<DeviceMark>, newer: &[DeviceMark]) -> Vec<DeviceMark> {
    for mark in newer {
        super::overlay::put_mark(&mut before, mark.clone());
    }
    debug_assert!(before.len() <= DEVICE_MARKS_MAX);
    before
}

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Index").field("trimmed", &Lsn(self.trimmed.load(Ordering::Relaxed))).finish_non_exhaustive()
    }
}
