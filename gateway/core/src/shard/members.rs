//! Which connections of this shard are members of which stream.
//!
//! Streams are named by their node-wide index; the shard keeps four bytes for each of these and an entry only for those
//! with members here. One member is held inline.
//!
//! While a fan-out of the stream is queued or runs, it owns a prefix of the member list: newcomers are appended behind it,
//! and who leaves becomes a tombstone, so that nobody moves under it. The list is closed up when the fan-out ends.

use super::slab::Slot;
use crate::ids::{Seq, StreamIdx};

const ABSENT: u32 = u32::MAX;
/// Vectors below this are not worth shrinking.
const SHRINK_MIN: usize = 16;

#[derive(Default)]
pub(super) struct Streams {
    /// Node-wide index → entry, or `ABSENT`.
    local: Vec<u32>,
    entries: Vec<Stream>,
    free: Vec<u32>,
}

#[derive(Default)]
struct Stream {
    /// The last seq that went to the members here, or at which the last of them was added.
    flushed: Seq,
    members: Members,
    tombstones: u32,
    /// A fan-out is queued or runs.
    running: bool,
}

pub(super) const STREAM_BYTES: usize = size_of::<Stream>();
const _: () = assert!(STREAM_BYTES <= 32);

#[derive(Default)]
enum Members {
    #[default]
    None,
    One(Slot),
    Many(Box<Many>),
}

/// Boxed, since almost every stream is an inbox with one member, and pays for the largest variant.
struct Many {
    slots: Vec<Slot>,
}

impl Members {
    fn as_slice(&self) -> &[Slot] {
        match self {
            Members::None => &[],
            Members::One(slot) => std::slice::from_ref(slot),
            Members::Many(many) => &many.slots,
        }
    }

    fn as_mut_slice(&mut self) -> &mut [Slot] {
        match self {
            Members::None => &mut [],
            Members::One(slot) => std::slice::from_mut(slot),
            Members::Many(many) => &mut many.slots,
        }
    }

    fn push(&mut self, slot: Slot) {
        match self {
            Members::None => *self = Members::One(slot),
            Members::One(first) => *self = Members::Many(Box::new(Many { slots: vec![*first, slot] })),
            Members::Many(many) => many.slots.push(slot),
        }
    }

    fn pop(&mut self) -> Option<Slot> {
        match self {
            Members::None => None,
            Members::One(slot) => {
                let slot = *slot;
                *self = Members::None;
                Some(slot)
            }
            Members::Many(many) => {
                let slots = &mut many.slots;
                let last = slots.pop();
                match slots[..] {
                    [] => *self = Members::None,
                    [only] => *self = Members::One(only),
                    _ if slots.capacity() > SHRINK_MIN && slots.len() < slots.capacity() / 4 => {
                        slots.shrink_to(slots.len() * 2);
                    }
                    _ => {}
                }
                last
            }
        }
    }
}

impl Streams {
    /// The seq up to which the shard has been given the stream; `None`: no members here.
    pub(super) fn flushed(&self, stream: StreamIdx) -> Option<Seq> {
        self.entry(stream).map(|entry| entry.flushed)
    }

    pub(super) fn set_flushed(&mut self, stream: StreamIdx, flushed: Seq) {
        if let Some(entry) = self.entry_mut(stream) {
            entry.flushed = flushed;
        }
    }

    /// Members with tombstones; [`Slot::NONE`] is one.
    pub(super) fn members(&self, stream: StreamIdx) -> &[Slot] {
        self.entry(stream).map_or(&[], |entry| entry.members.as_slice())
    }

    pub(super) fn is_running(&self, stream: StreamIdx) -> bool {
        self.entry(stream).is_some_and(|entry| entry.running)
    }

    /// Adds a member and returns its position.
    pub(super) fn add(&mut self, stream: StreamIdx, slot: Slot, flushed: Seq) -> u32 {
        let at = self.entry_or_insert(stream);
        let entry = &mut self.entries[at as usize];
        entry.flushed = flushed;
        entry.members.push(slot);
        entry.members.as_slice().len() as u32 - 1
    }

    /// Takes out the member at `position`. Returns who stands there now, if somebody moved there.
    pub(super) fn remove(&mut self, stream: StreamIdx, position: u32) -> Option<Slot> {
        let entry = self.entry_mut(stream)?;
        if entry.running {
            entry.members.as_mut_slice()[position as usize] = Slot::NONE;
            entry.tombstones += 1;
            return None;
        }
        let last = entry.members.pop()?;
        let moved = match entry.members.as_mut_slice().get_mut(position as usize) {
            Some(place) => {
                *place = last;
                Some(last)
            }
            None => None,
        };
        self.release_if_empty(stream);
        moved
    }

    /// A fan-out of the present members begins; returns how many they are (with tombstones), or `None` if there are none.
    pub(super) fn begin(&mut self, stream: StreamIdx) -> Option<u32> {
        let entry = self.entry_mut(stream)?;
        debug_assert!(!entry.running, "a fan-out began while the stream's previous one runs");
        entry.running = true;
        Some(entry.members.as_slice().len() as u32)
    }

    /// The fan-out is over: closes the list up. `moved` hears the new position of everybody who moved.
    pub(super) fn end(&mut self, stream: StreamIdx, moved: &mut dyn FnMut(Slot, u32)) {
        let Some(entry) = self.entry_mut(stream) else { return };
        entry.running = false;
        let mut at = 0;
        while entry.tombstones > 0 && at < entry.members.as_slice().len() {
            if entry.members.as_slice()[at] != Slot::NONE {
                at += 1;
                continue;
            }
            let Some(last) = entry.members.pop() else { break };
            entry.tombstones -= u32::from(last == Slot::NONE);
            if let Some(place) = entry.members.as_mut_slice().get_mut(at) {
                *place = last;
                if last != Slot::NONE {
                    entry.tombstones -= 1;
                    moved(last, at as u32);
                }
            }
        }
        entry.tombstones = 0;
        self.release_if_empty(stream);
    }

    fn entry(&self, stream: StreamIdx) -> Option<&Stream> {
        let at = *self.local.get(stream.0 as usize)?;
        self.entries.get(at as usize)
    }

    fn entry_mut(&mut self, stream: StreamIdx) -> Option<&mut Stream> {
        let at = *self.local.get(stream.0 as usize)?;
        self.entries.get_mut(at as usize)
    }

    fn entry_or_insert(&mut self, stream: StreamIdx) -> u32 {
        let at = stream.0 as usize;
        if at >= self.local.len() {
            self.local.resize(at + 1, ABSENT);
        }
        if self.local[at] == ABSENT {
            self.local[at] = self.free.pop().unwrap_or_else(|| {
                self.entries.push(Stream::default());
                self.entries.len() as u32 - 1
            });
        }
        self.local[at]
    }

    fn release_if_empty(&mut self, stream: StreamIdx) {
        let at = self.local[stream.0 as usize];
        let entry = &mut self.entries[at as usize];
        if !entry.running && entry.members.as_slice().is_empty() {
            *entry = Stream::default();
            self.local[stream.0 as usize] = ABSENT;
            self.free.push(at);
        }
    }
}

#[cfg(test)]
mod tests;
