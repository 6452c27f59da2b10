//! Readers on other threads beside the owner that commits, and what fails when the disk does.

mod store_kit;

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use store_kit::{open, small};
use tempfile::TempDir;
use tidegate_control::adapters::embedded::{EmbeddedOptions, EmbeddedReader, EmbeddedStore};
use tidegate_control_core::contract::store::fixtures::keyed;
use tidegate_control_core::contract::store::message;
use tidegate_control_core::domain::{Lsn, Record, Seq, StreamKey};
use tidegate_control_core::ports::{MessageStore, PageLimit, StoreError, StoreReader};

const PAGE: PageLimit = PageLimit { messages: 100, bytes: 1 << 20 };

fn stream(name: &str) -> StreamKey {
    name.parse().expect("a valid stream key")
}

/// One message for each of two streams, many times.
fn twins(from: u64, count: u64) -> Vec<Record> {
    (from..from + count).flat_map(|seq| [message("g:one", seq), message("g:two", seq)]).collect()
}

#[test]
fn readers_see_whole_batches_in_order_as_soon_as_they_are_committed() {
    let dir = TempDir::new().unwrap();
    let mut store = open(dir.path());
    let (stop, pages) = (AtomicBool::new(false), AtomicU64::new(0));
    let committed = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let (reader, stop, pages, committed) = (store.reader(), &stop, &pages, &committed);
            scope.spawn(move || follow(&reader, stop, pages, committed));
        }
        let mut next = 1;
        for round in 0..400 {
            let count = 1 + round % 50;
            store.commit(&twins(next, count)).expect("commit");
            next += count;
            committed.store(next - 1, Ordering::SeqCst);
        }
        while pages.load(Ordering::Relaxed) < 20 {
            std::thread::yield_now();
        }
        stop.store(true, Ordering::Relaxed);
    });
}

