//! Sockets in memory: what a shard's driver and its clients share. Finite buffers, short sends, late and shuffled
//! completions, resets; a breach of the driver's contract is a violation.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::OnceLock;

use bytes::Bytes;
use tidegate_gateway_core::driver::{CloseHow, Driver, Event, RegisterError, Socket, Token};
use tidegate_gateway_core::ids::Now;
use tidegate_gateway_tls::Incoming;
use tidegate_gateway_tls::testing::{Client as TlsClient, Pki, VERSIONS};

use crate::planted::Seam;
use crate::rng::Rng;
use crate::script::MS;

const ECONNRESET: i32 = 104;
/// How long a late completion may take.
const LATE_NS: u64 = 20 * MS;

/// A `close_notify`, sealed.
const GOODBYE_BYTES_MAX: usize = 31;

/// Which of the driver's liberties this run takes, in cases of 1,000.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manners {
    pub short_sends: u64,
    pub late_completions: u64,
    pub split_receives: u64,
    /// Connections speak TLS. Their handshakes are over: those are the front door's.
    pub tls: bool,
    /// Descriptors of one shard.
    pub slots: usize,
    /// Bytes that a socket holds for its reader.
    pub capacity: usize,
}

/// One shard's sockets.
pub struct Net {
    pub now: u64,
    pub manners: Manners,
    pub rng: Rng,
    /// Set by each turn that sleeps, since nothing happened: until when.
    pub slept: Option<Option<u64>>,
    socks: BTreeMap<u32, Sock>,
    next: u32,
    slots: Vec<Option<u32>>,
    pending: Vec<(Token, u32, Bytes, usize)>,
    seam: Option<Seam>,
}

/// One connection, seen from both ends.
#[derive(Debug, Default)]
struct Sock {
    token: Option<Token>,
    slot: u32,
    /// In the socket, not read by the client.
    down: Vec<u8>,
    /// From the client, with the moment of arrival; empty: the end.
    up: VecDeque<(u64, Vec<u8>)>,
    reset: bool,
    closed: Option<(CloseHow, u64)>,
    over: bool,
    unflushed: bool,
    blocked: bool,
    watched: bool,
    writable_at: u64,
    ended: bool,
    /// Its slot had another connection before.
    reused: bool,
    /// The client will not hear of the close.
    silent: bool,
    tls: Option<Box<ClientEnd>>,
    cut_goodbye: bool,
}

/// The client's end of a TLS connection.
#[derive(Debug)]
struct ClientEnd {
    client: TlsClient,
    /// The server said that it ends.
    goodbye: bool,
}

/// A connection on its way to a shard.
pub type Arriving = Incoming<u32>;

/// What a client finds at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Open,
    /// Everything was read, and the server said that it is over.
    Fin,
    Reset,
}

#[derive(Clone)]
pub struct SimDriver(pub Rc<RefCell<Net>>);

impl Net {
    pub fn new(manners: Manners, seam: Option<Seam>, rng: Rng) -> Net {
        Net {
            now: 0,
            manners,
            rng,
            slept: None,
            socks: BTreeMap::new(),
            next: 0,
            slots: Vec::new(),
            pending: Vec::new(),
            seam,
        }
    }

    /// A client dials; the number is its socket from now on.
    pub fn dial(&mut self) -> Arriving {
        static PKI: OnceLock<Pki> = OnceLock::new();
        self.next += 1;
        let (tls, session) = match self.manners.tls {
            false => (None, None),
            true => {
                let version = VERSIONS[self.next as usize % VERSIONS.len()];
                let (session, client) = PKI.get_or_init(Pki::new).connect(version);
                (Some(Box::new(ClientEnd { client, goodbye: false })), Some(Box::new(session)))
            }
        };
        self.socks.insert(self.next, Sock { tls, ..Sock::default() });
        Incoming { socket: self.next, session }
    }

