//! Messages at their places.

use std::sync::Arc;

use bytes::Bytes;
use smallvec::smallvec;

use super::StoreFactory;
use super::fixtures::{EPOCH, NO_LIMIT, append, body, chat, keyed, message, stream};
use crate::domain::{Append, Body, Content, Fingerprint, MessageId, Priority, Record, Seq, StreamKey, Timestamp};
use crate::ports::{Head, MessageStore, PageLimit, StoreReader};

fn seqs(store: &impl StoreReader, name: &str, after: u64, limit: PageLimit) -> (u64, Vec<u64>, u64) {
    let page = store.page(&stream(name), Seq(after), limit).expect("page");
    (page.after.0, page.messages.iter().map(|m| m.seq.0).collect(), page.upto.0)
}

pub fn a_commit_is_visible<F: StoreFactory>(factory: &mut F) {
    let mut store = factory.open();
    store.commit(&[message("u:ann", 1), message("u:ann", 2), message("g:go", 1)]).expect("commit");

    let head = store.head(&stream("u:ann")).expect("head");
    assert_eq!(head, Some(Head { epoch: EPOCH, head: Seq(2), first: Seq(1) }));
    assert_eq!(seqs(&store, "u:ann", 0, NO_LIMIT), (0, vec![1, 2], 2));
    store.commit(&[message("u:ann", 3)]).expect("commit");
    assert_eq!(store.head(&stream("u:ann")).expect("head").map(|h| h.head), Some(Seq(3)));
    assert_eq!(seqs(&store, "u:ann", 2, NO_LIMIT), (2, vec![3], 3));
}

pub fn streams_do_not_mix<F: StoreFactory>(factory: &mut F) {
    let mut store = factory.open();
    let names = ["u:a", "u:aa", "u:a.b", "g:a", "g:A", "c:a:a", "c:a:aa"];
    let records: Vec<Record> = (1..=3).flat_map(|seq| names.map(|name| message(name, seq))).collect();
    store.commit(&records).expect("commit");
    for name in names {
        let page = store.page(&stream(name), Seq(1), NO_LIMIT).expect("page");
        let texts: Vec<_> = page.messages.iter().map(|m| m.body.content.clone()).collect();
        let expected = [2, 3].map(|seq| Content::Text(format!("{name}#{seq}").into()));
        assert_eq!(texts, expected, "{name}");
    }
    assert_eq!(store.head(&stream("u:b")).expect("head"), None);
    assert_eq!(seqs(&store, "u:b", 0, NO_LIMIT), (0, vec![], 0));
}

pub fn a_page_is_bounded<F: StoreFactory>(factory: &mut F) {
    let mut store = factory.open();
    let records: Vec<Record> = (1..=300).map(|seq| message("g:go", seq)).collect();
    for batch in records.chunks(70) {
        store.commit(batch).expect("commit");
    }
    let hundred = PageLimit { messages: 100, bytes: 1 << 20 };
    assert_eq!(seqs(&store, "g:go", 0, hundred), (0, (1..=100).collect(), 100));
    assert_eq!(seqs(&store, "g:go", 100, hundred), (100, (101..=200).collect(), 200));
    assert_eq!(seqs(&store, "g:go", 250, hundred), (250, (251..=300).collect(), 300));
    assert_eq!(seqs(&store, "g:go", 300, hundred), (300, vec![], 300));
    assert_eq!(seqs(&store, "g:go", 0, PageLimit { messages: 1, bytes: 1 << 20 }), (0, vec![1], 1));
}

/// A byte limit cuts a page short, but one message always comes: a reader must get on.
pub fn a_page_never_splits_below_one_message<F: StoreFactory>(factory: &mut F) {
    let mut store = factory.open();
    let big = |seq: u64| {
        let record = append("u:ann", EPOCH, seq);
        let body = Body { content: Content::Text("x".repeat(10_000).into()), ..(*record.body).clone() };
        Record::Append(Append { body: Arc::new(body), ..record })
    };
    store.commit(&[big(1), big(2), big(3), big(4)]).expect("commit");

    let (_, got, upto) = seqs(&store, "u:ann", 0, PageLimit { messages: 10, bytes: 100 });
    assert_eq!((got, upto), (vec![1], 1));
    let (_, got, upto) = seqs(&store, "u:ann", 1, PageLimit { messages: 10, bytes: 25_000 });
    assert_eq!((got, upto), (vec![2, 3], 3));
}

