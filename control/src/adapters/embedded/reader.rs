//! [`StoreReader`] over overlay, index and log; for the owner and for any number of API threads.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidegate_control_core::domain::{Epoch, Gid, Lsn, Record, Seq, StreamKey, Timestamp, Uid};
use tidegate_control_core::ports::{
    DedupHit, DeviceMark, Group, Head, Member, Page, PageLimit, ReplayPage, StoreError, StoreReader, Stored,
};

use super::codec;
use super::error::{IndexError, ReadError};
use super::index::{DedupStats, merge_marks};
use super::log::Location;
use super::log::read::LogScan;
use super::overlay::MemberRow;
use super::recent::page_bytes;
use super::shared::{Shared, WALK_CHUNK_BYTES};

/// How often a look-up starts anew because retention took away what it was about to read.
const TRIMMED_RETRIES_MAX: usize = 8;
/// Messages that a page looks up at once.
const PAGE_STEP: u64 = 1_000;
/// A device that was silent for this long has no mark any more.
const MARK_AGE_MAX_MS: i64 = 30 * 24 * 3_600_000;

/// Cheap to clone; keeps the data folder locked as long as it lives.
#[derive(Clone, Debug)]
pub struct EmbeddedReader {
    pub(super) shared: Arc<Shared>,
}

impl EmbeddedReader {
    /// What is remembered of callers' keys.
    pub fn dedup_stats(&self) -> DedupStats {
        self.shared.index.dedup_stats()
    }

    fn head_of(&self, stream: &StreamKey) -> Result<Option<Head>, IndexError> {
        let Some(row) = self.shared.head_row(stream)? else { return Ok(None) };
        let first = self.shared.index.first(stream, row.epoch)?;
        Ok(Some(Head { epoch: row.epoch, head: row.head, first }))
    }

    /// Places of `(after, upto]`, at most [`PAGE_STEP`] seqs of it.
    fn places(
        &self,
        stream: &StreamKey,
        epoch: Epoch,
        after: Seq,
        upto: Seq,
    ) -> Result<Vec<(Seq, Location)>, IndexError> {
        let upto = upto.min(Seq(after.0.saturating_add(PAGE_STEP)));
        let mut newer = Vec::new();
        {
            let live = self.shared.live();
            let oldest_first = live.flushing.as_deref().into_iter().chain([&live.active]);
            for delta in oldest_first.filter_map(|overlay| overlay.streams.get(stream)) {
                if delta.row.epoch == epoch {
                    newer.extend_from_slice(delta.places_between(after, upto));
                }
            }
        }
        let older_upto = newer.first().map_or(upto, |(seq, _)| Seq(seq.0 - 1));
        if older_upto <= after {
            return Ok(newer);
        }
        let mut places = self.shared.index.places(stream, epoch, after, older_upto)?;
        places.extend(newer);
        Ok(places)
    }

    fn page_once(&self, stream: &StreamKey, after: Seq, limit: PageLimit) -> Result<Page, LookupError> {
        let Some(head) = self.head_of(stream)? else {
            return Ok(Page { after, upto: after, messages: Vec::new() });
        };
        let after = after.max(Seq(head.first.0 - 1));
        let mut page = Page { after, upto: after, messages: Vec::new() };
        let mut bytes = 0;
        while page.upto < head.head && page.messages.len() < limit.messages.max(1) {
            let wanted = limit.messages.max(1) - page.messages.len();
            let upto = head.head.min(Seq(page.upto.0.saturating_add((wanted as u64).min(PAGE_STEP))));
            let places = self.places(stream, head.epoch, page.upto, upto)?;
            if places.len() as u64 != upto.0 - page.upto.0 {
                // An epoch has no gaps: what is absent was trimmed since `first` was looked up, and must not seem covered.
                return Err(ReadError::Trimmed.into());
            }
            let locations: Vec<Location> = places.iter().map(|(_, location)| *location).collect();
            let records = self.shared.records_at(&locations)?;
            for ((seq, location), record) in places.iter().zip(&records) {
                bytes += page_bytes(record);
                if bytes > limit.bytes && !page.messages.is_empty() {
                    return Ok(page);
                }
                page.messages.push(self.stored(stream, *seq, record, *location)?);
                page.upto = *seq;
            }
            page.upto = upto;
        }
        Ok(page)
    }

    fn stored(&self, stream: &StreamKey, seq: Seq, record: &Record, at: Location) -> Result<Stored, LookupError> {
        let Record::Append(append) = record else { return Err(self.shared.undecodable(at).into()) };
        let Some(place) = append.places.iter().find(|p| p.stream == *stream && p.seq == seq) else {
            return Err(self.shared.undecodable(at).into());
        };
        let first = &append.places[0];
        let conversation = (place.stream != first.stream).then(|| (first.stream.clone(), first.seq));
        Ok(Stored { seq, body: append.body.clone(), conversation })
    }

