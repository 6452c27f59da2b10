//! What the hub believed and must not believe any more: lost histories, places that cannot be replayed, dropped interest, and
//! groups that ended.

mod hub_world;

use hub_world::bench::{Bench, connected, hello, plain};
use hub_world::control::{epoch, message};
use hub_world::{frames, key};
use tidegate_gateway_core::client::errors::ErrorCode;
use tidegate_gateway_core::client::ops::Op;
use tidegate_gateway_core::hub::HubConfig;
use tidegate_gateway_core::ids::{Epoch, Seq, SeqRange};
use tidegate_gateway_core::link::*;
use tidegate_gateway_core::messages::{ToHub, ToShard};
use tidegate_proto::v1::server_frame::Body;

const PARTITION: PartitionId = PartitionId(0);

fn place(owner_epoch: u64, lsn: u64) -> Position {
    Position { partition: PARTITION, owner_epoch, lsn }
}

/// A member of its inbox and of two groups, on a gateway that stands at (7, 40) of a history.
fn attached() -> Bench {
    let mut bench = Bench::new(HubConfig::default());
    bench.link(FromLink::Down);
    bench.link(FromLink::History { history: 11 });
    bench.link(FromLink::Up);
    bench.link(FromLink::Position(place(7, 40)));
    bench.connect(1, hello("alice", plain()), &[("u:alice", 0, false), ("g:a", 0, true), ("g:_all", 0, true)]);
    bench.shard.clear();
    bench.link.clear();
    bench
}

fn announced(bench: &mut Bench, history: u64) -> Vec<Position> {
    bench.link(FromLink::Down);
    bench.link(FromLink::History { history });
    bench.link(FromLink::Up);
    let link = std::mem::take(&mut bench.link);
    let announce = link.into_iter().find_map(|item| match item {
        ToLink::Announce { position, .. } => Some(Vec::from_iter(position)),
        _ => None,
    });
    announce.expect("announced")
}

fn deliver(stream: &str, epoch: Epoch, position: Position) -> FromLink {
    let range = Some(SeqRange { after: Seq(0), upto: Seq(1) });
    let messages = vec![message(1, "hello", &[])];
    FromLink::Deliver(Deliver { position, stream: key(stream), epoch, range, messages, bytes: 100 })
}

#[test]
fn a_place_in_a_history_that_was_lost_is_forgotten_and_the_new_owner_is_believed() {
    let mut bench = attached();
    assert_eq!(announced(&mut bench, 11), [place(7, 40)], "the same log");
    assert_eq!(announced(&mut bench, 12), [], "another log");
    bench.link(deliver("u:alice", epoch(&key("u:alice"), 2), place(1, 3)));
    assert_eq!(bench.hub.stats().stale_owner_dropped, 0);
    assert_eq!(bench.hub.stats().new_epochs, 1, "its owner counts from the beginning");
}

#[test]
fn within_one_history_an_older_owner_is_not_heard() {
    let mut bench = attached();
    announced(&mut bench, 11);
    bench.link(deliver("u:alice", epoch(&key("u:alice"), 2), place(6, 41)));
    assert_eq!((bench.hub.stats().stale_owner_dropped, bench.hub.stats().new_epochs), (1, 0));
}

#[test]
fn after_a_reset_groups_are_left_in_silence_and_connections_come_back() {
    let mut bench = attached();
    bench.link(FromLink::Reset(place(7, 90)));
    let (mut dismissed, mut reopened) = (0, 0);
    for command in &bench.shard {
        match command {
            ToShard::Dismiss { frames, .. } => {
                assert!(frames.is_empty(), "who is told `left` forgets its place");
                dismissed += 1;
            }
            ToShard::Reopen => reopened += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((dismissed, reopened), (1, 1), "the group; neither the inbox nor everybody");
    bench.link.clear();
    bench.request(1, 5, "bob", Op::Join { stream: key("g:a"), cursor: None });
    assert!(matches!(bench.link[..], [ToLink::Open { .. }]), "control is asked whether it is still open");
}

#[test]
fn an_answer_that_crossed_the_word_that_its_stream_is_forgotten_is_asked_for_again() {
    let mut bench = attached();
    let idx = bench.hub.stats().streams;
    bench.connect(2, hello("bob", plain()), &[("u:bob", 5, false)]);
    assert_eq!(bench.hub.stats().streams, idx + 1);
    let stream = bench.index_of(5);
    let conn = hub_world::bench::conn(2);
    bench.shard_says(ToHub::Left { conn, streams: [stream].into_iter().collect(), class: plain() });
    bench.pass(4_900);
    bench.shard_says(connected(3, hello("bob", plain())));
    let corr = bench.last_corr();
    bench.pass(200);
    assert!(matches!(bench.link.last(), Some(ToLink::Forget { .. })), "{:?}", bench.link);
    bench.link.clear();
    bench.shard.clear();
    bench.answer_open(corr, &[("u:bob", 5, false)]);
    assert!(bench.shard.is_empty(), "control has dropped the interest: {:?}", bench.shard);
    assert!(matches!(bench.link[..], [ToLink::Open { corr: again, .. }] if again == corr), "{:?}", bench.link);
    bench.answer_open(corr, &[("u:bob", 6, false)]);
    assert!(matches!(&bench.take_sent()[..], [Body::Welcome(_)]));
}

#[test]
fn an_open_that_was_granted_a_group_before_its_end_does_not_join_what_follows() {
    let mut bench = attached();
    // The inbox has a hole, so that the session waits.
    bench.shard_says(connected(2, hello("alice", plain())));
    let corr = bench.last_corr();
    bench.answer_open(corr, &[("g:a", 0, true), ("u:alice", 9, false)]);
    assert!(!bench.shard.iter().any(|command| matches!(command, ToShard::Send(_))), "{:?}", bench.shard);
    let gone = LinkError { code: ErrorCode::NotFound, message: "".into(), retry_after_ms: None, stands: None };
    bench.link(FromLink::Opened(Opened { corr: 0, stream: key("g:a"), result: Err(gone) }));
    bench.shard.clear();
    let messages: Vec<Message> = (1..=9).map(|seq| message(seq, "hello", &[])).collect();
    let (stream, range) = (key("u:alice"), Some(SeqRange { after: Seq(0), upto: Seq(9) }));
    let epoch = epoch(&stream, 1);
    let position = place(7, 41);
    bench.link(FromLink::Deliver(Deliver { position, stream, epoch, range, messages, bytes: 100 }));
    let joined = bench.shard.iter().filter(|command| matches!(command, ToShard::AddMember { .. })).count();
    assert_eq!(joined, 1, "the inbox alone: {:?}", bench.shard);
    let told = bench.shard.iter().find_map(|command| match command {
        ToShard::Send(direct) => frames::decode(plain().encoding, &direct.frame).body,
        _ => None,
    });
    assert!(matches!(told, Some(Body::Welcome(_))));
}
