//! The link: holes, epochs, owners, breaks, credits, and what is forgotten.

mod hub_world;

use hub_world::bench::{Bench, SHARD, batch, conn, connected, group, hello, plain};
use hub_world::control::{epoch, message};
use hub_world::{frames, key, uid, world_with_group};
use smallvec::SmallVec;
use tidegate_gateway_core::client::errors::ErrorCode;
use tidegate_gateway_core::client::ops::Op;
use tidegate_gateway_core::hub::{CREDIT_BYTES, HEAL_DISTANCE_MAX, HubConfig, REQUESTS_MAX};
use tidegate_gateway_core::ids::{Seq, SeqRange};
use tidegate_gateway_core::link::*;
use tidegate_gateway_core::messages::{Encoding, Requester, ToHub, ToShard};
use tidegate_proto::v1::server_frame::Body;

#[test]
fn a_hole_is_pulled_before_anything_of_the_stream_leaves() {
    let mut bench = group();
    bench.deliver_seqs("g:a", 3, 5);
    assert!(bench.take_fanouts().is_empty());
    let [ToLink::Request { corr, uid: None, op: LinkOp::Pull { after, .. }, .. }] = &bench.link[..] else {
        panic!("a pull of the node's own: {:?}", bench.link);
    };
    assert_eq!(*after, Seq(0));
    let corr = *corr;
    bench.deliver_seqs("g:a", 5, 6);
    assert_eq!(bench.link.len(), 1, "asked once");
    let messages: Vec<Message> = (1..=6).map(|seq| message(seq, "hello", &[])).collect();
    let stream = key("g:a");
    let pulled = Pulled {
        epoch: epoch(&stream, 1),
        stream,
        range: SeqRange { after: Seq(0), upto: Seq(6) },
        messages,
        head: Seq(6),
        first: Seq(1),
    };
    bench.link(FromLink::Reply { corr, result: Ok(LinkOk::Pulled(pulled)) });
    let fanouts = bench.take_fanouts();
    assert_eq!(batch(&fanouts[0], plain()), (Some((0, 6)), vec![1, 2, 3, 4, 5, 6]));
}

#[test]
fn a_stream_too_far_behind_is_left_to_its_members() {
    let mut bench = group();
    let far = HEAL_DISTANCE_MAX + 10;
    bench.deliver_seqs("g:a", far - 1, far);
    assert!(bench.link.is_empty(), "nothing is pulled");
    let [ToShard::GapAll { from, flushed, new_epoch, .. }] = bench.shard[..] else { panic!("{:?}", bench.shard) };
    assert_eq!((from, flushed, new_epoch), (Seq(1), Seq(far), false));
}

#[test]
fn a_new_epoch_is_told_to_every_member_and_places_of_the_old_one_are_not_answered() {
    let mut bench = group();
    for index in 2..=3 {
        bench.connect(index, hello("bob", plain()), &[("g:a", 0, true)]);
    }
    let idx = bench.index_of(0);
    bench.deliver_seqs("g:a", 0, 1);
    bench.shard.clear();
    let (position, stream) = (bench.position(), key("g:a"));
    let range = Some(SeqRange { after: Seq(0), upto: Seq(1) });
    let epoch = epoch(&stream, 2);
    let messages = vec![message(1, "anew", &[])];
    bench.link(FromLink::Deliver(Deliver { position, stream, epoch, range, messages, bytes: 10 }));
    bench.shard_says(ToHub::Gapped { conn: conn(1), stream: idx, from: Seq(1), class: plain() });
    assert!(bench.shard.is_empty(), "the fan-out of the old epoch still runs: {:?}", bench.shard);
    bench.shard_says(ToHub::FanoutDone { shard: SHARD, stream: idx });
    assert!(
        matches!(bench.shard[..], [ToShard::GapAll { from: Seq(1), flushed: Seq(0), new_epoch: true, .. }]),
        "{:?}",
        bench.shard
    );
    bench.pass(60);
    bench.shard.clear();
    bench.shard_says(ToHub::Gapped { conn: conn(1), stream: idx, from: Seq(1), class: plain() });
    let [ToShard::Gap { frame, from: Seq(1), .. }] = &bench.shard[..] else { panic!("{:?}", bench.shard) };
    let Some(Body::Gap(gap)) = frames::decode(Encoding::Proto, frame).body else { panic!("not a gap") };
    assert_eq!((gap.epoch.as_str(), gap.from, gap.to, gap.head), ("a-2", 1, 1, 1));
}

#[test]
fn an_owner_with_a_successor_is_not_heard() {
    let mut bench = group();
    let position = Position { partition: PartitionId(0), owner_epoch: 2, lsn: 9 };
    bench.link(FromLink::Position(position));
    bench.deliver_seqs("g:a", 0, 1);
    assert!(bench.take_fanouts().is_empty());
    assert_eq!(bench.hub.stats().stale_owner_dropped, 1);
    bench.link(FromLink::Down);
    bench.link(FromLink::Up);
    let Some(ToLink::Announce { streams, position: told }) = bench.link.last() else { panic!("{:?}", bench.link) };
    assert_eq!((&streams[..], *told), (&[key("g:a")][..], Some(position)));
}