    /// Bytes from the client that arrive at that time; empty: its end of the stream.
    pub fn client_sends(&mut self, sock: u32, at: u64, bytes: Vec<u8>) {
        if let Some(sock) = self.socks.get_mut(&sock) {
            let at = sock.up.back().map_or(at, |(last, _)| at.max(*last));
            let Some(tls) = &mut sock.tls else { return sock.up.push_back((at, bytes)) };
            match bytes.is_empty() {
                true => sock.up.extend([(at, tls.client.say_goodbye()), (at, bytes)]),
                false => sock.up.push_back((at, tls.client.say(&bytes))),
            }
        }
    }

    pub fn client_resets(&mut self, sock: u32) {
        if let Some(sock) = self.socks.get_mut(&sock) {
            sock.reset = true;
        }
    }

    /// The client reads at most so much.
    pub fn client_reads(&mut self, sock: u32, most: usize) -> (Vec<u8>, End) {
        let late = self.late();
        let now = self.now;
        let Some(sock) = self.socks.get_mut(&sock) else { return (Vec::new(), End::Reset) };
        if sock.silent {
            return (Vec::new(), End::Open);
        }
        if matches!(sock.closed, Some((CloseHow::Abort, _))) {
            return (Vec::new(), End::Reset);
        }
        let n = most.min(sock.down.len());
        let mut bytes: Vec<u8> = sock.down.drain(..n).collect();
        if let Some(tls) = &mut sock.tls {
            let (plain, goodbye) = tls.client.hear(&bytes);
            tls.goodbye |= goodbye;
            bytes = plain;
        }
        if n > 0 && sock.blocked {
            sock.writable_at = now + late;
        }
        let end = if sock.over && sock.down.is_empty() { End::Fin } else { End::Open };
        let told = sock.tls.as_ref().is_none_or(|tls| tls.goodbye);
        assert!(end != End::Fin || told || sock.cut_goodbye, "a TLS connection that ends without a word");
        (bytes, end)
    }

    /// Bytes or an end wait for the client.
    pub fn readable(&self, sock: u32) -> bool {
        self.socks
            .get(&sock)
            .is_none_or(|sock| !sock.silent && (!sock.down.is_empty() || sock.over || sock.closed.is_some()))
    }

    pub fn forget(&mut self, sock: u32) {
        if self.socks.get(&sock).is_some_and(|sock| sock.over || sock.token.is_none()) {
            self.socks.remove(&sock);
        }
    }

    /// When something will happen by itself.
    pub fn wakes_at(&self) -> Option<u64> {
        let at = |sock: &Sock| {
            if sock.over || sock.token.is_none() {
                return None;
            }
            if let Some((_, at)) = sock.closed {
                return Some(at);
            }
            let up = sock.up.front().filter(|_| !sock.ended).map(|(at, _)| *at);
            let failed = (sock.reset && !sock.ended).then_some(self.now);
            let room = sock.down.len() < self.manners.capacity || sock.reset;
            let writable = (sock.watched && room).then_some(sock.writable_at);
            [up, failed, writable].into_iter().flatten().min()
        };
        self.socks.values().filter_map(at).min()
    }

    /// Bytes that wait in sockets for their clients.
    pub fn unread(&self) -> usize {
        self.socks.values().filter(|sock| !sock.over).map(|sock| sock.down.len()).sum()
    }

    fn late(&mut self) -> u64 {
        let late = self.manners.late_completions;
        if self.rng.chance(late) { self.rng.below(LATE_NS) } else { 0 }
    }

