use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tidegate_bus::port::Bus as _;
use tidegate_bus::records::{Downstream, Format, TaskPayload};
use tidegate_control_core::contract::store::{begin_group, chat, join, message};
use tidegate_control_core::domain::{Priority, Record, Role, Timestamp};
use tokio::task::JoinHandle;

use super::*;
use crate::cluster::bench::{Bench, Log, MemoryPlaces, ORIGIN, ToldRoutes, uid, until, with_body};
use crate::cluster::ingress::wall_clock_ms;

fn history(bench: &Bench) -> Arc<History> {
    Arc::new(History {
        publisher: bench.bus.publisher(),
        topic: bench.settings.topics.history.name.clone(),
        format: Format::Json,
        partitions: 1,
        counts: Arc::default(),
    })
}

fn away(bench: &Bench, log: &Arc<Log>, routes: &Arc<ToldRoutes>, fanout_above: usize) -> Arc<dyn Teller> {
    let parts = AwayParts {
        routes: Arc::clone(routes) as Arc<dyn crate::cluster::routes::Routes>,
        tasks: bench.outlet(),
        partitions: 1,
        fanout_above,
        age_max: Duration::from_secs(60),
    };
    Arc::new(parts.of(Arc::clone(log) as Arc<dyn StoreReader>))
}

fn relay(log: &Arc<Log>, places: &Arc<MemoryPlaces>, teller: Arc<dyn Teller>) -> JoinHandle<()> {
    let reader = Arc::clone(log) as Arc<dyn StoreReader>;
    Relay { origin: ORIGIN, reader, places: Arc::clone(places) as Arc<dyn Places>, teller }.spawn()
}

async fn told(bench: &Bench) -> Vec<(String, u64)> {
    let records: Vec<Downstream> = bench.decoded(&bench.settings.topics.history.name).await;
    records.into_iter().map(|record| (record.stream, record.seq)).collect()
}

/// Of now, so that it wakes somebody.
fn fresh(record: Record) -> Record {
    with_body(record, |body| body.ts = Timestamp(wall_clock_ms()))
}

#[tokio::test]
async fn every_message_is_told_at_each_of_its_places_under_its_streams_key() {
    let (bench, log, places) = (Bench::new().await, Log::new(), Arc::new(MemoryPlaces::default()));
    let history = history(&bench);
    let relay = relay(&log, &places, history.clone());
    until("a place", || places.at("history").is_some()).await;
    log.commit(&[message("g:go", 1), begin_group("rust"), chat("ann", 1, "bob", 1, 1)]);
    until("told", || history.counts[0].load(Ordering::Relaxed) == 4).await;
    let topic = bench.settings.topics.history.name.clone();
    let records = bench.all(&topic).await;
    for record in &records {
        let told: Downstream = tidegate_bus::records::Form::decode(&record.value).expect("a record");
        assert_eq!(record.key.as_deref(), Some(told.stream.as_bytes()));
    }
    let mut all: Vec<Downstream> = bench.decoded(&topic).await;
    all.sort_by(|one, other| one.stream.cmp(&other.stream));
    let streams: Vec<&str> = all.iter().map(|record| &*record.stream).collect();
    assert_eq!(streams, ["c:ann:bob", "g:go", "u:ann", "u:bob"]);
    let (group, inbox) = (&all[1], &all[3]);
    assert_eq!((&*group.content, &*group.conversation_id, group.seq, group.lsn), ("g:go#1", "g:go", 1, 1));
    assert_eq!((group.partition, group.owner_epoch, &*group.history), (0, 3, &*ORIGIN.history.to_string()));
    let from_to = (&*inbox.from_user_id, &*inbox.to_user_id);
    assert_eq!((from_to, &*inbox.conversation_id, inbox.conv_seq, inbox.lsn), (("ann", "bob"), "c:ann:bob", 1, 3));
    relay.abort();
}

