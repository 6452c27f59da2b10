//! Fan-outs: slices, round robin, members that come and go meanwhile, classes.

mod shard_world;

use std::collections::BTreeSet;

use proptest::prelude::*;
use shard_world::{Client, JSON, World, batch, direct, ephemeral, frames, member, text_frame};
use tidegate_gateway_core::ids::{Seq, StreamIdx};
use tidegate_gateway_core::messages::{
    ClassMask, ConnClass, Encoding, FANOUT_SLICE_MAX, Fanout, FrameSet, PlatformId, ToHub, ToShard,
};

fn crowd(world: &mut World, n: u32) -> Vec<Client> {
    (0..n).map(|n| world.connect(&format!("u{n}"))).collect()
}

fn join(world: &mut World, clients: &[Client], stream: u32, flushed: u64) {
    for &client in clients {
        world.hub(member(client, stream, flushed));
    }
    world.ticks(clients.len() / 1_000 + 1);
}

fn done(world: &mut World) -> Vec<StreamIdx> {
    let said = world.said();
    said.iter()
        .filter_map(|item| match item {
            ToHub::FanoutDone { stream, .. } => Some(*stream),
            _ => None,
        })
        .collect()
}

fn reached(world: &World, clients: &[Client]) -> usize {
    clients.iter().filter(|client| !world.texts(client.socket).is_empty()).count()
}

#[test]
fn a_large_fan_out_goes_in_slices_and_small_ones_and_replies_do_not_wait_for_it() {
    let mut world = World::quiet();
    let clients = crowd(&mut world, 1_500);
    join(&mut world, &clients, 1, 0);
    let small = crowd(&mut world, 3);
    join(&mut world, &small, 2, 0);
    done(&mut world);
    world.hub(batch(1, 0, 10));
    world.tick();
    assert_eq!(reached(&world, &clients), FANOUT_SLICE_MAX as usize);
    world.hub(ToShard::Send(direct(clients[1_499], "reply")));
    world.hub(batch(2, 0, 10));
    world.tick();
    assert_eq!(reached(&world, &clients), 2 * FANOUT_SLICE_MAX as usize + 1);
    assert_eq!(reached(&world, &small), 0, "its turn comes after the slice");
    world.tick();
    assert_eq!((reached(&world, &small), done(&mut world)), (3, vec![StreamIdx(2), StreamIdx(1)]));
    assert_eq!(world.texts(clients[1_499].socket).len(), 2);
    assert_eq!(world.stats().delivered.durable.value(), 1_503);
}

#[test]
fn small_fan_outs_finish_in_the_turn_they_start() {
    let mut world = World::quiet();
    let clients = crowd(&mut world, 200);
    for (n, client) in clients.iter().enumerate() {
        join(&mut world, &[*client], n as u32, 0);
    }
    for n in 0..200 {
        world.hub(batch(n, 0, 10));
    }
    world.tick();
    assert_eq!(done(&mut world).len(), 200);
    assert_eq!(reached(&world, &clients), 200);
}

#[test]
fn a_stream_without_members_here_reports_done_at_once() {
    let mut world = World::quiet();
    world.hub(batch(77, 0, 10));
    world.tick();
    assert_eq!(done(&mut world), [StreamIdx(77)]);
}

#[test]
fn a_second_batch_of_the_stream_waits_for_the_first_even_if_the_hub_does_not() {
    let mut world = World::quiet();
    let clients = crowd(&mut world, 700);
    join(&mut world, &clients, 1, 0);
    for after in 0..3 {
        world.hub(batch(1, after, 5));
    }
    world.ticks(10);
    for client in &clients {
        let heads: Vec<String> = world.texts(client.socket).iter().map(|text| text[..5].to_owned()).collect();
        assert_eq!(heads, ["L 1 0", "L 1 1", "L 1 2"]);
    }
}

#[test]
fn frames_that_meet_for_one_socket_leave_in_one_send() {
    let mut world = World::quiet();
    let client = world.connect("alice");
    for stream in 0..6 {
        join(&mut world, &[client], stream, 0);
    }
    let before = world.net.borrow().sends_made;
    for stream in 0..6 {
        world.hub(batch(stream, 0, 20));
    }
    world.ticks(3);
    assert_eq!(world.texts(client.socket).len(), 6);
    assert_eq!(world.net.borrow().sends_made - before, 2);
}

