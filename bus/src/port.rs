//! What the house asks of a message bus. Adapters: [`crate::kafka`], [`crate::memory`]; both run the suite in
//! `bus/tests/contract/`.
//!
//! Promises: what [`Placing`] resolves to `Ok` is on every in-sync replica and will be read; records of one lane (the given
//! partition, otherwise the key) are read in the order in which they were published. A record that failed may still be read
//! later if its outcome is [`PublishError::TimedOut`].

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use crate::stats::{ConsumerStats, ProducerStats};
use crate::topics::TopicSpec;

/// All ports of one bus, as a process uses it.
pub trait Bus: Send + Sync {
    fn publisher(&self) -> Arc<dyn Publisher>;

    /// One partition from a place that the caller keeps. Cheap: all readers of a process share connections.
    fn open(&self, topic: &str, partition: i32, from: Start) -> Result<Box<dyn PartitionReader>, BusError>;

    /// A member of a consumer group.
    fn join(&self, options: GroupOptions) -> Result<Box<dyn GroupReader>, BusError>;

    fn admin(&self) -> Arc<dyn Admin>;

    fn consumer_stats(&self) -> ConsumerStats;
}

/// Between two questions for the partitions of a topic that grows.
const LEARN_AGAIN: Duration = Duration::from_millis(50);

pub trait Publisher: Send + Sync {
    /// Takes the record into the buffer at once, or refuses it; never blocks. Callers answer UNAVAILABLE to
    /// [`PublishError::BufferFull`].
    fn publish(&self, record: Outgoing) -> Result<Placing, PublishError>;

    /// Until all that was published before is placed or has failed.
    fn flush(&self, within: Duration) -> BoxFuture<'_, Result<(), PublishError>>;

    /// Until it can publish into so many partitions of a topic that has just grown; before, it would refuse the new ones.
    fn learn<'a>(
        &'a self,
        topic: &'a str,
        partitions: i32,
        within: Duration,
    ) -> BoxFuture<'a, Result<(), PublishError>> {
        Box::pin(async move {
            let known = async {
                while !self.knows(topic, partitions).await {
                    tokio::time::sleep(LEARN_AGAIN).await;
                }
            };
            tokio::time::timeout(within, known).await.map_err(|_| PublishError::TimedOut)
        })
    }

    /// Whether it can now. Asking is how an adapter learns.
    fn knows<'a>(&'a self, topic: &'a str, partitions: i32) -> BoxFuture<'a, bool>;

    fn stats(&self) -> ProducerStats;
}

#[derive(Clone, Debug, Default)]
pub struct Outgoing {
    pub topic: Cow<'static, str>,
    /// `None`: by the key ([`crate::topics::partition_of`]), or any if there is none.
    pub partition: Option<i32>,
    pub key: Option<Bytes>,
    pub headers: Vec<(Cow<'static, str>, Bytes)>,
    pub value: Bytes,
}

/// Where a record stands now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    pub partition: i32,
    pub offset: i64,
}

/// The outcome of a publish; dropping it does not take the record back.
#[derive(Debug)]
pub struct Placing(pub(crate) oneshot::Receiver<Result<Placed, PublishError>>);

impl Future for Placing {
    type Output = Result<Placed, PublishError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|outcome| outcome.unwrap_or(Err(PublishError::Closed)))
    }
}

impl Placing {
    /// For threads without a runtime.
    pub fn wait(self) -> Result<Placed, PublishError> {
        self.0.blocking_recv().unwrap_or(Err(PublishError::Closed))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// More would be promised than the buffer can hold. The caller refuses its own caller; nothing was accepted.
    #[error("the producer's buffer is full")]
    BufferFull,
    #[error("a record of {bytes} bytes is larger than {max}")]
    TooLarge { bytes: usize, max: usize },
    /// No acknowledgement in time. Whether the record was written is unknown: publish it again, readers drop duplicates.
    #[error("no acknowledgement within the delivery timeout")]
    TimedOut,
    #[error("no such topic or partition: {0}")]
    UnknownTopic(String),
    /// By rights (ACL) or by the broker's rules. Trying again does not help.
    #[error("refused by the broker: {0}")]
    Refused(String),
    #[error("the broker failed: {0}")]
    Failed(String),
    #[error("the bus is closed")]
    Closed,
}

impl PublishError {
    /// Whether the same record can succeed later, so that no retry of the record itself is used up.
    pub fn is_dependency(&self) -> bool {
        !matches!(self, PublishError::TooLarge { .. } | PublishError::Refused(_) | PublishError::UnknownTopic(_))
    }
}

/// A record as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub topic: Arc<str>,
    pub partition: i32,
    pub offset: i64,
    pub key: Option<Vec<u8>>,
    pub headers: Vec<(String, Vec<u8>)>,
    pub value: Bytes,
    /// Milliseconds since the Unix epoch, by the producer's clock.
    pub timestamp: i64,
}

impl Record {
    /// The last header of this name.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().rev().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The offset to be read next.
    Offset(i64),
    Earliest,
    Latest,
}

/// Offsets that are there: `[low, high)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermarks {
    pub low: i64,
    pub high: i64,
}

/// One reader of one partition, without a group. At most one is open for a partition in a process.
pub trait PartitionReader: Send {
    /// Up to `max` records, in order; empty after `wait`, also while no broker can be reached. Until something was read it may
    /// take two seconds more, to learn whether there is such a topic. Dropping the future loses nothing.
    fn next(&mut self, max: usize, wait: Duration) -> BoxFuture<'_, Result<Vec<Record>, BusError>>;

