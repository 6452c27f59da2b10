//! Where streams stand, in memory: a bounded cache over the store with second-chance (clock) replacement.
//!
//! Invariants: what a batch changed is neither evicted before the batch is committed nor kept if it is rolled back. An
//! entry equals what the store says once the batch is committed.

use hashbrown::HashTable;

use super::stream_hash::StreamHasher;
use crate::domain::{Epoch, Seq, StreamKey};

/// What the sequencer must know to give the next seq.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    pub epoch: Epoch,
    pub head: Seq,
    pub mode: Mode,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// An inbox or a conversation.
    Personal,
    OpenGroup,
    MembersGroup,
    Dismissed,
}

#[derive(Debug)]
pub(super) struct Heads {
    table: HashTable<u32>,
    slots: Vec<Slot>,
    max: usize,
    hand: usize,
    /// The slot found last: a push looks its stream up and then changes it.
    hint: u32,
    batch: u64,
    undo: Vec<Undo>,
    hasher: StreamHasher,
}

#[derive(Debug)]
struct Slot {
    key: StreamKey,
    hash: u64,
    standing: Standing,
    /// The batch that changed it last.
    changed: u64,
    used: bool,
}

#[derive(Debug)]
enum Undo {
    Restore(u32, Standing),
    /// It was not here before.
    Forget(StreamKey),
}

impl Heads {
    pub fn new(max: usize, seed: u64) -> Heads {
        Heads {
            table: HashTable::new(),
            slots: Vec::new(),
            max: max.max(1),
            hand: 0,
            hint: 0,
            batch: 1,
            undo: Vec::new(),
            hasher: StreamHasher::new(seed),
        }
    }

    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn hash(&self, stream: &StreamKey) -> u64 {
        self.hasher.hash(stream)
    }

    pub fn find(&mut self, hash: u64, stream: &StreamKey) -> Option<Standing> {
        let at = self.slot_of(hash, stream)?;
        let slot = &mut self.slots[at as usize];
        slot.used = true;
        self.hint = at;
        Some(slot.standing)
    }

    /// Keeps what the store said.
    pub fn load(&mut self, hash: u64, stream: &StreamKey, standing: Standing) {
        self.insert(hash, stream, standing, 0);
    }

    /// Changes where a stream stands, until [`Heads::rollback`] or for good with [`Heads::commit`].
    pub fn change(&mut self, hash: u64, stream: &StreamKey, standing: Standing) {
        let Some(at) = self.slot_of(hash, stream) else {
            self.undo.push(Undo::Forget(stream.clone()));
            self.insert(hash, stream, standing, self.batch);
            return;
        };
        let slot = &mut self.slots[at as usize];
        if slot.changed != self.batch {
            self.undo.push(Undo::Restore(at, slot.standing));
            slot.changed = self.batch;
        }
        slot.standing = standing;
    }

    pub fn commit(&mut self) {
        self.undo.clear();
        self.batch += 1;
        while self.slots.len() > self.max {
            match self.victim() {
                Some(at) => self.remove(at),
                None => break,
            }
        }
    }

    pub fn rollback(&mut self) {
        // Restoring comes first: removal moves slots.
        let undo = std::mem::take(&mut self.undo);
        for step in &undo {
            if let Undo::Restore(at, standing) = step {
                self.slots[*at as usize].standing = *standing;
            }
        }
        for step in undo {
            if let Undo::Forget(stream) = step
                && let Some(at) = self.slot_of(self.hash(&stream), &stream)
            {
                self.remove(at);
            }
        }
        self.batch += 1;
    }

    fn slot_of(&self, hash: u64, stream: &StreamKey) -> Option<u32> {
        if let Some(slot) = self.slots.get(self.hint as usize)
            && slot.hash == hash
            && slot.key == *stream
        {
            return Some(self.hint);
        }
        let same = |at: &u32| {
            let slot = &self.slots[*at as usize];
            slot.hash == hash && slot.key == *stream
        };
        self.table.find(hash, same).copied()
    }

