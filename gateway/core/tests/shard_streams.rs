//! Slow consumers and gaps, judged from what clients received: whole frames, in order, without a silent hole.

mod shard_world;

use std::collections::BTreeMap;

use proptest::prelude::*;
use shard_world::{Client, JSON, READS, World, batch, direct, ephemeral, member, text_frame};
use tidegate_gateway_core::driver::CloseHow;
use tidegate_gateway_core::ids::{ConnRef, Seq, StreamIdx};
use tidegate_gateway_core::messages::{Direct, ToHub, ToShard};
use tidegate_gateway_core::shard::{ShardConfig, ShardInput};

const QUEUE: usize = 4_000;

fn small_queues(seed: u64) -> World {
    let config = ShardConfig {
        connections_max: 64,
        queue_bytes_max: QUEUE,
        ping_interval_ms: 300_000,
        ..ShardConfig::default()
    };
    World::new(config, seed)
}

/// The hub's answer to `Gapped`.
fn gap(conn: ConnRef, stream: StreamIdx, from: Seq) -> ToShard {
    let frame = text_frame(&format!("G {} {}", stream.0, from.0));
    ToShard::Gap { conn: conn.conn, stream, from, frame }
}

/// The hub's answer to a pull.
fn pulled(client: Client, stream: u32, upto: u64) -> ToShard {
    let reached = Some((StreamIdx(stream), Seq(upto)));
    ToShard::Send(Direct { reached, ..direct(client, &format!("P {stream} {upto}")) })
}

fn gapped(world: &mut World) -> Vec<(ConnRef, StreamIdx, Seq)> {
    let said = world.said();
    said.iter()
        .filter_map(|item| match item {
            ToHub::Gapped { conn, stream, from, class } => {
                assert_eq!(*class, JSON);
                Some((*conn, *stream, *from))
            }
            _ => None,
        })
        .collect()
}

fn heads(world: &World, client: Client) -> Vec<String> {
    world.texts(client.socket).iter().map(|text| text.trim_end_matches('x').trim_end().to_owned()).collect()
}

#[test]
fn a_short_send_is_continued_where_it_stopped() {
    let mut world = small_queues(1);
    let client = world.connect("alice");
    world.hub(member(client, 1, 0));
    world.takes(client.socket, 150);
    for after in 0..5 {
        world.hub(batch(1, after, 100));
    }
    world.ticks(3);
    assert_eq!(world.received(client.socket).0.len(), 1);
    assert_eq!(world.stats().sends.short.value(), 1);
    for _ in 0..100 {
        world.takes(client.socket, 7);
        world.ticks(2);
    }
    assert_eq!(heads(&world, client), ["L 1 0", "L 1 1", "L 1 2", "L 1 3", "L 1 4"]);
    assert_eq!((world.stats().queue_bytes.value(), world.stats().delivered.durable.value()), (0, 5));
}

#[test]
fn a_slow_stream_is_gapped_told_when_drained_and_live_again_once_pulled() {
    let mut world = small_queues(1);
    let client = world.connect("alice");
    world.hub(member(client, 1, 0));
    world.hub(member(client, 2, 0));
    world.takes(client.socket, 10);
    world.hub(batch(2, 0, 100));
    for after in 0..20 {
        world.hub(batch(1, after, 500));
        world.tick();
    }
    assert!(gapped(&mut world).is_empty(), "the socket has not drained");
    assert!(world.stats().queue_bytes.value() <= 2 * QUEUE as u64);
    world.takes(client.socket, READS);
    world.ticks(4);
    // The frame of stream 2 was at the head; stream 1 went as a whole, the other stayed.
    assert_eq!(heads(&world, client), ["L 2 0"]);
    let told = gapped(&mut world);
    let [(conn, StreamIdx(1), Seq(1))] = told[..] else { panic!("{told:?}") };
    // An answer for another place is no answer for this gap.
    world.hub(gap(conn, StreamIdx(1), Seq(9)));
    world.hub(gap(conn, StreamIdx(1), Seq(1)));
    world.hub(batch(1, 20, 5));
    world.hub(batch(2, 1, 5));
    world.hub(pulled(client, 1, 20));
    world.hub(batch(1, 21, 5));
    world.hub(pulled(client, 1, 22));
    world.hub(batch(1, 22, 5));
    world.ticks(4);
    assert_eq!(heads(&world, client), ["L 2 0", "G 1 1", "P 1 20", "P 1 22", "L 2 1", "L 1 22"]);
    assert_eq!(world.stats().gaps.value(), 1);
    let dropped = &world.stats().dropped;
    assert_eq!(dropped.slow.durable.value() + dropped.gapped.durable.value(), 22);
    assert_eq!(world.stats().delivered.durable.value(), 3);
}

