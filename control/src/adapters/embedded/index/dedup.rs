//! Callers' keys, in buckets that are dropped whole.
//!
//! A bucket is one fjall keyspace: dropping it costs the same for one key as for millions. A new one begins with each hour
//! of record time, or earlier when many keys come. The oldest goes when all its keys are past the horizon, or when there
//! are more than `keys_max` in all: the horizon is what then remains.

use std::sync::{PoisonError, RwLock};

use fjall::{Database, Keyspace, OwnedWriteBatch};
use tidegate_control_core::domain::Timestamp;
use tidegate_control_core::ports::DedupHit;

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
            state.buckets.push(Bucket { number, begun, newest, keys, keyspace });
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
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        for bucket in state.buckets.iter().rev() {
            if let Some(row) = bucket.keyspace.get(key)? {
                return decode_dedup(&row).map(Some);
            }
        }
        Ok(None)
    }

    pub fn stats(&self) -> DedupStats {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        DedupStats { keys: state.buckets.iter().map(|b| b.keys).sum(), complete_since: state.complete_since }
    }

    /// Puts the keys into the batch. The returned keyspaces are to be deleted once the batch is committed.
    pub fn stage<'a>(
        &self,
        db: &Database,
        meta: &Keyspace,
        batch: &mut OwnedWriteBatch,
        keys: impl ExactSizeIterator<Item = (&'a [u8; 16], &'a DedupHit)>,
        now: Timestamp,
    ) -> Result<Vec<Keyspace>, IndexError> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let mut gone = Vec::new();
        if keys.len() > 0 {
            let bucket = self.bucket_for(&mut state, db, now)?;
            bucket.keys += keys.len() as u64;
            bucket.newest = bucket.newest.max(now);
            let row = [bucket.begun.0 as u64, bucket.newest.0 as u64, bucket.keys].map(u64::to_le_bytes).concat();
            batch.insert(meta, meta_key(bucket.number), row);
            for (key, hit) in keys {
                batch.insert(&bucket.keyspace, key.as_slice(), encode_dedup(hit));
            }
        }
        while self.has_expired(&state, now) {
            let bucket = state.buckets.remove(0);
            batch.remove(meta, meta_key(bucket.number));
            state.complete_since = state.buckets.first().map_or(Some(now), |next| Some(next.begun));
            gone.push(bucket.keyspace);
        }
        Ok(gone)
    }

    fn bucket_for<'s>(
        &self,
        state: &'s mut State,
        db: &Database,
        now: Timestamp,
    ) -> Result<&'s mut Bucket, IndexError> {
        let hour = |at: Timestamp| at.0.div_euclid(HOUR_MS);
        let full = self.limits.keys_max.div_ceil(BUCKET_SHARE);
        let fits = state.buckets.last().is_some_and(|b| hour(b.begun) >= hour(now) && b.keys < full);
        if !fits {
            let number = state.next;
            let keyspace = db.keyspace(&keyspace_name(number), super::table_options)?;
            state.next += 1;
            state.buckets.push(Bucket { number, begun: now, newest: now, keys: 0, keyspace });
        }
        let last = state.buckets.len() - 1;
        Ok(&mut state.buckets[last])
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
