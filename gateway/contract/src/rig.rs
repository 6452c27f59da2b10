//! A driver that logs its events, and how one is made.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tidegate_gateway_core::driver::{CloseHow, Driver, Event, Socket, Token};

use crate::sockets::PATIENCE;

/// Makes drivers of one kind.
pub trait Factory {
    type Driver: Driver<Incoming = OwnedFd>;

    fn open(&self, shape: &Shape) -> Self::Driver;
    /// Rings the driver's doorbell from any thread.
    fn bell(driver: &Self::Driver) -> impl Fn() + Clone + Send + 'static;
    /// Sockets registered or being closed.
    fn sockets(driver: &Self::Driver) -> u32;
}

/// What a test asks of a driver.
#[derive(Clone, Debug)]
pub struct Shape {
    pub slots: u32,
    /// Most bytes of one `Data`.
    pub buffer_bytes: u32,
    /// Most buffers that one socket may fill in a turn.
    pub reads_per_socket: u16,
    pub linger_ms: u32,
    /// As few buffers and queue entries as the driver can have.
    pub tight: bool,
}

impl Default for Shape {
    fn default() -> Self {
        Shape { slots: 1 << 17, buffer_bytes: 4096, reads_per_socket: 4, linger_ms: 2000, tight: false }
    }
}

/// An event, kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    Data(Token, Vec<u8>),
    Eof(Token),
    Failed(Token, i32),
    Sent(Token, Result<usize, i32>),
    Writable(Token),
    Closed(Token),
    Doorbell,
}

impl From<Event<'_>> for Seen {
    fn from(event: Event<'_>) -> Seen {
        match event {
            Event::Data { token, bytes } => Seen::Data(token, bytes.to_vec()),
            Event::Eof { token } => Seen::Eof(token),
            Event::Failed { token, errno } => Seen::Failed(token, errno),
            Event::Sent { token, result } => Seen::Sent(token, result),
            Event::Writable { token } => Seen::Writable(token),
            Event::Closed { token } => Seen::Closed(token),
            Event::Doorbell => Seen::Doorbell,
        }
    }
}

/// A driver and all that it said.
pub struct Rig<F: Factory> {
    pub driver: F::Driver,
    pub log: Vec<Seen>,
}

impl<F: Factory> Rig<F> {
    pub fn new(factory: &F, shape: Shape) -> Rig<F> {
        Rig { driver: factory.open(&shape), log: Vec::new() }
    }

    pub fn register(&mut self, token: u64, socket: impl Into<OwnedFd>) -> Socket {
        self.driver.register(Token(token), socket.into()).map_err(|(error, _)| error).unwrap()
    }

    pub fn send(&mut self, token: u64, socket: Socket, frame: &Bytes) {
        self.driver.send(Token(token), socket, frame, 0);
    }

    pub fn close(&mut self, token: u64, socket: Socket, how: CloseHow) {
        self.driver.close(Token(token), socket, how);
    }

    pub fn flush(&mut self) {
        let log = &mut self.log;
        self.driver.flush(&mut |event| log.push(event.into()));
    }

    pub fn turn(&mut self, wait: Duration) {
        let log = &mut self.log;
        let deadline = self.driver.now() + wait;
        self.driver.turn(Some(deadline), &mut |event| log.push(event.into()));
    }

    /// Turns until the condition holds for the log.
    #[track_caller]
    pub fn until(&mut self, what: &str, mut holds: impl FnMut(&[Seen]) -> bool) {
        let start = Instant::now();
        while !holds(&self.log) {
            assert!(start.elapsed() < PATIENCE, "{what} did not come; the last events: {:?}", self.tail());
            self.turn(Duration::from_millis(100));
        }
    }

    fn tail(&self) -> &[Seen] {
        &self.log[self.log.len().saturating_sub(20)..]
    }

    #[track_caller]
    pub fn until_seen(&mut self, event: Seen) {
        self.until(&format!("{event:?}"), |log| log.contains(&event));
    }

    pub fn count(&self, event: &Seen) -> usize {
        self.log.iter().filter(|seen| *seen == event).count()
    }

    /// All bytes that arrived from a socket.
    pub fn received(&self, token: u64) -> Vec<u8> {
        let mut all = Vec::new();
        for seen in &self.log {
            if let Seen::Data(from, bytes) = seen
                && *from == Token(token)
            {
                all.extend_from_slice(bytes);
            }
        }
        all
    }
}