    fn run_sends(&mut self, happens: &mut BTreeMap<u32, VecDeque<Happens>>) {
        for (token, id, frame, from) in std::mem::take(&mut self.pending) {
            let late = self.late();
            let Some(sock) = self.socks.get_mut(&id) else { continue };
            sock.unflushed = false;
            if matches!(sock.closed, Some((CloseHow::Abort, _))) {
                continue;
            }
            if sock.reset {
                happens.entry(id).or_default().push_back(Happens::Sent(token, Err(ECONNRESET)));
                continue;
            }
            let bytes = &frame[from..];
            let mut n = bytes.len().min(self.manners.capacity.saturating_sub(sock.down.len()));
            if n == bytes.len() && self.rng.chance(self.manners.short_sends) {
                n = self.rng.index(n);
            }
            sock.down.extend_from_slice(&bytes[..n]);
            if n < bytes.len() {
                // A socket that has no room for the goodbye is closed without: the WebSocket's own close has been said.
                let goodbye_only = sock.tls.is_some() && bytes.len() <= GOODBYE_BYTES_MAX;
                assert!(sock.closed.is_none() || goodbye_only, "closed while bytes of it were on their way");
                sock.cut_goodbye |= sock.closed.is_some();
                sock.blocked = true;
                sock.writable_at = self.now + late;
                let n = match self.seam {
                    Some(Seam::TruncatedShortSend) => {
                        sock.blocked = false;
                        continue;
                    }
                    Some(Seam::ShortSendRepeats) => n.saturating_sub(1),
                    _ => n,
                };
                happens.entry(id).or_default().push_back(Happens::Sent(token, Ok(n)));
            }
        }
    }

    fn run_receives(&mut self, happens: &mut BTreeMap<u32, VecDeque<Happens>>) {
        let (now, manners) = (self.now, self.manners);
        for (id, sock) in &mut self.socks {
            let Some(token) = sock.token.filter(|_| !sock.over) else { continue };
            let list = happens.entry(*id).or_default();
            if let Some((_, at)) = sock.closed {
                list.clear();
                if at <= now {
                    list.push_back(Happens::Closed(token));
                    sock.over = true;
                    self.slots[sock.slot as usize] = None;
                }
                continue;
            }
            while !sock.ended && sock.up.front().is_some_and(|(at, _)| *at <= now) {
                if self.rng.chance(manners.split_receives) {
                    let later = now + self.rng.below(5 * MS);
                    let Some((at, chunk)) = sock.up.front_mut() else { break };
                    *at = later;
                    if chunk.len() > 1 && self.rng.chance(500) {
                        let rest = chunk.split_off(self.rng.index(chunk.len() - 1) + 1);
                        list.push_back(Happens::Data(token, std::mem::replace(chunk, rest)));
                    }
                    break;
                }
                let Some((_, chunk)) = sock.up.pop_front() else { break };
                if self.seam == Some(Seam::ChunkLost) && !chunk.is_empty() && self.rng.chance(20) {
                    continue;
                }
                sock.ended = chunk.is_empty();
                list.push_back(if chunk.is_empty() { Happens::Eof(token) } else { Happens::Data(token, chunk) });
            }
            if self.seam == Some(Seam::LateCompletion) && std::mem::take(&mut sock.reused) {
                list.push_back(Happens::Sent(token, Ok(0)));
            }
            if sock.reset && !sock.ended {
                sock.ended = true;
                list.push_back(Happens::Failed(token));
            } else if sock.watched && sock.writable_at <= now && (sock.down.len() < manners.capacity || sock.reset) {
                (sock.watched, sock.blocked) = (false, false);
                list.push_back(Happens::Writable(token));
            }
        }
    }

    fn sock(&mut self, token: Token, socket: Socket) -> (u32, &mut Sock) {
        let id = self.slots.get(socket.slot as usize).copied().flatten().expect("a slot that is in use");
        let sock = self.socks.get_mut(&id).expect("a socket in its slot");
        assert_eq!(sock.token, Some(token), "the slot belongs to another connection");
        assert!(sock.closed.is_none(), "used after its close");
        (id, sock)
    }
}