    fn insert(&mut self, hash: u64, stream: &StreamKey, standing: Standing, changed: u64) {
        // Not used yet: a stream that is met once goes before those that are met again.
        let slot = Slot { key: stream.clone(), hash, standing, changed, used: false };
        if self.slots.len() >= self.max
            && let Some(at) = self.victim()
        {
            self.unlink(at);
            self.slots[at as usize] = slot;
            self.link(hash, at);
            return;
        }
        let at = self.slots.len() as u32;
        self.slots.push(slot);
        self.link(hash, at);
    }

    fn link(&mut self, hash: u64, at: u32) {
        let slots = &self.slots;
        self.table.insert_unique(hash, at, |at| slots[*at as usize].hash);
    }

    fn unlink(&mut self, at: u32) {
        if let Ok(entry) = self.table.find_entry(self.slots[at as usize].hash, |other| *other == at) {
            entry.remove();
        }
    }

    fn remove(&mut self, at: u32) {
        self.unlink(at);
        let last = self.slots.len() as u32 - 1;
        if at != last {
            self.unlink(last);
            self.slots.swap_remove(at as usize);
            self.link(self.slots[at as usize].hash, at);
        } else {
            self.slots.pop();
        }
    }

    /// The next slot that was not used since the hand passed it last; `None` if the batch changed them all.
    fn victim(&mut self) -> Option<u32> {
        for _ in 0..self.slots.len() * 2 {
            self.hand = if self.hand + 1 >= self.slots.len() { 0 } else { self.hand + 1 };
            let slot = &mut self.slots[self.hand];
            if slot.changed == self.batch {
                continue;
            }
            if !slot.used {
                return Some(self.hand as u32);
            }
            slot.used = false;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(at: usize) -> StreamKey {
        format!("u:{at}").parse().expect("a valid stream key")
    }

    fn at(seq: u64) -> Standing {
        Standing { epoch: Epoch(1), head: Seq(seq), mode: Mode::Personal }
    }

    fn change(heads: &mut Heads, name: usize, seq: u64) {
        let stream = stream(name);
        heads.change(heads.hash(&stream), &stream, at(seq));
    }

    fn head(heads: &mut Heads, name: usize) -> Option<u64> {
        let stream = stream(name);
        heads.find(heads.hash(&stream), &stream).map(|s| s.head.0)
    }

    #[test]
    fn a_rollback_leaves_what_was_committed() {
        let mut heads = Heads::new(100, 7);
        (0..10).for_each(|name| change(&mut heads, name, 1));
        heads.commit();
        (5..15).for_each(|name| change(&mut heads, name, 2));
        (5..15).for_each(|name| change(&mut heads, name, 3));
        assert_eq!(head(&mut heads, 14), Some(3));
        heads.rollback();
        for name in 0..15 {
            assert_eq!(head(&mut heads, name), (name < 10).then_some(1), "{name}");
        }
    }

    #[test]
    fn the_cache_is_bounded_but_never_evicts_what_is_pending() {
        let mut heads = Heads::new(8, 7);
        (0..20).for_each(|name| change(&mut heads, name, 1));
        assert!((0..20).all(|name| head(&mut heads, name) == Some(1)));
        heads.commit();
        assert_eq!(heads.len(), 8);
        for name in 100..200 {
            let stream = stream(name);
            heads.load(heads.hash(&stream), &stream, at(5));
            assert_eq!(head(&mut heads, name), Some(5));
            assert_eq!(heads.len(), 8);
        }
    }

    #[test]
    fn what_is_used_outlives_what_is_not() {
        let mut heads = Heads::new(50, 7);
        for name in 0..1000 {
            let stream = stream(name);
            heads.load(heads.hash(&stream), &stream, at(1));
            head(&mut heads, 0);
        }
        assert_eq!(head(&mut heads, 0), Some(1));
    }
}
