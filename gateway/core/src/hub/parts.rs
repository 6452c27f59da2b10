//! An open asks every partition that has streams of it: its parts.
//!
//! A part is asked when its partition is up, and again, alone, when that partition went down before it had answered. What
//! the inbox's partition names in others ([`FromLink::Also`](crate::link::FromLink::Also)) becomes further parts. The open
//! is answered when all parts are.

use foldhash::fast::FixedState;
use hashbrown::HashSet;

use super::open::{Entry, OpenKind, PendingOpen, Stage};
use super::partitions::Links;
use super::tail::message_bytes;
use super::{ALSO_STREAMS_MAX, Hub, OPEN_PAGES_BYTES_MAX, STREAMS_MAX};
use crate::client::errors::ErrorCode;
use crate::ids::{Cursor, Now, PartitionId, Partitions, StreamIdx, StreamKey};
use crate::link::{Corr, LinkError, OpenStream, Opened, OpenedStream, ToLink};

/// What one partition is asked for one open.
#[derive(Debug)]
pub(super) struct Part {
    pub corr: Corr,
    pub partition: PartitionId,
    pub stage: Stage,
    /// Its number among all that this partition was asked, when it was asked last.
    pub asked: u64,
    /// A stream of it was forgotten while it was asked.
    pub crossed: bool,
    pub streams: Vec<OpenStream>,
    pub auto_join: bool,
}

impl Part {
    fn new(partition: PartitionId, streams: Vec<OpenStream>, auto_join: bool) -> Part {
        Part { corr: 0, partition, stage: Stage::Waiting, asked: 0, crossed: false, streams, auto_join }
    }
}

impl PendingOpen {
    /// What is to be asked where. At least one question, also if no stream was named: control says whether it lets the
    /// connection in at all.
    fn split(&self, partitions: Partitions) -> Vec<Part> {
        let inbox = || partitions.of_inbox(self.uid.as_str());
        match &self.kind {
            OpenKind::Connect { hello, .. } => {
                let named = hello.cursors.iter().map(|(key, cursor)| open_stream(key, Some(cursor), false));
                let mut parts = by_partition(partitions, named);
                if hello.auto_join || parts.is_empty() {
                    let inbox = inbox();
                    match parts.iter_mut().find(|part| part.partition == inbox) {
                        Some(part) => part.auto_join = hello.auto_join,
                        None => parts.insert(0, Part::new(inbox, Vec::new(), hello.auto_join)),
                    }
                }
                parts
            }
            OpenKind::Join { stream, cursor, .. } => {
                by_partition(partitions, std::iter::once(open_stream(stream, cursor.as_ref(), false)))
            }
            // The group may have ended since, and asking for it must not begin another.
            OpenKind::Invite { stream } => by_partition(partitions, std::iter::once(open_stream(stream, None, true))),
        }
    }

    pub fn is_answered(&self) -> bool {
        !self.parts.is_empty() && self.parts.iter().all(|part| part.stage == Stage::Ended)
    }

    /// Some partition will still grant something.
    pub fn is_asked(&self) -> bool {
        self.parts.iter().any(|part| part.stage == Stage::Asked)
    }

    /// The partition cannot say any more what became of its groups: whoever was told of one of them asks it again. An inbox
    /// that is there too is asked again anyway, and names them all.
    pub fn doubt_late(&mut self, links: &Links, partition: PartitionId) {
        if links.of_inbox(&self.uid) == partition {
            self.late.clear();
        }
        let doubted = self.late.iter_mut().filter(|late| links.of(late.stream.as_str()) == partition);
        doubted.for_each(|late| late.elsewhere = true);
    }

    fn question(&self, part: &Part) -> ToLink {
        let device = match &self.kind {
            OpenKind::Connect { hello, .. } => hello.device.clone(),
            OpenKind::Join { who, .. } => who.device.clone(),
            OpenKind::Invite { .. } => "".into(),
        };
        let (corr, streams, auto_join) = (part.corr, part.streams.clone(), part.auto_join);
        ToLink::Open { corr, uid: self.uid.clone(), device, streams, auto_join }
    }
}

fn open_stream(stream: &StreamKey, cursor: Option<&Cursor>, auto: bool) -> OpenStream {
    let cursor = cursor.map(|cursor| (cursor.epoch.clone(), cursor.seq));
    OpenStream { stream: stream.clone(), cursor, auto }
}

fn by_partition(partitions: Partitions, streams: impl Iterator<Item = OpenStream>) -> Vec<Part> {
    let mut placed: Vec<_> = streams.map(|open| (partitions.of(open.stream.as_str()), open)).collect();
    placed.sort_by_key(|(partition, _)| *partition);
    let mut parts: Vec<Part> = Vec::new();
    for (partition, open) in placed {
        match parts.last_mut().filter(|part| part.partition == partition) {
            Some(part) => part.streams.push(open),
            None => parts.push(Part::new(partition, vec![open], false)),
        }
    }
    parts
}

impl Hub {
    pub(super) fn part_mut(&mut self, corr: Corr) -> Option<&mut Part> {
        let open = self.opens.get_mut(self.parts.get(&corr)?)?;
        open.parts.iter_mut().find(|part| part.corr == corr)
    }

