//! A registry inside this process.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::ready;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::backend::{Answer, Backend, Claim, LeaseId};
use crate::error::RegistryError;
use crate::known::{Known, Listing};
use crate::registry::Entry;
use crate::watch::WatchEvent;

/// When nothing expires by itself.
const IDLE: Duration = Duration::from_secs(3600);

pub(crate) struct Memory {
    state: Mutex<State>,
    /// Told with the lock held, so that it never runs behind the state.
    revision: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    entries: BTreeMap<String, Stored>,
    leases: HashMap<LeaseId, Instant>,
    leases_made: u64,
    revision: u64,
}

struct Stored {
    value: String,
    version: u64,
    lease: Option<LeaseId>,
}

impl Memory {
    pub(crate) fn new() -> Memory {
        Memory { state: Mutex::default(), revision: watch::channel(0).0 }
    }

    /// The state as of now, without what has expired.
    fn state(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().expect("nothing panics while it is held");
        state.expire(Instant::now());
        state
    }

    fn with<T: Send + 'static>(&self, act: impl FnOnce(&mut State) -> Result<T, RegistryError>) -> Answer<'static, T> {
        let mut state = self.state();
        let answer = act(&mut state);
        let revision = state.revision;
        self.revision.send_if_modified(|known| std::mem::replace(known, revision) != revision);
        ready(answer).boxed()
    }

    fn listing(&self, prefix: &str) -> (Listing, Instant) {
        let state = self.state();
        let next = state.leases.values().min().copied();
        let entries = state.below(prefix);
        (Listing { revision: state.revision, entries }, next.unwrap_or_else(|| Instant::now() + IDLE))
    }
}

impl State {
    fn expire(&mut self, now: Instant) {
        let over: Vec<LeaseId> = self.leases.iter().filter(|(_, until)| **until <= now).map(|(id, _)| *id).collect();
        over.into_iter().for_each(|lease| self.end(lease));
    }

    fn end(&mut self, lease: LeaseId) {
        self.leases.remove(&lease);
        let before = self.entries.len();
        self.entries.retain(|_, stored| stored.lease != Some(lease));
        self.revision += (before - self.entries.len()) as u64;
    }

    fn write(&mut self, key: &str, value: &str, lease: Option<LeaseId>) -> u64 {
        self.revision += 1;
        let stored = Stored { value: value.to_owned(), version: self.revision, lease };
        self.entries.insert(key.to_owned(), stored);
        self.revision
    }

    fn remove(&mut self, key: &str) {
        self.revision += u64::from(self.entries.remove(key).is_some());
    }

    fn entry(&self, key: &str) -> Option<Entry> {
        let stored = self.entries.get(key)?;
        Some(Entry { key: key.to_owned(), value: stored.value.clone(), version: stored.version })
    }

    fn below(&self, prefix: &str) -> Vec<Entry> {
        let from = self.entries.range(prefix.to_owned()..).map(|(key, _)| key);
        from.take_while(|key| key.starts_with(prefix)).filter_map(|key| self.entry(key)).collect()
    }

    fn alive(&self, lease: LeaseId) -> Result<(), RegistryError> {
        if self.leases.contains_key(&lease) { Ok(()) } else { Err(RegistryError::SessionLost) }
    }
}

impl Backend for Memory {
    fn fetch<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Entry>> {
        self.with(|state| Ok(state.entry(key)))
    }

    fn list<'a>(&'a self, prefix: &'a str) -> Answer<'a, Vec<Entry>> {
        self.with(|state| Ok(state.below(prefix)))
    }

    fn put<'a>(&'a self, key: &'a str, value: &'a str) -> Answer<'a, ()> {
        self.with(|state| {
            state.write(key, value, None);
            Ok(())
        })
    }

    fn create<'a>(&'a self, key: &'a str, value: &'a str) -> Answer<'a, bool> {
        self.with(|state| {
            let absent = !state.entries.contains_key(key);
            if absent {
                state.write(key, value, None);
            }
            Ok(absent)
        })
    }

    fn replace<'a>(&'a self, key: &'a str, expected: u64, value: &'a str) -> Answer<'a, bool> {
        self.with(|state| match state.entries.get(key) {
            Some(stored) if stored.version == expected => {
                let lease = stored.lease;
                state.write(key, value, lease);
                Ok(true)
            }
            _ => Ok(false),
        })
    }

    fn delete<'a>(&'a self, key: &'a str) -> Answer<'a, ()> {
        self.with(|state| {
            state.remove(key);
            Ok(())
        })
    }

    fn grant(&self, ttl: Duration) -> Answer<'_, LeaseId> {
        self.with(|state| {
            state.leases_made += 1;
            let lease = LeaseId(state.leases_made);
            state.leases.insert(lease, Instant::now() + ttl);
            Ok(lease)
        })
    }

    fn keep_alive(&self, lease: LeaseId, ttl: Duration) -> Answer<'_, bool> {
        self.with(|state| {
            let until = state.leases.get_mut(&lease);
            Ok(until.map(|until| *until = Instant::now() + ttl).is_some())
        })
    }

    fn revoke(&self, lease: LeaseId) -> Answer<'_, ()> {
        self.with(|state| {
            state.end(lease);
            Ok(())
        })
    }

    fn hold<'a>(&'a self, lease: LeaseId, key: &'a str, value: &'a str) -> Answer<'a, ()> {
        self.with(|state| {
            state.alive(lease)?;
            state.write(key, value, Some(lease));
            Ok(())
        })
    }

    fn claim<'a>(&'a self, lease: LeaseId, key: &'a str, value: &'a str) -> Answer<'a, Claim> {
        self.with(|state| {
            state.alive(lease)?;
            let version = match state.entries.get(key) {
                Some(stored) if stored.lease != Some(lease) => {
                    let (value, version) = (stored.value.clone(), stored.version);
                    return Ok(Claim::Theirs(Entry { key: key.to_owned(), value, version }));
                }
                Some(stored) if stored.value == value => stored.version,
                _ => state.write(key, value, Some(lease)),
            };
            Ok(Claim::Ours { version })
        })
    }

    fn release<'a>(&'a self, lease: LeaseId, key: &'a str) -> Answer<'a, ()> {
        self.with(|state| {
            if state.entries.get(key).is_some_and(|stored| stored.lease == Some(lease)) {
                state.remove(key);
            }
            Ok(())
        })
    }

    fn watch(self: Arc<Self>, prefix: String, events: mpsc::Sender<WatchEvent>) -> Answer<'static, ()> {
        async move {
            let mut revision = self.revision.subscribe();
            let (listing, mut expiry) = self.listing(&prefix);
            let mut known = Known::new(&listing);
            if events.send(WatchEvent::Snapshot(listing.entries)).await.is_err() {
                return Ok(());
            }
            loop {
                tokio::select! {
                    _ = revision.changed() => {}
                    () = tokio::time::sleep_until(expiry) => {}
                    () = events.closed() => return Ok(()),
                }
                let (listing, next) = self.listing(&prefix);
                expiry = next;
                for event in known.relisted(listing).map_err(RegistryError::unavailable)? {
                    if events.send(event).await.is_err() {
                        return Ok(());
                    }
                }
            }
        }
        .boxed()
    }

    /// It goes with the process of those who wrote.
    fn forgets(&self) -> bool {
        false
    }
}
