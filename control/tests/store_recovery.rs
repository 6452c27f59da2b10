//! Opening after crashes and damage: what was acknowledged is there or the store is refused; never anything between.

mod store_kit;

use std::fs::{self, OpenOptions};

use store_kit::{Dice, Writer, assert_same, assert_same_keys, copy, model, open, segments, small};
use tempfile::TempDir;
use tidegate_control::adapters::embedded::{EmbeddedStore, OpenError, verify};
use tidegate_control_core::domain::{Lsn, Record};
use tidegate_control_core::ports::{MessageStore, StoreReader};

fn written(dir: &std::path::Path, batches: usize) -> (EmbeddedStore, Vec<Record>) {
    let mut writer = Writer::new(0x5eed_0001);
    let mut store = open(dir);
    let mut records = Vec::new();
    for _ in 0..batches {
        let batch = writer.batch(25);
        store.commit(&batch).expect("commit");
        records.extend(batch);
    }
    (store, records)
}

#[test]
fn a_store_is_what_its_records_say() {
    let dir = TempDir::new().unwrap();
    let mut writer = Writer::new(0x5eed_0002);
    let mut store = open(dir.path());
    let mut records = Vec::new();
    for round in 0..24 {
        let batch = writer.batch(1 + round * 3);
        store.commit(&batch).expect("commit");
        records.extend(batch);
        if round % 8 == 7 {
            let model = model(&records);
            assert_same(&store, &model, "after commits");
            assert_same_keys(&store, &model, "after commits");
            drop(store);
            store = open(dir.path());
            assert_same(&store, &model, "after opening again");
            assert_same_keys(&store, &model, "after opening again");
            assert_eq!(store.last_timestamp(), model.last_timestamp());
        }
    }
    assert!(segments(dir.path()).len() > 10);
}

#[test]
fn a_store_copied_while_it_runs_opens_with_all_that_was_committed() {
    let dir = TempDir::new().unwrap();
    let mut writer = Writer::new(0x5eed_0003);
    let mut store = open(dir.path());
    let mut records = Vec::new();
    for round in 0..6 {
        for _ in 0..10 {
            let batch = writer.batch(20);
            store.commit(&batch).expect("commit");
            records.extend(batch);
        }
        let crashed = TempDir::new().unwrap();
        copy(dir.path(), crashed.path());
        let reopened = open(crashed.path());
        let model = model(&records);
        assert_same(&reopened, &model, &format!("crash {round}"));
        assert_same_keys(&reopened, &model, &format!("crash {round}"));
    }
}

#[test]
fn a_torn_tail_is_cut_and_writing_goes_on() {
    let dir = TempDir::new().unwrap();
    let (store, records) = written(dir.path(), 20);
    drop(store);
    let file = segments(dir.path()).pop().unwrap();
    let length = fs::metadata(&file).unwrap().len();
    let mut dice = Dice(0xfeed);
    for round in 0..8 {
        let crashed = TempDir::new().unwrap();
        copy(dir.path(), crashed.path());
        let file = segments(crashed.path()).pop().unwrap();
        let cut = 41 + dice.below(length as usize - 41) as u64;
        OpenOptions::new().write(true).open(&file).unwrap().set_len(cut).unwrap();

        let report = verify(crashed.path()).unwrap();
        let mut store = open(crashed.path());
        let last = store.last_lsn();
        assert_eq!((report.last, report.torn.map_or(0, |torn| torn.bytes)), (last, store.torn_bytes()));
        assert!(last < Lsn(records.len() as u64) || cut == length, "something was cut off");
        // The index knew the records that are gone, so it was made anew.
        let kept = &records[..last.0 as usize];
        assert_same(&store, &model(kept), &format!("round {round}, cut at {cut}"));
        assert_same_keys(&store, &model(kept), &format!("round {round}, cut at {cut}"));
        store.commit(&records[last.0 as usize..]).expect("commit");
        assert_same(&store, &model(&records), &format!("round {round}, cut at {cut}, written again"));
    }
}

#[test]
fn a_flipped_byte_in_the_middle_is_refused_and_nothing_is_changed() {
    let dir = TempDir::new().unwrap();
    let (store, _) = written(dir.path(), 20);
    drop(store);
    let files = segments(dir.path());
    let mut dice = Dice(0xf11b);
    for round in 0..40 {
        let file = &files[dice.below(files.len() - 1)];
        let mut bytes = fs::read(file).unwrap();
        let at = dice.below(bytes.len());
        let bit = 1 << dice.below(8);
        bytes[at] ^= bit;
        fs::write(file, &bytes).unwrap();
        let offset = match EmbeddedStore::open(dir.path(), small()) {
            Err(OpenError::Corrupt { file: named, offset, .. }) => {
                assert_eq!(&named, file, "round {round}");
                assert!(offset <= at as u64, "round {round}: byte {at} lies in the record at {offset}");
                offset
            }
            other => panic!("round {round}, byte {at} of {}: {other:?}", file.display()),
        };
        let error = verify(dir.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("offset {offset}")) && error.contains(".seg"), "{error}");
        assert_eq!(fs::read(file).unwrap(), bytes, "a refused log is left as it is");
        bytes[at] ^= bit;
        fs::write(file, &bytes).unwrap();
    }
    open(dir.path());
}

#[test]
fn a_damaged_or_lost_store_file_is_refused() {
    let dir = TempDir::new().unwrap();
    let (store, _) = written(dir.path(), 2);
    drop(store);
    let file = dir.path().join("store");
    let whole = fs::read(&file).unwrap();
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 4;
        fs::write(&file, bytes).unwrap();
        assert!(matches!(EmbeddedStore::open(dir.path(), small()), Err(OpenError::Corrupt { .. })), "byte {at}");
    }
    fs::remove_file(&file).unwrap();
    assert!(matches!(EmbeddedStore::open(dir.path(), small()), Err(OpenError::Incomplete { .. })));
    fs::write(&file, whole).unwrap();
    open(dir.path());

    fs::remove_dir_all(dir.path().join("log")).unwrap();
    assert!(EmbeddedStore::open(dir.path(), small()).is_err(), "a lost log is no new store");
}

#[test]
fn two_owners_cannot_open_one_folder() {
    let dir = TempDir::new().unwrap();
    let (store, records) = written(dir.path(), 1);
    let reader = store.reader();
    assert!(matches!(EmbeddedStore::open(dir.path(), small()), Err(OpenError::Locked { .. })));
    assert!(matches!(verify(dir.path()), Err(OpenError::Locked { .. })));
    drop(store);
    assert!(matches!(EmbeddedStore::open(dir.path(), small()), Err(OpenError::Locked { .. })), "a reader is left");
    drop(reader);
    assert_eq!(open(dir.path()).last_lsn(), Lsn(records.len() as u64));
}

#[test]
fn verify_reports_what_is_there() {
    let dir = TempDir::new().unwrap();
    assert!(matches!(verify(dir.path()), Err(OpenError::Incomplete { .. })), "an empty folder is no store");
    let (store, records) = written(dir.path(), 8);
    let (base, owner) = (store.base_epoch(), store.owner_epoch());
    drop(store);
    let report = verify(dir.path()).unwrap();
    assert_eq!((report.base_epoch, report.owner_epoch), (base, owner));
    assert_eq!((report.first, report.last, report.records), (Lsn(1), Lsn(records.len() as u64), records.len() as u64));
    assert_eq!(report.segments, segments(dir.path()).len());
    let bytes: u64 = segments(dir.path()).iter().map(|file| fs::metadata(file).unwrap().len()).sum();
    assert_eq!((report.bytes, report.torn, report.snapshot), (bytes, None, None));
}
