//! Several partitions: each comes and goes by itself, and a client sees one server.

mod hub_world;

use std::collections::BTreeSet;

use hub_world::bench::{Bench, conn, connected, hello, plain};
use hub_world::control::{epoch, message};
use hub_world::{World, config, key, uid, with_group};
use tidegate_gateway_core::client::errors::ErrorCode;
use tidegate_gateway_core::client::ops::{Content, Op, Send};
use tidegate_gateway_core::hub::{CREDIT_BYTES, HubConfig, PartitionsChanged};
use tidegate_gateway_core::ids::{Cursor, Seq, SeqRange, StreamKey};
use tidegate_gateway_core::link::*;
use tidegate_gateway_core::messages::{ToHub, ToShard};
use tidegate_proto::v1::{self, ok, server_frame::Body};

fn bench(partitions: u32) -> Bench {
    Bench::with_partitions(HubConfig::default(), partitions)
}

fn of(stream: &str) -> PartitionId {
    Partitions::new(3).expect("a valid count").of(stream)
}

/// The first groups, one in each of three partitions, in the order of the partitions.
fn groups() -> [StreamKey; 3] {
    [0, 1, 2].map(|at| {
        let names = (0..).map(|n| format!("g:{n}"));
        let name = names.into_iter().find(|name| of(name) == PartitionId(at));
        key(&name.expect("some group is there"))
    })
}

fn publish_all(world: &mut World, content: &str) {
    for group in groups() {
        world.control.publish(&group, 0, &[], content);
    }
}

fn stands(stream: &StreamKey, head: u64, listed: bool) -> OpenedStream {
    OpenedStream {
        epoch: epoch(stream, 1),
        head: Seq(head),
        first: Seq(1),
        start: Seq(head),
        recovered: Recovered::Full,
        page: Some(Vec::new()),
        open_group: false,
        listed,
    }
}

fn opens(bench: &mut Bench) -> Vec<(PartitionId, Corr, Vec<OpenStream>, bool)> {
    let items = bench.take_link().into_iter();
    let opens = items.filter_map(|(partition, item)| match item {
        ToLink::Open { corr, streams, auto_join, .. } => Some((partition, corr, streams, auto_join)),
        _ => None,
    });
    opens.collect()
}

fn grant(bench: &mut Bench, (partition, corr): (PartitionId, Corr), streams: &[&StreamKey]) {
    for stream in streams {
        let opened = Opened { corr, stream: (*stream).clone(), result: Ok(stands(stream, 4, true)) };
        bench.link_of(partition, FromLink::Opened(opened));
    }
}

/// Alice connects, and her inbox's partition names a group in each of the others.
fn connecting(bench: &mut Bench) -> ((PartitionId, Corr), [StreamKey; 3]) {
    let (inbox, groups) = (key("u:alice"), groups());
    bench.shard_says(connected(1, hello("alice", plain())));
    let asked = opens(bench);
    let [(partition, corr, streams, true)] = &asked[..] else { panic!("one question: {asked:?}") };
    assert_eq!((*partition, streams.len()), (of("u:alice"), 0));
    let at = (*partition, *corr);
    grant(bench, at, &[&inbox]);
    let elsewhere = groups.iter().filter(|group| of(group.as_str()) != at.0).cloned().collect();
    bench.link_of(at.0, FromLink::Also { corr: at.1, streams: elsewhere });
    (at, groups)
}

#[test]
fn what_lies_elsewhere_is_opened_there_and_listed_once_in_one_session_object() {
    let mut bench = bench(3);
    let (at, groups) = connecting(&mut bench);
    let asked = opens(&mut bench);
    assert_eq!(asked.len(), 2, "one question to each of the others: {asked:?}");
    bench.link_of(at.0, FromLink::OpenEnd { corr: at.1 });
    for (partition, corr, streams, auto_join) in asked {
        assert!(bench.take_sent().is_empty(), "a part is not the whole");
        let [OpenStream { stream, cursor: None, auto: true }] = &streams[..] else { panic!("{streams:?}") };
        assert_eq!((of(stream.as_str()), auto_join), (partition, false));
        grant(&mut bench, (partition, corr), &[stream]);
        bench.link_of(partition, FromLink::OpenEnd { corr });
    }
    let commands = std::mem::take(&mut bench.shard);
    assert!(matches!(commands[0], ToShard::Send(_)), "the session object goes first: {commands:?}");
    let members = commands.iter().filter(|command| matches!(command, ToShard::AddMember { .. }));
    assert_eq!(members.count(), 3, "the inbox and two groups");
    bench.shard = commands;
    let sent = bench.take_sent();
    let [Body::Welcome(session)] = &sent[..] else { panic!("{sent:?}") };
    let listed: Vec<&str> = session.streams.iter().map(|stream| stream.stream.as_str()).collect();
    let mut expected: BTreeSet<&str> = groups.iter().map(StreamKey::as_str).filter(|group| of(group) != at.0).collect();
    expected.insert("u:alice");
    assert_eq!(listed.len(), expected.len(), "each once: {listed:?}");
    assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), expected);
}