#[tokio::test]
async fn a_crash_before_the_place_is_kept_tells_again_and_passes_nothing_over() {
    let (bench, log, places) = (Bench::new().await, Log::new(), Arc::new(MemoryPlaces::default()));
    let first = history(&bench);
    let running = relay(&log, &places, first.clone());
    until("a place", || places.at("history") == Some(0)).await;
    places.failing.store(true, Ordering::Relaxed);
    log.commit(&[message("g:go", 1), message("g:go", 2)]);
    until("told", || first.counts[0].load(Ordering::Relaxed) == 2).await;
    running.abort();
    // Nobody follows while these are committed.
    log.commit(&[message("g:go", 3), message("u:ann", 1)]);
    places.failing.store(false, Ordering::Relaxed);
    assert_eq!(places.at("history"), Some(0));

    let second = history(&bench);
    let running = relay(&log, &places, second.clone());
    until("told again", || second.counts[0].load(Ordering::Relaxed) == 4).await;
    until("the place is kept", || places.at("history") == Some(4)).await;
    running.abort();
    let told = told(&bench).await;
    assert_eq!(told.len(), 6, "two came twice");
    let once: BTreeSet<(String, u64)> = told.into_iter().collect();
    assert_eq!(once, [("g:go", 1), ("g:go", 2), ("g:go", 3), ("u:ann", 1)].map(|(s, n)| (s.to_owned(), n)).into());
    // The third goes on where the second was.
    let third = history(&bench);
    let running = relay(&log, &places, third.clone());
    log.commit(&[message("g:go", 4)]);
    until("told", || third.counts[0].load(Ordering::Relaxed) == 1).await;
    running.abort();
}

#[tokio::test]
async fn who_has_no_place_begins_with_what_comes() {
    let (bench, log, places) = (Bench::new().await, Log::new(), Arc::new(MemoryPlaces::default()));
    log.commit(&[message("g:go", 1)]);
    let history = history(&bench);
    let running = relay(&log, &places, history.clone());
    until("it is said at once", || places.at("history") == Some(1)).await;
    log.commit(&[message("g:go", 2)]);
    until("told", || history.counts[0].load(Ordering::Relaxed) == 1).await;
    assert_eq!(told(&bench).await, [("g:go".to_owned(), 2)]);
    running.abort();
}

#[tokio::test]
async fn while_bus_and_store_are_away_messages_wait_in_the_log() {
    let (bench, log, places) = (Bench::new().await, Log::new(), Arc::new(MemoryPlaces::default()));
    let history = history(&bench);
    let running = relay(&log, &places, history.clone());
    until("a place", || places.at("history").is_some()).await;
    bench.bus.hold();
    log.commit(&[message("g:go", 1)]);
    until("it waits", || bench.bus.publisher().stats().buffered_records == 1).await;
    log.commit(&[message("g:go", 2)]);
    assert_eq!(history.counts[0].load(Ordering::Relaxed), 0);
    log.away.store(true, Ordering::Relaxed);
    bench.bus.release();
    until("told", || history.counts[0].load(Ordering::Relaxed) == 1).await;
    log.away.store(false, Ordering::Relaxed);
    until("told", || history.counts[0].load(Ordering::Relaxed) == 2).await;
    assert_eq!(told(&bench).await, [("g:go".to_owned(), 1), ("g:go".to_owned(), 2)]);
    running.abort();
}

#[tokio::test]
async fn a_log_that_was_trimmed_first_holds_up_nobody() {
    let (bench, log, places) = (Bench::new().await, Log::new(), Arc::new(MemoryPlaces::default()));
    places.save(ORIGIN.partition, "history", Lsn(0)).expect("kept");
    log.commit(&[message("g:go", 1), message("g:go", 2)]);
    log.trim(1);
    let history = history(&bench);
    let running = relay(&log, &places, history.clone());
    until("passed over", || places.at("history") == Some(2)).await;
    log.commit(&[message("g:go", 3)]);
    until("told", || history.counts[0].load(Ordering::Relaxed) == 1).await;
    running.abort();
}

