//! TLS from a client's side: whatever the listener is shown, those inside are not disturbed, and certificates are replaced
//! under them.

mod support;

use std::time::Duration;

use serde_json::json;
use support::wire::{self, Wire, shake_hands, trusted};
use support::{Client, DEADLINE, Node, Seen, eventually, http, read_to_end};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::rustls::ProtocolVersion;

async fn join(node: &Node, uid: &str) -> Client {
    let tls = node.addrs.tls.expect("a listener");
    let mut client = Client::open(tls, &format!("/api/v1/ws?uid={uid}"), &[]).await;
    assert_eq!(client.json().await["welcome"]["uid"], uid);
    client
}

#[tokio::test]
async fn plain_and_tls_listeners_serve_the_same_streams() {
    let node = Node::start(|_| {}).await;
    let (mut secure, mut other) = (join(&node, "alice").await, node.join("alice").await);
    node.control.push("u:alice", &["hello"]);
    for client in [&mut secure, &mut other] {
        assert_eq!(client.await_key("batch").await["messages"][0]["content"], "hello");
    }
    secure.send_text(r#"{"id":1,"join":{"stream":"g:room"}}"#).await;
    assert_eq!(secure.await_key("ok").await["stream"], "g:room");
    assert!(node.metric("tidegate_gateway_tls_connections").await >= 1.0);
    assert!(node.metric("tidegate_gateway_tls_sessions_total{version=\"1.3\",resumed=\"no\"}").await >= 1.0);
    drop(secure);
    drop(other);
    while node.metric("tidegate_gateway_tls_connections").await > 0.0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn large_messages_come_back_through_many_records() {
    let node = Node::start(|_| {}).await;
    let mut client = Client::open(node.addrs.tls_echo.expect("a listener"), "/", &[]).await;
    for size in [1, 16_383, 16_384, 16_385, 1 << 20] {
        let payload = vec![b'x'; size];
        client.send_frame(true, fastwebsockets::OpCode::Binary, &payload).await;
        assert!(client.next().await == Seen::Binary(payload), "{size}");
    }
}

#[tokio::test]
async fn what_is_not_tls_is_closed_and_counted() {
    let node = Node::start(|config| config.handshake.deadline_ms = 500).await;
    let tls = node.addrs.tls.expect("a listener");
    let mut inside = join(&node, "alice").await;
    let request = http::upgrade(tls, "/api/v1/ws?uid=bob", &[]);
    for bytes in [request.as_bytes(), &[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0], &[0xff; 4000], b"PROXY TCP4 1 2 3 4\r\n"] {
        let mut wire = Wire::Plain(TcpStream::connect(tls).await.expect("connects"));
        wire.write_all(bytes).await.expect("sent");
        let answer = read_to_end(&mut wire).await;
        // An alert, or nothing.
        assert!(answer.first().is_none_or(|first| *first == 21), "{answer:x?}");
    }
    let mut silent = Wire::Plain(TcpStream::connect(tls).await.expect("connects"));
    assert_eq!(read_to_end(&mut silent).await, b"");
    assert!(node.metric("tidegate_gateway_handshakes_total{result=\"tls\"}").await >= 3.0);
    assert!(node.metric("tidegate_gateway_handshakes_total{result=\"timeout\"}").await >= 1.0);
    while node.metric("tidegate_gateway_half_open").await > 0.0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    node.control.push("u:alice", &["served"]);
    assert_eq!(inside.await_key("batch").await["messages"][0]["content"], "served");
}

#[tokio::test]
async fn garbage_after_the_handshake_ends_one_connection_alone() {
    let node = Node::start(|_| {}).await;
    let mut inside = join(&node, "alice").await;
    let tls = node.addrs.tls.expect("a listener");
    let stream = TcpStream::connect(tls).await.expect("connects");
    let mut secure = shake_hands(stream, trusted()).await.expect("a session");
    secure.write_all(http::upgrade(tls, "/api/v1/ws?uid=mallory", &[]).as_bytes()).await.expect("sent");
    let mut head = [0; 12];
    secure.read_exact(&mut head).await.expect("an answer");
    assert_eq!(&head, b"HTTP/1.1 101");
    let (mut bare, _) = secure.into_inner();
    bare.write_all(&[0x17, 3, 3, 0, 40, 1, 2, 3]).await.expect("sent");
    bare.write_all(&[9; 100]).await.expect("sent");
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(DEADLINE, bare.read_to_end(&mut rest)).await.expect("it is closed");
    assert!(node.metric("tidegate_gateway_tls_broken_total").await >= 1.0);
    inside.send_text(r#"{"id":1,"ping":{}}"#).await;
    assert_eq!(inside.json().await["id"], 1);
}

#[tokio::test]
async fn a_certificate_is_replaced_under_its_connections() {
    let folder = tempfile::tempdir().expect("tempdir");
    let old = wire::make();
    let pair = wire::write(folder.path(), &old);
    let node = Node::start(|config| config.tls.certificates = vec![pair]).await;
    let tls = node.addrs.tls.expect("a listener");
    let open = async |trusted: &rcgen::CertifiedKey<rcgen::KeyPair>| {
        let stream = TcpStream::connect(tls).await.expect("connects");
        shake_hands(stream, trusted.cert.der().clone()).await
    };
    let mut standing = open(&old).await.expect("a session");
    assert_eq!(standing.get_ref().1.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    standing.write_all(http::upgrade(tls, "/api/v1/ws?uid=alice", &[]).as_bytes()).await.expect("sent");
    // Files that do not fit change nothing.
    std::fs::write(folder.path().join("tls.key"), "no key").expect("written");
    while node.metric("tidegate_gateway_tls_reloads_total{result=\"failed\"}").await < 1.0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    open(&old).await.map(drop).expect("the old one is still in use");
    let new = wire::make();
    wire::write(folder.path(), &new);
    node.gateway.as_ref().expect("runs").reload();
    while node.metric("tidegate_gateway_tls_reloads_total{result=\"ok\"}").await < 1.0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    open(&new).await.map(drop).expect("the new one is in use");
    open(&old).await.map(drop).expect_err("the old one is not");
    node.control.push("u:alice", &["still here"]);
    let mut seen = Vec::new();
    let mut chunk = [0; 4096];
    while !String::from_utf8_lossy(&seen).contains("still here") {
        let read = support::within("bytes", standing.read(&mut chunk)).await.expect("readable");
        assert_ne!(read, 0, "the connection was closed");
        seen.extend_from_slice(&chunk[..read]);
    }
}

#[tokio::test]
async fn a_drain_says_goodbye_in_tls_too() {
    let mut node = Node::start(|_| {}).await;
    let mut alice = join(&node, "alice").await;
    let listening = async {
        assert_eq!(alice.await_key("bye").await["code"], json!(3001));
        assert_eq!(alice.next().await, Seen::Close(3001));
        assert_eq!(alice.next().await, Seen::Eof);
    };
    tokio::join!(node.drain(), listening);
    eventually("alice is reported offline", || !node.control.offline().is_empty()).await;
}
