//! What comes to the client port is judged strictly, in HTTP, before anything of the gateway is touched.

mod support;

use std::time::Duration;

use support::{Client, Node, http, read_to_end, within};
use tokio::io::AsyncWriteExt as _;

#[tokio::test]
async fn bad_requests_get_their_status() {
    let node = Node::start(|_| {}).await;
    let addr = node.addrs.client;
    let good = http::upgrade(addr, "/api/v1/ws?uid=alice", &[]);
    let head = |line: &str| format!("{line}\r\nHost: {addr}\r\n\r\n");
    let table: Vec<(u16, String)> = vec![
        (101, good.clone()),
        (404, head("GET / HTTP/1.1")),
        (404, head("POST /nothing HTTP/1.1")),
        (405, good.replace("GET", "PUT")),
        (426, head("GET /api/v1/ws HTTP/1.1")),
        (426, good.replace("Version: 13", "Version: 7")),
        (400, good.replace("Connection: Upgrade", "Connection: close")),
        (400, good.replace(support::WEBSOCKET_KEY, "c2hvcnQ=")),
        (400, good.replace("HTTP/1.1", "HTTP/1.0")),
        (400, good.replace("\r\n", "\n")),
        (400, good.replace("Upgrade: websocket\r\n", "Upgrade: websocket\r\n folded\r\n")),
        (400, good.replace("Upgrade: websocket\r\n", "Upgrade: websocket\rX: y\r\n")),
        (400, http::upgrade(addr, "/api/v1/ws?uid=alice", &["Host: other"])),
        (400, http::upgrade(addr, "/api/v1/ws?uid=alice", &["Content-Length: 4"])),
        (400, http::upgrade(addr, "/api/v1/ws?uid=alice", &["Transfer-Encoding: chunked"])),
        (400, http::upgrade(addr, "/api/v1/ws?uid=al%2", &[])),
        (400, http::upgrade(addr, "/api/v1/ws?uid=a%0d%0ab", &[])),
        (400, http::upgrade(addr, "/api/v1/ws?uid=alice", &["Sec-WebSocket-Protocol: soap"])),
        (414, format!("GET /{} HTTP/1.1\r\n", "a".repeat(9000))),
        (431, http::upgrade(addr, "/api/v1/ws", &[&format!("X: {}", "y".repeat(17_000))])),
        (431, http::upgrade(addr, "/api/v1/ws", &["X: y"; 100])),
    ];
    for (expected, request) in table {
        assert_eq!(http::status(addr, &request).await, expected, "{:.120}", request);
    }
}

#[tokio::test]
async fn a_refusal_is_json_and_names_no_input() {
    let node = Node::start(|_| {}).await;
    let request = http::upgrade(node.addrs.client, "/api/v1/ws?token=se.cr.et", &[]);
    let answer = http::exchange(node.addrs.client, request.as_bytes()).await;
    let (head, body) = answer.split_once("\r\n\r\n").expect("head and body");
    assert!(head.contains("application/json"), "{head}");
    let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
    assert_eq!(body["error"]["code"], "UNAUTHENTICATED");
    assert!(!answer.contains("se.cr.et"), "{answer}");
}

#[tokio::test]
async fn sub_protocols_are_negotiated() {
    let node = Node::start(|_| {}).await;
    let target = "/api/v1/ws?uid=alice";
    let proto = Client::open(node.addrs.client, target, &["Sec-WebSocket-Protocol: x, tidegate.v1.proto"]).await;
    assert!(proto.response.contains("Sec-WebSocket-Protocol: tidegate.v1.proto\r\n"), "{}", proto.response);
    let none = Client::open(node.addrs.client, target, &[]).await;
    assert!(!none.response.contains("Sec-WebSocket-Protocol"), "{}", none.response);
}

#[tokio::test]
async fn a_request_in_small_pieces_is_the_same_request() {
    let node = Node::start(|_| {}).await;
    let mut stream = support::wire::connect(node.addrs.client).await;
    stream.set_nodelay();
    for piece in http::upgrade(node.addrs.client, "/api/v1/ws?uid=alice", &[]).as_bytes().chunks(40) {
        stream.write_all(piece).await.expect("sent");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let head = within("the 101", http::read_head(&mut stream)).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
}

#[tokio::test]
async fn slow_heads_are_reaped_at_the_deadline() {
    let node = Node::start(|config| config.handshake.deadline_ms = 300).await;
    let mut silent = support::wire::connect(node.addrs.client).await;
    let mut slow = support::wire::connect(node.addrs.client).await;
    slow.write_all(b"GET /api/v1/ws HTTP/1.1\r\nHost: ").await.expect("sent");
    assert_eq!(read_to_end(&mut silent).await, b"");
    let answer = String::from_utf8(read_to_end(&mut slow).await).expect("text");
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    drop((silent, slow));
    while node.metric("tidegate_gateway_half_open").await > 0.0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
