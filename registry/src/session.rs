//! A lease that is kept alive, and what is held under it.
//!
//! INV-1: a session counts as over here before it can be over on the server: the server counts its term from when it received
//! a keep-alive, and this side from when it sent it, less a margin for clocks that do not run alike.
//! INV-2: a session that was over once is over for good, even if a late answer says otherwise: its owner has stopped, and others may
//! have begun.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::backend::{Backend, Claim, LeaseId};
use crate::error::{RegistryError, chain};
use crate::registry::{Entry, Registry, check_key, check_pair};

/// Of the term, for clocks that run at different speeds.
const MARGIN_SHARE: u32 = 10;
const KEEP_ALIVES_PER_TTL: u32 = 3;
/// Between a keep-alive that failed and the next one.
const RETRIES_PER_TTL: u32 = 15;

/// Whose a key is after [`Session::claim`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claimed {
    Ours,
    Theirs(Entry),
}

/// Keys held and claimed under it vanish when it ends: dropped, or its process is dead for longer than its term.
#[derive(Debug)]
pub struct Session {
    lease: Arc<Lease>,
    keeper: JoinHandle<()>,
    revoke_on_drop: bool,
}

/// What a session shares with its keeper and with locks.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) registry: Registry,
    id: LeaseId,
    ttl: Duration,
    term: watch::Sender<Term>,
    /// The next suffix of a key that only this lease may have.
    counter: Mutex<u64>,
}

#[derive(Clone, Copy, Debug)]
enum Term {
    Until(Instant),
    Over { since: Instant },
}

impl Term {
    fn holds(self, now: Instant) -> bool {
        matches!(self, Term::Until(until) if now < until)
    }
}

impl Session {
    pub(crate) async fn begin(registry: Registry, ttl: Duration) -> Result<Session, RegistryError> {
        let asked = Instant::now();
        let id = registry.backend().grant(ttl).await?;
        let (term, _) = watch::channel(Term::Until(asked + usable(ttl)));
        let lease = Arc::new(Lease { registry, id, ttl, term, counter: Mutex::new(0) });
        let keeper = lease.registry.keep(|backend| keep_alive(Arc::clone(&lease), backend));
        let session = Session { lease, keeper, revoke_on_drop: true };
        if session.is_alive() { Ok(session) } else { Err(RegistryError::SessionLost) }
    }

    /// The key dies with the session. Whatever was there is overwritten.
    pub async fn hold(&self, key: &str, value: &str) -> Result<(), RegistryError> {
        check_pair(key, value)?;
        self.lease.check()?;
        let held = self.lease.registry.backend().hold(self.lease.id, key, value).await;
        self.lease.judged(held)
    }

    /// The key is this session's alone until it is released or the session ends. Claiming it again is fine, also with another
    /// value, which then takes the place of the old one.
    pub async fn claim(&self, key: &str, value: &str) -> Result<Claimed, RegistryError> {
        match self.lease.claim(key, value).await? {
            Claim::Ours { .. } => Ok(Claimed::Ours),
            Claim::Theirs(entry) => Ok(Claimed::Theirs(entry)),
        }
    }

    /// Removes the key if it is this session's, and never another's.
    pub async fn release(&self, key: &str) -> Result<(), RegistryError> {
        self.lease.release(key).await
    }

    /// False from the moment at which the session *may* be over. Others cannot begin before that, so stop what depends on it.
    pub fn is_alive(&self) -> bool {
        self.lease.is_alive()
    }

    /// Resolves when [`Session::is_alive`] turns false.
    pub async fn lost(&self) {
        self.lease.lost().await;
    }

    /// Moves on with each keep-alive that is answered. By this process's own clock, so a machine that sleeps sleeps through it.
    pub fn valid_until(&self) -> std::time::Instant {
        match *self.lease.term.borrow() {
            Term::Until(until) => until.into_std(),
            Term::Over { since } => since.into_std(),
        }
    }

    pub fn ttl(&self) -> Duration {
        self.lease.ttl
    }

    /// Revokes the session and waits for that. Its keys are gone when this returns `Ok`.
    pub async fn end(mut self) -> Result<(), RegistryError> {
        self.revoke_on_drop = false;
        self.keeper.abort();
        self.lease.over();
        self.lease.registry.backend().revoke(self.lease.id).await
    }

