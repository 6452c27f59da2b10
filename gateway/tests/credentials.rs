//! Who may connect: by token in the handshake, by token in the first frame, or in development by name.

mod support;

use serde_json::json;
use support::{Client, Node, Seen, eventually, expired_token, http, masked, token};

async fn status(node: &Node, target: &str, fields: &[&str]) -> u16 {
    http::status(node.addrs.client, &http::upgrade(node.addrs.client, target, fields)).await
}

#[tokio::test]
async fn a_good_token_opens_a_session() {
    let node = Node::start(|config| config.auth.dev = false).await;
    let bearer = format!("Authorization: Bearer {}", token("bob", 60));
    let mut client = Client::open(node.addrs.client, "/api/v1/ws", &[&bearer]).await;
    let welcome = client.await_key("welcome").await;
    assert_eq!(welcome["uid"], "bob");
    assert_eq!(welcome["gateway"], "dev");
    assert!(welcome["session_expires_ms"].as_i64().is_some(), "{welcome}");
    let query = format!("/api/v1/ws?token={}&device=d1&platform=pc", token("carol", 60));
    let mut client = Client::open(node.addrs.client, &query, &[]).await;
    assert_eq!(client.await_key("welcome").await["uid"], "carol");
    eventually("carol is online", || node.control.online().iter().any(|connection| connection.uid == "carol")).await;
    let online = node.control.online();
    let carol = online.iter().find(|connection| connection.uid == "carol").expect("online");
    assert_eq!((carol.device.as_str(), carol.platform.as_str()), ("d1", "pc"));
}

#[tokio::test]
async fn bad_tokens_are_refused_in_http() {
    let node = Node::start(|config| config.auth.dev = false).await;
    let forged = format!("{}x", token("bob", 60));
    for bad in [expired_token("bob").as_str(), forged.as_str(), "a.b.c", "none"] {
        assert_eq!(status(&node, &format!("/api/v1/ws?token={bad}"), &[]).await, 401);
        let bearer = format!("Authorization: Bearer {bad}");
        assert_eq!(status(&node, "/api/v1/ws", &[&bearer]).await, 401);
    }
    assert_eq!(status(&node, "/api/v1/ws?uid=alice", &[]).await, 401, "no development auth here");
}

