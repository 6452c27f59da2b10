//! A drained gateway tells its clients when to come back and ends.

mod support;

use support::{Node, Seen, eventually, http};
use tokio::net::TcpStream;

#[tokio::test]
async fn clients_are_told_before_they_are_closed() {
    let mut node = Node::start(|_| {}).await;
    let (mut alice, mut bob) = (node.join("alice").await, node.join("bob").await);
    let listening = async |client: &mut support::Client| {
        let bye = client.await_key("bye").await;
        assert_eq!((&bye["code"], &bye["reconnect"]), (&serde_json::json!(3001), &serde_json::json!(true)), "{bye}");
        assert!(bye["reconnect_after_ms"].as_u64().is_some(), "{bye}");
        assert_eq!(client.next().await, Seen::Close(3001));
    };
    let addr = node.addrs.client;
    tokio::join!(node.drain(), listening(&mut alice), listening(&mut bob));
    assert!(TcpStream::connect(addr).await.is_err(), "nobody listens any more");
    eventually("both are reported offline", || node.control.offline().len() == 2).await;
}

#[tokio::test]
async fn a_client_that_does_not_answer_does_not_hold_the_drain() {
    let mut node = Node::start(|_| {}).await;
    let mut silent = support::wire::connect(node.addrs.client).await;
    tokio::io::AsyncWriteExt::write_all(
        &mut silent,
        http::upgrade(node.addrs.client, "/api/v1/ws?uid=alice", &[]).as_bytes(),
    )
    .await
    .expect("sent");
    assert!(http::read_head(&mut silent).await.starts_with("HTTP/1.1 101 "));
    support::within("the drain ends", node.drain()).await;
}