fn follow(reader: &EmbeddedReader, stop: &AtomicBool, pages: &AtomicU64, committed: &AtomicU64) {
    let (one, two) = (stream("g:one"), stream("g:two"));
    let (mut at, mut replayed) = (Seq::ZERO, Lsn(0));
    while !stop.load(Ordering::Relaxed) {
        let known = committed.load(Ordering::SeqCst);
        let head = |of: &StreamKey| reader.head(of).expect("head").map_or(0, |head| head.head.0);
        let (first, second) = (head(&one), head(&two));
        assert!(first >= known, "what was committed is visible");
        assert!(second >= first, "a batch is visible whole");

        let page = reader.page(&one, at, PAGE).expect("page");
        assert_eq!(page.after, at);
        for message in &page.messages {
            at = at.next();
            assert_eq!(message.seq, at);
            assert_eq!(message.body.id.0, 1000 + at.0);
        }
        let replay = reader.replay(replayed, PAGE).expect("replay").expect("nothing was trimmed");
        for (lsn, record) in replay.records {
            replayed = replayed.next();
            assert_eq!(lsn, replayed);
            let Record::Append(append) = record else { panic!("an append") };
            assert_eq!(append.places[0].seq.0, lsn.0.div_ceil(2));
        }
        pages.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn large_batches_go_in_and_come_back() {
    let dir = TempDir::new().unwrap();
    let options = EmbeddedOptions { recent_bytes: 100_000, ..EmbeddedOptions::default() };
    let mut store = EmbeddedStore::open(dir.path(), options.clone()).unwrap();
    // More than the overlays hold, so that the owner has to wait for the index.
    let total = 200_000;
    for from in (0..total).step_by(40_000) {
        let batch: Vec<Record> =
            (from..from + 40_000).map(|n| message(&format!("u:user{}", n % 1_000), n / 1_000 + 1)).collect();
        store.commit(&batch).expect("commit");
    }
    for round in 0..2 {
        assert_eq!(store.last_lsn(), Lsn(total));
        for user in [0, 1, 500, 999] {
            let stream = stream(&format!("u:user{user}"));
            let page = store.page(&stream, Seq(50), PAGE).expect("page");
            let seqs: Vec<u64> = page.messages.iter().map(|m| m.seq.0).collect();
            assert_eq!(seqs, (51..=150).collect::<Vec<_>>(), "round {round}");
            assert_eq!(store.head(&stream).unwrap().unwrap().head, Seq(200));
        }
        drop(store);
        store = EmbeddedStore::open(dir.path(), options.clone()).unwrap();
    }
}

#[test]
fn keys_are_forgotten_by_number_and_by_age() {
    let dir = TempDir::new().unwrap();
    let options = EmbeddedOptions { dedup_max_keys: 100, dedup_horizon_s: 1, ..small() };
    let mut store = EmbeddedStore::open(dir.path(), options.clone()).unwrap();
    // A key for each message; message n was made at 1,000 + n ms. Opening anew makes sure that the index has them.
    for from in (1..=250).step_by(10) {
        let batch: Vec<Record> = (from..from + 10).map(|seq| keyed("u:ann", seq, seq as u8, 7)).collect();
        store.commit(&batch).expect("commit");
        drop(store);
        store = EmbeddedStore::open(dir.path(), options.clone()).unwrap();
    }
    let known = |store: &EmbeddedStore, key: u8| store.dedup(&[key; 16]).unwrap().is_some();
    assert!((200..=250).all(|key| known(&store, key)), "the newest keys are remembered");
    assert!((1..=100).all(|key| !known(&store, key)), "the oldest are forgotten");
    let stats = store.reader().dedup_stats();
    assert!(stats.keys <= 100 + 10 && stats.keys >= 80, "{stats:?}");
    assert!(stats.complete_since.is_some_and(|since| since.0 > 1_100 && since.0 < 1_200), "{stats:?}");

    store.commit(&[message("u:ann", 5_000)]).expect("commit");
    drop(store);
    let store = EmbeddedStore::open(dir.path(), options).unwrap();
    assert!((1..=250).all(|key| !known(&store, key as u8)), "all are older than the horizon");
    assert_eq!(store.reader().dedup_stats().keys, 0);
}

#[test]
fn a_failure_to_begin_a_segment_ends_the_store() {
    let dir = TempDir::new().unwrap();
    let mut store = open(dir.path());
    let (log, away) = (dir.path().join("log"), dir.path().join("away"));
    store.commit(&twins(1, 100)).expect("commit");
    std::fs::rename(&log, &away).unwrap();
    assert_ended(&mut store, 100);
    // What made it fail is over, but this opening has ended for good.
    std::fs::rename(&away, &log).unwrap();
    assert_ended(&mut store, 100);
    assert!(matches!(store.maintain(Default::default()), Err(StoreError::Fatal(_))));
    drop(store);
    let mut store = open(dir.path());
    assert_eq!(store.head(&stream("g:one")).unwrap().unwrap().head, Seq(100));
    store.commit(&twins(101, 1)).expect("commit");
}

fn assert_ended(store: &mut EmbeddedStore, head: u64) {
    let error = store.commit(&twins(head + 1, 50)).unwrap_err();
    assert!(matches!(error, StoreError::Fatal(_)), "{error:?}");
    assert_eq!(store.head(&stream("g:one")).unwrap().unwrap().head, Seq(head), "nothing of the batch is visible");
}

const CHILD: &str = "TIDEGATE_STORE_TEST_CHILD";

/// A real short write: the kernel refuses to let files of the child grow past a limit (`RLIMIT_FSIZE`), in the middle of a
/// batch. The child must answer no record of it; whoever opens the folder next finds everything that was answered.
#[test]
fn a_disk_that_fills_up_in_the_middle_of_a_batch_loses_nothing_answered() {
    if let Ok(dir) = std::env::var(CHILD) {
        return fill_up(Path::new(&dir));
    }
    let dir = TempDir::new().unwrap();
    let name = "a_disk_that_fills_up_in_the_middle_of_a_batch_loses_nothing_answered";
    // Ignored signals stay ignored over exec; otherwise SIGXFSZ would end the child.
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; exec \"$0\" --exact \"$1\" --nocapture"])
        .arg(std::env::current_exe().unwrap())
        .arg(name)
        .env(CHILD, dir.path())
        .output()
        .expect("run the child");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    let answered = said.lines().find_map(|line| line.rsplit_once("answered ")).expect("the child's word").1;
    let answered: u64 = answered.parse().expect("a number");
    assert!(answered >= 20, "only {answered} were answered: the limit came too early to test anything");

    let mut store = open(dir.path());
    let head = store.head(&stream("g:one")).unwrap().unwrap().head.0;
    assert!(head >= answered && head < answered + 20, "{head} of {answered} answered");
    assert_eq!(store.page(&stream("g:one"), Seq::ZERO, PAGE).unwrap().messages.len(), 100.min(head as usize));
    let last = store.last_lsn();
    assert_eq!(store.commit(&[message("u:ann", 1)]).expect("commit"), last.next());
}

fn fill_up(dir: &Path) {
    let mut store = EmbeddedStore::open(dir, EmbeddedOptions::default()).expect("open");
    let limit = ["--pid", &std::process::id().to_string(), "--fsize=50000"].map(str::to_owned);
    assert!(Command::new("prlimit").args(limit).status().expect("prlimit").success());
    let mut answered = 0;
    let error = loop {
        match store.commit(&twins(answered + 1, 20)) {
            Ok(_) => answered += 20,
            Err(error) => break error,
        }
        assert!(answered < 10_000, "the limit has no effect");
    };
    assert!(matches!(error, StoreError::Fatal(_)), "{error:?}");
    assert_ended(&mut store, answered);
    println!("\nanswered {answered}");
}
