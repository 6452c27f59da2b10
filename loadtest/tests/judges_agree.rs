//! Two judges of the client rule, this harness's and the simulator's, before the same server: neither accuses a lawful one, and
//! whatever wrong one of them finds, the other finds.

use std::sync::Arc;

use proptest::prelude::*;
use prost::Message as _;
use smallvec::SmallVec;
use tidegate_control_core::domain::{
    Append, Body as Stored, Content, Epoch, GroupChange, Lsn, MessageId, Place, Priority, Record, Seq, StreamKey,
    Timestamp,
};
use tidegate_load::client::{Client, Context, Shared};
use tidegate_load::fleet::Mode;
use tidegate_load::payload::{Stamp, TYPE, content};
use tidegate_load::population::{ClientNo, GroupClass, Population};
use tidegate_proto::v1::{self, client_frame::Op, ok, server_frame::Body};
use tidegate_sim::client::{self as strict, Conn, Habits};
use tidegate_sim::rng::Rng;
use tidegate_sim::truth::Truth;

const GROUP: &str = "g:t-all-0";
const UID: &str = "t-0";
const MESSAGES: u64 = 400;
const EPOCH: Epoch = Epoch(0xba5e);
const PAUSE_MS: u64 = 10;

#[derive(Clone, Copy, Debug)]
enum Lawful {
    Live {
        count: u64,
    },
    /// So many are dropped, and pulled.
    Gap {
        dropped: u64,
    },
}

#[derive(Clone, Copy, Debug)]
enum Wrong {
    Again,
    Hole,
    Reversed,
    OtherContent,
    OutsideItsRange,
    BackwardRange,
    LiveInGap,
    OtherEpoch,
    NotAsked,
    PageOfNothing,
    HeadBehindPage,
}

const WRONGS: [Wrong; 11] = [
    Wrong::Again,
    Wrong::Hole,
    Wrong::Reversed,
    Wrong::OtherContent,
    Wrong::OutsideItsRange,
    Wrong::BackwardRange,
    Wrong::LiveInGap,
    Wrong::OtherEpoch,
    Wrong::NotAsked,
    Wrong::PageOfNothing,
    Wrong::HeadBehindPage,
];

/// A request of one of the two: id, after, limit.
type Pull = (u32, u64, u32);

/// A client that judges.
trait Judge {
    fn hears(&mut self, frame: &v1::ServerFrame);
    /// Lets `ms` pass; what it asks for then.
    fn pulls(&mut self, ms: u64) -> Vec<Pull>;
    fn accuses(&self) -> Option<String>;
}

struct Harness {
    client: Client,
    shared: Shared,
    now_us: u64,
    out: Vec<u8>,
    ended: bool,
}

struct Simulated {
    client: strict::Client,
    truth: Truth,
    now: u64,
    violation: Option<String>,
}

