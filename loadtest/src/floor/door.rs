//! Accepts and upgrades, the same way for both loops; a socket that stands is handed over.
//!
//! The answer is canned: it accepts the example key of RFC 6455, which the clients of a floor always send.

use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

pub const ANSWER: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

const STDIN: RawFd = 0;
const BACKLOG: libc::c_int = 16_384;
/// A request head of one of our clients has a few hundred bytes.
const HEAD_BYTES_MAX: usize = 4096;
const EVENTS: usize = 512;

/// The listener and the connections in their handshake.
pub struct Door {
    listener: TcpListener,
    epoll: OwnedFd,
    shaking: HashMap<RawFd, (TcpStream, Vec<u8>)>,
}

impl Door {
    pub fn open() -> io::Result<Door> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        // SAFETY: INV-2. The standard library's backlog is too short for a ramp of thousands per second.
        check(unsafe { libc::listen(listener.as_raw_fd(), BACKLOG) })?;
        // SAFETY: no pointers are passed.
        let epoll = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the call just made this descriptor and nobody else knows it.
        let epoll = unsafe { OwnedFd::from_raw_fd(epoll) };
        let door = Door { listener, epoll, shaking: HashMap::new() };
        door.watch(door.listener.as_raw_fd())?;
        door.watch(STDIN)?;
        Ok(door)
    }

    pub fn addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Waits for connections and hands over those that stand, with the answer sent. `true`: standard input has something
    /// to say, or ended.
    pub fn turn(&mut self, mut stands: impl FnMut(TcpStream) -> io::Result<()>) -> io::Result<bool> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS];
        // SAFETY: INV-1, INV-2.
        let ready = unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), events.as_mut_ptr(), EVENTS as libc::c_int, -1) };
        let ready = match check(ready) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            ready => ready? as usize,
        };
        let mut spoken_to = false;
        for event in &events[..ready] {
            match event.u64 as RawFd {
                STDIN => spoken_to = true,
                fd if fd == self.listener.as_raw_fd() => self.accept()?,
                fd => {
                    if let Some(stream) = self.shake(fd)? {
                        stands(stream)?;
                    }
                }
            }
        }
        Ok(spoken_to)
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(true)?;
                    // Without it a frame would wait for the client's answer to the one before.
                    stream.set_nodelay(true)?;
                    self.watch(stream.as_raw_fd())?;
                    self.shaking.insert(stream.as_raw_fd(), (stream, Vec::new()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // The client was gone before it was accepted.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads one request. A client that goes away or sends no request is dropped.
    fn shake(&mut self, fd: RawFd) -> io::Result<Option<TcpStream>> {
        let Some((mut stream, mut head)) = self.shaking.remove(&fd) else { return Ok(None) };
        let mut chunk = [0; HEAD_BYTES_MAX];
        match stream.read(&mut chunk) {
            Ok(read) if read > 0 && head.len() + read <= HEAD_BYTES_MAX => head.extend_from_slice(&chunk[..read]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            _ => return Ok(None),
        }
        if !head.ends_with(b"\r\n\r\n") {
            self.shaking.insert(fd, (stream, head));
            return Ok(None);
        }
        // SAFETY: INV-2; removing needs no event.
        check(unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_DEL, fd, std::ptr::null_mut()) })?;
        // A new socket has room for so few bytes; if not, the client is gone.
        Ok(matches!(stream.write(ANSWER), Ok(written) if written == ANSWER.len()).then_some(stream))
    }

    fn watch(&self, fd: RawFd) -> io::Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: fd as u64 };
        // SAFETY: INV-1, INV-2.
        check(unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event) })?;
        Ok(())
    }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
