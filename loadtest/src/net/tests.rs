//! The network against plain sockets of the standard library.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::*;

const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, PartialEq, Eq)]
enum Happened {
    Connected(u32),
    Bytes(u32, Vec<u8>),
    Ended(u32),
}

struct Stage {
    listener: TcpListener,
    network: Network,
    happened: Vec<Happened>,
}

impl Stage {
    fn new() -> Stage {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let target = listener.local_addr().expect("its address");
        let network = Network::open(NetConfig { targets: vec![target], buffers: 4 }).expect("a ring");
        Stage { listener, network, happened: Vec::new() }
    }

    /// Connected sockets and their peers.
    fn pairs(&mut self, count: u32) -> Vec<(Sock, TcpStream)> {
        (0..count)
            .map(|owner| {
                let sock = self.network.connect(owner, 0, None).expect("connecting");
                self.until(|happened| happened.contains(&Happened::Connected(owner)));
                let (peer, _) = self.listener.accept().expect("accepted");
                peer.set_read_timeout(Some(PATIENCE)).expect("a timeout");
                (sock, peer)
            })
            .collect()
    }

    fn until(&mut self, is_done: impl Fn(&[Happened]) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_done(&self.happened) {
            assert!(Instant::now() < deadline, "{} things happened", self.happened.len());
            let happened = &mut self.happened;
            self.network.turn(Duration::from_millis(20), &mut |event| note(happened, &event));
        }
    }

    fn read_all(&mut self) {
        let happened = &mut self.happened;
        self.network.read_all(&mut |event| note(happened, &event));
    }

    fn received(&self, wanted: u32) -> Vec<u8> {
        received(&self.happened, wanted)
    }
}

fn note(happened: &mut Vec<Happened>, event: &Event<'_>) {
    match event {
        Event::Reaped => {}
        Event::Connected { owner, .. } => happened.push(Happened::Connected(*owner)),
        Event::Bytes { owner, bytes, .. } => happened.push(Happened::Bytes(*owner, bytes.to_vec())),
        Event::Ended { owner, .. } => happened.push(Happened::Ended(*owner)),
    }
}

fn received(happened: &[Happened], wanted: u32) -> Vec<u8> {
    let bytes = happened.iter().filter_map(|event| match event {
        Happened::Bytes(owner, bytes) if *owner == wanted => Some(bytes.as_slice()),
        _ => None,
    });
    bytes.collect::<Vec<_>>().concat()
}

#[test]
fn nothing_is_read_on_demand_before_the_pass() {
    let mut stage = Stage::new();
    let mut pairs = stage.pairs(200);
    for (number, (_, peer)) in pairs.iter_mut().enumerate() {
        peer.write_all(format!("hello {number}").as_bytes()).expect("sent");
    }
    stage.network.turn(Duration::from_millis(50), &mut |event| assert!(!matches!(event, Event::Bytes { .. })));
    stage.read_all();
    for number in 0..200 {
        assert_eq!(stage.received(number), format!("hello {number}").into_bytes());
    }
}

#[test]
fn a_pass_reads_until_nothing_is_left() {
    let mut stage = Stage::new();
    let mut pairs = stage.pairs(2);
    let long: Vec<u8> = (0..200_000u32).flat_map(u32::to_le_bytes).collect();
    let sent = long.clone();
    let mut peer = pairs.remove(0).1;
    let writer = std::thread::spawn(move || peer.write_all(&sent).map(|()| peer));
    let deadline = Instant::now() + PATIENCE;
    while stage.received(0).len() < long.len() {
        assert!(Instant::now() < deadline);
        stage.read_all();
    }
    assert_eq!(stage.received(0), long);
    writer.join().expect("a writer").expect("sent");
}

#[test]
fn armed_sockets_are_read_on_arrival_with_fewer_buffers_than_bytes() {
    for reading in [Reading::Armed, Reading::Multishot] {
        let mut stage = Stage::new();
        let pairs = stage.pairs(20);
        for (number, (sock, mut peer)) in pairs.iter().map(|(sock, peer)| (*sock, peer)).enumerate() {
            stage.network.set_reading(sock, reading);
            peer.write_all(&vec![number as u8; 20_000]).expect("sent");
        }
        stage.until(|happened| (0..20).all(|number| received(happened, number).len() == 20_000));
        for number in 0..20 {
            assert!(stage.received(number).iter().all(|byte| u32::from(*byte) == number));
        }
    }
}

