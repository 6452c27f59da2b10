//! Connects, joins, pulls, and users who come into groups and go.

mod hub_world;

use hub_world::bench::{Bench, SHARD, connected, group, hello, plain};
use hub_world::control::{epoch, message};
use hub_world::{key, uid, world_with_group};
use tidegate_gateway_core::client::errors::ErrorCode;
use tidegate_gateway_core::client::ops::Op;
use tidegate_gateway_core::hub::HubConfig;
use tidegate_gateway_core::ids::{Cursor, Epoch, Seq, SeqRange, StreamKey};
use tidegate_gateway_core::link::*;
use tidegate_gateway_core::messages::{Hello, ToHub, ToShard};
use tidegate_proto::v1::{self, ok, server_frame::Body};

#[test]
fn the_session_object_comes_first_and_lists_streams_with_news() {
    let mut bench = Bench::new(HubConfig::default());
    let cursor = Cursor { epoch: epoch(&key("g:a"), 1), seq: Seq(3) };
    let cursors = vec![(key("g:a"), cursor.clone()), (key("g:secret"), cursor)];
    bench.shard_says(connected(1, Hello { cursors, reply_to: Some(9), ..hello("alice", plain()) }));
    let corr = bench.last_corr();
    let stands = |head: u64, start: u64, listed: bool, page: Vec<Message>| OpenedStream {
        epoch: epoch(&key("g:a"), 1),
        head: Seq(head),
        first: Seq(1),
        start: Seq(start),
        recovered: Recovered::Full,
        page: Some(page),
        open_group: true,
        listed,
    };
    let page = vec![message(4, "missed", &[]), message(5, "for others", &[7])];
    let opened = Opened { corr, stream: key("g:a"), result: Ok(stands(5, 3, true, page)) };
    bench.link(FromLink::Opened(opened));
    bench.link(FromLink::Opened(Opened { corr, stream: key("u:alice"), result: Ok(stands(2, 2, false, vec![])) }));
    let refused = LinkError { code: ErrorCode::Forbidden, message: "no".into(), retry_after_ms: None, stands: None };
    bench.link(FromLink::Opened(Opened { corr, stream: key("g:secret"), result: Err(refused) }));
    assert!(bench.shard.is_empty());
    bench.link(FromLink::OpenEnd { corr });
    assert!(
        matches!(&bench.shard[0], ToShard::Send(direct) if direct.finishes == Some(9) && direct.recovers.is_none())
    );
    assert!(matches!(&bench.shard[1], ToShard::Send(direct) if direct.recovers.is_some()));
    assert!(matches!(&bench.shard[2], ToShard::AddMember { flushed: Seq(5), gapped: false, inbox: false, .. }));
    assert!(matches!(&bench.shard[3], ToShard::AddMember { flushed: Seq(2), gapped: false, inbox: true, .. }));
    let sent = bench.take_sent();
    let [Body::Ok(v1::Ok { result: Some(ok::Result::Connect(session)) }), Body::Batch(batch), Body::Left(left)] =
        &sent[..]
    else {
        panic!("{sent:?}")
    };
    let listed: Vec<_> = session.streams.iter().map(|s| (s.stream.as_str(), s.head, s.recovered.as_str())).collect();
    assert_eq!(listed, [("g:a", 5, "full")]);
    assert_eq!(session.session_expires_ms, Some(1_790_000_000_000));
    assert_eq!((batch.after, batch.upto, batch.messages.len()), (Some(3), Some(5), 1));
    assert_eq!((left.stream.as_str(), left.seq, left.reason.as_str()), ("g:secret", 0, "forbidden"));
    assert!(matches!(bench.link.last(), Some(ToLink::Online { .. })));
}

