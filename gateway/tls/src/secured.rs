//! A driver around a driver. Plain connections pass through; of those with a [`Session`] it opens what comes and seals what
//! goes, so that the worker loop sees the same bytes either way.
//!
//! A send that comes back short has been sealed as a whole, and sealed bytes cannot be taken back. So the caller is told
//! that all but the last byte of it has been taken: the frame that this byte belongs to has begun and is therefore finished
//! before anything else (the driver's contract), and what is sealed and unsent (the *rest*) goes ahead of it. At most
//! [`SEALED_BYTES_MAX`] are sealed for one send, which bounds the rest; of a longer send the caller hears that it was short.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use tidegate_gateway_core::driver::{CloseHow, Driver, Event, RegisterError, Socket, Token};
use tidegate_gateway_core::ids::Now;

use crate::session::{Received, Session};
use crate::table::Table;

/// Plaintext that is sealed for one send.
const SEALED_BYTES_MAX: usize = 64 * 1024;
/// Sealed frames of many connections share pieces of this size: one allocation for hundreds of sends.
const ARENA_BYTES: usize = 256 * 1024;
/// A new piece is begun when less than this is left of one.
const ARENA_BYTES_LEFT_MIN: usize = 1024;
/// Linux's number for a protocol error.
const EPROTO: i32 = 71;
/// A reader's buffers are given back if they have grown beyond it.
const SCRATCH_BYTES_MAX: usize = 256 * 1024;

/// A socket on its way to a shard, with its TLS if it has one.
pub struct Incoming<I> {
    pub socket: I,
    pub session: Option<Box<Session>>,
}

/// Counters of one shard, read by other threads.
#[derive(Debug, Default)]
pub struct TlsStats {
    /// Gauge: connections with TLS.
    pub sessions: AtomicU64,
    /// Plaintext bytes that were sealed, and what they became.
    pub plain_bytes: AtomicU64,
    pub sealed_bytes: AtomicU64,
    /// Sessions that ended because of what the peer sent: garbage, forged or broken records.
    pub broken: AtomicU64,
}

/// See the module.
pub struct Secured<D> {
    inner: D,
    layer: Layer,
}

/// What there is beside the inner driver.
struct Layer {
    /// By the low half of the token, which is an index.
    connections: Table<Connection>,
    flight: Flight,
    arena: BytesMut,
    plain: Vec<u8>,
    stats: Arc<TlsStats>,
}

/// Sends between two flushes. After a flush everything of them is in the sockets, or some connection's rest.
#[derive(Default)]
struct Flight {
    sends: Vec<Sending>,
    /// Sends that were sealed only in part: the driver does not know that they are short.
    partial: Vec<u32>,
    /// Connections whose session could not seal.
    failed: Vec<Token>,
}

struct Sending {
    token: Token,
    sealed: Bytes,
    /// Plaintext bytes of the caller's that are sealed.
    covered: usize,
    /// The driver took less than all of it.
    is_short: bool,
}

struct Connection {
    token: Token,
    session: Session,
    owed: Option<Box<Owed>>,
    /// Index of its send in the flight.
    sending: u32,
    reading: Reading,
}

/// What goes ahead of the next send. Hardly ever anything.
#[derive(Default)]
struct Owed {
    /// Sealed and not in the socket. It stands for the next byte that the caller sends, too.
    rest: Bytes,
    /// What the session itself has to say (an alert, say), sealed after the rest.
    answer: Vec<u8>,
}

/// What is still expected of the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    Open,
    /// It said `close_notify`.
    Ended,
    /// It broke the protocol.
    Broken,
}

impl<D: Driver> Secured<D> {
    pub fn new(inner: D) -> Secured<D> {
        let layer = Layer {
            connections: Table::default(),
            flight: Flight::default(),
            arena: BytesMut::new(),
            plain: Vec::new(),
            stats: Arc::default(),
        };
        Secured { inner, layer }
    }

    pub fn stats(&self) -> Arc<TlsStats> {
        Arc::clone(&self.layer.stats)
    }
}

