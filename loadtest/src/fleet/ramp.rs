//! When connections are made: the open-loop schedule of the first ones, the doubling pauses before the later ones, and the
//! bound of how many handshakes are under way.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// Handshakes under way at once; more would only queue in the server.
pub(super) const HANDSHAKES_MAX: u32 = 512;
/// How long a handshake may take before it counts as failed.
const HANDSHAKE_TIMEOUT_US: u64 = 20_000_000;
/// Pause before the first attempt to come back, doubled with each that fails.
const PAUSE_MIN_US: u64 = 20_000;
const PAUSE_MAX_US: u64 = 1_000_000;

#[derive(Debug)]
pub(super) struct Ramp {
    connections: u32,
    per_second: f64,
    started_us: u64,
    next: u32,
    /// Handshakes under way.
    pub opening: u32,
    comebacks: BinaryHeap<Reverse<(u64, u32)>>,
    /// When the handshake of a client's n-th attempt has taken too long; all take equally long, so they stay in order.
    deadlines: VecDeque<(u64, u32, u32)>,
}

impl Ramp {
    pub fn new(connections: u32, per_second: f64, now_us: u64) -> Ramp {
        Ramp {
            connections,
            per_second: per_second.max(0.001),
            started_us: now_us,
            next: 0,
            opening: 0,
            comebacks: BinaryHeap::new(),
            deadlines: VecDeque::new(),
        }
    }

    /// The next client that is to connect now.
    pub fn due(&mut self, now_us: u64) -> Option<u32> {
        if self.opening >= HANDSHAKES_MAX {
            return None;
        }
        if let Some(Reverse((at_us, client))) = self.comebacks.peek().copied()
            && at_us <= now_us
        {
            self.comebacks.pop();
            return Some(client);
        }
        (self.next < self.connections && self.due_us() <= now_us).then(|| {
            self.next += 1;
            self.next - 1
        })
    }

    pub fn come_back(&mut self, client: u32, at_us: u64) {
        self.comebacks.push(Reverse((at_us, client)));
    }

    pub fn opens(&mut self, client: u32, attempt: u32, now_us: u64) {
        self.opening += 1;
        self.deadlines.push_back((now_us + HANDSHAKE_TIMEOUT_US, client, attempt));
    }

    /// A client whose handshake has taken too long, if that attempt is still under way.
    pub fn late(&mut self, now_us: u64) -> Option<(u32, u32)> {
        let (deadline_us, client, attempt) = *self.deadlines.front()?;
        (deadline_us <= now_us).then(|| {
            self.deadlines.pop_front();
            (client, attempt)
        })
    }

    /// When there is something to do without an event.
    pub fn next_us(&self) -> Option<u64> {
        let free = self.opening < HANDSHAKES_MAX;
        let comeback = self.comebacks.peek().map(|Reverse((at_us, _))| *at_us).filter(|_| free);
        let first = (free && self.next < self.connections).then(|| self.due_us());
        comeback.into_iter().chain(first).chain(self.deadlines.front().map(|deadline| deadline.0)).min()
    }

    fn due_us(&self) -> u64 {
        self.started_us + (f64::from(self.next) / self.per_second * 1e6) as u64
    }
}

/// Pause before a client comes back after `failures` attempts without success.
pub(super) fn pause_us(failures: u8) -> u64 {
    (PAUSE_MIN_US << failures.min(16)).min(PAUSE_MAX_US)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_made_by_the_schedule_and_bounded() {
        let mut ramp = Ramp::new(1_000, 100.0, 5_000_000);
        assert_eq!((ramp.due(4_999_999), ramp.next_us()), (None, Some(5_000_000)));
        let count = std::iter::from_fn(|| ramp.due(5_500_000)).inspect(|_| ()).count();
        assert_eq!(count, 51, "half a second and the first");
        ramp.opening = HANDSHAKES_MAX;
        assert_eq!((ramp.due(60_000_000), ramp.next_us()), (None, None));
        ramp.opening -= 1;
        assert_eq!(ramp.due(60_000_000), Some(51));
    }

    #[test]
    fn comebacks_wait_and_handshakes_end() {
        let mut ramp = Ramp::new(0, 1.0, 0);
        ramp.come_back(7, 300);
        ramp.come_back(3, 200);
        assert_eq!((ramp.due(199), ramp.due(250), ramp.due(250), ramp.due(300)), (None, Some(3), None, Some(7)));
        ramp.opens(3, 1, 1_000);
        assert_eq!((ramp.late(20_000_999), ramp.late(20_001_000)), (None, Some((3, 1))));
        let pauses: Vec<u64> = (0..8).map(pause_us).collect();
        assert_eq!(pauses, [20_000, 40_000, 80_000, 160_000, 320_000, 640_000, 1_000_000, 1_000_000]);
    }
}