#[test]
fn each_class_gets_its_own_frame_and_an_empty_one_means_nothing() {
    let mut world = World::quiet();
    let classes = [
        JSON,
        ConnClass { deflate: true, ..JSON },
        ConnClass { encoding: Encoding::Proto, ..JSON },
        ConnClass { platform: PlatformId(3), ..JSON },
    ];
    let clients: Vec<Client> = classes
        .iter()
        .enumerate()
        .map(|(n, class)| {
            let mut hello = world.hello(&format!("u{n}"));
            hello.class = *class;
            world.connect_as(hello, b"")
        })
        .collect();
    join(&mut world, &clients, 1, 0);
    let mut set = FrameSet::default();
    let mask = |encoding, deflate, platform| ClassMask { encoding, deflate, platform };
    set.push(mask(Encoding::Json, false, None), text_frame("json"));
    set.push(mask(Encoding::Json, false, Some(PlatformId(3))), Default::default());
    let fanout =
        Fanout { stream: StreamIdx(1), range: None, frames: set, report_done: false, messages: 1, pushed_at_ms: None };
    world.hub(ToShard::Fanout(fanout));
    world.ticks(2);
    let texts: Vec<Vec<String>> = clients.iter().map(|client| world.texts(client.socket)).collect();
    assert_eq!(texts, [vec!["json".to_owned()], vec!["json".to_owned()], vec![], vec![]]);
    assert_eq!(world.stats().frames_missing.value(), 1);
}

#[test]
fn a_repeated_add_changes_nothing_and_is_counted_back() {
    let mut world = World::quiet();
    let client = world.connect("alice");
    join(&mut world, &[client], 1, 0);
    world.said();
    let page = tidegate_gateway_core::messages::Direct { recovers: Some(StreamIdx(1)), ..direct(client, "page") };
    world.hub(ToShard::Send(page));
    world.hub(member(client, 1, 5));
    world.tick();
    assert!(matches!(&world.said()[..], [ToHub::Left { streams, .. }] if streams[..] == [StreamIdx(1)]));
    world.hub(batch(1, 0, 3));
    world.ticks(2);
    assert_eq!(world.texts(client.socket), ["L 1 0 xxx"]);
}

#[test]
fn invited_connections_hear_of_it_and_are_members_from_there_on() {
    let mut world = World::quiet();
    let (phone, laptop, other) = (world.connect("alice"), world.connect("alice"), world.connect("bob"));
    let mut hello = world.hello("alice");
    hello.auto_join = false;
    let kiosk = world.connect_as(hello, b"");
    join(&mut world, &[phone, laptop, kiosk], 1, 0);
    join(&mut world, &[laptop, other], 9, 4);
    world.said();
    let (inbox, stream) = (StreamIdx(1), StreamIdx(9));
    world.hub(ToShard::Invite { inbox, stream, flushed: Seq(4), frames: frames("joined") });
    world.tick();
    assert!(matches!(world.said()[..], [ToHub::Invited { stream: StreamIdx(9), added: 1, .. }]));
    world.hub(batch(9, 4, 3));
    world.ticks(2);
    assert_eq!(world.texts(phone.socket), ["joined", "L 9 4 xxx"]);
    assert_eq!(world.texts(laptop.socket), ["L 9 4 xxx"]);
    assert_eq!(world.texts(other.socket), ["L 9 4 xxx"]);
    assert!(world.texts(kiosk.socket).is_empty());
}

#[test]
fn an_expelled_user_gets_left_and_no_fan_out_after_it() {
    let mut world = World::quiet();
    let (phone, laptop, other) = (world.connect("alice"), world.connect("alice"), world.connect("bob"));
    join(&mut world, &[phone, other, laptop], 9, 0);
    world.said();
    world.hub(ToShard::Expel { uid: "alice".parse().expect("a uid"), stream: StreamIdx(9), frames: frames("left") });
    world.hub(batch(9, 0, 3));
    world.ticks(2);
    let said = world.said();
    let left = said.iter().filter(|item| matches!(item, ToHub::Left { streams, .. } if streams[..] == [StreamIdx(9)]));
    assert_eq!(left.count(), 2);
    assert_eq!(world.texts(phone.socket), ["left"]);
    assert_eq!(world.texts(laptop.socket), ["left"]);
    assert_eq!(world.texts(other.socket), ["L 9 0 xxx"]);
}

