//! A member of a consumer group. Partitions move one by one (cooperative-sticky), so a rebalance does not stop the others.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _};
use futures_util::stream::StreamExt as _;
use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::{Offset, TopicPartitionList};

use super::client;
use super::consumer::{self, Consumer, Context, blocking, record};
use crate::port::{Begin, BusError, Commit, GroupOptions, GroupReader, Record, Slot};
use crate::settings::Settings;
use crate::stats::ConsumerCounters;

const AUTO_COMMIT_MS: u32 = 1000;

pub struct KafkaGroup {
    consumer: Arc<Consumer>,
    options: GroupOptions,
    topic: Arc<str>,
    /// What the caller took last; stored for the background commit when it comes for more.
    taken: HashMap<Slot, i64>,
    /// What it holds, as of this number of rebalances.
    known: (u64, HashMap<Slot, u64>),
}

impl KafkaGroup {
    pub fn join(
        settings: &Settings,
        options: GroupOptions,
        counters: Arc<ConsumerCounters>,
    ) -> Result<KafkaGroup, BusError> {
        let mut config = consumer::config(settings)?;
        config.set("group.id", &options.group);
        config.set("partition.assignment.strategy", "cooperative-sticky");
        config.set("session.timeout.ms", settings.consumer.session_timeout_ms.to_string());
        config.set("heartbeat.interval.ms", settings.consumer.heartbeat_ms.to_string());
        config.set("auto.offset.reset", if options.begin == Begin::Earliest { "earliest" } else { "latest" });
        config.set("enable.auto.commit", (options.commit == Commit::Auto).to_string());
        config.set("auto.commit.interval.ms", AUTO_COMMIT_MS.to_string());
        let consumer: Consumer = config
            .create_with_context(Context::new(counters))
            .map_err(|error| BusError::Settings(error.to_string()))?;
        let topics: Vec<&str> = options.topics.iter().map(|topic| &**topic).collect();
        consumer.subscribe(&topics).map_err(|error| client::bus_error(&error, &options.group))?;
        let topic = options.topics.first().map_or("", |topic| topic).into();
        Ok(KafkaGroup {
            consumer: Arc::new(consumer),
            options,
            topic,
            taken: HashMap::new(),
            known: Default::default(),
        })
    }

    async fn read(&mut self, wait: Duration) -> Result<Vec<Record>, BusError> {
        self.store_taken();
        let mut records: Vec<(Record, Option<u64>)> = Vec::new();
        let mut failed = None;
        {
            let mut stream = self.consumer.stream();
            // The only place to wait, and nothing is in hand while it waits.
            let mut next = tokio::time::timeout(wait, stream.next()).await.ok().flatten();
            while let Some(event) = next {
                match event {
                    Ok(message) => {
                        let record = record(&message, &self.topic);
                        let given = self.known.1.get(&slot(&record)).copied();
                        let given = if self.known.0 == self.consumer.context().rebalances() {
                            given
                        } else {
                            self.known =
                                (self.consumer.context().rebalances(), self.consumer.context().slots().clone());
                            self.known.1.get(&slot(&record)).copied()
                        };
                        records.push((record, given));
                    }
                    Err(error) => {
                        failed = Some(error);
                        break;
                    }
                }
                let more = records.len() < self.options.batch_max;
                next = if more { stream.next().now_or_never().flatten() } else { None };
            }
        }
        // A rebalance in the middle of a batch: what was read of a partition that went is not ours any more.
        let held = self.consumer.context().slots();
        let records: Vec<Record> = records
            .into_iter()
            .filter(|(record, given)| given.is_some() && held.get(&slot(record)) == given.as_ref())
            .map(|(record, _)| record)
            .collect();
        drop(held);
        self.consumer.context().counters.took(&records);
        if self.options.commit == Commit::Auto {
            self.taken.extend(records.iter().map(|record| (slot(record), record.offset + 1)));
        }
        match failed {
            Some(error) if records.is_empty() => {
                self.consumer.context().counters.errors.fetch_add(1, Relaxed);
                Err(client::bus_error(&error, &self.options.group))
            }
            _ => Ok(records),
        }
    }

    fn store_taken(&mut self) {
        if self.taken.is_empty() {
            return;
        }
        let taken = self.taken.drain().collect();
        let list = self.list(taken);
        if let Err(error) = self.consumer.store_offsets(&list) {
            // It was taken away meanwhile; who has it now reads from the last commit.
            tracing::debug!(target: "kafka", %error, "offsets not stored");
        }
    }

    /// Only of what this member holds now.
    fn list(&self, offsets: Vec<(Slot, i64)>) -> TopicPartitionList {
        let held = self.consumer.context().slots();
        let mut list = TopicPartitionList::new();
        for (slot, next) in offsets.into_iter().filter(|(slot, _)| held.contains_key(slot)) {
            if let Err(error) = list.add_partition_offset(&slot.topic, slot.partition, Offset::Offset(next)) {
                tracing::error!(target: "kafka", %error, "an offset that is none");
            }
        }
        list
    }

    fn one(slot: &Slot) -> TopicPartitionList {
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition(&slot.topic, slot.partition);
        list
    }
}

fn slot(record: &Record) -> Slot {
    Slot { topic: record.topic.clone(), partition: record.partition }
}

impl GroupReader for KafkaGroup {
    fn next(&mut self, wait: Duration) -> BoxFuture<'_, Result<Vec<Record>, BusError>> {
        Box::pin(self.read(wait))
    }

    fn commit(&mut self, next: Vec<(Slot, i64)>) -> BoxFuture<'_, Result<(), BusError>> {
        let (list, consumer, group) = (self.list(next), self.consumer.clone(), self.options.group.clone());
        Box::pin(async move {
            if list.count() == 0 {
                return Ok(());
            }
            let counters = consumer.context().counters.clone();
            let committed = blocking(move || {
                consumer.commit(&list, CommitMode::Sync).map_err(|error| match error.rdkafka_error_code() {
                    // We are not of the group any more, or not yet again: what was not committed will be read again.
                    Some(Code::UnknownMemberId | Code::IllegalGeneration | Code::RebalanceInProgress) => {
                        BusError::Unavailable(format!("{group}: {error}"))
                    }
                    _ => client::bus_error(&error, &group),
                })
            });
            let committed = committed.await;
            let counter = if committed.is_ok() { &counters.commits } else { &counters.commit_errors };
            counter.fetch_add(1, Relaxed);
            committed
        })
    }

    fn pause(&mut self, slot: &Slot) -> Result<(), BusError> {
        let paused = self.consumer.pause(&KafkaGroup::one(slot));
        paused.map_err(|error| client::bus_error(&error, &slot.topic))
    }

    fn resume(&mut self, slot: &Slot) -> Result<(), BusError> {
        let resumed = self.consumer.resume(&KafkaGroup::one(slot));
        resumed.map_err(|error| client::bus_error(&error, &slot.topic))
    }

    fn assignment(&self) -> Vec<(Slot, u64)> {
        self.consumer.context().slots().iter().map(|(slot, given)| (slot.clone(), *given)).collect()
    }

    fn close(mut self: Box<Self>) -> BoxFuture<'static, ()> {
        self.store_taken();
        Box::pin(async move {
            // Leaving waits for the broker.
            let _ = blocking(move || {
                drop(self);
                Ok(())
            })
            .await;
        })
    }
}
