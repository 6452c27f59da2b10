//! Partition readers: all of a process share one consumer, hence one connection to each broker and one fetch for all
//! partitions. Each partition has a queue of its own, so that a reader that rests holds nobody up.

use std::collections::HashSet;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _};
use futures_util::stream::StreamExt as _;
use rdkafka::consumer::Consumer as _;
use rdkafka::consumer::stream_consumer::StreamPartitionQueue;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::{Offset, TopicPartitionList};
use tokio::task::JoinHandle;

use super::client;
use super::consumer::{self, Consumer, Context, blocking, record};
use crate::port::{BusError, PartitionReader, Record, Start, Watermarks};
use crate::settings::Settings;
use crate::stats::ConsumerCounters;

/// For one question about a topic.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);

/// The consumer that all partition readers of a process share.
pub struct Readers {
    consumer: Arc<Consumer>,
    open: Mutex<HashSet<(Arc<str>, i32)>>,
    timeout: Duration,
    /// Serves what concerns no single partition.
    pump: JoinHandle<()>,
}

impl Readers {
    pub fn new(settings: &Settings, counters: Arc<ConsumerCounters>) -> Result<Arc<Readers>, BusError> {
        let mut config = consumer::config(settings)?;
        // librdkafka wants a name even of consumers that belong to no group; it is never sent.
        config.set("group.id", "tidegate-partition-readers");
        config.set("enable.auto.commit", "false");
        // A place that is gone is the reader's to judge: jumping would be a hole that nobody sees.
        config.set("auto.offset.reset", "error");
        let consumer: Consumer = config
            .create_with_context(Context::new(counters.clone()))
            .map_err(|error| BusError::Settings(error.to_string()))?;
        let consumer = Arc::new(consumer);
        let pump = tokio::spawn({
            let consumer = consumer.clone();
            async move {
                let mut events = consumer.stream();
                while let Some(event) = events.next().await {
                    match event {
                        Err(error) => {
                            counters.errors.fetch_add(1, Relaxed);
                            tracing::debug!(target: "kafka", %error, "partition readers");
                        }
                        // Its queue is split off before the partition is assigned, so this cannot be.
                        Ok(_) => tracing::error!(target: "kafka", "a record outside of its partition's queue"),
                    }
                }
            }
        });
        Ok(Arc::new(Readers { consumer, open: Mutex::default(), timeout: settings.request_timeout(), pump }))
    }

    pub fn open(self: &Arc<Readers>, topic: &str, partition: i32, from: Start) -> Result<KafkaReader, BusError> {
        let topic: Arc<str> = topic.into();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.contains(&(topic.clone(), partition)) {
            return Err(BusError::OpenAlready { topic: topic.to_string(), partition });
        }
        let unknown = || BusError::UnknownTopic(format!("{topic}/{partition}"));
        let queue = self.consumer.split_partition_queue(&topic, partition).ok_or_else(unknown)?;
        let reader = KafkaReader { readers: self.clone(), topic, partition, queue, pending: None, known: false };
        reader.assign(from)?;
        open.insert((reader.topic.clone(), partition));
        self.consumer.context().counters.readers.fetch_add(1, Relaxed);
        Ok(reader)
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.pump.abort();
    }
}

pub struct KafkaReader {
    readers: Arc<Readers>,
    topic: Arc<str>,
    partition: i32,
    queue: StreamPartitionQueue<Context>,
    /// Comes after the records that were read before it.
    pending: Option<BusError>,
    /// The topic is there and may be seen. A topic that is not gives no partition that could say so.
    known: bool,
}

fn offset(from: Start) -> Offset {
    match from {
        Start::Offset(offset) => Offset::Offset(offset),
        Start::Earliest => Offset::Beginning,
        Start::Latest => Offset::End,
    }
}

impl KafkaReader {
    fn list(&self, at: Offset) -> Result<TopicPartitionList, BusError> {
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition_offset(&self.topic, self.partition, at).map_err(|error| self.error(&error))?;
        Ok(list)
    }

    fn assign(&self, from: Start) -> Result<(), BusError> {
        let list = self.list(offset(from))?;
        self.readers.consumer.incremental_assign(&list).map_err(|error| self.error(&error))
    }

    fn error(&self, error: &KafkaError) -> BusError {
        let about = || format!("{}/{}", self.topic, self.partition);
        match error.rdkafka_error_code() {
            Some(Code::OffsetOutOfRange | Code::AutoOffsetReset) => {
                let (topic, partition) = (self.topic.to_string(), self.partition);
                BusError::OffsetGone { topic, partition, offset: self.position() }
            }
            _ => client::bus_error(error, &about()),
        }
    }