    /// The open whose part is being asked.
    fn asked_open(&mut self, part: Corr) -> Option<&mut PendingOpen> {
        let open = self.opens.get_mut(self.parts.get(&part)?)?;
        let asked = open.parts.iter().any(|of| of.corr == part && of.stage == Stage::Asked);
        asked.then_some(open)
    }

    /// Every part waits for its partition.
    pub(super) fn route(&mut self, corr: Corr) {
        let Some(partitions) = self.links.count() else { return self.unrouted.push(corr) };
        let Some(open) = self.opens.get(&corr) else { return };
        let parts = open.split(partitions);
        self.add_parts(corr, parts);
    }

    /// A local answer counts as that of the partition, so that it can be asked for in its stead.
    pub(super) fn route_answered(&mut self, corr: Corr, mut entry: Entry) {
        let parts = self.links.count().zip(self.opens.get(&corr)).map(|(count, open)| open.split(count));
        for mut part in parts.into_iter().flatten() {
            (part.corr, part.stage) = (self.corr(), Stage::Ended);
            entry.part = part.corr;
            self.parts.insert(part.corr, corr);
            if let Some(open) = self.opens.get_mut(&corr) {
                open.parts.push(part);
            }
        }
        if let Some(open) = self.opens.get_mut(&corr) {
            open.entries.push(entry);
        }
    }

    fn add_parts(&mut self, open: Corr, parts: Vec<Part>) {
        for mut part in parts {
            part.corr = self.corr();
            let (corr, partition) = (part.corr, part.partition);
            self.parts.insert(corr, open);
            if let Some(open) = self.opens.get_mut(&open) {
                open.parts.push(part);
            }
            if let Some(link) = self.links.at_mut(partition) {
                link.to_ask.push_back(corr);
                self.links.stir(partition);
            }
        }
    }

    pub(super) fn pump_opens(&mut self, partition: PartitionId) {
        let asked_max = self.links.opens_asked_max();
        while let Some(link) = self.links.at_mut(partition).filter(|link| link.up && link.opens_asked < asked_max) {
            let Some(corr) = link.to_ask.pop_front() else { return };
            let Some(open) = self.parts.get(&corr).and_then(|open| self.opens.get_mut(open)) else { continue };
            // What nobody wants any more is not asked; it ends with what is being asked still.
            let gone = open.gone;
            let Some(part) = open.parts.iter_mut().find(|part| part.corr == corr && !gone) else { continue };
            part.stage = Stage::Asked;
            part.asked = link.forgotten.number();
            link.opens_asked += 1;
            let Some(part) = open.parts.iter().find(|part| part.corr == corr) else { continue };
            self.to_link.push_back((partition, open.question(part)));
        }
    }

    /// The attachment broke: what was answered in part is asked again, before younger opens.
    pub(super) fn forget_answers(&mut self, now: Now, partition: PartitionId) {
        let parts = self.opens.values().flat_map(|open| open.parts.iter());
        let asked = parts.filter(|part| part.partition == partition && part.stage == Stage::Asked);
        let mut asked: Vec<Corr> = asked.map(|part| part.corr).collect();
        asked.sort_unstable();
        for corr in asked.into_iter().rev() {
            self.ask_again(now, corr);
        }
        if let Some(link) = self.links.at_mut(partition) {
            link.opens_asked = 0;
            link.forgotten.clear();
        }
    }

    /// What was answered of this part counts for nothing.
    pub(super) fn ask_again(&mut self, now: Now, corr: Corr) {
        let Some(id) = self.parts.get(&corr).copied() else { return };
        let Some(open) = self.opens.get_mut(&id) else { return };
        let Some(part) = open.parts.iter_mut().find(|part| part.corr == corr) else { return };
        (part.stage, part.crossed) = (Stage::Waiting, false);
        let partition = part.partition;
        open.errors.retain(|(of, ..)| *of != corr);
        let (dropped, kept) = std::mem::take(&mut open.entries).into_iter().partition(|entry| entry.part == corr);
        open.entries = kept;
        if let Some(link) = self.links.at_mut(partition) {
            link.to_ask.push_front(corr);
            self.links.stir(partition);
        }
        self.retries.push_back(id);
        self.release(now, dropped);
    }

    pub(super) fn opened(&mut self, now: Now, partition: PartitionId, opened: Opened) {
        let Opened { corr, stream, result } = opened;
        if corr == 0 {
            match (result, self.streams.find(&stream)) {
                (Ok(stands), Some(idx)) => self.reconcile(now, idx, &stands),
                (Err(error), Some(idx)) if error.code == ErrorCode::NotFound => self.dismissed(now, idx),
                _ => {}
            }
            return;
        }
        let known = self.asked_open(corr).is_some();
        match result {
            Ok(_) if !known => self.disown(stream),
            Ok(_) if self.was_forgotten(partition, corr, &stream) => {}
            Ok(stands) => match self.make_live(now, &stream, &stands) {
                Some(idx) => self.grant(corr, idx, stands),
                None => {
                    let error = self.overloaded();
                    self.disown(stream.clone());
                    self.refuse(corr, stream, error);
                }
            },
            Err(error) => self.refuse(corr, stream, error),
        }
    }

