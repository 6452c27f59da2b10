//! A scripted control: it keeps streams in partitions, each with an owner and an attachment of its own, answers what the hub
//! asks, and replays after a break of a link.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use tidegate_gateway_core::client::errors::ErrorCode;
use tidegate_gateway_core::client::ops::{PAGE_BYTES_MAX, PAGE_MESSAGES_MAX};
use tidegate_gateway_core::ids::{Epoch, Seq, SeqRange, StreamKey, Uid};
use tidegate_gateway_core::link::*;
use tidegate_gateway_core::messages::PlatformId;
use tidegate_proto::v1;

pub struct Control {
    pub streams: BTreeMap<StreamKey, Log>,
    pub count: Partitions,
    pub partitions: Vec<Partition>,
    pub acks: Vec<(StreamKey, Seq)>,
    pub asked: usize,
}

#[derive(Default)]
pub struct Partition {
    /// What the present attachment wants.
    pub interest: BTreeSet<StreamKey>,
    pub attached: bool,
    /// The hub has been told of this attachment.
    pub heard: bool,
    /// Towards the hub, in order.
    pub down: VecDeque<FromLink>,
    /// From the hub, not yet worked off.
    pub up: VecDeque<ToLink>,
    pub online: BTreeSet<String>,
    pub credit: u64,
    records: Vec<Record>,
    owner_epoch: u64,
}

#[derive(Default)]
pub struct Log {
    pub epoch: u32,
    pub first: u64,
    pub head: u64,
    pub messages: Vec<Message>,
    pub open: bool,
    /// Uids, with the seq of the record that made them members.
    pub members: BTreeMap<String, u64>,
}

#[derive(Clone)]
enum Record {
    Append { stream: StreamKey, epoch: u32, range: SeqRange, messages: Vec<Message> },
    Membership { uid: Uid, stream: StreamKey, epoch: u32, seq: Seq, joined: bool },
}

pub fn epoch(stream: &StreamKey, number: u32) -> Epoch {
    Epoch::from(format!("{}-{number}", stream.name()))
}

pub fn message(seq: u64, content: &str, platforms: &[u8]) -> Message {
    let body = v1::Message { seq, id: format!("{seq}"), content: content.to_owned(), ..Default::default() };
    let platforms = platforms.iter().map(|p| PlatformId(*p)).collect();
    Message { seq: Seq(seq), body: Arc::new(body), platforms }
}

impl Control {
    pub fn new(partitions: u32) -> Control {
        let count = Partitions::new(partitions).expect("a valid count");
        let partitions = count.all().map(|_| Partition { owner_epoch: 1, ..Partition::default() }).collect();
        Control { streams: BTreeMap::new(), count, partitions, acks: Vec::new(), asked: 0 }
    }

    pub fn create(&mut self, key: &str, open: bool) -> StreamKey {
        let key: StreamKey = key.parse().expect("valid");
        self.streams.insert(key.clone(), Log { epoch: 1, first: 1, open, ..Log::default() });
        key
    }

    pub fn partition(&self, stream: &StreamKey) -> usize {
        self.count.of(stream.as_str()).0 as usize
    }

    /// Whose connections are known to be there, over all partitions.
    pub fn online(&self) -> BTreeSet<String> {
        self.partitions.iter().flat_map(|partition| partition.online.iter().cloned()).collect()
    }

    /// One durable message; `skip` seqs before it never come to anybody.
    pub fn publish(&mut self, key: &StreamKey, skip: u64, platforms: &[u8], content: &str) -> u64 {
        let log = self.streams.get_mut(key).expect("exists");
        let after = log.head;
        log.head += skip + 1;
        let message = message(log.head, content, platforms);
        log.messages.push(message.clone());
        let range = SeqRange { after: Seq(after), upto: Seq(log.head) };
        let (epoch, seq) = (log.epoch, log.head);
        self.record(key, Record::Append { stream: key.clone(), epoch, range, messages: vec![message] });
        seq
    }

    pub fn ephemeral(&mut self, key: &StreamKey, platforms: &[u8]) {
        let partition = self.partition(key);
        if !self.partitions[partition].attached || !self.partitions[partition].interest.contains(key) {
            return;
        }
        let position = self.position(partition, 0);
        let number = self.streams[key].epoch;
        let messages = vec![message(0, "typing", platforms)];
        let (stream, epoch) = (key.clone(), epoch(key, number));
        let deliver = Deliver { position, stream, epoch, range: None, messages, bytes: 50 };
        self.partitions[partition].down.push_back(FromLink::Deliver(deliver));
    }

