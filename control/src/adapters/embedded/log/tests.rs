//! What recovery makes of damage, at the log alone: many places, since no index has to be opened for each.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;
use tidegate_control_core::contract::store::message;
use tidegate_control_core::domain::{Append, Body, Content, Record, Timestamp};

use super::format::RecordHeader;
use super::read::LogScan;
use super::recover::{Checked, LogBegin, check, repair};
use super::write::{LogEnd, create_segment};
use super::*;
use crate::adapters::embedded::codec;
use crate::adapters::embedded::error::OpenError;

const STORE: StoreId = StoreId(0x7e57_0001);
const BEGIN: LogBegin = LogBegin { first: Lsn(1), previous: 0, newest: Timestamp(0) };
const BATCH: usize = 7;

/// Where a record stands in which file.
#[derive(Clone, Debug)]
struct Stands {
    lsn: Lsn,
    file: PathBuf,
    start: u64,
    end: u64,
}

struct Written {
    dir: TempDir,
    records: Vec<Record>,
    places: Vec<Stands>,
}

fn begin() -> LogBegin {
    LogBegin { previous: STORE.seed(), ..BEGIN }
}

/// xorshift: the same places in every run.
struct Places(u64);

impl Places {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

fn fresh_log(dir: &TempDir, segment_bytes: u64, store: StoreId) -> (Arc<Log>, LogWriter) {
    let log = Arc::new(Log::new(dir.path().to_path_buf(), store, Vec::new()));
    create_segment(&log, store, Lsn(1), store.seed()).unwrap();
    log.begin(Lsn(1));
    let offset = SEGMENT_HEADER_BYTES as u64;
    let end = LogEnd { segment: Lsn(1), offset, last: Lsn(0), last_crc: store.seed(), newest: Timestamp(0) };
    let writer = LogWriter::new(log.clone(), store, segment_bytes, end).unwrap();
    (log, writer)
}

fn written(count: u64, segment_bytes: u64) -> Written {
    let dir = TempDir::new().unwrap();
    let (log, mut writer) = fresh_log(&dir, segment_bytes, STORE);
    let records: Vec<Record> = (1..=count).map(|seq| message("g:go", seq)).collect();
    let mut places = Vec::new();
    for batch in records.chunks(BATCH) {
        let appended = writer.append(batch).unwrap();
        for ((record, offset), lsn) in batch.iter().zip(appended.offsets).zip(appended.first.0..) {
            let mut body = Vec::new();
            codec::encode(record, &mut body);
            let segment = log.with_segment(Lsn(lsn), |s| s.first).unwrap();
            let (start, whole) = (u64::from(*offset), (RECORD_HEADER + body.len()) as u64);
            places.push(Stands { lsn: Lsn(lsn), file: segment_path(dir.path(), segment), start, end: start + whole });
        }
    }
    Written { dir, records, places }
}

const RECORD_HEADER: usize = super::format::RECORD_HEADER_BYTES;

impl Written {
    fn check(&self) -> Result<Checked, OpenError> {
        check(self.dir.path(), STORE, begin())
    }

    fn last_file(&self) -> PathBuf {
        self.places.last().unwrap().file.clone()
    }

    fn flip(&self, file: &PathBuf, at: u64) {
        let mut bytes = fs::read(file).unwrap();
        bytes[at as usize] ^= 0x10;
        fs::write(file, bytes).unwrap();
    }

    /// The refusal must name this place.
    fn assert_refused(&self, file: &PathBuf, offset: u64, why: &str) {
        match self.check() {
            Err(OpenError::Corrupt { file: named, offset: at, .. }) => {
                assert_eq!((&named, at), (file, offset), "{why}");
            }
            other => panic!("{why}: {other:?}"),
        }
    }

