//! What is done to a client socket before it is registered, offered to crates that forbid `unsafe`.
//!
//! * INV-1 A descriptor that `IntoRawFd` gives away is owned by nobody else; one that `AsRawFd` shows is open while it is borrowed.
//! * INV-2 A pointer given to a libc call is to a local of the size the call is told, alive for the call.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::time::Duration;

/// Options of a client socket. What is `None` stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SocketTuning {
    /// Small frames leave at once. Only for TCP.
    pub nodelay: Option<bool>,
    /// How long sent data may stay unacknowledged before the connection fails, in milliseconds (TCP_USER_TIMEOUT, RFC 5482).
    pub user_timeout_ms: Option<u32>,
    /// Probes of an idle connection.
    pub keepalive: Option<Keepalive>,
    /// Bytes asked of SO_SNDBUF; the kernel doubles it for its bookkeeping and stops adapting it.
    pub send_buffer_bytes: Option<u32>,
    /// Bytes asked of SO_RCVBUF, likewise.
    pub receive_buffer_bytes: Option<u32>,
}

/// TCP keepalive, in whole seconds as the kernel counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    pub idle: Duration,
    pub interval: Duration,
    pub probes: u32,
}

/// Takes over the descriptor of a stream of another runtime.
pub fn own_stream<T: IntoRawFd>(stream: T) -> OwnedFd {
    // SAFETY: INV-1.
    unsafe { OwnedFd::from_raw_fd(stream.into_raw_fd()) }
}

/// A second descriptor of the same socket or listener, close-on-exec.
pub fn duplicate<T: AsRawFd>(stream: &T) -> io::Result<OwnedFd> {
    // SAFETY: INV-1: `stream` is borrowed for the call.
    unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) }.try_clone_to_owned()
}

/// Applies the options that are set; stops at the first that the kernel refuses.
pub fn tune<F: AsFd>(socket: &F, tuning: &SocketTuning) -> io::Result<()> {
    let socket = socket.as_fd();
    let number = |value: u32| libc::c_int::try_from(value).unwrap_or(libc::c_int::MAX);
    let seconds = |span: Duration| number(span.as_secs().clamp(1, 32_767) as u32);
    let tcp = libc::IPPROTO_TCP;
    let mut options = Vec::with_capacity(8);
    options.extend(tuning.nodelay.map(|on| (tcp, libc::TCP_NODELAY, on.into())));
    options.extend(tuning.user_timeout_ms.map(|ms| (tcp, libc::TCP_USER_TIMEOUT, number(ms))));
    if let Some(keepalive) = tuning.keepalive {
        options.extend([
            (libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1),
            (tcp, libc::TCP_KEEPIDLE, seconds(keepalive.idle)),
            (tcp, libc::TCP_KEEPINTVL, seconds(keepalive.interval)),
            (tcp, libc::TCP_KEEPCNT, number(keepalive.probes.clamp(1, 127))),
        ]);
    }
    options.extend(tuning.send_buffer_bytes.map(|bytes| (libc::SOL_SOCKET, libc::SO_SNDBUF, number(bytes))));
    options.extend(tuning.receive_buffer_bytes.map(|bytes| (libc::SOL_SOCKET, libc::SO_RCVBUF, number(bytes))));
    options.into_iter().try_for_each(|(level, name, value)| set(socket, level, name, value))
}

fn set(socket: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let bytes = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: INV-2.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), bytes) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (listener.accept().unwrap().0, client)
    }

    #[test]
    fn every_option_reaches_the_socket() {
        let (server, _client) = pair();
        let tuning = SocketTuning {
            nodelay: Some(true),
            user_timeout_ms: Some(30_000),
            keepalive: Some(Keepalive { idle: Duration::from_secs(75), interval: Duration::from_secs(10), probes: 3 }),
            send_buffer_bytes: Some(40_000),
            receive_buffer_bytes: Some(20_000),
        };
        tune(&server, &tuning).unwrap();
        let socket = socket2::SockRef::from(&server);
        assert!(server.nodelay().unwrap());
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(30)));
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(75));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(10));
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 3);
        assert_eq!(socket.send_buffer_size().unwrap(), 80_000);
        assert_eq!(socket.recv_buffer_size().unwrap(), 40_000);
    }

    #[test]
    fn a_refused_option_is_an_error() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let tuning = SocketTuning { nodelay: Some(true), ..SocketTuning::default() };
        assert_eq!(tune(&file, &tuning).unwrap_err().raw_os_error(), Some(libc::ENOTSOCK));
        tune(&file, &SocketTuning::default()).unwrap();
    }

    #[test]
    fn a_stream_moves_by_its_descriptor_and_a_duplicate_outlives_it() {
        let (server, mut client) = pair();
        let copy = duplicate(&server).unwrap();
        drop(own_stream(server));
        let mut copy = TcpStream::from(copy);
        copy.write_all(b"still here").unwrap();
        drop(copy);
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        assert_eq!(text, "still here");
    }
}
