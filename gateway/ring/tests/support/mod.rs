//! Sockets, a driver that logs its events, and a bare ring, for the tests of this crate.
#![allow(dead_code, reason = "each test file uses its part")]

use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use bytes::Bytes;
use io_uring::{EnterFlags, IoUring, cqueue, squeue};
use tidegate_gateway_core::driver::{CloseHow, Driver, Event, Socket, Token};
use tidegate_gateway_ring::{Features, RingConfig, RingDriver, probe};

/// Longest that any condition may take. Nothing is asserted about how long it takes.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A connected pair over loopback: the server's end, the client's end.
pub fn pair() -> (TcpStream, TcpStream) {
    Listener::new().pair()
}

pub struct Listener(TcpListener);

impl Listener {
    pub fn new() -> Listener {
        Listener(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap())
    }

    pub fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    pub fn pair(&self) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(self.address()).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        (self.0.accept().unwrap().0, client)
    }
}

pub fn features() -> Features {
    probe().expect("these tests need io_uring")
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
pub struct Rig {
    pub driver: RingDriver,
    pub log: Vec<Seen>,
}

impl Rig {
    pub fn new(config: RingConfig) -> Rig {
        Rig { driver: RingDriver::open(&config, features()).unwrap(), log: Vec::new() }
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

/// Reads exactly this many bytes.
pub fn read_exactly(client: &mut TcpStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    client.read_exact(&mut bytes).unwrap();
    bytes
}

/// Reads to the peer's FIN.
pub fn read_to_end(client: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).unwrap();
    bytes
}

/// What is readable at once: `None` if nothing, empty if FIN.
pub fn read_now(client: &mut TcpStream) -> Option<Vec<u8>> {
    client.set_nonblocking(true).unwrap();
    let mut bytes = vec![0; 1 << 16];
    let result = client.read(&mut bytes);
    client.set_nonblocking(false).unwrap();
    match result {
        Ok(len) => {
            bytes.truncate(len);
            Some(bytes)
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        Err(error) => panic!("reading: {error}"),
    }
}

/// A small send buffer, so that a socket is soon full.
pub fn narrow(server: &TcpStream, client: &TcpStream) {
    socket2::SockRef::from(server).set_send_buffer_size(16 << 10).unwrap();
    socket2::SockRef::from(client).set_recv_buffer_size(16 << 10).unwrap();
}

/// A bare ring with the driver's flags and 16 places in its file table, to pin facts about the kernel itself.
pub struct Bare(pub IoUring);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cqe {
    pub id: u64,
    pub result: i32,
    pub flags: u32,
}

impl Cqe {
    pub fn more(&self) -> bool {
        cqueue::more(self.flags)
    }

    pub fn buffer(&self) -> Option<u16> {
        cqueue::buffer_select(self.flags)
    }
}

impl Bare {
    pub fn new() -> Bare {
        let ring: IoUring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(4096)
            .build(64)
            .unwrap();
        ring.submitter().register_files_sparse(16).unwrap();
        Bare(ring)
    }

    /// Moves a socket into a place of the table.
    pub fn place(&self, slot: u32, socket: TcpStream) {
        self.0.submitter().register_files_update(slot, &[socket.as_raw_fd()]).unwrap();
    }

    pub fn push(&mut self, entry: squeue::Entry, id: u64) {
        // SAFETY: the tests keep what their entries point to alive until the ring is dropped or the entry has completed.
        unsafe { self.0.submission().push(&entry.user_data(id)).unwrap() };
    }

    /// Submits, runs deferred work, and returns what has completed; does not wait.
    pub fn visit(&mut self) -> Vec<Cqe> {
        self.enter(0)
    }

    /// Like `visit`, and waits for one completion at least.
    pub fn wait(&mut self) -> Vec<Cqe> {
        self.enter(1)
    }

    fn enter(&mut self, want: u32) -> Vec<Cqe> {
        let queued = {
            let mut sq = self.0.submission();
            sq.sync();
            sq.len() as u32
        };
        // SAFETY: no argument is passed; entries as in `push`.
        unsafe { self.0.submitter().enter::<()>(queued, want, EnterFlags::GETEVENTS.bits(), None).unwrap() };
        let seen = |e: cqueue::Entry| Cqe { id: e.user_data(), result: e.result(), flags: e.flags() };
        self.0.completion().map(seen).collect()
    }
}