#[test]
fn all_members_of_a_dismissed_stream_get_what_came_before_and_left_and_nothing_after_it() {
    let mut world = World::quiet();
    let members = crowd(&mut world, FANOUT_SLICE_MAX + 30);
    join(&mut world, &members, 9, 0);
    let other = world.connect("other");
    join(&mut world, &[other], 8, 0);
    world.said();
    world.hub(batch(9, 0, 3));
    world.hub(ToShard::Dismiss { stream: StreamIdx(9), frames: frames("left") });
    world.ticks(1);
    // Gone before its turn: it is told nothing, and counted once like all others.
    world.client_sends(members[700.min(members.len() - 1)].socket, b"");
    world.ticks(6);
    let said = world.said();
    let left = said.iter().filter(|item| matches!(item, ToHub::Left { streams, .. } if streams[..] == [StreamIdx(9)]));
    assert_eq!(left.count(), members.len());
    for member in &members[..members.len() - 1] {
        assert_eq!(world.texts(member.socket), ["L 9 0 xxx", "left"]);
    }
    world.hub(batch(9, 3, 3));
    world.hub(batch(8, 0, 3));
    world.ticks(3);
    let late = world.texts(members[0].socket).into_iter().any(|text| text.starts_with("L 9 3"));
    assert!(!late);
    assert_eq!(world.texts(other.socket), ["L 8 0 xxx"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// While a fan-out runs in slices, members leave, close, come back and come new: who was there and stayed has the frame
    /// exactly once, who came later does not have it, and the next fan-out reaches everybody who is there, once.
    #[test]
    fn members_that_change_under_a_running_fan_out_are_neither_lost_nor_served_twice(
        seed in any::<u64>(),
        leavers in prop::collection::btree_set(0usize..1_400, 0..200),
        closers in prop::collection::btree_set(0usize..1_400, 0..60),
        returners in prop::collection::btree_set(0usize..1_400, 0..100),
        after_slices in 1usize..3,
    ) {
        let mut world = World::new(tidegate_gateway_core::shard::ShardConfig { connections_max: 2_000, ..Default::default() }, seed);
        let clients = crowd(&mut world, 1_400);
        let late = crowd(&mut world, 30);
        join(&mut world, &clients, 1, 0);
        world.hub(batch(1, 0, 3));
        world.ticks(after_slices);
        let gone: BTreeSet<usize> = leavers.union(&closers).copied().collect();
        for &n in &leavers {
            world.hub(ToShard::RemoveMember { conn: clients[n].conn, stream: StreamIdx(1) });
        }
        for &n in &closers {
            world.peer(clients[n].socket, |peer| peer.resets = true);
        }
        for &client in &late {
            world.hub(member(client, 1, 1));
        }
        let back: BTreeSet<usize> = returners.intersection(&leavers).copied().filter(|n| !closers.contains(n)).collect();
        for &n in &back {
            world.hub(member(clients[n], 1, 1));
        }
        world.ticks(8);
        prop_assert_eq!(done(&mut world), [StreamIdx(1)]);
        for (n, client) in clients.iter().enumerate() {
            let got = world.texts(client.socket).len();
            prop_assert!(got == 1 || got == 0 && gone.contains(&n), "{n} got {got}");
        }
        prop_assert_eq!(reached(&world, &late), 0);

        world.hub(ephemeral(1, 3));
        world.ticks(8);
        for (n, client) in clients.iter().enumerate() {
            let got = world.texts(client.socket).iter().filter(|text| text.starts_with('E')).count();
            let expected = !gone.contains(&n) || back.contains(&n);
            prop_assert_eq!(got, usize::from(expected), "{}", n);
        }
        prop_assert_eq!(reached(&world, &late), late.len());
        // Everybody's place is still known: all leave, one by one.
        for client in clients.iter().chain(&late) {
            world.hub(ToShard::RemoveMember { conn: client.conn, stream: StreamIdx(1) });
        }
        world.said();
        world.ticks(4);
        let left = world.said().iter().filter(|item| matches!(item, ToHub::Left { .. })).count();
        prop_assert_eq!(left, clients.len() - gone.len() + back.len() + late.len());
    }
}
