//! Handling with second chances: what may be tried again is, what will never do becomes a dead letter.
//!
//! A failure of something that the handler needs (a store, a network, the bus itself) says nothing about the record: its
//! partition pauses and tries again for as long as it takes, and no retry is used up. A failure of the record itself is tried
//! again a few times and then written to the dead-letter topic with its reason; only then its offset moves on.

mod lane;
mod letters;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};

use self::lane::Lane;
pub use self::letters::{Filter, Letter, REPLAYED_FROM, REPLAYS, ReplayError, Replayed, list, replay};
use crate::port::{GroupReader, Publisher, Record, Slot};
use crate::records::{ErrorClass, Format};
use crate::settings::{DeadLetters, Settings};

/// Longest sleep in one piece, so that a stop is noticed.
const WAIT_MAX: Duration = Duration::from_millis(500);

/// One record's handling. Records of one partition come one after the other, those of several at the same time. A record may
/// come again after a crash or a rebalance, so handling is idempotent.
pub trait Handler: Send + Sync {
    fn handle<'a>(&'a self, record: &'a Record) -> BoxFuture<'a, Result<(), Failure>>;
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Time-outs, connections, our own serialisation: the partition pauses until it works again.
    Dependency(String),
    /// The record: it will fail again for the same reason.
    Record { class: ErrorClass, reason: String },
}

impl Failure {
    pub fn undecodable(error: &impl ToString) -> Failure {
        Failure::Record { class: ErrorClass::Undecodable, reason: error.to_string() }
    }

    pub fn invalid(reason: impl Into<String>) -> Failure {
        Failure::Record { class: ErrorClass::Invalid, reason: reason.into() }
    }

    pub fn refused(reason: impl Into<String>) -> Failure {
        Failure::Record { class: ErrorClass::Refused, reason: reason.into() }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HandlingStats {
    pub handled: u64,
    /// Attempts after the first, of records that failed by themselves.
    pub retries: u64,
    pub dead_letters: u64,
    pub dependency_failures: u64,
    /// Partitions that pause now.
    pub paused: u64,
    pub commit_failures: u64,
}

#[derive(Debug, Default)]
pub struct HandlingCounters {
    handled: AtomicU64,
    retries: AtomicU64,
    dead_letters: AtomicU64,
    dependency_failures: AtomicU64,
    paused: AtomicU64,
    commit_failures: AtomicU64,
}

impl HandlingCounters {
    pub fn stats(&self) -> HandlingStats {
        HandlingStats {
            handled: self.handled.load(Relaxed),
            retries: self.retries.load(Relaxed),
            dead_letters: self.dead_letters.load(Relaxed),
            dependency_failures: self.dependency_failures.load(Relaxed),
            paused: self.paused.load(Relaxed),
            commit_failures: self.commit_failures.load(Relaxed),
        }
    }
}

/// Where records go that are given up, and how often they are tried before.
#[derive(Clone)]
pub struct Policy {
    pub group: String,
    pub topic: String,
    pub format: Format,
    pub retry: DeadLetters,
    pub publisher: Arc<dyn Publisher>,
}

impl Policy {
    pub fn new(settings: &Settings, group: &str, publisher: Arc<dyn Publisher>) -> Policy {
        Policy {
            group: group.to_owned(),
            topic: settings.topics.dead_letter.name.clone(),
            format: settings.format,
            retry: settings.dead_letters.clone(),
            publisher,
        }
    }
}

/// Handles what the group's member gets until `stop` completes; then commits and leaves. The reader commits by hand
/// ([`crate::port::Commit::Manual`]).
pub async fn run(
    mut reader: Box<dyn GroupReader>,
    handler: &dyn Handler,
    policy: &Policy,
    counters: &HandlingCounters,
    stop: impl Future<Output = ()> + Send,
) {
    tokio::pin!(stop);
    let mut lanes: HashMap<Slot, Lane> = HashMap::new();
    loop {
        let wait = lanes.values().map(|lane| lane.wait()).min().unwrap_or(WAIT_MAX).min(WAIT_MAX);
        let batch = tokio::select! {
            biased;
            () = &mut stop => break,
            batch = reader.next(wait) => batch,
        };
        // First what was taken away, since what was read just now may be of the same partition, given again.
        let held: HashMap<Slot, u64> = reader.assignment().into_iter().collect();
        lanes.retain(|slot, lane| held.get(slot) == Some(&lane.held));
        match batch {
            Ok(records) => sort(records, &held, &mut lanes),
            Err(error) => {
                tracing::warn!(%error, group = policy.group, "nothing can be read");
                // A reader that fails at once must not spin.
                tokio::time::sleep(Duration::from_millis(policy.retry.backoff_ms)).await;
            }
        }
        for (slot, lane) in &mut lanes {
            if lane.ends_pause() && reader.resume(slot).is_ok() {
                lane.resumed();
            }
        }
        join_all(lanes.values_mut().filter(|lane| lane.is_ready()).map(|lane| lane.work(handler, policy, counters)))
            .await;
        for (slot, lane) in &mut lanes {
            if lane.wants_pause() && reader.pause(slot).is_ok() {
                lane.paused();
            }
        }
        counters.paused.store(lanes.values().filter(|lane| lane.is_paused()).count() as u64, Relaxed);
        commit(&mut *reader, &mut lanes, counters).await;
        lanes.retain(|_, lane| !lane.is_idle());
    }
    commit(&mut *reader, &mut lanes, counters).await;
    counters.paused.store(0, Relaxed);
    reader.close().await;
}

fn sort(records: Vec<Record>, held: &HashMap<Slot, u64>, lanes: &mut HashMap<Slot, Lane>) {
    for record in records {
        let slot = Slot { topic: record.topic.clone(), partition: record.partition };
        if let Some(number) = held.get(&slot) {
            lanes.entry(slot).or_insert_with(|| Lane::new(*number)).push(record);
        }
    }
}

async fn commit(reader: &mut dyn GroupReader, lanes: &mut HashMap<Slot, Lane>, counters: &HandlingCounters) {
    let offsets: Vec<(Slot, i64)> =
        lanes.iter().filter_map(|(slot, lane)| lane.progress().map(|next| (slot.clone(), next))).collect();
    if offsets.is_empty() {
        return;
    }
    match reader.commit(offsets).await {
        Ok(()) => lanes.values_mut().for_each(Lane::committed),
        Err(error) => {
            // The next round says it again; at worst something is handled twice.
            counters.commit_failures.fetch_add(1, Relaxed);
            tracing::debug!(%error, "offsets not committed");
        }
    }
}
