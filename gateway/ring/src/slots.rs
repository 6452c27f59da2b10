//! The table beside a ring's registered files: 16 bytes per socket, a free list threaded through the free ones.
//!
//! A slot goes through these phases and no others:
//!
//! | phase | leaves it by | to |
//! |---|---|---|
//! | Free | registration | Open |
//! | Open | close, graceful, the peer has not finished yet | Shutting |
//! | Open | close otherwise | Closing |
//! | Shutting | the SHUTDOWN completed | Lingering |
//! | Shutting, Lingering | the peer's FIN, an error, or the linger deadline | Closing |
//! | Closing | nothing is in flight any more | Free |

use std::mem::size_of;

use tidegate_gateway_core::driver::Token;

use crate::tag::SlotUse;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Free,
    Open,
    /// Gracefully closed; SHUTDOWN is in flight and input is thrown away.
    Shutting,
    /// Gracefully closed and shut down; waits for the peer's FIN, input is thrown away.
    Lingering,
    /// CLOSE is in flight, and perhaps what it cancelled.
    Closing,
}

/// Facts about a slot in use, as bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark(u8);

impl Mark {
    /// The multishot poll for input is armed.
    pub const POLLING: Mark = Mark(1);
    /// The one-shot poll for room to write is armed.
    pub const WRITING: Mark = Mark(1 << 1);
    /// A RECV is in flight, or wanted and queued.
    pub const READING: Mark = Mark(1 << 2);
    /// The poll fired while READING: read once more even after a short read.
    pub const AGAIN: Mark = Mark(1 << 3);
    /// The poll saw the end of input or an error: read until it shows, the poll may not fire again.
    pub const FINAL: Mark = Mark(1 << 4);
    /// Eof or Failed was handed out; nothing more is read.
    pub const ENDED: Mark = Mark(1 << 5);
}

#[derive(Clone, Debug)]
pub(crate) struct Slot {
    /// The caller's name; the next free slot while free.
    token: u64,
    uses: u32,
    /// Operations of this use whose completion is to come; successful SENDs leave none and are not counted.
    inflight: u8,
    phase: Phase,
    marks: u8,
}

const _: () = assert!(size_of::<Slot>() == 16);
const NONE: u32 = u32::MAX;

impl Slot {
    pub fn token(&self) -> Token {
        Token(self.token)
    }

    pub fn phase(&self) -> Phase {
        self.phase
    }

    pub fn enter_phase(&mut self, phase: Phase) {
        debug_assert!(
            matches!(
                (self.phase, phase),
                (Phase::Open, Phase::Shutting | Phase::Closing)
                    | (Phase::Shutting, Phase::Lingering | Phase::Closing)
                    | (Phase::Lingering, Phase::Closing)
            ),
            "slot goes from {:?} to {phase:?}",
            self.phase
        );
        self.phase = phase;
    }

    pub fn has(&self, mark: Mark) -> bool {
        self.marks & mark.0 != 0
    }

    pub fn set(&mut self, mark: Mark) {
        self.marks |= mark.0;
    }

    pub fn clear(&mut self, mark: Mark) {
        self.marks &= !mark.0;
    }

    pub fn begun(&mut self) {
        self.inflight += 1;
    }

    pub fn completed(&mut self) {
        self.inflight = self.inflight.checked_sub(1).expect("each completion was counted when it was asked for");
    }

    pub fn is_quiet(&self) -> bool {
        self.inflight == 0
    }
}

#[derive(Debug)]
pub(crate) struct Slots {
    entries: Vec<Slot>,
    free_head: u32,
    capacity: u32,
    used: u32,
}

impl Slots {
    /// The table's pages become resident as slots are used for the first time.
    pub fn new(capacity: u32) -> Slots {
        Slots { entries: Vec::with_capacity(capacity as usize), free_head: NONE, capacity, used: 0 }
    }

