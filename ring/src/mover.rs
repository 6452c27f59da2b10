//! Lets go of the connections whose place is another gateway, at a limited rate.
//!
//! One for a gateway, or one for each shard with its part of the rate. Every new ring is handed in with the connections that
//! there are ([`Mover::ring`]), every newcomer with [`Mover::arrived`]; then [`Mover::poll`] says whom to let go now, each
//! with a `bye` 3002, `reconnect: true`, its `reconnect_after_ms` and its `endpoint`. After any of these calls ask
//! [`Mover::poll_timeout`] again.
//!
//! A client on the wrong gateway is served like any other until its turn comes. A gateway that is not in the ring lets nobody
//! go: it may only have lost touch with the registry, and one that leaves for good drains.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::hash::UserHash;
use crate::loads::Loads;
use crate::ring::{Ring, Version};

/// Moves a second.
pub const RATE_DEFAULT: u32 = 100;
pub const RATE_MAX: u32 = 10_000;
/// A late poll makes up for at most so much time, or a stalled thread would let a crowd go at once.
pub const CATCH_UP_MAX: Duration = Duration::from_millis(100);
/// Clients wait for up to so long before they knock at their place.
pub const RECONNECT_SPREAD_MS: u32 = 2_000;
/// Planned connections that one poll looks at. More of them may turn out to be well where they are; then the next poll goes on.
pub const LOOKS_MAX: usize = 1_000;
/// Connections in a plan. Whom it has no room for stays until the next ring.
pub const PLANNED_MAX: usize = 4 << 20;

/// One connection to let go. If it ended meanwhile there is nothing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move<C> {
    pub connection: C,
    pub gateway: Box<str>,
    /// Where it should connect.
    pub endpoint: Box<str>,
    pub reconnect_after_ms: u32,
}

/// Plan and pace. `C` names a connection; it should carry a generation, since some will have ended when their turn comes.
#[derive(Clone, Debug)]
pub struct Mover<C> {
    gateway: Box<str>,
    seed: u64,
    /// Between two moves.
    interval: Duration,
    ring: Option<Arc<Ring>>,
    loads: Loads,
    plan: VecDeque<(C, UserHash)>,
    /// When the next may go.
    next_at: Duration,
}

impl<C> Mover<C> {
    /// `rate` is brought into 1 to [`RATE_MAX`]; `seed` spreads the reconnects.
    pub fn new(gateway: &str, rate: u32, seed: u64) -> Mover<C> {
        let interval = Duration::from_secs(1) / rate.clamp(1, RATE_MAX);
        let (loads, plan) = (Loads::default(), VecDeque::new());
        Mover { gateway: gateway.into(), seed, interval, ring: None, loads, plan, next_at: Duration::ZERO }
    }

    /// Takes a newer ring; what was planned for the last one is void. `connections` are all that there are. Returns how many
    /// are planned to go. An older ring, or the same, changes nothing.
    pub fn ring(&mut self, ring: Arc<Ring>, connections: impl IntoIterator<Item = (C, UserHash)>) -> usize {
        if self.version().is_none_or(|known| ring.version() > known) {
            self.ring = Some(ring);
            self.review(connections);
        }
        self.plan.len()
    }

    /// How many connections the gateways have, this one too. Without ever being told, users' own places decide alone. Returns
    /// how many this gateway has beyond its bound: if that is not 0 and nobody is planned to go, [`Mover::review`] finds them.
    pub fn loads(&mut self, loads: Loads) -> u64 {
        self.loads = loads;
        self.ring.as_ref().map_or(0, |ring| self.surplus(ring, 0))
    }

    /// Plans anew, as for a new ring: those whose place is elsewhere, and of the others as many as are beyond the bound.
    pub fn review(&mut self, connections: impl IntoIterator<Item = (C, UserHash)>) -> usize {
        self.plan.clear();
        let Some(ring) = self.ring.clone().filter(|ring| ring.member(&self.gateway).is_some()) else { return 0 };
        // Whom of those at home it takes is not known before it is known how many leave; so many are enough.
        let surplus = self.surplus(&ring, 0);
        let mut at_home = Vec::new();
        for (connection, user) in connections {
            if ring.place(user).is_some_and(|place| place.gateway == self.gateway) {
                if (at_home.len() as u64) < surplus {
                    at_home.push((connection, user));
                }
            } else if self.plan.len() < PLANNED_MAX {
                self.plan.push_back((connection, user));
            }
        }
        let surplus = usize::try_from(self.surplus(&ring, self.plan.len() as u64)).unwrap_or(usize::MAX);
        let room = PLANNED_MAX - self.plan.len();
        self.plan.extend(at_home.into_iter().take(surplus.min(room)));
        self.plan.len()
    }

    /// A client connected. True: its place is elsewhere, and it will be let go in its turn.
    pub fn arrived(&mut self, connection: C, user: UserHash) -> bool {
        if !self.loads.is_empty() {
            self.loads.came(&self.gateway);
        }
        let is_elsewhere = self.place(user).is_some();
        let planned = is_elsewhere && self.plan.len() < PLANNED_MAX;
        if planned {
            self.plan.push_back((connection, user));
        }
        planned
    }

    /// The next connection to let go, if it is time; to be asked until it has none, and then again at [`Mover::poll_timeout`].
    pub fn poll(&mut self, now: Duration) -> Option<Move<C>> {
        if now < self.next_at {
            return None;
        }
        for _ in 0..LOOKS_MAX {
            let (connection, user) = self.plan.pop_front()?;
            // Asked again now: its place may have filled up since it was planned, and then it is well where it is.
            let Some((gateway, endpoint)) = self.place(user) else { continue };
            self.next_at = self.next_at.max(now.saturating_sub(CATCH_UP_MAX)) + self.interval;
            self.loads_moved(&gateway);
            let reconnect_after_ms = user.spread(self.seed, RECONNECT_SPREAD_MS);
            return Some(Move { connection, gateway, endpoint, reconnect_after_ms });
        }
        None
    }

    /// When to poll again, at once if that is past; `None`: not before another call.
    pub fn poll_timeout(&self) -> Option<Duration> {
        (!self.plan.is_empty()).then_some(self.next_at)
    }

    /// Connections that wait for their turn.
    pub fn planned(&self) -> usize {
        self.plan.len()
    }

    pub fn version(&self) -> Option<Version> {
        self.ring.as_ref().map(|ring| ring.version())
    }

    /// Gateway and URL, if a connection of ours should be elsewhere.
    fn place(&self, user: UserHash) -> Option<(Box<str>, Box<str>)> {
        let place = self.ring.as_ref()?.place_held(user, &self.gateway, &self.loads)?;
        (place.gateway != self.gateway).then(|| (place.gateway.clone(), place.url.clone()))
    }

    /// Counts a move at once: the next counting of everybody comes later, and until then the others would look empty.
    fn loads_moved(&mut self, gateway: &str) {
        if !self.loads.is_empty() {
            self.loads.went(&self.gateway);
            self.loads.came(gateway);
        }
    }

    /// Connections beyond our bound once `leaving` are gone.
    fn surplus(&self, ring: &Ring, leaving: u64) -> u64 {
        if self.loads.is_empty() {
            return 0;
        }
        let total = ring.members().iter().map(|member| self.loads.of(&member.gateway)).sum();
        let bound = ring.member(&self.gateway).map_or(u64::MAX, |member| ring.bound(member, total));
        self.loads.of(&self.gateway).saturating_sub(leaving).saturating_sub(bound)
    }
}
