//! One of several partitions: streams of others are not its own, and what it owes them leaves as errands.

use super::*;
use crate::domain::{Lsn, Record};
use crate::ports::memory::Fault;
use crate::ports::{Consumed, Progress};

const PARTITIONS: u32 = 3;

/// The partition that has this stream.
fn rig_of(name: &str) -> Rig {
    let config = PartitionConfig { auto_groups: true, partitions: PARTITIONS, ..PartitionConfig::default() };
    Rig::of(PartitionId::of(&stream(name), PARTITIONS), config)
}

fn send(who: &str, to: &str, key: &str) -> Push {
    Push { sender: Some(uid(who)), client_msg_id: key.into(), ..push(to, "hi") }
}

fn stored(rig: &Rig) -> Progress {
    use crate::ports::MessageStore as _;
    rig.partition.store().progress()
}

fn errands(out: &[Output]) -> Vec<(Lsn, Errand)> {
    let errands = out.iter().filter_map(|output| match output {
        Output::Errand { lsn, errand } => Some((*lsn, errand.clone())),
        _ => None,
    });
    errands.collect()
}

/// Two names `prefix1`, `prefix2` … of which the first belongs to the partition of `with` and the second does not.
fn near_and_far(prefix: &str, with: &str) -> (String, String) {
    let home = PartitionId::of(&stream(with), PARTITIONS);
    let names = || (1..100).map(|at| format!("{prefix}{at}"));
    let near = names().find(|name| PartitionId::of(&stream(name), PARTITIONS) == home).expect("one is near");
    let far = names().find(|name| PartitionId::of(&stream(name), PARTITIONS) != home).expect("one is far");
    (near, far)
}

#[test]
fn a_one_to_one_message_is_sequenced_in_its_conversation_and_owed_to_both_inboxes() {
    let mut rig = rig_of("c:ann:bob");
    let input = rig.command(Command::Push(Box::new(send("ann", "u:bob", "k1"))));
    let out = rig.turn(vec![input]);
    let owed = errands(&out);
    assert_eq!(
        owed.iter().map(|(lsn, errand)| (lsn.0, errand.to().as_str())).collect::<Vec<_>>(),
        [(1, "ann"), (1, "bob")]
    );
    let records = rig.disk.records();
    let Record::Append(append) = &records[0].1 else { panic!("a message") };
    assert_eq!(append.places.iter().map(|place| place.stream.as_str()).collect::<Vec<_>>(), ["c:ann:bob"]);
    // A successor finds the same in the log.
    let again = errands_of(&records[0].1, rig.partition.origin().partition, PARTITIONS);
    assert_eq!(format!("{again:?}"), format!("{:?}", owed.iter().map(|(_, errand)| errand).collect::<Vec<_>>()));
    assert_eq!(rig.push(send("ann", "u:bob", "k1")), (Seq(1), true), "the key is known in the conversation");
}

#[test]
fn an_entry_that_arrives_twice_stands_once_and_names_its_conversation() {
    let mut conversation = rig_of("c:ann:bob");
    let input = conversation.command(Command::Push(Box::new(send("ann", "u:bob", "k1"))));
    let (_, entry) = errands(&conversation.turn(vec![input])).pop().expect("owed to bob");
    let mut rig = rig_of("u:bob");
    rig.attach(GATEWAY, 1 << 20);
    rig.turn(vec![Input::Interest { gateway: GATEWAY, add: vec![stream("u:bob")], remove: Vec::new() }]);
    let input = rig.command(Command::Errand(entry.clone()));
    let items = links(rig.turn(vec![input]), GATEWAY);
    let [LinkItem::Deliver { stream: to, messages, .. }] = &items[..] else { panic!("{items:?}") };
    assert_eq!((to.as_str(), messages[0].seq), ("u:bob", Seq(1)));
    assert_eq!(messages[0].conversation, Some((stream("c:ann:bob"), Seq(1))));
    for _ in 0..2 {
        let again = rig.ask(Command::Errand(entry.clone()));
        assert!(matches!(again, Ok(Reply::Done { seq: Some(Seq(1)) })), "{again:?}");
        rig.restart();
    }
    let (page, head) = rig.pull(Some("bob"), "u:bob", 0).expect("readable");
    assert_eq!((seqs(&page.messages), head.head), (vec![1], Seq(1)));
    assert_eq!(page.messages[0].conversation, Some((stream("c:ann:bob"), Seq(1))));
}

#[test]
fn what_belongs_elsewhere_is_refused_and_changes_nothing() {
    let mut rig = rig_of("u:bob");
    let (_, far) = near_and_far("u:x", "u:bob");
    let entry = Errand::Joined(crate::domain::Joined {
        uid: stream(&far).uid().expect("an inbox"),
        gid: gid("go"),
        epoch: Epoch(7),
        seq: Seq(1),
        ts: Timestamp(1),
    });
    assert_eq!(rig.refusal(Command::Errand(entry)), ErrorCode::NotFound);
    rig.attach(GATEWAY, 1 << 20);
    let streams = vec![named(&far, None)];
    let items = rig.open(LinkOpen { streams, ..open(&far[2..], "d") });
    let [LinkItem::Opened(opened), LinkItem::OpenEnd { .. }] = &items[..] else { panic!("{items:?}") };
    assert!(opened.result.is_err());
    assert!(rig.disk.records().is_empty());
}

