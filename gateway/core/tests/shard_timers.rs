//! Heartbeats, expiry, drain, and reports of `ack_mode=sent`.

mod shard_world;

use std::time::Duration;

use shard_world::wire::{CLOSE, PING, PONG, masked, text};
use shard_world::{Client, JSON, READS, World, batch, direct, member};
use tidegate_gateway_core::client::ops::AckMode;
use tidegate_gateway_core::ids::{Seq, StreamIdx};
use tidegate_gateway_core::messages::{Direct, ToHub, ToShard};
use tidegate_gateway_core::shard::{Promoted, ShardInput};
use tidegate_gateway_core::ws::close::CloseCode;

fn pings(world: &World, client: Client) -> usize {
    world.received(client.socket).0.iter().filter(|frame| frame.opcode == PING).count()
}

fn closed_with(world: &World, client: Client) -> Option<u16> {
    world.received(client.socket).0.last().and_then(|frame| frame.close_code())
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn a_silent_client_is_pinged_after_an_interval_and_let_go_after_two() {
    let mut world = World::quiet();
    let silent = world.connect("alice");
    world.pass(seconds(58));
    assert_eq!(pings(&world, silent), 0);
    world.pass(seconds(18));
    assert_eq!(pings(&world, silent), 1);
    world.pass(seconds(42));
    assert_eq!((pings(&world, silent), closed_with(&world, silent)), (1, None));
    world.pass(seconds(4));
    assert_eq!(closed_with(&world, silent), Some(3005));
    assert!(world.texts(silent.socket)[0].contains(r#""bye""#));
    assert_eq!(world.stats().closes.with(CloseCode::HeartbeatLost), 1);
}

#[test]
fn any_received_byte_is_life_and_what_we_send_is_none() {
    let mut world = World::quiet();
    let (answers, half_frames, listens) = (world.connect("alice"), world.connect("bob"), world.connect("carol"));
    for client in [answers, half_frames, listens] {
        world.hub(member(client, 1, 0));
    }
    let message = text(r#"{"id":1,"ping":{}}"#);
    for n in 0..25 {
        world.hub(batch(1, n, 10));
        if pings(&world, answers) > 0 {
            world.client_sends(answers.socket, &masked(PONG, true, b""));
        }
        world.client_sends(half_frames.socket, &message[n as usize % message.len()..][..1]);
        world.pass(seconds(10));
    }
    assert_eq!((closed_with(&world, answers), closed_with(&world, half_frames)), (None, None));
    assert!(pings(&world, half_frames) == 0 && pings(&world, answers) == 1);
    assert_eq!(closed_with(&world, listens), Some(3005));
}

#[test]
fn pings_of_clients_that_came_together_are_spread() {
    let mut world = World::quiet();
    let clients: Vec<Client> = (0..200).map(|n| world.connect(&format!("u{n}"))).collect();
    let mut most = 0;
    for _ in 0..80 {
        let before = world.stats().pings.value();
        world.pass(seconds(1));
        most = most.max(world.stats().pings.value() - before);
    }
    assert!(clients.iter().all(|client| pings(&world, *client) == 1));
    assert!(most < 50, "{most} of 200 pings in one second");
}

#[test]
fn a_token_that_ends_is_announced_and_closes_3501() {
    let mut world = World::quiet();
    let mut hello = world.hello("alice");
    hello.expires_in_ms = Some(100_000);
    let client = world.connect_as(hello, b"");
    for _ in 0..45 {
        world.client_sends(client.socket, &masked(PONG, true, b""));
        world.pass(seconds(1));
    }
    let told = world.texts(client.socket);
    assert!(told.len() == 1 && told[0].contains("expiring"), "{told:?}");
    for _ in 0..54 {
        world.client_sends(client.socket, &masked(PONG, true, b""));
        world.pass(seconds(1));
    }
    assert_eq!(closed_with(&world, client), None);
    world.pass(seconds(2));
    assert_eq!(closed_with(&world, client), Some(3501));
    assert!(world.texts(client.socket).last().expect("bye").contains(r#""reconnect":false"#));
}

#[test]
fn a_drain_lets_connections_go_evenly_and_sends_newcomers_away() {
    let mut world = World::quiet();
    let clients: Vec<Client> = (0..100).map(|n| world.connect(&format!("u{n}"))).collect();
    world.said();
    world.mail.inbox.push_back(ShardInput::Drain { over_ms: 10_000 });
    let gone = |world: &World| world.stats().closes.with(CloseCode::Drain);
    for part in 1..=4 {
        world.pass(Duration::from_millis(2_500));
        assert!(gone(&world).abs_diff(part * 25) <= 2, "{} after {part} quarters", gone(&world));
    }
    world.pass(Duration::from_millis(250));
    assert_eq!(gone(&world), 100);
    let newcomer = world.socket(READS);
    let hello = Box::new(world.hello("late"));
    world.promote(newcomer, b"", Promoted::Client { hello, params: None });
    world.ticks(3);
    let mut delays = Vec::new();
    for socket in clients.iter().map(|client| client.socket).chain([newcomer]) {
        let texts = world.texts(socket);
        assert!(texts.len() == 1, "{texts:?}");
        assert!(texts[0].contains(r#""code":3001"#) && texts[0].contains(r#""reconnect":true"#));
        delays.push(texts[0].split("reconnect_after_ms\":").nth(1).expect("a delay").to_owned());
        assert_eq!(world.received(socket).0.last().map(|frame| frame.opcode), Some(CLOSE));
    }
    delays.sort();
    delays.dedup();
    assert!(delays.len() > 50, "spread");
    assert!(!world.said().iter().any(|item| matches!(item, ToHub::Connected { .. })));
    world.pass(seconds(3));
    assert_eq!(world.stats().connections.value(), 0);
}

/// In one turn: the hub learns that nobody can say what happened, and control's answer to a join comes after it.
#[test]
fn who_has_to_come_back_hears_nothing_of_the_streams_that_follow() {
    let mut world = World::quiet();
    let old: Vec<Client> = (0..1_500).map(|n| world.connect(&format!("u{n}"))).collect();
    old.iter().for_each(|client| world.hub(member(*client, 1, 0)));
    world.ticks(1);
    world.hub(ToShard::Reopen);
    for client in &old {
        world.hub(ToShard::Send(direct(*client, "an answer")));
        world.hub(member(*client, 2, 0));
    }
    world.ticks(20);
    for client in &old {
        let texts = world.texts(client.socket);
        assert!(texts.len() == 1 && texts[0].contains(r#""code":3000"#), "{texts:?}");
    }
    let lefts = world.said().into_iter().filter(|item| matches!(item, ToHub::Left { .. })).count();
    assert_eq!(lefts, 2 * old.len(), "the hub counts nobody twice, and nobody too few");
    let newcomer = world.connect("late");
    world.hub(ToShard::Send(direct(newcomer, "hello")));
    world.ticks(3);
    assert_eq!(world.texts(newcomer.socket), ["hello"], "those who come meanwhile stay");
}

/// The rest of them goes first, and at once: a drain that takes long must not keep them.
#[test]
fn a_drain_does_not_keep_those_who_have_to_come_back() {
    let mut world = World::quiet();
    let old: Vec<Client> = (0..1_500).map(|n| world.connect(&format!("u{n}"))).collect();
    world.hub(ToShard::Reopen);
    world.ticks(1);
    let newcomer = world.connect("late");
    world.mail.inbox.push_back(ShardInput::Drain { over_ms: 3_600_000 });
    world.ticks(20);
    let gone = old.iter().filter(|client| !world.texts(client.socket).is_empty()).count();
    assert_eq!((gone, world.texts(newcomer.socket).len()), (1_500, 0));
}

fn reports(world: &mut World) -> Vec<(StreamIdx, Seq)> {
    let said = world.said();
    said.iter()
        .filter_map(|item| match item {
            ToHub::Sent { stream, upto, who } => {
                assert_eq!(who.uid.as_str(), "alice");
                Some((*stream, *upto))
            }
            _ => None,
        })
        .collect()
}

#[test]
fn what_went_into_the_socket_is_reported_at_most_once_a_second_where_asked() {
    let mut world = World::quiet();
    let mut hello = world.hello("alice");
    hello.ack_mode = AckMode::Sent;
    let client = world.connect_as(hello, b"");
    let plain = world.connect("bob");
    let inbox = |client: Client, stream| ToShard::AddMember {
        conn: client.conn,
        stream: StreamIdx(stream),
        flushed: Seq(5),
        gapped: false,
        class: JSON,
        inbox: true,
    };
    world.hub(ToShard::Send(Direct { recovers: Some(StreamIdx(1)), ..direct(client, "page up to 5") }));
    world.hub(inbox(client, 1));
    world.hub(inbox(plain, 2));
    world.pass(seconds(2));
    assert_eq!(reports(&mut world), [(StreamIdx(1), Seq(5))]);
    world.pass(seconds(5));
    assert_eq!(reports(&mut world), []);
    for after in 5..25 {
        world.hub(batch(1, after, 10));
        world.hub(batch(2, after, 10));
        world.pass(Duration::from_millis(125));
    }
    world.pass(seconds(2));
    let reported = reports(&mut world);
    assert!(reported.len() <= 5 && reported.last() == Some(&(StreamIdx(1), Seq(25))), "{reported:?}");

    // What waits in our queue is not in the socket.
    world.takes(client.socket, 3);
    world.hub(batch(1, 25, 10));
    world.pass(seconds(5));
    assert_eq!(reports(&mut world), []);
    world.takes(client.socket, READS);
    world.pass(seconds(5));
    assert_eq!(reports(&mut world), [(StreamIdx(1), Seq(26))]);
}
