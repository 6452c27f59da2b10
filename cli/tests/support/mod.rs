//! A real `tidegate dev`, a JSON client as an outside program would write it, and plain HTTP.

#![allow(dead_code)]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use serde_json::{Value, json};
use tidegate_load::node::{Addrs, Node};
use tidegate_load::ws::{self, OpCode};

/// Generous: conditions are awaited, times are never asserted.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_tidegate"))
}

/// One `tidegate dev` with its own data folder.
pub struct Dev {
    pub addrs: Addrs,
    pub folder: tempfile::TempDir,
    more: Vec<String>,
    pub node: Option<Node>,
}

impl Dev {
    pub fn start() -> Dev {
        Dev::with(&[])
    }

    pub fn with(more: &[&str]) -> Dev {
        let mut dev = Dev {
            addrs: Addrs::free().expect("free ports"),
            folder: tempfile::tempdir().expect("tempdir"),
            more: more.iter().map(|arg| (*arg).to_owned()).collect(),
            node: None,
        };
        dev.again();
        dev
    }

    /// One that was started by hand.
    pub fn over(addrs: Addrs, folder: tempfile::TempDir, node: Node) -> Dev {
        Dev { addrs, folder, more: Vec::new(), node: Some(node) }
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub fn log(&self) -> PathBuf {
        self.folder.path().join("node.log")
    }

    /// Starts it (again) with the same data and addresses.
    pub fn again(&mut self) {
        let more: Vec<&str> = self.more.iter().map(String::as_str).collect();
        let started = Node::dev(binary(), &self.data(), &self.addrs, &self.log(), &more);
        self.node = Some(started.unwrap_or_else(|error| {
            panic!("{error}\n{}", std::fs::read_to_string(self.log()).unwrap_or_default());
        }));
    }

    pub fn kill_nine(&mut self) {
        self.node.take().expect("running").kill().expect("killed");
    }

    pub fn client(&self, uid: &str) -> Client {
        Client::open(self.addrs.client, &format!("/api/v1/ws?uid={uid}"))
    }

    /// Pushes text and returns the first result.
    pub fn push(&self, to: &str, content: &str) -> Value {
        let answer = self.push_json(&json!({"to": [to], "message": {"type": "text", "content": content}}));
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()["results"][0].clone()
    }

    pub fn push_json(&self, body: &Value) -> Answer {
        http(self.addrs.http, "POST", "/api/v1/push", &[], Some(body))
    }
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }
}

pub fn http(addr: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&Value>) -> Answer {
    let body = body.map(Value::to_string).unwrap_or_default();
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n");
    if !body.is_empty() {
        request.push_str(&format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()));
    }
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    request.push_str(&body);
    raw_http(addr, request.as_bytes())
}

pub fn raw_http(addr: SocketAddr, request: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(addr).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("time-out");
    stream.write_all(request).expect("sent");
    let mut bytes = Vec::new();
    // A server that has answered may reset what it did not read; what came before counts.
    let _ = stream.read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    let body =
        if head.to_ascii_lowercase().contains("transfer-encoding: chunked") { dechunk(body) } else { body.into() };
    Answer { status, head: head.to_owned(), body }
}

fn dechunk(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        if size == 0 || rest.len() < size {
            break;
        }
        whole.push_str(&rest[..size]);
        body = rest[size..].trim_start_matches("\r\n");
    }
    whole
}

/// How a connection ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    Close(u16),
    /// End of stream or reset without a close frame.
    Cut,
}

/// A blocking client of the JSON sub-protocol.
pub struct Client {
    stream: TcpStream,
    buffer: BytesMut,
    next_id: u64,
    /// Frames that came while waiting for another one.
    pub aside: Vec<Value>,
}

impl Client {
    pub fn open(addr: SocketAddr, path: &str) -> Client {
        Client::try_open(addr, path, &[("Sec-WebSocket-Protocol", "tidegate.v1.json")])
            .unwrap_or_else(|answer| panic!("{answer:?}"))
    }