    fn read_all(&self, checked: &Checked) -> Vec<Record> {
        let log = Log::new(self.dir.path().to_path_buf(), STORE, checked.segments.clone());
        let last = checked.end.unwrap().last;
        let mut scan = LogScan::new(&log, Lsn(0), last, 4096).unwrap();
        let mut records = Vec::new();
        while let Some((at, view)) = scan.step().unwrap() {
            assert_eq!(at.lsn.0, records.len() as u64 + 1);
            records.push(codec::decode(view.body).unwrap());
        }
        records
    }
}

#[test]
fn a_whole_log_is_accepted_as_it_is() {
    let log = written(100, 1_500);
    let checked = log.check().unwrap();
    assert!(checked.segments.len() >= 5, "{} segments", checked.segments.len());
    assert_eq!((checked.end.unwrap().last, checked.records), (Lsn(100), 100));
    assert!(checked.torn.is_none() && checked.obsolete.is_empty());
    assert_eq!(checked.end.unwrap().newest, Timestamp(1100));
    assert_eq!(log.read_all(&checked), log.records);
}

#[test]
fn a_torn_tail_is_cut_to_the_whole_records_before_it() {
    let log = written(60, 1_500);
    let file = log.last_file();
    let whole = fs::read(&file).unwrap();
    let before_file = log.places.iter().filter(|p| p.file != file).count() as u64;
    let mut places = Places(0x9e37_79b9_7f4a_7c15);
    for round in 0..200 {
        let cut = places.below(whole.len() as u64 + 1);
        let mut bytes = whole[..cut as usize].to_vec();
        let junk = places.below(400) as usize;
        match round % 4 {
            0 => {}
            1 => bytes.extend(std::iter::repeat_with(|| places.below(256) as u8).take(junk)),
            2 => bytes.resize(bytes.len() + junk, 0),
            // What stood there before, but with its middle lost: a write whose last part never came.
            _ => bytes.extend_from_slice(&whole[cut as usize..whole.len().min(cut as usize + 10)]),
        }
        fs::write(&file, &bytes).unwrap();
        let kept = log.places.iter().filter(|p| p.file == file && p.end <= bytes.len() as u64);
        let kept = kept.take_while(|p| bytes[..p.end as usize] == whole[..p.end as usize]).count() as u64;

        let checked = log.check().unwrap_or_else(|error| panic!("round {round}, cut at {cut}: {error}"));
        let last = Lsn(before_file + kept);
        assert_eq!(checked.end.unwrap().last, last, "round {round}, cut at {cut}");
        let good_end = log.places.iter().rfind(|p| p.file == file && p.lsn <= last).map_or(40, |p| p.end);
        let torn_bytes = checked.torn.as_ref().map_or(0, |torn| torn.bytes);
        let header_whole = bytes.get(..40) == Some(&whole[..40]);
        let expected = if header_whole { bytes.len() as u64 - good_end } else { bytes.len() as u64 };
        assert_eq!(torn_bytes, expected, "round {round}, cut at {cut}");

        repair(log.dir.path(), &checked).unwrap();
        let again = log.check().unwrap();
        assert!(again.torn.is_none(), "a repaired log is whole");
        assert_eq!(log.read_all(&again), log.records[..last.0 as usize]);
    }
}

#[test]
fn writing_goes_on_after_a_cut() {
    let log = written(30, 1_500);
    let file = log.last_file();
    let whole = fs::read(&file).unwrap();
    for cut in [whole.len() - 1, 45, 39, 0] {
        fs::write(&file, &whole[..cut]).unwrap();
        let checked = log.check().unwrap();
        repair(log.dir.path(), &checked).unwrap();
        let shared = Arc::new(Log::new(log.dir.path().to_path_buf(), STORE, checked.segments.clone()));
        let mut writer = LogWriter::new(shared, STORE, 1_500, checked.end.unwrap()).unwrap();
        let kept = checked.end.unwrap().last.0 as usize;
        writer.append(&log.records[kept..]).unwrap();
        let again = log.check().unwrap();
        assert_eq!(log.read_all(&again), log.records);
    }
}

#[test]
fn a_flipped_byte_before_the_last_record_is_refused_with_its_place() {
    let log = written(60, 1_500);
    let mut places = Places(0x1234_5678_9abc_def1);
    let last = log.places.len() as u64 - 1;
    for round in 0..200 {
        let stands = &log.places[places.below(last) as usize];
        let at = stands.start + places.below(stands.end - stands.start);
        log.flip(&stands.file, at);
        log.assert_refused(&stands.file, stands.start, &format!("round {round}, byte {at} of {stands:?}"));
        log.flip(&stands.file, at);
    }
    assert!(log.check().is_ok(), "undone flips leave a whole log");
}

#[test]
fn each_field_of_a_header_is_covered() {
    let log = written(60, 1_500);
    let middle = &log.places[20];
    for (field, at) in [("length", 0), ("header crc", 4), ("body crc", 8), ("lsn", 12), ("previous crc", 20)] {
        for byte in 0..4 {
            log.flip(&middle.file, middle.start + at + byte);
            log.assert_refused(&middle.file, middle.start, field);
            log.flip(&middle.file, middle.start + at + byte);
        }
    }
    let files: Vec<PathBuf> = segment_files(&log);
    for file in &files {
        for at in [0, 9, 17, 25, 33, 38] {
            log.flip(file, at);
            log.assert_refused(file, 0, "segment header");
            log.flip(file, at);
        }
    }
}

#[test]
fn the_last_record_of_an_old_segment_is_not_a_torn_tail() {
    let log = written(60, 1_500);
    let old = log.places.windows(2).find(|pair| pair[0].file != pair[1].file).unwrap()[0].clone();
    log.flip(&old.file, old.end - 1);
    log.assert_refused(&old.file, old.start, "flipped");
    log.flip(&old.file, old.end - 1);
    let whole = fs::read(&old.file).unwrap();
    fs::write(&old.file, &whole[..whole.len() - 3]).unwrap();
    log.assert_refused(&old.file, old.start, "cut");
    fs::write(&old.file, &whole[..old.start as usize]).unwrap();
    match log.check() {
        Err(OpenError::Incomplete { .. }) => {}
        other => panic!("a record is missing between two segments: {other:?}"),
    }
}

#[test]
fn a_flipped_byte_in_the_very_last_record_is_cut() {
    let log = written(60, 1_500);
    let last = log.places.last().unwrap().clone();
    for at in [last.start, last.start + 5, last.start + 14, last.start + 30, last.end - 1] {
        log.flip(&last.file, at);
        let checked = log.check().unwrap();
        assert_eq!(checked.end.unwrap().last, Lsn(59));
        let torn = checked.torn.unwrap();
        assert_eq!((torn.file, torn.offset, torn.bytes), (last.file.clone(), last.start, last.end - last.start));
        log.flip(&last.file, at);
    }
}

#[test]
fn garbage_over_whole_records_is_refused_while_one_valid_record_follows() {
    let log = written(60, 1_500);
    let file = log.last_file();
    let in_last: Vec<&Stands> = log.places.iter().filter(|p| p.file == file).collect();
    let (from, to) = (in_last[0].start, in_last[in_last.len() - 1].start);
    let whole = fs::read(&file).unwrap();
    let mut bytes = whole.clone();
    bytes[from as usize..to as usize].fill(0);
    fs::write(&file, &bytes).unwrap();
    log.assert_refused(&file, from, "zeros before a valid record");
    // The same with the valid record moved: a lost page shifts nothing, but a scan must not rely on alignment.
    bytes.drain(from as usize + 3..from as usize + 10);
    fs::write(&file, &bytes).unwrap();
    log.assert_refused(&file, from, "moved");
}

#[test]
fn segments_must_be_all_there_and_of_this_store() {
    let log = written(60, 1_500);
    let files = segment_files(&log);
    let whole = fs::read(&files[1]).unwrap();
    fs::remove_file(&files[1]).unwrap();
    assert!(matches!(log.check(), Err(OpenError::Incomplete { .. })), "a segment in the middle is missing");
    fs::write(&files[1], &whole).unwrap();

    let first = fs::read(&files[0]).unwrap();
    fs::remove_file(&files[0]).unwrap();
    assert!(matches!(log.check(), Err(OpenError::Incomplete { .. })), "the first segment is missing");
    fs::write(&files[0], &first).unwrap();

    let foreign = TempDir::new().unwrap();
    let (_, mut writer) = fresh_log(&foreign, 1_500, StoreId(99));
    writer.append(&log.records[..BATCH]).unwrap();
    fs::copy(segment_path(foreign.path(), Lsn(1)), &files[0]).unwrap();
    log.assert_refused(&files[0], 0, "another store's segment");
}

/// The same lsns and sound checksums, but another history: only the chain tells.
#[test]
fn a_segment_of_another_history_is_refused() {
    let log = written(60, 1_500);
    let files = segment_files(&log);
    let other = TempDir::new().unwrap();
    let (_, mut writer) = fresh_log(&other, 1_500, STORE);
    for batch in log.records.chunks(BATCH) {
        let changed: Vec<Record> = batch.iter().map(|record| with_text(record, "another text")).collect();
        writer.append(&changed).unwrap();
    }
    let same_name = segment_files(&log)
        .into_iter()
        .position(|file| file != files[0] && other.path().join(file.file_name().unwrap()).exists());
    let file = &files[same_name.expect("some segment begins at the same lsn")];
    fs::copy(other.path().join(file.file_name().unwrap()), file).unwrap();
    assert!(matches!(log.check(), Err(OpenError::Corrupt { .. } | OpenError::Incomplete { .. })));
}

/// One record of another history in the place of ours: as long, with sound checksums and the right lsn.
#[test]
fn a_record_of_another_history_is_refused() {
    let log = written(60, 1_500);
    let other = TempDir::new().unwrap();
    let (_, mut writer) = fresh_log(&other, 1_500, STORE);
    for (number, batch) in log.records.chunks(BATCH).enumerate() {
        let seqs = number * BATCH + 1..;
        let text = |seq: usize| "x".repeat(format!("g:go#{seq}").len());
        let changed: Vec<Record> = batch.iter().zip(seqs).map(|(record, seq)| with_text(record, &text(seq))).collect();
        writer.append(&changed).unwrap();
    }
    let place = log.places.iter().find(|place| place.lsn == Lsn(11)).unwrap();
    let theirs = fs::read(other.path().join(place.file.file_name().unwrap())).unwrap();
    let mut bytes = fs::read(&place.file).unwrap();
    let header = RecordHeader::decode(&theirs[place.start as usize..], STORE.seed()).map(|(header, _)| header);
    assert_eq!(header.map(|header| (header.lsn, header.record_bytes())), Some((Lsn(11), place.end - place.start)));
    let range = place.start as usize..place.end as usize;
    bytes[range.clone()].copy_from_slice(&theirs[range]);
    fs::write(&place.file, bytes).unwrap();
    log.assert_refused(&place.file, place.start, "the chain is broken");
}

/// A caller who puts a valid record of another store into a message must not turn a torn tail into "corruption".
#[test]
fn bytes_in_a_message_cannot_pass_for_a_record() {
    let mut forged = vec![1u8; 64];
    let header = RecordHeader { len: 8, body_crc: crc32fast::hash(b"a record"), lsn: Lsn(9), previous: 0 };
    forged.extend_from_slice(&header.encode(StoreId(99).seed()).0);
    forged.extend_from_slice(b"a record");
    forged.extend_from_slice(&[1; 64]);
    let Record::Append(append) = message("g:go", 8) else { panic!("an append") };
    let body = Body { content: Content::Binary(forged.into()), ..(*append.body).clone() };
    let record = Record::Append(Append { body: Arc::new(body), ..append });

    let dir = TempDir::new().unwrap();
    let (log, mut writer) = fresh_log(&dir, 1 << 20, STORE);
    writer.append(&[message("g:go", 1)]).unwrap();
    let end = writer.append(&[record]).unwrap().last;
    let file = segment_path(dir.path(), log.start());
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..whole.len() - 5]).unwrap();
    let checked = check(dir.path(), STORE, begin()).unwrap();
    assert_eq!((end, checked.end.unwrap().last), (Lsn(2), Lsn(1)));
}