#[test]
fn ephemeral_frames_go_before_any_stream_does() {
    let mut world = small_queues(1);
    let client = world.connect("alice");
    world.hub(member(client, 1, 0));
    world.takes(client.socket, 10);
    for after in 0..3 {
        world.hub(batch(1, after, 500));
    }
    for _ in 0..50 {
        world.hub(ephemeral(1, 500));
        world.tick();
    }
    world.hub(batch(1, 3, 500));
    world.tick();
    world.takes(client.socket, READS);
    world.ticks(4);
    assert!(gapped(&mut world).is_empty());
    let heads = heads(&world, client);
    let durable: Vec<&str> = heads.iter().filter(|head| head.starts_with('L')).map(String::as_str).collect();
    assert_eq!(durable, ["L 1 0", "L 1 1", "L 1 2", "L 1 3"]);
    let ephemerals = heads.len() - durable.len();
    assert!((1..7).contains(&ephemerals));
    assert_eq!(world.stats().dropped.slow.ephemeral.value() + ephemerals as u64, 50);
}

#[test]
fn a_member_that_was_told_a_gap_gets_nothing_until_its_pull_reaches_the_head() {
    let mut world = small_queues(1);
    let client = world.connect("alice");
    let ToShard::AddMember { conn, stream, flushed, class, inbox, .. } = member(client, 1, 40) else { unreachable!() };
    world.hub(ToShard::AddMember { conn, stream, flushed, gapped: true, class, inbox });
    world.hub(batch(1, 40, 5));
    world.hub(ephemeral(1, 5));
    world.hub(pulled(client, 1, 40));
    world.hub(batch(1, 41, 5));
    world.ticks(3);
    assert!(gapped(&mut world).is_empty());
    assert_eq!(heads(&world, client), ["P 1 40"]);
    world.hub(pulled(client, 1, 42));
    world.hub(batch(1, 42, 5));
    world.ticks(3);
    assert_eq!(heads(&world, client), ["P 1 40", "P 1 42", "L 1 42"]);
}

#[test]
fn gap_all_takes_every_member_off_and_a_new_epoch_also_those_who_are_off_already() {
    let mut world = small_queues(1);
    let clients: Vec<Client> = (0..3).map(|n| world.connect(&format!("u{n}"))).collect();
    for &client in &clients {
        world.hub(member(client, 1, 10));
    }
    world.tick();
    let slow = clients[1];
    world.takes(slow.socket, 10);
    let stream = StreamIdx(1);
    world.hub(batch(1, 10, 100));
    world.hub(ToShard::GapAll { stream, from: Seq(12), flushed: Seq(30), new_epoch: false });
    world.hub(batch(1, 30, 10));
    world.ticks(3);
    let told = gapped(&mut world);
    assert_eq!(told.len(), 2, "the slow one has not drained: {told:?}");
    assert!(told.iter().all(|(_, of, from)| (*of, *from) == (stream, Seq(12))));
    world.takes(slow.socket, READS);
    world.ticks(3);
    assert_eq!(gapped(&mut world).len(), 1);
    assert!(clients.iter().all(|client| heads(&world, *client) == ["L 1 10"]));
    world.hub(ToShard::GapAll { stream, from: Seq(50), flushed: Seq(60), new_epoch: false });
    world.ticks(2);
    assert!(gapped(&mut world).is_empty(), "who is off keeps its place");
    world.hub(ToShard::GapAll { stream, from: Seq(1), flushed: Seq(2), new_epoch: true });
    world.ticks(2);
    let told = gapped(&mut world);
    assert_eq!((told.len(), told.iter().all(|(_, _, from)| *from == Seq(1))), (3, true));
    for &client in &clients {
        world.hub(pulled(client, 1, 2));
    }
    world.hub(batch(1, 2, 1));
    world.ticks(3);
    assert!(clients.iter().all(|client| heads(&world, *client) == ["L 1 10", "P 1 2", "L 1 2"]));
}

