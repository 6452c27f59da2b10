//! What is old goes, beside commits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate_control::adapters::postgres::{PostgresOptions, PostgresStore};
use tidegate_control_core::contract::store::fixtures::{EPOCH, NO_LIMIT, append, keyed, stream};
use tidegate_control_core::contract::store::message;
use tidegate_control_core::domain::{Append, Body, Lsn, Record, Seq, Timestamp};
use tidegate_control_core::ports::{MessageStore, StoreReader};

use crate::factory::Factory;

/// More than one transaction of retention takes.
const OLD: u64 = 2_500;

fn fresh(seq: u64) -> Record {
    let record = append("u:ann", EPOCH, seq);
    let body = Body { ts: Timestamp(1 << 40), ..(*record.body).clone() };
    Record::Append(Append { body: Arc::new(body), ..record })
}

#[test]
fn what_is_old_goes_while_commits_go_on() {
    let mut factory = Factory::new();
    let options = PostgresOptions { retention_age_s: 10, retention_every_s: 1, dedup_horizon_s: 10, ..factory.begin() };
    let mut store = PostgresStore::open(options).expect("open");
    let mut records: Vec<Record> = (1..OLD).map(|seq| message("u:ann", seq)).collect();
    records.push(keyed("u:ann", OLD, 7, 77));
    store.commit(&records).expect("commit");
    assert!(store.dedup(&[7; 16]).expect("dedup").is_some());

    let deadline = Instant::now() + Duration::from_secs(60);
    let (mut last, mut now) = (OLD, 100_000);
    while store.head(&stream("u:ann")).expect("head").expect("a head").first <= Seq(OLD)
        || store.dedup(&[7; 16]).expect("dedup").is_some()
    {
        assert!(Instant::now() < deadline, "what is old does not go");
        now += 1_000;
        store.maintain(Timestamp(now)).expect("maintain");
        last += 1;
        assert_eq!(store.commit(&[fresh(last)]).expect("commit"), Lsn(last));
        std::thread::sleep(Duration::from_millis(10));
    }
    let page = store.page(&stream("u:ann"), Seq::ZERO, NO_LIMIT).expect("page");
    assert_eq!((page.after, page.upto, page.messages.len() as u64), (Seq(OLD), Seq(last), last - OLD));
    assert!(store.replay(Lsn(OLD - 1), NO_LIMIT).expect("replay").is_none(), "the log no longer reaches back");
    let replay = store.replay(Lsn(OLD), NO_LIMIT).expect("replay").expect("it reaches back to here");
    assert_eq!(replay.records.len() as u64, last - OLD);
}
