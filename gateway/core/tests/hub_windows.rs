//! Windows, fan-outs and frames: how what arrives leaves.

mod hub_world;

use hub_world::bench::{Bench, SHARD, batch, class, group, hello, plain};
use hub_world::control::{Log, message};
use hub_world::{World, config, frames};
use tidegate_gateway_core::hub::{EPHEMERAL_MAX, FRAME_BYTES_MAX, HubConfig};
use tidegate_gateway_core::ids::{Seq, SeqRange};
use tidegate_gateway_core::link::ToLink;
use tidegate_gateway_core::messages::{Encoding, Fanout, ToHub};

#[test]
fn the_first_message_leaves_at_once_and_the_rest_of_the_window_together() {
    let mut bench = group();
    bench.deliver_seqs("g:a", 0, 1);
    assert_eq!(bench.take_fanouts().iter().map(|f| batch(f, plain())).collect::<Vec<_>>(), [(Some((0, 1)), vec![1])]);
    for seq in 2..=4 {
        bench.deliver_seqs("g:a", seq - 1, seq);
        bench.pass(10);
    }
    assert!(bench.take_fanouts().is_empty());
    bench.pass(20);
    let fanouts = bench.take_fanouts();
    assert_eq!(fanouts.len(), 1);
    assert_eq!(batch(&fanouts[0], plain()), (Some((1, 4)), vec![2, 3, 4]));
    assert_eq!(fanouts[0].messages, 3);
    bench.pass(1_000);
    bench.deliver_seqs("g:a", 4, 5);
    assert_eq!(bench.take_fanouts().len(), 1, "quiet again");
}

#[test]
fn without_a_window_every_delivery_leaves_at_once() {
    let mut bench = Bench::new(HubConfig { window_ms: 0, ..HubConfig::default() });
    bench.connect(1, hello("alice", plain()), &[("g:a", 0, true)]);
    bench.shard.clear();
    for seq in 1..=3 {
        bench.deliver_seqs("g:a", seq - 1, seq);
    }
    assert_eq!(bench.take_fanouts().len(), 3);
}

#[test]
fn a_range_without_messages_moves_the_cursor() {
    let mut bench = group();
    bench.deliver_range("g:a", Some(SeqRange { after: Seq(0), upto: Seq(3) }), Vec::new());
    let fanouts = bench.take_fanouts();
    assert_eq!(batch(&fanouts[0], plain()), (Some((0, 3)), vec![]));
}

#[test]
fn nothing_starts_while_a_fanout_runs_and_what_came_leaves_as_the_next_batch() {
    let mut bench = group();
    for index in 2..=3 {
        bench.connect(index, hello("bob", plain()), &[("g:a", 0, true)]);
    }
    bench.shard.clear();
    bench.deliver_seqs("g:a", 0, 1);
    let fanouts = bench.take_fanouts();
    assert!(fanouts[0].report_done, "three members, slices of two");
    for seq in 2..=5 {
        bench.deliver_seqs("g:a", seq - 1, seq);
        bench.pass(60);
    }
    assert!(bench.take_fanouts().is_empty());
    bench.shard_says(ToHub::FanoutDone { shard: SHARD, stream: fanouts[0].stream });
    let next = bench.take_fanouts();
    assert_eq!(next.iter().map(|f| batch(f, plain())).collect::<Vec<_>>(), [(Some((1, 5)), vec![2, 3, 4, 5])]);
}

#[test]
fn a_large_window_leaves_in_consecutive_frames() {
    let mut bench = group();
    bench.deliver_seqs("g:a", 0, 1);
    bench.shard.clear();
    let messages = (2..=11).map(|seq| message(seq, &"x".repeat(20_000), &[])).collect();
    bench.deliver("g:a", 1, messages);
    bench.pass(50);
    let fanouts = bench.take_fanouts();
    assert!(fanouts.len() > 1);
    let mut after = Seq(1);
    for fanout in &fanouts {
        let range = fanout.range.expect("durable");
        assert_eq!(range.after, after);
        after = range.upto;
        assert!(fanout.frames.select(plain()).expect("a variant").len() <= FRAME_BYTES_MAX + 1_000);
    }
    assert_eq!(after, Seq(11));
}