#[test]
fn who_comes_into_a_group_is_owed_to_the_users_partition_unless_that_is_this_one() {
    let mut rig = rig_of("g:go");
    let (near, far) = near_and_far("u:m", "g:go");
    let members = vec![uid(&near[2..]), uid(&far[2..])];
    let create = Command::CreateGroup { gid: gid("go"), name: "".into(), open: false, creator: None, members };
    let input = rig.command(create);
    let owed = errands(&rig.turn(vec![input]));
    let [(lsn, Errand::Joined(joined))] = &owed[..] else { panic!("{owed:?}") };
    assert_eq!((joined.uid.as_str(), joined.gid.as_str(), joined.seq), (&far[2..], "go", Seq(2)));
    assert!(lsn.0 > 0);

    let mut home = rig_of(&far);
    home.attach(GATEWAY, 1 << 20);
    home.turn(vec![Input::Interest { gateway: GATEWAY, add: vec![stream(&far)], remove: Vec::new() }]);
    let input = home.command(Command::Errand(Errand::Joined(joined.clone())));
    let items = links(home.turn(vec![input]), GATEWAY);
    let [LinkItem::Membership { lsn, stream: group, seq, joined: true, .. }] = &items[..] else { panic!("{items:?}") };
    assert_eq!((lsn.0, group.as_str(), *seq), (1, "g:go", Seq(2)));
}

#[test]
fn streams_of_other_partitions_are_named_to_who_joins_by_itself() {
    let mut rig = rig_of("u:ann");
    rig.attach(GATEWAY, 1 << 20);
    let items = rig.open(LinkOpen { auto_join: true, ..open("ann", "d") });
    let mut opened: Vec<&str> = Vec::new();
    let mut also: Vec<&str> = Vec::new();
    for item in &items {
        match item {
            LinkItem::Opened(one) => opened.push(one.stream.as_str()),
            LinkItem::Also(more) => also.extend(more.streams.iter().map(StreamKey::as_str)),
            _ => {}
        }
    }
    assert!(matches!(items.last(), Some(LinkItem::OpenEnd { .. })));
    let mut all = [opened.as_slice(), &also].concat();
    all.sort_unstable();
    assert_eq!(all, ["g:_all", "u:ann"]);
    let home = rig.partition.origin().partition;
    assert!(opened.iter().all(|name| PartitionId::of(&stream(name), PARTITIONS) == home));
    assert!(also.iter().all(|name| PartitionId::of(&stream(name), PARTITIONS) != home));
}

#[test]
fn what_was_consumed_is_committed_with_what_came_of_it_even_if_all_was_refused() {
    let mut rig = rig_of("g:go");
    let consumed = |next| Consumed { source: 4, next };
    let appended = |push, next| Input::Appended { token: Token(9), push: Box::new(push), upto: consumed(next) };
    rig.turn(vec![appended(push("g:go", "hi"), 10)]);
    assert_eq!(stored(&rig), Progress { consumed: Some(consumed(10)), routed: None });
    rig.restart();
    rig.turn(vec![appended(Push { kind: "x".repeat(100).into(), ..push("g:go", "") }, 11)]);
    assert_eq!(stored(&rig).consumed, Some(consumed(11)));
    rig.restart();
    rig.turn(vec![Input::Consumed(consumed(12))]);
    assert_eq!(stored(&rig).consumed, Some(consumed(12)), "nobody's push is passed over");
    // However long the store is away, what was consumed is never given up.
    (0..2 * COMMIT_TRIES_MAX).for_each(|_| rig.disk.plant(Fault::Unavailable));
    let mut inputs = vec![appended(push("g:go", "waits"), 13)];
    let mut out = Vec::new();
    while rig.partition.handle(Timestamp(rig.now), &mut inputs, &mut out).is_err() {}
    assert!(matches!(out[..], [Output::Reply { result: Ok(Reply::Pushed { seq: Some(Seq(2)), .. }), .. }]), "{out:?}");
    assert_eq!(stored(&rig).consumed, Some(consumed(13)));
}

#[test]
fn what_arrived_elsewhere_is_remembered_with_the_next_commit() {
    let mut rig = rig_of("g:go");
    rig.push(push("g:go", "one"));
    rig.turn(vec![Input::Routed(Lsn(2))]);
    rig.push(push("g:go", "two"));
    assert_eq!(stored(&rig).routed, Some(Lsn(2)));
    rig.restart();
    rig.turn(vec![Input::Routed(Lsn(3))]);
    rig.now += 5_000;
    rig.turn(vec![Input::Tick]);
    assert_eq!(stored(&rig).routed, Some(Lsn(3)), "a tick is enough");
}

#[test]
fn a_message_keeps_the_id_that_it_came_with() {
    let mut rig = rig_of("g:go");
    let id = crate::domain::MessageId(77);
    let reply = rig.ask(Command::Push(Box::new(Push { id: Some(id), ..push("g:go", "hi") })));
    assert!(matches!(reply, Ok(Reply::Pushed { id: given, .. }) if given == id));
}