impl<D: Driver> Driver for Secured<D> {
    type Incoming = Incoming<D::Incoming>;

    fn register(&mut self, token: Token, incoming: Self::Incoming) -> Result<Socket, (RegisterError, Self::Incoming)> {
        let Incoming { socket, session } = incoming;
        match self.inner.register(token, socket) {
            Ok(socket) => {
                if let Some(session) = session {
                    self.layer.insert(token, session);
                }
                Ok(socket)
            }
            Err((error, socket)) => Err((error, Incoming { socket, session })),
        }
    }

    fn send(&mut self, token: Token, socket: Socket, frame: &Bytes, from: usize) {
        match self.layer.seal(token, &frame[from..]) {
            Seal::Plain => self.inner.send(token, socket, frame, from),
            Seal::Sealed(sealed) => self.inner.send(token, socket, &sealed, 0),
            Seal::Failed => {}
        }
    }

    fn watch_writable(&mut self, token: Token, socket: Socket) {
        self.inner.watch_writable(token, socket);
    }

    fn close(&mut self, token: Token, socket: Socket, how: CloseHow) {
        if how == CloseHow::Graceful
            && let Some(goodbye) = self.layer.goodbye(token)
        {
            self.inner.send(token, socket, &goodbye, 0);
        }
        self.inner.close(token, socket, how);
    }