#[test]
fn only_the_part_whose_partition_went_down_is_asked_again_and_what_is_named_twice_is_opened_once() {
    let mut bench = bench(3);
    let (at, groups) = connecting(&mut bench);
    let first = opens(&mut bench);
    for (partition, corr, streams, _) in &first {
        grant(&mut bench, (*partition, *corr), &[&streams[0].stream]);
        bench.link_of(*partition, FromLink::OpenEnd { corr: *corr });
    }
    // The inbox's partition breaks before it has said that this is all.
    bench.link_of(at.0, FromLink::Down);
    assert!(opens(&mut bench).is_empty());
    bench.link_of(at.0, FromLink::Up);
    let again = opens(&mut bench);
    let [(partition, corr, _, true)] = again[..] else { panic!("{again:?}") };
    assert_eq!(partition, at.0);
    grant(&mut bench, (partition, corr), &[&key("u:alice")]);
    let elsewhere: Vec<StreamKey> = groups.iter().filter(|group| of(group.as_str()) != at.0).cloned().collect();
    bench.link_of(partition, FromLink::Also { corr, streams: elsewhere });
    assert!(opens(&mut bench).is_empty(), "they are open already");
    bench.link_of(partition, FromLink::OpenEnd { corr });
    let sent = bench.take_sent();
    let [Body::Welcome(session)] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!(session.streams.len(), 3);
}

#[test]
fn an_open_waits_for_the_partition_that_is_down_and_for_no_other() {
    let (mut world, _) = with_group(3);
    let groups = groups();
    for group in &groups {
        world.control.create(group.as_str(), true);
    }
    world.settle();
    // The inbox is needed for everything, so another one goes.
    let down = (world.control.partition(&key("u:alice")) + 1) % 3;
    world.control.break_link(down);
    world.run();
    for group in &groups {
        world.join(0, group);
    }
    world.settle();
    let member = |world: &World, at: usize| world.clients[0].streams.get(&groups[at]).is_some_and(|f| f.member);
    assert_eq!([0, 1, 2].map(|at| member(&world, at)), [0, 1, 2].map(|at| at != down));
    let up = &groups[(down + 1) % 3];
    world.control.publish(up, 0, &[], "live goes on");
    world.settle();
    assert_eq!(world.clients[0].streams[up].last, Some(1));
    world.control.new_owner(down);
    world.control.attach(down);
    world.settle();
    assert!(member(&world, down));
    world.check();
    world.check_forgets();
}

#[test]
fn an_owner_changes_in_the_middle_of_traffic_without_hole_or_twin() {
    let (mut world, closed) = with_group(3);
    let groups = groups();
    for group in &groups {
        world.control.create(group.as_str(), true);
    }
    for user in ["alice", "bob"] {
        world.control.set_member(&uid(user), &closed, true);
    }
    for who in 0..4 {
        groups.iter().for_each(|group| world.join(who, group));
    }
    world.settle();
    for round in 0..9 {
        let partition = round % 3;
        publish_all(&mut world, "before");
        for _ in 0..round {
            world.link_step_of(partition);
        }
        world.control.break_link(partition);
        publish_all(&mut world, "meanwhile");
        world.run();
        world.control.new_owner(partition);
        world.control.attach(partition);
        publish_all(&mut world, "after");
        world.run();
        // The owner before it still speaks.
        let group = &groups[partition];
        let position = world.control.position(partition, 1_000);
        let position = Position { owner_epoch: position.owner_epoch - 1, ..position };
        let head = world.control.streams[group].head;
        let range = Some(SeqRange { after: Seq(head), upto: Seq(head + 1) });
        let messages = vec![message(head + 1, "of a zombie", &[])];
        let stale = Deliver { position, stream: group.clone(), epoch: epoch(group, 1), range, messages, bytes: 9 };
        world.control.partitions[partition].down.push_back(FromLink::Deliver(stale));
        world.run();
    }
    world.settle();
    assert_eq!(world.hub.stats().stale_owner_dropped, 9);
    world.check();
    world.check_forgets();
}

#[test]
fn a_partition_that_comes_up_is_told_who_is_here() {
    let mut world = World::with_partitions(5, 2, config(), 3);
    let users: Vec<String> = (0..8).map(|n| format!("user{n}")).collect();
    for user in &users {
        world.control.create(&format!("u:{user}"), false);
        for _ in 0..2 {
            let who = world.client(user);
            world.connect(who, true);
        }
    }
    world.settle();
    world.check();
    for partition in 0..3 {
        world.control.break_link(partition);
        world.control.new_owner(partition);
        assert!(world.control.partitions[partition].online.is_empty());
    }
    world.run();
    for partition in [2, 0] {
        world.control.attach(partition);
        world.run();
    }
    // One goes while it is being told, and one of them breaks and comes back.
    world.disconnect(3);
    world.control.break_link(0);
    world.control.attach(0);
    world.control.attach(1);
    world.settle();
    world.check();
    world.check_forgets();
}