    pub fn set_member(&mut self, uid: &Uid, key: &StreamKey, joined: bool) {
        let seq = self.publish(key, 0, &[], if joined { "came" } else { "went" });
        let log = self.streams.get_mut(key).expect("exists");
        match joined {
            true => log.members.insert(uid.to_string(), seq),
            false => log.members.remove(uid.as_str()),
        };
        let epoch = log.epoch;
        let (uid, stream) = (uid.clone(), key.clone());
        let inbox = uid.inbox();
        let record = Record::Membership { uid, stream, epoch, seq: Seq(seq), joined };
        // The inbox's partition knows who is here of the user, and so it says it too.
        if self.partition(&inbox) != self.partition(key) {
            self.record(&inbox, record.clone());
        }
        self.record(key, record);
    }

    /// History is lost: a new epoch that begins with nothing.
    pub fn new_epoch(&mut self, key: &StreamKey) {
        let log = self.streams.get_mut(key).expect("exists");
        log.epoch += 1;
        (log.first, log.head) = (1, 0);
        log.messages.clear();
    }

    pub fn trim(&mut self, key: &StreamKey, first: u64) {
        let log = self.streams.get_mut(key).expect("exists");
        log.first = log.first.max(first.min(log.head + 1));
        let first = log.first;
        log.messages.retain(|message| message.seq.0 >= first);
    }

    /// Another node owns the partition from here on: it has heard of no connection.
    pub fn new_owner(&mut self, partition: usize) {
        self.partitions[partition].owner_epoch += 1;
        if !self.partitions[partition].attached {
            self.partitions[partition].online.clear();
        }
    }

    pub fn break_link(&mut self, partition: usize) {
        let partition = &mut self.partitions[partition];
        (partition.attached, partition.heard) = (false, false);
        partition.interest.clear();
        for item in std::mem::take(&mut partition.up) {
            // Presence that is lost on the way is mended by the gateway's incarnation, which has no part in this world.
            partition.presence(&item);
        }
        partition.down.clear();
        partition.down.push_back(FromLink::Down);
    }

    pub fn attach(&mut self, partition: usize) {
        self.partitions[partition].attached = true;
        self.partitions[partition].down.push_back(FromLink::Up);
    }

    /// Every partition that is not attached.
    pub fn attach_all(&mut self) {
        for partition in 0..self.partitions.len() {
            if !self.partitions[partition].attached {
                self.attach(partition);
            }
        }
    }

    pub fn position(&self, partition: usize, lsn: u64) -> Position {
        let owner_epoch = self.partitions[partition].owner_epoch;
        Position { partition: PartitionId(partition as u32), owner_epoch, lsn }
    }

    fn record(&mut self, key: &StreamKey, record: Record) {
        let at = self.partition(key);
        let partition = &mut self.partitions[at];
        partition.records.push(record.clone());
        let lsn = partition.records.len() as u64;
        if partition.attached && partition.wants(&record) {
            self.tell(at, lsn, record);
        }
    }

    fn tell(&mut self, partition: usize, lsn: u64, record: Record) {
        let position = self.position(partition, lsn);
        self.partitions[partition].down.push_back(match record {
            Record::Append { stream, epoch: number, range, messages } => {
                let (epoch, range) = (epoch(&stream, number), Some(range));
                FromLink::Deliver(Deliver { position, stream, epoch, range, messages, bytes: 1_000 })
            }
            Record::Membership { uid, stream, epoch: number, seq, joined } => {
                let epoch = epoch(&stream, number);
                FromLink::Membership { uid, stream, epoch, seq, joined, reason: "removed".into(), position }
            }
        });
    }

