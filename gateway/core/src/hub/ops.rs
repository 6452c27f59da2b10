//! Requests of connections, and their answers.

use smallvec::{SmallVec, smallvec};
use tidegate_proto::v1;

use super::encode::sees;
use super::open::OpenKind;
use super::tail::message_bytes;
use super::{Hub, REQUESTS_MAX, SYNC_STREAMS_MAX};
use crate::client::errors::ErrorCode;
use crate::client::ops::{Op, PAGE_BYTES_MAX, PULL_MESSAGES_MAX};
use crate::client::{error_frame, link_error_frame, ok_frame, stream_state};
use crate::ids::{
    ConnRef, Cursor, Epoch, Now, PartitionId, Partitions, Seq, SeqRange, StreamIdx, StreamKey, StreamKind, Uid,
};
use crate::link::{Corr, Head, LinkError, LinkOk, LinkOp, Pulled, Recovered, ToLink};
use crate::messages::{ConnClass, Direct, Requester, ToShard};

/// Who waits for an answer of control.
#[derive(Debug)]
pub(super) enum Asked {
    Client(Asker),
    Heal {
        stream: StreamIdx,
        serial: u32,
    },
    /// A share of a question that several partitions answer.
    Share(Corr),
    /// A mark moved by what was sent: nobody is told.
    Nobody,
}

#[derive(Debug)]
pub(super) struct Asker {
    pub conn: ConnRef,
    pub id: u32,
    pub class: ConnClass,
    /// Of `sync`: what the client has.
    pub cursors: Vec<(StreamKey, Cursor)>,
    /// `head`, not `sync`.
    one_head: bool,
}

impl Hub {
    pub(super) fn request(
        &mut self,
        now: Now,
        conn: ConnRef,
        id: u32,
        who: Box<Requester>,
        op: Op,
        memberships: &[StreamIdx],
    ) {
        let class = who.class;
        match op {
            Op::Join { stream, cursor } => self.join(conn, id, who, stream, cursor, memberships),
            Op::Leave { stream } => self.leave(conn, id, &who, &stream, memberships),
            Op::Send(send) => self.ask(conn, id, *who, LinkOp::Send(send), Vec::new(), false),
            Op::Ack { stream, epoch, seq } => {
                self.ask(conn, id, *who, LinkOp::Ack { stream, epoch, seq }, Vec::new(), false);
            }
            Op::Read { stream, epoch, seq } => {
                self.ask(conn, id, *who, LinkOp::Read { stream, epoch, seq }, Vec::new(), false);
            }
            Op::Pull { stream, epoch, after, since_ts, limit } => {
                let limit = limit.filter(|limit| *limit > 0).unwrap_or(PULL_MESSAGES_MAX).min(PULL_MESSAGES_MAX);
                let local = if since_ts.is_none() {
                    self.local_pull(&who, &stream, epoch.as_ref(), after, limit)
                } else {
                    None
                };
                match local {
                    Some(answer) => self.answer_local_pull(now, conn, id, class, answer),
                    None => {
                        let op = LinkOp::Pull { stream, epoch, after, since_ts, limit };
                        self.ask(conn, id, *who, op, Vec::new(), false);
                    }
                }
            }
            Op::Sync { cursors } => {
                let streams = cursors.iter().map(|(stream, _)| stream.clone()).collect();
                self.ask(conn, id, *who, LinkOp::Heads { streams }, cursors, false);
            }
            // Always asked: a client that has just been told of a seq elsewhere must not be told less here.
            Op::Head { stream } => self.ask(conn, id, *who, LinkOp::Heads { streams: vec![stream] }, Vec::new(), true),
            Op::Ping => self.reply_frame(conn, id, class, &ok_frame(id, None), None),
            Op::Connect(_) => {
                let frame = error_frame(id, ErrorCode::BadRequest, "connect must be the first frame");
                self.reply_frame(conn, id, class, &frame, None);
            }
            Op::Unimplemented(name) => {
                self.reply_frame(conn, id, class, &error_frame(id, ErrorCode::Unimplemented, name), None);
            }
        }
    }