#[derive(Clone, Debug)]
enum Op {
    Publish {
        stream: u32,
        fill: usize,
    },
    Ephemeral {
        stream: u32,
        fill: usize,
    },
    Reply {
        client: usize,
        fill: usize,
    },
    /// The client reads so much.
    Read {
        client: usize,
        bytes: usize,
    },
    /// The client pulls what it was told to pull.
    Pull {
        client: usize,
    },
    Join {
        client: usize,
        stream: u32,
        gapped: bool,
    },
    Leave {
        client: usize,
        stream: u32,
    },
    GapAll {
        stream: u32,
    },
    Break {
        client: usize,
        how: u8,
    },
    Ticks(usize),
}

const STREAMS: u32 = 4;
const CLIENTS: usize = 6;

fn op() -> impl Strategy<Value = Op> {
    let (stream, client) = (|| 0..STREAMS, || 0..CLIENTS);
    prop_oneof![
        12 => (stream(), 0usize..900).prop_map(|(stream, fill)| Op::Publish { stream, fill }),
        4 => (stream(), 0usize..900).prop_map(|(stream, fill)| Op::Ephemeral { stream, fill }),
        3 => (client(), 0usize..900).prop_map(|(client, fill)| Op::Reply { client, fill }),
        8 => (client(), prop_oneof![0usize..60, 0usize..4_000, Just(READS)])
            .prop_map(|(client, bytes)| Op::Read { client, bytes }),
        4 => client().prop_map(|client| Op::Pull { client }),
        2 => (client(), stream(), prop::bool::weighted(0.3))
            .prop_map(|(client, stream, gapped)| Op::Join { client, stream, gapped }),
        1 => (client(), stream()).prop_map(|(client, stream)| Op::Leave { client, stream }),
        1 => stream().prop_map(|stream| Op::GapAll { stream }),
        1 => (client(), 0u8..40).prop_map(|(client, how)| Op::Break { client, how }),
        10 => (1usize..4).prop_map(Op::Ticks),
    ]
}

/// A hub of the test's own: heads, memberships, and its answers.
struct Hub {
    world: World,
    clients: Vec<Client>,
    heads: BTreeMap<u32, u64>,
    /// Where a membership began; `None`: it ended.
    joined: BTreeMap<(usize, u32), Option<u64>>,
    adds: usize,
    lefts: usize,
    ended: Vec<bool>,
}

impl Hub {
    fn new(seed: u64) -> Hub {
        let mut world = small_queues(seed);
        let clients: Vec<Client> = (0..CLIENTS).map(|n| world.connect(&format!("u{n}"))).collect();
        let mut hub = Hub {
            world,
            clients,
            heads: BTreeMap::new(),
            joined: BTreeMap::new(),
            adds: 0,
            lefts: 0,
            ended: vec![false; CLIENTS],
        };
        for client in 0..CLIENTS {
            for stream in 0..STREAMS {
                hub.join(client, stream, false);
            }
        }
        hub.tick();
        hub
    }

    fn head(&mut self, stream: u32) -> u64 {
        *self.heads.entry(stream).or_default()
    }

    fn join(&mut self, client: usize, stream: u32, gapped: bool) {
        // One membership a test: a second one would have to tell the client's old frames from its new ones.
        if self.joined.contains_key(&(client, stream)) && !gapped {
            return;
        }
        if self.joined.get(&(client, stream)).is_some_and(Option::is_some) {
            return;
        }
        let head = self.head(stream);
        let of = self.clients[client];
        if gapped {
            let frame = direct(of, &format!("J {stream} {head}"));
            self.world.hub(ToShard::Send(Direct { recovers: Some(StreamIdx(stream)), ..frame }));
        }
        let ToShard::AddMember { conn, stream: idx, flushed, class, inbox, .. } = member(of, stream, head) else {
            unreachable!()
        };
        self.world.hub(ToShard::AddMember { conn, stream: idx, flushed, gapped, class, inbox });
        self.adds += 1;
        self.joined.insert((client, stream), Some(head));
    }

