//! Two idempotent producers, one that compresses; their order per lane is [`super::lanes`]'s.
//!
//! The buffer's bound is ours and covers both producers and what waits for its lane; librdkafka's own bounds are off, so that
//! it never refuses what was accepted here.
//!
//! An idempotent producer that finds its sequence numbers broken (a topic made anew, a broker that lost its log) is of no more
//! use. Both are made anew then: what was in flight fails, and what comes next is taken.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;
use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer as _, ProducerContext, ThreadedProducer};
use tokio::sync::{Notify, oneshot};

use super::client;
use super::figures::{Counters, Statistics};
use super::lanes::{LaneId, Lanes, Way};
use crate::port::{BusError, Outgoing, Placed, Placing, PublishError, Publisher};
use crate::settings::{RECORD_BYTES_MAX, Settings};
use crate::stats::ProducerStats;

const STATISTICS_MS: u32 = 1000;
/// Of one question for the partitions of a topic.
const LEARN_TIMEOUT: Duration = Duration::from_secs(2);

pub struct KafkaPublisher {
    settings: Settings,
    producers: RwLock<Producers>,
    shared: Arc<Shared>,
}

struct Producers {
    plain: Arc<ThreadedProducer<Context>>,
    packed: Arc<ThreadedProducer<Context>>,
}

struct Shared {
    lanes: Lanes<Held>,
    /// Where a lane's released records go. Weak: the producers' threads hold this.
    packed: Mutex<Weak<ThreadedProducer<Context>>>,
    /// A producer said that it can do no more.
    broken: AtomicBool,
    generation: AtomicU64,
    compress_above_bytes: usize,
    records_max: usize,
    bytes_max: usize,
    records: AtomicUsize,
    bytes: AtomicUsize,
    empty: Notify,
    counters: Counters,
}

struct Held {
    record: Outgoing,
    delivery: Box<Delivery>,
}

/// What comes back with a record's outcome.
pub struct Delivery {
    lane: Option<LaneId>,
    bytes: usize,
    answer: oneshot::Sender<Result<Placed, PublishError>>,
}

struct Context {
    way: Way,
    /// Which pair of producers this is: what a replaced one still says does not count.
    generation: u64,
    /// As the last statistics had them.
    sent_bytes: AtomicU64,
    retries: AtomicU64,
    shared: Arc<Shared>,
}

impl Context {
    /// A fatal error is said where it is met, not always where errors are said.
    fn judge(&self, error: &KafkaError) {
        let fatal = error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal);
        if fatal && self.shared.generation.load(Relaxed) == self.generation {
            self.shared.broken.store(true, Relaxed);
        }
    }
}

impl KafkaPublisher {
    pub fn new(settings: &Settings) -> Result<KafkaPublisher, BusError> {
        let shared = Arc::new(Shared {
            lanes: Lanes::new(),
            packed: Mutex::default(),
            broken: AtomicBool::new(false),
            generation: AtomicU64::new(0),
            compress_above_bytes: settings.producer.compress_above_bytes,
            records_max: settings.producer.buffer_records_max,
            bytes_max: settings.producer.buffer_bytes_max,
            records: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            empty: Notify::new(),
            counters: Counters::default(),
        });
        let (settings, producers) = (settings.clone(), RwLock::new(Producers::new(settings, &shared)?));
        Ok(KafkaPublisher { settings, producers, shared })
    }

    fn renew(&self) {
        match Producers::new(&self.settings, &self.shared) {
            Ok(producers) => {
                tracing::warn!("the producers cannot go on and are made anew");
                self.shared.counters.renewed.fetch_add(1, Relaxed);
                let mut current = self.producers.write().unwrap_or_else(PoisonError::into_inner);
                let old = std::mem::replace(&mut *current, producers);
                drop(current);
                // It waits for its last outcomes, which nobody here should.
                std::thread::spawn(move || drop(old));
            }
            Err(error) => {
                tracing::error!(%error, "the producers cannot be made anew");
                self.shared.broken.store(true, Relaxed);
            }
        }
    }
}

impl Producers {
    fn new(settings: &Settings, shared: &Arc<Shared>) -> Result<Producers, BusError> {
        let generation = shared.generation.fetch_add(1, Relaxed) + 1;
        let producer = |way: Way| {
            let (sent_bytes, retries) = Default::default();
            let context = Context { way, generation, sent_bytes, retries, shared: shared.clone() };
            producer_config(settings, way)?
                .create_with_context(context)
                .map_err(|error| BusError::Settings(error.to_string()))
        };
        let producers = Producers { plain: Arc::new(producer(Way::Plain)?), packed: Arc::new(producer(Way::Packed)?) };
        *shared.packed.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(&producers.packed);
        Ok(producers)
    }
}

