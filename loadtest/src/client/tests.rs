//! Scripted servers: each kind of mistake is found once, whatever the bytes are cut into, by a memo hit as by a miss.

use std::sync::Arc;

use proptest::prelude::*;
use prost::Message as _;
use tidegate_proto::v1::{self, ClientFrame, Message, ServerFrame, StreamState, client_frame, ok, server_frame};

use super::*;
use crate::judge::{Answered, Ledger};
use crate::payload::{Stamp, TYPE, content};
use crate::population::{GroupClass, StreamNo};

const GROUP: &str = "g:t-all-0";
const HOST: &str = "127.0.0.1:8080";

fn stamp(seq: u64) -> Stamp {
    Stamp { load: 0, number: seq, intended_us: seq * 1_000 }
}

fn message(seq: u64) -> Message {
    let (id, r#type) = ((100 + seq).to_string(), TYPE.to_owned());
    Message { seq, id, r#type, content: content(stamp(seq), 64), ..Message::default() }
}

fn frame(id: u32, body: server_frame::Body) -> Vec<u8> {
    let payload = ServerFrame { id, body: Some(body) }.encode_to_vec();
    let mut bytes = vec![0x82];
    match payload.len() {
        len @ 0..=125 => bytes.push(len as u8),
        len => {
            bytes.push(126);
            bytes.extend((len as u16).to_be_bytes());
        }
    }
    bytes.extend(payload);
    bytes
}

fn batch_of(stream: &str, after: u64, upto: u64, messages: Vec<Message>) -> Vec<u8> {
    let (stream, epoch) = (stream.to_owned(), "e".to_owned());
    frame(0, server_frame::Body::Batch(v1::Batch { stream, epoch, after: Some(after), upto: Some(upto), messages }))
}

fn batch(after: u64, seqs: &[u64]) -> Vec<u8> {
    let upto = seqs.iter().copied().max().unwrap_or(after);
    batch_of(GROUP, after, upto, seqs.iter().map(|seq| message(*seq)).collect())
}

fn gap(from: u64, to: u64) -> Vec<u8> {
    let (stream, epoch) = (GROUP.to_owned(), "e".to_owned());
    frame(0, server_frame::Body::Gap(v1::Gap { stream, epoch, from, to, head: to, pull_after_ms: 10, lazy: false }))
}

fn page(id: u32, after: u64, upto: u64, head: u64) -> Vec<u8> {
    let page = v1::PullResult {
        stream: GROUP.into(),
        epoch: "e".into(),
        after,
        upto,
        messages: (after + 1..=upto).map(message).collect(),
        next_after: upto,
        head,
        first: 1,
    };
    frame(id, server_frame::Body::Ok(v1::Ok { result: Some(ok::Result::Pull(page)) }))
}

fn state(stream: &str, head: u64, recovered: &str) -> StreamState {
    StreamState { stream: stream.into(), epoch: "e".into(), head, first: 1, recovered: recovered.into() }
}

fn connected(streams: Vec<StreamState>) -> Vec<u8> {
    let session = v1::Session { uid: "t-0".into(), streams, ..v1::Session::default() };
    frame(CONNECT_ID, server_frame::Body::Ok(v1::Ok { result: Some(ok::Result::Connect(session)) }))
}

fn joined(head: u64) -> Vec<u8> {
    let result = Some(ok::Result::Join(state(GROUP, head, "full")));
    frame(JOIN_ID + 1, server_frame::Body::Ok(v1::Ok { result }))
}

fn refusal(id: u32, code: &str, retry: bool) -> Vec<u8> {
    let error = v1::Error { code: code.into(), retry, retry_after_ms: Some(50), ..v1::Error::default() };
    frame(id, server_frame::Body::Error(error))
}

fn upgrade() -> Vec<u8> {
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n".to_vec()
}

/// Two clients of a run of one load and one group; client 0 is looked at.
struct Stage {
    shared: Shared,
    client: Client,
    out: Vec<u8>,
    now_us: u64,
}

impl Stage {
    fn new() -> Stage {
        let class = GroupClass { name: "all".into(), count: 1, members: 2 };
        let population = Arc::new(Population::new("t", 2, vec![class], 1));
        let client = Client::new(ClientNo(0), &population);
        let shared = Shared::new(population, Mode::Follow, 1);
        Stage { shared, client, out: Vec::new(), now_us: 1_000_000 }
    }

    /// Connected and joined at `head`.
    fn joined_at(head: u64) -> Stage {
        let mut stage = Stage::new();
        stage.open();
        stage.feed(&[upgrade(), connected(vec![]), joined(head)].concat());
        assert!(stage.client.is_established());
        stage
    }

    fn with<R>(&mut self, call: impl FnOnce(&mut Client, &mut Context<'_>) -> R) -> R {
        let (now_us, client) = (self.now_us, ClientNo(0));
        let mut cx = Context { shared: &mut self.shared, client, is_slow: false, now_us, out: &mut self.out };
        call(&mut self.client, &mut cx)
    }

    fn open(&mut self) {
        self.with(|client, cx| client.open(HOST.parse().expect("an address"), cx));
        let request = String::from_utf8(std::mem::take(&mut self.out)).expect("text");
        assert!(request.starts_with("GET /api/v1/ws?uid=t-0&defer=1 HTTP/1.1\r\n"), "{request}");
    }

    fn give(&mut self, bytes: &[u8]) -> Result<(), Ending> {
        self.with(|client, cx| client.input(bytes, cx))
    }

    fn feed(&mut self, bytes: &[u8]) {
        assert_eq!(self.give(bytes), Ok(()));
    }

    fn wait(&mut self, us: u64) {
        self.now_us += us;
        self.with(|client, cx| client.timeout(cx));
    }

    /// What the client sent since the last call.
    fn sent(&mut self) -> Vec<(u32, client_frame::Op)> {
        let mut bytes = std::mem::take(&mut self.out);
        let mut ops = Vec::new();
        while let [0x82, second, rest @ ..] = &bytes[..] {
            let (length, head) = match second & 0x7f {
                126 => (usize::from(u16::from_be_bytes([rest[0], rest[1]])), 8),
                length => (usize::from(length), 6),
            };
            let frame = ClientFrame::decode(&bytes[head..head + length]).expect("a client frame");
            ops.push((frame.id, frame.op.expect("an operation")));
            bytes.drain(..head + length);
        }
        assert!(bytes.is_empty(), "{bytes:?}");
        ops
    }

    /// The pull that was sent: its id and where it begins.
    fn pulled(&mut self) -> (u32, u64) {
        match &self.sent()[..] {
            [(id, client_frame::Op::Pull(pull))] if pull.stream == GROUP && pull.epoch == "e" => (*id, pull.after),
            other => panic!("{other:?}"),
        }
    }

    fn found(&self, kind: Kind) -> u64 {
        self.shared.tally.findings.count(kind)
    }

    fn finds_only(&self, kind: Kind, count: u64) {
        for other in Kind::ALL {
            let wanted = if other == kind { count } else { 0 };
            assert_eq!(self.found(other), wanted, "{other}: {:?}", self.shared.tally.findings.texts());
        }
        let texts = self.shared.tally.findings.texts();
        assert!(texts.iter().all(|text| text.contains("t-0") && text.contains("seq ")), "{texts:?}");
    }

    fn is_clean(&self) -> bool {
        self.shared.tally.findings.is_clean()
    }

    /// Judged against a ledger that answered `seqs` of the group.
    fn judge(mut self, seqs: impl IntoIterator<Item = u64>) -> crate::fleet::Judgement {
        let mut ledger = Ledger::default();
        for seq in seqs {
            ledger.record(StreamNo(0), Answered { seq, id: 100 + seq, stamp: stamp(seq) });
        }
        self.shared.memo.flush(&mut self.shared.tally);
        let standings = self.client.standings(ClientNo(0), false).collect();
        let Shared { tally, evidence, population, .. } = self.shared;
        crate::judge::judge(standings, tally, &evidence, &ledger, &population)
    }
}

#[test]
fn it_connects_joins_and_is_shown_everything() {
    let mut stage = Stage::new();
    stage.open();
    stage.feed(&upgrade());
    let sent = stage.sent();
    let [(CONNECT_ID, client_frame::Op::Connect(connect)), (join_id, client_frame::Op::Join(join))] = &sent[..] else {
        panic!("{sent:?}")
    };
    assert_eq!((connect.device.as_str(), connect.platform.as_str(), connect.cursors.len()), ("t-0-device", "web", 0));
    assert_eq!((*join_id, join.stream.as_str()), (JOIN_ID + 1, GROUP));
    stage.feed(&connected(vec![]));
    assert!(!stage.client.is_established());
    stage.feed(&joined(3));
    assert!(stage.client.is_established());
    stage.feed(&batch(3, &[4, 5]));
    stage.feed(&batch(5, &[6]));
    let judgement = stage.judge(4..=6);
    assert!(judgement.findings.is_clean(), "{:?}", judgement.findings);
    assert_eq!((judgement.expected, judgement.received), (3, 3));
    assert_eq!(judgement.latency[0].all.len(), 3);
}

#[test]
fn an_inbox_is_shown_from_its_first_message() {
    let mut stage = Stage::new();
    stage.open();
    stage.feed(&[upgrade(), connected(vec![state("u:t-0", 2, "full")]), joined(0)].concat());
    stage.feed(&batch_of("u:t-0", 0, 2, vec![message(1), message(2)]));
    assert_eq!((stage.is_clean(), stage.shared.tally.received), (true, 2));
    let inbox = stage.client.standings(ClientNo(0), false).next().expect("the inbox");
    assert_eq!((inbox.start, inbox.last), (0, 2));
}

#[test]
fn a_ping_is_answered_with_its_payload() {
    let mut stage = Stage::joined_at(0);
    stage.out.clear();
    stage.feed(&[0x89, 3, b'a', b'b', b'c']);
    assert_eq!(stage.out, [0x8a, 0x83, 0, 0, 0, 0, b'a', b'b', b'c']);
}

#[test]
fn each_mistake_in_a_live_frame_is_found_once() {
    type Script = Vec<Vec<u8>>;
    let broken = |change: fn(&mut Message)| {
        let mut message = message(2);
        change(&mut message);
        batch_of(GROUP, 1, 2, vec![message])
    };
    let foreign = |stream: &str| batch_of(stream, 0, 2, vec![message(1), message(2)]);
    let scripts: Vec<(&str, Script, Kind, u64)> = vec![
        ("a frame twice", vec![batch(0, &[1, 2]), batch(0, &[1, 2])], Kind::Duplicated, 2),
        ("a seq twice in a frame", vec![batch(0, &[1, 1, 2])], Kind::Duplicated, 1),
        ("falling within a frame", vec![batch(0, &[2, 1, 3])], Kind::Reordered, 1),
        ("two frames swapped", vec![batch(0, &[1]), batch(2, &[3]), batch(1, &[2])], Kind::Reordered, 1),
        (
            "late within its range",
            vec![batch_of(GROUP, 0, 2, vec![message(2)]), batch_of(GROUP, 0, 1, vec![message(1)])],
            Kind::Reordered,
            1,
        ),
        ("another's inbox", vec![foreign("u:t-1")], Kind::WrongRecipient, 2),
        ("a stream that is none", vec![foreign("g:elsewhere")], Kind::WrongRecipient, 2),
        ("a changed content", vec![batch(0, &[1]), broken(|m| m.content.push('x'))], Kind::WrongPayload, 1),
        ("an id that is none", vec![batch(0, &[1]), broken(|m| m.id = "x".into())], Kind::WrongPayload, 1),
        ("out of range", vec![batch_of(GROUP, 0, 1, vec![message(1), message(9)])], Kind::Protocol, 1),
        ("another epoch", vec![batch(0, &[1]), broken_epoch()], Kind::Protocol, 1),
        ("live in a gap", vec![gap(1, 1), batch(1, &[2])], Kind::Protocol, 1),
        ("a range that ends before it begins", vec![batch_of(GROUP, 5, 3, vec![])], Kind::Protocol, 1),
    ];
    for (name, script, kind, count) in scripts {
        let whole = script.concat();
        for cut in 0..whole.len() {
            let mut stage = Stage::joined_at(0);
            stage.feed(&whole[..cut]);
            stage.feed(&whole[cut..]);
            println!("{name}, cut at {cut}");
            stage.finds_only(kind, count);
        }
    }
}

fn broken_epoch() -> Vec<u8> {
    let (stream, epoch) = (GROUP.to_owned(), "other".to_owned());
    let (after, upto, messages) = (Some(1), Some(2), vec![message(2)]);
    frame(0, server_frame::Body::Batch(v1::Batch { stream, epoch, after, upto, messages }))
}

#[test]
fn what_breaks_the_framing_ends_the_connection_for_good() {
    let text = vec![0x81, 1, b'x'];
    let undecodable = vec![0x82, 2, 0xff, 0xff];
    let bad_close = vec![0x88, 2, 0x0d, 0xac];
    for bytes in [vec![0xc2, 0], vec![0x82, 0x80], vec![0x02, 0], text, undecodable, bad_close] {
        let mut stage = Stage::joined_at(0);
        assert_eq!(stage.give(&bytes), Err(Ending::Final), "{bytes:02x?}");
        assert_eq!(stage.found(Kind::Protocol), 1);
    }
}

#[test]
fn a_drain_says_when_to_come_back() {
    let mut stage = Stage::joined_at(0);
    let bye = v1::Bye { code: 3001, reconnect: true, reconnect_after_ms: Some(700), ..v1::Bye::default() };
    stage.feed(&frame(0, server_frame::Body::Bye(bye)));
    assert_eq!(stage.give(&[0x88, 2, 0x0b, 0xb9]), Err(Ending::Closed { after_ms: 700 }));
    assert!(stage.is_clean());
}

#[test]
fn a_refused_upgrade_or_connect_is_tried_again() {
    let mut stage = Stage::new();
    stage.open();
    assert_eq!(stage.give(b"HTTP/1.1 503 Service Unavailable\r\n\r\n"), Err(Ending::Refused));
    let mut stage = Stage::new();
    stage.open();
    stage.feed(&upgrade());
    assert_eq!(stage.give(&refusal(CONNECT_ID, "OVERLOADED", true)), Err(Ending::Refused));
    assert!(stage.is_clean());
}

#[test]
fn a_refused_join_is_asked_again_when_told() {
    let mut stage = Stage::new();
    stage.open();
    stage.feed(&[upgrade(), connected(vec![]), refusal(JOIN_ID + 1, "UNAVAILABLE", true)].concat());
    stage.sent();
    assert_eq!(stage.client.next_timeout_us(), Some(stage.now_us + 50_000));
    stage.wait(50_000);
    assert!(matches!(&stage.sent()[..], [(id, client_frame::Op::Join(_))] if *id == JOIN_ID + 1));
    stage.feed(&joined(0));
    assert!(stage.client.is_established() && stage.is_clean());
}

#[test]
fn a_hole_is_pulled_and_what_came_behind_it_is_kept() {
    let mut stage = Stage::joined_at(0);
    stage.sent();
    stage.feed(&[batch(0, &[1]), batch(3, &[4]), batch(4, &[5])].concat());
    assert_eq!((stage.shared.tally.received, stage.shared.tally.behind), (1, 1));
    let (id, after) = stage.pulled();
    assert_eq!(after, 1);
    stage.feed(&page(id, 1, 3, 3));
    assert_eq!((stage.shared.tally.received, stage.shared.tally.behind, stage.shared.tally.holes_healed), (5, 0, 1));
    stage.feed(&batch(5, &[6]));
    assert!(stage.is_clean() && stage.sent().is_empty());
    assert_eq!(stage.judge(1..=6).findings.count(Kind::Lost), 0);
}

#[test]
fn a_gap_is_pulled_page_after_page_when_its_time_has_come() {
    let mut stage = Stage::joined_at(0);
    stage.sent();
    stage.feed(&gap(1, 6));
    assert!(stage.sent().is_empty() && stage.client.had_gap());
    assert_eq!(stage.client.next_timeout_us(), Some(stage.now_us + 10_000));
    stage.wait(10_000);
    let (id, _) = stage.pulled();
    stage.feed(&page(id, 0, 4, 6));
    let (next_id, after) = stage.pulled();
    assert_eq!((after, next_id), (4, id + 1));
    stage.feed(&page(next_id, 4, 6, 6));
    assert_eq!((stage.shared.tally.received, stage.shared.tally.gaps, stage.shared.tally.behind), (6, 1, 0));
    stage.feed(&batch(4, &[5, 6, 7]));
    assert!(stage.is_clean());
    assert_eq!((stage.shared.tally.overlaps, stage.shared.tally.received), (2, 7));
    stage.feed(&batch(4, &[5]));
    stage.finds_only(Kind::Duplicated, 1);
}

#[test]
fn a_refused_pull_is_asked_again() {
    let mut stage = Stage::joined_at(0);
    stage.sent();
    stage.feed(&batch(1, &[2]));
    let (id, _) = stage.pulled();
    stage.feed(&refusal(id, "RATE_LIMITED", true));
    stage.wait(49_000);
    assert!(stage.sent().is_empty());
    stage.wait(1_000);
    let (id, _) = stage.pulled();
    stage.feed(&page(id, 0, 2, 2));
    assert_eq!((stage.is_clean(), stage.shared.tally.received), (true, 2));
}

#[test]
fn it_comes_back_with_its_cursors_and_overlaps_are_legal() {
    let mut stage = Stage::joined_at(0);
    stage.feed(&[batch(0, &[1, 2]), batch(3, &[4])].concat());
    let tally = &mut stage.shared.tally;
    stage.client.disconnected(tally);
    assert_eq!(stage.shared.tally.behind, 0);
    stage.sent();
    stage.open();
    stage.feed(&upgrade());
    let sent = stage.sent();
    let [(_, client_frame::Op::Connect(connect))] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!(connect.cursors[GROUP], Cursor { epoch: "e".into(), seq: 2 });
    stage.feed(&connected(vec![state(GROUP, 4, "full")]));
    assert!(stage.client.is_established());
    stage.feed(&[batch(2, &[3, 4]), batch(3, &[4, 5])].concat());
    assert!(stage.is_clean(), "{:?}", stage.shared.tally.findings);
    assert_eq!((stage.shared.tally.overlaps, stage.shared.tally.received), (1, 5));
    assert_eq!(stage.judge(1..=5).findings.count(Kind::Lost), 0);
}

#[test]
fn a_lost_history_is_found() {
    let mut stage = Stage::joined_at(0);
    stage.feed(&batch(0, &[1, 2]));
    stage.client.disconnected(&mut stage.shared.tally);
    stage.out.clear();
    stage.open();
    stage.feed(&[upgrade(), connected(vec![state(GROUP, 4, "expired")])].concat());
    stage.finds_only(Kind::Protocol, 1);
}

#[test]
fn what_never_came_is_lost_and_counts_as_the_worst_latency() {
    let mut stage = Stage::joined_at(0);
    stage.feed(&[batch(0, &[1]), batch_of(GROUP, 1, 3, vec![message(3)])].concat());
    assert!(stage.is_clean(), "a seq of a range may be for others");
    let judgement = stage.judge([1, 2, 3, 4]);
    assert_eq!(judgement.findings.count(Kind::Lost), 2, "{:?}", judgement.findings);
    assert!(judgement.findings.texts()[0].contains("t-0 g:t-all-0: seq 2 "), "{:?}", judgement.findings);
    assert_eq!((judgement.expected, judgement.received), (4, 2));
    assert_eq!(judgement.latency[0].all.len(), 4);
    assert!(judgement.latency[0].all.max() >= crate::latency::NEVER_US / 1000 * 999);
    let mut stage = Stage::joined_at(0);
    stage.feed(&batch_of(GROUP, 0, 3, vec![message(1), message(3)]));
    assert!(stage.judge([1, 3]).findings.is_clean(), "what was not answered need not be shown");
}

#[test]
fn a_hole_that_stays_is_found_at_the_end() {
    let mut stage = Stage::joined_at(0);
    stage.feed(&batch(1, &[2]));
    let judgement = stage.judge([1, 2]);
    assert_eq!((judgement.findings.count(Kind::UnhealedHole), judgement.findings.count(Kind::Lost)), (1, 2));
}

/// A plan of frames that a lawful server may send: ranges of rising seqs, some of which overlap what pulls brought.
fn lawful() -> impl Strategy<Value = Vec<u64>> {
    prop::collection::vec(1u64..6, 1..20)
}

proptest! {
    #[test]
    fn a_lawful_server_is_never_accused(sizes in lawful(), cut in 1usize..200, twice: bool) {
        let mut frames = Vec::new();
        let mut after = 0;
        for size in &sizes {
            frames.push(batch(after, &(after + 1..=after + size).collect::<Vec<_>>()));
            after += size;
        }
        let mut stage = Stage::joined_at(0);
        if twice {
            // Another client was shown the same frames before: every frame is a hit.
            let mut other = Stage::joined_at(0);
            other.feed(&frames.concat());
            stage.shared = other.shared;
        }
        let before = stage.shared.tally.received;
        frames.concat().chunks(cut).for_each(|bytes| stage.feed(bytes));
        prop_assert!(stage.is_clean());
        prop_assert_eq!(stage.shared.tally.received - before, after);
        let judgement = stage.judge(1..=after);
        prop_assert!(judgement.findings.is_clean());
    }

    #[test]
    fn any_change_of_the_order_is_found(sizes in lawful(), a in any::<prop::sample::Index>(), repeat: bool) {
        let mut frames = Vec::new();
        let mut after = 0;
        for size in sizes.iter().chain(&[1, 1]) {
            frames.push(batch(after, &(after + 1..=after + size).collect::<Vec<_>>()));
            after += size;
        }
        let at = a.index(frames.len() - 1);
        if repeat {
            frames.insert(at + 1, frames[at].clone());
        } else {
            frames.swap(at, at + 1);
        }
        let mut stage = Stage::joined_at(0);
        stage.feed(&frames.concat());
        prop_assert_eq!(stage.is_clean(), false);
        prop_assert_eq!(stage.found(Kind::Duplicated) > 0, repeat);
        prop_assert_eq!(stage.found(Kind::Reordered) > 0, !repeat);
    }
}
