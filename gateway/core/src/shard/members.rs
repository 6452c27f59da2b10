//! Which connections of this shard are members of which stream.
//!
//! Streams are named by their node-wide index. The shard keeps sixteen bytes for each that has members here, found by a hash
//! of the index; what other shards have costs nothing. One member is held inline, which is all that an inbox has; longer
//! lists stand in a table beside.
//!
//! While a fan-out of the stream is queued or runs, it owns a prefix of the member list: newcomers are appended behind it,
//! and who leaves becomes a tombstone, so that nobody moves under it. The list is closed up when the fan-out ends.

use super::slab::Slot;
use crate::chunks::Chunks;
use crate::ids::{Seq, StreamIdx};
use crate::index::Index;
use crate::planted::{self, Bug};

/// Vectors below this are not worth shrinking.
const SHRINK_MIN: usize = 16;
/// Bits of [`Entry::place`] above the largest seq.
const RUNNING: u64 = 1 << 63;
const LISTED: u64 = 1 << 62;
const _: () = assert!(Seq::MAX.0 < LISTED);

#[derive(Default)]
pub(super) struct Streams {
    index: Index,
    entries: Chunks<Entry>,
    free: Vec<u32>,
    lists: Chunks<List>,
    free_lists: Vec<u32>,
}

/// A stream's entry while a fan-out of it runs: found once, and valid until [`Streams::end`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(u32);

impl Place {
    /// No stream's.
    pub(super) const NONE: Place = Place(u32::MAX);
}

/// What [`Streams::begin`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begun {
    /// So many members, with tombstones.
    Members(Place, u32),
    Nobody,
    /// The previous fan-out has to end first.
    Running,
}

/// A stream with members here.
struct Entry {
    /// The last seq that went to the members here, or at which the last of them was added. Above it: a fan-out is queued or
    /// runs, and the members stand in a list.
    place: u64,
    stream: StreamIdx,
    /// The only member (a tombstone under a fan-out that it left), or the list's index.
    member: Slot,
}

pub(super) const STREAM_BYTES: usize = size_of::<Entry>();
const _: () = assert!(STREAM_BYTES <= 16);

#[derive(Default)]
struct List {
    slots: Vec<Slot>,
    tombstones: u32,
}

impl Entry {
    fn is(&self, flag: u64) -> bool {
        self.place & flag != 0
    }

    fn set(&mut self, flag: u64, on: bool) {
        self.place = if on { self.place | flag } else { self.place & !flag };
    }

    fn flushed(&self) -> Seq {
        Seq(self.place & !(RUNNING | LISTED))
    }

    fn set_flushed(&mut self, flushed: Seq) {
        self.place = self.place & (RUNNING | LISTED) | flushed.0.min(Seq::MAX.0);
    }
}

impl Streams {
    /// The seq up to which the shard has been given the stream; `None`: no members here.
    pub(super) fn flushed(&self, stream: StreamIdx) -> Option<Seq> {
        self.entry(stream).map(Entry::flushed)
    }

    /// Members with tombstones; [`Slot::NONE`] is one.
    pub(super) fn members(&self, stream: StreamIdx) -> &[Slot] {
        self.find(stream).map_or(&[], |at| self.members_at(Place(at as u32)))
    }

    pub(super) fn members_at(&self, place: Place) -> &[Slot] {
        let Some(entry) = self.entries.at(place.0 as usize) else { return &[] };
        if !entry.is(LISTED) {
            return std::slice::from_ref(&entry.member);
        }
        self.lists.at(entry.member.0 as usize).map_or(&[], |list| &list.slots)
    }

    pub(super) fn is_running(&self, stream: StreamIdx) -> bool {
        self.entry(stream).is_some_and(|entry| entry.is(RUNNING))
    }

    /// Adds a member and returns its position.
    pub(super) fn add(&mut self, stream: StreamIdx, slot: Slot, flushed: Seq) -> u32 {
        let Some(at) = self.find(stream) else {
            self.insert(stream, slot, flushed);
            return 0;
        };
        let Streams { entries, lists, free_lists, .. } = self;
        let Some(entry) = entries.at_mut(at) else { return 0 };
        entry.set_flushed(flushed);
        if !entry.is(LISTED) {
            let tombstones = u32::from(entry.member == Slot::NONE);
            let list = List { slots: vec![entry.member], tombstones };
            entry.member = Slot(match free_lists.pop() {
                Some(free) => {
                    *lists.at_mut(free as usize).expect("freed lists stay in the table") = list;
                    free
                }
                None => lists.push(list) as u32,
            });
            entry.set(LISTED, true);
        }
        let list = lists.at_mut(entry.member.0 as usize).expect("a listed stream has its list");
        list.slots.push(slot);
        list.slots.len() as u32 - 1
    }