fn producer_config(settings: &Settings, way: Way) -> Result<ClientConfig, BusError> {
    let mut config = client::config(settings)?;
    let producer = &settings.producer;
    config.set("acks", "all");
    config.set("enable.idempotence", "true");
    config.set("compression.type", if way == Way::Packed { "lz4" } else { "none" });
    config.set("linger.ms", producer.linger_ms.to_string());
    config.set("batch.size", producer.batch_bytes.to_string());
    config.set("message.timeout.ms", producer.delivery_timeout_ms.to_string());
    config.set("request.timeout.ms", producer.delivery_timeout_ms.min(10_000).to_string());
    config.set("queue.buffering.max.messages", "0");
    config.set("queue.buffering.max.kbytes", i32::MAX.to_string());
    // As the Java clients: other producers' keys find the same partitions.
    config.set("partitioner", "murmur2_random");
    config.set("statistics.interval.ms", STATISTICS_MS.to_string());
    Ok(config)
}

impl Publisher for KafkaPublisher {
    fn publish(&self, record: Outgoing) -> Result<Placing, PublishError> {
        let shared = &self.shared;
        if shared.broken.load(Relaxed) && shared.broken.swap(false, Relaxed) {
            self.renew();
        }
        let headers: usize = record.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        let bytes = record.value.len() + record.key.as_ref().map_or(0, |key| key.len()) + headers;
        if bytes > RECORD_BYTES_MAX {
            return Err(PublishError::TooLarge { bytes, max: RECORD_BYTES_MAX });
        }
        shared.reserve(bytes)?;
        let lane = shared.lanes.of(&record.topic, record.partition, record.key.as_deref());
        let (answer, placing) = oneshot::channel();
        let wants = if record.value.len() > shared.compress_above_bytes { Way::Packed } else { Way::Plain };
        let held = Held { record, delivery: Box::new(Delivery { lane, bytes, answer }) };
        match lane {
            None => self.send(wants, held),
            Some(lane) => {
                let mut lane = shared.lanes.lock(lane);
                match lane.enter(wants, held) {
                    // Sent before the lane is let go: another thread's next record must not overtake it.
                    Some((way, held)) => {
                        if let Err((delivery, error)) = self.try_send(way, held) {
                            let next = lane.leave();
                            drop(lane);
                            shared.done(*delivery, Err(error));
                            debug_assert!(next.is_empty(), "nothing waits where something could be sent");
                        }
                    }
                    None => {
                        shared.counters.switched.fetch_add(1, Relaxed);
                    }
                }
            }
        }
        Ok(Placing(placing))
    }

    fn flush(&self, within: Duration) -> BoxFuture<'_, Result<(), PublishError>> {
        Box::pin(async move {
            let empty = async {
                loop {
                    let notified = self.shared.empty.notified();
                    tokio::pin!(notified);
                    notified.as_mut().enable();
                    if self.shared.records.load(Relaxed) == 0 {
                        return;
                    }
                    notified.await;
                }
            };
            tokio::time::timeout(within, empty).await.map_err(|_| PublishError::TimedOut)
        })
    }

    /// An answer to such a question is what a producer learns from, and the brokers learn one after the other.
    fn knows<'a>(&'a self, topic: &'a str, partitions: i32) -> BoxFuture<'a, bool> {
        let (plain, packed) = {
            let producers = self.producers.read().unwrap_or_else(PoisonError::into_inner);
            (Arc::clone(&producers.plain), Arc::clone(&producers.packed))
        };
        let topic = topic.to_owned();
        Box::pin(async move {
            let asked = tokio::task::spawn_blocking(move || {
                let knows = |producer: &ThreadedProducer<Context>| {
                    let metadata = producer.client().fetch_metadata(Some(&topic), LEARN_TIMEOUT).ok()?;
                    // A partition without a leader cannot be written yet.
                    let led = metadata.topics().first()?.partitions().iter().filter(|part| part.leader() >= 0).count();
                    Some(led as i32 >= partitions)
                };
                knows(&plain).unwrap_or(false) && knows(&packed).unwrap_or(false)
            });
            asked.await.unwrap_or(false)
        })
    }

    fn stats(&self) -> ProducerStats {
        let Shared { counters, records, bytes, records_max, bytes_max, .. } = &*self.shared;
        ProducerStats {
            buffered_records: records.load(Relaxed) as u64,
            buffered_bytes: bytes.load(Relaxed) as u64,
            buffer_records_max: *records_max as u64,
            buffer_bytes_max: *bytes_max as u64,
            ..counters.stats()
        }
    }
}

impl KafkaPublisher {
    fn send(&self, way: Way, held: Held) {
        if let Err((delivery, error)) = self.try_send(way, held) {
            self.shared.done(*delivery, Err(error));
        }
    }

    fn try_send(&self, way: Way, held: Held) -> Result<(), (Box<Delivery>, PublishError)> {
        let producers = self.producers.read().unwrap_or_else(PoisonError::into_inner);
        produce(if way == Way::Plain { &producers.plain } else { &producers.packed }, held)
    }
}