impl Harness {
    fn new() -> Harness {
        let class = GroupClass { name: "all".into(), count: 1, members: 2 };
        let population = Arc::new(Population::new("t", 2, vec![class], 1));
        let client = Client::new(ClientNo(0), &population);
        let shared = Shared::new(population, Mode::Follow, 1);
        let mut harness = Harness { client, shared, now_us: 1_000_000, out: Vec::new(), ended: false };
        harness.with(|client, cx| client.open("127.0.0.1:1".parse().expect("an address"), cx));
        harness.give(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n");
        harness.hears(&connected());
        harness.hears(&joined(3));
        harness.out.clear();
        assert!(harness.client.is_established());
        harness
    }

    fn with<R>(&mut self, call: impl FnOnce(&mut Client, &mut Context<'_>) -> R) -> R {
        let (shared, out) = (&mut self.shared, &mut self.out);
        let mut cx = Context { shared, client: ClientNo(0), is_slow: false, now_us: self.now_us, out };
        call(&mut self.client, &mut cx)
    }

    fn give(&mut self, bytes: &[u8]) {
        self.ended |= self.with(|client, cx| client.input(bytes, cx)).is_err();
    }
}

impl Judge for Harness {
    fn hears(&mut self, frame: &v1::ServerFrame) {
        self.give(&wire(frame));
    }

    fn pulls(&mut self, ms: u64) -> Vec<Pull> {
        self.now_us += ms * 1_000;
        self.with(|client, cx| client.timeout(cx));
        read(&std::mem::take(&mut self.out))
    }

    fn accuses(&self) -> Option<String> {
        // A hole is mended by the rule; until then it stands as one.
        let behind = (self.shared.tally.behind > 0).then(|| "behind".to_owned());
        let ended = self.ended.then(|| "ended".to_owned());
        self.shared.tally.findings.texts().first().cloned().or(behind).or(ended)
    }
}

impl Simulated {
    fn new() -> Simulated {
        let habits = Habits {
            device: "d".into(),
            json: false,
            deflate: false,
            platform: 0,
            sent_acks: false,
            read: (usize::MAX, 0),
        };
        let mut client = strict::Client::new(0, UID.into(), habits, Rng::new(1, 1));
        client.connected(Conn::new((0, 0, 0, 0), 0));
        let mut judge = Simulated { client, truth: truth(), now: 0, violation: None };
        judge.hears(&connected());
        let mut out = Vec::new();
        judge.client.join(GROUP.into(), false, &mut out);
        judge.hears(&joined(2));
        assert_eq!(judge.violation, None);
        judge
    }
}

impl Judge for Simulated {
    fn hears(&mut self, frame: &v1::ServerFrame) {
        let judged = self.client.hears(self.now, &wire(frame), &self.truth, &mut Vec::new());
        self.violation = self.violation.take().or(judged.err());
    }

    fn pulls(&mut self, ms: u64) -> Vec<Pull> {
        self.now += ms * 1_000_000;
        read(&self.client.speak(self.now))
    }

    fn accuses(&self) -> Option<String> {
        self.violation.clone()
    }
}

/// One server for one judge, so that each is answered what it asked.
struct Server<J> {
    judge: J,
    head: u64,
}

impl<J: Judge> Server<J> {
    fn lawful(&mut self, step: Lawful) {
        match step {
            Lawful::Live { count } => {
                self.judge.hears(&batch(self.head, self.head + count, self.head + 1..=self.head + count));
                self.head += count;
            }
            Lawful::Gap { dropped } => {
                self.gap(dropped);
                for _ in 0..2 * MESSAGES {
                    let pulls = self.judge.pulls(PAUSE_MS);
                    if pulls.is_empty() {
                        return;
                    }
                    pulls.into_iter().for_each(|pull| self.page(pull));
                }
                panic!("it pulls without end");
            }
        }
    }

    fn gap(&mut self, dropped: u64) {
        let (stream, epoch) = (GROUP.to_owned(), EPOCH.to_string());
        let (from, to) = (self.head + 1, self.head + dropped);
        self.head = to;
        let gap = v1::Gap { stream, epoch, from, to, head: to, pull_after_ms: PAUSE_MS as u32, lazy: false };
        self.judge.hears(&unasked(Body::Gap(gap)));
    }

    fn page(&mut self, (id, after, limit): Pull) {
        let limit = if limit == 0 { MESSAGES } else { u64::from(limit) };
        self.judge.hears(&page(id, after, self.head.min(after + limit), self.head));
    }

    fn wrong(&mut self, wrong: Wrong) {
        let head = self.head;
        let (next, after_next) = (head + 1, head + 2);
        match wrong {
            Wrong::Again => {
                // What came live: the harness counts a repetition of what a pull brought, and lives with it.
                self.lawful(Lawful::Live { count: 1 });
                self.judge.hears(&batch(head, next, [next]));
            }
            Wrong::Hole => self.judge.hears(&batch(next, after_next, [after_next])),
            Wrong::Reversed => self.judge.hears(&batch(head, after_next, [after_next, next])),
            Wrong::OtherContent => {
                let mut frame = batch(head, next, [next]);
                change(&mut frame, |batch| batch.messages[0].content.push('x'));
                self.judge.hears(&frame);
            }
            Wrong::OutsideItsRange => self.judge.hears(&batch(head, next, [after_next])),
            Wrong::BackwardRange => self.judge.hears(&batch(after_next, head, [])),
            Wrong::LiveInGap => {
                self.gap(2);
                self.judge.hears(&batch(self.head, self.head + 1, [self.head + 1]));
            }
            Wrong::OtherEpoch => {
                let mut frame = batch(head, next, [next]);
                change(&mut frame, |batch| batch.epoch = Epoch(1).to_string());
                self.judge.hears(&frame);
            }
            Wrong::NotAsked => self.judge.hears(&page(77, head, next, next)),
            Wrong::PageOfNothing | Wrong::HeadBehindPage => {
                self.gap(3);
                let pulls = self.judge.pulls(PAUSE_MS);
                for (id, after, _) in pulls {
                    let frame = match wrong {
                        Wrong::PageOfNothing => page(id, after, after, self.head),
                        _ => page(id, after, after + 2, after + 1),
                    };
                    self.judge.hears(&frame);
                }
            }
        }
    }
}

fn judged<J: Judge>(judge: J, steps: &[Lawful], wrong: Option<Wrong>) -> Option<String> {
    let mut server = Server { judge, head: 0 };
    server.lawful(Lawful::Live { count: 2 });
    steps.iter().for_each(|step| server.lawful(*step));
    wrong.into_iter().for_each(|wrong| server.wrong(wrong));
    server.judge.accuses()
}

fn truth() -> Truth {
    let mut truth = Truth::default();
    let stream: StreamKey = GROUP.parse().expect("a stream");
    let gid = stream.gid().expect("a group");
    let (name, creator, ts) = (Box::default(), Box::default(), Timestamp(1));
    let group = GroupChange { gid, epoch: EPOCH, open: true, name, creator, ts, dismissed: false };
    truth.add(0, Lsn(1), &Record::Group(group)).expect("begins");
    for seq in 1..=MESSAGES {
        let body = Stored {
            id: MessageId(100 + seq),
            from: "".into(),
            to: "".into(),
            client_msg_id: "".into(),
            kind: TYPE.into(),
            title: "".into(),
            content: Content::Text(text(seq).into()),
            metadata: "".into(),
            ts: Timestamp(2),
            priority: Priority::Normal,
            expires: None,
            platforms: SmallVec::new(),
        };
        let place = Place { stream: stream.clone(), epoch: EPOCH, seq: Seq(seq) };
        let places = SmallVec::from_iter([place]);
        let append = Append { body: Arc::new(body), places, dedup: None, membership: None };
        truth.add(0, Lsn(1 + seq), &Record::Append(append)).expect("follows");
    }
    truth
}

fn text(seq: u64) -> String {
    content(Stamp { load: 0, number: seq, intended_us: seq }, 64)
}

fn message(seq: u64) -> v1::Message {
    v1::Message { seq, id: (100 + seq).to_string(), r#type: TYPE.into(), content: text(seq), ..Default::default() }
}

fn batch(after: u64, upto: u64, seqs: impl IntoIterator<Item = u64>) -> v1::ServerFrame {
    let messages = seqs.into_iter().map(message).collect();
    let (stream, epoch, after, upto) = (GROUP.to_owned(), EPOCH.to_string(), Some(after), Some(upto));
    unasked(Body::Batch(v1::Batch { stream, epoch, after, upto, messages }))
}

fn page(id: u32, after: u64, upto: u64, head: u64) -> v1::ServerFrame {
    let messages = (after + 1..=upto).map(message).collect();
    let (stream, epoch) = (GROUP.to_owned(), EPOCH.to_string());
    let pulled = v1::PullResult { stream, epoch, after, upto, messages, next_after: upto, head, first: 1 };
    answer(id, ok::Result::Pull(pulled))
}

fn connected() -> v1::ServerFrame {
    answer(1, ok::Result::Connect(v1::Session { uid: UID.into(), ..Default::default() }))
}

fn joined(id: u32) -> v1::ServerFrame {
    let (stream, epoch, recovered) = (GROUP.to_owned(), EPOCH.to_string(), "full".to_owned());
    answer(id, ok::Result::Join(v1::StreamState { stream, epoch, head: 0, first: 1, recovered }))
}

fn answer(id: u32, result: ok::Result) -> v1::ServerFrame {
    v1::ServerFrame { id, body: Some(Body::Ok(v1::Ok { result: Some(result) })) }
}

fn unasked(body: Body) -> v1::ServerFrame {
    v1::ServerFrame { id: 0, body: Some(body) }
}

fn change(frame: &mut v1::ServerFrame, how: impl FnOnce(&mut v1::Batch)) {
    if let Some(Body::Batch(batch)) = &mut frame.body {
        how(batch);
    }
}

/// A binary frame of a server.
fn wire(frame: &v1::ServerFrame) -> Vec<u8> {
    let payload = frame.encode_to_vec();
    let head = match payload.len() {
        len @ 0..126 => vec![0x82, len as u8],
        len @ 126..65_536 => [&[0x82, 126][..], &(len as u16).to_be_bytes()].concat(),
        len => [&[0x82, 127][..], &(len as u64).to_be_bytes()].concat(),
    };
    [head, payload].concat()
}

/// The pulls among a client's frames, which are short.
fn read(mut bytes: &[u8]) -> Vec<Pull> {
    let mut pulls = Vec::new();
    while let [_, len, rest @ ..] = bytes {
        assert!((0x80..0x80 + 126).contains(len));
        let (mask, rest) = rest.split_at(4);
        let (payload, rest) = rest.split_at(usize::from(len - 0x80));
        let plain: Vec<u8> = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
        let frame = v1::ClientFrame::decode(&*plain).expect("a client frame");
        if let Some(Op::Pull(pull)) = frame.op {
            pulls.push((frame.id, pull.after, pull.limit));
        }
        bytes = rest;
    }
    pulls
}

fn lawful() -> impl Strategy<Value = Vec<Lawful>> {
    let step = prop_oneof![
        3 => (0u64..9).prop_map(|count| Lawful::Live { count }),
        1 => (1u64..20).prop_map(|dropped| Lawful::Gap { dropped }),
    ];
    prop::collection::vec(step, 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn before_a_lawful_server_neither_accuses(steps in lawful()) {
        prop_assert_eq!(judged(Harness::new(), &steps, None), None);
        prop_assert_eq!(judged(Simulated::new(), &steps, None), None);
    }

    #[test]
    fn before_a_server_that_does_one_wrong_both_accuse(steps in lawful(), wrong in prop::sample::select(&WRONGS[..])) {
        prop_assert!(judged(Harness::new(), &steps, Some(wrong)).is_some(), "the harness lets {:?} pass", wrong);
        prop_assert!(judged(Simulated::new(), &steps, Some(wrong)).is_some(), "the simulator lets {:?} pass", wrong);
    }
}
