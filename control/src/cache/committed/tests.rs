use bytes::Bytes;
use smallvec::{SmallVec, smallvec};
use tidegate_control_core::domain::record::Dedup;
use tidegate_control_core::domain::{
    Body, Content, Epoch, Fingerprint, GroupChange, LeaveReason, Mark, MembershipChange, MessageId, Place, Role, Seq,
    Timestamp,
};
use tidegate_control_core::ports::cache::{Cache as _, Queued, RunQuery};
use tidegate_proto::v1::{LinkConnection, LinkPresence};

use super::super::{CacheBounds, bounded::Tally};
use super::*;
use crate::adapters::memory::{MemoryCache, MemoryOptions};

const OWNER: OwnerEpoch = OwnerEpoch(4);
const EPOCH: Epoch = Epoch(9);

fn stream(name: &str) -> StreamKey {
    name.parse().expect("a stream")
}

fn place(name: &str, seq: u64) -> Place {
    Place { stream: stream(name), epoch: EPOCH, seq: Seq(seq) }
}

fn body(id: u64, content_bytes: usize) -> Arc<Body> {
    Arc::new(Body {
        id: MessageId(id),
        from: "ann".into(),
        to: "".into(),
        client_msg_id: "".into(),
        kind: "text".into(),
        title: "".into(),
        content: Content::Binary(Bytes::from(vec![7; content_bytes])),
        metadata: "".into(),
        ts: Timestamp(1),
        priority: Default::default(),
        expires: None,
        platforms: SmallVec::new(),
    })
}

fn message(id: u64, places: SmallVec<[Place; 1]>, key: Option<u8>) -> Record {
    let dedup = key.map(|key| Dedup { key: [key; 16], fingerprint: Fingerprint(id) });
    Record::Append(Append { body: body(id, 3), places, dedup, membership: None })
}

fn seqs(run: &OwnedRun) -> Vec<u64> {
    run.entries.iter().map(|entry| entry.seq.0).collect()
}

fn here(presence: &Presence, uid: &str) {
    let (route, _) = presence.attach("gw/0", 1);
    let connection = LinkConnection { uid: uid.to_owned(), connection_id: "1".to_owned(), ..Default::default() };
    presence.apply(&route, LinkPresence { online: vec![connection], ..Default::default() });
}

#[test]
fn messages_become_runs_and_only_who_is_away_gets_a_queue() {
    let presence = Presence::default();
    here(&presence, "bob");
    let records = [
        message(1, smallvec![place("g:go", 5)], Some(1)),
        message(2, smallvec![place("c:ann:bob", 7), place("u:ann", 2)], Some(2)),
        message(3, smallvec![place("g:go", 6)], None),
        message(4, smallvec![place("c:ann:bob", 7), place("u:bob", 3)], Some(3)),
    ];
    let told = facts_of(&records, OWNER, &presence);
    let head = |name: &str, seq| Fact::Head { stream: stream(name), epoch: EPOCH, seq: Seq(seq), owner: OWNER };
    let key = |fact: &Fact| matches!(fact, Fact::Dedup { key, hit, .. } if *key == [1; 16] && hit.seq == Seq(5));
    assert!(key(&told.facts[0]), "a caller's key, and none of ours: {:?}", told.facts[0]);
    assert_eq!(told.facts[1], head("g:go", 6));
    assert!(matches!(&told.facts[2], Fact::Hot(run) if seqs(run) == [5, 6] && run.owner == OWNER));
    assert_eq!(told.facts[3], head("u:ann", 2));
    let Fact::Queue(run) = &told.facts[4] else { panic!("{:?}", told.facts[4]) };
    let stored = form::decode(&run.stream, &run.entries[0]).expect("a message");
    assert_eq!((stored.seq, stored.conversation), (Seq(2), Some((stream("c:ann:bob"), Seq(7)))));
    assert_eq!(told.facts[5..], [head("u:bob", 3)], "bob is here");
    assert!(form::decode(&stream("u:bob"), &run.entries[0]).is_none(), "of another stream");
}

#[test]
fn a_whole_one_to_one_message_of_a_single_partition_stands_in_all_its_places() {
    let places = smallvec![place("c:ann:bob", 1), place("u:ann", 1), place("u:bob", 1)];
    let told = facts_of(&[message(1, places, Some(1))], OWNER, &Presence::default());
    let lists = told.facts.iter().filter(|fact| matches!(fact, Fact::Hot(_) | Fact::Queue(_))).count();
    assert_eq!(lists, 3);
}

