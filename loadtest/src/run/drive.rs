//! Publishing: begins every load in its time, lets some clients stop reading, and looks at the server whenever a phase
//! begins or ends.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Run;
use super::swap::{Swap, Swapped};
use super::watch::Snapshot;
use crate::scenario::Slow;

/// How exact borders of phases are.
const LOOK: Duration = Duration::from_millis(2);

/// A phase with the moments at its begin and end.
#[derive(Debug)]
pub struct Border {
    pub load: usize,
    pub phase: usize,
    pub from: Snapshot,
    pub to: Snapshot,
}

/// What happened while messages were published.
#[derive(Debug)]
pub struct Driven {
    pub begin: Snapshot,
    pub borders: Vec<Border>,
    pub swap: Option<Swapped>,
}

/// Where a load is.
#[derive(Debug)]
enum Place {
    /// For another load to end.
    Waiting,
    Begun(u64),
    In {
        phase: usize,
        from: Box<Snapshot>,
    },
    Ended,
}

/// Publishes all loads; the first begins at `base_us`.
pub fn drive(run: &Run<'_>, base_us: u64) -> Driven {
    let loads = &run.scenario.loads;
    let mut places: Vec<Place> = loads.iter().map(|_| Place::Waiting).collect();
    for (index, load) in loads.iter().enumerate().filter(|(_, load)| load.after.is_none()) {
        run.publishers.begin(index, 0..load.phases.len(), base_us);
        places[index] = Place::Begun(base_us);
    }
    while run.clock.now_us() < base_us && !run.stop.is_set() {
        std::thread::sleep(LOOK);
    }
    let begin = run.watch.snapshot();
    let mut borders = Vec::new();
    let mut pause = Pause::new(run.scenario.slow, base_us);
    let mut swap = Swap::new(run, base_us);
    while places.iter().any(|place| !matches!(place, Place::Ended)) || pause.is_open() || swap.is_open() {
        if run.stop.is_set() {
            run.publishers.stop();
        }
        for load in 0..loads.len() {
            look(run, load, &mut places, &mut borders);
        }
        pause.look(run);
        swap.look(run);
        std::thread::sleep(LOOK);
    }
    Driven { begin, borders, swap: swap.end() }
}

fn look(run: &Run<'_>, load: usize, places: &mut [Place], borders: &mut Vec<Border>) {
    let progress = run.publishers.progress(load);
    let ended = progress.ended.load(Ordering::Acquire) > 0;
    let now = progress.phase.load(Ordering::Relaxed);
    places[load] = match std::mem::replace(&mut places[load], Place::Ended) {
        Place::Waiting => {
            let before = run.scenario.loads[load].after;
            match before.map(|before| matches!(places[before], Place::Ended)) {
                Some(false) => Place::Waiting,
                _ if run.stop.is_set() => Place::Ended,
                _ => {
                    let at_us = run.next_second();
                    run.publishers.begin(load, 0..run.scenario.loads[load].phases.len(), at_us);
                    Place::Begun(at_us)
                }
            }
        }
        Place::Begun(at_us) if run.clock.now_us() < at_us && !ended => Place::Begun(at_us),
        Place::Begun(_) => Place::In { phase: now, from: Box::new(run.watch.snapshot()) },
        Place::In { phase, from } if phase == now && !ended => Place::In { phase, from },
        Place::In { phase, from } => {
            let to = run.watch.snapshot();
            borders.push(Border { load, phase, from: *from, to: to.clone() });
            if ended { Place::Ended } else { Place::In { phase: now, from: Box::new(to) } }
        }
        Place::Ended => Place::Ended,
    };
}

/// The time in which the slow clients do not read.
struct Pause {
    slow: Option<Slow>,
    from_us: u64,
    to_us: u64,
    paused: bool,
}

impl Pause {
    fn new(slow: Option<Slow>, base_us: u64) -> Pause {
        let from_us = base_us + slow.map_or(0, |slow| slow.after.as_micros() as u64);
        let to_us = from_us + slow.map_or(0, |slow| slow.for_time.as_micros() as u64);
        Pause { slow, from_us, to_us, paused: false }
    }

    fn is_open(&self) -> bool {
        self.slow.is_some()
    }

    fn look(&mut self, run: &Run<'_>) {
        let (Some(slow), Some(fleet)) = (self.slow, &run.fleet) else { return };
        let now_us = run.clock.now_us();
        if self.paused && (now_us >= self.to_us || run.stop.is_set()) {
            fleet.pause(0..slow.count, false);
            self.slow = None;
        } else if run.stop.is_set() {
            self.slow = None;
        } else if !self.paused && now_us >= self.from_us {
            fleet.pause(0..slow.count, true);
            self.paused = true;
        }
    }
}
