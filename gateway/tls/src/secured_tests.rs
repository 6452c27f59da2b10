use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use super::*;
use crate::testing::{Client, Pki, VERSIONS};

/// What a socket in memory does.
#[derive(Default)]
struct Peer {
    /// Bytes it takes from now on.
    capacity: usize,
    received: Vec<u8>,
    blocked: bool,
    watched: bool,
    says: VecDeque<Vec<u8>>,
    closed: Option<CloseHow>,
}

#[derive(Default)]
struct Net {
    peers: BTreeMap<u32, Peer>,
    sends: Vec<(Token, u32, Bytes, usize)>,
    closing: Vec<(Token, u32)>,
    tokens: BTreeMap<u32, Token>,
}

#[derive(Clone, Default)]
struct NetDriver(Rc<RefCell<Net>>);

impl Driver for NetDriver {
    type Incoming = u32;

    fn register(&mut self, token: Token, slot: u32) -> Result<Socket, (RegisterError, u32)> {
        if slot == u32::MAX {
            return Err((RegisterError::Full, slot));
        }
        self.0.borrow_mut().tokens.insert(slot, token);
        Ok(Socket { ring: 0, slot })
    }

    fn send(&mut self, token: Token, socket: Socket, frame: &Bytes, from: usize) {
        assert!(from < frame.len(), "an empty send");
        self.0.borrow_mut().sends.push((token, socket.slot, frame.clone(), from));
    }

    fn watch_writable(&mut self, _: Token, socket: Socket) {
        self.0.borrow_mut().peers.get_mut(&socket.slot).expect("a peer").watched = true;
    }

    fn close(&mut self, token: Token, socket: Socket, how: CloseHow) {
        let mut net = self.0.borrow_mut();
        net.peers.get_mut(&socket.slot).expect("a peer").closed = Some(how);
        net.closing.push((token, socket.slot));
    }