#[test]
fn a_group_that_begins_anew_is_forgotten_before_its_first_message() {
    let gid: tidegate_control_core::domain::Gid = "go".parse().expect("a gid");
    let group = GroupChange {
        gid: gid.clone(),
        epoch: Epoch(10),
        open: true,
        name: "go".into(),
        creator: "".into(),
        ts: Timestamp(1),
        dismissed: false,
    };
    let uid: tidegate_control_core::domain::Uid = "ann".parse().expect("a uid");
    let mut joined = message(2, smallvec![Place { epoch: Epoch(10), ..place("g:go", 1) }], None);
    if let Record::Append(append) = &mut joined {
        let (gid, uid) = (gid.clone(), uid.clone());
        append.membership = Some(MembershipChange { gid, uid, role: Some(Role::Member), reason: LeaveReason::Left });
    }
    let mark = Mark {
        uid: uid.clone(),
        device: "d".into(),
        stream: stream("g:go"),
        epoch: Epoch(10),
        seq: Seq(1),
        ts: Timestamp(1),
    };
    let records = [message(1, smallvec![place("g:go", 8)], None), Record::Group(group), joined, Record::Mark(mark)];
    let told = facts_of(&records, OWNER, &Presence::default());
    let kinds: Vec<u8> = told
        .facts
        .iter()
        .map(|fact| match fact {
            Fact::Head { epoch: EPOCH, .. } => 1,
            Fact::Hot(run) if run.epoch == EPOCH => 2,
            Fact::Forget(_) => 3,
            Fact::Cursor { .. } => 4,
            Fact::Head { epoch: Epoch(10), .. } => 5,
            Fact::Hot(_) => 6,
            _ => 0,
        })
        .collect();
    assert_eq!(kinds, [1, 2, 3, 4, 5, 6]);
    assert_eq!(told.changes, [Change::Group(gid.clone()), Change::Member(gid, uid)]);
}

fn memory() -> (MemoryCache, Memory) {
    let cache = MemoryCache::new(MemoryOptions::default());
    let memory = Memory {
        cache: Arc::new(cache.clone()),
        caches: Arc::new(Caches::new(&CacheBounds::default(), |_| Tally::default())),
        presence: Arc::default(),
        dropped: Counter::default(),
    };
    (cache, memory)
}

/// Nothing of it runs until the test waits, so what finds no room is certain.
#[tokio::test]
async fn what_finds_no_room_is_forgotten_before_anything_newer() {
    let (cache, memory) = memory();
    let dropped = memory.dropped.clone();
    let (committed, task) = follow(OWNER, memory);
    let large = |seq| {
        let body = body(seq, WAITING_BYTES_MAX / 4);
        Record::Append(Append { body, places: smallvec![place("g:go", seq)], dedup: None, membership: None })
    };
    committed.tell(&[message(1, smallvec![place("u:ann", 1)], None)]);
    committed.tell(&[message(2, smallvec![place("g:rust", 1)], None)]);
    (1..=5).for_each(|seq| committed.tell(&[large(seq)]));
    committed.tell(&[message(3, smallvec![place("u:ann", 2)], None)]);
    assert_eq!(dropped.get(), 3, "two large ones, and one that came after them");
    drop(committed);
    task.await.expect("ends");
    assert_eq!(cache.heads(&[stream("g:go"), stream("u:ann")]).await, [None, None], "not an old one");
    assert_eq!(cache.heads(&[stream("g:rust")]).await, [Some((EPOCH, Seq(1)))], "not affected");
    let place = RunQuery { stream: stream("u:ann"), epoch: EPOCH, after: Seq(0), limit: 10 };
    assert_eq!(cache.queued(&[place]).await, [Queued::Unknown]);
}

#[tokio::test]
async fn what_is_committed_arrives_in_order() {
    let (cache, memory) = memory();
    let (committed, task) = follow(OWNER, memory);
    for seq in 1..=300 {
        committed.tell(&[message(seq, smallvec![place("u:ann", seq)], None)]);
    }
    drop(committed);
    task.await.expect("ends");
    let place = RunQuery { stream: stream("u:ann"), epoch: EPOCH, after: Seq(150), limit: 1_000 };
    let Queued::Covers { upto: Seq(300), entries } = cache.queued(&[place]).await.remove(0) else { panic!("covers") };
    assert_eq!(entries.len(), 150);
}
