//! The open-loop schedule of a load: which message goes where and when, known before the run.
//!
//! A message's target follows from seed, load and number; its intended time from its phase. Only phases with
//! `per_second = 0` have no intended times: their messages are meant for the moment at which there is room for them.

use std::ops::Range;
use std::sync::Arc;

use crate::population::{Population, StreamNo};
use crate::scenario::{Phase, Pick, Until};

/// Messages up to which [`Schedule::deliveries`] counts one by one.
const COUNTED_MAX: u64 = 100_000_000;

#[derive(Clone, Debug)]
pub struct Schedule {
    /// Index of the load.
    pub load: u16,
    pub seed: u64,
    pub pick: Pick,
    /// The streams that it goes to.
    pub targets: Range<u32>,
    pub phases: Vec<Phase>,
}

/// A message that is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    pub number: u64,
    pub phase: usize,
    pub stream: StreamNo,
    pub intended_us: u64,
}

impl Schedule {
    pub fn target(&self, number: u64) -> StreamNo {
        let targets = u64::from(self.targets.end - self.targets.start).max(1);
        let at = match self.pick {
            Pick::Turn => number % targets,
            Pick::Random => mixed(self.seed ^ u64::from(self.load).rotate_left(48), number) % targets,
        };
        StreamNo(self.targets.start + at as u32)
    }

    /// Messages of a phase; `None`: it ends by the clock or from outside.
    pub fn messages(&self, phase: usize) -> Option<u64> {
        let Phase { per_second, until, .. } = self.phases[phase];
        match until {
            Until::Messages(count) => Some(count),
            Until::Seconds(seconds) if per_second > 0.0 => Some((seconds * per_second).round() as u64),
            Until::Seconds(_) | Until::Stopped => None,
        }
    }

    /// Messages × audiences of the whole load, if its messages are known beforehand.
    pub fn deliveries(&self, population: &Population) -> Option<u64> {
        let messages = (0..self.phases.len()).map(|phase| self.messages(phase)).sum::<Option<u64>>()?;
        let audience = |number| u64::from(population.audience(self.target(number)));
        let targets = u64::from(self.targets.end - self.targets.start).max(1);
        match self.pick {
            Pick::Turn => {
                let round: u64 = (0..targets).map(audience).sum();
                Some(messages / targets * round + (0..messages % targets).map(audience).sum::<u64>())
            }
            Pick::Random => (messages <= COUNTED_MAX).then(|| (0..messages).map(audience).sum()),
        }
    }
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// The next message, now.
    Now,
    /// Nothing before this time.
    At(u64),
    /// Every phase has ended.
    Ended,
}

/// The place in a schedule. Times are µs of the run's clock.
#[derive(Clone, Debug)]
pub struct Cursor {
    schedule: Arc<Schedule>,
    number: u64,
    phases: Range<usize>,
    /// Messages of the present phase so far.
    sent: u64,
    began_us: u64,
}

impl Cursor {
    /// At the end of nothing: call [`Cursor::begin`].
    pub fn new(schedule: Arc<Schedule>) -> Cursor {
        Cursor { schedule, number: 0, phases: 0..0, sent: 0, began_us: 0 }
    }

    /// Begins some phases. Numbers go on where they were.
    pub fn begin(&mut self, phases: Range<usize>, at_us: u64) {
        self.phases = phases;
        self.sent = 0;
        self.began_us = at_us;
    }

    pub fn phase(&self) -> usize {
        self.phases.start
    }

    /// Moves on over phases that have ended; says when the next message is due. `on_border` is told the phase that ended
    /// with its begin and end.
    pub fn due(&mut self, now_us: u64, mut on_border: impl FnMut(usize, u64, u64)) -> Due {
        loop {
            if self.phases.is_empty() {
                return Due::Ended;
            }
            let phase = self.phases.start;
            let end = match self.open_end(now_us) {
                Ok(due) => return due,
                Err(end) => end,
            };
            if now_us < end {
                return Due::At(end);
            }
            on_border(phase, self.began_us, end);
            self.phases.start += 1;
            self.sent = 0;
            self.began_us = end;
        }
    }

    /// The next message; only after [`Due::Now`].
    pub fn take(&mut self, now_us: u64) -> Planned {
        let paced = self.schedule.phases[self.phases.start].per_second > 0.0;
        let intended_us = if paced { self.intended_us() } else { now_us };
        let planned = Planned {
            number: self.number,
            phase: self.phases.start,
            stream: self.schedule.target(self.number),
            intended_us,
        };
        self.number += 1;
        self.sent += 1;
        planned
    }

