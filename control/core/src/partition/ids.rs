//! Message ids and times: they never run backwards, whatever the machine's clock does.

use crate::domain::{MessageId, Timestamp};

/// 2024-01-01T00:00:00Z, where ids begin.
pub const ID_EPOCH_MS: i64 = 1_704_067_200_000;

const SEQUENCE_BITS: u32 = 12;
const WORKER_BITS: u32 = 10;
const SEQUENCE_MAX: u16 = 1 << SEQUENCE_BITS;
/// 41 bits of milliseconds end in 2093; later times stay there.
const MS_MAX: i64 = ID_EPOCH_MS + (1 << 41) - 1;

/// Gives Snowflake ids (41 bits ms, 10 worker, 12 sequence) and the time that belongs to each.
///
/// When the clock handed in stands still or runs backwards, time here stays where it was and is borrowed from the future,
/// a millisecond for every 4,096 ids. Times before 2024 count as 2024.
#[derive(Debug)]
pub struct Clock {
    worker: u16,
    ms: i64,
    /// The next one; `SEQUENCE_MAX`: this millisecond is used up.
    sequence: u16,
}

impl Clock {
    /// Continues after `last`, the time of the newest record before a restart.
    pub fn new(worker: u16, last: Timestamp) -> Clock {
        let worker = worker & ((1 << WORKER_BITS) - 1);
        Clock { worker, ms: last.0.clamp(ID_EPOCH_MS, MS_MAX), sequence: SEQUENCE_MAX }
    }

    /// A new id and its time, which is what the message carries as `ts`.
    pub fn stamp(&mut self, now: Timestamp) -> (MessageId, Timestamp) {
        self.time(now);
        if self.sequence == SEQUENCE_MAX {
            self.ms += 1;
            self.sequence = 0;
        }
        let since = (self.ms - ID_EPOCH_MS) as u64;
        let id =
            since << (WORKER_BITS + SEQUENCE_BITS) | u64::from(self.worker) << SEQUENCE_BITS | u64::from(self.sequence);
        self.sequence += 1;
        (MessageId(id), Timestamp(self.ms))
    }

    /// A time for a record that has no id.
    pub fn time(&mut self, now: Timestamp) -> Timestamp {
        let now = now.0.clamp(ID_EPOCH_MS, MS_MAX);
        if now > self.ms {
            self.ms = now;
            self.sequence = 0;
        }
        Timestamp(self.ms)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_id_holds_time_worker_and_sequence() {
        let mut clock = Clock::new(5, Timestamp(0));
        let (id, ts) = clock.stamp(Timestamp(ID_EPOCH_MS + 1000));
        assert_eq!((id.0 >> 22, id.0 >> 12 & 1023, id.0 & 4095), (1000, 5, 0));
        assert_eq!(ts, Timestamp(ID_EPOCH_MS + 1000));
        assert_eq!(clock.stamp(Timestamp(ID_EPOCH_MS + 1000)).0.0, id.0 + 1);
    }

    #[test]
    fn a_restart_in_the_same_millisecond_gives_newer_ids() {
        let now = Timestamp(ID_EPOCH_MS + 7);
        let mut clock = Clock::new(1, Timestamp(0));
        let (before, ts) = (0..10).map(|_| clock.stamp(now)).last().expect("ten ids");
        let mut clock = Clock::new(1, ts);
        let (after, later) = clock.stamp(now);
        assert!(after > before && later > ts);
    }

    proptest! {
        #[test]
        fn ids_and_times_only_rise(steps in prop::collection::vec((-5_000_i64..5_000, 1_usize..9_000), 1..20)) {
            let mut clock = Clock::new(1023, Timestamp(ID_EPOCH_MS));
            let mut now = ID_EPOCH_MS + 10_000;
            let mut last = (MessageId(0), Timestamp(0));
            for (step, ids) in steps {
                now += step;
                for _ in 0..ids {
                    let stamped = clock.stamp(Timestamp(now));
                    prop_assert!(stamped.0 > last.0 && stamped.1 >= last.1);
                    last = stamped;
                }
            }
        }
    }
}