#[test]
fn more_than_a_page_is_a_gap_to_pull() {
    let mut bench = Bench::new(HubConfig::default());
    bench.shard_says(connected(1, hello("alice", plain())));
    let corr = bench.last_corr();
    let stands = OpenedStream {
        epoch: epoch(&key("u:alice"), 1),
        head: Seq(500),
        first: Seq(1),
        start: Seq(20),
        recovered: Recovered::Partial,
        page: None,
        open_group: false,
        listed: true,
    };
    bench.link(FromLink::Opened(Opened { corr, stream: key("u:alice"), result: Ok(stands) }));
    bench.link(FromLink::OpenEnd { corr });
    assert!(matches!(bench.shard[2], ToShard::AddMember { flushed: Seq(500), gapped: true, .. }), "{:?}", bench.shard);
    let idx = bench.index_of(500);
    let sent = bench.take_sent();
    let [Body::Welcome(session), Body::Gap(gap)] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!(session.streams[0].recovered, "partial");
    assert_eq!((gap.from, gap.to, gap.head), (21, 500, 500));
    let pull = Op::Pull { stream: key("u:alice"), epoch: None, after: Seq(20), since_ts: None, limit: Some(9_999) };
    bench.request(1, 3, "alice", pull);
    let Some(ToLink::Request { corr, op: LinkOp::Pull { limit: 1_000, .. }, .. }) = bench.link.last() else {
        panic!("{:?}", bench.link)
    };
    let corr = *corr;
    let answer = |after: u64, upto: u64| Pulled {
        stream: key("u:alice"),
        epoch: epoch(&key("u:alice"), 1),
        range: SeqRange { after: Seq(after), upto: Seq(upto) },
        messages: vec![message(upto, "missed", &[]), message(upto, "for others", &[8])],
        head: Seq(500),
        first: Seq(1),
    };
    bench.link(FromLink::Reply { corr, result: Ok(LinkOk::Pulled(answer(20, 300))) });
    assert!(
        matches!(&bench.shard[..], [ToShard::Send(direct)] if direct.reached.is_none() && direct.finishes == Some(3))
    );
    let sent = bench.take_sent();
    let [Body::Ok(v1::Ok { result: Some(ok::Result::Pull(pull)) })] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!((pull.next_after, pull.head, pull.messages.len()), (300, 500, 1));
    let pull = Op::Pull { stream: key("u:alice"), epoch: None, after: Seq(300), since_ts: None, limit: None };
    bench.request(1, 4, "alice", pull);
    let corr = bench.last_corr();
    bench.link(FromLink::Reply { corr, result: Ok(LinkOk::Pulled(answer(300, 500))) });
    assert!(matches!(&bench.shard[..], [ToShard::Send(direct)] if direct.reached == Some((idx, Seq(500)))));
}

#[test]
fn open_groups_are_joined_and_pulled_without_asking_control() {
    let mut bench = group();
    bench.deliver_seqs("g:a", 0, 5);
    bench.shard.clear();
    let epoch = epoch(&key("g:a"), 1);
    bench.request(2, 1, "bob", Op::Join { stream: key("g:a"), cursor: None });
    let cursor = Some(Cursor { epoch: epoch.clone(), seq: Seq(2) });
    bench.request(3, 1, "carol", Op::Join { stream: key("g:a"), cursor });
    assert!(bench.link.is_empty());
    let sent = bench.take_sent();
    let [Body::Ok(_), Body::Ok(_), Body::Batch(batch)] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!(batch.messages.iter().map(|message| message.seq).collect::<Vec<_>>(), [3, 4, 5]);
    let pull = |epoch| Op::Pull { stream: key("g:a"), epoch, after: Seq(1), since_ts: None, limit: Some(2) };
    bench.request(2, 2, "bob", pull(Some(epoch)));
    let sent = bench.take_sent();
    let [Body::Ok(v1::Ok { result: Some(ok::Result::Pull(pulled)) })] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!((pulled.after, pulled.upto, pulled.head), (1, 3, 5));
    bench.request(2, 3, "bob", pull(Some(Epoch::from("other"))));
    let sent = bench.take_sent();
    assert!(
        matches!(&sent[..], [Body::Error(e)] if e.code == "EXPIRED" && e.epoch == "a-1" && e.head == Some(5)),
        "{sent:?}"
    );
    assert!(bench.link.is_empty());
    let stale = Some(Cursor { epoch: Epoch::from("other"), seq: Seq(2) });
    bench.request(4, 1, "dan", Op::Join { stream: key("g:a"), cursor: stale });
    assert!(matches!(bench.link[..], [ToLink::Open { .. }]), "an unknown epoch is control's to judge");
}

#[test]
fn a_foreign_inbox_is_always_controls_to_judge() {
    let mut bench = Bench::new(HubConfig::default());
    bench.connect(1, hello("alice", plain()), &[("u:alice", 7, false)]);
    bench.shard.clear();
    bench.link.clear();
    let own = Op::Pull { stream: key("u:alice"), epoch: None, after: Seq(7), since_ts: None, limit: None };
    bench.request(1, 1, "alice", own);
    assert!(bench.link.is_empty());
    assert_eq!(bench.take_sent().len(), 1);
    for (id, op) in [
        Op::Head { stream: key("u:alice") },
        Op::Pull { stream: key("u:alice"), epoch: None, after: Seq(7), since_ts: None, limit: None },
        Op::Join { stream: key("u:alice"), cursor: None },
    ]
    .into_iter()
    .enumerate()
    {
        bench.request(2, id as u32, "mallory", op);
        assert_eq!(bench.link.len(), id + 1);
    }
    assert!(bench.take_sent().is_empty());
}

