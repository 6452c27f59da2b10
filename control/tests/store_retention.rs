//! Old segments go; what they said of groups, members, marks, cursors and heads stays, also for an index made anew.

mod store_kit;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use store_kit::{Writer, assert_same_but_replay, assert_same_keys, copy, gid, model, open, segments, small, uid};
use tempfile::TempDir;
use tidegate_control::adapters::embedded::{EmbeddedOptions, EmbeddedStore, OpenError, verify};
use tidegate_control_core::contract::store::fixtures::NO_LIMIT;
use tidegate_control_core::contract::store::message;
use tidegate_control_core::domain::{Lsn, Record, Seq, StreamKey, Timestamp};
use tidegate_control_core::ports::memory::MemoryStore;
use tidegate_control_core::ports::{MessageStore, StoreReader};

fn trimmed_model(records: &[Record], upto: Lsn) -> MemoryStore {
    let mut model = model(records);
    model.trim(upto);
    model
}

fn assert_trimmed(store: &EmbeddedStore, records: &[Record], upto: Lsn, why: &str) {
    assert_same_but_replay(store, &trimmed_model(records, upto), why);
    assert!(store.replay(Lsn(upto.0 - 1), NO_LIMIT).unwrap().is_none(), "{why}: the log begins after {upto}");
    let replayed = store.replay(upto, NO_LIMIT).unwrap().expect("the log reaches back to the cut").records;
    assert_eq!(replayed.len(), records.len() - upto.0 as usize, "{why}");
}

#[test]
fn trimming_keeps_all_but_the_old_messages() {
    let dir = TempDir::new().unwrap();
    let mut writer = Writer::new(0x7e7e_0001);
    let mut store = open(dir.path());
    let mut records = Vec::new();
    for round in 0..4 {
        for _ in 0..6 {
            let batch = writer.batch(30);
            store.commit(&batch).expect("commit");
            records.extend(batch);
        }
        let upto = store.trim(Lsn(records.len() as u64 - 100)).expect("trim");
        assert!(upto.0 > 0 && upto.0 <= records.len() as u64 - 100);
        assert_trimmed(&store, &records, upto, &format!("round {round}"));
        assert_same_keys(&store, &model(&records), "keys outlive their records");

        drop(store);
        let report = verify(dir.path()).unwrap();
        assert_eq!((report.first, report.snapshot.is_some()), (upto.next(), true));
        store = open(dir.path());
        assert_trimmed(&store, &records, upto, &format!("round {round}, opened again"));

        // The index is lost: snapshot and log say the same.
        drop(store);
        let copied = TempDir::new().unwrap();
        copy(dir.path(), copied.path());
        fs::remove_dir_all(copied.path().join("index")).unwrap();
        let rebuilt = open(copied.path());
        assert_trimmed(&rebuilt, &records, upto, &format!("round {round}, index made again"));
        store = open(dir.path());
    }
    assert!(snapshots(dir.path()) == 1, "older snapshots are removed");
}

#[test]
fn segments_go_by_age() {
    let dir = TempDir::new().unwrap();
    let options = EmbeddedOptions { retention_age_s: 100, retention_every_s: 0, ..small() };
    let mut store = EmbeddedStore::open(dir.path(), options).unwrap();
    fill(&mut store, 400);
    let before = segments(dir.path()).len();
    // Message n was made at 1,000 + n ms.
    store.maintain(Timestamp(101_000)).unwrap();
    store.finish_maintenance().unwrap();
    assert_eq!(segments(dir.path()).len(), before, "all are younger than 100 s");

    store.maintain(Timestamp(101_200)).unwrap();
    store.finish_maintenance().unwrap();
    let stream: StreamKey = "g:go".parse().unwrap();
    let head = store.head(&stream).unwrap().unwrap();
    assert!(head.first > Seq(1) && head.first <= Seq(200), "first is {}", head.first);
    assert_eq!(head.head, Seq(400));
    assert!(segments(dir.path()).len() < before);

    store.maintain(Timestamp(i64::MAX / 2)).unwrap();
    store.finish_maintenance().unwrap();
    assert_eq!(segments(dir.path()).len(), 1, "the segment being written stays whatever its age");
}

#[test]
fn segments_go_by_size() {
    let dir = TempDir::new().unwrap();
    let options = EmbeddedOptions { retention_bytes: 20_000, retention_every_s: 0, ..small() };
    let mut store = EmbeddedStore::open(dir.path(), options).unwrap();
    fill(&mut store, 600);
    store.maintain(Timestamp(2_000)).unwrap();
    store.finish_maintenance().unwrap();
    let bytes: u64 = segments(dir.path()).iter().map(|file| fs::metadata(file).unwrap().len()).sum();
    assert!(bytes <= 20_000 && bytes > 10_000, "{bytes} bytes are left");
}

