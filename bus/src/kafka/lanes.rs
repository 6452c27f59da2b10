//! Order across two producers.
//!
//! Kafka keeps the order of one idempotent producer's records in a partition, and none between two producers. Values are sent
//! by a plain producer or by one that compresses, so the records of a *lane* (what keeps its order: a partition that was asked
//! for, otherwise a key) must not be in flight with both. The rule: while any of a lane's records is in flight, the lane stays
//! with the producer that has it. A record that wants to be compressed while plain ones are in flight waits, and what follows it
//! waits behind it; when the last plain one is acknowledged (or has failed), all of them leave by the compressing producer. A
//! lane that is with the compressing producer takes short values along and goes back to plain ones when it is idle, so nothing
//! ever waits in that direction.
//!
//! Several lanes share a slot by hash; sharing makes some records wait that need not, never the reverse.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

const LANES: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Plain,
    Packed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneId(u32);

pub struct Lanes<T> {
    lanes: Box<[Mutex<Lane<T>>]>,
    hasher: RandomState,
}

impl<T> Lanes<T> {
    pub fn new() -> Lanes<T> {
        Lanes { lanes: (0..LANES).map(|_| Mutex::new(Lane::new())).collect(), hasher: RandomState::new() }
    }

    pub fn of(&self, topic: &str, partition: Option<i32>, key: Option<&[u8]>) -> Option<LaneId> {
        let hash = match (partition, key) {
            (Some(partition), _) => self.hasher.hash_one((topic, partition)),
            (None, Some(key)) => self.hasher.hash_one((topic, key)),
            // Without a key any partition will do, so there is no order to keep.
            (None, None) => return None,
        };
        Some(LaneId((hash % LANES as u64) as u32))
    }

    /// What the holder sends, it sends before it lets go.
    pub fn lock(&self, lane: LaneId) -> MutexGuard<'_, Lane<T>> {
        self.lanes[lane.0 as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub struct Lane<T> {
    way: Way,
    in_flight: usize,
    held: VecDeque<T>,
}

impl<T> Lane<T> {
    fn new() -> Lane<T> {
        Lane { way: Way::Plain, in_flight: 0, held: VecDeque::new() }
    }

    /// `Some`: send it this way now, it counts as in flight. `None`: it waits.
    pub fn enter(&mut self, wants: Way, item: T) -> Option<(Way, T)> {
        if self.in_flight == 0 {
            self.way = wants;
        }
        let waits = self.way == Way::Plain && wants == Way::Packed;
        if waits || !self.held.is_empty() {
            self.held.push_back(item);
            return None;
        }
        self.in_flight += 1;
        Some((self.way, item))
    }

    /// One is not in flight any more. What is returned leaves now, in this order, by [`Way::Packed`].
    pub fn leave(&mut self) -> VecDeque<T> {
        self.in_flight -= 1;
        if self.in_flight > 0 || self.held.is_empty() {
            return VecDeque::new();
        }
        self.way = Way::Packed;
        self.in_flight = self.held.len();
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Two producers that acknowledge in their own order and at their own pace.
    #[derive(Default)]
    struct World {
        plain: VecDeque<usize>,
        packed: VecDeque<usize>,
        log: Vec<usize>,
    }

    impl World {
        fn sent(&mut self, way: Way, item: usize) {
            if way == Way::Plain { &mut self.plain } else { &mut self.packed }.push_back(item);
        }

        fn acknowledges(&mut self, way: Way, lane: &mut Lane<usize>) {
            let Some(item) = if way == Way::Plain { &mut self.plain } else { &mut self.packed }.pop_front() else {
                return;
            };
            self.log.push(item);
            for item in lane.leave() {
                self.packed.push_back(item);
            }
        }
    }

    proptest! {
        #[test]
        fn a_lane_keeps_its_order_whatever_the_two_producers_do(steps in prop::collection::vec(0..4_u8, 0..200)) {
            let (mut lane, mut world) = (Lane::new(), World::default());
            let mut next = 0;
            for step in steps {
                match step {
                    0 | 1 => {
                        let wants = if step == 0 { Way::Plain } else { Way::Packed };
                        if let Some((way, item)) = lane.enter(wants, next) {
                            prop_assert!(way == Way::Packed || wants == Way::Plain, "a long value left uncompressed");
                            world.sent(way, item);
                        }
                        next += 1;
                    }
                    2 => world.acknowledges(Way::Plain, &mut lane),
                    _ => world.acknowledges(Way::Packed, &mut lane),
                }
                prop_assert!(world.plain.is_empty() || world.packed.is_empty(), "in flight with both");
            }
            while !(world.plain.is_empty() && world.packed.is_empty()) {
                world.acknowledges(Way::Packed, &mut lane);
                world.acknowledges(Way::Plain, &mut lane);
            }
            prop_assert_eq!(world.log, (0..next).collect::<Vec<_>>());
        }
    }

    #[test]
    fn records_of_an_asked_partition_share_a_lane_whatever_their_keys() {
        let lanes: Lanes<()> = Lanes::new();
        assert_eq!(lanes.of("t", Some(1), Some(b"a")), lanes.of("t", Some(1), Some(b"b")));
        assert_eq!(lanes.of("t", None, Some(b"a")), lanes.of("t", None, Some(b"a")));
        assert_eq!(lanes.of("t", None, None), None);
    }
}
