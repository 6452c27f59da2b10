//! HTTP by hand: a test must be able to send what no library would.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::wire::{self, Wire};
use super::{WEBSOCKET_KEY, read_to_end, within};

/// A good upgrade request with further header fields.
pub fn upgrade(addr: SocketAddr, target: &str, fields: &[&str]) -> String {
    let extra: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
    format!(
        "GET {target} HTTP/1.1\r\nHost: {addr}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {WEBSOCKET_KEY}\r\n{extra}\r\n"
    )
}

/// Sends bytes and returns everything that comes back until the peer closes.
pub async fn exchange(addr: SocketAddr, request: &[u8]) -> String {
    let mut stream = wire::connect(addr).await;
    stream.write_all(request).await.expect("request sent");
    String::from_utf8(read_to_end(&mut stream).await).expect("text")
}

/// Sends bytes and returns the status of the answer; 101 leaves the connection to be dropped.
pub async fn status(addr: SocketAddr, request: &str) -> u16 {
    let mut stream = wire::connect(addr).await;
    stream.write_all(request.as_bytes()).await.expect("request sent");
    let head = within("an answer", read_head(&mut stream)).await;
    head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("no status in {head:?}"))
}

pub async fn get(addr: SocketAddr, path: &str) -> (u16, String) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    let answer = exchange(addr, request.as_bytes()).await;
    let (head, body) = answer.split_once("\r\n\r\n").expect("a response");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    (status, body.to_owned())
}

/// Reads up to the empty line and not a byte further.
pub async fn read_head(stream: &mut Wire) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(head).expect("text")
}