fn produce(producer: &ThreadedProducer<Context>, held: Held) -> Result<(), (Box<Delivery>, PublishError)> {
    let Held { record, delivery } = held;
    let Outgoing { topic, partition, key, headers, value } = record;
    let mut base = BaseRecord::with_opaque_to(&topic, delivery).payload(&*value);
    if let Some(key) = &key {
        base = base.key(&**key);
    }
    if let Some(partition) = partition {
        base = base.partition(partition);
    }
    if !headers.is_empty() {
        let with = |all: OwnedHeaders, (name, value): &(_, bytes::Bytes)| {
            let key: &std::borrow::Cow<'static, str> = name;
            all.insert(Header { key, value: Some(&**value) })
        };
        base = base.headers(headers.iter().fold(OwnedHeaders::new_with_capacity(headers.len()), with));
    }
    producer.send(base).map_err(|(error, record)| {
        producer.client().context().judge(&error);
        let error = client::publish_error(&error, &topic, record.delivery_opaque.bytes);
        (record.delivery_opaque, error)
    })
}

impl Shared {
    fn reserve(&self, bytes: usize) -> Result<(), PublishError> {
        let take = |counter: &AtomicUsize, count: usize, max: usize| {
            counter.fetch_update(Relaxed, Relaxed, |now| (now + count <= max).then_some(now + count)).is_ok()
        };
        let taken = take(&self.records, 1, self.records_max);
        if taken && take(&self.bytes, bytes, self.bytes_max) {
            self.counters.produced.fetch_add(1, Relaxed);
            return Ok(());
        }
        if taken {
            self.records.fetch_sub(1, Relaxed);
        }
        self.counters.refused.fetch_add(1, Relaxed);
        Err(PublishError::BufferFull)
    }

    /// A record's outcome is known. Its lane was left before.
    fn done(&self, delivery: Delivery, outcome: Result<Placed, PublishError>) {
        if outcome.is_ok() {
            self.counters.acked.fetch_add(1, Relaxed);
            self.counters.bytes_acked.fetch_add(delivery.bytes as u64, Relaxed);
        } else {
            self.counters.failed.fetch_add(1, Relaxed);
        }
        // A caller that went away does not want to know.
        let _ = delivery.answer.send(outcome);
        self.bytes.fetch_sub(delivery.bytes, Relaxed);
        if self.records.fetch_sub(1, Relaxed) == 1 {
            self.empty.notify_waiters();
        }
    }

    fn leave(&self, id: LaneId) {
        let mut failed = Vec::new();
        {
            let mut lane = self.lanes.lock(id);
            let mut released = lane.leave();
            if released.is_empty() {
                // Only the plain producer's thread comes past here. The other one must not own its own producer even for a
                // moment: the last owner waits for that thread to end.
                return;
            }
            let packed = self.packed.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
            while let Some(held) = released.pop_front() {
                let sent = match &packed {
                    Some(packed) => produce(packed, held),
                    None => Err((held.delivery, PublishError::Closed)),
                };
                if let Err(unsent) = sent {
                    failed.push(unsent);
                    // All that waited was just released, so nothing more can come of this.
                    released.extend(lane.leave());
                }
            }
        }
        for (delivery, error) in failed {
            self.done(*delivery, Err(error));
        }
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = Box<Delivery>;

    fn delivery(&self, result: &DeliveryResult<'_>, delivery: Box<Delivery>) {
        if let Some(lane) = delivery.lane {
            self.shared.leave(lane);
        }
        let outcome = match result {
            Ok(message) => {
                if self.way == Way::Packed {
                    let counters = &self.shared.counters;
                    counters.compressed_records.fetch_add(1, Relaxed);
                    counters.compressed_bytes_before.fetch_add(delivery.bytes as u64, Relaxed);
                }
                Ok(Placed { partition: message.partition(), offset: message.offset() })
            }
            Err((error, message)) => {
                self.judge(error);
                Err(client::publish_error(error, message.topic(), delivery.bytes))
            }
        };
        self.shared.done(*delivery, outcome);
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        client::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.judge(&error);
        self.shared.counters.errors.fetch_add(1, Relaxed);
        tracing::debug!(target: "kafka", %error, reason, "producer");
    }

    fn stats_raw(&self, statistics: &[u8]) {
        let Ok(figures) = serde_json::from_slice::<Statistics>(statistics) else { return };
        // Another producer begins at 0 again, and what was counted stays counted.
        let more = |known: &AtomicU64, now: u64| now.saturating_sub(known.swap(now, Relaxed));
        let counters = &self.shared.counters;
        let retries = figures.brokers.values().map(|broker| broker.txretries).sum();
        counters.retries.fetch_add(more(&self.retries, retries), Relaxed);
        let sent = more(&self.sent_bytes, figures.tx_bytes);
        if self.way == Way::Packed {
            counters.compressed_bytes_after.fetch_add(sent, Relaxed);
        }
    }
}
