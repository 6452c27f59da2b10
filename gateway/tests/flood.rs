//! Strangers at the door do not disturb those inside.

mod support;

use support::{Client, Node, eventually, http};
use tokio::io::AsyncWriteExt as _;

#[tokio::test]
async fn half_open_connections_do_not_disturb_established_ones() {
    let node = Node::start(|config| {
        config.handshake.half_open_max = 50;
        config.handshake.deadline_ms = 1_500;
    })
    .await;
    let mut inside = node.join("alice").await;
    let mut strangers = Vec::new();
    for _ in 0..50 {
        let mut stranger = support::wire::connect(node.addrs.client).await;
        stranger.write_all(b"GET /api/v1/ws HTTP/1.1\r\nHost: x\r\nX-Slow: ").await.expect("sent");
        strangers.push(stranger);
    }
    while node.metric("tidegate_gateway_half_open").await < 50.0 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    // Newcomers are told so, those inside are served.
    let request = http::upgrade(node.addrs.client, "/api/v1/ws?uid=bob", &[]);
    if support::wire::is_tls() {
        // Before a handshake there is no way to say it.
        let stranger = tokio::net::TcpStream::connect(node.addrs.client).await.expect("connects");
        support::wire::shake_hands(stranger, support::wire::trusted()).await.map(drop).expect_err("closed");
    } else {
        assert_eq!(http::status(node.addrs.client, &request).await, 503);
    }
    node.control.push("u:alice", &["served"]);
    assert_eq!(inside.await_key("batch").await["messages"][0]["content"], "served");
    inside.send_text(r#"{"id":1,"ping":{}}"#).await;
    assert_eq!(inside.json().await["id"], 1);
    // The deadline frees the door.
    while node.metric("tidegate_gateway_half_open").await > 0.0 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    drop(node.join("bob").await);
}

#[tokio::test]
async fn a_full_node_refuses_in_http() {
    let node = Node::start(|config| config.limits.connections_max = 2).await;
    let (first, _second) = (node.join("a").await, node.join("b").await);
    let request = http::upgrade(node.addrs.client, "/api/v1/ws?uid=c", &[]);
    assert_eq!(http::status(node.addrs.client, &request).await, 503);
    // A client that authenticates in band hears it as a close code that says to come back.
    let mut late = Client::open(node.addrs.client, "/api/v1/ws?uid=c&defer=1", &[]).await;
    late.send_text(r#"{"id":1,"connect":{}}"#).await;
    assert_eq!(late.next().await, support::Seen::Close(3004));
    drop(first);
    eventually("a place is free", || !node.control.offline().is_empty()).await;
    while node.metric("tidegate_gateway_connections").await >= 2.0 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    drop(node.join("c").await);
}
