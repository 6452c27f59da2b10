//! Streams, connections and what goes between them, with the planted fault.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Instant;

use bytes::Bytes;
use tidegate_proto::v1::{
    Batch, Message, PushError, PushRequest, PushResult, PushStatus, StreamState, server_frame::Body,
};
use tokio::sync::mpsc;

use super::fault::{Fault, How};
use super::hub::Answer;
use super::socket::encode;

pub const EPOCH: &str = "e1";
/// Frames that wait for one connection; one that lets more pile up is cut.
pub const OUTBOX_MAX: usize = 65_536;
/// Added to the number of a message, so that ids and seqs cannot be taken for each other.
const FIRST_ID: u64 = 7_000_000_000;
const PAGE_MESSAGES_MAX: usize = 200;

/// A wrong that was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planted {
    pub stream: String,
    pub seq: u64,
    /// Connections that it was done to.
    pub recipients: u64,
}

pub type ConnectionNo = u64;

/// On its way to one connection.
pub enum Out {
    Frame(Bytes),
    End(How),
}

pub struct Connection {
    pub uid: String,
    pub outbox: mpsc::Sender<Out>,
    /// Streams that it gets no live frames of until it pulled.
    pub in_gap: BTreeSet<String>,
}

#[derive(Default)]
pub struct Stream {
    /// Last seq given.
    pub(super) last: u64,
    /// What joins and pulls say of it.
    pub head: u64,
    /// Where the last live frame ended.
    pub(super) sent: u64,
    /// What pulls show.
    pub history: BTreeMap<u64, Message>,
    pub(super) followers: Vec<ConnectionNo>,
    pub(super) held: Option<Held>,
}

/// Kept back until the next message of the stream.
pub(super) enum Held {
    Frame { of: ConnectionNo, frame: Bytes },
    Message { after: u64, message: Box<Message> },
}

pub struct Sequencer {
    pub fault: Fault,
    /// Number of the newest message.
    number: u64,
    pub streams: BTreeMap<String, Stream>,
    pub connections: BTreeMap<ConnectionNo, Connection>,
    next_connection: ConnectionNo,
    /// First results, by target and idempotency key.
    keys: HashMap<(String, String), PushResult>,
    pub stalled_until: Option<Instant>,
    pub planted: Vec<Planted>,
    pub pongs: u64,
}

impl Sequencer {
    pub fn new(fault: Fault) -> Sequencer {
        Sequencer {
            fault,
            number: 0,
            streams: BTreeMap::new(),
            connections: BTreeMap::new(),
            next_connection: 0,
            keys: HashMap::new(),
            stalled_until: None,
            planted: Vec::new(),
            pongs: 0,
        }
    }

    pub fn number(&self) -> u64 {
        self.number
    }

    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    pub fn enter(&mut self, uid: String, outbox: mpsc::Sender<Out>) -> ConnectionNo {
        self.next_connection += 1;
        let connection = Connection { uid, outbox, in_gap: BTreeSet::new() };
        self.connections.insert(self.next_connection, connection);
        self.next_connection
    }

    pub fn leave(&mut self, connection: ConnectionNo) {
        self.connections.remove(&connection);
        self.streams.values_mut().for_each(|stream| stream.followers.retain(|follower| *follower != connection));
    }

    /// The connection follows the stream from its head on.
    pub fn join(&mut self, connection: ConnectionNo, name: &str) -> StreamState {
        let stream = self.streams.entry(name.to_owned()).or_default();
        if !stream.followers.contains(&connection) {
            stream.followers.push(connection);
        }
        stream.state(name)
    }