    /// Works off one item of the hub. `can_reset`: positions may be refused instead of replayed.
    pub fn work(&mut self, partition: usize, can_reset: bool) -> bool {
        let Some(item) = self.partitions[partition].up.pop_front() else { return false };
        match item {
            ToLink::Open { corr, uid, device: _, streams, auto_join } => {
                self.open(partition, corr, &uid, streams, auto_join);
            }
            ToLink::Request { corr, uid, device: _, op } => {
                let result = self.answer(partition, uid.as_ref(), op);
                self.partitions[partition].down.push_back(FromLink::Reply { corr, result });
            }
            ToLink::Forget { stream } => {
                assert_eq!(self.partition(&stream), partition, "{stream} is forgotten elsewhere");
                self.partitions[partition].interest.remove(&stream);
            }
            ToLink::Announce { streams, position } => {
                for stream in &streams {
                    assert_eq!(self.partition(stream), partition, "{stream} is announced elsewhere");
                }
                self.partitions[partition].interest = streams.into_iter().collect();
                assert!(position.is_none_or(|position| position.partition.0 as usize == partition));
                self.replay(partition, position.map_or(0, |position| position.lsn), can_reset);
            }
            item @ (ToLink::Online { .. } | ToLink::Offline { .. }) => {
                let (ToLink::Online { uid, .. } | ToLink::Offline { uid, .. }) = &item else { return true };
                assert_eq!(self.partition(&uid.inbox()), partition, "{uid} is told elsewhere");
                self.partitions[partition].presence(&item);
            }
            ToLink::Credit { bytes } => self.partitions[partition].credit += bytes,
        }
        true
    }

    fn replay(&mut self, partition: usize, stood: u64, can_reset: bool) {
        let records = self.partitions[partition].records.clone();
        let missed = &records[stood as usize..];
        let membership = missed.iter().any(|record| matches!(record, Record::Membership { .. }));
        if can_reset && !membership && !missed.is_empty() {
            let position = self.position(partition, records.len() as u64);
            self.partitions[partition].down.push_back(FromLink::Reset(position));
            for stream in self.partitions[partition].interest.clone() {
                let result = Ok(self.stands(&stream));
                self.partitions[partition].down.push_back(FromLink::Opened(Opened { corr: 0, stream, result }));
            }
            return;
        }
        let wanted = |record: &Record| self.partitions[partition].wants(record);
        for (at, record) in missed.iter().enumerate().filter(|(_, record)| wanted(record)).collect::<Vec<_>>() {
            self.tell(partition, stood + at as u64 + 1, record.clone());
        }
    }

    fn stands(&self, stream: &StreamKey) -> OpenedStream {
        let log = &self.streams[stream];
        OpenedStream {
            epoch: epoch(stream, log.epoch),
            head: Seq(log.head),
            first: Seq(log.first),
            start: Seq(log.head),
            recovered: Recovered::Full,
            page: None,
            open_group: log.open,
            listed: false,
        }
    }

    pub fn may_read(&self, uid: &Uid, stream: &StreamKey) -> bool {
        let Some(log) = self.streams.get(stream) else { return false };
        *stream == uid.inbox() || log.open || log.members.contains_key(uid.as_str())
    }

    fn open(&mut self, at: usize, corr: Corr, uid: &Uid, mut streams: Vec<OpenStream>, auto_join: bool) {
        self.asked += 1;
        let mut also = Vec::new();
        if auto_join {
            let mut own: Vec<StreamKey> = vec![uid.inbox()];
            own.extend(
                self.streams.iter().filter(|(_, log)| log.members.contains_key(uid.as_str())).map(|(k, _)| k.clone()),
            );
            let (here, elsewhere): (Vec<_>, Vec<_>) = own.into_iter().partition(|stream| self.partition(stream) == at);
            also = elsewhere;
            for stream in here {
                if !streams.iter().any(|open| open.stream == stream) {
                    streams.push(OpenStream { stream, cursor: None, auto: true });
                }
            }
        }
        for OpenStream { stream, cursor, auto } in streams {
            assert_eq!(self.partition(&stream), at, "{stream} is opened elsewhere");
            if auto && !self.may_read(uid, &stream) {
                continue;
            }
            let result = match self.may_read(uid, &stream) {
                true => Ok(self.open_one(&stream, cursor)),
                false => Err(refusal(ErrorCode::Forbidden)),
            };
            let partition = &mut self.partitions[at];
            if result.is_ok() {
                partition.interest.insert(stream.clone());
            }
            partition.down.push_back(FromLink::Opened(Opened { corr, stream, result }));
        }
        let partition = &mut self.partitions[at];
        if !also.is_empty() {
            partition.down.push_back(FromLink::Also { corr, streams: also });
        }
        partition.down.push_back(FromLink::OpenEnd { corr });
    }