#[test]
fn requests_end_with_the_link_and_opens_are_asked_again() {
    let mut bench = group();
    bench.request(1, 5, "alice", Op::Ack { stream: key("u:alice"), epoch: None, seq: Seq(1) });
    bench.shard_says(connected(2, hello("bob", plain())));
    let corr = bench.last_corr();
    bench.link(FromLink::Down);
    let sent = bench.take_sent();
    assert!(matches!(&sent[..], [Body::Error(error)] if error.code == "UNAVAILABLE" && error.retry), "{sent:?}");
    bench.link.clear();
    bench.request(1, 6, "alice", Op::Head { stream: key("u:alice") });
    assert!(matches!(&bench.take_sent()[..], [Body::Error(error)] if error.code == "UNAVAILABLE"));
    assert!(bench.link.is_empty());
    bench.link(FromLink::Up);
    assert!(matches!(bench.link[..], [ToLink::Announce { .. }, ToLink::Open { corr: again, .. }] if again == corr));
    bench.answer_open(corr, &[("u:bob", 3, false)]);
    assert!(matches!(&bench.take_sent()[..], [Body::Welcome(_)]));
}

#[test]
fn members_of_a_group_that_was_dismissed_meanwhile_are_told_and_taken_out() {
    let mut bench = group();
    let gone = |code| LinkError { code, message: "".into(), retry_after_ms: None, stands: None };
    let opened = |code| FromLink::Opened(Opened { corr: 0, stream: key("g:a"), result: Err(gone(code)) });
    bench.link(opened(ErrorCode::Unavailable));
    assert!(bench.shard.is_empty(), "it may exist: {:?}", bench.shard);
    bench.link(opened(ErrorCode::NotFound));
    let [ToShard::Dismiss { stream, frames }] = &bench.shard[..] else { panic!("{:?}", bench.shard) };
    let (idx, frame) = (*stream, frames.select(plain()).expect("a frame for the member").clone());
    let told = frames::decode(plain().encoding, &frame).body;
    assert!(matches!(told, Some(Body::Left(left)) if left.stream == "g:a" && left.reason == "dismissed"));
    bench.shard_says(ToHub::Left { conn: conn(1), streams: SmallVec::from_slice(&[idx]), class: plain() });
    bench.link.clear();
    bench.pass(5_100);
    assert!(matches!(&bench.link[..], [ToLink::Forget { stream }] if stream.as_str() == "g:a"), "{:?}", bench.link);
}

#[test]
fn too_many_requests_are_refused_with_a_hint() {
    let mut bench = group();
    for id in 0..REQUESTS_MAX as u32 {
        bench.request(1, id, "alice", Op::Head { stream: key("u:alice") });
    }
    assert!(bench.take_sent().is_empty());
    bench.request(1, 1, "alice", Op::Head { stream: key("u:alice") });
    let sent = bench.take_sent();
    assert!(
        matches!(&sent[..], [Body::Error(error)] if error.code == "OVERLOADED" && error.retry_after_ms.is_some()),
        "{sent:?}"
    );
}

#[test]
fn a_stream_lingers_and_is_then_forgotten_and_its_index_reused() {
    let mut bench = group();
    bench.connect(2, hello("bob", plain()), &[("g:b", 40, false)]);
    let idx = bench.index_of(40);
    bench.shard_says(ToHub::Left { conn: conn(2), streams: SmallVec::from_slice(&[idx]), class: plain() });
    bench.link.clear();
    bench.pass(4_900);
    assert!(bench.link.is_empty());
    bench.pass(200);
    assert!(matches!(&bench.link[..], [ToLink::Forget { stream }] if *stream == key("g:b")), "{:?}", bench.link);
    bench.shard.clear();
    bench.connect(3, hello("carol", plain()), &[("g:c", 41, false)]);
    assert_eq!(bench.index_of(41), idx);
}

#[test]
fn deliveries_are_credited_in_chunks() {
    let mut bench = group();
    for _ in 0..CREDIT_BYTES / 100 {
        bench.deliver_range("g:unknown", None, Vec::new());
    }
    assert!(bench.link.is_empty());
    bench.deliver_range("g:unknown", None, Vec::new());
    assert!(matches!(bench.link[..], [ToLink::Credit { bytes }] if bytes >= CREDIT_BYTES));
}

#[test]
fn what_was_sent_moves_the_mark() {
    let mut bench = Bench::new(HubConfig::default());
    bench.connect(1, hello("alice", plain()), &[("u:alice", 7, false)]);
    let idx = bench.index_of(7);
    let who = Box::new(Requester { uid: uid("alice"), device: "d".into(), class: plain() });
    bench.shard_says(ToHub::Sent { who, stream: idx, upto: Seq(7) });
    let Some(ToLink::Request { op: LinkOp::Ack { seq: Seq(7), .. }, .. }) = bench.link.last() else { panic!() };
    let corr = bench.last_corr();
    bench.shard.clear();
    bench.link(FromLink::Reply { corr, result: Ok(LinkOk::Done) });
    assert!(bench.shard.is_empty(), "nobody asked");
}

#[test]
fn the_same_seed_and_inputs_give_the_same_outputs() {
    let run = || {
        let (mut world, group) = world_with_group();
        for user in ["alice", "bob"] {
            world.control.set_member(&uid(user), &group, true);
        }
        for _ in 0..20 {
            world.control.publish(&group, 0, &[1], &"text ".repeat(300));
            world.run();
        }
        world.control.break_link(0);
        world.control.attach(0);
        world.settle();
        let histories: Vec<String> = world.clients.iter().flat_map(|client| client.history.clone()).collect();
        (histories, world.hub.stats())
    };
    assert_eq!(run(), run());
}
