//! The bare loop of an epoll server: one `send` per socket.

use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd as _;

use super::serve::FanOut;

#[derive(Default)]
pub struct Epoll {
    sockets: Vec<TcpStream>,
}

impl FanOut for Epoll {
    fn admit(&mut self, stream: TcpStream) -> io::Result<()> {
        self.sockets.push(stream);
        Ok(())
    }

    fn sockets(&self) -> usize {
        self.sockets.len()
    }

    fn send_all(&mut self, frame: &[u8]) -> io::Result<u64> {
        let mut short = 0;
        for socket in &self.sockets {
            let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
            // SAFETY: INV-1, INV-2.
            let sent = unsafe { libc::send(socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), flags) };
            short += u64::from(sent != frame.len() as isize);
        }
        Ok(short)
    }
}