    /// What `after` lies before, as the batches that a returning connection gets.
    pub fn missed(&mut self, name: &str, after: u64) -> Vec<Batch> {
        let Some(stream) = self.streams.get(name) else { return Vec::new() };
        if let Fault::ForgetsMissed { .. } = self.fault
            && after < stream.head
        {
            let missed = stream.history.range(after + 1..);
            self.planted.extend(missed.map(|(seq, _)| Planted { stream: name.to_owned(), seq: *seq, recipients: 1 }));
            return vec![batch(name, after, stream.head, Vec::new())];
        }
        let mut from = if matches!(self.fault, Fault::ForgetsCursors { .. }) { 0 } else { after };
        let mut batches = Vec::new();
        while from < stream.head {
            let messages: Vec<Message> =
                stream.history.range(from + 1..).take(PAGE_MESSAGES_MAX).map(|(_, message)| message.clone()).collect();
            let whole = messages.len() < PAGE_MESSAGES_MAX;
            let upto = messages.last().filter(|_| !whole).map_or(stream.head, |last| last.seq);
            batches.push(batch(name, from, upto, messages));
            from = upto;
        }
        batches
    }

    /// One frame to one connection; one that does not keep up is cut.
    pub fn send(&mut self, connection: ConnectionNo, frame: Bytes) {
        let Some(to) = self.connections.get(&connection) else { return };
        if to.outbox.try_send(Out::Frame(frame)).is_err() {
            self.leave(connection);
        }
    }

    /// Begins the stall if it is due.
    pub fn stalls_now(&mut self) -> bool {
        let Fault::Stall { at, pause } = self.fault else { return false };
        let begins = self.stalled_until.is_none() && self.number + 1 == at;
        if begins {
            self.stalled_until = Some(Instant::now() + pause);
        }
        begins
    }

    pub fn push(&mut self, request: &PushRequest) -> Answer {
        let mut results = Vec::new();
        let mut struck = false;
        for to in &request.to {
            let key = (to.clone(), request.message_id.clone());
            if let Some(first) = self.keys.get(&key).filter(|_| !request.message_id.is_empty()) {
                results.push(PushResult { duplicate: true, corr: request.corr, ..first.clone() });
                continue;
            }
            self.number += 1;
            struck |= self.strikes();
            let result = self.take(to, request);
            if result.error.is_none() {
                self.keys.insert(key, result.clone());
            }
            results.push(match self.fault {
                Fault::LateAnswer { .. } if self.strikes() => refused(to, request.corr, "UNAVAILABLE"),
                Fault::RefusedAndShown { .. } if self.strikes() => refused(to, request.corr, "OVERLOADED"),
                _ => result,
            });
        }
        match self.fault {
            Fault::PushStreamBreaks { .. } if struck => Answer::Broken,
            Fault::Unanswered { .. } if struck => Answer::Nothing,
            _ => Answer::Results(results),
        }
    }

    fn take(&mut self, to: &str, request: &PushRequest) -> PushResult {
        let corr = request.corr;
        if let Fault::RefusedPush { code, .. } = self.fault
            && self.strikes()
        {
            return refused(to, corr, code);
        }
        let stream = self.streams.entry(to.to_owned()).or_default();
        stream.last += 1;
        let content = request.message.clone().unwrap_or_default();
        let message = Message {
            seq: stream.last,
            id: (FIRST_ID + self.number).to_string(),
            from: request.from.clone(),
            r#type: content.r#type,
            content: content.content,
            ..Message::default()
        };
        let mut result = PushResult {
            to: to.to_owned(),
            status: PushStatus::Accepted as i32,
            message_id: message.id.clone(),
            epoch: EPOCH.into(),
            seq: Some(message.seq),
            corr,
            ..PushResult::default()
        };
        if let Fault::SeqTwice { .. } = self.fault
            && self.strikes()
        {
            result.seq = Some(message.seq - 1);
            self.plant(to, message.seq - 1, 1);
        }
        self.end_connections();
        self.show(to, message);
        result
    }

    pub(super) fn strikes(&self) -> bool {
        self.fault.strikes(self.number)
    }

    pub(super) fn plant(&mut self, stream: &str, seq: u64, recipients: u64) {
        self.planted.push(Planted { stream: stream.to_owned(), seq, recipients });
    }