    fn seq_before_once(&self, stream: &StreamKey, ts: Timestamp) -> Result<Seq, LookupError> {
        let Some(head) = self.head_of(stream)? else { return Ok(Seq::ZERO) };
        // Invariant: everything at or below `older` is older than `ts`, everything at or above `newer` is not.
        let (mut older, mut newer) = (Seq(head.first.0 - 1), head.head.next());
        while newer.0 - older.0 > 1 {
            let middle = Seq(older.0 + (newer.0 - older.0) / 2);
            let places = self.places(stream, head.epoch, Seq(middle.0 - 1), middle)?;
            let locations: Vec<Location> = places.iter().map(|(_, location)| *location).collect();
            let records = self.shared.records_at(&locations)?;
            if records.first().is_none_or(|record| codec::timestamp(record) < ts) {
                older = middle;
            } else {
                newer = middle;
            }
        }
        Ok(older)
    }

    fn replay_once(&self, from: Lsn, limit: PageLimit) -> Result<ReplayPage, LookupError> {
        let mut page = ReplayPage { records: Vec::new(), upto: from };
        let mut bytes = 0;
        let mut take = |page: &mut ReplayPage, lsn: Lsn, record: Record| {
            bytes += page_bytes(&record);
            let full = page.records.len() >= limit.messages || bytes > limit.bytes;
            if full && !page.records.is_empty() {
                return false;
            }
            page.upto = lsn;
            page.records.push((lsn, record));
            true
        };
        let last = {
            let live = self.shared.live();
            if live.recent.record(from.next()).is_some() {
                let mut lsn = from.next();
                while let Some(record) = live.recent.record(lsn) {
                    if !take(&mut page, lsn, record.clone()) {
                        break;
                    }
                    lsn = lsn.next();
                }
                return Ok(page);
            }
            live.last
        };
        let mut scan = LogScan::new(&self.shared.log, from, last, WALK_CHUNK_BYTES)?;
        while let Some((at, view)) = scan.step()? {
            let record = codec::decode(view.body).map_err(|_| self.shared.undecodable(at))?;
            if !take(&mut page, at.lsn, record) {
                break;
            }
        }
        Ok(page)
    }

    fn members_of(&self, gid: &Gid, after: Option<&Uid>, limit: usize) -> Result<Vec<Member>, IndexError> {
        let mut newer: BTreeMap<Uid, MemberRow> = BTreeMap::new();
        {
            let live = self.shared.live();
            let oldest_first = live.flushing.as_deref().into_iter().chain([&live.active]);
            for overlay in oldest_first {
                let lowest: Uid = LOWEST_NAME.parse().map_err(|_| IndexError::Row { table: "members" })?;
                let from = (gid.clone(), after.cloned().unwrap_or(lowest));
                let rows = overlay.members.range(from..).take_while(|((of, _), _)| of == gid);
                newer.extend(rows.map(|((_, uid), row)| (uid.clone(), row.clone())));
            }
        }
        if let Some(after) = after {
            newer.remove(after);
        }
        let begun = self.shared.group_row(gid)?.map_or(Lsn(0), |group| group.lsn);
        let mut members = Vec::new();
        let mut put = |row: MemberRow| {
            if row.lsn > begun && row.member.left.is_none() {
                members.push(row.member);
            }
            members.len() >= limit
        };
        let mut newer = newer.into_iter().peekable();
        for row in self.shared.index.members(gid, after) {
            let row = row?;
            while let Some((_, new)) = newer.next_if(|(uid, _)| *uid < row.member.uid) {
                if put(new) {
                    return Ok(members);
                }
            }
            let row = newer.next_if(|(uid, _)| *uid == row.member.uid).map_or(row, |(_, new)| new);
            if put(row) {
                return Ok(members);
            }
        }
        for (_, row) in newer {
            if put(row) {
                break;
            }
        }
        Ok(members)
    }

    fn groups_by_activity(&self, uid: &Uid, limit: usize) -> Result<Vec<Gid>, IndexError> {
        let mut gids: Vec<Gid> = {
            let live = self.shared.live();
            let lowest: Gid = LOWEST_NAME.parse().map_err(|_| IndexError::Row { table: "memberships" })?;
            let of_user = |overlay: &super::overlay::Overlay| {
                let rows = overlay.memberships.range((uid.clone(), lowest.clone())..);
                rows.take_while(|(of, _)| of == uid).map(|(_, gid)| gid.clone()).collect::<Vec<_>>()
            };
            live.overlays().flat_map(of_user).collect()
        };
        gids.extend(self.shared.index.memberships(uid)?);
        gids.sort_unstable();
        gids.dedup();
        let mut groups = Vec::new();
        for gid in gids {
            if self.shared.member_row(&gid, uid)?.is_some_and(|row| row.member.left.is_none()) {
                let active = self.shared.head_row(&gid.stream())?.map_or(Lsn(0), |head| head.last);
                groups.push((active, gid));
            }
        }
        groups.sort_unstable_by(|a, b| b.cmp(a));
        Ok(groups.into_iter().take(limit).map(|(_, gid)| gid).collect())
    }

