//! A whole fleet against a small server of the standard library: a thread a connection, one group, everything by the book.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};

use prost::Message as _;
use tidegate_proto::v1::{self, ClientFrame, ServerFrame, StreamState, client_frame::Op, ok, server_frame::Body};

use super::*;
use crate::judge::{Answered, Kind};
use crate::payload::{Stamp, TYPE, content};
use crate::population::GroupClass;

const PATIENCE: Duration = Duration::from_secs(60);
const GROUP: &str = "g:f-all-0";
const CLIENTS: u32 = 20;

/// What was published, and who is connected.
#[derive(Default)]
struct Stage {
    head: u64,
    /// Connections that have joined.
    members: Vec<TcpStream>,
    /// Cursors that clients came back with.
    cursors: Vec<u64>,
}

type Shared = Arc<Mutex<Stage>>;

fn stamp(seq: u64) -> Stamp {
    Stamp { load: 0, number: seq, intended_us: 0 }
}

fn frame(id: u32, body: Body) -> Vec<u8> {
    let payload = ServerFrame { id, body: Some(body) }.encode_to_vec();
    let mut bytes = vec![0x82, 126];
    bytes.extend((payload.len() as u16).to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn batch(after: u64, upto: u64) -> Vec<u8> {
    let message = |seq: u64| {
        let (id, r#type, content) = ((100 + seq).to_string(), TYPE.to_owned(), content(stamp(seq), 64));
        v1::Message { seq, id, r#type, content, ..v1::Message::default() }
    };
    let messages = (after + 1..=upto).map(message).collect();
    let (stream, epoch) = (GROUP.to_owned(), "e".to_owned());
    frame(0, Body::Batch(v1::Batch { stream, epoch, after: Some(after), upto: Some(upto), messages }))
}

fn publish(stage: &Shared) {
    let mut stage = stage.lock().expect("no holder panics");
    stage.head += 1;
    let bytes = batch(stage.head - 1, stage.head);
    // One that was cut just now is told at its return.
    stage.members.iter_mut().for_each(|member| drop(member.write_all(&bytes)));
}

fn serve(listener: &TcpListener, stage: &Shared) {
    for stream in listener.incoming() {
        let (stream, stage) = (stream.expect("accepted"), stage.clone());
        // It ends with its connection, however that ends.
        thread::spawn(move || drop(talk(stream, &stage)));
    }
}

fn talk(mut stream: TcpStream, stage: &Shared) -> io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        request.push(byte[0]);
    }
    stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")?;
    loop {
        let frame_up = read_frame(&mut stream)?;
        let mut stage = stage.lock().expect("no holder panics");
        let state =
            |head| StreamState { stream: GROUP.into(), epoch: "e".into(), head, first: 1, recovered: "full".into() };
        match frame_up.op {
            Some(Op::Connect(connect)) => {
                let cursor = connect.cursors.get(GROUP).map(|cursor| cursor.seq);
                let streams = cursor.iter().map(|_| state(stage.head)).collect();
                let session = v1::Session { streams, ..v1::Session::default() };
                let result = Some(ok::Result::Connect(session));
                stream.write_all(&frame(frame_up.id, Body::Ok(v1::Ok { result })))?;
                if let Some(seq) = cursor {
                    stage.cursors.push(seq);
                    if seq < stage.head {
                        stream.write_all(&batch(seq, stage.head))?;
                    }
                    stage.members.push(stream.try_clone()?);
                }
            }
            Some(Op::Join(_)) => {
                let result = Some(ok::Result::Join(state(stage.head)));
                stream.write_all(&frame(frame_up.id, Body::Ok(v1::Ok { result })))?;
                stage.members.push(stream.try_clone()?);
            }
            other => panic!("{other:?}"),
        }
    }
}

fn read_frame(stream: &mut TcpStream) -> io::Result<ClientFrame> {
    let mut head = [0; 2];
    stream.read_exact(&mut head)?;
    let mut length = usize::from(head[1] & 0x7f);
    if length == 126 {
        stream.read_exact(&mut head)?;
        length = u16::from_be_bytes(head).into();
    }
    let mut bytes = vec![0; length + 4];
    stream.read_exact(&mut bytes)?;
    Ok(ClientFrame::decode(&bytes[4..]).expect("a client frame"))
}

fn begin(drain: Drain, mode: Mode) -> (Fleet, Shared) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let target = listener.local_addr().expect("its address");
    let stage = Shared::default();
    let of_server = stage.clone();
    thread::spawn(move || serve(&listener, &of_server));
    let class = GroupClass { name: "all".into(), count: 1, members: CLIENTS };
    let population = Arc::new(Population::new("f", CLIENTS, vec![class], 0));
    let (ramp_per_second, slow) = (1_000.0, 0..1);
    let (tls, compression) = (None, false);
    let config = FleetConfig {
        targets: vec![target],
        tls,
        compression,
        mode,
        drain,
        ramp_per_second,
        slow,
        reconnect: true,
        loads: 1,
    };
    let fleet = Fleet::start(config, population, Clock::start()).expect("a fleet");
    assert!(fleet.gather(PATIENCE), "{:?}", fleet.progress());
    (fleet, stage)
}

fn until(fleet: &Fleet, what: &str, is_so: impl Fn(Progress) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so(fleet.progress()) {
        assert!(Instant::now() < deadline, "{what}: {:?}", fleet.progress());
        thread::sleep(Duration::from_millis(2));
    }
}

fn judge(fleet: Fleet, stage: &Shared) -> Judgement {
    let mut ledger = Ledger::default();
    for seq in 1..=stage.lock().expect("no holder panics").head {
        ledger.record(StreamNo(0), Answered { seq, id: 100 + seq, stamp: stamp(seq) });
    }
    fleet.judge(&ledger)
}

const DRAINS: [Drain; 2] = [Drain::Armed, Drain::Timer { every: Duration::from_millis(5) }];

#[test]
fn everyone_is_shown_everything_through_a_break() {
    for drain in DRAINS {
        let (fleet, stage) = begin(drain, Mode::Follow);
        (0..10).for_each(|_| publish(&stage));
        until(&fleet, "ten messages", |now| now.shown == u64::from(CLIENTS) * 10);
        for member in std::mem::take(&mut stage.lock().expect("no holder panics").members) {
            member.shutdown(Shutdown::Both).expect("cut");
        }
        (0..5).for_each(|_| publish(&stage));
        until(&fleet, "all are back", |now| now.reconnects == u64::from(CLIENTS));
        (0..5).for_each(|_| publish(&stage));
        until(&fleet, "twenty messages", |now| now.shown == u64::from(CLIENTS) * 20);
        assert!(fleet.sample_frame(StreamNo(0)).is_some_and(|sample| sample == batch(19, 20)));
        let progress = fleet.progress();
        assert_eq!((progress.established, progress.closed), (CLIENTS, CLIENTS.into()));
        assert!(stage.lock().expect("no holder panics").cursors.iter().all(|seq| *seq >= 10));
        assert!(!fleet.health().lag_us.is_empty() && fleet.health().cpu_us > 0);
        let judgement = judge(fleet, &stage);
        assert!(judgement.findings.is_clean(), "{drain:?}: {:?}", judgement.findings);
        assert_eq!((judgement.expected, judgement.received), (u64::from(CLIENTS) * 20, u64::from(CLIENTS) * 20));
        let shown = [&judgement.latency, &judgement.slow_latency].map(|latency| latency[0].all.len());
        assert_eq!(shown, [u64::from(CLIENTS - 1) * 20, 20], "the slow client's are apart");
    }
}

#[test]
fn who_is_paused_is_shown_it_later() {
    for drain in DRAINS {
        let (fleet, stage) = begin(drain, Mode::Follow);
        fleet.pause(0..1, true);
        // Wishes are fulfilled in order, one round of the thread each: with the second answer the pause is in force.
        assert!(fleet.sample_frame(StreamNo(0)).is_none() && fleet.sample_frame(StreamNo(0)).is_none());
        publish(&stage);
        until(&fleet, "the others", |now| now.shown == u64::from(CLIENTS) - 1);
        thread::sleep(Duration::from_millis(50));
        assert_eq!(fleet.progress().shown, u64::from(CLIENTS) - 1, "{drain:?}");
        fleet.pause(0..1, false);
        until(&fleet, "all", |now| now.shown == u64::from(CLIENTS));
        assert!(judge(fleet, &stage).findings.is_clean());
    }
}

#[test]
fn what_was_answered_and_never_sent_is_lost() {
    let (fleet, stage) = begin(Drain::Armed, Mode::Follow);
    publish(&stage);
    until(&fleet, "one message", |now| now.shown == u64::from(CLIENTS));
    stage.lock().expect("no holder panics").head = 3;
    let judgement = judge(fleet, &stage);
    assert_eq!(judgement.findings.count(Kind::Lost), u64::from(CLIENTS) * 2);
    assert_eq!(judgement.latency[0].all.len(), u64::from(CLIENTS - 1) * 3);
}

#[test]
fn a_bare_fleet_counts_frames_and_judges_nothing() {
    for drain in DRAINS {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let target = listener.local_addr().expect("its address");
        let population = Arc::new(Population::new("b", 3, Vec::new(), 0));
        let (mode, slow) = (Mode::Bare, 0..0);
        let config = FleetConfig {
            targets: vec![target],
            tls: None,
            compression: false,
            mode,
            drain,
            ramp_per_second: 1_000.0,
            slow,
            reconnect: false,
            loads: 1,
        };
        let fleet = Fleet::start(config, population, Clock::start()).expect("a fleet");
        let mut peers: Vec<TcpStream> = (0..3).map(|_| listener.accept().expect("accepted").0).collect();
        let upgraded = b"HTTP/1.1 101 Switching Protocols\r\n\r\n";
        peers.iter_mut().for_each(|peer| peer.write_all(upgraded).expect("sent"));
        assert!(fleet.gather(PATIENCE), "{:?}", fleet.progress());
        let sent = [batch(0, 1), batch(0, 1), batch(7, 9)].concat();
        peers.iter_mut().for_each(|peer| peer.write_all(&sent).expect("sent"));
        until(&fleet, "nine frames", |now| now.frames == 9);
        drop(peers.pop());
        until(&fleet, "one has gone", |now| now.closed == 1 && now.established == 2);
        assert_eq!((fleet.progress().shown, fleet.progress().findings), (0, 0));
    }
}
