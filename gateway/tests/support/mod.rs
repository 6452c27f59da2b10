//! A gateway on loopback with a small control peer of our own at the other end of its link, and clients that speak to it.

#![allow(dead_code, reason = "every test binary uses its own part")]

pub mod control;
pub mod http;
pub mod wire;

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use fastwebsockets::{Frame, OpCode, Payload, Role, WebSocket};
use serde_json::Value;
use tidegate_auth::{Algorithm, Issuer};
use tidegate_gateway::config::KeyConfig;
use tidegate_gateway::{Addrs, Config, Gateway, IoChoice, LinkTarget};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use control::Control;
use wire::Wire;

/// Longer than anything takes; a test that reaches it has failed.
pub const DEADLINE: Duration = Duration::from_secs(20);
pub const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
pub const WEBSOCKET_KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// A gateway, its control peer and its folder.
pub struct Node {
    pub gateway: Option<Gateway>,
    pub addrs: Addrs,
    pub control: Control,
    folder: tempfile::TempDir,
}

impl Node {
    /// Starts with development auth, one HS256 key, short waits and an echo listener; `adjust` changes that.
    pub async fn start(adjust: impl FnOnce(&mut Config)) -> Node {
        let control = Control::start();
        let target = LinkTarget::InProcess(control.acceptor());
        Node::of(control, target, adjust).await
    }

    /// With control where `adjust` says.
    pub async fn attached_to(control: Control, adjust: impl FnOnce(&mut Config)) -> Node {
        Node::of(control, LinkTarget::Configured, adjust).await
    }

    async fn of(control: Control, target: LinkTarget, adjust: impl FnOnce(&mut Config)) -> Node {
        let (gateway, folder) = start_gateway(target, adjust);
        let addrs = wire::way(gateway.addrs());
        let node = Node { gateway: Some(gateway), addrs, control, folder };
        eventually("the link is up", || node.control.attachments() > 0).await;
        node
    }

    /// Lets every client go and ends the gateway.
    pub async fn drain(&mut self) {
        let gateway = self.gateway.take().expect("not drained yet");
        tokio::task::spawn_blocking(move || gateway.drain()).await.expect("drained");
    }

    /// A development user's connection after its `welcome`.
    pub async fn join(&self, uid: &str) -> Client {
        let mut client = Client::open(self.addrs.client, &format!("/api/v1/ws?uid={uid}"), &[]).await;
        let welcome = client.json().await;
        assert_eq!(welcome["welcome"]["uid"], uid, "{welcome}");
        client
    }

    pub async fn metric_becomes(&self, line: &str, value: f64) {
        let becoming = async {
            while self.metric(line).await != value {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        within(line, becoming).await;
    }

    /// The value of a metric, by the beginning of its line.
    pub async fn metric(&self, line: &str) -> f64 {
        let (_, body) = http::get(self.addrs.admin, "/metrics").await;
        let found = body.lines().find_map(|text| text.strip_prefix(line));
        found.and_then(|rest| rest.trim().parse().ok()).unwrap_or_else(|| panic!("no {line} in\n{body}"))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(gateway) = self.gateway.take() {
            std::thread::spawn(move || gateway.drain());
        }
    }
}

pub fn start_gateway(target: LinkTarget, adjust: impl FnOnce(&mut Config)) -> (Gateway, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("tempdir");
    let file: PathBuf = folder.path().join("key");
    std::fs::write(&file, SECRET).expect("key written");
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut config = Config::dev();
    config.client_addr = any;
    config.admin_addr = any;
    config.echo_addr = Some(any);
    config.drain_ms = 200;
    config.engine.shards = 1;
    config.engine.slots = 512;
    config.engine.pin = false;
    config.engine.io = io();
    config.auth.keys.push(KeyConfig { algorithm: Algorithm::HS256, id: None, file });
    (config.tls.addr, config.tls.echo_addr) = (Some(any), Some(any));
    config.tls.certificates = vec![wire::certificate(folder.path())];
    adjust(&mut config);
    (Gateway::start(config, target).expect("gateway starts"), folder)
}

/// The driver that this run of the tests is over, as for the binary.
fn io() -> IoChoice {
    std::env::var("TIDEGATE_IO").map_or(IoChoice::Auto, |word| word.parse().expect("TIDEGATE_IO"))
}

pub fn token(uid: &str, ttl_s: u64) -> String {
    issue(uid, 0, ttl_s)
}

/// Issued an hour ago for a minute.
pub fn expired_token(uid: &str) -> String {
    issue(uid, 3_600_000, 60)
}

fn issue(uid: &str, age_ms: i64, ttl_s: u64) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock");
    let issuer = Issuer::new(SECRET, None).expect("issuer");
    issuer.issue(uid, None, None, now.as_millis() as i64 - age_ms, ttl_s).expect("token")
}

/// Waits for a condition, with a generous deadline.
pub async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}

pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("never: {what}"))
}

/// A WebSocket client: our own handshake, then fastwebsockets as a reference for the frames.
pub struct Client {
    socket: WebSocket<Wire>,
    /// The head of the 101.
    pub response: String,
}

/// What a client saw.
#[derive(Debug, PartialEq)]
pub enum Seen {
    Text(String),
    Binary(Vec<u8>),
    Close(u16),
    /// The connection ended without a close frame.
    Eof,
}

impl Client {
    pub async fn open(addr: SocketAddr, target: &str, fields: &[&str]) -> Client {
        let mut stream = wire::connect(addr).await;
        stream.write_all(http::upgrade(addr, target, fields).as_bytes()).await.expect("request sent");
        let response = within("the 101", http::read_head(&mut stream)).await;
        assert!(response.starts_with("HTTP/1.1 101 "), "{response}");
        let mut socket = WebSocket::after_handshake(stream, Role::Client);
        socket.set_auto_close(true);
        socket.set_auto_pong(true);
        socket.set_max_message_size(32 << 20);
        Client { socket, response }
    }

    pub async fn send_text(&mut self, text: &str) {
        self.send_frame(true, OpCode::Text, text.as_bytes()).await;
    }

    pub async fn send_frame(&mut self, fin: bool, opcode: OpCode, payload: &[u8]) {
        let frame = Frame::new(fin, opcode, None, Payload::Borrowed(payload));
        self.socket.write_frame(frame).await.expect("sent");
        // Over TLS the end of a frame may wait in the session for room in the socket.
        self.socket.flush().await.expect("sent");
    }

    /// Any frame, pongs included, from a connection that answers nothing by itself.
    pub async fn next_any(&mut self) -> (OpCode, Vec<u8>) {
        let frame = within("a frame", self.socket.read_frame()).await.expect("a frame");
        (frame.opcode, frame.payload.to_vec())
    }

    pub async fn next(&mut self) -> Seen {
        let frame = within("a frame", self.socket.read_frame()).await;
        match frame {
            Err(_) => Seen::Eof,
            Ok(frame) => match frame.opcode {
                OpCode::Text => Seen::Text(String::from_utf8(frame.payload.to_vec()).expect("UTF-8")),
                OpCode::Binary => Seen::Binary(frame.payload.to_vec()),
                OpCode::Close => {
                    Seen::Close(frame.payload.get(..2).map_or(1005, |code| u16::from_be_bytes([code[0], code[1]])))
                }
                other => panic!("unexpected {other:?}"),
            },
        }
    }

    pub async fn json(&mut self) -> Value {
        match self.next().await {
            Seen::Text(text) => serde_json::from_str(&text).expect("JSON"),
            other => panic!("expected JSON, saw {other:?}"),
        }
    }

    /// Reads frames until one has the key, and returns what it holds.
    pub async fn await_key(&mut self, key: &str) -> Value {
        loop {
            let mut frame = self.json().await;
            if !frame[key].is_null() {
                return frame[key].take();
            }
        }
    }
}

/// An upgraded connection whose frames are made and read by hand: compressed ones, or wrong ones.
pub struct RawClient {
    stream: Wire,
    pub response: String,
}

impl RawClient {
    pub async fn open(addr: SocketAddr, target: &str, fields: &[&str]) -> RawClient {
        let mut stream = wire::connect(addr).await;
        stream.write_all(http::upgrade(addr, target, fields).as_bytes()).await.expect("request sent");
        let response = within("the 101", http::read_head(&mut stream)).await;
        assert!(response.starts_with("HTTP/1.1 101 "), "{response}");
        RawClient { stream, response }
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("sent");
    }

    /// The first byte and the payload of a frame of up to 125 bytes.
    pub async fn next(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 2];
        within("a frame", self.stream.read_exact(&mut head)).await.expect("a frame");
        assert!(head[1] <= 125, "a short unmasked frame: {head:x?}");
        let mut payload = vec![0; head[1].into()];
        within("a payload", self.stream.read_exact(&mut payload)).await.expect("a payload");
        (head[0], payload)
    }
}

/// A masked frame of up to 65,535 bytes.
pub fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let mut frame = vec![first];
    match payload.len() {
        len @ 0..=125 => frame.push(0x80 | len as u8),
        len => {
            frame.push(0x80 | 126);
            frame.extend(u16::try_from(len).expect("a short frame").to_be_bytes());
        }
    }
    frame.extend(mask);
    frame.extend(payload.iter().zip(mask.into_iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// Reads a raw socket until it is closed.
pub async fn read_to_end(stream: &mut Wire) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A reset after the answer is as good an end as any.
    let _ = within("the end", stream.read_to_end(&mut bytes)).await;
    bytes
}
