//! Lets go of the connections whose place on the endpoint ring is another gateway, each in its turn.
//!
//! Every shard plans for its own connections and has its part of the gateway's rate. For a new ring it looks at its slots a slice
//! a turn, so that deliveries do not wait for it. Connections without a user stay.

use std::sync::Arc;

use tidegate_ring::mover::Mover;
use tidegate_ring::{Loads, Ring, UserHash};

use super::config::{MOVE_LOOKS_PER_TURN_MAX, MOVES_PER_TURN_MAX, ShardConfig};
use super::engine::Engine;
use super::slab::{Phase, Slot};
use crate::ids::{ConnId, Now, ShardId};
use crate::ws::close::CloseCode;

/// What a `bye` says about coming back, where the shard has more to say than "later".
#[derive(Default)]
pub(super) struct Hint {
    pub endpoint: Box<str>,
    /// `None`: at random.
    pub after_ms: Option<u32>,
}

/// The plan, and how far the look at everybody has come.
pub(super) struct Moving {
    mover: Mover<ConnId>,
    is_on: bool,
    /// Slots from here on have not been looked at for the present ring.
    walk: Option<u32>,
}

impl Moving {
    pub(super) fn new(id: ShardId, config: &ShardConfig, seed: u64) -> Moving {
        // Shards do not begin their turns at the same moment, nor send their clients back at the same one.
        let mover = Mover::one_of(config.shards, &config.gateway, config.moves_per_s, seed ^ u64::from(id.0));
        Moving { mover, is_on: config.moves_per_s > 0, walk: None }
    }
}

impl Engine {
    /// A newer ring replaces the last one and what was planned for it.
    pub(super) fn on_ring(&mut self, ring: Arc<Ring>) {
        let version = ring.version().0;
        if self.moving.mover.begin(ring) {
            self.moving.walk = Some(0);
            self.stats.ring_version.set(version);
        }
    }

    pub(super) fn on_loads(&mut self, loads: Loads) {
        self.moving.mover.loads(loads);
    }

    /// Somebody connected: it is kept, and moved in its turn if its place is elsewhere.
    pub(super) fn settle_in(&mut self, slot: Slot) {
        let Moving { mover, is_on, walk } = &mut self.moving;
        // Who comes to a slot that is still to be looked at is found there.
        let is_to_be_found = walk.is_some_and(|from| slot.0 >= from);
        if *is_on
            && !is_to_be_found
            && let Some(identity) = self.slab.identity(slot)
        {
            mover.arrived(self.slab.id(slot), UserHash::of(identity.uid));
        }
    }

    /// Looks at a slice of those who are here, and lets those go whose turn it is. Returns when to call again.
    pub(super) fn run_moves(&mut self) -> Option<Now> {
        if !self.moving.is_on || self.leaving.draining || self.leaving.stopped {
            self.moving.walk = None;
            self.stats.moves_pending.set(0);
            return None;
        }
        self.look_around();
        let now = self.clock.now;
        for _ in 0..MOVES_PER_TURN_MAX {
            let slab = &self.slab;
            let is_here = |conn: &ConnId| slab.find(*conn).is_some_and(|slot| slab.hot(slot).phase == Phase::Open);
            let since_start = now - Now(0);
            let Some(next) = self.moving.mover.poll_those(since_start, is_here) else { break };
            if let Some(slot) = self.slab.find(next.connection) {
                let hint = Hint { endpoint: next.endpoint, after_ms: Some(next.reconnect_after_ms) };
                self.close_with(slot, CloseCode::Moved, "moved", hint);
            }
        }
        self.stats.moves_pending.set(self.moving.mover.planned() as u64);
        match self.moving.walk {
            Some(_) => Some(now),
            None => self.moving.mover.poll_timeout().map(|at| Now(0) + at),
        }
    }

    fn look_around(&mut self) {
        let Some(from) = self.moving.walk else { return };
        let end = self.slab.len().min(from.saturating_add(MOVE_LOOKS_PER_TURN_MAX));
        for slot in (from..end).map(Slot).filter(|&slot| self.slab.hot(slot).phase == Phase::Open) {
            if let Some(identity) = self.slab.identity(slot) {
                self.moving.mover.found(self.slab.id(slot), UserHash::of(identity.uid));
            }
        }
        self.moving.walk = (end < self.slab.len()).then_some(end);
    }

    /// Where this user goes when the whole gateway ends; empty: that is not known.
    pub(super) fn place_after_us(&self, uid: &str) -> Box<str> {
        self.moving.mover.place_without(UserHash::of(uid)).map(|place| place.url.clone()).unwrap_or_default()
    }
}
