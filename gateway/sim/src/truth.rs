//! What is true: the durable history, read as it grows, and what follows from it about who may see what.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tidegate_control_core::domain::{Append, Body, Content, GroupChange, Lsn, PartitionId, Place, Record, StreamKey};
use tidegate_control_core::partition::own_places;

/// Who writes what backends push.
pub const BACKEND: &str = "backend";

/// A place in a stream: `(stream, epoch)`.
pub type Life = (String, String);

#[derive(Debug, Default)]
pub struct Truth {
    pub lives: BTreeMap<Life, History>,
    /// The present epoch of each stream that has one.
    pub epochs: BTreeMap<String, String>,
    groups: BTreeMap<Life, Group>,
    /// Dedup keys of the present disk, with the message that used them.
    keys: BTreeMap<[u8; 16], u64>,
    /// The furthest place that any device has acknowledged, per life of a stream.
    pub marks: BTreeMap<Life, u64>,
    /// What retention took, per disk and partition.
    trimmed: BTreeMap<(usize, u32), Lsn>,
    /// The last id and time of each partition.
    last: BTreeMap<u32, (u64, i64)>,
    /// Ids that were given, where several nodes give them.
    ids: BTreeSet<u64>,
    /// Of each conversation in each inbox of another log: how far its entries have come.
    entries: BTreeMap<(String, Life), u64>,
    disk: usize,
    partitions: u32,
}

/// Messages of one life of a stream, seq 1 first.
#[derive(Debug, Default)]
pub struct History {
    pub messages: Vec<(Lsn, Arc<Body>)>,
    /// The disk that held it.
    pub disk: usize,
    partition: u32,
}

#[derive(Debug, Default)]
struct Group {
    open: bool,
    dismissed: bool,
    /// `(joined, left)` of each stay, by uid.
    stays: BTreeMap<String, Vec<(u64, Option<u64>)>>,
}

impl Truth {
    pub fn new(partitions: u32) -> Truth {
        Truth { partitions, ..Truth::default() }
    }

    /// The disk was lost: what was on it stays true for those who saw it, and its keys are forgotten.
    pub fn lose_disk(&mut self) {
        self.disk += 1;
        self.keys.clear();
        self.epochs.clear();
        self.last.clear();
        // Nothing remembers what was given before: if the clock went back too, ids can come again (docs/operations.md).
        self.ids.clear();
        self.entries.clear();
    }

    pub fn disk(&self) -> usize {
        self.disk
    }

    /// Retention of the present disk has come so far.
    pub fn trim(&mut self, partition: u32, upto: Lsn) {
        self.trimmed.insert((self.disk, partition), upto);
    }

    pub fn add(&mut self, partition: u32, lsn: Lsn, record: &Record) -> Result<(), String> {
        match record {
            Record::Append(append) => self.append(partition, lsn, append),
            Record::Group(change) => {
                self.change_group(change);
                Ok(())
            }
            // News of another partition's group, for gateways alone.
            Record::Joined(_) => Ok(()),
            Record::Mark(mark) | Record::Read(mark) => {
                let life = (mark.stream.to_string(), mark.epoch.to_string());
                let head = self.lives.get(&life).map_or(0, |life| life.messages.len() as u64);
                if mark.seq.0 > head {
                    return Err(format!("{}: a mark at {} beyond the head {head}", mark.stream, mark.seq));
                }
                if matches!(record, Record::Mark(_)) {
                    let furthest = self.marks.entry(life).or_default();
                    *furthest = mark.seq.0.max(*furthest);
                }
                Ok(())
            }
        }
    }

