//! A client that follows R-SEQ-2 and complains about everything that the protocol forbids.

use std::collections::BTreeMap;

use tidegate_gateway_core::client::ops::Op;
use tidegate_gateway_core::ids::{ConnId, Cursor, Epoch, Seq, StreamKey, Uid};
use tidegate_proto::v1::{self, ok, server_frame::Body};

pub struct Client {
    pub uid: Uid,
    /// Shard and connection, while connected.
    pub at: Option<(usize, ConnId)>,
    pub welcomed: bool,
    pub streams: BTreeMap<StreamKey, Follow>,
    pub requests: BTreeMap<u32, Asked>,
    pub next_id: u32,
    /// To be sent by the world.
    pub wants: Vec<Op>,
    /// No frame may begin below the client's place. Otherwise the client may take what is new of it.
    pub strict: bool,
    pub ephemeral: u64,
    pub batches: u64,
    /// What it asked and got, printed when a test fails.
    pub history: Vec<String>,
}

impl Drop for Client {
    fn drop(&mut self) {
        if std::thread::panicking() && std::env::var_os("HUB_WORLD_HISTORY").is_some() {
            eprintln!("{} {:?}:\n  {}", self.uid, self.at, self.history.join("\n  "));
        }
    }
}

#[derive(Clone, Debug)]
pub enum Asked {
    /// With a cursor?
    Join(StreamKey, bool),
    Leave(StreamKey),
    Pull(StreamKey),
}

#[derive(Clone, Debug, Default)]
pub struct Follow {
    pub epoch: Option<Epoch>,
    /// `None`: the first frame says where this client begins.
    pub last: Option<u64>,
    /// Where this client began in this epoch.
    pub start: u64,
    pub seen: Vec<u64>,
    pub member: bool,
    pub gapped: bool,
    /// A pull brought it here, perhaps beyond what was flushed.
    pub pulled: u64,
}

impl Follow {
    fn stand(&mut self, epoch: &str, last: u64) {
        self.epoch = Some(Epoch::from(epoch));
        self.last = Some(last);
        self.start = last;
        self.seen.clear();
        self.pulled = 0;
    }
}

impl Client {
    pub fn new(uid: Uid) -> Client {
        Client {
            uid,
            at: None,
            welcomed: false,
            streams: BTreeMap::new(),
            requests: BTreeMap::new(),
            next_id: 1,
            wants: Vec::new(),
            strict: false,
            ephemeral: 0,
            batches: 0,
            history: Vec::new(),
        }
    }

    /// Cursors of the streams that it knows a place in.
    pub fn cursors(&self) -> Vec<(StreamKey, Cursor)> {
        let place = |(key, follow): (&StreamKey, &Follow)| {
            let (epoch, seq) = (follow.epoch.clone()?, Seq(follow.last?));
            Some((key.clone(), Cursor { epoch, seq }))
        };
        self.streams.iter().filter_map(place).collect()
    }

    pub fn disconnected(&mut self) {
        self.history.push("disconnected".into());
        self.at = None;
        self.welcomed = false;
        self.requests.clear();
        self.wants.clear();
        for follow in self.streams.values_mut() {
            follow.member = false;
            follow.gapped = false;
        }
    }

    pub fn receive(&mut self, frame: v1::ServerFrame) {
        let id = frame.id;
        self.history.push(brief(&frame));
        match frame.body.expect("a body") {
            Body::Welcome(session) => self.session(session),
            Body::Ok(ok) => self.ok(id, ok.result),
            Body::Error(error) => self.error(id, &error),
            Body::Batch(batch) => self.batch(batch),
            Body::Gap(gap) => self.gap(gap),
            Body::Joined(joined) => {
                let follow = self.streams.entry(key(&joined.stream)).or_default();
                assert!(!follow.member, "{} told to join {} twice", self.uid, joined.stream);
                follow.stand(&joined.epoch, joined.head);
                follow.member = true;
                follow.gapped = false;
            }
            Body::Left(left) => {
                let follow = self.streams.entry(key(&left.stream)).or_default();
                follow.member = false;
                follow.gapped = false;
            }
            other => panic!("unexpected {other:?}"),
        }
    }

    fn session(&mut self, session: v1::Session) {
        assert!(!self.welcomed, "a second session object");
        assert_eq!(session.uid, self.uid.as_str());
        self.welcomed = true;
        for state in session.streams {
            self.recovered(&state);
        }
    }

    fn recovered(&mut self, state: &v1::StreamState) {
        let follow = self.streams.entry(key(&state.stream)).or_default();
        follow.member = true;
        if state.recovered == "expired" {
            // A recovery from there follows, whatever was missing before. Within an epoch a client never goes back.
            let same = follow.epoch.as_ref().is_some_and(|epoch| *epoch.as_str() == *state.epoch);
            if !same || follow.last.is_none_or(|last| last < state.first - 1) {
                follow.stand(&state.epoch, state.first - 1);
            }
            follow.gapped = false;
        } else if let Some(epoch) = &follow.epoch {
            assert_eq!(*epoch.as_str(), *state.epoch, "a new epoch must be told as expired");
        } else {
            follow.epoch = Some(Epoch::from(state.epoch.as_str()));
        }
    }

