//! One partition's records in hand: what comes next, how often it failed, and until when it waits.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::time::Instant;

use super::{Failure, Handler, HandlingCounters, Policy, WAIT_MAX};
use crate::port::{Outgoing, Record};
use crate::records::{DeadLetter, ErrorClass, Form as _, VERSION};

#[derive(Default)]
pub struct Lane {
    queue: VecDeque<Record>,
    /// The number under which the partition is held; what was read under another belongs to somebody else.
    pub held: u64,
    /// The offset to be committed, if it moved.
    progress: Option<i64>,
    /// Failures of the first record by itself, and how many waits in a row there were for whatever reason.
    failures: u32,
    waits: u32,
    until: Option<Instant>,
    paused: bool,
}

impl Lane {
    pub fn new(held: u64) -> Lane {
        Lane { held, ..Lane::default() }
    }

    pub fn push(&mut self, record: Record) {
        self.queue.push_back(record);
    }

    /// How long nothing will happen here.
    pub fn wait(&self) -> Duration {
        match self.until {
            Some(until) => until.saturating_duration_since(Instant::now()),
            None if self.queue.is_empty() => WAIT_MAX,
            None => Duration::ZERO,
        }
    }

    pub fn is_ready(&self) -> bool {
        !self.queue.is_empty() && self.until.is_none_or(|until| until <= Instant::now())
    }

    pub fn ends_pause(&self) -> bool {
        self.paused && self.is_ready()
    }

    /// While it waits nothing more is fetched, or memory would fill with it.
    pub fn wants_pause(&self) -> bool {
        !self.paused && self.until.is_some()
    }

    pub fn is_paused(&self) -> bool {
        self.paused
    }

    pub fn paused(&mut self) {
        self.paused = true;
    }

    pub fn resumed(&mut self) {
        self.paused = false;
    }

    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.progress.is_none() && !self.paused
    }

    pub fn progress(&self) -> Option<i64> {
        self.progress
    }

    pub fn committed(&mut self) {
        self.progress = None;
    }

    /// Handles all in hand, or up to what must wait.
    pub async fn work(&mut self, handler: &dyn Handler, policy: &Policy, counters: &HandlingCounters) {
        self.until = None;
        while let Some(record) = self.queue.front() {
            let failure = match handler.handle(record).await {
                Ok(()) => {
                    counters.handled.fetch_add(1, Relaxed);
                    self.advance();
                    continue;
                }
                Err(failure) => failure,
            };
            match failure {
                Failure::Dependency(reason) => {
                    counters.dependency_failures.fetch_add(1, Relaxed);
                    tracing::debug!(reason, topic = %record.topic, record.partition, record.offset, "waits");
                    return self.rest(policy);
                }
                Failure::Record { class, reason } => {
                    if self.failures < policy.retry.retries {
                        self.failures += 1;
                        counters.retries.fetch_add(1, Relaxed);
                        return self.rest(policy);
                    }
                    if let Err(error) = bury(record, class, &reason, self.failures + 1, policy).await {
                        // The bus is a dependency too: the record is not given up before its letter is safe.
                        counters.dependency_failures.fetch_add(1, Relaxed);
                        tracing::warn!(%error, topic = policy.topic, "a dead letter could not be written");
                        return self.rest(policy);
                    }
                    counters.dead_letters.fetch_add(1, Relaxed);
                    let (topic, class) = (&record.topic, class.as_str());
                    tracing::warn!(%topic, record.partition, record.offset, class, reason, "dead letter");
                    self.advance();
                }
            }
        }
    }

    fn advance(&mut self) {
        if let Some(record) = self.queue.pop_front() {
            self.progress = Some(record.offset + 1);
        }
        (self.failures, self.waits) = (0, 0);
    }

    fn rest(&mut self, policy: &Policy) {
        let longer = policy.retry.backoff_ms.saturating_mul(1 << self.waits.min(20));
        self.waits += 1;
        self.until = Some(Instant::now() + Duration::from_millis(longer.min(policy.retry.backoff_max_ms)));
    }
}

async fn bury(
    record: &Record,
    class: ErrorClass,
    reason: &str,
    attempts: u32,
    policy: &Policy,
) -> Result<(), crate::port::PublishError> {
    let letter = DeadLetter {
        topic: record.topic.to_string(),
        partition: record.partition,
        offset: record.offset,
        key: record.key.clone(),
        headers: record.headers.clone(),
        value: record.value.to_vec(),
        group: policy.group.clone(),
        reason: reason.to_owned(),
        class,
        attempts,
        produced_at: record.timestamp,
        failed_at: SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_millis() as i64),
        version: VERSION,
    };
    let placing = policy.publisher.publish(Outgoing {
        topic: policy.topic.clone().into(),
        partition: None,
        key: record.key.clone().map(Bytes::from),
        headers: Vec::new(),
        value: letter.encode(policy.format).into(),
    })?;
    placing.await.map(|_| ())
}