    /// Leaving what one is no member of is not an error. A join that still waits must not bring the stream back.
    fn leave(&mut self, conn: ConnRef, id: u32, who: &Requester, key: &StreamKey, memberships: &[StreamIdx]) {
        let live = self.streams.find(key);
        for corr in self.opens_of.get(&who.uid).cloned().unwrap_or_default() {
            let Some(open) = self.opens.get(&corr).filter(|open| open.conn() == Some(conn)) else { continue };
            if let OpenKind::Join { id, who, stream, .. } = &open.kind
                && stream == key
                && !open.gone
            {
                let (join_id, class) = (*id, who.class);
                let frame = error_frame(join_id, ErrorCode::Rejected, "left before the join was answered");
                self.reply_frame(conn, join_id, class, &frame, None);
                if let Some(open) = self.opens.get_mut(&corr) {
                    open.gone = true;
                }
                self.retries.push_back(corr);
            }
        }
        // The shard may not have counted an `AddMember` that is under way, so it is told in any case.
        if let Some(idx) = live.or_else(|| memberships.first().copied().filter(|idx| self.is_stream(*idx, key))) {
            self.send(conn.shard, ToShard::RemoveMember { conn: conn.conn, stream: idx });
        }
        self.reply_frame(conn, id, who.class, &ok_frame(id, None), None);
    }

    fn is_stream(&self, idx: StreamIdx, key: &StreamKey) -> bool {
        self.streams.key_text(idx) == key.as_str()
    }

    fn ask(
        &mut self,
        conn: ConnRef,
        id: u32,
        who: Requester,
        op: LinkOp,
        cursors: Vec<(StreamKey, Cursor)>,
        one_head: bool,
    ) {
        let Requester { uid, device, class } = who;
        let asker = Asker { conn, id, class, cursors, one_head };
        let mut parts = self.places(&uid, &op);
        if parts.iter().any(|(partition, _)| !self.links.is_up(*partition)) {
            let error = self.unavailable();
            return self.answer_error(&asker, &error);
        }
        if !self.has_room(parts.iter().map(|(partition, _)| *partition)) {
            let error = self.overloaded();
            return self.answer_error(&asker, &error);
        }
        if parts.len() > 1 {
            return self.gather_heads(asker, &uid, &device, parts.into_iter());
        }
        let Some((partition, _)) = parts.pop() else { return };
        let corr = self.corr();
        self.put_request(partition, corr, Asked::Client(asker));
        self.to_link.push_back((partition, ToLink::Request { corr, uid: Some(uid), device, op }));
    }

    /// The partitions that can answer; several only for streams in several, each with its own.
    fn places(&self, uid: &Uid, op: &LinkOp) -> SmallVec<[(PartitionId, Vec<StreamKey>); 1]> {
        if self.links.count() == Some(Partitions::ONE) {
            return smallvec![(PartitionId(0), Vec::new())];
        }
        let key = match op {
            LinkOp::Send(send) => match send.to.kind() {
                StreamKind::Inbox => &uid.conversation_with(send.to.name()),
                StreamKind::Group | StreamKind::Conversation => &send.to,
            },
            LinkOp::Ack { stream, .. } | LinkOp::Read { stream, .. } | LinkOp::Pull { stream, .. } => stream,
            LinkOp::Heads { streams } => {
                let mut placed: Vec<_> = streams.iter().map(|key| (self.links.of(key.as_str()), key)).collect();
                placed.sort_by_key(|(partition, _)| *partition);
                let chunks = placed.chunk_by(|(one, _), (other, _)| one == other);
                let own = |chunk: &[(PartitionId, &StreamKey)]| chunk.iter().map(|(_, key)| (*key).clone()).collect();
                let parts: SmallVec<_> = chunks.map(|chunk| (chunk[0].0, own(chunk))).collect();
                // Control also answers a question about nothing.
                return if parts.is_empty() { smallvec![(PartitionId(0), Vec::new())] } else { parts };
            }
        };
        smallvec![(self.links.of(key.as_str()), Vec::new())]
    }

    fn has_room(&self, mut partitions: impl Iterator<Item = PartitionId>) -> bool {
        let each_max = self.links.requests_max();
        let full = |partition| self.links.at(partition).is_none_or(|link| link.requests >= each_max);
        self.requests.len() < REQUESTS_MAX && !partitions.any(full)
    }

    pub(super) fn put_request(&mut self, partition: PartitionId, corr: Corr, asked: Asked) {
        self.requests.insert(corr, (partition, asked));
        if let Some(link) = self.links.at_mut(partition) {
            link.requests += 1;
        }
    }

    pub(super) fn take_request(&mut self, corr: Corr) -> Option<Asked> {
        let (partition, asked) = self.requests.remove(&corr)?;
        if let Some(link) = self.links.at_mut(partition) {
            link.requests = link.requests.saturating_sub(1);
        }
        Some(asked)
    }