    fn end_connections(&mut self) {
        let (count, how) = match self.fault {
            Fault::Close { count, how, .. } => (count, how),
            Fault::ForgetsCursors { count, .. } | Fault::ForgetsMissed { count, .. } => (count, How::Cut),
            _ => return,
        };
        if !self.strikes() {
            return;
        }
        let ended: Vec<ConnectionNo> = self.connections.keys().copied().take(count).collect();
        for connection in ended {
            if let Some(to) = self.connections.get(&connection) {
                let _ = to.outbox.try_send(Out::End(how));
            }
            self.leave(connection);
        }
    }

    /// Stores the message and shows it to who follows the stream, as the fault has it.
    fn show(&mut self, name: &str, message: Message) {
        let strikes = self.strikes();
        let stream = self.streams.entry(name.to_owned()).or_default();
        let seq = message.seq;
        let audience = stream.followers.len() as u64;
        let hidden =
            matches!(self.fault, Fault::DropEvery { .. } | Fault::SilentFrom { .. } | Fault::HoleInPull { .. });
        if !(strikes && hidden) {
            stream.history.insert(seq, message.clone());
        }
        let silent = strikes && matches!(self.fault, Fault::SilentFrom { .. });
        if !silent {
            stream.head = seq;
        }
        match self.fault {
            _ if !strikes => self.live(name, message),
            Fault::DropEvery { .. } | Fault::SilentFrom { .. } => self.plant(name, seq, audience),
            Fault::DropLive { .. }
            | Fault::UnhealedHole { .. }
            | Fault::HoleInPull { .. }
            | Fault::WrongInPull { .. } => {
                if let (Fault::WrongInPull { .. }, Some(stored)) = (self.fault, stream.history.get_mut(&seq)) {
                    change_a_byte(&mut stored.content);
                }
                stream.sent = seq;
                self.plant(name, seq, audience);
            }
            _ => self.wrongly(name, message, audience),
        }
    }

    pub(super) fn live(&mut self, name: &str, message: Message) {
        let stream = self.streams.entry(name.to_owned()).or_default();
        let after = std::mem::replace(&mut stream.sent, message.seq);
        match stream.held.take() {
            None => self.cast(name, batch(name, after, message.seq, vec![message])),
            Some(Held::Message { after, message: held }) => {
                self.cast(name, batch(name, after, message.seq, vec![message, *held]));
            }
            Some(Held::Frame { of, frame }) => {
                self.cast(name, batch(name, after, message.seq, vec![message]));
                self.send(of, frame);
            }
        }
    }

    pub(super) fn followers(&self, name: &str) -> Vec<ConnectionNo> {
        self.streams.get(name).map(|stream| stream.followers.clone()).unwrap_or_default()
    }

    /// To every follower, one shared frame.
    pub(super) fn cast(&mut self, name: &str, batch: Batch) {
        self.cast_but(name, batch, None);
    }

    pub(super) fn cast_but(&mut self, name: &str, batch: Batch, but: Option<ConnectionNo>) {
        let frame = encode(0, Body::Batch(batch));
        for follower in self.followers(name) {
            let in_gap = self.connections.get(&follower).is_some_and(|connection| connection.in_gap.contains(name));
            if Some(follower) != but && !in_gap {
                self.send(follower, frame.clone());
            }
        }
    }
}

impl Stream {
    pub fn state(&self, name: &str) -> StreamState {
        let recovered = "full".to_owned();
        StreamState { stream: name.to_owned(), epoch: EPOCH.into(), head: self.head, first: 1, recovered }
    }
}

pub fn batch(stream: &str, after: u64, upto: u64, messages: Vec<Message>) -> Batch {
    Batch { stream: stream.to_owned(), epoch: EPOCH.into(), after: Some(after), upto: Some(upto), messages }
}

pub(super) fn change_a_byte(content: &mut String) {
    let last = if content.pop() == Some('a') { 'b' } else { 'a' };
    content.push(last);
}

fn refused(to: &str, corr: u64, code: &str) -> PushResult {
    let error = PushError { code: code.into(), message: "planted".into(), retry: true, ..PushError::default() };
    PushResult {
        to: to.to_owned(),
        status: PushStatus::Error as i32,
        error: Some(error),
        corr,
        ..PushResult::default()
    }
}
