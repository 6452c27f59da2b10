//! What partition readers and group members share.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, ConsumerContext, Rebalance, StreamConsumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::{ClientContext, TopicPartitionList};

use super::client;
use crate::port::{BusError, Record, Slot};
use crate::settings::Settings;
use crate::stats::ConsumerCounters;

pub type Consumer = StreamConsumer<Context>;

/// Hears of rebalances and errors.
pub struct Context {
    pub counters: Arc<ConsumerCounters>,
    /// What a member of a group holds, with the number of the rebalance that gave it.
    slots: Mutex<HashMap<Slot, u64>>,
    rebalances: AtomicU64,
}

impl Context {
    pub fn new(counters: Arc<ConsumerCounters>) -> Context {
        Context { counters, slots: Mutex::default(), rebalances: AtomicU64::new(0) }
    }

    pub fn slots(&self) -> MutexGuard<'_, HashMap<Slot, u64>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn rebalances(&self) -> u64 {
        self.rebalances.load(Relaxed)
    }
}

fn slots(list: &TopicPartitionList) -> Vec<Slot> {
    let elements = list.elements();
    elements.iter().map(|element| Slot { topic: element.topic().into(), partition: element.partition() }).collect()
}

impl ConsumerContext for Context {
    fn pre_rebalance(&self, _: &BaseConsumer<Context>, rebalance: &Rebalance<'_>) {
        let number = self.rebalances.fetch_add(1, Relaxed) + 1;
        self.counters.rebalances.fetch_add(1, Relaxed);
        let mut held = self.slots();
        match rebalance {
            Rebalance::Assign(list) => held.extend(slots(list).into_iter().map(|slot| (slot, number))),
            Rebalance::Revoke(list) => held.retain(|slot, _| !slots(list).contains(slot)),
            Rebalance::Error(error) => {
                tracing::warn!(target: "kafka", %error, "rebalance failed");
                held.clear();
            }
        }
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        client::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.counters.errors.fetch_add(1, Relaxed);
        tracing::debug!(target: "kafka", %error, reason, "consumer");
    }
}

pub fn config(settings: &Settings) -> Result<ClientConfig, BusError> {
    let mut config = client::config(settings)?;
    let consumer = &settings.consumer;
    config.set("enable.partition.eof", "false");
    config.set("enable.auto.offset.store", "false");
    config.set("fetch.wait.max.ms", consumer.fetch_wait_ms.to_string());
    // Where one partition's queue is full the others must not wait for the default of a second.
    config.set("fetch.queue.backoff.ms", "20");
    config.set("queued.min.messages", consumer.prefetch_records.to_string());
    config.set("queued.max.messages.kbytes", (consumer.prefetch_bytes / 1024).max(1).to_string());
    config.set("check.crcs", "true");
    Ok(config)
}

/// `topic` saves an allocation where it is the one of the message.
pub fn record(message: &BorrowedMessage<'_>, topic: &Arc<str>) -> Record {
    let headers = message.headers().map_or(Vec::new(), |headers| {
        headers.iter().map(|header| (header.key.to_owned(), header.value.unwrap_or_default().to_vec())).collect()
    });
    Record {
        topic: if message.topic() == &**topic { topic.clone() } else { message.topic().into() },
        partition: message.partition(),
        offset: message.offset(),
        key: message.key().map(<[u8]>::to_vec),
        headers,
        value: Bytes::copy_from_slice(message.payload().unwrap_or_default()),
        timestamp: message.timestamp().to_millis().unwrap_or_default(),
    }
}

/// Work that blocks a thread for up to the request timeout.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BusError> + Send + 'static,
) -> Result<T, BusError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(BusError::Unavailable(error.to_string())),
    }
}