    /// The next offset that was asked for; -1 if none was told yet.
    fn position(&self) -> i64 {
        let list = self.readers.consumer.position().ok();
        let found = list.as_ref().and_then(|list| list.find_partition(&self.topic, self.partition));
        found.and_then(|element| element.offset().to_raw()).unwrap_or(-1)
    }

    async fn read(&mut self, max: usize, wait: Duration) -> Result<Vec<Record>, BusError> {
        if let Some(error) = self.pending.take() {
            return Err(error);
        }
        let mut records = Vec::new();
        let mut failed = None;
        {
            let mut stream = self.queue.stream();
            // The only place to wait, and nothing is in hand while it waits.
            let mut next = tokio::time::timeout(wait, stream.next()).await.ok().flatten();
            while let Some(event) = next {
                match event {
                    Ok(message) => records.push(record(&message, &self.topic)),
                    Err(error) => {
                        failed = Some(error);
                        break;
                    }
                }
                next = if records.len() < max { stream.next().now_or_never().flatten() } else { None };
            }
        }
        let counters = &self.readers.consumer.context().counters;
        counters.took(&records);
        if let Some(error) = failed {
            counters.errors.fetch_add(1, Relaxed);
            let error = self.error(&error);
            if records.is_empty() {
                return Err(error);
            }
            self.pending = Some(error);
        }
        if records.is_empty() && !self.known {
            self.look().await?;
        }
        self.known |= !records.is_empty();
        Ok(records)
    }

    /// Whether there is such a topic for us.
    async fn look(&mut self) -> Result<(), BusError> {
        let (consumer, topic) = (self.readers.consumer.clone(), self.topic.clone());
        let looked = blocking(move || {
            // Without a broker there is no answer, and it is asked again when the next read comes to nothing.
            let Ok(metadata) = consumer.fetch_metadata(Some(&topic), LOOK_TIMEOUT) else { return Ok(false) };
            match metadata.topics().first().and_then(|topic| topic.error()).map(Code::from) {
                None => Ok(true),
                Some(Code::LeaderNotAvailable) => Ok(false),
                Some(code) => Err(client::code_error(code, &topic)),
            }
        });
        self.known = looked.await?;
        Ok(())
    }
}

impl PartitionReader for KafkaReader {
    fn next(&mut self, max: usize, wait: Duration) -> BoxFuture<'_, Result<Vec<Record>, BusError>> {
        Box::pin(self.read(max.max(1), wait))
    }

    fn seek(&mut self, to: Start) -> BoxFuture<'_, Result<(), BusError>> {
        Box::pin(async move {
            self.pending = None;
            let (consumer, topic, partition) = (self.readers.consumer.clone(), self.topic.clone(), self.partition);
            let (at, timeout) = (offset(to), self.readers.timeout);
            let sought = blocking(move || Ok(consumer.seek(&topic, partition, at, timeout))).await?;
            if sought.is_ok() {
                return Ok(());
            }
            // A partition that stopped at an error, or did not begin yet, cannot be sought in. It has nothing fetched either.
            let list = self.list(Offset::Invalid)?;
            self.readers.consumer.incremental_unassign(&list).map_err(|error| self.error(&error))?;
            self.assign(to)
        })
    }

    fn pause(&mut self) -> Result<(), BusError> {
        let list = self.list(Offset::Invalid)?;
        self.readers.consumer.pause(&list).map_err(|error| self.error(&error))
    }

    fn resume(&mut self) -> Result<(), BusError> {
        let list = self.list(Offset::Invalid)?;
        self.readers.consumer.resume(&list).map_err(|error| self.error(&error))
    }

    fn watermarks(&self) -> BoxFuture<'_, Result<Watermarks, BusError>> {
        let (consumer, topic, partition) = (self.readers.consumer.clone(), self.topic.clone(), self.partition);
        let timeout = self.readers.timeout;
        Box::pin(blocking(move || {
            let marks = consumer.fetch_watermarks(&topic, partition, timeout);
            let (low, high) = marks.map_err(|error| client::bus_error(&error, &topic))?;
            Ok(Watermarks { low, high })
        }))
    }
}

impl Drop for KafkaReader {
    fn drop(&mut self) {
        if let Ok(list) = self.list(Offset::Invalid)
            && let Err(error) = self.readers.consumer.incremental_unassign(&list)
        {
            tracing::debug!(target: "kafka", %error, topic = %self.topic, self.partition, "not unassigned");
        }
        let mut open = self.readers.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.remove(&(self.topic.clone(), self.partition)) {
            self.readers.consumer.context().counters.readers.fetch_sub(1, Relaxed);
        }
    }
}