    /// Control registered an interest that nobody here has.
    fn disown(&mut self, stream: StreamKey) {
        if self.streams.find(&stream).is_none() {
            self.forget(stream);
        }
    }

    fn refuse(&mut self, corr: Corr, stream: StreamKey, error: LinkError) {
        if let Some(open) = self.parts.get(&corr).and_then(|open| self.opens.get_mut(open)) {
            open.errors.push((corr, stream, error));
        }
    }

    /// `None`: there are too many streams.
    fn make_live(&mut self, now: Now, key: &StreamKey, stands: &OpenedStream) -> Option<StreamIdx> {
        let idx = match self.streams.find(key) {
            Some(idx) => {
                self.reconcile(now, idx, stands);
                idx
            }
            None if self.streams.len() >= STREAMS_MAX => return None,
            None => self.streams.insert(key, &stands.epoch, stands.head, stands.first),
        };
        let stream = self.streams.at_mut(idx)?;
        stream.set_open_group(stands.open_group);
        let seeds = stream.tail().is_none() && stream.received == stands.head;
        if let Some(page) = stands.page.as_ref().filter(|page| seeds && !page.is_empty()) {
            self.tails.extend(&mut self.streams, idx, stands.start, page.iter());
        }
        Some(idx)
    }

    /// Control says where a live stream stands.
    fn reconcile(&mut self, now: Now, idx: StreamIdx, stands: &OpenedStream) {
        let Some(stream) = self.streams.at_mut(idx) else { return };
        stream.set_open_group(stands.open_group);
        if stream.epoch != stands.epoch {
            self.new_epoch(now, idx, stands.epoch.clone(), stands.first, stands.head);
            return;
        }
        stream.first = stream.first.max(stands.first);
        if stands.head > stream.received {
            self.missing(idx, stands.head);
        }
    }

    /// Opens may wait long for a partition that is down, so what they hold is bounded: without its page a connection is told
    /// a gap.
    fn grant(&mut self, corr: Corr, idx: StreamIdx, stands: OpenedStream) {
        let Some(open) = self.parts.get(&corr).and_then(|open| self.opens.get_mut(open)) else { return };
        if open.entries.iter().any(|entry| entry.idx == idx) {
            return;
        }
        let OpenedStream { epoch, head, start, recovered, page, listed, open_group, .. } = stands;
        let floats = open_group && start == head && !open.names(self.streams.key_text(idx));
        let Some(stream) = self.streams.at_mut(idx) else { return };
        stream.holds += 1;
        let page_bytes = page.iter().flatten().map(message_bytes).sum::<usize>();
        let page = page.filter(|_| page_bytes == 0 || self.pages_held + page_bytes <= OPEN_PAGES_BYTES_MAX);
        let page_bytes = if page.is_some() { page_bytes } else { 0 };
        self.pages_held += page_bytes;
        let start = start.min(head);
        open.entries.push(Entry { part: corr, idx, epoch, head, start, recovered, page, page_bytes, listed, floats });
    }

    pub(super) fn open_end(&mut self, now: Now, corr: Corr) {
        let Some(id) = self.parts.get(&corr).copied() else { return };
        let Some(part) = self.part_mut(corr).filter(|part| part.stage == Stage::Asked) else { return };
        let (partition, crossed) = (part.partition, part.crossed);
        if !crossed {
            part.stage = Stage::Ended;
        }
        if let Some(link) = self.links.at_mut(partition) {
            link.opens_asked = link.opens_asked.saturating_sub(1);
            if link.opens_asked == 0 {
                link.forgotten.clear();
            }
            self.links.stir(partition);
        }
        match crossed {
            true => self.ask_again(now, corr),
            false => self.retries.push_back(id),
        }
    }

    /// Streams in other partitions that the open is to have too. Those that it asks for already, by name or because the
    /// question that named them was asked twice, are not asked for again.
    pub(super) fn opens_also(&mut self, corr: Corr, streams: Vec<StreamKey>) {
        let Some(partitions) = self.links.count() else { return };
        let Some(open) = self.asked_open(corr).filter(|open| !open.gone) else { return };
        let mut seen: HashSet<&str, FixedState> = HashSet::with_hasher(FixedState::default());
        seen.extend(open.parts.iter().flat_map(|part| &part.streams).map(|asked| asked.stream.as_str()));
        let room = ALSO_STREAMS_MAX.saturating_sub(seen.len());
        let fresh = streams.iter().filter(|stream| seen.insert(stream.as_str()));
        let fresh: Vec<OpenStream> = fresh.map(|stream| open_stream(stream, None, true)).collect();
        drop(seen);
        self.stats.overloaded += u64::from(fresh.len() > room);
        let parts = by_partition(partitions, fresh.into_iter().take(room));
        if let Some(open) = self.parts.get(&corr).copied() {
            self.add_parts(open, parts);
        }
    }
}
