//! Committed records that the index does not hold yet, as look-ups.
//!
//! Like an LSM tree's memory table: one overlay takes what is committed, at most one other is being written into the
//! index; readers ask the newest first. So look-ups see every record as soon as its commit has returned, while the index
//! is written by another thread in large batches. Everything here can be made again from the log.

use std::collections::{BTreeMap, BTreeSet};

use hashbrown::HashMap;
use tidegate_control_core::domain::{
    Append, Epoch, Gid, GroupChange, Lsn, Mark, MembershipChange, Record, Seq, StreamKey, Timestamp, Uid,
};
use tidegate_control_core::ports::{DedupHit, DeviceMark, Group, Member};

use super::codec;
use super::log::Location;

/// A group as of the record at `lsn`. Members that joined before it belong to an earlier life of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupRow {
    pub group: Group,
    pub lsn: Lsn,
}

/// A membership as of the record at `lsn`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberRow {
    pub member: Member,
    pub lsn: Lsn,
}

/// Where a stream stands, without its trimmed beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadRow {
    pub epoch: Epoch,
    pub head: Seq,
    /// Of the newest message: orders a user's groups by activity.
    pub last: Lsn,
}

#[derive(Clone, Debug)]
pub struct StreamDelta {
    pub row: HeadRow,
    /// Of the row's epoch, in order.
    pub places: Vec<(Seq, Location)>,
}

/// Rows that a record's meaning depends on, looked up before it is applied.
#[derive(Debug, Default)]
pub struct Prior {
    pub groups: HashMap<Gid, GroupRow>,
    pub members: HashMap<(Gid, Uid), MemberRow>,
}

#[derive(Debug, Default)]
pub struct Overlay {
    pub records: usize,
    /// The newest record applied.
    pub last: Lsn,
    /// Its header crc; set by who applied the records.
    pub last_crc: u32,
    pub newest: Timestamp,
    pub streams: HashMap<StreamKey, StreamDelta>,
    pub dedup: HashMap<[u8; 16], DedupHit>,
    pub groups: HashMap<Gid, GroupRow>,
    pub members: BTreeMap<(Gid, Uid), MemberRow>,
    /// Every pair of `members`, by user.
    pub memberships: BTreeSet<(Uid, Gid)>,
    pub marks: HashMap<(Uid, StreamKey), Vec<DeviceMark>>,
    pub reads: HashMap<(Uid, StreamKey), (Epoch, Seq)>,
}

impl Overlay {
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    pub fn apply(&mut self, at: Location, record: &Record, prior: &Prior) {
        self.records += 1;
        self.last = at.lsn;
        self.newest = self.newest.max(codec::timestamp(record));
        match record {
            Record::Append(append) => {
                self.apply_places(at, append);
                if let (Some(change), Some(place)) = (&append.membership, append.places.first()) {
                    self.apply_membership(at.lsn, change, place.seq, prior);
                }
            }
            Record::Group(change) => self.apply_group(at.lsn, change, prior),
            Record::Mark(mark) => self.apply_mark(mark),
            Record::Read(mark) => {
                self.reads.insert((mark.uid.clone(), mark.stream.clone()), (mark.epoch, mark.seq));
            }
            Record::Joined(_) => {}
        }
    }

    /// Only the places and keys of a record whose effect on groups, marks and cursors is known already.
    pub fn apply_known(&mut self, at: Location, record: &Record) {
        self.records += 1;
        self.last = at.lsn;
        self.newest = self.newest.max(codec::timestamp(record));
        if let Record::Append(append) = record {
            self.apply_places(at, append);
        }
    }

