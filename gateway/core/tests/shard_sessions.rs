//! Sessions: what a client says and what the shard answers by itself; how connections end.

mod shard_world;

use std::time::Duration;

use shard_world::wire::{self, BINARY, CLOSE, PING, PONG, TEXT, masked};
use shard_world::{Client, JSON, READS, World, direct, member};
use tidegate_gateway_core::client::ops::Op;
use tidegate_gateway_core::driver::CloseHow;
use tidegate_gateway_core::ids::{ConnId, StreamIdx};
use tidegate_gateway_core::messages::{ConnClass, Direct, Encoding, ToHub, ToShard};
use tidegate_gateway_core::shard::{Promoted, ShardConfig, ShardInput};
use tidegate_gateway_core::ws::DeflateParams;
use tidegate_gateway_core::ws::close::CloseCode;

fn asks(world: &mut World, client: Client, json: &str) {
    world.client_sends(client.socket, &wire::text(json));
    world.ticks(3);
}

fn last_text(world: &World, client: Client) -> String {
    world.texts(client.socket).last().cloned().unwrap_or_default()
}

/// The code of the close frame that is the last thing the client got.
fn closed_with(world: &World, socket: u32) -> Option<u16> {
    let (frames, partial) = world.received(socket);
    assert!(!partial, "half a frame before the end");
    frames.last().and_then(|frame| frame.close_code())
}

