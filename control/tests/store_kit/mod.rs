//! What the tests of the embedded store share: a stream of varied records, the model they are compared with, and copies of
//! data folders.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::fs;
use std::path::{Path, PathBuf};

use tidegate_control::adapters::embedded::{EmbeddedOptions, EmbeddedStore};
use tidegate_control_core::contract::store::fixtures::{EPOCH, NO_LIMIT, keyed, membership, message_of};
use tidegate_control_core::contract::store::{
    begin_group, chat, dismiss_group, group_begins, join, leave, mark, message,
};
use tidegate_control_core::domain::{Epoch, Gid, LeaveReason, Lsn, Record, Role, Seq, StreamKey, Timestamp, Uid};
use tidegate_control_core::ports::memory::{MemoryDisk, MemoryStore};
use tidegate_control_core::ports::{MessageStore, StoreReader};

pub const USERS: [&str; 5] = ["ann", "bob", "cat", "dan", "eve"];
pub const GROUPS: [&str; 4] = ["g1", "g2", "g3", "g4"];

/// xorshift: the same records in every run.
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

/// Gives out what a sequencer might write: seqs without gaps, groups that begin, end and begin again.
pub struct Writer {
    dice: Dice,
    seqs: std::collections::BTreeMap<String, u64>,
    epochs: std::collections::BTreeMap<&'static str, Epoch>,
    keys: u8,
    ts: i64,
}

impl Writer {
    pub fn new(seed: u64) -> Writer {
        Writer { dice: Dice(seed), seqs: Default::default(), epochs: Default::default(), keys: 0, ts: 10_000 }
    }

    pub fn batch(&mut self, len: usize) -> Vec<Record> {
        (0..len).map(|_| self.record()).collect()
    }

    fn next(&mut self, stream: &str) -> u64 {
        let seq = self.seqs.entry(stream.to_owned()).or_default();
        *seq += 1;
        *seq
    }

    fn record(&mut self) -> Record {
        self.ts += 1;
        let (user, group) = (USERS[self.dice.below(USERS.len())], GROUPS[self.dice.below(GROUPS.len())]);
        let other = USERS[self.dice.below(USERS.len())];
        let Some(epoch) = self.epochs.get(group).copied() else {
            self.epochs.insert(group, EPOCH);
            return begin_group(group);
        };
        let stream = format!("g:{group}");
        match self.dice.below(20) {
            0..=5 => message(&format!("u:{user}"), self.next(&format!("u:{user}"))),
            6..=10 => message_of(&stream, epoch, self.next(&stream)),
            11 if user != other => {
                let conversation = StreamKey::conversation(&uid(user), &uid(other));
                let (from, to) = (self.next(&format!("u:{user}")), self.next(&format!("u:{other}")));
                chat(user, from, other, to, self.next(conversation.as_str()))
            }
            11..=12 => {
                self.keys = self.keys.wrapping_add(1);
                let seq = self.next(&format!("u:{user}"));
                keyed(&format!("u:{user}"), seq, self.keys, u64::from(self.keys))
            }
            13..=14 if epoch == EPOCH => join(group, self.next(&stream), user, Role::Member),
            15 if epoch == EPOCH => leave(group, self.next(&stream), user),
            13..=15 => membership(group, epoch, self.next(&stream), user, Some(Role::Admin), LeaveReason::Left),
            16 => Record::Mark(mark(user, USERS[self.dice.below(5)], &format!("u:{user}"), 3, self.ts)),
            17 => Record::Read(mark(user, "", &stream, self.dice.below(50) as u64, self.ts)),
            18 if epoch == EPOCH => dismiss_group(group),
            18..=19 if self.dice.below(4) == 0 => {
                let anew = Epoch(epoch.0 + 1);
                self.epochs.insert(group, anew);
                self.seqs.remove(&stream);
                group_begins(group, anew, true, self.ts)
            }
            _ => message(&format!("u:{user}"), self.next(&format!("u:{user}"))),
        }
    }
}

pub fn uid(name: &str) -> Uid {
    name.parse().expect("a valid uid")
}

pub fn gid(name: &str) -> Gid {
    name.parse().expect("a valid gid")
}

/// The model: the store in memory that control's own tests use.
pub fn model(records: &[Record]) -> MemoryStore {
    let mut store = MemoryDisk::new(Epoch(1)).open();
    store.commit(records).expect("commit to the model");
    store
}