    /// The device's mark follows what went into the socket.
    pub(super) fn sent(&mut self, who: Requester, idx: StreamIdx, upto: Seq) {
        let partition = self.partition_at(idx);
        if !self.links.is_up(partition) || !self.has_room(std::iter::once(partition)) {
            return;
        }
        let Some(stream) = self.streams.at(idx).filter(|stream| upto <= stream.flushed) else { return };
        let Some(key) = self.streams.key(idx) else { return };
        let op = LinkOp::Ack { stream: key, epoch: Some(stream.epoch.clone()), seq: upto };
        let corr = self.corr();
        self.put_request(partition, corr, Asked::Nobody);
        self.to_link.push_back((partition, ToLink::Request { corr, uid: Some(who.uid), device: who.device, op }));
    }

    pub(super) fn reply(&mut self, now: Now, partition: PartitionId, corr: Corr, result: Result<LinkOk, LinkError>) {
        match self.take_request(corr) {
            None | Some(Asked::Nobody) => {}
            Some(Asked::Heal { stream, serial }) => self.heal_answered(now, corr, partition, (stream, serial), result),
            Some(Asked::Share(gathering)) => self.gathered(gathering, result),
            Some(Asked::Client(asker)) => match result {
                Err(error) => self.answer_error(&asker, &error),
                Ok(LinkOk::Pulled(pulled)) => self.answer_pull(now, &asker, pulled),
                Ok(ok) => {
                    let frame = answer(&asker, ok);
                    self.reply_frame(asker.conn, asker.id, asker.class, &frame, None);
                }
            },
        }
    }

    pub(super) fn answer_error(&mut self, asker: &Asker, error: &LinkError) {
        self.reply_frame(asker.conn, asker.id, asker.class, &link_error_frame(asker.id, error), None);
    }

    pub(super) fn reply_frame(
        &mut self,
        conn: ConnRef,
        id: u32,
        class: ConnClass,
        frame: &v1::ServerFrame,
        reached: Option<(StreamIdx, Seq)>,
    ) {
        let frame = self.encoder.single(class, frame);
        self.direct(conn, Direct { conn: conn.conn, frame, finishes: Some(id), reached, recovers: None });
    }

    /// Whether this node may answer for control: the user's own inbox or an open group, of which nothing is missing here.
    pub(super) fn speaks_for(&self, idx: StreamIdx, uid: &Uid) -> bool {
        let Some(stream) = self.streams.at(idx) else { return false };
        let Some(key) = self.streams.key(idx) else { return false };
        let allowed = match key.kind() {
            StreamKind::Inbox => key.name() == uid.as_str(),
            StreamKind::Group => stream.is_open_group(),
            StreamKind::Conversation => false,
        };
        let sound = stream.pending().is_none_or(|pending| pending.heal.is_none() && pending.gap_all.is_none());
        allowed && sound && self.links.is_up(self.links.of(key.as_str()))
    }

    /// `None`: control has to be asked.
    fn local_pull(
        &mut self,
        who: &Requester,
        key: &StreamKey,
        epoch: Option<&Epoch>,
        after: Seq,
        limit: u32,
    ) -> Option<Result<Pulled, LinkError>> {
        let idx = self.streams.find(key)?;
        let stream = self.streams.at(idx).filter(|_| self.speaks_for(idx, &who.uid))?;
        let (head, first) = (stream.received, stream.first);
        if epoch.is_some_and(|epoch| *epoch != stream.epoch) {
            let stands = Some(Head { epoch: stream.epoch.clone(), head, first });
            let message = "the stream has begun a new epoch".into();
            return Some(Err(LinkError { code: ErrorCode::Expired, message, retry_after_ms: None, stands }));
        }
        if !stream.tail_covers(after) {
            return None;
        }
        let mut messages = Vec::new();
        let (mut bytes, mut upto) = (0, head);
        for message in stream.tail().into_iter().flat_map(|tail| tail.above(after)) {
            bytes += message_bytes(message);
            if messages.len() == limit as usize || (bytes > PAGE_BYTES_MAX && !messages.is_empty()) {
                upto = messages.last().map_or(after, |last: &crate::link::Message| last.seq);
                break;
            }
            messages.push(message.clone());
        }
        let range = SeqRange { after, upto };
        let pulled = Pulled { stream: key.clone(), epoch: stream.epoch.clone(), range, messages, head, first };
        self.tails.touch(&mut self.streams, idx);
        Some(Ok(pulled))
    }

