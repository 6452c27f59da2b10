//! Sockets in memory, with a script: how much each takes, when it becomes writable, when it breaks; completions of different
//! sockets come in a shuffled order. Breaches of the driver's contract panic.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use bytes::Bytes;
use tidegate_gateway_core::driver::{CloseHow, Driver, Event, RegisterError, Socket, Token};
use tidegate_gateway_core::ids::Now;

#[derive(Debug, Default)]
pub struct Peer {
    pub token: Option<Token>,
    /// Bytes that the socket takes from now on.
    pub capacity: usize,
    /// What the shard has put into the socket.
    pub received: Vec<u8>,
    /// What will be read from it; an empty chunk is the end of the peer's stream.
    pub sends: VecDeque<Vec<u8>>,
    pub resets: bool,
    pub closed: Option<CloseHow>,
    /// The driver has said `Closed`.
    pub over: bool,
    unflushed: bool,
    blocked: bool,
    watched: bool,
    /// Nothing more is read from it.
    ended: bool,
}

#[derive(Default)]
pub struct Net {
    pub now: Now,
    pub peers: BTreeMap<u32, Peer>,
    /// Slots of the table; beyond them registering fails.
    pub slots: usize,
    pub sends_made: usize,
    pub flushes: usize,
    /// The last turn would not have ended by itself.
    pub asleep: bool,
    pub seed: u64,
    pending: Vec<(Token, Socket, Bytes, usize)>,
}

impl Peer {
    pub fn taking(capacity: usize) -> Peer {
        Peer { capacity, ..Peer::default() }
    }
}

impl Net {
    pub fn new(slots: usize, seed: u64) -> Net {
        Net { slots, seed: seed | 1, ..Net::default() }
    }

    fn random(&mut self, below: usize) -> usize {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        (self.seed % below.max(1) as u64) as usize
    }
}

#[derive(Clone)]
pub struct NetDriver(pub Rc<RefCell<Net>>);

/// Owned form of what happens, so that callbacks run while the net is not borrowed.
enum Happens {
    Data(Token, Vec<u8>),
    Eof(Token),
    Failed(Token),
    Sent(Token, Result<usize, i32>),
    Writable(Token),
    Closed(Token),
}

impl NetDriver {
    /// Runs the queued sends and collects what happens, one list per socket.
    fn collect(&self) -> Vec<VecDeque<Happens>> {
        let mut net = self.0.borrow_mut();
        net.flushes += 1;
        let mut happens: BTreeMap<u32, VecDeque<Happens>> = BTreeMap::new();
        for (token, socket, frame, from) in std::mem::take(&mut net.pending) {
            let peer = net.peers.get_mut(&socket.slot).expect("a peer");
            peer.unflushed = false;
            if peer.closed == Some(CloseHow::Abort) {
                continue;
            }
            let bytes = &frame[from..];
            let n = bytes.len().min(peer.capacity);
            if peer.resets {
                happens.entry(socket.slot).or_default().push_back(Happens::Sent(token, Err(104)));
                continue;
            }
            peer.capacity -= n;
            peer.received.extend_from_slice(&bytes[..n]);
            if n < bytes.len() {
                peer.blocked = true;
                assert!(peer.closed.is_none(), "closed while bytes of it were on their way");
                happens.entry(socket.slot).or_default().push_back(Happens::Sent(token, Ok(n)));
            }
        }
        for (slot, peer) in &mut net.peers {
            let Some(token) = peer.token.filter(|_| !peer.over) else { continue };
            let list = happens.entry(*slot).or_default();
            if peer.closed.is_some() {
                list.clear();
                list.push_back(Happens::Closed(token));
                peer.over = true;
                continue;
            }
            while let Some(chunk) = peer.sends.pop_front().filter(|_| !peer.ended) {
                if chunk.is_empty() {
                    list.push_back(Happens::Eof(token));
                    peer.ended = true;
                } else {
                    list.push_back(Happens::Data(token, chunk));
                }
            }
            if peer.resets && !peer.ended {
                list.push_back(Happens::Failed(token));
                peer.ended = true;
            } else if peer.watched && (peer.capacity > 0 || peer.resets) {
                peer.watched = false;
                peer.blocked = false;
                list.push_back(Happens::Writable(token));
            }
        }
        happens.into_values().filter(|list| !list.is_empty()).collect()
    }

    fn emit(&self, on_event: &mut dyn FnMut(Event<'_>)) -> usize {
        let mut lists = self.collect();
        let mut emitted = 0;
        while !lists.is_empty() {
            let at = self.0.borrow_mut().random(lists.len());
            let Some(happens) = lists[at].pop_front() else {
                lists.swap_remove(at);
                continue;
            };
            emitted += 1;
            match happens {
                Happens::Data(token, mut bytes) => on_event(Event::Data { token, bytes: &mut bytes }),
                Happens::Eof(token) => on_event(Event::Eof { token }),
                Happens::Failed(token) => on_event(Event::Failed { token, errno: 104 }),
                Happens::Sent(token, result) => on_event(Event::Sent { token, result }),
                Happens::Writable(token) => on_event(Event::Writable { token }),
                Happens::Closed(token) => on_event(Event::Closed { token }),
            }
        }
        emitted
    }
}

impl Driver for NetDriver {
    type Incoming = u32;

    fn register(&mut self, token: Token, socket: u32) -> Result<Socket, (RegisterError, u32)> {
        assert_eq!(token.0 >> 56, 0, "tokens have 56 bits");
        let mut net = self.0.borrow_mut();
        let used = net.peers.values().filter(|peer| peer.token.is_some() && !peer.over).count();
        if used >= net.slots {
            return Err((RegisterError::Full, socket));
        }
        net.peers.get_mut(&socket).expect("a peer").token = Some(token);
        Ok(Socket { ring: 0, slot: socket })
    }

    fn send(&mut self, token: Token, socket: Socket, frame: &Bytes, from: usize) {
        let mut net = self.0.borrow_mut();
        net.sends_made += 1;
        let peer = net.peers.get_mut(&socket.slot).expect("a peer");
        assert_eq!(peer.token, Some(token));
        assert!(peer.closed.is_none(), "a send after close");
        assert!(!peer.unflushed, "a second send before the flush");
        assert!(!peer.blocked, "a send before the socket is writable");
        assert!(from < frame.len(), "nothing to send");
        peer.unflushed = true;
        net.pending.push((token, socket, frame.clone(), from));
    }

    fn watch_writable(&mut self, token: Token, socket: Socket) {
        let mut net = self.0.borrow_mut();
        let peer = net.peers.get_mut(&socket.slot).expect("a peer");
        assert_eq!(peer.token, Some(token));
        assert!(peer.blocked && !peer.watched && peer.closed.is_none());
        peer.watched = true;
    }

    fn close(&mut self, token: Token, socket: Socket, how: CloseHow) {
        let mut net = self.0.borrow_mut();
        let peer = net.peers.get_mut(&socket.slot).expect("a peer");
        assert_eq!(peer.token, Some(token));
        assert!(peer.closed.is_none(), "closed twice");
        peer.closed = Some(how);
    }

    fn flush(&mut self, on_event: &mut dyn FnMut(Event<'_>)) {
        self.emit(on_event);
    }

    fn turn(&mut self, deadline: Option<Now>, on_event: &mut dyn FnMut(Event<'_>)) {
        let emitted = self.emit(on_event);
        self.0.borrow_mut().asleep = emitted == 0 && deadline.is_none();
    }

    fn now(&self) -> Now {
        self.0.borrow().now
    }
}
