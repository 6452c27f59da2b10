//! How long to wait before trying again: twice as long each time, and never all at the same moment.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(50);
pub(crate) const LONGEST: Duration = Duration::from_secs(3);

#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(crate) fn new() -> Backoff {
        Backoff { next: FIRST }
    }

    pub(crate) fn reset(&mut self) {
        self.next = FIRST;
    }

    pub(crate) async fn wait(&mut self) {
        let bound = self.next;
        self.next = (bound * 2).min(LONGEST);
        tokio::time::sleep(jittered(bound)).await;
    }
}

/// Between half of it and all of it.
pub(crate) fn jittered(bound: Duration) -> Duration {
    let share = f64::from(random() as u32) / f64::from(u32::MAX);
    bound.mul_f64(0.5 + share / 2.0)
}

pub(crate) fn random() -> u64 {
    // Only spreads load and picks starting points: without randomness that is worse, not wrong.
    getrandom::u64().unwrap_or(0)
}