    /// Streams of which the client was last told that it has to pull.
    fn owes(&self, client: usize) -> Vec<u32> {
        let mut owes = BTreeMap::new();
        for text in self.world.texts(self.clients[client].socket) {
            let words: Vec<&str> = text.split(' ').collect();
            match words[0] {
                "G" | "J" => owes.insert(words[1].to_owned(), true),
                "P" => owes.insert(words[1].to_owned(), false),
                _ => None,
            };
        }
        owes.into_iter().filter(|(_, owes)| *owes).map(|(stream, _)| stream.parse().expect("a number")).collect()
    }

    fn pull(&mut self, client: usize) -> bool {
        let owes = self.owes(client);
        for &stream in &owes {
            let head = self.head(stream);
            self.world.hub(pulled(self.clients[client], stream, head));
        }
        !owes.is_empty()
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Publish { stream, fill } => {
                let head = self.heads.entry(stream).or_default();
                self.world.hub(batch(stream, *head, fill));
                *head += 1;
            }
            Op::Ephemeral { stream, fill } => self.world.hub(ephemeral(stream, fill)),
            Op::Reply { client, fill } => {
                let text = format!("R {}", "x".repeat(fill));
                self.world.hub(ToShard::Send(direct(self.clients[client], &text)));
            }
            Op::Read { client, bytes } => self.world.takes(self.clients[client].socket, bytes),
            Op::Pull { client } => {
                self.pull(client);
            }
            Op::Join { client, stream, gapped } => self.join(client, stream, gapped),
            Op::Leave { client, stream } => {
                let conn = self.clients[client].conn;
                self.world.hub(ToShard::RemoveMember { conn, stream: StreamIdx(stream) });
                self.joined.insert((client, stream), None);
            }
            Op::GapAll { stream } => {
                let head = self.heads.entry(stream).or_default();
                let (from, flushed) = (Seq(*head + 1), Seq(*head + 3));
                *head = flushed.0;
                self.world.hub(ToShard::GapAll { stream: StreamIdx(stream), from, flushed, new_epoch: false });
            }
            Op::Break { client, how } => {
                let socket = self.clients[client].socket;
                match how {
                    0 => self.world.peer(socket, |peer| peer.resets = true),
                    1 => self.world.client_sends(socket, b""),
                    2 => self.world.client_sends(socket, &shard_world::wire::close(1000)),
                    _ => {}
                }
            }
            Op::Ticks(n) => (0..n).for_each(|_| self.tick()),
        }
    }

    fn tick(&mut self) {
        self.world.tick();
        let held = self.world.stats().queue_bytes.value();
        let bound = (CLIENTS * (2 * QUEUE + 64 * 1024 + 2_000)) as u64;
        assert!(held <= bound, "{held} bytes are queued");
        for item in self.world.said() {
            match item {
                ToHub::Gapped { conn, stream, from, .. } => self.world.hub(gap(conn, stream, from)),
                ToHub::Left { streams, .. } => self.lefts += streams.len(),
                ToHub::Disconnected { conn, .. } => {
                    let at = self.clients.iter().position(|client| client.conn == conn.conn).expect("known");
                    assert!(!std::mem::replace(&mut self.ended[at], true), "disconnected twice");
                }
                _ => {}
            }
        }
    }

    /// Everybody reads and pulls until nothing is left to say.
    fn settle(&mut self) {
        for _ in 0..200 {
            for client in 0..CLIENTS {
                self.world.takes(self.clients[client].socket, READS);
            }
            (0..6).for_each(|_| self.tick());
            let mut pulled = false;
            for client in 0..CLIENTS {
                pulled |= !self.ended[client] && self.pull(client);
            }
            if !pulled {
                return;
            }
        }
        panic!("clients pull for ever");
    }

    /// One client's log, as the client would check it.
    fn judge(&mut self, client: usize) {
        let socket = self.clients[client].socket;
        let (_, partial) = self.world.received(socket);
        let aborted = self.world.peer(socket, |peer| peer.resets || peer.closed == Some(CloseHow::Abort));
        assert!(!partial || aborted, "half a frame at the end");
        let mut last: BTreeMap<u32, u64> = BTreeMap::new();
        let mut off: BTreeMap<u32, bool> = BTreeMap::new();
        for text in self.world.texts(socket) {
            let words: Vec<&str> = text.split(' ').collect();
            let number = |n: usize| words[n].parse::<u64>().expect("a number");
            match words[0] {
                "L" => {
                    let (stream, after) = (number(1) as u32, number(2));
                    assert!(!off.get(&stream).copied().unwrap_or(false), "a live frame of a stream that is off");
                    let last = last.entry(stream).or_insert(after);
                    assert!(after <= *last, "a silent hole in stream {stream}: {after} after {last}");
                    *last = (*last).max(after + 1);
                }
                "G" => {
                    let (stream, from) = (number(1) as u32, number(2));
                    off.insert(stream, true);
                    let last = last.entry(stream).or_insert(from - 1);
                    assert!(from <= *last + 1, "the gap begins behind what came");
                }
                // Joined again with more missed than a page: the hub's own `gap` covers what came before the head.
                "J" => {
                    off.insert(number(1) as u32, true);
                    last.insert(number(1) as u32, number(2));
                }
                "P" => {
                    let (stream, upto) = (number(1) as u32, number(2));
                    let last = last.entry(stream).or_default();
                    *last = (*last).max(upto);
                    // Whether that was the head, the next live frame tells.
                    off.insert(stream, false);
                }
                _ => {}
            }
        }
        if self.ended[client] {
            return;
        }
        for stream in 0..STREAMS {
            if let Some(Some(start)) = self.joined.get(&(client, stream)).copied() {
                let head = self.head(stream);
                assert_eq!(last.get(&stream).copied().unwrap_or(start), head, "client {client} stream {stream}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_client_has_everything_in_order_or_knows_what_it_lacks(
        seed in any::<u64>(),
        ops in prop::collection::vec(op(), 1..400),
    ) {
        let mut hub = Hub::new(seed);
        for op in ops {
            hub.apply(op);
        }
        hub.settle();
        for client in 0..CLIENTS {
            hub.judge(client);
        }
        prop_assert_eq!(hub.world.stats().queue_bytes.value(), 0);
        hub.world.mail.inbox.push_back(ShardInput::Stop);
        for _ in 0..5 {
            hub.tick();
        }
        prop_assert!(hub.ended.iter().all(|ended| *ended));
        prop_assert_eq!(hub.lefts, hub.adds, "each AddMember ends in one Left");
        prop_assert_eq!(hub.world.stats().connections.value(), 0);
    }

    /// F22: what was routed to members was delivered or dropped for a reason, or waits; in the end nothing waits.
    #[test]
    fn every_message_is_accounted_for(
        seed in any::<u64>(),
        ops in prop::collection::vec((0u32..STREAMS, 0usize..900, 0..CLIENTS, 0usize..3_000, any::<bool>()), 1..200),
    ) {
        let mut hub = Hub::new(seed);
        let (mut durable, mut ephemerals) = (0, 0);
        for (stream, fill, client, bytes, is_durable) in ops {
            if is_durable {
                hub.apply(Op::Publish { stream, fill });
                durable += CLIENTS as u64;
            } else {
                hub.apply(Op::Ephemeral { stream, fill });
                ephemerals += CLIENTS as u64;
            }
            hub.apply(Op::Read { client, bytes });
            hub.apply(Op::Pull { client });
            hub.tick();
        }
        for client in 0..CLIENTS / 2 {
            hub.world.peer(hub.clients[client].socket, |peer| peer.resets = true);
        }
        hub.tick();
        for client in 0..CLIENTS {
            hub.world.takes(hub.clients[client].socket, READS);
        }
        (0..6).for_each(|_| hub.tick());
        let stats = hub.world.stats();
        let dropped = &stats.dropped;
        let lost = [&dropped.slow, &dropped.gapped, &dropped.closed];
        prop_assert_eq!(stats.delivered.durable.value() + lost.iter().map(|by| by.durable.value()).sum::<u64>(), durable);
        prop_assert_eq!(stats.delivered.ephemeral.value() + lost.iter().map(|by| by.ephemeral.value()).sum::<u64>(), ephemerals);
        prop_assert_eq!(stats.queue_bytes.value(), 0);
    }
}
