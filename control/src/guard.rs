//! A circuit breaker with a clock, shared by all who ask one dependency.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tidegate_control_core::breaker::{Breaker, BreakerConfig, BreakerState, Outcome, Permit};

#[derive(Debug)]
pub struct Guard {
    breaker: Mutex<Breaker>,
    began: Instant,
}

impl Guard {
    pub fn new(config: BreakerConfig) -> Guard {
        Guard { breaker: Mutex::new(Breaker::new(config)), began: Instant::now() }
    }

    /// `None`: do not even try.
    pub fn allow(&self) -> Option<Permit> {
        let now = self.began.elapsed();
        self.lock().allow(now)
    }

    pub fn record(&self, permit: Permit, outcome: Outcome) {
        let now = self.began.elapsed();
        self.lock().record(permit, outcome, now);
    }

    /// How long nothing is let through; zero while something may be.
    pub fn pause(&self) -> Duration {
        let now = self.began.elapsed();
        self.lock().retry_at().map_or(Duration::ZERO, |at| at.saturating_sub(now))
    }

    pub fn state(&self) -> BreakerState {
        self.lock().state()
    }

    fn lock(&self) -> MutexGuard<'_, Breaker> {
        // Nothing panics half-way through a change.
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Guard {
    fn default() -> Guard {
        Guard::new(BreakerConfig::default())
    }
}