#[test]
fn every_class_that_is_present_shares_one_frame() {
    let mut bench = group();
    bench.connect(2, hello("bob", class(Encoding::Json, true, 1)), &[("g:a", 0, true)]);
    bench.shard.clear();
    let small = message(1, "short", &[]);
    let large = message(2, &"long ".repeat(1_000), &[]);
    bench.deliver("g:a", 0, vec![small]);
    bench.pass(60);
    bench.deliver("g:a", 1, vec![large]);
    let fanouts = bench.take_fanouts();
    let json = class(Encoding::Json, true, 1);
    let compressed = |fanout: &Fanout| frames::is_compressed(fanout.frames.select(json).expect("a variant"));
    assert!(!compressed(&fanouts[0]), "a short frame is not worth compressing");
    assert!(compressed(&fanouts[1]));
    assert_eq!(batch(&fanouts[1], json).1, [2]);
    assert_eq!(batch(&fanouts[1], plain()).1, [2]);
    let absent = class(Encoding::Json, false, 1);
    assert!(fanouts[1].frames.select(absent).is_none(), "nobody of this class was ever here");
}

#[test]
fn a_platform_sees_what_is_meant_for_it_and_everybody_gets_the_range() {
    let mut bench = group();
    let (mobile, web) = (class(Encoding::Proto, false, 2), plain());
    bench.connect(2, hello("bob", mobile), &[("g:a", 0, true)]);
    bench.shard.clear();
    bench.deliver("g:a", 0, vec![message(1, "for phones", &[2])]);
    bench.pass(60);
    bench.deliver("g:a", 1, vec![message(2, "all", &[]), message(3, "web", &[1]), message(4, "none here", &[9])]);
    let fanouts = bench.take_fanouts();
    assert_eq!(batch(&fanouts[0], mobile), (Some((0, 1)), vec![1]));
    assert_eq!(batch(&fanouts[0], web), (Some((0, 1)), vec![]));
    assert_eq!(batch(&fanouts[1], mobile), (Some((1, 4)), vec![2]));
    assert_eq!(batch(&fanouts[1], web), (Some((1, 4)), vec![2, 3]));
}

#[test]
fn ephemeral_messages_have_their_own_frame_and_bound() {
    let mut bench = group();
    bench.connect(2, hello("bob", class(Encoding::Proto, false, 2)), &[("g:a", 0, true)]);
    bench.deliver_seqs("g:a", 0, 1);
    bench.shard.clear();
    bench.deliver_seqs("g:a", 1, 2);
    bench.deliver_range("g:a", None, (0..EPHEMERAL_MAX + 5).map(|_| message(0, "like", &[2])).collect());
    bench.pass(50);
    let fanouts = bench.take_fanouts();
    assert_eq!(fanouts.len(), 2);
    assert_eq!(batch(&fanouts[0], plain()), (Some((1, 2)), vec![2]));
    assert_eq!(fanouts[1].range, None);
    assert_eq!(batch(&fanouts[1], class(Encoding::Proto, false, 2)).1.len(), EPHEMERAL_MAX);
    assert!(fanouts[1].frames.select(plain()).expect("a variant").is_empty(), "nothing to send to the other platform");
    assert_eq!(bench.hub.stats().ephemeral_dropped, 5);
}

#[test]
fn a_slow_fanout_bounds_the_window_and_the_rest_is_pulled_later() {
    let mut world = World::new(5, 1, HubConfig { fanout_slice: 1, ..config() });
    let group = world.control.create("g:open", true);
    for user in ["alice", "bob", "carol"] {
        world.control.create(&format!("u:{user}"), false);
        let who = world.client(user);
        world.connect(who, true);
    }
    world.settle();
    for who in 0..3 {
        world.join(who, &group);
    }
    world.settle();
    // The shard does not get to its turn while these arrive.
    for _ in 0..200 {
        world.control.publish(&group, 0, &[], &"large ".repeat(1_000));
        while world.link_step() {}
    }
    let asked = world.control.partitions[0].up.iter().filter(|item| matches!(item, ToLink::Request { .. }));
    assert_eq!(asked.count(), 0, "nothing is asked for while there is no room");
    world.settle();
    world.check();
    assert!(world.hub.stats().heals > 0);
    let Log { head, .. } = world.control.streams[&group];
    for client in &world.clients {
        assert_eq!(client.streams[&group].last, Some(head));
    }
}