    /// Retention moves the firsts before it unlinks, so starting anew finds the new first.
    fn despite_retention<T>(&self, mut look: impl FnMut() -> Result<T, LookupError>) -> Result<T, StoreError> {
        for _ in 0..TRIMMED_RETRIES_MAX {
            match look() {
                Err(LookupError::Read(ReadError::Trimmed)) => {}
                done => return done.map_err(|error| self.fatal(error)),
            }
        }
        Err(StoreError::Unavailable("retention is overtaking this look-up".into()))
    }

    fn fatal(&self, error: LookupError) -> StoreError {
        match error {
            LookupError::Index(error) => self.shared.index_failed(error),
            LookupError::Read(error) => error.into(),
        }
    }
}

/// Sorts before every other name: `-` is the lowest character that a name may hold.
const LOWEST_NAME: &str = "-";

impl StoreReader for EmbeddedReader {
    fn head(&self, stream: &StreamKey) -> Result<Option<Head>, StoreError> {
        self.head_of(stream).map_err(|e| self.shared.index_failed(e))
    }

    fn dedup(&self, key: &[u8; 16]) -> Result<Option<DedupHit>, StoreError> {
        let live = self.shared.live();
        if let Some(hit) = live.overlays().find_map(|overlay| overlay.dedup.get(key)) {
            return Ok(Some(*hit));
        }
        drop(live);
        self.shared.index.dedup(key).map_err(|e| self.shared.index_failed(e))
    }

    fn page(&self, stream: &StreamKey, after: Seq, limit: PageLimit) -> Result<Page, StoreError> {
        self.despite_retention(|| self.page_once(stream, after, limit))
    }

    fn seq_before(&self, stream: &StreamKey, ts: Timestamp) -> Result<Seq, StoreError> {
        self.despite_retention(|| self.seq_before_once(stream, ts))
    }

    fn group(&self, gid: &Gid) -> Result<Option<Group>, StoreError> {
        let row = self.shared.group_row(gid).map_err(|e| self.shared.index_failed(e))?;
        Ok(row.map(|row| row.group))
    }

    fn member(&self, gid: &Gid, uid: &Uid) -> Result<Option<Member>, StoreError> {
        let row = self.shared.member_row(gid, uid).map_err(|e| self.shared.index_failed(e))?;
        Ok(row.map(|row| row.member))
    }

    fn members(&self, gid: &Gid, after: Option<&Uid>, limit: usize) -> Result<Vec<Member>, StoreError> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        self.members_of(gid, after, limit).map_err(|e| self.shared.index_failed(e))
    }

    fn groups_of(&self, uid: &Uid, limit: usize) -> Result<Vec<Gid>, StoreError> {
        self.groups_by_activity(uid, limit).map_err(|e| self.shared.index_failed(e))
    }

    fn marks(&self, uid: &Uid, stream: &StreamKey) -> Result<Vec<DeviceMark>, StoreError> {
        let key = (uid.clone(), stream.clone());
        let newer: Vec<Vec<DeviceMark>> = {
            let live = self.shared.live();
            live.overlays().filter_map(|overlay| overlay.marks.get(&key).cloned()).collect()
        };
        let older = self.shared.index.marks(uid, stream).map_err(|e| self.shared.index_failed(e))?;
        let mut marks = newer.iter().rev().fold(older, |marks, newer| merge_marks(marks, newer));
        let oldest = Timestamp(self.shared.now().0 - MARK_AGE_MAX_MS);
        marks.retain(|mark| mark.ts >= oldest);
        Ok(marks)
    }

    fn read_cursor(&self, uid: &Uid, stream: &StreamKey) -> Result<Option<(Epoch, Seq)>, StoreError> {
        let key = (uid.clone(), stream.clone());
        let known = self.shared.live().overlays().find_map(|overlay| overlay.reads.get(&key).copied());
        match known {
            Some(cursor) => Ok(Some(cursor)),
            None => self.shared.index.read_cursor(uid, stream).map_err(|e| self.shared.index_failed(e)),
        }
    }

    fn last_lsn(&self) -> Lsn {
        self.shared.live().last
    }

    fn replay(&self, from: Lsn, limit: PageLimit) -> Result<Option<ReplayPage>, StoreError> {
        if from >= self.last_lsn() {
            return Ok(Some(ReplayPage { records: Vec::new(), upto: from }));
        }
        if from.next() < self.shared.log.start() {
            return Ok(None);
        }
        match self.replay_once(from, limit) {
            Ok(page) => Ok(Some(page)),
            Err(LookupError::Read(ReadError::Trimmed)) => Ok(None),
            Err(error) => Err(self.fatal(error)),
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum LookupError {
    #[error(transparent)]
    Index(#[from] IndexError),
    #[error(transparent)]
    Read(#[from] ReadError),
}
