//! A circuit breaker in front of a dependency (bus, store, cache, search): when too many requests fail, the rest are refused at
//! once for a while, and then a few probes decide.
//!
//! Sans-io: `now` is the time since any fixed moment, and never runs backwards. Ask [`Breaker::allow`] before a request, and tell
//! [`Breaker::record`] what became of it. A permit whose request was given up and never recorded costs nothing but its place
//! among the probes, which is free again after one cool-down.

use std::time::Duration;

/// The window is counted in this many steps, so that old results leave it little by little.
const STEPS: usize = 8;
/// Probes that a configuration may allow at once.
pub const PROBES_LIMIT_MAX: u32 = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerConfig {
    /// Opens when at least this share of the window's requests failed, in percent.
    pub failure_percent: u32,
    /// … of at least this many.
    pub requests_min: u32,
    pub window: Duration,
    /// How long it stays open before probes are let through.
    pub cool_down: Duration,
    /// Each time that probes fail it doubles, up to this; no longer than `cool_down`: it stays as it is.
    pub cool_down_max: Duration,
    /// Probes at once while half-open; that many successes in a row close it.
    pub probes: u32,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        BreakerConfig {
            failure_percent: 50,
            requests_min: 10,
            window: Duration::from_secs(10),
            cool_down: Duration::from_secs(1),
            cool_down_max: Duration::from_secs(1),
            probes: 2,
        }
    }
}

/// What metrics show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BreakerState {
    Closed,
    HalfOpen,
    Open,
}

/// The right to make one request. It knows which state gave it, so that an answer that comes late does not count in a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Permit(u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Success,
    Failure,
}

#[derive(Debug)]
pub struct Breaker {
    config: BreakerConfig,
    state: State,
    /// Rises with every change of state.
    generation: u64,
    /// Of the next opening.
    cool_down: Duration,
    opened: u64,
    refused: u64,
}

#[derive(Debug)]
enum State {
    Closed(Window),
    Open { until: Duration },
    HalfOpen { since: Duration, probing: u32, succeeded: u32 },
}

impl Breaker {
    /// A probe count of 0 would never close again, so it counts as 1.
    pub fn new(config: BreakerConfig) -> Breaker {
        let config = BreakerConfig { probes: config.probes.clamp(1, PROBES_LIMIT_MAX), ..config };
        let (state, cool_down) = (State::Closed(Window::default()), config.cool_down);
        Breaker { config, state, generation: 0, cool_down, opened: 0, refused: 0 }
    }

    /// `None`: do not even try.
    pub fn allow(&mut self, now: Duration) -> Option<Permit> {
        if let State::Open { until } = self.state
            && now >= until
        {
            self.change(State::HalfOpen { since: now, probing: 0, succeeded: 0 });
        }
        let probes = self.config.probes;
        match &mut self.state {
            State::Closed(_) => return Some(Permit(self.generation)),
            State::Open { .. } => {}
            State::HalfOpen { since, probing, .. } => {
                if *probing >= probes && now >= *since + self.config.cool_down {
                    // Nobody told what became of them.
                    (*since, *probing) = (now, 0);
                }
                if *probing < probes {
                    *probing += 1;
                    return Some(Permit(self.generation));
                }
            }
        }
        self.refused += 1;
        None
    }

    pub fn record(&mut self, permit: Permit, outcome: Outcome, now: Duration) {
        if permit.0 != self.generation {
            return;
        }
        match &mut self.state {
            State::Closed(window) => {
                window.count(outcome, now, self.config.window);
                let (requests, failures) = window.sums();
                let share = u64::from(failures) * 100;
                let limit = u64::from(requests) * u64::from(self.config.failure_percent);
                if failures > 0 && requests >= self.config.requests_min && share >= limit {
                    self.open(now);
                }
            }
            State::HalfOpen { probing, succeeded, .. } => match outcome {
                Outcome::Failure => self.open(now),
                Outcome::Success => {
                    *probing = probing.saturating_sub(1);
                    *succeeded += 1;
                    if *succeeded >= self.config.probes {
                        self.cool_down = self.config.cool_down;
                        self.change(State::Closed(Window::default()));
                    }
                }
            },
            State::Open { .. } => {}
        }
    }

    pub fn state(&self) -> BreakerState {
        match self.state {
            State::Closed(_) => BreakerState::Closed,
            State::Open { .. } => BreakerState::Open,
            State::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// When the next request may be let through; `None`: now.
    pub fn retry_at(&self) -> Option<Duration> {
        match self.state {
            State::Open { until } => Some(until),
            _ => None,
        }
    }

    /// How often it opened.
    pub fn opened(&self) -> u64 {
        self.opened
    }

    /// Requests that were not let through.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    fn open(&mut self, now: Duration) {
        self.opened += 1;
        self.change(State::Open { until: now + self.cool_down });
        self.cool_down = (self.cool_down * 2).min(self.config.cool_down_max).max(self.config.cool_down);
    }

    fn change(&mut self, state: State) {
        self.state = state;
        self.generation += 1;
    }
}

/// Requests and failures of the last [`BreakerConfig::window`].
#[derive(Debug, Default)]
struct Window {
    steps: [(u32, u32); STEPS],
    /// Number of the newest step since the fixed moment.
    newest: u64,
}

impl Window {
    fn count(&mut self, outcome: Outcome, now: Duration, window: Duration) {
        let length = (window.as_nanos() / STEPS as u128).max(1);
        let step = u64::try_from(now.as_nanos() / length).unwrap_or(u64::MAX).max(self.newest);
        for gone in (self.newest + 1..=step).rev().take(STEPS) {
            self.steps[(gone % STEPS as u64) as usize] = (0, 0);
        }
        self.newest = step;
        let (requests, failures) = &mut self.steps[(step % STEPS as u64) as usize];
        *requests = requests.saturating_add(1);
        *failures = failures.saturating_add(u32::from(outcome == Outcome::Failure));
    }

    fn sums(&self) -> (u32, u32) {
        self.steps.iter().fold((0, 0), |sum, step| (sum.0.saturating_add(step.0), sum.1.saturating_add(step.1)))
    }
}

#[cfg(test)]
mod tests;
