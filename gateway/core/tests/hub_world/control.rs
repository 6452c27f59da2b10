//! A scripted control: it keeps streams, answers what the hub asks, and replays after a break of the link.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use tidegate_gateway_core::client::errors::ErrorCode;
use tidegate_gateway_core::client::ops::{PAGE_BYTES_MAX, PAGE_MESSAGES_MAX};
use tidegate_gateway_core::ids::{Epoch, Seq, SeqRange, StreamKey, Uid};
use tidegate_gateway_core::link::*;
use tidegate_gateway_core::messages::PlatformId;
use tidegate_proto::v1;

pub const PARTITIONS: u32 = 3;

#[derive(Default)]
pub struct Control {
    pub streams: BTreeMap<StreamKey, Log>,
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
    pub acks: Vec<(StreamKey, Seq)>,
    records: BTreeMap<u32, Vec<Record>>,
    owner_epochs: BTreeMap<u32, u64>,
    pub asked: usize,
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
    pub fn create(&mut self, key: &str, open: bool) -> StreamKey {
        let key: StreamKey = key.parse().expect("valid");
        self.streams.insert(key.clone(), Log { epoch: 1, first: 1, open, ..Log::default() });
        key
    }

    pub fn partition(&self, stream: &StreamKey) -> u32 {
        stream.as_str().bytes().map(u32::from).sum::<u32>() % PARTITIONS
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
        if !self.attached || !self.interest.contains(key) {
            return;
        }
        let partition = self.partition(key);
        let position = Position { partition: PartitionId(partition), owner_epoch: self.owner(partition), lsn: 0 };
        let number = self.streams[key].epoch;
        let messages = vec![message(0, "typing", platforms)];
        let (stream, epoch) = (key.clone(), epoch(key, number));
        self.down.push_back(FromLink::Deliver(Deliver { position, stream, epoch, range: None, messages, bytes: 50 }));
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
        self.record(key, Record::Membership { uid, stream, epoch, seq: Seq(seq), joined });
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

    pub fn new_owner(&mut self, partition: u32) {
        *self.owner_epochs.entry(partition).or_insert(1) += 1;
    }

    pub fn break_link(&mut self) {
        (self.attached, self.heard) = (false, false);
        self.interest.clear();
        for item in std::mem::take(&mut self.up) {
            // Presence that is lost on the way is mended by the gateway's incarnation, which has no part in this world.
            self.presence(&item);
        }
        self.down.clear();
        self.down.push_back(FromLink::Down);
    }

    pub fn attach(&mut self) {
        self.attached = true;
        self.down.push_back(FromLink::Up);
    }

    fn owner(&self, partition: u32) -> u64 {
        self.owner_epochs.get(&partition).copied().unwrap_or(1)
    }

    fn record(&mut self, key: &StreamKey, record: Record) {
        let partition = self.partition(key);
        let records = self.records.entry(partition).or_default();
        records.push(record.clone());
        let lsn = records.len() as u64;
        if self.attached && self.wants(&record) {
            self.tell(partition, lsn, record);
        }
    }

    fn wants(&self, record: &Record) -> bool {
        match record {
            Record::Append { stream, .. } => self.interest.contains(stream),
            Record::Membership { uid, stream, .. } => {
                self.interest.contains(stream) || self.interest.contains(&uid.inbox())
            }
        }
    }

    fn tell(&mut self, partition: u32, lsn: u64, record: Record) {
        let position = Position { partition: PartitionId(partition), owner_epoch: self.owner(partition), lsn };
        self.down.push_back(match record {
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
    pub fn work(&mut self, can_reset: bool) -> bool {
        let Some(item) = self.up.pop_front() else { return false };
        match item {
            ToLink::Open { corr, uid, device: _, streams, auto_join } => self.open(corr, &uid, streams, auto_join),
            ToLink::Request { corr, uid, device: _, op } => {
                let result = self.answer(uid.as_ref(), op);
                self.down.push_back(FromLink::Reply { corr, result });
            }
            ToLink::Forget { stream } => {
                self.interest.remove(&stream);
            }
            ToLink::Announce { streams, positions } => {
                self.interest = streams.into_iter().collect();
                for partition in 0..PARTITIONS {
                    let stood = positions.iter().find(|position| position.partition.0 == partition).map(|p| p.lsn);
                    self.replay(partition, stood.unwrap_or(0), can_reset);
                }
            }
            item @ (ToLink::Online { .. } | ToLink::Offline { .. }) => self.presence(&item),
            ToLink::Credit { bytes } => self.credit += bytes,
        }
        true
    }

    pub fn presence(&mut self, item: &ToLink) {
        match item {
            ToLink::Online { connection_id, .. } => self.online.insert(connection_id.to_string()),
            ToLink::Offline { connection_id, .. } => self.online.remove(&**connection_id),
            _ => false,
        };
    }

    fn replay(&mut self, partition: u32, stood: u64, can_reset: bool) {
        let records = self.records.get(&partition).cloned().unwrap_or_default();
        let missed = &records[stood as usize..];
        let membership = missed.iter().any(|record| matches!(record, Record::Membership { .. }));
        if can_reset && !membership && !missed.is_empty() {
            let (partition_id, owner_epoch) = (PartitionId(partition), self.owner(partition));
            let lsn = records.len() as u64;
            self.down.push_back(FromLink::Reset(Position { partition: partition_id, owner_epoch, lsn }));
            let streams = self.interest.iter().filter(|stream| self.partition(stream) == partition);
            for stream in streams.cloned().collect::<Vec<_>>() {
                let result = Ok(self.stands(&stream));
                self.down.push_back(FromLink::Opened(Opened { corr: 0, stream, result }));
            }
            return;
        }
        for (at, record) in missed.iter().enumerate().filter(|(_, record)| self.wants(record)).collect::<Vec<_>>() {
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

    fn open(&mut self, corr: Corr, uid: &Uid, mut streams: Vec<OpenStream>, auto_join: bool) {
        self.asked += 1;
        if auto_join {
            let mut own: Vec<StreamKey> = vec![uid.inbox()];
            own.extend(
                self.streams.iter().filter(|(_, log)| log.members.contains_key(uid.as_str())).map(|(k, _)| k.clone()),
            );
            for stream in own {
                if !streams.iter().any(|open| open.stream == stream) {
                    streams.push(OpenStream { stream, cursor: None });
                }
            }
        }
        for OpenStream { stream, cursor } in streams {
            let result = match self.may_read(uid, &stream) {
                true => Ok(self.open_one(&stream, cursor)),
                false => Err(refusal(ErrorCode::Forbidden)),
            };
            if result.is_ok() {
                self.interest.insert(stream.clone());
            }
            self.down.push_back(FromLink::Opened(Opened { corr, stream, result }));
        }
        self.down.push_back(FromLink::OpenEnd { corr });
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

    fn answer(&mut self, uid: Option<&Uid>, op: LinkOp) -> Result<LinkOk, LinkError> {
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

fn refusal(code: ErrorCode) -> LinkError {
    LinkError { code, message: "refused".into(), retry_after_ms: None, stands: None }
}
