//! When an index that failed may be asked again.

use std::time::Duration;

const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// From here on the pause is the longest.
const DOUBLINGS_MAX: u32 = 9;

const _: () = assert!(PAUSE_MIN.as_millis() << DOUBLINGS_MAX >= PAUSE_MAX.as_millis());

/// Told of each success and failure; says how long to leave the index alone. The feeder asks one thing at a time.
pub trait Breaker: Send + 'static {
    fn succeeded(&mut self);

    fn failed(&mut self);

    /// Zero: it may be asked now.
    fn pause(&self) -> Duration;
}

/// A pause that doubles with each failure in a row.
#[derive(Clone, Copy, Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Breaker for Backoff {
    fn succeeded(&mut self) {
        self.failures = 0;
    }

    fn failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
    }

    fn pause(&self) -> Duration {
        match self.failures {
            0 => Duration::ZERO,
            failures => (PAUSE_MIN * (1 << (failures - 1).min(DOUBLINGS_MAX))).min(PAUSE_MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_grows_to_its_bound_and_ends_with_a_success() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.pause(), Duration::ZERO);
        backoff.failed();
        assert_eq!(backoff.pause(), PAUSE_MIN);
        backoff.failed();
        assert_eq!(backoff.pause(), 2 * PAUSE_MIN);
        (0..50).for_each(|_| backoff.failed());
        assert_eq!(backoff.pause(), PAUSE_MAX);
        backoff.succeeded();
        assert_eq!(backoff.pause(), Duration::ZERO);
    }
}
