//! A bell that wakes one thread. Rings that were not answered yet count as one and cost no system call.

use std::time::Duration;

use crate::atomic::{AtomicBool, Ordering};

/// What wakes a thread, such as an eventfd.
pub trait Signal {
    /// Ends the present wait, or the next.
    fn raise(&self);
}

/// A signal that a thread sleeps on by itself. What was written before `raise` is seen after a `wait` that it ended and after
/// the `lower` that took it.
pub trait Wait: Signal {
    /// Takes what was raised, so that the next wait lasts.
    fn lower(&self);
    /// Until it is raised, or for `timeout` (`None`: without end). May end early.
    fn wait(&self, timeout: Option<Duration>);
}

#[derive(Debug)]
pub struct Bell<S> {
    signal: S,
    rung: AtomicBool,
}

impl<S: Signal> Bell<S> {
    pub fn new(signal: S) -> Bell<S> {
        Bell { signal, rung: AtomicBool::new(false) }
    }

    pub fn signal(&self) -> &S {
        &self.signal
    }

    /// What was written to memory before the ring is seen after the [`Bell::answer`] that takes it.
    pub fn ring(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            self.signal.raise();
        }
    }

    /// Whether it was rung since the last call. A caller that lowers the signal itself does so first: of a ring in between,
    /// either the signal stays or the answer tells.
    pub fn answer(&self) -> bool {
        self.rung.load(Ordering::Relaxed) && self.rung.swap(false, Ordering::AcqRel)
    }
}

impl<S: Wait> Bell<S> {
    /// Sleeps, unless it was rung or `has_work`: what is signalled after the lowering ends the wait, what was signalled
    /// before it is found by looking.
    pub fn sleep(&self, timeout: Option<Duration>, has_work: impl FnOnce() -> bool) {
        self.signal.lower();
        if !self.rung.load(Ordering::Relaxed) && !has_work() {
            self.signal.wait(timeout);
        }
    }
}
