//! A PostgreSQL whose connections are cut, that is restarted, or that two owners want at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tidegate_control::adapters::postgres::{PostgresOptions, PostgresStore};
use tidegate_control_core::contract::store::fixtures::stream;
use tidegate_control_core::contract::store::{Loss, RemoteStoreFactory, StoreFactory, assert_log, message};
use tidegate_control_core::domain::{Lsn, Record, Seq};
use tidegate_control_core::ports::{MessageStore, StoreError, StoreReader};
use xtask::servers::{Home, Server, down_in, up_in};

use crate::factory::{Factory, ask};

/// Commits a batch as a partition does: again and again, the same, while the store is away.
fn commit_at_last(store: &mut PostgresStore, batch: &[Record]) -> Lsn {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        match store.commit(batch) {
            Ok(lsn) => return lsn,
            Err(StoreError::Unavailable(why)) => assert!(Instant::now() < deadline, "still unavailable: {why}"),
            Err(error) => panic!("{error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn connections_that_are_cut_at_any_moment_make_no_hole_and_no_twin() {
    let mut factory = Factory::new();
    let mut store = factory.open();
    let application = factory.options().schema;
    let cut =
        format!("select pg_terminate_backend(pid) from pg_stat_activity where application_name = '{application}'");
    let records: Vec<Record> = (1..=400).map(|seq| message("u:ann", seq)).collect();
    let done = AtomicBool::new(false);
    let cuts = std::thread::scope(|scope| {
        let cutter = scope.spawn(|| {
            let mut cuts = 0;
            while !done.load(Ordering::SeqCst) {
                cuts += ask(&factory.server, &cut).expect("an answer").len();
                std::thread::sleep(Duration::from_millis(5));
            }
            cuts
        });
        for (batch, at) in records.chunks(4).zip(1u64..) {
            assert_eq!(commit_at_last(&mut store, batch), Lsn(at * 4));
        }
        done.store(true, Ordering::SeqCst);
        cutter.join().expect("no panic")
    });
    assert!(cuts > 3, "only {cuts} connections were cut");
    assert_log(&store, &records);
    assert_eq!(store.head(&"u:ann".parse().expect("a stream")).expect("head").map(|head| head.head), Some(Seq(400)));
}

/// The older owner's commit is under way when the newer one takes the partition: one comes first, whichever it is.
#[test]
fn a_commit_that_meets_a_new_owner_stands_before_it_or_not_at_all() {
    let mut factory = Factory::new();
    for _ in 0..8 {
        let mut older = factory.open();
        let options = factory.options();
        let batch: Vec<Record> = (1..=200).map(|seq| message("u:ann", seq)).collect();
        let (done, newer) = std::thread::scope(|scope| {
            let newer = scope.spawn(|| PostgresStore::open(options).expect("open"));
            (older.commit(&batch), newer.join().expect("no panic"))
        });
        let stands = match done {
            Ok(lsn) => lsn,
            Err(StoreError::Fenced) => Lsn(0),
            Err(error) => panic!("neither committed nor fenced: {error}"),
        };
        assert_log(&newer, &batch[..stands.0 as usize]);
    }
}

/// The commit is neither lost nor answered, and it arrives when the batch has been committed again.
#[test]
fn a_commit_that_arrives_late_makes_no_twin() {
    let mut factory = Factory::new();
    let options = PostgresOptions { timeout: Duration::from_secs(1), ..factory.begin() };
    let mut store = PostgresStore::open(options).expect("open");
    let records: Vec<Record> = (1..=6).map(|seq| message("u:ann", seq)).collect();
    store.commit(&records[..2]).expect("commit");
    factory.proxy.hold();
    assert!(matches!(store.commit(&records[2..4]), Err(StoreError::Unavailable(_))), "no answer came");
    assert!(factory.is_lost());
    assert_eq!(commit_at_last(&mut store, &records[2..4]), Lsn(4));
    factory.proxy.let_go();
    assert_eq!(commit_at_last(&mut store, &records[4..]), Lsn(6));
    assert_log(&store, &records);
    assert_log(&factory.reopen(store), &records);
}

/// A partition that gave a batch up in doubt has undone it in memory. If it stands after all, only opening the store anew
/// tells the truth again: to go on would give its seqs twice.
#[test]
fn a_batch_that_was_given_up_in_doubt_and_stands_ends_the_owner() {
    let mut factory = Factory::new();
    let mut store = factory.open();
    let (given_up, next) = ([message("u:ann", 1), message("u:ann", 2)], [message("u:ann", 1)]);
    factory.plant(Loss::Answer);
    factory.proxy.set_away(true);
    for _ in 0..3 {
        assert!(matches!(store.commit(&given_up), Err(StoreError::Unavailable(_))));
        assert_eq!(store.last_lsn(), Lsn(0));
    }
    assert!(factory.is_lost());
    factory.proxy.set_away(false);
    assert!(matches!(store.commit(&next), Err(StoreError::Fatal(_))));
    assert_log(&factory.reopen(store), &given_up);
}

#[test]
fn a_batch_that_was_given_up_in_doubt_and_does_not_stand_is_forgotten() {
    let mut factory = Factory::new();
    let mut store = factory.open();
    let (given_up, next) = ([message("u:ann", 1), message("u:ann", 2)], [message("u:ann", 1)]);
    factory.plant(Loss::Request);
    factory.proxy.set_away(true);
    assert!(matches!(store.commit(&given_up), Err(StoreError::Unavailable(_))));
    factory.proxy.set_away(false);
    assert_eq!(commit_at_last(&mut store, &next), Lsn(1));
    assert_log(&store, &next);
}

/// Ended and removed with the test, whatever becomes of it.
struct OwnServer {
    home: Home,
    _folder: tempfile::TempDir,
}

impl OwnServer {
    fn new() -> OwnServer {
        use std::os::unix::fs::PermissionsExt as _;
        // PostgreSQL runs as another user than root, who must be able to enter.
        let open = std::fs::Permissions::from_mode(0o711);
        let folder = tempfile::Builder::new().permissions(open).tempdir_in("/var/tmp").expect("a folder");
        OwnServer { home: Home::at(folder.path().join("servers")).expect("a home"), _folder: folder }
    }

    fn up(&self) -> String {
        up_in(&self.home, Server::Postgres, 1).expect("a PostgreSQL of our own")
    }

    fn down(&self) {
        down_in(&self.home, Server::Postgres, false).expect("stop");
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        if let Err(error) = down_in(&self.home, Server::Postgres, true) {
            eprintln!("a PostgreSQL was left behind: {error:#}");
        }
    }
}

#[test]
fn a_store_goes_on_after_its_server_was_restarted() {
    let server = OwnServer::new();
    let url = server.up();
    let mut factory = Factory::at(&url);
    let mut store = factory.open();
    let records: Vec<Record> = (1..=6).map(|seq| message("u:ann", seq)).collect();
    store.commit(&records[..2]).expect("commit");

    server.down();
    assert!(matches!(store.commit(&records[2..4]), Err(StoreError::Unavailable(_))), "it is away");
    assert!(matches!(store.head(&stream("u:ann")), Err(StoreError::Unavailable(_))));
    // What it committed itself is in its memory.
    assert_log(&store, &records[..2]);
    assert_eq!(server.up(), url);
    assert_eq!(commit_at_last(&mut store, &records[2..4]), Lsn(4));
    assert_log(&store, &records[..4]);

    let base = store.base_epoch();
    let mut store = factory.reopen(store);
    assert_eq!(store.base_epoch(), base);
    assert_eq!(store.commit(&records[4..]).expect("commit"), Lsn(6));
    assert_log(&store, &records);
}