/// Every look-up of one store gives what it gives in the other.
pub fn assert_same(left: &impl StoreReader, right: &impl StoreReader, why: &str) {
    assert_same_but_replay(left, right, why);
    let both = [left.replay(Lsn(0), NO_LIMIT), right.replay(Lsn(0), NO_LIMIT)];
    let both = both.map(|page| page.expect("replay").expect("the log reaches back").records);
    assert_eq!(both[0], both[1], "{why}: replay");
}

pub fn assert_same_but_replay(left: &impl StoreReader, right: &impl StoreReader, why: &str) {
    assert_eq!(left.last_lsn(), right.last_lsn(), "{why}: last lsn");
    for stream in streams() {
        let (a, b) = (left.head(&stream).expect("head"), right.head(&stream).expect("head"));
        assert_eq!(a, b, "{why}: head of {stream}");
        let first = a.map_or(0, |head| head.first.0);
        for after in [0, first, first + 7] {
            let pages = (left.page(&stream, Seq(after), NO_LIMIT), right.page(&stream, Seq(after), NO_LIMIT));
            assert_eq!(pages.0.expect("page"), pages.1.expect("page"), "{why}: page of {stream} after {after}");
        }
    }
    for user in USERS.map(uid) {
        assert_eq!(left.groups_of(&user, 9).unwrap(), right.groups_of(&user, 9).unwrap(), "{why}: groups of {user}");
        for stream in streams() {
            let sorted = |mut marks: Vec<tidegate_control_core::ports::DeviceMark>| {
                marks.sort_by(|a, b| a.device.cmp(&b.device));
                marks
            };
            let marks = (left.marks(&user, &stream).unwrap(), right.marks(&user, &stream).unwrap());
            assert_eq!(sorted(marks.0), sorted(marks.1), "{why}: marks of {user} in {stream}");
            let cursors = (left.read_cursor(&user, &stream).unwrap(), right.read_cursor(&user, &stream).unwrap());
            assert_eq!(cursors.0, cursors.1, "{why}: read cursor of {user} in {stream}");
        }
    }
    for group in GROUPS.map(gid) {
        assert_eq!(left.group(&group).unwrap(), right.group(&group).unwrap(), "{why}: group {group}");
        let members = (left.members(&group, None, 99).unwrap(), right.members(&group, None, 99).unwrap());
        assert_eq!(members.0, members.1, "{why}: members of {group}");
        for user in USERS.map(uid) {
            let member = (left.member(&group, &user).unwrap(), right.member(&group, &user).unwrap());
            assert_eq!(member.0, member.1, "{why}: {user} in {group}");
        }
    }
}

pub fn assert_same_keys(left: &impl StoreReader, right: &impl StoreReader, why: &str) {
    for key in 0..=255u8 {
        let hits = (left.dedup(&[key; 16]).expect("dedup"), right.dedup(&[key; 16]).expect("dedup"));
        assert_eq!(hits.0, hits.1, "{why}: key {key}");
    }
}

pub fn streams() -> Vec<StreamKey> {
    let mut names: Vec<String> = USERS.iter().map(|user| format!("u:{user}")).collect();
    names.extend(GROUPS.iter().map(|group| format!("g:{group}")));
    names.extend(["u:nobody", "c:ann:bob", "c:bob:cat", "c:ann:eve", "c:dan:eve"].map(str::to_owned));
    names.iter().map(|name| name.parse().expect("a valid stream key")).collect()
}

/// Several segments from a few hundred records, and almost nothing kept in memory.
pub fn small() -> EmbeddedOptions {
    EmbeddedOptions { segment_bytes: 4_000, recent_bytes: 2_000, ..EmbeddedOptions::default() }
}

pub fn open(dir: &Path) -> EmbeddedStore {
    EmbeddedStore::open(dir, small()).unwrap_or_else(|error| panic!("open: {error}"))
}

/// What a power loss or `kill -9` at this moment would leave: the files as they are, without the lock.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("create");
    for entry in fs::read_dir(from).expect("list") {
        let entry = entry.expect("entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            // fjall removes files in the background.
            match fs::copy(entry.path(), target) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("copy: {error}"),
                _ => {}
            }
        }
    }
}

pub fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(dir.join("log")).expect("list").map(|entry| entry.expect("entry").path()).collect();
    files.sort();
    files
}

pub fn last_timestamp(records: &[Record]) -> Timestamp {
    model(records).last_timestamp()
}