pub fn bodies_come_back_whole<F: StoreFactory>(factory: &mut F) {
    let mut store = factory.open();
    let full = Body {
        id: MessageId(u64::MAX >> 1),
        from: "ann".into(),
        to: "bob".into(),
        client_msg_id: "c-1".into(),
        kind: "image".into(),
        title: "Ünïcode ✓".into(),
        content: Content::Binary(Bytes::from_static(&[0, 255, 10, 13, 0])),
        metadata: r#"{"w":1,"h":2}"#.into(),
        ts: Timestamp(1_790_000_000_123),
        priority: Priority::High,
        expires: Some(Timestamp(1_790_000_086_400)),
        platforms: smallvec!["mobile".into(), "web".into()],
    };
    let empty = Body { from: "".into(), kind: "".into(), priority: Priority::Low, ..body(1, 1_790_000_000_124, "") };
    for (seq, body) in [(1, &full), (2, &empty)] {
        let record = Append { body: Arc::new(body.clone()), ..append("u:ann", EPOCH, seq) };
        store.commit(&[Record::Append(record)]).expect("commit");
    }
    for _ in 0..2 {
        let page = store.page(&stream("u:ann"), Seq::ZERO, NO_LIMIT).expect("page");
        let bodies: Vec<&Body> = page.messages.iter().map(|m| &*m.body).collect();
        assert_eq!(bodies, [&full, &empty]);
        assert!(page.messages.iter().all(|m| m.conversation.is_none()));
        store = factory.reopen(store);
    }
}

pub fn one_to_one_stands_in_three_streams<F: StoreFactory>(factory: &mut F) {
    let mut store = factory.open();
    store.commit(&[message("u:ann", 1), chat("bob", 1, "ann", 2, 1), chat("ann", 3, "bob", 2, 2)]).expect("commit");
    let conversation: StreamKey = stream("c:ann:bob");

    for _ in 0..2 {
        let page = store.page(&conversation, Seq::ZERO, NO_LIMIT).expect("page");
        assert_eq!(page.messages.len(), 2);
        assert!(page.messages.iter().all(|m| m.conversation.is_none()));

        let inbox = store.page(&stream("u:ann"), Seq::ZERO, NO_LIMIT).expect("page");
        let places: Vec<_> = inbox.messages.iter().map(|m| m.conversation.clone()).collect();
        assert_eq!(places, [None, Some((conversation.clone(), Seq(1))), Some((conversation.clone(), Seq(2)))]);
        assert_eq!(inbox.messages[1].body, page.messages[0].body);
        assert_eq!((&*inbox.messages[1].body.from, &*inbox.messages[1].body.to), ("bob", "ann"));
        let other = store.page(&stream("u:bob"), Seq::ZERO, NO_LIMIT).expect("page");
        let places: Vec<_> = other.messages.iter().map(|m| m.conversation.clone()).collect();
        assert_eq!(places, [Some((conversation.clone(), Seq(1))), Some((conversation.clone(), Seq(2)))]);
        store = factory.reopen(store);
    }
}

pub fn seq_before_finds_a_place_in_time<F: StoreFactory>(factory: &mut F) {
    let mut store = factory.open();
    let at = |seq: u64, ts: i64| {
        let record = append("g:go", EPOCH, seq);
        let body = Body { ts: Timestamp(ts), ..(*record.body).clone() };
        Record::Append(Append { body: Arc::new(body), ..record })
    };
    store.commit(&[at(1, 100), at(2, 200), at(3, 200), at(4, 300)]).expect("commit");
    let before = |ts| store.seq_before(&stream("g:go"), Timestamp(ts)).expect("seq_before").0;
    assert_eq!([before(0), before(100), before(101), before(200)], [0, 0, 1, 1]);
    assert_eq!([before(201), before(300), before(301), before(i64::MAX)], [3, 3, 4, 4]);
    assert_eq!(store.seq_before(&stream("g:none"), Timestamp(500)).expect("seq_before"), Seq::ZERO);
}

pub fn dedup_finds_the_first_place<F: StoreFactory>(factory: &mut F) {
    let mut store = factory.open();
    assert_eq!(store.dedup(&[1; 16]).expect("dedup"), None);
    let Record::Append(mut one_to_one) = chat("ann", 1, "bob", 1, 7) else { unreachable!("a chat is an append") };
    one_to_one.dedup = Some(crate::domain::record::Dedup { key: [9; 16], fingerprint: Fingerprint(u64::MAX) });
    store
        .commit(&[keyed("g:go", 1, 1, 11), message("g:go", 2), keyed("g:go", 3, 3, 33), Record::Append(one_to_one)])
        .expect("commit");
    for _ in 0..2 {
        let hit = |key: u8| store.dedup(&[key; 16]).expect("dedup").map(|h| (h.epoch, h.seq.0, h.id.0, h.fingerprint));
        assert_eq!(hit(1), Some((EPOCH, 1, 1001, Fingerprint(11))));
        assert_eq!(hit(3), Some((EPOCH, 3, 1003, Fingerprint(33))));
        assert_eq!(hit(9), Some((EPOCH, 7, 5007, Fingerprint(u64::MAX))));
        assert_eq!(hit(2), None);
        store = factory.reopen(store);
    }
}