#[tokio::test]
async fn users_who_are_away_get_a_task_each_and_nobody_is_woken_for_nothing() {
    let (bench, log) = (Bench::new().await, Log::new());
    let teller = away(&bench, &log, &ToldRoutes::of(&["ann"]), 10);
    let old = message("u:bob", 9);
    let page = [
        // By a backend, to one who is there and to one who is not.
        fresh(message("u:ann", 1)),
        fresh(message("u:bob", 2)),
        // One-to-one: who wrote it has read it.
        fresh(chat("bob", 3, "cat", 1, 1)),
        with_body(fresh(message("u:bob", 4)), |body| body.priority = Priority::Low),
        with_body(fresh(message("u:bob", 5)), |body| body.expires = Some(Timestamp(1))),
        fresh(join("go", 6, "bob", Role::Member)),
        fresh(message("g:_all", 7)),
        old,
    ];
    let page: Vec<(Lsn, Record)> = page.into_iter().zip(1..).map(|(record, lsn)| (Lsn(lsn), record)).collect();
    teller.tell(ORIGIN, &page).await;
    // The same again: a second owner makes the same tasks.
    teller.tell(ORIGIN, &page).await;
    assert_eq!(bench.task_ids().await, ["1002:bob", "1002:bob", "5001:cat", "5001:cat"]);
    let pushes: Vec<_> = bench.tasks().await.into_iter().map(|task| task.payload).collect();
    let TaskPayload::OfflinePush(push) = &pushes[0] else { panic!("{pushes:?}") };
    assert_eq!((&*push.user_id, &*push.message_id, &*push.content), ("bob", "1002", "u:bob#2"));
    assert_eq!((&*push.title, &*push.push_type), ("billing", "push"));
    let TaskPayload::OfflinePush(push) = &pushes[2] else { panic!("{pushes:?}") };
    assert_eq!((&*push.user_id, &*push.title, &*push.push_type), ("cat", "bob", "one_to_one"));
    let keys: BTreeSet<Vec<u8>> = bench.all("im-task-topic").await.into_iter().filter_map(|task| task.key).collect();
    assert_eq!(keys, [&b"offline_push:1002:bob"[..], b"offline_push:5001:cat"].map(<[u8]>::to_vec).into());
}

#[tokio::test]
async fn a_small_group_is_looked_through_at_once_and_a_big_one_is_a_task() {
    let (bench, log) = (Bench::new().await, Log::new());
    let members = ["ann", "bob", "cat"];
    let joins = members.iter().zip(1..).map(|(who, seq)| join("go", seq, who, Role::Member));
    log.commit(&std::iter::once(begin_group("go")).chain(joins).collect::<Vec<_>>());
    let routes = ToldRoutes::of(&["bob"]);
    let page = [(Lsn(9), with_body(fresh(message("g:go", 4)), |body| body.from = "ann".into()))];
    away(&bench, &log, &routes, 3).tell(ORIGIN, &page).await;
    assert_eq!(bench.task_ids().await, ["1004:cat"]);
    away(&bench, &log, &routes, 2).tell(ORIGIN, &page).await;
    let tasks = bench.tasks().await;
    let TaskPayload::GroupFanout(fanout) = &tasks[1].payload else { panic!("{tasks:?}") };
    assert_eq!((&*tasks[1].task_id, &*fanout.group_id, fanout.seq, fanout.batch_size), ("1004:go", "go", 4, 100));
    assert_eq!(fanout.exclude_user_ids, ["ann"]);
}

#[tokio::test]
async fn nobody_is_taken_to_be_away_before_it_can_be_said() {
    let (bench, log) = (Bench::new().await, Log::new());
    let routes = ToldRoutes::of(&[uid("ann").as_str()]);
    routes.away.store(true, Ordering::Relaxed);
    let teller = away(&bench, &log, &routes, 10);
    let telling = tokio::spawn(async move {
        let page = [(Lsn(1), fresh(message("u:ann", 1))), (Lsn(2), fresh(message("u:bob", 1)))];
        teller.tell(ORIGIN, &page).await;
    });
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!telling.is_finished());
    assert!(bench.task_ids().await.is_empty());
    routes.away.store(false, Ordering::Relaxed);
    telling.await.expect("told");
    assert_eq!(bench.task_ids().await, ["1001:bob"]);
}