#[test]
fn a_promoted_client_is_announced_with_its_clamped_interval_and_its_early_bytes_are_read() {
    let mut world = World::quiet();
    let mut hello = world.hello("alice");
    hello.ping_interval_ms = 1_000;
    let client = world.connect_as(hello, &wire::text(r#"{"id":5,"ping":{}}"#));
    let said = world.said();
    let ToHub::Connected { hello, conn, .. } = &said[0] else { panic!("{said:?}") };
    assert_eq!((hello.uid.as_str(), hello.ping_interval_ms), ("alice", 25_000));
    assert_eq!(conn.conn, client.conn);
    world.tick();
    assert_eq!(world.texts(client.socket), [r#"{"id":5,"ok":{}}"#]);
}

#[test]
fn requests_go_to_the_hub_with_their_requester_and_ids_are_free_again_once_answered() {
    let mut world = World::quiet();
    let client = world.connect("alice");
    world.hub(member(client, 8, 0));
    world.hub(member(client, 2, 0));
    world.said();
    asks(&mut world, client, r#"{"id":1,"join":{"stream":"g:1"}}"#);
    asks(&mut world, client, r#"{"id":2,"head":{"stream":"g:1"}}"#);
    let said = world.said();
    let [
        ToHub::Request { id: 1, who, op: Op::Join { .. }, memberships, conn },
        ToHub::Request { id: 2, memberships: none, .. },
    ] = &said[..]
    else {
        panic!("{said:?}")
    };
    assert_eq!((who.uid.as_str(), &*who.device, who.class, conn.conn), ("alice", "d", JSON, client.conn));
    assert_eq!((&memberships[..], none.len()), (&[StreamIdx(2), StreamIdx(8)][..], 0));

    asks(&mut world, client, r#"{"id":1,"head":{"stream":"g:1"}}"#);
    assert!(last_text(&world, client).contains("BAD_REQUEST"), "{}", last_text(&world, client));
    assert!(world.said().is_empty());
    world.hub(ToShard::Send(Direct { finishes: Some(1), ..direct(client, "answer") }));
    world.tick();
    assert_eq!(last_text(&world, client), "answer");
    asks(&mut world, client, r#"{"id":1,"head":{"stream":"g:1"}}"#);
    assert!(matches!(world.said()[..], [ToHub::Request { id: 1, .. }]));
}

#[test]
fn the_sixty_fifth_request_in_flight_is_rate_limited() {
    let mut world = World::quiet();
    let client = world.connect("alice");
    for id in 1..=65 {
        asks(&mut world, client, &format!(r#"{{"id":{id},"head":{{"stream":"g:1"}}}}"#));
    }
    let requests = world.said().iter().filter(|item| matches!(item, ToHub::Request { .. })).count();
    assert_eq!(requests, 64);
    let refused = last_text(&world, client);
    assert!(refused.contains(r#""id":65"#) && refused.contains("RATE_LIMITED") && refused.contains("retry_after_ms"));
}

#[test]
fn what_the_gateway_does_not_know_is_answered_here() {
    let mut world = World::quiet();
    let client = world.connect("alice");
    world.said();
    asks(&mut world, client, r#"{"id":1,"presence":{"uids":["bob"]}}"#);
    assert!(last_text(&world, client).contains("UNIMPLEMENTED"));
    asks(&mut world, client, r#"{"id":2,"connect":{"device":"x"}}"#);
    assert!(last_text(&world, client).contains("BAD_REQUEST"));
    asks(&mut world, client, r#"{"id":3,"join":{"stream":"nonsense"}}"#);
    assert!(last_text(&world, client).contains("BAD_REQUEST"));
    assert!(world.said().is_empty());
}

#[test]
fn a_frame_that_cannot_be_decoded_ends_with_bye_and_3504() {
    let mut world = World::quiet();
    let client = world.connect("alice");
    world.said();
    asks(&mut world, client, "not json");
    assert!(last_text(&world, client).contains(r#""bye""#) && last_text(&world, client).contains("3504"));
    assert_eq!(closed_with(&world, client.socket), Some(3504));
    assert!(matches!(world.said()[..], [ToHub::Disconnected { .. }]));
    assert!(!world.over(client.socket), "the peer's close frame is awaited");
    world.client_sends(client.socket, &wire::close(3504));
    world.ticks(3);
    assert!(world.over(client.socket));
    assert_eq!(world.peer(client.socket, |peer| peer.closed), Some(CloseHow::Graceful));
    assert_eq!((world.stats().closes.with(CloseCode::BadRequest), world.stats().connections.value()), (1, 0));
}

#[test]
fn the_other_kind_of_message_closes_1003() {
    let mut world = World::quiet();
    let client = world.connect("alice");
    world.client_sends(client.socket, &masked(BINARY, true, b"\x08\x01"));
    world.ticks(3);
    assert_eq!(closed_with(&world, client.socket), Some(1003));
    let mut hello = world.hello("bob");
    hello.class = ConnClass { encoding: Encoding::Proto, ..JSON };
    let client = world.connect_as(hello, &wire::text("{}"));
    world.ticks(3);
    assert_eq!(closed_with(&world, client.socket), Some(1003));
}

#[test]
fn the_peers_close_is_echoed_and_the_socket_ends_gracefully() {
    let mut world = World::quiet();
    for (sent, echoed) in
        [(wire::close(1000), Some(1000)), (wire::close(4321), Some(4321)), (masked(CLOSE, true, b""), None)]
    {
        let client = world.connect("alice");
        world.hub(member(client, 1, 0));
        world.tick();
        let named = world.said().into_iter().find_map(|item| match item {
            ToHub::Connected { connection_id, .. } => Some(connection_id),
            _ => None,
        });
        // The end of the stream in the same turn must not swallow the answer.
        world.client_sends(client.socket, &sent);
        world.client_sends(client.socket, b"");
        world.ticks(3);
        assert_eq!(closed_with(&world, client.socket), echoed);
        assert_eq!(world.received(client.socket).0.last().map(|frame| frame.opcode), Some(CLOSE));
        assert!(world.over(client.socket));
        assert!(
            matches!(&world.said()[..], [ToHub::Left { streams, .. }, ToHub::Disconnected { uid, connection_id, .. }]
            if streams[..] == [StreamIdx(1)] && uid.as_str() == "alice" && Some(connection_id) == named.as_ref())
        );
    }
    assert_eq!(world.stats().closes.by_peer.value(), 3);
}

#[test]
fn a_peer_that_never_answers_our_close_is_let_go_at_the_deadline() {
    let mut world = World::quiet();
    let reads = world.connect("alice");
    let stuck = world.connect("bob");
    world.takes(stuck.socket, 0);
    for client in [reads, stuck] {
        world.hub(ToShard::Close { conn: client.conn, code: CloseCode::Replaced, reason: "newer device" });
    }
    world.ticks(3);
    assert_eq!(closed_with(&world, reads.socket), Some(3502));
    assert!(!world.over(reads.socket) && !world.over(stuck.socket));
    world.pass(Duration::from_secs(3));
    assert!(world.over(reads.socket) && world.over(stuck.socket));
    assert_eq!(world.peer(reads.socket, |peer| peer.closed), Some(CloseHow::Graceful));
    assert_eq!(world.peer(stuck.socket, |peer| peer.closed), Some(CloseHow::Abort));
    assert_eq!(world.stats().queue_bytes.value(), 0);
}

#[test]
fn protocol_errors_close_with_their_code_and_nothing_more_is_read() {
    let mut world = World::quiet();
    let client = world.connect("alice");
    world.client_sends(client.socket, b"\x81\x03abc");
    world.client_sends(client.socket, &wire::text(r#"{"id":1,"ping":{}}"#));
    world.ticks(4);
    assert_eq!(closed_with(&world, client.socket), Some(1002));
    assert!(world.over(client.socket));
    assert!(world.texts(client.socket).is_empty());
}

#[test]
fn pings_are_answered_with_their_payload() {
    let mut world = World::quiet();
    let client = world.connect("alice");
    world.client_sends(client.socket, &masked(PING, true, b"payload"));
    world.ticks(2);
    let (frames, _) = world.received(client.socket);
    assert_eq!((frames[0].opcode, &frames[0].payload[..]), (PONG, &b"payload"[..]));
}

#[test]
fn resets_and_ends_of_stream_free_the_slot_once_the_driver_is_done() {
    let mut world = World::quiet();
    let broken = world.connect("alice");
    let ended = world.connect("bob");
    for client in [broken, ended] {
        world.hub(member(client, 1, 0));
    }
    world.tick();
    world.said();
    world.peer(broken.socket, |peer| peer.resets = true);
    world.client_sends(ended.socket, b"");
    world.ticks(3);
    assert!(world.over(broken.socket) && world.over(ended.socket));
    let said = world.said();
    for client in [broken, ended] {
        let of = said.iter().filter(|item| match item {
            ToHub::Left { conn, .. } | ToHub::Disconnected { conn, .. } => conn.conn == client.conn,
            _ => panic!("{item:?}"),
        });
        assert_eq!(of.count(), 2);
    }
    let next = world.connect("carol");
    let again = [broken, ended]
        .iter()
        .any(|old| old.conn.index == next.conn.index && old.conn.generation != next.conn.generation);
    assert!(again, "{next:?}");
    // A late command for the old connection cannot reach the new one.
    world.hub(ToShard::Send(direct(broken, "for alice")));
    world.hub(ToShard::Send(direct(ended, "for bob")));
    world.ticks(2);
    assert!(world.texts(next.socket).is_empty());
}

#[test]
fn an_add_member_for_the_dead_is_answered_with_left_at_once() {
    let mut world = World::quiet();
    let client = world.connect("alice");
    world.peer(client.socket, |peer| peer.resets = true);
    world.ticks(3);
    world.said();
    world.hub(member(client, 6, 0));
    world.hub(ToShard::RemoveMember { conn: client.conn, stream: StreamIdx(6) });
    world.hub(member(Client { conn: ConnId { index: 999, generation: 0 }, ..client }, 7, 0));
    world.tick();
    let streams: Vec<StreamIdx> = world
        .said()
        .iter()
        .flat_map(|item| match item {
            ToHub::Left { streams, .. } => streams.to_vec(),
            _ => panic!("{item:?}"),
        })
        .collect();
    assert_eq!(streams, [StreamIdx(6), StreamIdx(7)]);
}

#[test]
fn full_tables_refuse_new_connections_and_leave_the_old_alone() {
    let mut world = World::new(ShardConfig { connections_max: 2, ..ShardConfig::default() }, 1);
    let first = world.connect("alice");
    world.net.borrow_mut().slots = 1;
    let hello = Box::new(world.hello("bob"));
    let socket = world.socket(READS);
    world.promote(socket, b"", Promoted::Client { hello: hello.clone(), params: None });
    world.tick();
    assert_eq!((world.stats().refused.value(), world.stats().connections.value()), (1, 1));
    world.net.borrow_mut().slots = 9;
    world.connect("bob");
    world.promote(socket, b"", Promoted::Client { hello, params: None });
    world.hub(ToShard::Send(direct(first, "still here")));
    world.tick();
    assert_eq!((world.stats().refused.value(), world.stats().connections.value()), (2, 2));
    assert_eq!(world.texts(first.socket), ["still here"]);
}

#[test]
fn an_echo_connection_gets_back_what_it_sent_in_order_however_slowly_it_reads() {
    let mut world = World::quiet();
    let socket = world.echo(1_000);
    let messages: Vec<Vec<u8>> = (0..40u8).map(|n| vec![n; 1 + usize::from(n) * 5_000]).collect();
    for message in &messages {
        for (at, part) in message.chunks(60_000).enumerate() {
            let last = (at + 1) * 60_000 >= message.len();
            world.client_sends(socket, &masked(if at == 0 { BINARY } else { 0 }, last, part));
        }
        world.tick();
    }
    world.client_sends(socket, &masked(TEXT, true, "straße".as_bytes()));
    for _ in 0..2_000 {
        world.takes(socket, 7_777);
        world.tick();
    }
    let (frames, partial) = world.received(socket);
    assert!(!partial);
    assert_eq!(frames.len(), messages.len() + 1);
    assert!(frames.iter().zip(&messages).all(|(frame, message)| frame.opcode == BINARY && frame.payload == *message));
    assert_eq!(frames.last().expect("frames").payload, "straße".as_bytes());
    assert!(world.stats().sends.gathered.value() > 0);
    assert_eq!(world.stats().queue_bytes.value(), 0);
}

#[test]
fn echo_replies_are_compressed_where_compression_was_negotiated() {
    let mut world = World::quiet();
    let socket = world.socket(READS);
    let params = Some(DeflateParams { server_max_window_bits: 10, client_max_window_bits: 15 });
    world.promote(socket, b"", Promoted::Echo { params });
    world.client_sends(socket, &wire::text(&"tide ".repeat(1_000)));
    world.client_sends(socket, &wire::text("short"));
    world.ticks(3);
    let (frames, _) = world.received(socket);
    assert_eq!(frames.iter().map(|frame| frame.compressed).collect::<Vec<_>>(), [true, true]);
    assert!(frames[0].payload.len() < 500);
    let plain = world.echo(READS);
    world.client_sends(plain, &wire::text(&"tide ".repeat(1_000)));
    world.ticks(3);
    assert!(!world.received(plain).0[0].compressed);
}

#[test]
fn an_echo_peer_that_never_reads_is_closed_far_above_two_messages() {
    let mut world = World::quiet();
    let socket = world.echo(0);
    let message = masked(BINARY, true, &vec![1; 15 << 20]);
    for _ in 0..4 {
        world.client_sends(socket, &message);
        world.ticks(2);
        assert!(!world.over(socket) && world.stats().closes.with(CloseCode::Slow) == 0);
    }
    world.client_sends(socket, &message);
    world.ticks(2);
    assert_eq!(world.stats().closes.with(CloseCode::Slow), 1);
    assert!(world.stats().queue_bytes.value() < 20 << 20, "the queue was cut off");
    world.pass(Duration::from_secs(3));
    assert!(world.over(socket));
    assert_eq!(world.stats().queue_bytes.value(), 0);
}

#[test]
fn a_client_that_asks_without_reading_is_closed_3003_and_its_begun_frame_is_finished() {
    let mut world = World::quiet();
    let client = world.connect("alice");
    world.takes(client.socket, 100);
    let page = "p".repeat(60_000);
    let pages = |world: &mut World, count| {
        for _ in 0..count {
            world.hub(ToShard::Send(direct(client, &page)));
            world.tick();
        }
    };
    pages(&mut world, 64);
    assert_eq!(world.stats().closes.with(CloseCode::Slow), 0, "a page for each request in flight has room");
    pages(&mut world, 20);
    assert_eq!(world.stats().closes.with(CloseCode::Slow), 1);
    assert!(world.stats().queue_bytes.value() < 130_000);
    world.takes(client.socket, READS);
    world.ticks(4);
    let (frames, partial) = world.received(client.socket);
    assert!(!partial);
    let kinds: Vec<u8> = frames.iter().map(|frame| frame.opcode).collect();
    assert_eq!(kinds, [TEXT, TEXT, CLOSE], "the page that had begun, bye, close");
    assert_eq!(frames[0].payload, page.as_bytes());
    assert_eq!(closed_with(&world, client.socket), Some(3003));
}

#[test]
fn a_stop_of_an_empty_shard_ends_the_loop_and_does_not_sleep() {
    let mut world = World::quiet();
    world.tick();
    assert!(std::mem::take(&mut world.net.borrow_mut().asleep), "nothing to do but wait for the doorbell");
    world.mail.inbox.push_back(ShardInput::Stop);
    assert!(!world.tick());
    assert!(!world.net.borrow().asleep);
}

#[test]
fn a_stop_ends_everything_and_the_loop() {
    let mut world = World::quiet();
    let clients: Vec<Client> = (0..5).map(|n| world.connect(&format!("u{n}"))).collect();
    for client in &clients {
        world.hub(member(*client, 1, 0));
    }
    world.takes(clients[0].socket, 0);
    world.hub(ToShard::Send(direct(clients[0], "waits")));
    world.tick();
    world.said();
    world.mail.inbox.push_back(ShardInput::Stop);
    assert!((0..4).any(|_| !world.tick()));
    let said = world.said();
    assert_eq!(said.iter().filter(|item| matches!(item, ToHub::Left { .. })).count(), 5);
    assert_eq!(said.iter().filter(|item| matches!(item, ToHub::Disconnected { .. })).count(), 5);
    assert!(clients.iter().all(|client| world.over(client.socket)));
    assert_eq!((world.stats().queue_bytes.value(), world.stats().connections.value()), (0, 0));
}
