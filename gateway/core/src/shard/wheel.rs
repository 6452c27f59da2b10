//! A hashed timing wheel over the slab: doubly linked lists threaded through the hot lines, so that an armed timer costs no
//! allocation and leaves nothing behind when its connection goes.
//!
//! Ticks are coarse and a visit may come early (never late, but for the length of a turn): whoever is visited works out
//! what is due and arms the next visit. Deadlines beyond the horizon are reached in several visits.

use super::slab::{Slab, Slot};
use crate::ids::Now;

const TICK_NS: u64 = 250_000_000;
/// 256 s of horizon.
const BUCKETS: u32 = 1_024;

/// A quarter of a second; 0 is "never".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tick(pub u32);

impl Tick {
    pub(super) const NEVER: Tick = Tick(0);

    /// The tick that `now` lies in.
    pub(super) fn of(now: Now) -> Tick {
        Tick(u32::try_from(now.0 / TICK_NS + 1).unwrap_or(u32::MAX))
    }

    /// The instant at which the next tick begins.
    pub(super) fn end(self) -> Now {
        Now(u64::from(self.0) * TICK_NS)
    }

    pub(super) fn plus(self, ticks: u32) -> Tick {
        Tick(self.0.saturating_add(ticks))
    }

    pub(super) fn since(self, earlier: Tick) -> u32 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Whole ticks that cover so many milliseconds, at least one.
pub(super) fn ticks(ms: u64) -> u32 {
    u32::try_from(ms.div_ceil(TICK_NS / 1_000_000)).unwrap_or(u32::MAX).max(1)
}

/// A connection's place in the wheel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Links {
    next: Slot,
    prev: Slot,
    /// `NEVER`: not linked.
    at: Tick,
}

impl Default for Links {
    fn default() -> Self {
        Links { next: Slot::NONE, prev: Slot::NONE, at: Tick::NEVER }
    }
}

pub(super) struct Wheel {
    heads: Vec<Slot>,
    /// Buckets up to this tick are empty of what was due.
    visited: Tick,
    now: Tick,
}

impl Wheel {
    pub(super) fn new(now: Tick) -> Self {
        Wheel { heads: vec![Slot::NONE; BUCKETS as usize], visited: now, now }
    }

    pub(super) fn advance(&mut self, now: Tick) {
        self.now = self.now.max(now);
        // After a long pause every bucket is looked at once, not once per lap.
        self.visited = self.visited.max(Tick(self.now.0.saturating_sub(BUCKETS)));
    }

    /// Arms the connection's one timer, at the next tick at the earliest, instead of what was armed before.
    pub(super) fn arm(&mut self, slab: &mut Slab, slot: Slot, at: Tick) {
        self.disarm(slab, slot);
        let at = at.max(self.now.plus(1)).min(self.visited.plus(BUCKETS - 1)).max(self.visited.plus(1));
        let head = std::mem::replace(&mut self.heads[bucket(at)], slot);
        slab.hot_mut(slot).links = Links { next: head, prev: Slot::NONE, at };
        if head != Slot::NONE {
            slab.hot_mut(head).links.prev = slot;
        }
    }

    /// Arms it unless an earlier visit is armed already.
    pub(super) fn arm_by(&mut self, slab: &mut Slab, slot: Slot, at: Tick) {
        let armed = slab.hot(slot).links.at;
        if armed == Tick::NEVER || at < armed {
            self.arm(slab, slot, at);
        }
    }

    pub(super) fn disarm(&mut self, slab: &mut Slab, slot: Slot) {
        let Links { next, prev, at } = std::mem::take(&mut slab.hot_mut(slot).links);
        if at == Tick::NEVER {
            return;
        }
        if prev == Slot::NONE {
            self.heads[bucket(at)] = next;
        } else {
            slab.hot_mut(prev).links.next = next;
        }
        if next != Slot::NONE {
            slab.hot_mut(next).links.prev = prev;
        }
    }

    /// The next connection whose tick has come, disarmed.
    pub(super) fn due(&mut self, slab: &mut Slab) -> Option<Slot> {
        while self.visited < self.now {
            let tick = self.visited.plus(1);
            let head = self.heads[bucket(tick)];
            if head != Slot::NONE {
                self.disarm(slab, head);
                return Some(head);
            }
            self.visited = tick;
        }
        None
    }
}

fn bucket(at: Tick) -> usize {
    (at.0 % BUCKETS) as usize
}

#[cfg(test)]
mod tests;