    /// As if the process had died: no more keep-alives, and no word to the server. For tests of what others make of that.
    pub fn abandon(&mut self) {
        self.revoke_on_drop = false;
        self.keeper.abort();
    }

    pub(crate) fn lease(&self) -> &Arc<Lease> {
        &self.lease
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.keeper.abort();
        self.lease.over();
        if !self.revoke_on_drop {
            return;
        }
        // Without a runtime the server finds out by itself after the term.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let lease = Arc::clone(&self.lease);
            runtime.spawn(async move {
                if let Err(error) = lease.registry.backend().revoke(lease.id).await {
                    tracing::debug!(error = chain(&error), "a session ends by its term");
                }
            });
        }
    }
}

impl Lease {
    pub(crate) async fn claim(&self, key: &str, value: &str) -> Result<Claim, RegistryError> {
        check_pair(key, value)?;
        self.check()?;
        let claim = self.registry.backend().claim(self.id, key, value).await;
        let claim = self.judged(claim)?;
        // An answer that comes too late is about a claim that others may have by now.
        self.check()?;
        Ok(claim)
    }

    pub(crate) async fn release(&self, key: &str) -> Result<(), RegistryError> {
        check_key(key)?;
        self.registry.backend().release(self.id, key).await
    }

    pub(crate) fn is_alive(&self) -> bool {
        let term = self.term.borrow();
        // The clock is read under the lock that the keeper renews under, which is what INV-2 needs.
        term.holds(Instant::now())
    }

    pub(crate) async fn lost(&self) {
        let mut term = self.term.subscribe();
        loop {
            let now = *term.borrow_and_update();
            let Term::Until(until) = now else { return };
            if !now.holds(Instant::now()) {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep_until(until) => {}
                _ = term.changed() => {}
            }
        }
    }

    /// Differs from every other, also from those of other leases.
    pub(crate) fn unique(&self) -> String {
        let mut counter = self.counter.lock().expect("nothing panics while it is held");
        *counter += 1;
        format!("{:016x}-{counter}", self.id.0)
    }

    fn check(&self) -> Result<(), RegistryError> {
        if self.is_alive() { Ok(()) } else { Err(RegistryError::SessionLost) }
    }

    fn judged<T>(&self, answer: Result<T, RegistryError>) -> Result<T, RegistryError> {
        if matches!(answer, Err(RegistryError::SessionLost)) {
            self.over();
        }
        answer
    }

    fn over(&self) {
        self.term.send_if_modified(|term| {
            let Term::Until(until) = *term else { return false };
            *term = Term::Over { since: until.min(Instant::now()) };
            true
        });
    }

    /// False: it was over already.
    fn renewed(&self, until: Instant) -> bool {
        let mut renewed = false;
        self.term.send_if_modified(|term| {
            if term.holds(Instant::now()) {
                *term = Term::Until(until);
                renewed = true;
            }
            renewed
        });
        renewed
    }
}

fn usable(ttl: Duration) -> Duration {
    ttl - ttl / MARGIN_SHARE
}

async fn keep_alive(lease: Arc<Lease>, backend: Arc<dyn Backend>) {
    let period = lease.ttl / KEEP_ALIVES_PER_TTL;
    let mut pause = period;
    while lease.is_alive() {
        tokio::time::sleep(pause).await;
        let asked = Instant::now();
        let answer = backend.keep_alive(lease.id, lease.ttl);
        // A request that hangs must leave time for another one.
        match tokio::time::timeout(period, answer).await {
            Ok(Ok(true)) if lease.renewed(asked + usable(lease.ttl)) => {
                pause = period.saturating_sub(asked.elapsed());
                continue;
            }
            Ok(Ok(_)) => break,
            Ok(Err(error)) => {
                tracing::warn!(error = chain(&error), "a keep-alive failed and is repeated");
            }
            Err(_) => tracing::warn!("a keep-alive was not answered and is repeated"),
        }
        pause = lease.ttl / RETRIES_PER_TTL;
    }
    lease.over();
    tracing::warn!("a session is lost");
}