    fn answer_local_pull(
        &mut self,
        now: Now,
        conn: ConnRef,
        id: u32,
        class: ConnClass,
        answer: Result<Pulled, LinkError>,
    ) {
        self.stats.pulls_local += 1;
        let asker = Asker { conn, id, class, cursors: Vec::new(), one_head: false };
        match answer {
            Ok(pulled) => self.answer_pull(now, &asker, pulled),
            Err(error) => self.answer_error(&asker, &error),
        }
    }

    /// What the answer brings above F is flushed first, so that it is not brought a second time. `head` is at least F: a
    /// client that believed it had reached the head below F would wait in its gap for ever.
    fn answer_pull(&mut self, now: Now, asker: &Asker, pulled: Pulled) {
        let Pulled { stream: key, epoch, range, messages, mut head, first } = pulled;
        let live = self.streams.find(&key).filter(|idx| self.streams.at(*idx).is_some_and(|s| s.epoch == epoch));
        if let Some(idx) = live {
            if self.streams.at(idx).is_some_and(|stream| range.upto > stream.flushed) {
                self.flush(now, idx);
            }
            head = head.max(self.streams.at(idx).map_or(head, |stream| stream.flushed));
        }
        // Only what the client takes for the end of its gap ends it.
        let reached = live.filter(|_| range.upto >= head).map(|idx| (idx, range.upto));
        let visible = messages.iter().filter(|message| sees(Some(asker.class.platform), message));
        let result = v1::PullResult {
            stream: key.to_string(),
            epoch: epoch.to_string(),
            after: range.after.0,
            upto: range.upto.0,
            messages: visible.map(|message| (*message.body).clone()).collect(),
            next_after: range.upto.0,
            head: head.0,
            first: first.0,
        };
        let frame = ok_frame(asker.id, Some(v1::ok::Result::Pull(result)));
        self.reply_frame(asker.conn, asker.id, asker.class, &frame, reached);
    }
}

pub(super) fn answer(asker: &Asker, ok: LinkOk) -> v1::ServerFrame {
    match ok {
        LinkOk::Done | LinkOk::Pulled(_) => ok_frame(asker.id, None),
        LinkOk::Sent { stream, epoch, seq, message_id, duplicate } => {
            let result = v1::SendResult {
                stream: stream.to_string(),
                epoch: epoch.to_string(),
                seq: seq.map(|seq| seq.0),
                message_id: message_id.into(),
                duplicate,
            };
            ok_frame(asker.id, Some(v1::ok::Result::Send(result)))
        }
        LinkOk::Heads(heads) if asker.one_head => head_answer(asker.id, heads),
        LinkOk::Heads(heads) => sync_answer(asker, &heads),
    }
}

fn head_answer(id: u32, heads: Vec<(StreamKey, Result<Head, LinkError>)>) -> v1::ServerFrame {
    match heads.into_iter().next() {
        Some((stream, Ok(head))) => {
            ok_frame(id, Some(v1::ok::Result::Head(stream_state(stream.as_str(), &head, None))))
        }
        Some((_, Err(error))) => link_error_frame(id, &error),
        None => error_frame(id, ErrorCode::NotFound, "no such stream"),
    }
}

/// Changed streams only, in the order of the question. Streams that may not be read are left out.
fn sync_answer(asker: &Asker, heads: &[(StreamKey, Result<Head, LinkError>)]) -> v1::ServerFrame {
    let mut had: SmallVec<[&(StreamKey, Cursor); 16]> = asker.cursors.iter().collect();
    had.sort_by(|a, b| a.0.cmp(&b.0));
    let mut changed = heads.iter().filter_map(|(stream, head)| {
        let head = head.as_ref().ok()?;
        let at = had.binary_search_by(|(key, _)| key.cmp(stream)).ok()?;
        let cursor = &had[at].1;
        let expired = head.epoch != cursor.epoch || cursor.seq.next() < head.first;
        let recovered = if expired { Recovered::Expired } else { Recovered::Partial };
        let moved = head.epoch != cursor.epoch || head.head > cursor.seq;
        moved.then(|| stream_state(stream.as_str(), head, Some(recovered)))
    });
    let streams: Vec<_> = changed.by_ref().take(SYNC_STREAMS_MAX).collect();
    let more = changed.next().is_some();
    ok_frame(asker.id, Some(v1::ok::Result::Sync(v1::SyncResult { streams, more })))
}