#[test]
fn sync_answers_changed_streams_in_pages() {
    let mut bench = group();
    let cursor = |seq: u64| Cursor { epoch: epoch(&key("g:a"), 1), seq: Seq(seq) };
    let cursors: Vec<(StreamKey, Cursor)> = (0..1_500).map(|n| (key(&format!("g:{n}")), cursor(5))).collect();
    bench.request(1, 1, "alice", Op::Sync { cursors });
    let Some(ToLink::Request { corr, op: LinkOp::Heads { streams }, .. }) = bench.link.last() else { panic!() };
    let corr = *corr;
    let refused = LinkError { code: ErrorCode::Forbidden, message: "no".into(), retry_after_ms: None, stands: None };
    let heads = streams.iter().enumerate().map(|(n, stream)| {
        let head = Head { epoch: epoch(&key("g:a"), 1), head: Seq(if n % 5 == 0 { 5 } else { 9 }), first: Seq(1) };
        (stream.clone(), if n % 7 == 0 { Err(refused.clone()) } else { Ok(head) })
    });
    let heads: Vec<_> = heads.collect();
    bench.link(FromLink::Reply { corr, result: Ok(LinkOk::Heads(heads)) });
    let sent = bench.take_sent();
    let [Body::Ok(v1::Ok { result: Some(ok::Result::Sync(sync)) })] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!((sync.streams.len(), sync.more), (1_000, true));
    assert!(sync.streams.iter().all(|stream| stream.head == 9));
}

#[test]
fn live_connections_come_into_a_group_and_go_out_of_it() {
    let (mut world, group) = world_with_group();
    world.control.set_member(&uid("bob"), &group, true);
    world.settle();
    world.control.set_member(&uid("alice"), &group, true);
    world.control.publish(&group, 0, &[], "welcome");
    world.settle();
    world.check();
    for client in &world.clients {
        assert!(client.streams[&group].member, "{} was not told", client.uid);
        assert!(client.streams[&group].seen.contains(&3), "{} missed the message", client.uid);
    }
    world.control.set_member(&uid("alice"), &group, false);
    let after = world.control.publish(&group, 0, &[], "not for alice");
    world.settle();
    world.check();
    for client in &world.clients {
        let follow = &client.streams[&group];
        assert_eq!(follow.member, client.uid == uid("bob"));
        assert_eq!(follow.seen.contains(&after), client.uid == uid("bob"));
    }
    world.check_forgets();
}

#[test]
fn joining_a_joined_stream_brings_nothing_twice() {
    let (mut world, _) = world_with_group();
    let group = world.control.create("g:open", true);
    world.join(0, &group);
    world.settle();
    for _ in 0..5 {
        world.control.publish(&group, 0, &[], "hello");
        world.settle();
    }
    let asked = world.control.asked;
    let batches = world.clients[0].batches;
    for seq in [0, 2, 5] {
        let cursor = Some(Cursor { epoch: epoch(&group, 1), seq: Seq(seq) });
        world.request(0, Op::Join { stream: group.clone(), cursor });
    }
    world.settle();
    assert_eq!(world.clients[0].batches, batches);
    assert_eq!(world.control.asked, asked, "answered from the hot tail");
    world.check();
}

/// A device's mark at the head, while the head still waits in the window.
fn start_at(bench: &mut Bench, index: u32, seq: u64) {
    bench.shard_says(connected(index, hello("alice", plain())));
    let corr = bench.last_corr();
    bench.answer_open(corr, &[("u:alice", seq, false)]);
}

#[test]
fn a_connection_that_starts_above_what_was_flushed_has_the_window_flushed_first() {
    let mut bench = Bench::new(HubConfig::default());
    bench.connect(1, hello("alice", plain()), &[("u:alice", 0, false)]);
    bench.deliver_seqs("u:alice", 0, 1);
    bench.deliver_seqs("u:alice", 1, 2);
    bench.shard.clear();
    start_at(&mut bench, 2, 2);
    assert!(
        matches!(&bench.shard[0], ToShard::Fanout(fanout) if fanout.range.is_some_and(|range| range.upto == Seq(2)))
    );
    assert!(matches!(bench.shard.last(), Some(ToShard::AddMember { flushed: Seq(2), gapped: false, .. })));
}