    fn append(&mut self, partition: u32, lsn: Lsn, append: &Append) -> Result<(), String> {
        let body = &append.body;
        let own = own_places(append);
        // An entry has the id and the time of its message.
        match own.len() < append.places.len() {
            true => self.entry(append, &own[0])?,
            false => self.stamp(partition, body)?,
        }
        if let Some(dedup) = &append.dedup
            && let Some(earlier) = self.keys.insert(dedup.key, body.id.0)
        {
            return Err(format!("one key, two messages: {earlier} and {}", body.id));
        }
        self.check_author(append)?;
        for place in own {
            self.check_home(partition, &place.stream)?;
            let life = (place.stream.to_string(), place.epoch.to_string());
            self.epochs.insert(life.0.clone(), life.1.clone());
            let disk = self.disk;
            let history = self.lives.entry(life).or_insert_with(|| History { disk, partition, ..History::default() });
            history.messages.push((lsn, body.clone()));
            if history.messages.len() as u64 != place.seq.0 || history.disk != disk {
                let due = history.messages.len();
                return Err(format!("{} has seq {} where {due} is due: a hole or a twin", place.stream, place.seq));
            }
        }
        if let (Some(change), Some(place)) = (&append.membership, append.places.first()) {
            let group = self.groups.entry((place.stream.to_string(), place.epoch.to_string())).or_default();
            let stays = group.stays.entry(change.uid.to_string()).or_default();
            let present = stays.last().is_some_and(|(_, left)| left.is_none());
            match (change.role.is_some(), present) {
                (true, false) => stays.push((place.seq.0, None)),
                (false, true) => stays.iter_mut().rev().take(1).for_each(|stay| stay.1 = Some(place.seq.0)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Ids and times only rise in each log; where several nodes give ids, none is given twice.
    fn stamp(&mut self, partition: u32, body: &Body) -> Result<(), String> {
        let (last_id, last_ts) = self.last.entry(partition).or_default();
        let behind = self.partitions == 1 && body.id.0 <= *last_id;
        if behind || body.ts.0 < *last_ts {
            return Err(format!("message {} stands behind {last_id}: ids and times only rise", body.id));
        }
        (*last_id, *last_ts) = (body.id.0, body.ts.0);
        match self.partitions == 1 || self.ids.insert(body.id.0) {
            true => Ok(()),
            false => Err(format!("message {} stands twice", body.id)),
        }
    }

    /// An inbox gets what was said in a conversation, each once, in its order.
    fn entry(&mut self, append: &Append, own: &Place) -> Result<(), String> {
        let said = &append.places[0];
        let life: Life = (said.stream.to_string(), said.epoch.to_string());
        if self.message(&life, said.seq.0).is_none_or(|body| body.id != append.body.id) {
            return Err(format!(
                "{}: an entry of {} {}, which does not stand there",
                own.stream, said.stream, said.seq
            ));
        }
        let before = self.entries.entry((own.stream.to_string(), life)).or_default();
        if said.seq.0 != *before + 1 {
            return Err(format!(
                "{}: the entry of {} {} comes after that of {before}",
                own.stream, said.stream, said.seq
            ));
        }
        *before = said.seq.0;
        Ok(())
    }

    fn check_home(&self, partition: u32, stream: &StreamKey) -> Result<(), String> {
        match PartitionId::of(stream, self.partitions).0 == partition {
            true => Ok(()),
            false => Err(format!("{stream}: written in partition {partition}, which does not have it")),
        }
    }

    /// Whether both inboxes have all that was said in each conversation. With one partition they have it in its record.
    pub fn entries_are_whole(&self) -> Result<(), String> {
        let alive = |history: &&History| history.disk == self.disk && self.partitions > 1;
        for ((stream, epoch), history) in self.lives.iter().filter(|(_, history)| alive(history)) {
            let Some(users) = stream.strip_prefix("c:") else { continue };
            for user in users.split(':') {
                let inbox = (format!("u:{user}"), (stream.clone(), epoch.clone()));
                let (has, said) = (self.entries.get(&inbox).copied().unwrap_or(0), history.messages.len() as u64);
                if has != said {
                    return Err(format!("{}: has {has} entries of the {said} in {stream}", inbox.0));
                }
            }
        }
        Ok(())
    }

    /// Only its members and backends write into a members' group, and nobody into one that ended.
    fn check_author(&self, append: &Append) -> Result<(), String> {
        let Some(place) = append.places.first().filter(|_| append.membership.is_none()) else { return Ok(()) };
        let life = (place.stream.to_string(), place.epoch.to_string());
        let Some(group) = self.groups.get(&life) else { return Ok(()) };
        let from = &*append.body.from;
        let stays = group.stays.get(from).and_then(|stays| stays.last());
        let present = stays.is_some_and(|(_, left)| left.is_none());
        match group.dismissed || !(group.open || present || from == BACKEND || from.is_empty()) {
            true => Err(format!("{}: written by {from:?}, who may not", place.stream)),
            false => Ok(()),
        }
    }

    fn change_group(&mut self, change: &GroupChange) {
        let life = (change.gid.stream().to_string(), change.epoch.to_string());
        self.epochs.insert(life.0.clone(), life.1.clone());
        let head = self.lives.get(&life).map_or(0, |history| history.messages.len() as u64);
        let group = self.groups.entry(life).or_default();
        (group.open, group.dismissed) = (change.open, change.dismissed);
        for stay in group.stays.values_mut().filter_map(|stays| stays.last_mut()) {
            stay.1.get_or_insert(head);
        }
    }

    /// The present epoch and head; a stream without messages has neither.
    pub fn head(&self, stream: &str) -> Option<(&str, u64)> {
        let epoch = self.epochs.get(stream)?;
        let head = self.lives.get(&(stream.to_owned(), epoch.clone())).map_or(0, |life| life.messages.len() as u64);
        Some((epoch, head))
    }

    pub fn message(&self, life: &Life, seq: u64) -> Option<&Arc<Body>> {
        let messages = &self.lives.get(life)?.messages;
        messages.get(usize::try_from(seq).ok()?.checked_sub(1)?).map(|(_, body)| body)
    }

    /// The highest seq of this life that retention took.
    pub fn trimmed_upto(&self, life: &Life) -> u64 {
        let Some(history) = self.lives.get(life) else { return 0 };
        let upto = self.trimmed.get(&(history.disk, history.partition)).copied().unwrap_or_default();
        history.messages.partition_point(|(lsn, _)| *lsn <= upto) as u64
    }

    pub fn is_trimmed(&self, life: &Life, seq: u64) -> bool {
        seq <= self.trimmed_upto(life)
    }

    /// Whether the log lets this user see what stands there.
    pub fn may_see(&self, uid: &str, life: &Life, seq: u64) -> bool {
        let stream = &life.0;
        if let Some(owner) = stream.strip_prefix("u:") {
            return owner == uid;
        }
        if stream == "g:_all" {
            return true;
        }
        let Some(group) = self.groups.get(life) else { return false };
        let within = |(joined, left): &(u64, Option<u64>)| *joined <= seq && left.is_none_or(|left| seq <= left);
        group.open || group.stays.get(uid).is_some_and(|stays| stays.iter().any(within))
    }

    /// Whether the user is to hear of this group now without asking.
    pub fn is_member(&self, uid: &str, stream: &str) -> bool {
        let Some(epoch) = self.epochs.get(stream) else { return false };
        let group = self.groups.get(&(stream.to_owned(), epoch.clone()));
        group.is_some_and(|group| {
            let stays = group.stays.get(uid).and_then(|stays| stays.last());
            !group.dismissed && stays.is_some_and(|(_, left)| left.is_none())
        })
    }

    /// Whether anyone may follow this group now.
    pub fn is_open(&self, stream: &str) -> bool {
        let Some(epoch) = self.epochs.get(stream) else { return stream == "g:_all" };
        let group = self.groups.get(&(stream.to_owned(), epoch.clone()));
        stream == "g:_all" || group.is_some_and(|group| group.open && !group.dismissed)
    }
}

pub fn text(body: &Body) -> &str {
    match &body.content {
        Content::Text(text) => text,
        Content::Binary(_) => "",
    }
}

/// Whether a connection of this platform sees the message.
pub fn for_platform(body: &Body, platform: &str) -> bool {
    body.platforms.is_empty() || body.platforms.iter().any(|name| **name == *platform)
}
