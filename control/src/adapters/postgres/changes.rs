//! What a batch of records changes in the tables: one row per key, so that one statement per table writes it.
//!
//! Within a batch later records overwrite earlier ones here, in memory, since PostgreSQL refuses to touch a row twice in one
//! statement.

use std::collections::BTreeMap;

use smallvec::SmallVec;
use tidegate_control_core::domain::{
    Append, Epoch, Gid, GroupChange, Lsn, Mark, MembershipChange, MessageId, Place, Record, Role, Seq, StreamKey,
    StreamKind, Timestamp, Uid,
};
use tidegate_control_core::ports::{DedupHit, Progress};

use crate::adapters::embedded::codec;

#[derive(Debug, Default)]
pub(super) struct Changes {
    pub records: Vec<LogRow>,
    pub places: Vec<PlaceRow>,
    pub heads: BTreeMap<StreamKey, HeadRow>,
    pub dedup: BTreeMap<[u8; 16], (DedupHit, Timestamp)>,
    pub groups: BTreeMap<Gid, GroupRow>,
    pub members: BTreeMap<(Gid, Uid), MemberRow>,
    pub marks: BTreeMap<(Uid, StreamKey, Box<str>), MarkRow>,
    pub reads: BTreeMap<(Uid, StreamKey), (Epoch, Seq)>,
    /// Newest of all records.
    pub newest: Timestamp,
    pub progress: Progress,
}