#[test]
fn who_still_waits_for_a_session_object_is_not_told_of_twice() {
    let mut bench = bench(1);
    bench.shard_says(connected(1, hello("alice", plain())));
    bench.link(FromLink::Down);
    bench.link(FromLink::Up);
    bench.pass(10);
    let asks = std::mem::take(&mut bench.shard);
    assert!(matches!(asks[..], [ToShard::TellPresent { from: 0, .. }]), "{asks:?}");
    let class = plain();
    let who = Box::new(tidegate_gateway_core::messages::Requester { uid: uid("alice"), device: "d".into(), class });
    bench.take_link();
    bench.shard_says(ToHub::Present { conn: conn(1), who, connection_id: "c".into() });
    bench.shard_says(ToHub::PresentTold { shard: hub_world::bench::SHARD, next: None });
    assert!(bench.take_link().is_empty(), "it is told of behind its session object");
}

fn sync(bench: &mut Bench) -> Vec<(PartitionId, Corr, Vec<StreamKey>)> {
    let cursor = |stream: &StreamKey| Cursor { epoch: epoch(stream, 1), seq: Seq(5) };
    let cursors = groups().into_iter().rev().map(|group| (group.clone(), cursor(&group))).collect();
    bench.request(1, 9, "alice", Op::Sync { cursors });
    let items = bench.take_link().into_iter();
    let asked = items.map(|(partition, item)| match item {
        ToLink::Request { corr, op: LinkOp::Heads { streams }, .. } => (partition, corr, streams),
        other => panic!("not a question: {other:?}"),
    });
    asked.collect()
}

fn heads(streams: &[StreamKey]) -> LinkOk {
    let head = |stream: &StreamKey| Head { epoch: epoch(stream, 1), head: Seq(9), first: Seq(1) };
    LinkOk::Heads(streams.iter().map(|stream| (stream.clone(), Ok(head(stream)))).collect())
}

#[test]
fn sync_over_several_partitions_has_one_answer_in_the_order_of_the_question() {
    let mut bench = bench(3);
    let asked = sync(&mut bench);
    assert_eq!(asked.len(), 3);
    for (partition, corr, streams) in asked {
        assert!(bench.take_sent().is_empty());
        assert!(streams.iter().all(|stream| of(stream.as_str()) == partition));
        bench.link_of(partition, FromLink::Reply { corr, result: Ok(heads(&streams)) });
    }
    let sent = bench.take_sent();
    let [Body::Ok(v1::Ok { result: Some(ok::Result::Sync(sync)) })] = &sent[..] else { panic!("{sent:?}") };
    let listed: Vec<&str> = sync.streams.iter().map(|stream| stream.stream.as_str()).collect();
    let groups = groups();
    assert_eq!(listed, groups.iter().rev().map(StreamKey::as_str).collect::<Vec<_>>());
    assert_eq!(bench.hub.stats().requests_pending, 0);
}

#[test]
fn sync_ends_once_when_a_partition_that_was_asked_goes_down() {
    let mut bench = bench(3);
    let asked = sync(&mut bench);
    let (partition, corr, streams) = &asked[0];
    bench.link_of(*partition, FromLink::Reply { corr: *corr, result: Ok(heads(streams)) });
    bench.link_of(asked[1].0, FromLink::Down);
    let (partition, corr, streams) = &asked[2];
    bench.link_of(*partition, FromLink::Reply { corr: *corr, result: Ok(heads(streams)) });
    let sent = bench.take_sent();
    assert!(matches!(&sent[..], [Body::Error(error)] if error.code == "UNAVAILABLE" && error.retry), "{sent:?}");
    assert_eq!(bench.hub.stats().requests_pending, 0);
}

#[test]
fn a_partition_that_is_down_answers_for_itself_alone() {
    let mut bench = bench(3);
    let groups = groups();
    bench.link_of(PartitionId(1), FromLink::Down);
    for (at, group) in groups.iter().enumerate() {
        bench.request(1, at as u32, "alice", Op::Head { stream: group.clone() });
    }
    let went: Vec<PartitionId> = bench.take_link().into_iter().map(|(partition, _)| partition).collect();
    assert_eq!(went, [PartitionId(0), PartitionId(2)]);
    assert!(matches!(&bench.take_sent()[..], [Body::Error(error)] if error.code == "UNAVAILABLE" && error.retry));
}