    fn apply_places(&mut self, at: Location, append: &Append) {
        for place in &append.places {
            let row = HeadRow { epoch: place.epoch, head: place.seq, last: at.lsn };
            match self.streams.get_mut(&place.stream) {
                Some(delta) => {
                    if delta.row.epoch != place.epoch {
                        delta.places.clear();
                    }
                    delta.row = row;
                    delta.places.push((place.seq, at));
                }
                None => {
                    let delta = StreamDelta { row, places: vec![(place.seq, at)] };
                    self.streams.insert(place.stream.clone(), delta);
                }
            }
        }
        if let (Some(dedup), Some(first)) = (append.dedup, append.places.first()) {
            let (epoch, seq, id) = (first.epoch, first.seq, append.body.id);
            self.dedup.insert(dedup.key, DedupHit { epoch, seq, id, fingerprint: dedup.fingerprint });
        }
    }

    fn apply_membership(&mut self, lsn: Lsn, change: &MembershipChange, seq: Seq, prior: &Prior) {
        let key = (change.gid.clone(), change.uid.clone());
        let begun = self.groups.get(&change.gid).or(prior.groups.get(&change.gid)).map_or(Lsn(0), |g| g.lsn);
        let known = self.members.get(&key).or(prior.members.get(&key)).filter(|row| row.lsn > begun);
        // Applied again over a row that knows this change and later ones: the row stays, but all tables get it.
        if let Some(newer) = known.filter(|row| row.lsn >= lsn).cloned() {
            self.memberships.insert((change.uid.clone(), change.gid.clone()));
            self.members.insert(key, newer);
            return;
        }
        let member = match (change.role, known.map(|row| &row.member)) {
            (Some(role), known) => {
                let joined = known.filter(|m| m.left.is_none()).map_or(seq, |m| m.joined);
                Member { gid: change.gid.clone(), uid: change.uid.clone(), role, joined, left: None }
            }
            (None, Some(known)) => Member { left: Some(seq), ..known.clone() },
            (None, None) => return,
        };
        self.memberships.insert((change.uid.clone(), change.gid.clone()));
        self.members.insert(key, MemberRow { member, lsn });
    }

    fn apply_group(&mut self, lsn: Lsn, change: &GroupChange, prior: &Prior) {
        let known = self.groups.get(&change.gid).or(prior.groups.get(&change.gid));
        if let Some(newer) = known.filter(|row| row.lsn >= lsn).cloned() {
            self.groups.insert(change.gid.clone(), newer);
            return;
        }
        let same = known.filter(|row| row.group.epoch == change.epoch);
        let group = Group {
            gid: change.gid.clone(),
            epoch: change.epoch,
            open: change.open,
            name: change.name.clone(),
            creator: change.creator.clone(),
            created: same.map_or(change.ts, |row| row.group.created),
            dismissed: change.dismissed,
        };
        self.groups.insert(change.gid.clone(), GroupRow { group, lsn });
    }

    fn apply_mark(&mut self, mark: &Mark) {
        let marks = self.marks.entry((mark.uid.clone(), mark.stream.clone())).or_default();
        let mark = DeviceMark { device: mark.device.clone(), epoch: mark.epoch, seq: mark.seq, ts: mark.ts };
        put_mark(marks, mark);
    }
}

impl StreamDelta {
    /// Places of `(after, upto]`.
    pub fn places_between(&self, after: Seq, upto: Seq) -> &[(Seq, Location)] {
        let from = self.places.partition_point(|(seq, _)| *seq <= after);
        let to = self.places.partition_point(|(seq, _)| *seq <= upto);
        &self.places[from..to.max(from)]
    }
}

/// A device has one mark; past the bound the oldest one goes, be it this one: so marks applied again cannot push out newer
/// ones.
pub fn put_mark(marks: &mut Vec<DeviceMark>, mark: DeviceMark) {
    marks.retain(|known| known.device != mark.device);
    marks.push(mark);
    if marks.len() > super::DEVICE_MARKS_MAX {
        let oldest = marks.iter().enumerate().min_by_key(|(_, m)| m.ts).map_or(0, |(at, _)| at);
        marks.remove(oldest);
    }
}