#[test]
fn a_paused_socket_is_left_alone_until_it_is_resumed() {
    let mut stage = Stage::new();
    let mut pairs = stage.pairs(1);
    let (sock, peer) = &mut pairs[0];
    for (resumed, armed) in [(Reading::Multishot, true), (Reading::OnDemand, false)] {
        stage.network.set_reading(*sock, resumed);
        stage.network.turn(Duration::from_millis(1), &mut |_| ());
        stage.network.set_reading(*sock, Reading::Paused);
        stage.network.turn(Duration::from_millis(20), &mut |_| ());
        peer.write_all(b"later").expect("sent");
        let before = stage.received(0).len();
        let happened = &mut stage.happened;
        stage.network.turn(Duration::from_millis(50), &mut |event| note(happened, &event));
        stage.read_all();
        assert_eq!(stage.received(0).len(), before);
        stage.network.set_reading(*sock, resumed);
        if armed {
            stage.until(|happened| received(happened, 0).len() == before + 5);
        } else {
            stage.read_all();
            assert_eq!(stage.received(0).len(), before + 5);
        }
    }
}

#[test]
fn what_is_sent_arrives_in_order_however_slowly_it_is_read() {
    let mut stage = Stage::new();
    let mut pairs = stage.pairs(1);
    let (sock, mut peer) = pairs.remove(0);
    let part: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
    assert!(stage.network.send(sock, &part));
    assert!(stage.network.send(sock, &part[..100_000]) && stage.network.send(sock, &part[..50_000]));
    let reader = std::thread::spawn(move || {
        let mut bytes = vec![0; 550_000];
        peer.read_exact(&mut bytes).map(|()| bytes)
    });
    while !reader.is_finished() {
        stage.network.turn(Duration::from_millis(5), &mut |_| ());
    }
    let bytes = reader.join().expect("a reader").expect("everything");
    assert!(bytes == [&part[..], &part[..100_000], &part[..50_000]].concat());
}

#[test]
fn a_peer_that_does_not_read_ends_in_a_bound() {
    let mut stage = Stage::new();
    let pairs = stage.pairs(1);
    let chunk = vec![0; 256 * 1024];
    let refused = (0..64).any(|_| {
        stage.network.turn(Duration::from_millis(1), &mut |_| ());
        !stage.network.send(pairs[0].0, &chunk)
    });
    assert!(refused);
}

#[test]
fn both_ends_hear_of_an_end_and_the_place_is_used_again() {
    for reading in [Reading::OnDemand, Reading::Armed, Reading::Multishot] {
        let mut stage = Stage::new();
        let mut pairs = stage.pairs(2);
        pairs.iter().for_each(|(sock, _)| stage.network.set_reading(*sock, reading));
        stage.network.turn(Duration::from_millis(1), &mut |_| ());
        let (theirs, peer) = pairs.remove(1);
        drop(peer);
        let deadline = Instant::now() + PATIENCE;
        while !stage.happened.contains(&Happened::Ended(1)) {
            assert!(Instant::now() < deadline);
            let happened = &mut stage.happened;
            stage.network.turn(Duration::from_millis(5), &mut |event| note(happened, &event));
            stage.read_all();
        }
        stage.network.close(theirs);
        let (ours, mut peer) = pairs.remove(0);
        stage.network.close(ours);
        let happened = &mut stage.happened;
        (0..5).for_each(|_| stage.network.turn(Duration::from_millis(5), &mut |event| note(happened, &event)));
        assert_eq!(peer.read(&mut [0]).expect("in order"), 0, "{reading:?}: the peer is told");
        assert!(!stage.happened.contains(&Happened::Ended(0)), "what we close ourselves is no news");
        let again = stage.network.connect(7, 0, None).expect("connecting");
        assert!(again == ours || again == theirs, "a free place is taken first");
        stage.until(|happened| happened.contains(&Happened::Connected(7)));
    }
}

#[test]
fn a_refused_connection_ends() {
    let mut stage = Stage::new();
    let target = stage.listener.local_addr().expect("its address");
    drop(std::mem::replace(&mut stage.listener, TcpListener::bind("127.0.0.1:0").expect("another port")));
    assert_ne!(stage.listener.local_addr().expect("an address"), target);
    let sock = stage.network.connect(3, 0, None).expect("connecting");
    stage.until(|happened| happened == [Happened::Ended(3)]);
    stage.network.close(sock);
}

#[test]
fn the_bell_ends_a_sleep() {
    let mut stage = Stage::new();
    let bell = stage.network.bell();
    let since = Instant::now();
    let ringer = std::thread::spawn(move || bell.ring());
    stage.network.turn(PATIENCE, &mut |_| ());
    assert!(since.elapsed() < PATIENCE);
    ringer.join().expect("rung");
}