#[test]
fn what_one_says_to_another_goes_to_their_conversation() {
    let mut bench = bench(3);
    for (from, to) in [("alice", "bob"), ("bob", "alice"), ("carol", "alice"), ("alice", "alice")] {
        let send = Send {
            to: key(&format!("u:{to}")),
            client_msg_id: "".into(),
            kind: "text".into(),
            content: Content::Text("hi".into()),
            metadata: "".into(),
            ephemeral: false,
            priority: None,
        };
        bench.request(1, 1, from, Op::Send(Box::new(send)));
        let (a, b) = (from.min(to), from.max(to));
        let went = bench.take_link();
        assert!(matches!(went[..], [(partition, ToLink::Request { .. })] if partition == of(&format!("c:{a}:{b}"))));
    }
}

#[test]
fn credit_is_given_back_to_the_attachment_that_brought_it() {
    let mut bench = bench(3);
    let groups = groups();
    let half = CREDIT_BYTES as u32 / 2 + 1;
    let deliver = |bench: &mut Bench, at: u32| {
        let (partition, stream) = (PartitionId(at), groups[at as usize].clone());
        let position = Position { partition, owner_epoch: 1, lsn: 1 };
        let epoch = epoch(&stream, 1);
        let deliver =
            Deliver { position, stream, epoch, range: None, messages: vec![message(0, "", &[])], bytes: half };
        bench.link_of(partition, FromLink::Deliver(deliver));
        bench.take_link()
    };
    assert!(deliver(&mut bench, 0).is_empty() && deliver(&mut bench, 1).is_empty(), "half of a chunk each");
    let went = deliver(&mut bench, 1);
    assert!(
        matches!(went[..], [(PartitionId(1), ToLink::Credit { bytes })] if bytes == 2 * u64::from(half)),
        "{went:?}"
    );
}

#[test]
fn another_number_of_partitions_is_refused() {
    let mut bench = bench(3);
    let count = |count| Partitions::new(count).expect("a valid count");
    assert_eq!(bench.hub.set_partitions(bench.now, count(3)), Ok(()));
    assert_eq!(bench.hub.set_partitions(bench.now, count(4)), Err(PartitionsChanged { known: 3, told: 4 }));
    assert_eq!((bench.hub.stats().partitions, bench.hub.stats().partitions_up), (3, 3));
}

#[test]
fn who_comes_before_the_number_of_partitions_is_known_waits_for_it() {
    let mut bench = Bench::without_partitions(HubConfig::default());
    bench.shard_says(connected(1, hello("alice", plain())));
    bench.request(2, 1, "bob", Op::Head { stream: key("g:a") });
    assert!(bench.take_link().is_empty());
    assert!(matches!(&bench.take_sent()[..], [Body::Error(error)] if error.code == "UNAVAILABLE"));
    bench.hub.set_partitions(bench.now, Partitions::new(3).expect("a valid count")).expect("told once");
    bench.link_of(of("u:alice"), FromLink::Up);
    let asked = opens(&mut bench);
    assert!(matches!(asked[..], [(partition, _, _, true)] if partition == of("u:alice")), "{asked:?}");
}

#[test]
fn anothers_word_of_a_membership_is_asked_for_at_the_groups_partition() {
    let mut bench = bench(3);
    let (at, groups) = connecting(&mut bench);
    for (partition, corr, streams, _) in opens(&mut bench) {
        grant(&mut bench, (partition, corr), &[&streams[0].stream]);
        bench.link_of(partition, FromLink::OpenEnd { corr });
    }
    bench.link_of(at.0, FromLink::OpenEnd { corr: at.1 });
    bench.take_link();
    bench.shard.clear();
    let group = groups.iter().find(|group| of(group.as_str()) != at.0).expect("two of three");
    let said = |bench: &mut Bench, joined: bool, lsn: u64| {
        let (uid, stream, epoch) = (uid("alice"), group.clone(), epoch(group, 1));
        let position = Position { partition: at.0, owner_epoch: 1, lsn };
        let reason = "removed".into();
        bench.link_of(at.0, FromLink::Membership { uid, stream, epoch, seq: Seq(5), joined, reason, position });
    };
    said(&mut bench, false, 1);
    assert!(bench.shard.is_empty(), "the group's own partition says who leaves: {:?}", bench.shard);
    said(&mut bench, true, 2);
    let asked = opens(&mut bench);
    let [(partition, corr, ..)] = asked[..] else { panic!("{asked:?}") };
    assert_eq!(partition, of(group.as_str()));
    let no = LinkError { code: ErrorCode::Forbidden, message: "no".into(), retry_after_ms: None, stands: None };
    bench.link_of(partition, FromLink::Opened(Opened { corr, stream: group.clone(), result: Err(no) }));
    bench.link_of(partition, FromLink::OpenEnd { corr });
    assert!(bench.shard.is_empty(), "it knew better: {:?}", bench.shard);
}