#[tokio::test]
async fn a_connect_frame_brings_the_token_in_band() {
    let node = Node::start(|config| config.auth.dev = false).await;
    let mut client = Client::open(node.addrs.client, "/api/v1/ws", &[]).await;
    let connect = json!({"id": 7, "connect": {"token": token("bob", 60), "device": "web-1", "platform": "web"}});
    client.send_text(&connect.to_string()).await;
    let answer = client.json().await;
    assert_eq!((&answer["id"], &answer["ok"]["uid"]), (&json!(7), &json!("bob")), "{answer}");
    // What follows in the same write is the session's.
    client.send_text(r#"{"id":8,"ping":{}}"#).await;
    assert_eq!(client.json().await["id"], 8);
}

#[tokio::test]
async fn frames_that_follow_the_connect_at_once_are_not_lost() {
    use tokio::io::AsyncWriteExt as _;
    let node = Node::start(|_| {}).await;
    let mut stream = support::wire::connect(node.addrs.client).await;
    let connect = json!({"id": 1, "connect": {"token": token("bob", 60)}}).to_string();
    let mut bytes = http::upgrade(node.addrs.client, "/api/v1/ws", &[]).into_bytes();
    bytes.extend(masked(0x81, connect.as_bytes()));
    bytes.extend(masked(0x81, br#"{"id":2,"ping":{}}"#));
    stream.write_all(&bytes).await.expect("sent");
    let head = http::read_head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let mut socket = fastwebsockets::WebSocket::after_handshake(stream, fastwebsockets::Role::Client);
    let mut ids = Vec::new();
    while ids.len() < 2 {
        let frame = support::within("a frame", socket.read_frame()).await.expect("a frame");
        let frame: serde_json::Value = serde_json::from_slice(&frame.payload).expect("JSON");
        ids.extend(frame["id"].as_u64());
    }
    ids.sort_unstable();
    assert_eq!(ids, [1, 2]);
}

#[tokio::test]
async fn bad_first_frames_are_told_why_and_closed() {
    let node = Node::start(|config| config.auth.dev = false).await;
    let expired = json!({"id": 3, "connect": {"token": expired_token("bob")}}).to_string();
    let cases = [
        (json!({"id": 3, "connect": {"token": "a.b.c"}}).to_string(), "UNAUTHENTICATED", 3500),
        (expired, "UNAUTHENTICATED", 3501),
        (json!({"id": 3, "connect": {}}).to_string(), "UNAUTHENTICATED", 3500),
        (json!({"id": 3, "ping": {}}).to_string(), "UNAUTHENTICATED", 3500),
        (json!({"id": 3, "connect": {"token": 5}}).to_string(), "BAD_REQUEST", 3504),
    ];
    for (frame, code, close) in cases {
        let mut client = Client::open(node.addrs.client, "/api/v1/ws", &[]).await;
        client.send_text(&frame).await;
        let answer = client.json().await;
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(3), &json!(code)), "{frame}");
        assert_eq!(client.next().await, Seen::Close(close), "{frame}");
    }
    let mut client = Client::open(node.addrs.client, "/api/v1/ws", &[]).await;
    client.send_text("not json").await;
    assert_eq!(client.next().await, Seen::Close(3504));
}

#[tokio::test]
async fn a_silent_client_is_closed() {
    let node = Node::start(|config| config.handshake.first_frame_ms = 200).await;
    let mut client = Client::open(node.addrs.client, "/api/v1/ws", &[]).await;
    assert_eq!(client.next().await, Seen::Close(3500));
    // With a credential it may come back.
    let mut client = Client::open(node.addrs.client, "/api/v1/ws?uid=alice&defer=1", &[]).await;
    assert_eq!(client.next().await, Seen::Close(3005));
}

#[tokio::test]
async fn a_deferred_connect_brings_cursors() {
    let node = Node::start(|_| {}).await;
    node.control.push("g:room", &["one", "two", "three"]);
    let mut client = Client::open(node.addrs.client, "/api/v1/ws?uid=alice&defer=1", &[]).await;
    let connect = json!({"id": 1, "connect": {"cursors": {"g:room": {"epoch": "e1", "seq": 1}}, "auto_join": false}});
    client.send_text(&connect.to_string()).await;
    let session = client.await_key("ok").await;
    assert_eq!(session["streams"][0]["stream"], "g:room", "{session}");
    let batch = client.await_key("batch").await;
    assert_eq!((&batch["after"], &batch["upto"]), (&json!(1), &json!(3)), "{batch}");
}

#[tokio::test]
async fn development_auth_is_for_this_machine_only() {
    let node = Node::start(|_| {}).await;
    let port = node.addrs.client.port();
    let target = "/api/v1/ws?uid=alice";
    assert_eq!(status(&node, target, &[&format!("Origin: http://localhost:{port}")]).await, 101);
    assert_eq!(status(&node, target, &["Origin: http://localhost:8090"]).await, 101);
    assert_eq!(status(&node, target, &["Origin: http://evil.example"]).await, 403);
    assert_eq!(status(&node, target, &["Origin: null"]).await, 403);
    assert_eq!(status(&node, target, &["X-Forwarded-For: 10.0.0.1"]).await, 401);
    assert_eq!(status(&node, target, &["Forwarded: for=10.0.0.1"]).await, 401);
    let rebound = http::upgrade(node.addrs.client, target, &[]).replace(&node.addrs.client.to_string(), "evil.example");
    assert_eq!(http::status(node.addrs.client, &rebound).await, 401);
}