/// A crash may come between any two steps of a trimming.
#[test]
fn a_trimming_that_was_cut_short_is_finished_or_forgotten() {
    let dir = TempDir::new().unwrap();
    let before = TempDir::new().unwrap();
    let mut writer = Writer::new(0x7e7e_0002);
    let mut store = open(dir.path());
    let mut records = Vec::new();
    for _ in 0..10 {
        let batch = writer.batch(30);
        store.commit(&batch).expect("commit");
        records.extend(batch);
    }
    drop(store);
    copy(dir.path(), before.path());
    let mut store = open(dir.path());
    let upto = store.trim(Lsn(150)).expect("trim");
    drop(store);

    // The snapshot is there, but nothing was unlinked yet, or only some of it.
    let gone: Vec<_> = segments(before.path())
        .into_iter()
        .take_while(|s| !dir.path().join("log").join(s.file_name().unwrap()).exists())
        .collect();
    assert!(gone.len() >= 2);
    for kept in [&gone[..], &gone[1..], &gone[gone.len() - 1..], &gone[..1]] {
        let crashed = TempDir::new().unwrap();
        copy(dir.path(), crashed.path());
        for file in kept {
            fs::copy(file, crashed.path().join("log").join(file.file_name().unwrap())).unwrap();
        }
        let store = open(crashed.path());
        assert_trimmed(&store, &records, upto, "unlinking goes on");
        assert_eq!(segments(crashed.path()).len(), segments(dir.path()).len());
    }

    // The index has moved the firsts, but the snapshot never came: the log still has everything.
    let crashed = TempDir::new().unwrap();
    copy(before.path(), crashed.path());
    fs::remove_dir_all(crashed.path().join("index")).unwrap();
    copy(&dir.path().join("index"), &crashed.path().join("index"));
    fs::write(crashed.path().join("snapshot.new"), b"half").unwrap();
    let store = open(crashed.path());
    assert_same_but_replay(&store, &trimmed_model(&records, upto), "the firsts have moved already");
    assert_eq!(store.replay(Lsn(0), NO_LIMIT).unwrap().expect("the log is whole").records.len(), records.len());
}

#[test]
fn a_damaged_or_lost_snapshot_is_refused() {
    let dir = TempDir::new().unwrap();
    let mut store = open(dir.path());
    fill(&mut store, 300);
    store.trim(Lsn(150)).unwrap();
    drop(store);
    let file = fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().path())
        .find(|path| path.file_name().unwrap().to_string_lossy().starts_with("snapshot-"));
    let file = file.expect("a snapshot");
    let whole = fs::read(&file).unwrap();
    for at in (0..whole.len()).step_by(7) {
        let mut bytes = whole.clone();
        bytes[at] ^= 8;
        fs::write(&file, bytes).unwrap();
        match verify(dir.path()) {
            Err(OpenError::Corrupt { file: named, .. }) => assert_eq!(named, file),
            other => panic!("byte {at}: {other:?}"),
        }
    }
    fs::remove_file(&file).unwrap();
    assert!(matches!(EmbeddedStore::open(dir.path(), small()), Err(OpenError::Incomplete { .. })));
    fs::write(&file, whole).unwrap();
    open(dir.path());
}

/// Readers page through a stream while its beginning is taken away under them.
#[test]
fn readers_never_fail_while_segments_go() {
    let dir = TempDir::new().unwrap();
    let mut store = open(dir.path());
    fill(&mut store, 2_000);
    let stream: StreamKey = "g:go".parse().unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let (reader, stream, stop) = (store.reader(), &stream, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let limit = tidegate_control_core::ports::PageLimit { messages: 50, bytes: 1 << 20 };
                    let page = reader.page(stream, Seq::ZERO, limit).expect("page");
                    let seqs: Vec<u64> = page.messages.iter().map(|m| m.seq.0).collect();
                    assert_eq!(seqs, (page.after.0 + 1..=page.upto.0).collect::<Vec<_>>());
                    reader.seq_before(stream, Timestamp(2_500)).expect("seq_before");
                }
            });
        }
        for upto in [300, 700, 1_100, 1_500, 1_900] {
            store.trim(Lsn(upto)).expect("trim");
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(store.head(&stream).unwrap().unwrap().head, Seq(2_000));
    assert!(store.group(&gid("none")).unwrap().is_none() && store.groups_of(&uid("ann"), 1).unwrap().is_empty());
}

fn fill(store: &mut EmbeddedStore, count: u64) {
    let records: Vec<Record> = (1..=count).map(|seq| message("g:go", seq)).collect();
    for batch in records.chunks(20) {
        store.commit(batch).expect("commit");
    }
}

fn snapshots(dir: &Path) -> usize {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("snapshot")).count()
}
