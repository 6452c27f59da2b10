use std::sync::Arc;

use smallvec::smallvec;
use tidegate_control_core::breaker::{BreakerConfig, BreakerState};
use tidegate_control_core::domain::{
    Append, Body, Content, GroupChange, LeaveReason, MembershipChange, MessageId, Place, Role,
};
use tidegate_control_core::ports::memory::{Fault, MemoryDisk, MemoryStore};

use super::*;

const EPOCH: Epoch = Epoch(7);

fn gid() -> Gid {
    "go".parse().expect("a gid")
}

fn uid() -> Uid {
    "ann".parse().expect("a uid")
}

fn group(epoch: Epoch) -> Record {
    let (name, creator) = ("go".into(), "ann".into());
    Record::Group(GroupChange { gid: gid(), epoch, open: false, name, creator, ts: Timestamp(1), dismissed: false })
}

fn membership(seq: u64, role: Option<Role>) -> Record {
    let body = Body {
        id: MessageId(seq),
        from: "".into(),
        to: "".into(),
        client_msg_id: "".into(),
        kind: "system_group".into(),
        title: "".into(),
        content: Content::Text("".into()),
        metadata: "".into(),
        ts: Timestamp(1),
        priority: Default::default(),
        expires: None,
        platforms: smallvec![],
    };
    let places = smallvec![Place { stream: gid().stream(), epoch: EPOCH, seq: Seq(seq) }];
    let membership = Some(MembershipChange { gid: gid(), uid: uid(), role, reason: LeaveReason::Left });
    Record::Append(Append { body: Arc::new(body), places, dedup: None, membership })
}

fn watched(store: MemoryStore) -> (Watched<MemoryStore>, Tally) {
    let (tally, guard) = (Tally::default(), Guard::new(BreakerConfig { requests_min: 2, ..BreakerConfig::default() }));
    (Watched::new(store, StoreSeconds::default(), tally.clone(), Arc::new(guard)), tally)
}

fn is_member(store: &impl StoreReader) -> bool {
    store.member(&gid(), &uid()).expect("an answer").is_some_and(|member| member.left.is_none())
}

#[test]
fn a_membership_is_kept_until_a_commit_changes_it() {
    let (mut store, tally) = watched(MemoryDisk::new(Epoch(1)).open());
    assert!(!is_member(&store) && !is_member(&store));
    assert_eq!((tally.hits.get(), tally.misses.get()), (1, 1));
    store.commit(&[group(EPOCH), membership(1, Some(Role::Member))]).expect("committed");
    assert!(is_member(&store) && is_member(&store));
    assert_eq!((tally.hits.get(), tally.misses.get()), (2, 2));
    store.commit(&[membership(2, None)]).expect("committed");
    assert!(!is_member(&store));
    store.commit(&[membership(3, Some(Role::Admin))]).expect("committed");
    assert!(is_member(&store));
    store.commit(&[group(Epoch(8))]).expect("committed");
    assert!(!is_member(&store), "the group began anew");
}

#[test]
fn commits_that_fail_open_the_breaker_and_are_tried_all_the_same() {
    let disk = MemoryDisk::new(Epoch(1));
    let (mut store, _) = watched(disk.open());
    (0..3).for_each(|_| disk.plant(Fault::Unavailable));
    for _ in 0..3 {
        assert!(store.commit(&[group(EPOCH)]).is_err());
    }
    assert_eq!(store.guard.state(), BreakerState::Open);
    store.commit(&[group(EPOCH)]).expect("committed");
}
