//! Pauses between attempts to attach: they double from 50 ms to 2 s, and each is cut at random to between half and all
//! of it, so that the gateways of a restarted control do not come back in step.

use std::time::Duration;

const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// The pause that comes next.
#[derive(Debug)]
pub struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff { next: PAUSE_MIN }
    }
}

impl Backoff {
    /// After a success.
    pub fn reset(&mut self) {
        self.next = PAUSE_MIN;
    }

    /// How long to wait before the next attempt.
    pub fn pause(&mut self) -> Duration {
        let full = self.next;
        self.next = (full * 2).min(PAUSE_MAX);
        let random = getrandom::u32().unwrap_or(u32::MAX);
        full / 2 + full.mul_f64(f64::from(random) / f64::from(u32::MAX) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_start_over() {
        let mut backoff = Backoff::default();
        let mut full = PAUSE_MIN;
        for _ in 0..20 {
            let pause = backoff.pause();
            assert!(pause >= full / 2 && pause <= full, "{pause:?} of {full:?}");
            full = (full * 2).min(PAUSE_MAX);
        }
        assert_eq!(full, PAUSE_MAX);
        backoff.reset();
        assert!(backoff.pause() <= PAUSE_MIN);
    }
}