#[test]
fn it_waits_for_the_fanout_that_keeps_the_window_from_leaving() {
    let mut bench = Bench::new(HubConfig { fanout_slice: 1, ..HubConfig::default() });
    for index in 1..=2 {
        bench.connect(index, hello("alice", plain()), &[("u:alice", 0, false)]);
    }
    let stream = bench.index_of(0);
    bench.deliver_seqs("u:alice", 0, 1);
    bench.deliver_seqs("u:alice", 1, 2);
    bench.shard.clear();
    start_at(&mut bench, 3, 2);
    assert!(bench.shard.is_empty(), "{:?}", bench.shard);
    bench.shard_says(ToHub::FanoutDone { shard: SHARD, stream });
    let [ToShard::Fanout(_), ToShard::Send(_), ToShard::AddMember { flushed: Seq(2), .. }] = bench.shard[..] else {
        panic!("{:?}", bench.shard)
    };
}

#[test]
fn a_pull_never_seems_to_reach_the_head_below_what_was_flushed() {
    let mut bench = Bench::new(HubConfig::default());
    bench.connect(1, hello("alice", plain()), &[("u:bob", 0, false)]);
    bench.request(
        1,
        1,
        "alice",
        Op::Pull { stream: key("u:bob"), epoch: None, after: Seq(0), since_ts: None, limit: None },
    );
    let corr = bench.last_corr();
    bench.deliver_seqs("u:bob", 0, 3);
    bench.shard.clear();
    let stream = key("u:bob");
    let pulled = Pulled {
        epoch: epoch(&stream, 1),
        stream,
        range: SeqRange { after: Seq(0), upto: Seq(2) },
        messages: Vec::new(),
        head: Seq(2),
        first: Seq(1),
    };
    bench.link(FromLink::Reply { corr, result: Ok(LinkOk::Pulled(pulled)) });
    assert!(matches!(&bench.shard[..], [ToShard::Send(direct)] if direct.reached.is_none()));
    let sent = bench.take_sent();
    let [Body::Ok(v1::Ok { result: Some(ok::Result::Pull(pull)) })] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!((pull.next_after, pull.head), (2, 3));
}

fn membership(bench: &mut Bench, seq: u64, joined: bool) {
    let position = bench.position();
    let (uid, stream) = (uid("alice"), key("g:closed"));
    let (epoch, reason) = (epoch(&stream, 1), "removed".into());
    bench.link(FromLink::Membership { uid, stream, epoch, seq: Seq(seq), joined, reason, position });
}

#[test]
fn who_is_taken_out_while_the_open_waits_does_not_become_a_member() {
    let mut bench = Bench::new(HubConfig::default());
    bench.connect(1, hello("bob", plain()), &[("g:closed", 3, false)]);
    bench.shard_says(connected(2, hello("alice", plain())));
    let corr = bench.last_corr();
    bench.shard.clear();
    let stands = OpenedStream {
        epoch: epoch(&key("g:closed"), 1),
        head: Seq(3),
        first: Seq(1),
        start: Seq(3),
        recovered: Recovered::Full,
        page: None,
        open_group: false,
        listed: true,
    };
    bench.link(FromLink::Opened(Opened { corr, stream: key("g:closed"), result: Ok(stands) }));
    membership(&mut bench, 4, false);
    bench.link(FromLink::OpenEnd { corr });
    let added = bench.shard.iter().filter(|command| matches!(command, ToShard::AddMember { .. }));
    assert_eq!(added.count(), 0, "{:?}", bench.shard);
    let sent = bench.take_sent();
    assert!(matches!(&sent[..], [Body::Welcome(session)] if session.streams.is_empty()), "{sent:?}");
}

#[test]
fn who_comes_into_a_group_while_connecting_is_invited_behind_the_session_object() {
    let mut bench = Bench::new(HubConfig::default());
    bench.connect(1, hello("bob", plain()), &[("g:closed", 3, false)]);
    bench.shard_says(connected(2, hello("alice", plain())));
    let corr = bench.last_corr();
    bench.shard.clear();
    bench.deliver_seqs("g:closed", 3, 4);
    membership(&mut bench, 4, true);
    bench.shard.clear();
    bench.answer_open(corr, &[("u:alice", 0, false)]);
    let [ToShard::Send(_), ToShard::AddMember { inbox: true, .. }, ToShard::Invite { flushed: Seq(4), stream, .. }] =
        bench.shard[..]
    else {
        panic!("{:?}", bench.shard)
    };
    bench.shard.clear();
    bench.shard_says(ToHub::Invited { shard: SHARD, stream, added: 1 });
    assert_eq!(bench.hub.stats().memberships, 3);
}
