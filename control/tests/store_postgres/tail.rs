//! Batches of every size, and the end of the log in its owner's memory.

use tidegate_control_core::contract::store::{StoreFactory, assert_log, chat, message};
use tidegate_control_core::domain::{Lsn, Record};
use tidegate_control_core::ports::{MessageStore, PageLimit, StoreReader};

use crate::factory::Factory;

fn pages(store: &impl StoreReader, messages: usize) -> Vec<(Lsn, Record)> {
    let (mut at, mut all) = (Lsn(0), Vec::new());
    while at < store.last_lsn() {
        let page = store.replay(at, PageLimit { messages, bytes: 1 << 20 }).expect("read").expect("not trimmed");
        assert!(!page.records.is_empty() && page.records.len() <= messages, "{}", page.records.len());
        at = page.upto;
        all.extend(page.records);
    }
    all
}

/// Small batches are inserted and large ones copied; the owner reads both in its memory, and its successor on the server.
#[test]
fn what_an_owner_remembers_is_what_the_server_has() {
    let mut factory = Factory::new();
    let mut store = factory.open();
    let mut records: Vec<Record> = (1..=3).map(|seq| message("u:ann", seq)).collect();
    store.commit(&records).expect("a small batch");
    let mut large: Vec<Record> = (4..=120).map(|seq| message("u:ann", seq)).collect();
    large.extend((1..=40).map(|seq| chat("bob", seq, "cat", seq, seq)));
    store.commit(&large).expect("a large batch");
    records.append(&mut large);
    assert_log(&store, &records);
    let remembered = pages(&store, 7);
    let store = factory.reopen(store);
    assert_eq!(pages(&store, 7), remembered);
    assert_log(&store, &records);
    let head = |name: &str| store.head(&name.parse().expect("a stream")).expect("read").expect("a head").head.0;
    assert_eq!(["u:ann", "c:bob:cat", "u:bob", "u:cat"].map(head), [120, 40, 40, 40]);
}