    pub fn free(&self) -> u32 {
        self.capacity - self.used
    }

    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    pub fn used(&self) -> u32 {
        self.used
    }

    /// Opens a free slot for the token.
    pub fn take(&mut self, token: Token) -> Option<SlotUse> {
        let slot = if self.free_head != NONE {
            let slot = self.free_head;
            self.free_head = self.entries[slot as usize].token as u32;
            slot
        } else if (self.entries.len() as u32) < self.capacity {
            self.entries.push(Slot { token: 0, uses: 0, inflight: 0, phase: Phase::Free, marks: 0 });
            self.entries.len() as u32 - 1
        } else {
            return None;
        };
        let entry = &mut self.entries[slot as usize];
        debug_assert!(entry.phase == Phase::Free && entry.inflight == 0);
        entry.token = token.0;
        entry.uses = entry.uses.wrapping_add(1);
        entry.phase = Phase::Open;
        entry.marks = 0;
        self.used += 1;
        Some(SlotUse { slot, uses: entry.uses })
    }

    /// The slot, if this use of it is still on.
    pub fn current(&mut self, of: SlotUse) -> Option<&mut Slot> {
        self.entries.get_mut(of.slot as usize).filter(|slot| slot.uses == of.uses && slot.phase != Phase::Free)
    }

    /// The slot's present use, if it is open and the caller's name for it is this.
    pub fn open(&mut self, slot: u32, token: Token) -> Option<(SlotUse, &mut Slot)> {
        let entry = self.entries.get_mut(slot as usize)?;
        if entry.phase != Phase::Open || entry.token != token.0 {
            return None;
        }
        Some((SlotUse { slot, uses: entry.uses }, entry))
    }

    /// Frees a slot of which nothing is in flight.
    pub fn release(&mut self, slot: u32) {
        let entry = &mut self.entries[slot as usize];
        debug_assert!(entry.phase != Phase::Free && entry.inflight == 0);
        entry.phase = Phase::Free;
        entry.token = u64::from(self.free_head);
        self.free_head = slot;
        self.used -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_full_table_gives_no_slot_and_a_released_one_comes_back_as_a_new_use() {
        let mut slots = Slots::new(2);
        let a = slots.take(Token(1)).unwrap();
        let b = slots.take(Token(2)).unwrap();
        assert_eq!(slots.take(Token(3)), None);
        slots.release(a.slot);
        assert!(slots.current(a).is_none());
        let again = slots.take(Token(3)).unwrap();
        assert_eq!(again.slot, a.slot);
        assert_ne!(again.uses, a.uses);
        assert!(slots.current(a).is_none(), "the old use is not the new one");
        assert!(slots.current(b).is_some());
        assert!(slots.open(again.slot, Token(1)).is_none(), "the old token does not open the new use");
    }

    proptest! {
        #[test]
        fn slots_in_use_are_distinct_and_counted(ops in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 0..300)) {
            let mut slots = Slots::new(16);
            let mut used: HashMap<u32, (SlotUse, Token)> = HashMap::new();
            for (n, (take, which)) in ops.into_iter().enumerate() {
                let token = Token(n as u64 + (1 << 40));
                if take {
                    match slots.take(token) {
                        Some(of) => prop_assert!(used.insert(of.slot, (of, token)).is_none()),
                        None => prop_assert_eq!(used.len(), 16),
                    }
                } else if !used.is_empty() {
                    let mut held: Vec<u32> = used.keys().copied().collect();
                    held.sort_unstable();
                    let slot = held[which.index(held.len())];
                    slots.release(slot);
                    used.remove(&slot);
                }
                prop_assert_eq!(slots.used() as usize, used.len());
                prop_assert_eq!(slots.free() as usize, 16 - used.len());
                for (of, token) in used.values() {
                    prop_assert_eq!(slots.current(*of).map(|s| s.token()), Some(*token));
                }
            }
        }
    }
}
