//! The echo listener: the same codec, shard loop, driver and send queue, without auth.

mod support;

use fastwebsockets::OpCode;
use support::{Client, Node, RawClient, Seen, http, masked};

#[tokio::test]
async fn messages_come_back_as_they_were() {
    let node = Node::start(|_| {}).await;
    let echo = node.addrs.echo.expect("an echo listener");
    let mut client = Client::open(echo, "/", &[]).await;
    for size in [0, 1, 125, 126, 65_535, 65_536, 1 << 20] {
        let payload = vec![b'x'; size];
        client.send_frame(true, OpCode::Binary, &payload).await;
        let Seen::Binary(back) = client.next().await else { panic!("not binary") };
        assert_eq!(back, payload, "{size}");
    }
    client.send_text("grüße").await;
    assert_eq!(client.next().await, Seen::Text("grüße".into()));
}

#[tokio::test]
async fn fragments_become_one_message() {
    let node = Node::start(|_| {}).await;
    let mut client = Client::open(node.addrs.echo.expect("an echo listener"), "/", &[]).await;
    client.send_frame(false, OpCode::Text, b"one ").await;
    client.send_frame(false, OpCode::Continuation, b"two ").await;
    client.send_frame(true, OpCode::Ping, b"still there?").await;
    client.send_frame(true, OpCode::Continuation, b"three").await;
    let mut seen = client.next_any().await;
    if seen.0 == OpCode::Pong {
        assert_eq!(seen.1, b"still there?");
        seen = client.next_any().await;
    }
    assert_eq!((seen.0, seen.1.as_slice()), (OpCode::Text, b"one two three".as_slice()));
}

#[tokio::test]
async fn compression_is_negotiated_and_undone() {
    let node = Node::start(|_| {}).await;
    let echo = node.addrs.echo.expect("an echo listener");
    let offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits";
    let mut client = RawClient::open(echo, "/", &[offer]).await;
    assert!(client.response.contains("Sec-WebSocket-Extensions: permessage-deflate"), "{}", client.response);
    // "Hello" compressed, from RFC 7692 §7.2.3.1; a server may answer plain or compressed.
    let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
    client.send(&masked(0xc1, &hello)).await;
    match client.next().await {
        (0xc1, payload) => assert_eq!(payload, hello),
        (first, payload) => assert_eq!((first, payload.as_slice()), (0x81, b"Hello".as_slice())),
    }
}

#[tokio::test]
async fn violations_are_closed_with_their_code() {
    let node = Node::start(|_| {}).await;
    let echo = node.addrs.echo.expect("an echo listener");
    for (frame, code) in [
        (masked(0x83, b"x"), 1002),
        (masked(0xc1, b"x"), 1002),
        (masked(0x81, &[0xff, 0xfe]), 1007),
        (vec![0x81, 0x01, b'x'], 1002),
        ([&[0x82, 0xff][..], &(1u64 << 62).to_be_bytes(), &[0; 4]].concat(), 1009),
    ] {
        let mut client = RawClient::open(echo, "/", &[]).await;
        client.send(&frame).await;
        let (first, payload) = client.next().await;
        assert_eq!((first, &payload[..2]), (0x88, &u16::to_be_bytes(code)[..]), "{frame:x?}");
    }
    let request = http::upgrade(echo, "/api/v1/ws", &[]);
    assert_eq!(http::status(echo, &request).await, 404);
}
