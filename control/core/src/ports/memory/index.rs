//! What can be looked up in the memory store; built from the records alone, so it can be rebuilt at any time.

use std::collections::BTreeMap;

use crate::domain::{Append, Gid, GroupChange, Lsn, Mark, MembershipChange, Record, Seq, StreamKey, Timestamp, Uid};
use crate::ports::{DEVICE_MARKS_MAX, DedupHit, DeviceMark, Group, Head, Member, Page, PageLimit, Stored};

#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    pub last_lsn: Lsn,
    pub last_timestamp: Timestamp,
    pub dedup: BTreeMap<[u8; 16], DedupHit>,
    pub groups: BTreeMap<Gid, Group>,
    pub members: BTreeMap<(Gid, Uid), Member>,
    pub marks: BTreeMap<(Uid, StreamKey), Vec<DeviceMark>>,
    pub reads: BTreeMap<(Uid, StreamKey), DeviceMark>,
    streams: BTreeMap<StreamKey, Stream>,
}

#[derive(Clone, Debug)]
struct Stream {
    head: Head,
    last_lsn: Lsn,
    messages: BTreeMap<Seq, (Lsn, Stored)>,
}

impl Index {
    pub fn apply(&mut self, lsn: Lsn, record: &Record) {
        self.last_lsn = lsn;
        match record {
            Record::Append(append) => self.append(lsn, append),
            Record::Group(change) => self.change_group(change),
            Record::Mark(mark) => self.mark(mark),
            Record::Read(mark) => {
                self.saw(mark.ts);
                self.reads.insert((mark.uid.clone(), mark.stream.clone()), device_mark(mark));
            }
            Record::Joined(joined) => self.saw(joined.ts),
        }
    }

    pub fn head(&self, stream: &StreamKey) -> Option<Head> {
        self.streams.get(stream).map(|s| s.head)
    }

    pub fn page(&self, stream: &StreamKey, after: Seq, limit: PageLimit) -> Page {
        let Some(stream) = self.streams.get(stream) else {
            return Page { after, upto: after, messages: Vec::new() };
        };
        let after = after.max(Seq(stream.head.first.0 - 1));
        let mut page = Page { after, upto: after, messages: Vec::new() };
        let mut bytes = 0;
        for (seq, (_, stored)) in stream.messages.range(after.next()..) {
            bytes += stored.body.content.len() + stored.body.metadata.len();
            let full = page.messages.len() >= limit.messages || bytes > limit.bytes;
            if full && !page.messages.is_empty() {
                break;
            }
            page.upto = *seq;
            page.messages.push(stored.clone());
        }
        page
    }

    pub fn seq_before(&self, stream: &StreamKey, ts: Timestamp) -> Seq {
        let Some(stream) = self.streams.get(stream) else { return Seq::ZERO };
        let older = stream.messages.iter().rev().find(|(_, (_, stored))| stored.body.ts < ts);
        older.map_or(Seq(stream.head.first.0 - 1), |(seq, _)| *seq)
    }

    pub fn present_members(&self, gid: &Gid, after: Option<&Uid>, limit: usize) -> Vec<Member> {
        let of_group = self.members.range((gid.clone(), lowest_uid())..).take_while(|((g, _), _)| g == gid);
        let present = of_group.filter(|((_, uid), m)| m.left.is_none() && after.is_none_or(|after| uid > after));
        present.take(limit).map(|(_, m)| m.clone()).collect()
    }

    pub fn groups_of(&self, uid: &Uid, limit: usize) -> Vec<Gid> {
        let mut groups: Vec<(Lsn, Gid)> = self
            .members
            .values()
            .filter(|m| m.uid == *uid && m.left.is_none())
            .map(|m| (self.streams.get(&m.gid.stream()).map_or(Lsn(0), |s| s.last_lsn), m.gid.clone()))
            .collect();
        groups.sort_by(|a, b| b.cmp(a));
        groups.into_iter().take(limit).map(|(_, gid)| gid).collect()
    }

    /// Drops the messages of records up to `upto`; all else that these records said stays.
    pub fn trim(&mut self, upto: Lsn) {
        for stream in self.streams.values_mut() {
            stream.messages.retain(|_, (lsn, _)| *lsn > upto);
            stream.head.first = stream.messages.keys().next().copied().unwrap_or(stream.head.head.next());
        }
    }

    fn append(&mut self, lsn: Lsn, append: &Append) {
        self.saw(append.body.ts);
        for place in &append.places {
            let conversation = (place.stream != append.places[0].stream)
                .then(|| (append.places[0].stream.clone(), append.places[0].seq));
            let stored = Stored { seq: place.seq, body: append.body.clone(), conversation };
            let begun = || Stream {
                head: Head { epoch: place.epoch, head: Seq::ZERO, first: place.seq },
                last_lsn: lsn,
                messages: BTreeMap::new(),
            };
            let stream = self.streams.entry(place.stream.clone()).or_insert_with(begun);
            if stream.head.epoch != place.epoch {
                *stream = begun();
            }
            stream.head.head = place.seq;
            stream.last_lsn = lsn;
            stream.messages.insert(place.seq, (lsn, stored));
        }
        let first = &append.places[0];
        if let Some(dedup) = append.dedup {
            let hit =
                DedupHit { epoch: first.epoch, seq: first.seq, id: append.body.id, fingerprint: dedup.fingerprint };
            self.dedup.insert(dedup.key, hit);
        }
        if let Some(change) = &append.membership {
            self.change_membership(change, first.seq);
        }
    }

    fn change_membership(&mut self, change: &MembershipChange, seq: Seq) {
        let key = (change.gid.clone(), change.uid.clone());
        let Some(role) = change.role else {
            if let Some(member) = self.members.get_mut(&key) {
                member.left = Some(seq);
            }
            return;
        };
        let joined = self.members.get(&key).filter(|m| m.left.is_none()).map_or(seq, |m| m.joined);
        let member = Member { gid: change.gid.clone(), uid: change.uid.clone(), role, joined, left: None };
        self.members.insert(key, member);
    }

    fn change_group(&mut self, change: &GroupChange) {
        self.saw(change.ts);
        self.members.retain(|(gid, _), _| *gid != change.gid);
        let known = self.groups.get(&change.gid).filter(|g| g.epoch == change.epoch);
        let group = Group {
            gid: change.gid.clone(),
            epoch: change.epoch,
            open: change.open,
            name: change.name.clone(),
            creator: change.creator.clone(),
            created: known.map_or(change.ts, |g| g.created),
            dismissed: change.dismissed,
        };
        self.groups.insert(change.gid.clone(), group);
    }

    fn mark(&mut self, mark: &Mark) {
        self.saw(mark.ts);
        let marks = self.marks.entry((mark.uid.clone(), mark.stream.clone())).or_default();
        marks.retain(|m| m.device != mark.device);
        if marks.len() >= DEVICE_MARKS_MAX {
            let oldest = marks.iter().enumerate().min_by_key(|(_, m)| m.ts).map_or(0, |(at, _)| at);
            marks.remove(oldest);
        }
        marks.push(device_mark(mark));
    }

    fn saw(&mut self, ts: Timestamp) {
        self.last_timestamp = self.last_timestamp.max(ts);
    }
}

fn device_mark(mark: &Mark) -> DeviceMark {
    DeviceMark { device: mark.device.clone(), epoch: mark.epoch, seq: mark.seq, ts: mark.ts }
}

/// Sorts before every valid uid: `-` is the lowest character that a name may hold.
fn lowest_uid() -> Uid {
    "-".parse().expect("a valid name")
}
