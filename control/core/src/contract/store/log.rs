//! The log itself: places, replay, what a crash leaves, and retention.

use super::StoreFactory;
use super::fixtures::{
    EPOCH, NO_LIMIT, begin_group, chat, dismiss_group, join, keyed, leave, mark, message, stream, uid,
};
use crate::domain::{Epoch, Lsn, Record, Role, Seq, Timestamp};
use crate::ports::{MessageStore, PageLimit, StoreReader};

/// One record of every kind.
fn one_of_each() -> Vec<Record> {
    vec![
        begin_group("go"),
        join("go", 1, "ann", Role::Owner),
        message("u:ann", 1),
        chat("ann", 2, "bob", 1, 1),
        keyed("g:go", 2, 4, 44),
        Record::Mark(mark("ann", "ios", "u:ann", 1, 6000)),
        Record::Read(mark("ann", "", "g:go", 2, 6001)),
        leave("go", 3, "ann"),
        dismiss_group("go"),
    ]
}

fn replayed(store: &impl StoreReader, from: Lsn, limit: PageLimit) -> (Vec<(Lsn, Record)>, Lsn) {
    let page = store.replay(from, limit).expect("replay").expect("the log reaches back");
    (page.records, page.upto)
}

pub fn a_fresh_store_is_empty<F: StoreFactory>(factory: &mut F) {
    let store = factory.open();
    assert_eq!(store.last_lsn(), Lsn(0));
    assert_ne!(store.base_epoch(), Epoch(0));
    assert!(store.last_timestamp() <= Timestamp(0));
    assert_eq!(store.head(&stream("u:ann")).expect("head"), None);
    let (records, upto) = replayed(&store, Lsn(0), NO_LIMIT);
    assert!(records.is_empty() && upto == Lsn(0));
}

pub fn lsns_are_contiguous<F: StoreFactory>(factory: &mut F) {
    let mut store = factory.open();
    assert_eq!(store.commit(&one_of_each()).expect("commit"), Lsn(9));
    assert_eq!(store.commit(&[message("u:bob", 2)]).expect("commit"), Lsn(10));
    assert_eq!(store.last_lsn(), Lsn(10));
}

pub fn an_empty_commit_changes_nothing<F: StoreFactory>(factory: &mut F) {
    let mut store = factory.open();
    assert_eq!(store.commit(&[]).expect("commit"), Lsn(0));
    store.commit(&[message("u:ann", 1)]).expect("commit");
    assert_eq!(store.commit(&[]).expect("commit"), Lsn(1));
    assert_eq!(store.last_lsn(), Lsn(1));
}

pub fn replay_returns_what_was_committed<F: StoreFactory>(factory: &mut F) {
    let mut store = factory.open();
    let records = one_of_each();
    store.commit(&records[..4]).expect("commit");
    store.commit(&records[4..]).expect("commit");
    for _ in 0..2 {
        let (all, upto) = replayed(&store, Lsn(0), NO_LIMIT);
        let expected: Vec<_> = records.iter().enumerate().map(|(at, r)| (Lsn(at as u64 + 1), r.clone())).collect();
        assert_eq!(all, expected);
        assert_eq!(upto, Lsn(9));
        let (rest, upto) = replayed(&store, Lsn(7), NO_LIMIT);
        assert_eq!(rest, expected[7..]);
        assert_eq!(upto, Lsn(9));
        let (none, upto) = replayed(&store, Lsn(9), NO_LIMIT);
        assert!(none.is_empty() && upto == Lsn(9));
        store = factory.reopen(store);
    }
}

pub fn replay_is_bounded_and_in_order<F: StoreFactory>(factory: &mut F) {
    let mut store = factory.open();
    let records: Vec<Record> = (1..=500).map(|seq| message("g:go", seq)).collect();
    for batch in records.chunks(33) {
        store.commit(batch).expect("commit");
    }
    let mut at = Lsn(0);
    let mut pages = 0;
    while at < store.last_lsn() {
        let (records, upto) = replayed(&store, at, PageLimit { messages: 70, bytes: 1 << 20 });
        assert!(!records.is_empty() && records.len() <= 70);
        for (lsn, record) in &records {
            assert_eq!(*lsn, at.next());
            assert_eq!(*record, message("g:go", lsn.0));
            at = *lsn;
        }
        assert_eq!(upto, at);
        pages += 1;
    }
    assert!(pages >= 8, "{pages} pages of at most 70 records cannot hold 500");
    let (records, _) = replayed(&store, Lsn(3), PageLimit { messages: 70, bytes: 1 });
    assert_eq!(records.len(), 1, "one record always comes: a reader must get on");
}

