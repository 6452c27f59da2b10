//! Callers' keys, in buckets that are dropped whole.
//!
//! A bucket is one fjall keyspace: dropping it costs the same for one key as for millions. A new one begins with each hour
//! of record time, or earlier when many keys come. The oldest goes when all its keys are past the horizon, or when there
//! are more than `keys_max` in all: the horizon is what then remains.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use fjall::{Database, Keyspace, OwnedWriteBatch};
use tidegate_control_core::domain::Timestamp;
use tidegate_control_core::ports::DedupHit;

use super::filter::Filter;
use super::rows::{Reader, decode_dedup, encode_dedup};
use crate::adapters::embedded::error::IndexError;

const HOUR_MS: i64 = 3_600_000;
/// Of all keys, the part that one bucket may hold: dropping one shortens the horizon by that much.
const BUCKET_SHARE: u64 = 16;
const META_PREFIX: &[u8] = b"dedup/";

/// For how long a repeated key is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DedupLimits {
    pub horizon_ms: i64,
    pub keys_max: u64,
}

/// What the store remembers of callers' keys now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DedupStats {
    pub keys: u64,
    /// Keys used since then are all recognised; `None`: none was forgotten yet.
    pub complete_since: Option<Timestamp>,
}

#[derive(Debug)]
pub struct Dedup {
    limits: DedupLimits,
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Oldest first.
    buckets: Vec<Bucket>,
    next: u64,
    complete_since: Option<Timestamp>,
}

#[derive(Clone)]
struct Bucket {
    number: u64,
    begun: Timestamp,
    newest: Timestamp,
    keys: u64,
    keyspace: Keyspace,
    /// `None` until the keys of a bucket from before this opening have been read; then the index itself is asked.
    filter: Option<Arc<Filter>>,
}

impl std::fmt::Debug for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bucket").field("number", &self.number).field("keys", &self.keys).finish_non_exhaustive()
    }
}

impl Dedup {
    pub fn open(db: &Database, meta: &Keyspace, limits: DedupLimits) -> Result<Dedup, IndexError> {
        let mut state = State::default();
        for row in meta.prefix(META_PREFIX) {
            let (key, value) = row.into_inner()?;
            let number =
                key.last_chunk::<8>().map(|n| u64::from_be_bytes(*n)).ok_or(IndexError::Row { table: "meta" })?;
            let mut row = Reader::new(&value, "meta");
            let (begun, newest, keys) = (Timestamp(row.u64()? as i64), Timestamp(row.u64()? as i64), row.u64()?);
            let keyspace = db.keyspace(&keyspace_name(number), super::table_options)?;
            state.buckets.push(Bucket { number, begun, newest, keys, keyspace, filter: None });
            state.next = number + 1;
        }
        state.complete_since = state.buckets.first().filter(|b| b.number > 0).map(|b| b.begun);
        for name in db.list_keyspace_names() {
            let left_over =
                name.starts_with("dedup-") && !state.buckets.iter().any(|b| *keyspace_name(b.number) == *name);
            if left_over {
                let keyspace = db.keyspace(&name, super::table_options)?;
                db.delete_keyspace(keyspace)?;
            }
        }
        Ok(Dedup { limits, state: RwLock::new(state) })
    }

    pub fn find(&self, key: &[u8; 16]) -> Result<Option<DedupHit>, IndexError> {
        let state = self.read();
        for bucket in state.buckets.iter().rev() {
            if bucket.filter.as_ref().is_some_and(|filter| !filter.may_contain(key)) {
                continue;
            }
            if let Some(row) = bucket.keyspace.get(key)? {
                return decode_dedup(&row).map(Some);
            }
        }
        Ok(None)
    }

    pub fn keyspaces(&self) -> Vec<Keyspace> {
        self.read().buckets.iter().map(|bucket| bucket.keyspace.clone()).collect()
    }