#[derive(Debug)]
pub(super) struct LogRow {
    pub lsn: Lsn,
    pub ts: Timestamp,
    pub record: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct PlaceRow {
    pub stream: StreamKey,
    pub epoch: Epoch,
    pub seq: Seq,
    pub lsn: Lsn,
    pub ts: Timestamp,
    pub size: usize,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct HeadRow {
    pub epoch: Epoch,
    pub head: Seq,
    /// Of the streams that have no row in this epoch yet.
    pub first: Seq,
    pub last_lsn: Lsn,
    pub last_ts: Timestamp,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct GroupRow {
    pub change: GroupChange,
    /// Kept if the stored group has the same epoch.
    pub created: Timestamp,
}

/// What becomes of a member's row, whatever it was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MemberRow {
    /// A present member keeps the place of joining; otherwise `joined` is it.
    Joined { role: Role, joined: Seq, left: Option<Seq> },
    /// As `Joined`, but left before within the batch, so `joined` is the place in any case.
    Anew { role: Role, joined: Seq, left: Option<Seq> },
    /// Nothing, if there is no row.
    Left { left: Seq },
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct MarkRow {
    pub epoch: Epoch,
    pub seq: Seq,
    pub ts: Timestamp,
    pub lsn: Lsn,
}

impl Changes {
    /// Of records that get the lsns after `last`.
    pub fn of(last: Lsn, records: &[Record]) -> Changes {
        let mut changes = Changes { newest: Timestamp(i64::MIN), ..Changes::default() };
        let mut lsn = last;
        for record in records {
            lsn = lsn.next();
            changes.apply(lsn, record);
        }
        changes
    }

    fn apply(&mut self, lsn: Lsn, record: &Record) {
        let ts = codec::timestamp(record);
        self.newest = self.newest.max(ts);
        let mut bytes = Vec::new();
        codec::encode(record, &mut bytes);
        self.records.push(LogRow { lsn, ts, record: bytes });
        match record {
            Record::Append(append) => self.append(lsn, append),
            Record::Group(change) => self.change_group(change),
            Record::Mark(mark) => {
                let key = (mark.uid.clone(), mark.stream.clone(), mark.device.clone());
                self.marks.insert(key, MarkRow { epoch: mark.epoch, seq: mark.seq, ts: mark.ts, lsn });
            }
            Record::Read(Mark { uid, stream, epoch, seq, .. }) => {
                self.reads.insert((uid.clone(), stream.clone()), (*epoch, *seq));
            }
            Record::Joined(_) => {}
        }
    }

    fn append(&mut self, lsn: Lsn, append: &Append) {
        let ts = append.body.ts;
        let size = append.body.content.len() + append.body.metadata.len();
        for place in own_places(append) {
            let (epoch, seq) = (place.epoch, place.seq);
            let known = self.heads.get(&place.stream).filter(|row| row.epoch == epoch);
            let first = known.map_or(seq, |row| row.first);
            self.heads.insert(place.stream.clone(), HeadRow { epoch, head: seq, first, last_lsn: lsn, last_ts: ts });
            self.places.push(PlaceRow { stream: place.stream.clone(), epoch, seq, lsn, ts, size });
        }
        let first = &append.places[0];
        if let Some(dedup) = append.dedup {
            let MessageId(id) = append.body.id;
            let (epoch, seq, fingerprint) = (first.epoch, first.seq, dedup.fingerprint);
            self.dedup.insert(dedup.key, (DedupHit { epoch, seq, id: MessageId(id), fingerprint }, ts));
        }
        if let Some(change) = &append.membership {
            self.change_membership(change, first.seq);
        }
    }

    /// Ends the membership of all, so what was said of members before is void.
    fn change_group(&mut self, change: &GroupChange) {
        let known = self.groups.get(&change.gid).filter(|row| row.change.epoch == change.epoch);
        let created = known.map_or(change.ts, |row| row.created);
        self.groups.insert(change.gid.clone(), GroupRow { change: change.clone(), created });
        self.members.retain(|(gid, _), _| *gid != change.gid);
    }

    fn change_membership(&mut self, change: &MembershipChange, seq: Seq) {
        use MemberRow::{Anew, Joined, Left};
        let key = (change.gid.clone(), change.uid.clone());
        let row = match (self.members.get(&key).copied(), change.role) {
            (None, Some(role)) => Joined { role, joined: seq, left: None },
            (Some(Joined { joined, left: None, .. }), Some(role)) => Joined { role, joined, left: None },
            (Some(Anew { joined, left: None, .. }), Some(role)) => Anew { role, joined, left: None },
            (Some(_), Some(role)) => Anew { role, joined: seq, left: None },
            (None | Some(Left { .. }), None) => Left { left: seq },
            (Some(Joined { role, joined, .. }), None) => Joined { role, joined, left: Some(seq) },
            (Some(Anew { role, joined, .. }), None) => Anew { role, joined, left: Some(seq) },
        };
        self.members.insert(key, row);
    }
}

/// The places that are in this partition: an inbox's entry of a conversation begins with the conversation's, which is not.
pub(crate) fn own_places(append: &Append) -> &[Place] {
    match append.places.as_slice() {
        [foreign, own] if foreign.stream.kind() == StreamKind::Conversation && is_entry(append) => {
            std::slice::from_ref(own)
        }
        places => places,
    }
}

/// Whether the record is an inbox's entry, and not a whole one-to-one message of a user with themselves.
fn is_entry(append: &Append) -> bool {
    append.places.first().and_then(|place| place.stream.pair()).is_some_and(|(a, b)| a != b)
}

/// Places of a record, for retention, which deletes them with it.
pub(super) fn places_of(record: &Record) -> SmallVec<[(&StreamKey, Epoch, Seq); 3]> {
    match record {
        Record::Append(append) => append.places.iter().map(|place| (&place.stream, place.epoch, place.seq)).collect(),
        _ => SmallVec::new(),
    }
}

#[cfg(test)]
mod tests {
    use tidegate_control_core::contract::store::{begin_group, dismiss_group, fixtures, join, leave, message};

    use super::*;

    fn member(records: &[Record]) -> Option<MemberRow> {
        let key = ("go".parse().expect("a gid"), "ann".parse().expect("a uid"));
        Changes::of(Lsn(0), records).members.remove(&key)
    }

    #[test]
    fn membership_within_a_batch_ends_where_its_records_lead() {
        use MemberRow::{Anew, Joined, Left};
        let (owner, admin) = (Role::Owner, Role::Admin);
        let joined = |role| join("go", 1, "ann", role);
        let row = Joined { role: owner, joined: Seq(1), left: None };
        assert_eq!(member(&[joined(owner)]), Some(row));
        let row = Joined { role: admin, joined: Seq(1), left: None };
        assert_eq!(member(&[joined(owner), join("go", 2, "ann", admin)]), Some(row));
        let row = Joined { role: owner, joined: Seq(1), left: Some(Seq(3)) };
        assert_eq!(member(&[joined(owner), leave("go", 3, "ann")]), Some(row));
        let row = Anew { role: admin, joined: Seq(4), left: None };
        assert_eq!(member(&[joined(owner), leave("go", 3, "ann"), join("go", 4, "ann", admin)]), Some(row));
        assert_eq!(member(&[leave("go", 3, "ann"), join("go", 4, "ann", admin)]), Some(row));
        assert_eq!(member(&[leave("go", 3, "ann")]), Some(Left { left: Seq(3) }));
        let row = Anew { role: admin, joined: Seq(4), left: Some(Seq(5)) };
        let came_back = [leave("go", 3, "ann"), join("go", 4, "ann", admin), leave("go", 5, "ann")];
        assert_eq!(member(&came_back), Some(row));
        assert_eq!(member(&[joined(owner), dismiss_group("go")]), None);
    }

    #[test]
    fn a_stream_ends_at_its_last_place_and_begins_at_the_first_of_its_epoch() {
        let anew = Epoch(9);
        let records = [message("g:go", 7), message("g:go", 8), fixtures::message_of("g:go", anew, 1)];
        let changes = Changes::of(Lsn(40), &records);
        let key = fixtures::stream("g:go");
        let row =
            HeadRow { epoch: anew, head: Seq(1), first: Seq(1), last_lsn: Lsn(43), last_ts: changes.places[2].ts };
        assert_eq!(changes.heads[&key], row);
        assert_eq!(changes.places.iter().map(|row| row.lsn.0).collect::<Vec<_>>(), [41, 42, 43]);
        let changes = Changes::of(Lsn(40), &records[..2]);
        let row = HeadRow {
            epoch: fixtures::EPOCH,
            head: Seq(8),
            first: Seq(7),
            last_lsn: Lsn(42),
            last_ts: changes.places[1].ts,
        };
        assert_eq!(changes.heads[&key], row);
    }

    #[test]
    fn a_group_that_ends_in_its_batch_keeps_when_it_began() {
        let changes = Changes::of(Lsn(0), &[begin_group("go"), dismiss_group("go")]);
        let row = &changes.groups[&"go".parse().expect("a gid")];
        assert_eq!((row.created, row.change.dismissed), (Timestamp(1), true));
        assert_eq!(changes.newest, Timestamp(9000));
    }
}