/// Owned form of what happens, so that callbacks run while the net is not borrowed.
enum Happens {
    Data(Token, Vec<u8>),
    Eof(Token),
    Failed(Token),
    Sent(Token, Result<usize, i32>),
    Writable(Token),
    Closed(Token),
}

impl SimDriver {
    /// Returns whether anything happened.
    fn emit(&self, on_event: &mut dyn FnMut(Event<'_>)) -> bool {
        let mut lists: Vec<VecDeque<Happens>> = {
            let mut net = self.0.borrow_mut();
            let mut happens = BTreeMap::new();
            net.run_sends(&mut happens);
            net.run_receives(&mut happens);
            happens.into_values().filter(|list| !list.is_empty()).collect()
        };
        let any = !lists.is_empty();
        while !lists.is_empty() {
            let at = if lists.len() == 1 { 0 } else { self.0.borrow_mut().rng.index(lists.len()) };
            let Some(happens) = lists[at].pop_front() else {
                lists.swap_remove(at);
                continue;
            };
            match happens {
                Happens::Data(token, mut bytes) => on_event(Event::Data { token, bytes: &mut bytes }),
                Happens::Eof(token) => on_event(Event::Eof { token }),
                Happens::Failed(token) => on_event(Event::Failed { token, errno: ECONNRESET }),
                Happens::Sent(token, result) => on_event(Event::Sent { token, result }),
                Happens::Writable(token) => on_event(Event::Writable { token }),
                Happens::Closed(token) => on_event(Event::Closed { token }),
            }
        }
        any
    }
}

impl Driver for SimDriver {
    type Incoming = u32;

    fn register(&mut self, token: Token, id: u32) -> Result<Socket, (RegisterError, u32)> {
        assert_eq!(token.0 >> 56, 0, "tokens have 56 bits");
        let mut net = self.0.borrow_mut();
        let free = net.slots.iter().position(Option::is_none).unwrap_or(net.slots.len());
        if free >= net.manners.slots {
            net.socks.remove(&id);
            return Err((RegisterError::Full, id));
        }
        let reused = free < net.slots.len();
        if !reused {
            net.slots.push(None);
        }
        net.slots[free] = Some(id);
        let sock = net.socks.get_mut(&id).expect("a socket on its way in");
        (sock.token, sock.slot, sock.reused) = (Some(token), free as u32, reused);
        Ok(Socket { ring: 0, slot: free as u32 })
    }

    fn send(&mut self, token: Token, socket: Socket, frame: &Bytes, from: usize) {
        let mut net = self.0.borrow_mut();
        let (id, sock) = net.sock(token, socket);
        assert!(!sock.unflushed, "a second send before the flush");
        assert!(!sock.blocked, "a send before the socket is writable");
        assert!(from < frame.len(), "nothing to send");
        sock.unflushed = true;
        net.pending.push((token, id, frame.clone(), from));
    }

    fn watch_writable(&mut self, token: Token, socket: Socket) {
        let mut net = self.0.borrow_mut();
        let (_, sock) = net.sock(token, socket);
        assert!(sock.blocked && !sock.watched, "watched without need");
        sock.watched = true;
    }

    fn close(&mut self, token: Token, socket: Socket, how: CloseHow) {
        let mut net = self.0.borrow_mut();
        let at = net.now + net.late();
        let self_seam = net.seam;
        let (_, sock) = net.sock(token, socket);
        let silent = sock.watched && self_seam == Some(Seam::CloseWithoutFin);
        sock.silent = silent;
        sock.closed = Some((how, at));
    }

    fn flush(&mut self, on_event: &mut dyn FnMut(Event<'_>)) {
        self.emit(on_event);
    }

    fn turn(&mut self, deadline: Option<Now>, on_event: &mut dyn FnMut(Event<'_>)) {
        if !self.emit(on_event) {
            self.0.borrow_mut().slept = Some(deadline.map(|at| at.0));
        }
    }

    fn now(&self) -> Now {
        Now(self.0.borrow().now)
    }
}