    fn seek(&mut self, to: Start) -> BoxFuture<'_, Result<(), BusError>>;

    /// Fetches no more until [`PartitionReader::resume`]; what was fetched may still come.
    fn pause(&mut self) -> Result<(), BusError>;

    fn resume(&mut self) -> Result<(), BusError>;

    fn watermarks(&self) -> BoxFuture<'_, Result<Watermarks, BusError>>;
}

#[derive(Clone, Debug)]
pub struct GroupOptions {
    pub group: String,
    pub topics: Vec<String>,
    /// Where a partition begins that the group has no offset of.
    pub begin: Begin,
    pub commit: Commit,
    /// Records of one [`GroupReader::next`].
    pub batch_max: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    Earliest,
    Latest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commit {
    /// By [`GroupReader::commit`], after handling: nothing is lost, something may be read twice.
    Manual,
    /// In the background, what the caller has taken before its latest `next`.
    Auto,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot {
    pub topic: Arc<str>,
    pub partition: i32,
}

/// A member of a group. It must be asked for records now and then, or the group takes its partitions away.
pub trait GroupReader: Send {
    fn next(&mut self, wait: Duration) -> BoxFuture<'_, Result<Vec<Record>, BusError>>;

    /// The offsets to be read next. Those of partitions that were taken away are left out.
    fn commit(&mut self, next: Vec<(Slot, i64)>) -> BoxFuture<'_, Result<(), BusError>>;

    fn pause(&mut self, slot: &Slot) -> Result<(), BusError>;

    fn resume(&mut self, slot: &Slot) -> Result<(), BusError>;

    /// What this member holds, each with a number that changes when it was taken away and given again: what was read under
    /// another number will be read again by somebody.
    fn assignment(&self) -> Vec<(Slot, u64)>;

    /// Leaves the group, so that the others need not wait for the session's end.
    fn close(self: Box<Self>) -> BoxFuture<'static, ()>;
}

pub trait Admin: Send + Sync {
    /// Creates what is missing and returns the names of what it created. What exists is left as it is.
    fn create_missing<'a>(&'a self, topics: &'a [TopicSpec]) -> BoxFuture<'a, Result<Vec<String>, BusError>>;

    /// `None`: there is no such topic.
    fn describe<'a>(&'a self, topic: &'a str) -> BoxFuture<'a, Result<Option<TopicState>, BusError>>;

    /// Kafka cannot take partitions away. Who knows keys by partition drains first (`docs/kafka.md`).
    fn grow<'a>(&'a self, topic: &'a str, partitions: i32) -> BoxFuture<'a, Result<(), BusError>>;

    fn watermarks<'a>(&'a self, topic: &'a str, partition: i32) -> BoxFuture<'a, Result<Watermarks, BusError>>;

    /// For each partition the first offset whose record is not older than this; the end if all are.
    fn offsets_at<'a>(&'a self, topic: &'a str, timestamp_ms: i64) -> BoxFuture<'a, Result<Vec<(i32, i64)>, BusError>>;

    /// What a group would read next, where it committed anything.
    fn committed<'a>(&'a self, group: &'a str, topic: &'a str) -> BoxFuture<'a, Result<Vec<Committed>, BusError>>;

    /// Commits from outside the group: to reset it, or to show the place of readers that keep it elsewhere. Brokers refuse
    /// while the group has members ([`BusError::GroupActive`]).
    fn set_committed<'a>(
        &'a self,
        group: &'a str,
        topic: &'a str,
        offsets: Vec<(i32, i64)>,
    ) -> BoxFuture<'a, Result<(), BusError>>;

    /// Members of the group now; 0 also if it is unknown.
    fn members<'a>(&'a self, group: &'a str) -> BoxFuture<'a, Result<usize, BusError>>;

    fn delete<'a>(&'a self, topic: &'a str) -> BoxFuture<'a, Result<(), BusError>>;

    /// Per partition; without a committed offset all that is there counts.
    fn lag<'a>(&'a self, group: &'a str, topic: &'a str) -> BoxFuture<'a, Result<Vec<Lag>, BusError>> {
        Box::pin(async move {
            let mut lags = Vec::new();
            for Committed { partition, next } in self.committed(group, topic).await? {
                let Watermarks { low, high } = self.watermarks(topic, partition).await?;
                let behind = high - next.unwrap_or(low).clamp(low, high);
                lags.push(Lag { partition, behind: behind.unsigned_abs() });
            }
            Ok(lags)
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicState {
    pub partitions: i32,
    pub replicas: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    pub partition: i32,
    pub next: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lag {
    pub partition: i32,
    pub behind: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// No broker could be reached, or none answered in time: pause and try again.
    #[error("the bus does not answer: {0}")]
    Unavailable(String),
    /// By rights (ACL), credentials, or the broker's rules.
    #[error("refused by the broker: {0}")]
    Refused(String),
    #[error("no such topic or partition: {0}")]
    UnknownTopic(String),
    /// The place is not there any more, or not yet. Retention went past it, or the topic was made anew: the caller decides
    /// what that means for its stream, nothing is skipped silently.
    #[error("offset {offset} of {topic}/{partition} is not in the log")]
    OffsetGone { topic: String, partition: i32, offset: i64 },
    #[error("the group has members")]
    GroupActive,
    #[error("{topic}/{partition} is open already")]
    OpenAlready { topic: String, partition: i32 },
    #[error("settings of the bus: {0}")]
    Settings(String),
}