    fn open_one(&self, stream: &StreamKey, cursor: Option<(Epoch, Seq)>) -> OpenedStream {
        let log = &self.streams[stream];
        let mut opened = self.stands(stream);
        if let Some((told, seq)) = cursor {
            opened.listed = true;
            let sound = told == opened.epoch && seq.0 <= log.head && seq.0 + 1 >= log.first;
            opened.start = if sound { seq } else { Seq(log.first - 1) };
            opened.recovered = if sound { Recovered::Full } else { Recovered::Expired };
        }
        let page: Vec<Message> = log.messages.iter().filter(|m| m.seq > opened.start).cloned().collect();
        let bytes: usize = page.iter().map(|message| message.body.content.len() + 100).sum();
        if page.len() <= PAGE_MESSAGES_MAX && bytes <= PAGE_BYTES_MAX {
            opened.page = Some(page);
        } else if opened.recovered == Recovered::Full {
            opened.recovered = Recovered::Partial;
        }
        opened
    }

    fn answer(&mut self, at: usize, uid: Option<&Uid>, op: LinkOp) -> Result<LinkOk, LinkError> {
        let streams = match &op {
            LinkOp::Ack { stream, .. } | LinkOp::Read { stream, .. } | LinkOp::Pull { stream, .. } => {
                std::slice::from_ref(stream)
            }
            LinkOp::Heads { streams } => streams,
            LinkOp::Send(_) => &[],
        };
        for stream in streams {
            assert_eq!(self.partition(stream), at, "{stream} is asked for elsewhere");
        }
        match op {
            LinkOp::Pull { stream, epoch: told, after, since_ts: _, limit } => {
                if uid.is_some_and(|uid| !self.may_read(uid, &stream)) {
                    return Err(refusal(ErrorCode::Forbidden));
                }
                self.pull(stream, told, after, limit)
            }
            LinkOp::Heads { streams } => {
                let head = |stream: StreamKey| {
                    let allowed = uid.is_none_or(|uid| self.may_read(uid, &stream));
                    let result = allowed.then(|| self.head(&stream)).ok_or_else(|| refusal(ErrorCode::Forbidden));
                    (stream, result)
                };
                Ok(LinkOk::Heads(streams.into_iter().map(head).collect()))
            }
            LinkOp::Ack { stream, seq, .. } => {
                self.acks.push((stream, seq));
                Ok(LinkOk::Done)
            }
            LinkOp::Read { .. } | LinkOp::Send(_) => Ok(LinkOk::Done),
        }
    }

    fn head(&self, stream: &StreamKey) -> Head {
        let log = &self.streams[stream];
        Head { epoch: epoch(stream, log.epoch), head: Seq(log.head), first: Seq(log.first) }
    }

    fn pull(&self, stream: StreamKey, told: Option<Epoch>, after: Seq, limit: u32) -> Result<LinkOk, LinkError> {
        let stands = self.head(&stream);
        if told.is_some_and(|told| told != stands.epoch) {
            return Err(LinkError { stands: Some(stands), ..refusal(ErrorCode::Expired) });
        }
        let log = &self.streams[&stream];
        let mut all = log.messages.iter().filter(|message| message.seq > after).peekable();
        let mut bytes = 0;
        let mut messages: Vec<Message> = Vec::new();
        while let Some(message) = all.next_if(|message| {
            bytes += message.body.content.len() + 100;
            messages.len() < limit as usize && (messages.is_empty() || bytes <= PAGE_BYTES_MAX)
        }) {
            messages.push(message.clone());
        }
        let upto = match (all.next(), messages.last()) {
            (Some(_), Some(last)) => last.seq,
            _ => stands.head.max(after),
        };
        let range = SeqRange { after, upto };
        let Head { epoch, head, first } = stands;
        Ok(LinkOk::Pulled(Pulled { stream, epoch, range, messages, head, first }))
    }
}

impl Partition {
    fn wants(&self, record: &Record) -> bool {
        match record {
            Record::Append { stream, .. } => self.interest.contains(stream),
            Record::Membership { uid, stream, .. } => {
                self.interest.contains(stream) || self.interest.contains(&uid.inbox())
            }
        }
    }

    pub fn presence(&mut self, item: &ToLink) {
        match item {
            ToLink::Online { connection_id, .. } => self.online.insert(connection_id.to_string()),
            ToLink::Offline { connection_id, .. } => self.online.remove(&**connection_id),
            _ => false,
        };
    }
}

fn refusal(code: ErrorCode) -> LinkError {
    LinkError { code, message: "refused".into(), retry_after_ms: None, stands: None }
}