pub fn everything_survives_reopening<F: StoreFactory>(factory: &mut F) {
    let mut store = factory.open();
    let (base, owner) = (store.base_epoch(), store.owner_epoch());
    store.commit(&one_of_each()).expect("commit");
    let before = store.last_timestamp();
    assert!(before >= Timestamp(9000), "the newest record stands at 9000, not {}", before.0);
    let store = factory.reopen(store);
    assert_eq!(store.base_epoch(), base);
    assert!(store.owner_epoch() > owner, "every opening is a new owner");
    assert_eq!(store.last_timestamp(), before);
    assert_eq!(store.last_lsn(), Lsn(9));
    for (name, head) in [("u:ann", 2), ("u:bob", 1), ("c:ann:bob", 1), ("g:go", 3)] {
        assert_eq!(store.head(&stream(name)).expect("head").map(|h| (h.epoch, h.head)), Some((EPOCH, Seq(head))));
        let page = store.page(&stream(name), Seq::ZERO, NO_LIMIT).expect("page");
        assert_eq!(page.messages.len() as u64, head, "{name}");
    }
    assert_eq!(store.dedup(&[4; 16]).expect("dedup").map(|h| h.seq), Some(Seq(2)));
    assert_eq!(store.marks(&uid("ann"), &stream("u:ann")).expect("marks").len(), 1);
    assert_eq!(store.read_cursor(&uid("ann"), &stream("g:go")).expect("read_cursor"), Some((EPOCH, Seq(2))));
}

pub fn a_reopened_store_continues<F: StoreFactory>(factory: &mut F) {
    let mut store = factory.open();
    for round in 1..=5 {
        assert_eq!(store.commit(&[message("u:ann", round)]).expect("commit"), Lsn(round));
        store = factory.reopen(store);
        assert_eq!(store.last_lsn(), Lsn(round));
        assert_eq!(store.head(&stream("u:ann")).expect("head").map(|h| h.head), Some(Seq(round)));
    }
    let (records, _) = replayed(&store, Lsn(0), NO_LIMIT);
    assert_eq!(records.len(), 5);
}

/// A store that cannot trim passes: then nothing is ever gone.
pub fn trimming_moves_first<F: StoreFactory>(factory: &mut F) {
    let mut store = factory.open();
    let mut records = vec![begin_group("go"), join("go", 1, "ann", Role::Owner), message("u:quiet", 1)];
    records.extend((2..=200).map(|seq| keyed("g:go", seq, seq as u8, seq)));
    for batch in records.chunks(20) {
        store.commit(batch).expect("commit");
    }
    if !factory.trim(&mut store, Lsn(100)) {
        return;
    }
    for _ in 0..2 {
        let head = store.head(&stream("g:go")).expect("head").expect("it has messages");
        assert_eq!((head.epoch, head.head), (EPOCH, Seq(200)), "the head never goes back");
        assert!(head.first > Seq(1) && head.first <= Seq(99), "first is {}", head.first);
        let page = store.page(&stream("g:go"), Seq::ZERO, NO_LIMIT).expect("page");
        assert_eq!((page.after.next(), page.upto), (head.first, head.head), "the page begins at first - 1");
        let got: Vec<u64> = page.messages.iter().map(|m| m.seq.0).collect();
        assert_eq!(got, (head.first.0..=200).collect::<Vec<_>>());

        let quiet = store.head(&stream("u:quiet")).expect("head").expect("the head outlives the message");
        assert_eq!((quiet.head, quiet.first), (Seq(1), Seq(2)), "first is head + 1 if nothing is stored");
        let page = store.page(&stream("u:quiet"), Seq::ZERO, NO_LIMIT).expect("page");
        assert_eq!((page.after, page.messages.len()), (Seq(1), 0));

        assert!(store.replay(Lsn(0), NO_LIMIT).expect("replay").is_none(), "the log no longer reaches back to 0");
        let (records, _) = replayed(&store, Lsn(150), NO_LIMIT);
        assert_eq!(records.len(), 52);
        let gid = "go".parse().expect("a valid gid");
        assert!(store.group(&gid).expect("group").is_some(), "groups outlive the records that began them");
        assert!(store.member(&gid, &uid("ann")).expect("member").is_some_and(|m| m.left.is_none()));
        assert_eq!(store.dedup(&[60; 16]).expect("dedup").map(|h| h.seq), Some(Seq(60)));
        store = factory.reopen(store);
    }
    store.commit(&[message("u:quiet", 2)]).expect("commit");
    let page = store.page(&stream("u:quiet"), Seq::ZERO, NO_LIMIT).expect("page");
    assert_eq!((page.after, page.upto), (Seq(1), Seq(2)), "a stream goes on after all of it was trimmed");
}
