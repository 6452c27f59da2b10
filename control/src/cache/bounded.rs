//! A bounded cache of what a store said, which never keeps what has changed since it was asked.
//!
//! A look-up that misses gets a [`Ticket`] before it asks the store; the answer is kept only if nothing about its key was
//! invalidated meanwhile. Without that, an answer of before a change could be kept after the change was told, for good.

use std::hash::{BuildHasher as _, Hash};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use prometheus_client::metrics::counter::Counter;

/// Keys share so many counts of invalidations: neighbours only cost each other an answer that is not kept.
const STRIPES: usize = 64;

pub struct Bounded<K, V> {
    values: quick_cache::sync::Cache<K, Kept<V>>,
    max_age: Option<Duration>,
    stripes: [Mutex<u64>; STRIPES],
    hasher: RandomState,
    tally: Tally,
}

/// What caches of one name were asked, for metrics; clones count together.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub hits: Counter,
    pub misses: Counter,
    pub invalidated: Counter,
}

#[derive(Clone)]
struct Kept<V> {
    since: Instant,
    value: V,
}

/// The right to keep an answer that is asked for after this.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Ticket {
    stripe: usize,
    count: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub hits: u64,
    pub misses: u64,
    pub invalidated: u64,
    pub len: usize,
}

impl<K: Hash + Eq + Clone, V: Clone> Bounded<K, V> {
    /// At most so many values; older than `max_age` they are not believed, whatever was told.
    pub fn new(max: usize, max_age: Option<Duration>, tally: Tally) -> Bounded<K, V> {
        Bounded {
            values: quick_cache::sync::Cache::new(max),
            max_age,
            stripes: std::array::from_fn(|_| Mutex::new(0)),
            hasher: RandomState::default(),
            tally,
        }
    }

    pub fn find(&self, key: &K) -> Result<V, Ticket> {
        let young = |kept: &Kept<V>| self.max_age.is_none_or(|age| kept.since.elapsed() < age);
        if let Some(kept) = self.values.get(key).filter(young) {
            self.tally.hits.inc();
            return Ok(kept.value);
        }
        self.tally.misses.inc();
        let stripe = self.stripe(key);
        Err(Ticket { stripe, count: *self.lock(stripe) })
    }

    /// False: something about the key was invalidated since the ticket, and the answer is not kept.
    pub fn keep(&self, ticket: Ticket, key: K, value: V) -> bool {
        let count = self.lock(ticket.stripe);
        let stands = *count == ticket.count;
        if stands {
            self.values.insert(key, Kept { since: Instant::now(), value });
        }
        stands
    }

    pub fn find_or<E>(&self, key: &K, ask: impl FnOnce() -> Result<V, E>) -> Result<V, E> {
        let ticket = match self.find(key) {
            Ok(value) => return Ok(value),
            Err(ticket) => ticket,
        };
        let value = ask()?;
        self.keep(ticket, key.clone(), value.clone());
        Ok(value)
    }

    pub fn invalidate(&self, key: &K) {
        let mut count = self.lock(self.stripe(key));
        *count += 1;
        self.values.remove(key);
        self.tally.invalidated.inc();
    }

    pub fn clear(&self) {
        let mut counts: Vec<_> = (0..STRIPES).map(|stripe| self.lock(stripe)).collect();
        counts.iter_mut().for_each(|count| **count += 1);
        self.values.clear();
        self.tally.invalidated.inc();
    }

    pub fn stats(&self) -> Stats {
        let Tally { hits, misses, invalidated } = &self.tally;
        Stats { hits: hits.get(), misses: misses.get(), invalidated: invalidated.get(), len: self.values.len() }
    }

    fn stripe(&self, key: &K) -> usize {
        self.hasher.hash_one(key) as usize % STRIPES
    }

    fn lock(&self, stripe: usize) -> MutexGuard<'_, u64> {
        self.stripes[stripe].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    fn filled(cache: &Bounded<u32, u32>, key: u32) {
        let Err(ticket) = cache.find(&key) else { return };
        assert!(cache.keep(ticket, key, key));
    }

    #[test]
    fn hits_and_misses_are_counted() {
        let cache = Bounded::new(100, None, Tally::default());
        assert_eq!(cache.find_or(&1, || Ok::<u32, ()>(7)), Ok(7));
        assert_eq!(cache.find_or(&1, || Err(())), Ok(7));
        assert_eq!(cache.find_or(&2, || Err(())), Err(()));
        assert_eq!(cache.stats(), Stats { hits: 1, misses: 2, invalidated: 0, len: 1 });
    }

    #[test]
    fn it_never_grows_past_its_bound() {
        let cache = Bounded::new(1_000, None, Tally::default());
        (0..50_000).for_each(|key| filled(&cache, key));
        assert!(cache.stats().len <= 1_000, "{:?}", cache.stats());
    }

    #[test]
    fn an_answer_of_before_a_change_is_not_kept_after_it() {
        let cache: Bounded<u32, u32> = Bounded::new(100, None, Tally::default());
        let ticket = cache.find(&1).expect_err("a miss");
        cache.invalidate(&1);
        assert!(!cache.keep(ticket, 1, 7));
        let ticket = cache.find(&1).expect_err("still a miss");
        cache.clear();
        assert!(!cache.keep(ticket, 1, 7));
        filled(&cache, 1);
        assert_eq!(cache.find(&1).ok(), Some(1));
        cache.invalidate(&1);
        assert!(cache.find(&1).is_err());
    }

    #[test]
    fn what_is_too_old_is_asked_for_again() {
        let cache = Bounded::new(100, Some(Duration::ZERO), Tally::default());
        filled(&cache, 1);
        assert_eq!(cache.find_or(&1, || Ok::<u32, ()>(8)), Ok(8));
    }

    /// Readers that load while a writer changes and invalidates: once the writer is done, nobody finds an older value.
    #[test]
    fn under_concurrent_changes_the_last_value_wins() {
        let cache: Bounded<u32, u64> = Bounded::new(100, None, Tally::default());
        let truth = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        let _ = cache.find_or(&1, || Ok::<_, ()>(truth.load(Ordering::SeqCst)));
                    }
                });
            }
            scope.spawn(|| {
                for value in 1..=5_000 {
                    truth.store(value, Ordering::SeqCst);
                    cache.invalidate(&1);
                }
            });
        });
        assert_eq!(cache.find_or(&1, || Ok::<_, ()>(5_000)), Ok(5_000));
    }
}
