//! What readers, the writer and subscriptions of one cache have together.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, UNIX_EPOCH};

use tidegate_control_core::breaker::{Breaker, BreakerState, Outcome, Permit};
use tidegate_control_core::domain::Uid;
use tidegate_control_core::ports::cache::{Fact, IncarnationTag, Live};
use tokio::runtime::Handle;
use tokio::sync::Notify;

use super::OpenError;
use super::backlog::{Backlog, Batch};
use super::calls::{Call, Scripts};
use super::facts::Speaker;
use super::keys::Keys;
use super::link::{Answer, Endpoints, Link};
use super::settings::RedisSettings;

/// Incarnations that were voided and are remembered, so that their routes are removed where they are met.
const VOIDED_MAX: usize = 1_024;
/// Void routes that were met by readers and wait for their removal; others are met again.
const SWEEPS_MAX: usize = 4_096;

pub struct Shared {
    pub speaker: Speaker,
    pub endpoints: Arc<Endpoints>,
    /// Where its tasks run, whoever subscribes from wherever.
    pub runtime: Handle,
    /// Readers do not wait behind the writer's pipelines.
    pub reading: Link,
    pub writing: Link,
    pub counters: Counters,
    pub wake: Notify,
    pub idle: Notify,
    pub closed: AtomicBool,
    /// Bucket that the next sweep begins with.
    pub swept: AtomicU32,
    /// How often the servers were found emptied.
    pub emptied: AtomicU64,
    state: Mutex<State>,
    breaker: Mutex<Breaker>,
    began: Instant,
}

#[derive(Debug, Default)]
pub struct Counters {
    pub reads_failed: AtomicU64,
    pub writes_refused: AtomicU64,
    pub writes_done: AtomicU64,
}

struct State {
    backlog: Backlog,
    writing: bool,
    voided: VecDeque<IncarnationTag>,
    sweeps: Vec<(Uid, IncarnationTag)>,
}

/// What of a batch was not written.
pub enum Rest {
    Nothing,
    Some(Batch),
    All(Batch),
}

impl Shared {
    pub fn new(settings: &RedisSettings) -> Result<Shared, OpenError> {
        let endpoints = Arc::new(Endpoints::new(settings)?);
        let bounds = settings.bounds.clone();
        let backlog = Backlog::new(bounds.writes_max as usize, bounds.write_bytes_max as usize);
        let keys = Keys::new(settings)?;
        Ok(Shared {
            speaker: Speaker { keys, scripts: Scripts::new(), ttl: settings.ttl.clone(), bounds },
            reading: Link::new(Arc::clone(&endpoints)),
            writing: Link::new(Arc::clone(&endpoints)),
            endpoints,
            runtime: Handle::current(),
            counters: Counters::default(),
            wake: Notify::new(),
            idle: Notify::new(),
            closed: AtomicBool::new(false),
            swept: AtomicU32::new(0),
            emptied: AtomicU64::new(0),
            state: Mutex::new(State { backlog, writing: false, voided: VecDeque::new(), sweeps: Vec::new() }),
            breaker: Mutex::new(Breaker::new(settings.breaker.config())),
            began: Instant::now(),
        })
    }

    pub fn push(&self, facts: Vec<Fact>) {
        let mut state = self.state();
        for fact in facts {
            if let Fact::Void(incarnation) = &fact {
                if state.voided.len() >= VOIDED_MAX {
                    state.voided.pop_front();
                }
                state.voided.push_back(IncarnationTag::of(incarnation));
            }
            state.backlog.push(fact);
        }
        drop(state);
        self.wake.notify_one();
    }

    /// The next facts to write. Until [`Shared::wrote`] the cache is not settled.
    pub fn take(&self, most: usize, repair: bool) -> Batch {
        let mut state = self.state();
        let taken = state.backlog.take(most, repair);
        state.writing = true;
        taken
    }

    pub fn wrote(&self, rest: Rest) {
        let mut state = self.state();
        match rest {
            Rest::Nothing => {}
            Rest::All(batch) => state.backlog.give_back(batch),
            Rest::Some(batch) => state.backlog.failed(batch),
        }
        state.writing = false;
        drop(state);
        self.idle.notify_waiters();
    }

    pub fn has_work(&self) -> bool {
        let state = self.state();
        state.backlog.len() > 0 || state.backlog.owed() > 0 || !state.sweeps.is_empty()
    }

    pub async fn settled(&self) {
        loop {
            let idle = self.idle.notified();
            let mut idle = std::pin::pin!(idle);
            idle.as_mut().enable();
            let is_idle = {
                let state = self.state();
                state.backlog.len() == 0 && state.backlog.owed() == 0 && !state.writing
            };
            if is_idle || self.is_closed() {
                return;
            }
            idle.await;
        }
    }

    /// Lets one batch pass the breaker and tells it the outcome. `None`: it was not let through.
    pub async fn ask(&self, link: &Link, calls: &[Call<'_>]) -> Option<Vec<Answer>> {
        let permit = self.allow()?;
        let answers = link.ask(calls).await;
        let away = answers.iter().filter(|answer| matches!(answer, Answer::Away)).count();
        // One master of several that is away does not shut out the others.
        let outcome = if away * 2 > answers.len() { Outcome::Failure } else { Outcome::Success };
        self.breaker().record(permit, outcome, self.now());
        Some(answers)
    }

    fn allow(&self) -> Option<Permit> {
        let now = self.now();
        self.breaker().allow(now)
    }

    /// How long the breaker stays shut.
    pub fn shut_for(&self) -> Duration {
        let until = self.breaker().retry_at();
        until.map_or(Duration::ZERO, |until| until.saturating_sub(self.now()))
    }

    pub fn is_well(&self) -> bool {
        self.breaker().state() == BreakerState::Closed
    }

    /// Routes of this incarnation never count again.
    pub fn is_dead(&self, tag: IncarnationTag, live: &Live) -> bool {
        live.supersedes(tag) || (live.find(tag).is_none() && self.state().voided.contains(&tag))
    }

    pub fn sweep_later(&self, met: Vec<(Uid, IncarnationTag)>) {
        if met.is_empty() {
            return;
        }
        let mut state = self.state();
        let room = SWEEPS_MAX.saturating_sub(state.sweeps.len());
        state.sweeps.extend(met.into_iter().take(room));
        drop(state);
        self.wake.notify_one();
    }

    pub fn take_sweeps(&self) -> Vec<(Uid, IncarnationTag)> {
        std::mem::take(&mut self.state().sweeps)
    }

    pub fn generation(&self) -> u64 {
        self.emptied.load(Ordering::Acquire) + self.state().backlog.forgotten
    }

    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.wake.notify_one();
        self.idle.notify_waiters();
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Since the cache was opened.
    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }

    pub fn backlog(&self) -> BacklogGuard<'_> {
        BacklogGuard(self.state())
    }

    pub fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub struct BacklogGuard<'a>(MutexGuard<'a, State>);

impl std::ops::Deref for BacklogGuard<'_> {
    type Target = Backlog;

    fn deref(&self) -> &Backlog {
        &self.0.backlog
    }
}

/// Wall-clock seconds, for routes that end by themselves.
pub fn now_s() -> u32 {
    UNIX_EPOCH.elapsed().map_or(0, |since| u32::try_from(since.as_secs()).unwrap_or(u32::MAX))
}
