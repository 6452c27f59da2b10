//! What control delivers reaches clients that only a reference implementation knows how to read.

mod support;

use prost::Message as _;
use serde_json::json;
use support::{Client, Node, Seen, eventually};
use tidegate_proto::v1;

#[tokio::test]
async fn a_reference_client_receives_batches_in_order() {
    let node = Node::start(|_| {}).await;
    let mut client = node.join("alice").await;
    node.control.push("u:alice", &["one"]);
    node.control.push("u:alice", &["two", "three"]);
    let mut last = 0;
    let mut contents = Vec::new();
    while last < 3 {
        let batch = client.await_key("batch").await;
        assert_eq!(batch["after"], json!(last), "{batch}");
        last = batch["upto"].as_u64().expect("upto");
        let messages = batch["messages"].as_array().expect("messages");
        contents.extend(messages.iter().map(|message| message["content"].as_str().expect("content").to_owned()));
    }
    assert_eq!(contents, ["one", "two", "three"]);
    assert!(node.metric("tidegate_gateway_deliveries_total{class=\"durable\"}").await >= 3.0);
}

#[tokio::test]
async fn both_sub_protocols_carry_the_same_stream() {
    let node = Node::start(|_| {}).await;
    let target = "/api/v1/ws?uid=alice";
    let mut proto = Client::open(node.addrs.client, target, &["Sec-WebSocket-Protocol: tidegate.v1.proto"]).await;
    let welcome = server_frame(proto.next().await);
    assert!(matches!(welcome, v1::server_frame::Body::Welcome(session) if session.uid == "alice"));
    let mut json = node.join("alice").await;
    node.control.push("u:alice", &["hello"]);
    let v1::server_frame::Body::Batch(batch) = server_frame(proto.next().await) else { panic!("no batch") };
    assert_eq!((batch.stream.as_str(), batch.messages[0].content.as_str()), ("u:alice", "hello"));
    assert_eq!(json.await_key("batch").await["messages"][0]["content"], "hello");
}

#[tokio::test]
async fn a_send_is_answered_and_comes_back_to_the_group() {
    let node = Node::start(|_| {}).await;
    let (mut alice, mut bob) = (node.join("alice").await, node.join("bob").await);
    for client in [&mut alice, &mut bob] {
        client.send_text(r#"{"id":1,"join":{"stream":"g:room"}}"#).await;
        assert_eq!(client.await_key("ok").await["stream"], "g:room");
    }
    let send = r#"{"id":2,"send":{"to":"g:room","client_msg_id":"c-1","type":"text","content":"hi"}}"#;
    alice.send_text(send).await;
    let batch = bob.await_key("batch").await;
    assert_eq!(
        (&batch["messages"][0]["from"], &batch["messages"][0]["client_msg_id"]),
        (&json!("alice"), &json!("c-1"))
    );
    let mut answered = false;
    let mut received = false;
    while !(answered && received) {
        let frame = alice.json().await;
        answered |= frame["id"] == 2 && frame["ok"]["seq"] == 1;
        received |= frame["batch"]["upto"] == 1;
    }
}

#[tokio::test]
async fn cursors_in_the_query_recover_what_was_missed() {
    let node = Node::start(|_| {}).await;
    node.control.push("u:alice", &["one", "two", "three"]);
    let target = "/api/v1/ws?uid=alice&cursors=%7B%22u:alice%22:%7B%22epoch%22:%22e1%22,%22seq%22:1%7D%7D";
    let mut client = Client::open(node.addrs.client, target, &[]).await;
    let welcome = client.await_key("welcome").await;
    assert_eq!(welcome["streams"][0]["recovered"], "full", "{welcome}");
    let batch = client.await_key("batch").await;
    assert_eq!((&batch["after"], &batch["upto"]), (&json!(1), &json!(3)), "{batch}");
}

#[tokio::test]
async fn a_closed_connection_is_reported_gone() {
    let node = Node::start(|_| {}).await;
    let client = node.join("alice").await;
    eventually("alice is online", || node.control.online().len() == 1).await;
    drop(client);
    eventually("alice is offline", || node.control.offline().len() == 1).await;
    let (online, offline) = (node.control.online(), node.control.offline());
    assert_eq!(online[0].connection_id, offline[0].connection_id);
}

#[tokio::test]
async fn a_cut_link_comes_back_and_nothing_is_missed() {
    let node = Node::start(|_| {}).await;
    let mut client = node.join("alice").await;
    node.control.push("u:alice", &["one"]);
    assert_eq!(client.await_key("batch").await["upto"], 1);
    node.control.cut();
    node.control.push("u:alice", &["two"]);
    eventually("a second attachment", || node.control.attachments() == 2).await;
    let hellos = node.control.hellos();
    assert_eq!(hellos[0].incarnation, hellos[1].incarnation);
    // What is pushed after the gateway has announced its interest shows it the hole.
    eventually("the interest is announced", || node.control.interested("u:alice")).await;
    node.control.push("u:alice", &["three"]);
    let mut last = 1;
    while last < 3 {
        let batch = client.await_key("batch").await;
        assert_eq!(batch["after"], json!(last), "{batch}");
        last = batch["upto"].as_u64().expect("upto");
    }
}

#[tokio::test]
async fn an_invalid_item_ends_the_attachment_and_nothing_else() {
    let node = Node::start(|_| {}).await;
    let mut client = node.join("alice").await;
    let nonsense = v1::LinkDeliver { stream: "nonsense".into(), epoch: "e".into(), ..Default::default() };
    node.control.send(v1::link_down_item::Item::Deliver(nonsense));
    eventually("a second attachment", || node.control.attachments() == 2).await;
    eventually("the interest is announced", || node.control.interested("u:alice")).await;
    node.control.push("u:alice", &["still here"]);
    assert_eq!(client.await_key("batch").await["messages"][0]["content"], "still here");
}

fn server_frame(seen: Seen) -> v1::server_frame::Body {
    let Seen::Binary(bytes) = seen else { panic!("expected a binary frame, saw {seen:?}") };
    v1::ServerFrame::decode(bytes.as_slice()).expect("decodes").body.expect("a body")
}