    pub fn try_open(addr: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Result<Client, Answer> {
        let mut stream = TcpStream::connect(addr).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("time-out");
        stream.set_nodelay(true).expect("nodelay");
        let mut request = format!(
            "GET {path} HTTP/1.1\r\nHost: {addr}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        );
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str("\r\n");
        stream.write_all(request.as_bytes()).expect("sent");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if stream.read(&mut byte).expect("an answer") == 0 {
                break;
            }
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let status: u16 = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        if status != 101 {
            let mut body = String::new();
            let _ = stream.read_to_string(&mut body);
            return Err(Answer { status, head, body });
        }
        assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
        Ok(Client { stream, buffer: BytesMut::new(), next_id: 1, aside: Vec::new() })
    }

    pub fn raw(&mut self, bytes: &[u8]) {
        // The server may have closed already: what it said about it is read next.
        let _ = self.stream.write_all(bytes);
    }

    pub fn frame(&mut self, op: OpCode, payload: &[u8]) {
        let mut bytes = Vec::new();
        ws::put_frame(&mut bytes, op, payload);
        self.raw(&bytes);
    }

    pub fn text(&mut self, text: &str) {
        self.frame(OpCode::Text, text.as_bytes());
    }

    /// Sends an operation without waiting; returns its id.
    pub fn send(&mut self, op: &str, arguments: Value) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.text(&json!({"id": id, op: arguments}).to_string());
        id
    }

    /// Sends an operation and returns its answer, `{"id":…,"ok":…}` or `{"id":…,"error":…}`.
    pub fn ask(&mut self, op: &str, arguments: Value) -> Value {
        let id = self.send(op, arguments);
        self.until(|frame| frame["id"] == id)
    }

    /// `ask`, and it must be ok.
    pub fn ok(&mut self, op: &str, arguments: Value) -> Value {
        let answer = self.ask(op, arguments);
        assert!(answer.get("ok").is_some(), "{op}: {answer}");
        answer["ok"].clone()
    }

    /// `ask`, and it must be refused; returns the code.
    pub fn refused(&mut self, op: &str, arguments: Value) -> String {
        let answer = self.ask(op, arguments);
        answer["error"]["code"].as_str().unwrap_or_else(|| panic!("{op}: {answer}")).to_owned()
    }

    /// The next frame that fits; others are put aside.
    pub fn until(&mut self, fits: impl Fn(&Value) -> bool) -> Value {
        if let Some(at) = self.aside.iter().position(&fits) {
            return self.aside.remove(at);
        }
        loop {
            let frame = self.next().unwrap_or_else(|ended| panic!("{ended:?}; seen {:?}", self.aside));
            if fits(&frame) {
                return frame;
            }
            self.aside.push(frame);
        }
    }

    /// Messages of `stream` until `count` came, in the order of their coming.
    pub fn messages(&mut self, stream: &str, count: usize) -> Vec<Value> {
        let mut messages: Vec<Value> = Vec::new();
        while messages.len() < count {
            let frame = self.until(|frame| frame["batch"]["stream"] == stream);
            messages.extend(frame["batch"]["messages"].as_array().expect("messages").iter().cloned());
        }
        messages
    }

    pub fn next(&mut self) -> Result<Value, Ended> {
        loop {
            match ws::take_frame(&mut self.buffer).expect("a valid frame") {
                Some(frame) => match frame.op {
                    OpCode::Text => return Ok(serde_json::from_slice(&frame.payload).expect("JSON")),
                    OpCode::Close => {
                        let code = frame.payload.get(..2).map_or(1005, |b| u16::from_be_bytes([b[0], b[1]]));
                        return Err(Ended::Close(code));
                    }
                    OpCode::Ping => self.frame(OpCode::Pong, &frame.payload),
                    OpCode::Binary | OpCode::Pong | OpCode::Continuation => {}
                },
                None => {
                    let mut chunk = [0; 16 * 1024];
                    match self.stream.read(&mut chunk) {
                        Ok(0) => return Err(Ended::Cut),
                        Ok(n) => self.buffer.extend_from_slice(&chunk[..n]),
                        Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => return Err(Ended::Cut),
                        Err(e) => panic!("{e}; seen {:?}", self.aside),
                    }
                }
            }
        }
    }

    /// Reads until the connection ends; returns how, and the `bye` if one came.
    pub fn ended(&mut self) -> (Ended, Option<Value>) {
        let mut bye = self.aside.iter().rev().find(|f| f.get("bye").is_some()).map(|f| f["bye"].clone());
        loop {
            match self.next() {
                Ok(frame) if frame.get("bye").is_some() => bye = Some(frame["bye"].clone()),
                Ok(frame) => self.aside.push(frame),
                Err(ended) => return (ended, bye),
            }
        }
    }
}

/// Waits for a condition.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Sends a signal by the `kill` program, as an operator would.
pub fn signal(pid: u32, name: &str) {
    let status = std::process::Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status();
    assert!(status.expect("kill runs").success());
}
