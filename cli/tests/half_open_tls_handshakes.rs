//! Strangers who begin a TLS handshake and do not end it (F14): small, reaped by the deadline, and nobody else is the worse
//! for it.

mod support;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use support::{Dev, PATIENCE, http};
use tidegate_load::node::Addrs;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// At once, and within the bound of either driver where the descriptor limit is 20,000.
const STRANGERS: usize = 2_000;
const THREADS: usize = 4;
const BYTES_EACH_MAX: u64 = 16 * 1024;
/// What a second flood may add to the memory of the first one.
const SLACK_BYTES: u64 = 4 << 20;

type Secure = StreamOwned<ClientConnection, TcpStream>;

struct Node {
    dev: Dev,
    tls: SocketAddr,
    trusting: Arc<ClientConfig>,
}

impl Node {
    fn start() -> Node {
        let tls = Addrs::free().expect("free ports").client;
        let dev = Dev::with(&["--tls", "--tls-addr", &tls.to_string()]);
        let mut roots = RootCertStore::empty();
        let certificate = CertificateDer::from_pem_file(dev.data().join("dev-tls.crt")).expect("a certificate");
        roots.add(certificate).expect("a root");
        let trusting = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Node { dev, tls, trusting: Arc::new(trusting) }
    }

    fn session(&self) -> ClientConnection {
        let name = ServerName::try_from("localhost").expect("a name");
        ClientConnection::new(Arc::clone(&self.trusting), name).expect("a client")
    }

    /// A newcomer who is served.
    fn join(&self, uid: &str) -> Secure {
        let stream = TcpStream::connect(self.tls).expect("connects");
        stream.set_read_timeout(Some(PATIENCE)).expect("time-out");
        let mut secure = StreamOwned::new(self.session(), stream);
        let addr = self.tls;
        let request = format!(
            "GET /api/v1/ws?uid={uid} HTTP/1.1\r\nHost: {addr}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        secure.write_all(request.as_bytes()).expect("sent");
        until(&mut secure, "\"welcome\"");
        secure
    }

    fn metric(&self, line: &str) -> u64 {
        let metrics = http(self.dev.addrs.admin, "GET", "/metrics", &[], None).body;
        let found = metrics.lines().find_map(|text| text.strip_prefix(line));
        found.and_then(|rest| rest.trim().parse().ok()).unwrap_or_else(|| panic!("no {line} in\n{metrics}"))
    }

    fn half_open(&self) -> u64 {
        self.metric("tidegate_gateway_half_open ")
    }

    /// Handshakes that the deadline has ended.
    fn reaped(&self) -> u64 {
        self.metric("tidegate_gateway_handshakes_total{result=\"timeout\"}")
    }

    /// Resident memory of the process now (`VmRSS:`) or at most (`VmHWM:`), in bytes.
    fn memory(&self, which: &str) -> u64 {
        let pid = self.dev.node.as_ref().expect("running").pid();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
        let line = status.lines().find_map(|line| line.strip_prefix(which)).expect("its memory");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    }

    /// One half of them stops within its hello, the other one after it.
    fn flood(&self) -> Vec<TcpStream> {
        let mut hello = Vec::new();
        self.session().write_tls(&mut hello).expect("into memory");
        let some = || {
            let begin = |at: usize| {
                let mut stream = TcpStream::connect(self.tls).expect("connects");
                let said = if at.is_multiple_of(2) { &hello[..] } else { &hello[..hello.len() / 2] };
                stream.write_all(said).expect("sent");
                stream
            };
            (0..STRANGERS / THREADS).map(begin).collect::<Vec<_>>()
        };
        thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(some)).collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
        })
    }
}

fn until(secure: &mut Secure, text: &str) {
    let (mut seen, mut chunk) = (Vec::new(), [0; 4096]);
    while !String::from_utf8_lossy(&seen).contains(text) {
        let read = secure.read(&mut chunk).expect("readable");
        assert_ne!(read, 0, "{text} is not in {}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&chunk[..read]);
    }
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn half_open_tls_handshakes_are_small_and_reaped() {
    let node = Node::start();
    let mut inside = node.join("alice");
    let mut full = Vec::new();
    for round in 1..=2 {
        let before = node.memory("VmRSS:");
        let strangers = node.flood();
        // On a slow machine the first are reaped while the last are still in the kernel's backlog.
        eventually("all have come", || node.half_open() + node.reaped() >= round * STRANGERS as u64);
        let half_open = node.half_open();
        assert!(half_open >= STRANGERS as u64 / 2, "{half_open} at once are no flood");
        drop(node.join("bob"));
        node.dev.push("u:alice", &format!("round {round}"));
        until(&mut inside, &format!("round {round}"));
        // They stay as long as they are let.
        eventually("all are reaped", || node.half_open() == 0);
        drop(strangers);
        drop(node.join("bob"));
        let most = node.memory("VmHWM:");
        let each = most.saturating_sub(before) / half_open;
        println!("round {round}: {half_open} half open, {each} bytes each, {most} in all");
        assert!(each <= BYTES_EACH_MAX, "{each} bytes for each of {half_open}");
        full.push(most);
    }
    assert!(full[1] <= full[0] + SLACK_BYTES, "memory grows from flood to flood: {full:?}");
    assert_eq!(node.reaped(), 2 * STRANGERS as u64, "each was reaped by the deadline");
}