    pub fn stats(&self) -> DedupStats {
        let state = self.read();
        DedupStats { keys: state.buckets.iter().map(|b| b.keys).sum(), complete_since: state.complete_since }
    }

    /// Reads the keys of buckets from before this opening into filters. Takes about a second for a million keys.
    pub fn build_filters(&self, stop: &AtomicBool) -> Result<(), IndexError> {
        loop {
            let bucket = self.read().buckets.iter().find(|bucket| bucket.filter.is_none()).cloned();
            let Some(bucket) = bucket else { return Ok(()) };
            let filter = Filter::for_keys(bucket.keys);
            for row in bucket.keyspace.iter() {
                let key = row.key()?;
                let key = key.first_chunk().ok_or(IndexError::Row { table: "dedup" })?;
                filter.add(std::iter::once(key));
                if stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
            }
            let mut state = self.write();
            if let Some(known) = state.buckets.iter_mut().find(|known| known.number == bucket.number) {
                known.filter = Some(Arc::new(filter));
            }
        }
    }

    /// Puts the keys into the batch. The returned keyspaces are to be deleted once the batch is committed.
    pub fn stage(
        &self,
        db: &Database,
        meta: &Keyspace,
        batch: &mut OwnedWriteBatch,
        keys: &[(&[u8; 16], &DedupHit)],
        now: Timestamp,
    ) -> Result<Vec<Keyspace>, IndexError> {
        if !keys.is_empty() {
            let bucket = self.bucket_for(db, keys.len() as u64, now)?;
            let row = [bucket.begun.0 as u64, bucket.newest.0 as u64, bucket.keys].map(u64::to_le_bytes).concat();
            batch.insert(meta, meta_key(bucket.number), row);
            if let Some(filter) = &bucket.filter {
                filter.add(keys.iter().map(|(key, _)| *key));
            }
            for (key, hit) in keys {
                batch.insert(&bucket.keyspace, key.as_slice(), encode_dedup(hit));
            }
        }
        let mut gone = Vec::new();
        let mut state = self.write();
        while self.has_expired(&state, now) {
            let bucket = state.buckets.remove(0);
            batch.remove(meta, meta_key(bucket.number));
            state.complete_since = state.buckets.first().map_or(Some(now), |next| Some(next.begun));
            gone.push(bucket.keyspace);
        }
        Ok(gone)
    }

    /// The bucket that takes so many more keys, counted already. Only buckets with a filter grow.
    fn bucket_for(&self, db: &Database, more: u64, now: Timestamp) -> Result<Bucket, IndexError> {
        let hour = |at: Timestamp| at.0.div_euclid(HOUR_MS);
        let full = self.limits.keys_max.div_ceil(BUCKET_SHARE);
        let mut state = self.write();
        let fits = |b: &Bucket| hour(b.begun) >= hour(now) && b.keys < full && b.filter.is_some();
        if !state.buckets.last().is_some_and(fits) {
            let number = state.next;
            let keyspace = db.keyspace(&keyspace_name(number), super::table_options)?;
            let filter = Some(Arc::new(Filter::for_keys(more)));
            state.next += 1;
            state.buckets.push(Bucket { number, begun: now, newest: now, keys: 0, keyspace, filter });
        }
        let last = state.buckets.len() - 1;
        let bucket = &mut state.buckets[last];
        bucket.keys += more;
        bucket.newest = bucket.newest.max(now);
        Ok(bucket.clone())
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_expired(&self, state: &State, now: Timestamp) -> bool {
        let keys: u64 = state.buckets.iter().map(|b| b.keys).sum();
        let too_many = keys > self.limits.keys_max && state.buckets.len() > 1;
        let too_old = state.buckets.first().is_some_and(|b| b.newest.0.saturating_add(self.limits.horizon_ms) < now.0);
        too_many || too_old
    }
}

fn keyspace_name(number: u64) -> String {
    format!("dedup-{number}")
}

fn meta_key(number: u64) -> Vec<u8> {
    [META_PREFIX, &number.to_be_bytes()].concat()
}