    fn flush(&mut self, on_event: &mut dyn FnMut(Event<'_>)) {
        let Secured { inner, layer } = self;
        inner.flush(&mut |event| layer.pass(event, on_event));
        layer.land(on_event);
    }

    fn turn(&mut self, deadline: Option<Now>, on_event: &mut dyn FnMut(Event<'_>)) {
        // What the caller must hear now is no reason to sleep.
        if self.layer.flight.has_news() {
            return self.flush(on_event);
        }
        let Secured { inner, layer } = self;
        inner.turn(deadline, &mut |event| layer.pass(event, on_event));
        layer.land(on_event);
    }

    fn now(&self) -> Now {
        self.inner.now()
    }
}

/// What a send becomes.
enum Seal {
    Plain,
    Sealed(Bytes),
    Failed,
}

fn index(token: Token) -> usize {
    (token.0 & u64::from(u32::MAX)) as usize
}

impl Layer {
    fn insert(&mut self, token: Token, session: Box<Session>) {
        let connection = Connection { token, session: *session, owed: None, sending: 0, reading: Reading::Open };
        self.connections.insert(index(token), connection);
        self.stats.sessions.fetch_add(1, Ordering::Relaxed);
    }

    fn find(&mut self, token: Token) -> Option<&mut Connection> {
        self.connections.get_mut(index(token)).filter(|connection| connection.token == token)
    }

    fn seal(&mut self, token: Token, plain: &[u8]) -> Seal {
        let Layer { connections, arena, flight, stats, .. } = self;
        let Some(connection) = connections.get_mut(index(token)) else { return Seal::Plain };
        debug_assert_eq!(connection.token, token, "a token of a connection that is over");
        if arena.capacity() < ARENA_BYTES_LEFT_MIN {
            // What is still referred to stays where it is.
            arena.reserve(ARENA_BYTES);
        }
        let mut begun = 0;
        if let Some(owed) = connection.owed.take() {
            begun = usize::from(!owed.rest.is_empty()).min(plain.len());
            arena.extend_from_slice(&owed.rest);
            arena.extend_from_slice(&owed.answer);
        }
        let covered = plain.len().min(SEALED_BYTES_MAX);
        let fresh = &plain[begun..covered];
        let before = arena.len();
        if !fresh.is_empty() && connection.session.seal(fresh, arena).is_err() {
            arena.clear();
            flight.failed.push(token);
            return Seal::Failed;
        }
        stats.plain_bytes.fetch_add(fresh.len() as u64, Ordering::Relaxed);
        stats.sealed_bytes.fetch_add((arena.len() - before) as u64, Ordering::Relaxed);
        let sealed = arena.split().freeze();
        connection.sending = flight.sends.len() as u32;
        if covered < plain.len() {
            flight.partial.push(connection.sending);
        }
        flight.sends.push(Sending { token, sealed: sealed.clone(), covered, is_short: false });
        Seal::Sealed(sealed)
    }

    /// The last bytes of a connection that is closed with everything sent.
    fn goodbye(&mut self, token: Token) -> Option<Bytes> {
        let connection = self.find(token)?;
        let mut last = connection.owed.take().map(|owed| owed.answer).unwrap_or_default();
        if connection.reading != Reading::Broken && connection.session.seal_close(&mut last).is_err() {
            // A session that cannot speak any more just ends.
            last.clear();
        }
        (!last.is_empty()).then(|| last.into())
    }

    fn pass(&mut self, event: Event<'_>, on_event: &mut dyn FnMut(Event<'_>)) {
        match event {
            Event::Data { token, bytes } if self.find(token).is_some() => self.open(token, bytes, on_event),
            Event::Eof { token } if self.find(token).is_some_and(|connection| connection.reading != Reading::Open) => {
                // The caller has heard of the end already.
            }
            Event::Sent { token, result } if self.find(token).is_some() => {
                let result = result.map(|taken| self.cut_short(token, taken));
                on_event(Event::Sent { token, result });
            }
            Event::Closed { token } => {
                if self.find(token).is_some() {
                    self.connections.remove(index(token));
                    self.stats.sessions.fetch_sub(1, Ordering::Relaxed);
                }
                on_event(event);
            }
            event => on_event(event),
        }
    }

    fn open(&mut self, token: Token, bytes: &mut [u8], on_event: &mut dyn FnMut(Event<'_>)) {
        let mut plain = std::mem::take(&mut self.plain);
        let Some(connection) = self.find(token) else { return };
        if connection.reading == Reading::Open {
            let mut answer = Vec::new();
            connection.reading = match connection.session.receive(bytes, &mut plain, &mut answer) {
                Ok(Received::Open) => Reading::Open,
                Ok(Received::Ended) => Reading::Ended,
                Err(_) => Reading::Broken,
            };
            if !answer.is_empty() {
                connection.owed.get_or_insert_default().answer.append(&mut answer);
            }
            let reading = connection.reading;
            if !plain.is_empty() {
                on_event(Event::Data { token, bytes: &mut plain });
            }
            if reading == Reading::Broken {
                self.stats.broken.fetch_add(1, Ordering::Relaxed);
            }
            if reading != Reading::Open {
                on_event(Event::Eof { token });
            }
        }
        plain.clear();
        if plain.capacity() <= SCRATCH_BYTES_MAX {
            self.plain = plain;
        }
    }

    /// The driver took so much of what was sealed. Returns how much the caller hears of.
    fn cut_short(&mut self, token: Token, taken: usize) -> usize {
        let Layer { connections, flight, .. } = self;
        let connection = connections.get_mut(index(token)).filter(|connection| connection.token == token);
        let Some(connection) = connection else { return taken };
        let sending = flight.sends.get_mut(connection.sending as usize);
        let Some(sending) = sending.filter(|sending| sending.token == token) else { return 0 };
        sending.is_short = true;
        connection.owed.get_or_insert_default().rest = sending.sealed.slice(taken..);
        sending.covered.saturating_sub(1)
    }

    /// After a flush: of what was sealed in part the caller sends the rest when it can.
    fn land(&mut self, on_event: &mut dyn FnMut(Event<'_>)) {
        for at in self.flight.partial.drain(..) {
            let sending = &self.flight.sends[at as usize];
            if !sending.is_short {
                on_event(Event::Sent { token: sending.token, result: Ok(sending.covered) });
            }
        }
        for token in std::mem::take(&mut self.flight.failed) {
            on_event(Event::Failed { token, errno: EPROTO });
        }
        self.flight.sends.clear();
    }
}

impl Flight {
    fn has_news(&self) -> bool {
        !self.partial.is_empty() || !self.failed.is_empty()
    }
}

#[cfg(test)]
#[path = "secured_tests.rs"]
mod tests;