    fn flush(&mut self, on_event: &mut dyn FnMut(Event<'_>)) {
        let (sends, closing, tokens) = {
            let mut net = self.0.borrow_mut();
            (std::mem::take(&mut net.sends), std::mem::take(&mut net.closing), net.tokens.clone())
        };
        let mut sent_to = std::collections::BTreeSet::new();
        for (token, slot, frame, from) in sends {
            assert!(sent_to.insert(slot), "two sends in one flight");
            let (taken, len) = {
                let mut net = self.0.borrow_mut();
                let peer = net.peers.get_mut(&slot).expect("a peer");
                assert!(!peer.blocked, "a send into a blocked socket");
                let taken = (frame.len() - from).min(peer.capacity);
                peer.capacity -= taken;
                peer.received.extend_from_slice(&frame[from..from + taken]);
                peer.blocked = taken < frame.len() - from;
                (taken, frame.len() - from)
            };
            if taken < len {
                on_event(Event::Sent { token, result: Ok(taken) });
            }
        }
        for (slot, token) in tokens {
            let says = self.0.borrow_mut().peers.get_mut(&slot).and_then(|peer| peer.says.pop_front());
            match says {
                Some(mut bytes) if !bytes.is_empty() => on_event(Event::Data { token, bytes: &mut bytes }),
                Some(_) => on_event(Event::Eof { token }),
                None => {}
            }
            let writable = {
                let mut net = self.0.borrow_mut();
                let peer = net.peers.get_mut(&slot).expect("a peer");
                let writable = peer.watched && peer.capacity > 0;
                if writable {
                    (peer.watched, peer.blocked) = (false, false);
                }
                writable
            };
            if writable {
                on_event(Event::Writable { token });
            }
        }
        for (token, slot) in closing {
            self.0.borrow_mut().tokens.remove(&slot);
            on_event(Event::Closed { token });
        }
    }

    fn turn(&mut self, _: Option<Now>, on_event: &mut dyn FnMut(Event<'_>)) {
        self.flush(on_event);
    }

    fn now(&self) -> Now {
        Now(0)
    }
}

struct World {
    net: Rc<RefCell<Net>>,
    driver: Secured<NetDriver>,
}

impl World {
    fn new() -> World {
        let driver = NetDriver::default();
        World { net: Rc::clone(&driver.0), driver: Secured::new(driver) }
    }

    fn join(&mut self, slot: u32, capacity: usize, session: Option<Session>) -> (Token, Socket) {
        self.net.borrow_mut().peers.insert(slot, Peer { capacity, ..Peer::default() });
        let token = Token(u64::from(slot) | 7 << 32);
        let incoming = Incoming { socket: slot, session: session.map(Box::new) };
        let socket = self.driver.register(token, incoming).ok().expect("room");
        (token, socket)
    }

    fn flush(&mut self) -> Vec<String> {
        let mut events = Vec::new();
        self.driver.flush(&mut |event| {
            events.push(match event {
                Event::Data { bytes, .. } => format!("data {}", String::from_utf8_lossy(bytes)),
                Event::Eof { .. } => "eof".to_owned(),
                Event::Closed { .. } => "closed".to_owned(),
                event => format!("{event:?}"),
            });
        });
        events
    }

    fn received(&self, slot: u32) -> Vec<u8> {
        self.net.borrow().peers[&slot].received.clone()
    }

    fn says(&self, slot: u32, bytes: Vec<u8>) {
        self.net.borrow_mut().peers.get_mut(&slot).expect("a peer").says.push_back(bytes);
    }
}

/// A caller that does what the worker loop does: gathers frames, finishes the one that was cut, drops others at will.
struct Sender {
    token: Token,
    socket: Socket,
    waiting: VecDeque<(Vec<u8>, usize)>,
    offered: Vec<usize>,
    blocked: bool,
    /// Every frame of which some byte was taken.
    begun: Vec<u8>,
}

impl Sender {
    fn offer(&mut self, driver: &mut Secured<NetDriver>, frames: usize) {
        if self.blocked || self.waiting.is_empty() {
            return;
        }
        let mut bytes = Vec::new();
        self.offered.clear();
        let from = self.waiting[0].1;
        for (frame, _) in self.waiting.iter().take(frames) {
            bytes.extend_from_slice(frame);
            self.offered.push(frame.len());
        }
        driver.send(self.token, self.socket, &bytes.into(), from);
    }

    fn settle(&mut self, short: Option<usize>) {
        let mut left = short.unwrap_or(usize::MAX);
        for len in std::mem::take(&mut self.offered) {
            let Some((frame, from)) = self.waiting.front_mut() else { return };
            let taken = left.min(len - *from);
            if taken > 0 && *from == 0 {
                self.begun.extend_from_slice(frame);
            }
            *from += taken;
            left -= taken;
            if *from < len {
                return;
            }
            self.waiting.pop_front();
        }
    }
}

struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

/// Short sends, gathered sends, long sends, dropped frames: what the client opens is every frame that was begun, in order.
fn run(pki: &Pki, seed: u64) {
    let mut rng = Rng(seed * 2 + 1);
    let mut world = World::new();
    let mut clients: Vec<Option<Client>> = Vec::new();
    let mut senders: Vec<Sender> = Vec::new();
    for slot in 0..4 {
        let tls = (slot != 3).then(|| pki.connect(VERSIONS[slot as usize % 2]));
        let (session, client) = tls.unzip();
        let (token, socket) = world.join(slot, rng.below(3_000), session);
        clients.push(client);
        senders.push(Sender {
            token,
            socket,
            waiting: VecDeque::new(),
            offered: Vec::new(),
            blocked: false,
            begun: Vec::new(),
        });
    }
    let mut number = 0u8;
    for step in 0..150 {
        let ending = step >= 120;
        for sender in &mut senders {
            if !ending && rng.below(2) == 0 {
                let size = [2, 130, 130, 3_000, 20_000, 150_000][rng.below(6)];
                number = number.wrapping_add(1);
                sender.waiting.push_back((vec![number; size], 0));
            }
            if rng.below(8) == 0 {
                sender.waiting.retain(|(_, from)| *from > 0 || rng.below(3) > 0);
            }
            sender.offer(&mut world.driver, 1 + rng.below(4));
        }
        let more = if ending { 1_000_000 } else { [0, 1, 200, 5_000, 100_000][rng.below(5)] };
        for peer in world.net.borrow_mut().peers.values_mut() {
            peer.capacity += more;
        }
        let mut shorts = BTreeMap::new();
        let mut writable = Vec::new();
        world.driver.flush(&mut |event| match event {
            Event::Sent { token, result } => {
                assert!(shorts.insert(token.0, result.expect("no error")).is_none(), "heard twice");
            }
            Event::Writable { token } => writable.push(token),
            other => panic!("{other:?}"),
        });
        for sender in &mut senders {
            let short = shorts.get(&sender.token.0).copied();
            sender.settle(short);
            if short.is_some() {
                sender.blocked = true;
                world.driver.watch_writable(sender.token, sender.socket);
            }
            if writable.contains(&sender.token) {
                sender.blocked = false;
            }
        }
    }
    for (slot, (client, sender)) in clients.iter_mut().zip(&senders).enumerate() {
        assert!(sender.waiting.is_empty(), "seed {seed}: {} frames wait", sender.waiting.len());
        let received = world.received(slot as u32);
        let heard = match client {
            Some(client) => client.hear(&received).0,
            None => received,
        };
        assert!(heard == sender.begun, "seed {seed}, slot {slot}: {} of {} bytes", heard.len(), sender.begun.len());
        assert!(!heard.is_empty());
    }
}

#[test]
fn what_is_begun_arrives_in_order_whatever_the_sockets_take() {
    let pki = Pki::new();
    for seed in 1..40 {
        run(&pki, seed);
    }
}

#[test]
fn what_comes_is_opened_and_plain_connections_pass_through() {
    let pki = Pki::new();
    let (session, mut client) = pki.connect(VERSIONS[1]);
    let mut world = World::new();
    world.join(0, 1000, Some(session));
    world.join(1, 1000, None);
    world.says(0, client.say(b"sealed"));
    world.says(1, b"plain".to_vec());
    assert_eq!(world.flush(), ["data sealed", "data plain"]);
    // A record in two pieces.
    let mut said = client.say(b"in two");
    let rest = said.split_off(9);
    world.says(0, said);
    world.says(0, rest);
    assert_eq!((world.flush().len(), world.flush()), (0, vec!["data in two".to_owned()]));
}

#[test]
fn a_close_says_goodbye_and_an_abort_does_not() {
    let pki = Pki::new();
    for (how, expected) in [(CloseHow::Graceful, true), (CloseHow::Abort, false)] {
        let (session, mut client) = pki.connect(VERSIONS[1]);
        let mut world = World::new();
        let (token, socket) = world.join(0, 1000, Some(session));
        let stats = world.driver.stats();
        assert_eq!(stats.sessions.load(Ordering::Relaxed), 1);
        world.driver.send(token, socket, &Bytes::from_static(b"bye"), 0);
        world.flush();
        world.driver.close(token, socket, how);
        assert_eq!(world.flush(), ["closed"]);
        assert_eq!(client.hear(&world.received(0)), (b"bye".to_vec(), expected));
        assert_eq!(stats.sessions.load(Ordering::Relaxed), 0);
        // The slot's next connection has nothing of it.
        world.join(0, 1000, None);
        world.says(0, b"plain".to_vec());
        assert_eq!(world.flush(), ["data plain"]);
    }
}

#[test]
fn the_end_is_heard_once() {
    let pki = Pki::new();
    let (session, mut client) = pki.connect(VERSIONS[0]);
    let mut world = World::new();
    world.join(0, 1000, Some(session));
    let mut last = client.say(b"last");
    last.extend(client.say_goodbye());
    world.says(0, last);
    world.says(0, b"whatever".to_vec());
    world.says(0, Vec::new());
    let heard: Vec<String> = (0..4).flat_map(|_| world.flush()).collect();
    assert_eq!(heard, ["data last", "eof"]);
}

#[test]
fn a_forged_record_ends_it_with_an_alert() {
    let pki = Pki::new();
    let (session, mut client) = pki.connect(VERSIONS[1]);
    let mut world = World::new();
    let (token, socket) = world.join(0, 1000, Some(session));
    let mut forged = client.say(b"true");
    *forged.last_mut().expect("bytes") ^= 1;
    world.says(0, forged);
    assert_eq!(world.flush(), ["eof"]);
    assert_eq!(world.driver.stats().broken.load(Ordering::Relaxed), 1);
    world.driver.close(token, socket, CloseHow::Graceful);
    assert_eq!(world.flush(), ["closed"]);
    let alert = world.received(0);
    client.connection().read_tls(&mut alert.as_slice()).expect("from memory");
    let told = client.connection().process_new_packets().expect_err("an alert").to_string();
    assert!(told.contains("BadRecordMac"), "{told}");
}

#[test]
fn without_room_the_socket_comes_back_with_its_session() {
    let pki = Pki::new();
    let (session, _) = pki.connect(VERSIONS[1]);
    let mut driver = Secured::new(NetDriver::default());
    let incoming = Incoming { socket: u32::MAX, session: Some(Box::new(session)) };
    let (_, back) = driver.register(Token(1), incoming).expect_err("no room");
    assert!(back.session.is_some());
    assert_eq!(driver.stats().sessions.load(Ordering::Relaxed), 0);
}