    /// Takes out the member at `position`. Returns who stands there now, if somebody moved there.
    pub(super) fn remove(&mut self, stream: StreamIdx, position: u32) -> Option<Slot> {
        let at = self.find(stream)?;
        let entry = self.entries.at_mut(at)?;
        let running = entry.is(RUNNING) && !planted::is(Bug::SwapRemoveUnderFanout);
        match (entry.is(LISTED), running) {
            (false, true) => {
                entry.member = Slot::NONE;
                None
            }
            (false, false) => {
                self.release(at);
                None
            }
            (true, true) => {
                let list = self.lists.at_mut(entry.member.0 as usize)?;
                list.slots[position as usize] = Slot::NONE;
                list.tombstones += 1;
                None
            }
            (true, false) => {
                let list = self.lists.at_mut(entry.member.0 as usize)?;
                let last = list.slots.pop()?;
                let moved = list.slots.get_mut(position as usize).map(|place| std::mem::replace(place, last));
                self.shorten(at);
                moved.map(|_| last)
            }
        }
    }

    /// A fan-out of the present members begins. `flushed`: the seq that they stand at from here on.
    pub(super) fn begin(&mut self, stream: StreamIdx, flushed: Option<Seq>) -> Begun {
        let Some(at) = self.find(stream) else { return Begun::Nobody };
        let Some(entry) = self.entries.at_mut(at) else { return Begun::Nobody };
        if let Some(flushed) = flushed {
            entry.set_flushed(flushed);
        }
        if entry.is(RUNNING) {
            return Begun::Running;
        }
        entry.set(RUNNING, true);
        let place = Place(at as u32);
        Begun::Members(place, self.members_at(place).len() as u32)
    }

    /// The fan-out is over: closes the list up. `moved` hears the new position of everybody who moved.
    pub(super) fn end(&mut self, place: Place, moved: &mut dyn FnMut(Slot, u32)) {
        let at = place.0 as usize;
        let Some(entry) = self.entries.at_mut(at) else { return };
        entry.set(RUNNING, false);
        if !entry.is(LISTED) {
            if entry.member == Slot::NONE {
                self.release(at);
            }
            return;
        }
        let Some(list) = self.lists.at_mut(entry.member.0 as usize) else { return };
        if list.tombstones > 0 {
            list.close_up(moved);
            self.shorten(at);
        }
    }

    fn find(&self, stream: StreamIdx) -> Option<usize> {
        let is = |at| self.entries.at(at as usize).is_some_and(|entry: &Entry| entry.stream == stream);
        self.index.find(hash(stream), is).map(|at| at as usize)
    }

    fn entry(&self, stream: StreamIdx) -> Option<&Entry> {
        self.entries.at(self.find(stream)?)
    }

    fn insert(&mut self, stream: StreamIdx, member: Slot, flushed: Seq) {
        let mut entry = Entry { place: 0, stream, member };
        entry.set_flushed(flushed);
        let at = match self.free.pop() {
            Some(at) => {
                *self.entries.at_mut(at as usize).expect("freed entries stay in the table") = entry;
                at
            }
            None => self.entries.push(entry) as u32,
        };
        let entries = &self.entries;
        self.index.insert(hash(stream), at, |at| entries.at(at as usize).map_or(0, |entry| hash(entry.stream)));
    }

    fn release(&mut self, at: usize) {
        if let Some(entry) = self.entries.at_mut(at) {
            self.index.remove(hash(entry.stream), at as u32);
            self.free.push(at as u32);
        }
    }

    /// Members have gone from the list: it is made smaller, or given up.
    fn shorten(&mut self, at: usize) {
        let Some(entry) = self.entries.at_mut(at) else { return };
        let Some(list) = self.lists.at_mut(entry.member.0 as usize) else { return };
        let slots = &mut list.slots;
        match slots[..] {
            [] | [_] => {
                let only = slots.first().copied();
                *list = List::default();
                self.free_lists.push(entry.member.0);
                entry.set(LISTED, false);
                match only {
                    Some(only) => entry.member = only,
                    None => self.release(at),
                }
            }
            _ if slots.capacity() > SHRINK_MIN && slots.len() < slots.capacity() / 4 => {
                slots.shrink_to(slots.len() * 2)
            }
            _ => {}
        }
    }
}

impl List {
    fn close_up(&mut self, moved: &mut dyn FnMut(Slot, u32)) {
        let mut at = 0;
        while self.tombstones > 0 && at < self.slots.len() {
            if self.slots[at] != Slot::NONE {
                at += 1;
                continue;
            }
            let Some(last) = self.slots.pop() else { break };
            self.tombstones -= u32::from(last == Slot::NONE);
            if let Some(place) = self.slots.get_mut(at) {
                *place = last;
                if last != Slot::NONE {
                    self.tombstones -= 1;
                    moved(last, at as u32);
                }
            }
        }
        self.tombstones = 0;
    }
}

/// Stream indexes are dense, so a multiplication spreads them well (Knuth's, by the golden ratio).
fn hash(stream: StreamIdx) -> u64 {
    u64::from(stream.0).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

#[cfg(test)]
mod tests;