    /// When the next message of the present phase is due, or when the phase that has no more of them ends.
    fn open_end(&self, now_us: u64) -> Result<Due, u64> {
        let phase = self.phases.start;
        let paced = self.schedule.phases[phase].per_second > 0.0;
        if self.schedule.messages(phase).is_some_and(|all| self.sent >= all) {
            return Err(if paced { self.intended_us() } else { now_us });
        }
        if paced {
            let at = self.intended_us();
            return Ok(if at <= now_us { Due::Now } else { Due::At(at) });
        }
        match self.schedule.phases[phase].until {
            _ if now_us < self.began_us => Ok(Due::At(self.began_us)),
            Until::Seconds(seconds) if now_us >= self.began_us + (seconds * 1e6) as u64 => {
                Err(self.began_us + (seconds * 1e6) as u64)
            }
            _ => Ok(Due::Now),
        }
    }

    fn intended_us(&self) -> u64 {
        let per_second = self.schedule.phases[self.phases.start].per_second;
        self.began_us + (self.sent as f64 * 1e6 / per_second) as u64
    }
}

/// SplitMix64 of a number under a seed.
pub fn mixed(seed: u64, number: u64) -> u64 {
    let mut z = seed.wrapping_add(number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::population::GroupClass;

    fn schedule(pick: Pick, phases: Vec<(f64, Until)>) -> Schedule {
        let phase = |(per_second, until)| Phase { name: "p".into(), per_second, until };
        Schedule { load: 2, seed: 7, pick, targets: 3..13, phases: phases.into_iter().map(phase).collect() }
    }

    /// Everything that is sent by a clock that runs in steps.
    fn run(schedule: Schedule, step_us: u64) -> (Vec<Planned>, Vec<(usize, u64, u64)>) {
        let phases = 0..schedule.phases.len();
        let mut cursor = Cursor::new(Arc::new(schedule));
        cursor.begin(phases, 1_000_000);
        let (mut sent, mut borders, mut now) = (Vec::new(), Vec::new(), 0);
        loop {
            match cursor.due(now, |phase, from, to| borders.push((phase, from, to))) {
                Due::Now => sent.push(cursor.take(now)),
                Due::At(_) => now += step_us,
                Due::Ended => return (sent, borders),
            }
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_messages_however_the_clock_runs() {
        let phases = || vec![(200.0, Until::Seconds(1.0)), (1000.0, Until::Messages(500))];
        for pick in [Pick::Turn, Pick::Random] {
            let (fine, borders) = run(schedule(pick, phases()), 137);
            let (coarse, _) = run(schedule(pick, phases()), 333_333);
            assert_eq!(fine, coarse);
            assert_eq!(fine.len(), 700);
            assert_eq!((fine[1].intended_us, fine[200].intended_us), (1_005_000, 2_000_000));
            assert_eq!(borders, [(0, 1_000_000, 2_000_000), (1, 2_000_000, 2_500_000)]);
            assert!(fine.iter().enumerate().all(|(n, planned)| planned.number == n as u64));
            assert!(fine.iter().all(|planned| (3..13).contains(&planned.stream.0)));
        }
        let other = Schedule { seed: 8, ..schedule(Pick::Random, phases()) };
        assert_ne!(run(other, 137).0, run(schedule(Pick::Random, phases()), 137).0);
    }

    #[test]
    fn as_fast_as_possible_ends_by_count_or_clock() {
        let (sent, borders) = run(schedule(Pick::Turn, vec![(0.0, Until::Messages(25))]), 1000);
        assert_eq!((sent.len(), borders.len()), (25, 1));
        let mut cursor = Cursor::new(Arc::new(schedule(Pick::Turn, vec![(0.0, Until::Seconds(2.0))])));
        cursor.begin(0..1, 0);
        assert_eq!(cursor.due(1_999_999, |_, _, _| ()), Due::Now);
        assert_eq!(cursor.take(1_999_999).intended_us, 1_999_999);
        assert_eq!(cursor.due(2_000_000, |_, _, _| ()), Due::Ended);
    }

    #[test]
    fn deliveries_are_known_beforehand() {
        let class = GroupClass { name: "room".into(), count: 3, members: 4 };
        let population = Population::new("lt", 10, vec![class], 0);
        for pick in [Pick::Turn, Pick::Random] {
            let schedule = Schedule { targets: 0..3, ..schedule(pick, vec![(0.0, Until::Messages(100))]) };
            let counted: u64 = (0..100).map(|n| u64::from(population.audience(schedule.target(n)))).sum();
            assert_eq!(schedule.deliveries(&population), Some(counted));
        }
        let open = schedule(Pick::Turn, vec![(0.0, Until::Stopped)]);
        assert_eq!(open.deliveries(&population), None);
    }
}
