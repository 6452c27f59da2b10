//! The bare servers of a floor, as real child processes.

use std::cell::Cell;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use io_uring::IoUring;
use tidegate_load::floor::{Bare, Broadcast, Clients, FloorError, Floors, Loop};

const BINARY: &str = env!("CARGO_BIN_EXE_tidegate-load");
const FRAME: [u8; 6] = [0x82, 4, b't', b'i', b'd', b'e'];
const TIMEOUT: Duration = Duration::from_secs(60);

/// A container may forbid rings; then there is only epoll to test.
fn loops() -> Vec<Loop> {
    Loop::BOTH.into_iter().filter(|which| *which == Loop::Epoll || IoUring::new(2).is_ok()).collect()
}

/// A client that has been upgraded.
fn client(addr: SocketAddr) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    // In two parts, as a network may bring it.
    stream.write_all(b"GET / HTTP/1.1\r\nHost: floor\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")?;
    stream.write_all(b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).map_err(io::Error::other)?;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(head.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{head}");
    Ok(stream)
}

fn clients(addr: SocketAddr, count: usize) -> io::Result<Vec<TcpStream>> {
    (0..count).map(|_| client(addr)).collect()
}

/// The buffers of its sockets hold all that a test sends.
struct Readers {
    _sockets: Vec<TcpStream>,
    resting: Cell<Option<bool>>,
}

impl Clients for Readers {
    fn rest(&self, sockets: usize, resting: bool) {
        assert_eq!(sockets, 20);
        assert_ne!(self.resting.replace(Some(resting)), Some(resting), "they are told what is new");
    }
}

#[test]
fn every_socket_gets_every_frame() {
    for which in loops() {
        let mut bare = Bare::start(Path::new(BINARY), which, 5).expect("started");
        let mut sockets = clients(bare.addr(), 5).expect("connected");
        bare.wait_connected(5).expect("all stand");
        let slice = bare.broadcast(&FRAME, 40, Duration::from_millis(1)).expect("sent");
        assert_eq!((slice.sends, slice.short), (200, 0), "{which:?}");
        assert!(slice.cpu_us > 0, "{which:?} {slice:?}");
        for socket in &mut sockets {
            let mut got = vec![0; 40 * FRAME.len()];
            socket.read_exact(&mut got).expect("all frames came");
            assert_eq!(got, FRAME.repeat(40), "{which:?}");
        }
    }
}

#[test]
fn what_nobody_reads_comes_back_short() {
    for which in loops() {
        let mut bare = Bare::start(Path::new(BINARY), which, 2).expect("started");
        let mut sockets = clients(bare.addr(), 2).expect("connected");
        bare.wait_connected(2).expect("all stand");
        // More than the buffers of both ends hold.
        let frame = vec![7; 1 << 16];
        let slice = bare.broadcast(&frame, 400, Duration::ZERO).expect("sent");
        assert!(slice.short > 0 && slice.short < slice.sends, "{which:?} {slice:?}");

        let gone = sockets.pop().expect("two");
        drop(gone);
        drop(sockets);
        let slice = bare.broadcast(&FRAME, 3, Duration::from_millis(20)).expect("a broken connection ends nothing");
        assert!(slice.short > 0, "{which:?} {slice:?}");
    }
}

#[test]
fn more_sockets_than_descriptors_are_told_apart() {
    let beyond = 10_000_000;
    let refused = Bare::start(Path::new(BINARY), Loop::Epoll, beyond);
    assert!(matches!(refused, Err(FloorError::TooManySockets { sockets, .. }) if sockets == beyond), "{refused:?}");
    assert!(Loop::Uring.can_hold(beyond).is_ok());
}

#[test]
fn a_bare_server_ends_with_its_parents_pipe() {
    for which in loops() {
        // Once while it waits for clients, once in the middle of a broadcast that would last for hours.
        for command in ["", "broadcast 1000000 10000000 82\n"] {
            let mut child = Command::new(BINARY)
                .args(["floor-serve", which.name(), "1"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("started");
            let mut stdin = child.stdin.take().expect("piped");
            stdin.write_all(command.as_bytes()).expect("it lives");
            drop(stdin);
            child.wait().expect("it ends");
        }
    }
}

#[test]
fn both_loops_are_measured_side_by_side() {
    if loops().len() < 2 {
        return;
    }
    let connect = |addr| Ok(Readers { _sockets: clients(addr, 20)?, resting: Cell::default() });
    let mut floors = Floors::with(Path::new(BINARY), 20, connect).expect("both stand");
    assert!(floors.left_out.is_none() && floors.sockets() == 20);
    let broadcast = Broadcast { frame: FRAME.to_vec(), rounds: 50, spacing: Duration::from_millis(1) };
    let mut told = Vec::new();
    let pairs = floors.compare(&broadcast, 3, |number, pair| told.push((number, *pair))).expect("measured");
    assert_eq!(told.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(told.iter().map(|(_, pair)| *pair).collect::<Vec<_>>(), pairs);
    for pair in pairs {
        assert!(pair.epoll.is_some_and(|cost| cost > 0.0) && pair.io_uring.is_some_and(|cost| cost > 0.0), "{pair:?}");
        assert_eq!(pair.server, None);
    }
}