    fn ok(&mut self, id: u32, result: Option<ok::Result>) {
        if let Some(ok::Result::Connect(session)) = result {
            return self.session(session);
        }
        let asked = self.requests.remove(&id).unwrap_or_else(|| panic!("an answer to nothing: {id}"));
        match (asked, result) {
            (Asked::Join(stream, with_cursor), Some(ok::Result::Join(state))) => {
                let follow = self.streams.entry(stream).or_default();
                let other_epoch = follow.epoch.as_ref().is_some_and(|epoch| *epoch.as_str() != *state.epoch);
                if !with_cursor && (!follow.member || other_epoch) {
                    // It begins anew at a place that the server chose.
                    *follow = Follow::default();
                }
                self.recovered(&state);
            }
            (Asked::Leave(stream), None) => {
                let follow = self.streams.entry(stream).or_default();
                follow.member = false;
                follow.gapped = false;
            }
            (Asked::Pull(stream), Some(ok::Result::Pull(pull))) => self.pulled(&stream, pull),
            (asked, result) => panic!("{asked:?} answered by {result:?}"),
        }
    }

    fn error(&mut self, id: u32, error: &v1::Error) {
        let asked = self.requests.remove(&id).expect("an answer to a request");
        let Asked::Pull(stream) = asked else { return };
        let follow = self.streams.get_mut(&stream).expect("pulled");
        let known = follow.epoch.as_ref().is_some_and(|epoch| *epoch.as_str() == *error.epoch);
        if error.code == "EXPIRED" && !known {
            follow.stand(&error.epoch, error.first.expect("where it stands") - 1);
        }
        if follow.gapped && error.code != "FORBIDDEN" {
            self.pull(&stream);
        }
    }

    fn batch(&mut self, batch: v1::Batch) {
        assert!(self.welcomed, "a batch before the session object");
        self.batches += 1;
        let (Some(after), Some(upto)) = (batch.after, batch.upto) else {
            assert!(batch.messages.iter().all(|message| message.seq == 0), "durable among ephemeral");
            self.ephemeral += batch.messages.len() as u64;
            return;
        };
        assert!(upto > after, "a batch that covers nothing");
        let follow = self.streams.entry(key(&batch.stream)).or_default();
        if follow.epoch.is_none() || follow.last.is_none() {
            // Joined by itself, without news: it begins with what comes first.
            follow.stand(&batch.epoch, after);
            follow.member = true;
        }
        let uid = &self.uid;
        assert!(follow.member, "{uid} gets {} of {} without being a member", upto, batch.stream);
        assert!(!follow.gapped, "{uid} gets a live batch of {} inside a gap", batch.stream);
        assert_eq!(
            follow.epoch.as_ref().map(|e| e.as_str()),
            Some(batch.epoch.as_str()),
            "{uid}: epoch of {}",
            batch.stream
        );
        let last = follow.last.expect("stands somewhere");
        assert!(after <= last, "{uid}: a hole in {}: stands at {last}, got ({after}, {upto}]", batch.stream);
        let exact = self.strict && after >= follow.pulled;
        assert!(!exact || after == last, "{uid} in {} stands at {last}, got ({after}, {upto}] again", batch.stream);
        take(follow, &batch.messages, after, upto);
    }

    fn gap(&mut self, gap: v1::Gap) {
        assert!(self.welcomed, "a gap before the session object");
        let stream = key(&gap.stream);
        let follow = self.streams.entry(stream.clone()).or_default();
        if follow.epoch.as_ref().map(|epoch| epoch.as_str()) != Some(gap.epoch.as_str()) || follow.last.is_none() {
            follow.stand(&gap.epoch, gap.from - 1);
        }
        let last = follow.last.expect("stands somewhere");
        assert!(gap.from <= last + 1, "a hole before the gap: stands at {last}, gap from {}", gap.from);
        follow.member = true;
        follow.gapped = true;
        self.pull(&stream);
    }

    fn pull(&mut self, stream: &StreamKey) {
        let follow = &self.streams[stream];
        let (epoch, after) = (follow.epoch.clone(), Seq(follow.last.unwrap_or(0)));
        let limit = Some(1 + (self.next_id * 7) % 40);
        self.wants.push(Op::Pull { stream: stream.clone(), epoch, after, since_ts: None, limit });
    }

    fn pulled(&mut self, stream: &StreamKey, pull: v1::PullResult) {
        let follow = self.streams.get_mut(stream).expect("pulled");
        if follow.epoch.as_ref().map(|epoch| epoch.as_str()) != Some(pull.epoch.as_str()) {
            return;
        }
        let Some(last) = follow.last else { return };
        if pull.after > last {
            // Asked before a rejoin sent it back.
            if follow.gapped {
                self.pull(stream);
            }
            return;
        }
        take(follow, &pull.messages, pull.after, pull.upto);
        follow.pulled = follow.pulled.max(pull.upto);
        assert_eq!(pull.next_after, pull.upto);
        if !follow.gapped {
            return;
        }
        if pull.next_after >= pull.head {
            follow.gapped = false;
        } else {
            self.pull(stream);
        }
    }
}

fn take(follow: &mut Follow, messages: &[v1::Message], after: u64, upto: u64) {
    let mut before = after;
    for message in messages {
        assert!(message.seq > before && message.seq <= upto, "{} outside of ({before}, {upto}]", message.seq);
        before = message.seq;
        if follow.last.is_none_or(|last| message.seq > last) {
            follow.seen.push(message.seq);
        }
    }
    follow.last = follow.last.max(Some(upto));
}

fn key(text: &str) -> StreamKey {
    text.parse().expect("a stream key")
}

/// Without the texts of messages.
fn brief(frame: &v1::ServerFrame) -> String {
    let mut frame = frame.clone();
    match &mut frame.body {
        Some(Body::Batch(batch)) => batch.messages.clear(),
        Some(Body::Ok(v1::Ok { result: Some(ok::Result::Pull(pull)) })) => pull.messages.clear(),
        _ => {}
    }
    format!("{:?} {:?}", frame.id, frame.body)
}
