//! Peers over loopback.

use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

/// Longest that any condition may take. Nothing is asserted about how long it takes.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A connected pair over loopback: the server's end, the client's end.
pub fn pair() -> (TcpStream, TcpStream) {
    Listener::new().pair()
}

#[derive(Debug)]
pub struct Listener(TcpListener);

impl Listener {
    #[allow(clippy::new_without_default, reason = "it opens a socket")]
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