#[test]
fn a_walk_begins_at_any_record() {
    let dir = TempDir::new().unwrap();
    let (log, mut writer) = fresh_log(&dir, 1_500_000, STORE);
    let records: Vec<Record> = (1..=4_000).map(|seq| with_text(&message("g:go", seq), &"x".repeat(700))).collect();
    for batch in records.chunks(500) {
        writer.append(batch).unwrap();
    }
    assert!(log.segments().len() >= 2 && log.segments()[0].marks.len() >= 4, "several noted places");
    for from in [0, 1, 364, 365, 366, 1_000, 1_999, 2_000, 2_001, 3_999, 4_000] {
        let mut scan = LogScan::new(&log, Lsn(from), Lsn(4_000), 4096).unwrap();
        let mut next = from;
        while let Some((at, view)) = scan.step().unwrap() {
            next += 1;
            assert_eq!(at.lsn, Lsn(next));
            if next < from + 3 {
                assert_eq!(codec::decode(view.body).unwrap(), records[next as usize - 1]);
            }
        }
        assert_eq!(next, 4_000);
    }
}

fn with_text(record: &Record, text: &str) -> Record {
    let Record::Append(append) = record else { panic!("an append") };
    let body = Body { content: Content::Text(text.into()), ..(*append.body).clone() };
    Record::Append(Append { body: Arc::new(body), ..append.clone() })
}

fn segment_files(log: &Written) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = log.places.iter().map(|p| p.file.clone()).collect();
    files.dedup();
    files
}
