//! The bus in memory: for tests and for one process. It keeps the promises of the ports, without durability.
//!
//! [`MemoryBus::hold`] is its broker that does not answer: what is published waits in the bounded buffer.

mod admin;
mod group;
mod log;
mod reader;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, ready};
use tokio::sync::{oneshot, watch};

use self::log::State;
use crate::port::{
    Admin, Bus, BusError, GroupOptions, GroupReader, Outgoing, PartitionReader, Placed, Placing, PublishError,
    Publisher, Start,
};
use crate::settings::{Producer, RECORD_BYTES_MAX};
use crate::stats::{ConsumerCounters, ConsumerStats, ProducerStats};

#[derive(Clone)]
pub struct MemoryBus {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Rises with everything that a reader could wait for.
    news: watch::Sender<u64>,
    producer: Mutex<Buffer>,
    counters: ConsumerCounters,
}

#[derive(Default)]
struct Buffer {
    held: bool,
    waiting: VecDeque<(Outgoing, oneshot::Sender<Result<Placed, PublishError>>)>,
    settings: Producer,
    stats: ProducerStats,
}

impl Default for MemoryBus {
    fn default() -> MemoryBus {
        MemoryBus::new(Producer::default())
    }
}

impl MemoryBus {
    /// Of the settings, the bounds of the buffer count.
    pub fn new(settings: Producer) -> MemoryBus {
        MemoryBus {
            shared: Arc::new(Shared {
                state: Mutex::default(),
                news: watch::Sender::new(0),
                producer: Mutex::new(Buffer { settings, ..Buffer::default() }),
                counters: ConsumerCounters::default(),
            }),
        }
    }

    /// From now on nothing is acknowledged.
    pub fn hold(&self) {
        self.shared.buffer().held = true;
    }

    /// What waited is placed, in its order.
    pub fn release(&self) {
        let mut buffer = self.shared.buffer();
        buffer.held = false;
        while let Some((record, answer)) = buffer.waiting.pop_front() {
            buffer.stats.buffered_records -= 1;
            buffer.stats.buffered_bytes -= size(&record) as u64;
            let outcome = self.shared.place(record, &mut buffer.stats);
            let _ = answer.send(outcome);
        }
        drop(buffer);
        self.shared.tell();
    }

    /// As retention does: what is before this offset is gone.
    pub fn trim(&self, topic: &str, partition: i32, low: i64) {
        self.shared.state().trim(topic, partition, low);
    }
}

fn size(record: &Outgoing) -> usize {
    let headers: usize = record.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    record.value.len() + record.key.as_ref().map_or(0, |key| key.len()) + headers
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn buffer(&self) -> MutexGuard<'_, Buffer> {
        self.producer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        self.news.send_modify(|number| *number += 1);
    }

    fn place(&self, record: Outgoing, stats: &mut ProducerStats) -> Result<Placed, PublishError> {
        let bytes = size(&record) as u64;
        let outcome = self.state().append(record);
        match &outcome {
            Ok(_) => {
                stats.acked += 1;
                stats.bytes_acked += bytes;
            }
            Err(_) => stats.failed += 1,
        }
        outcome
    }
}

impl Publisher for Shared {
    fn publish(&self, record: Outgoing) -> Result<Placing, PublishError> {
        let bytes = size(&record);
        if bytes > RECORD_BYTES_MAX {
            return Err(PublishError::TooLarge { bytes, max: RECORD_BYTES_MAX });
        }
        let (answer, placing) = oneshot::channel();
        let mut buffer = self.buffer();
        let full = buffer.waiting.len() >= buffer.settings.buffer_records_max
            || buffer.stats.buffered_bytes as usize + bytes > buffer.settings.buffer_bytes_max;
        if full {
            buffer.stats.refused += 1;
            return Err(PublishError::BufferFull);
        }
        buffer.stats.produced += 1;
        if buffer.held {
            buffer.stats.buffered_records += 1;
            buffer.stats.buffered_bytes += bytes as u64;
            buffer.waiting.push_back((record, answer));
        } else {
            let outcome = self.place(record, &mut buffer.stats);
            let _ = answer.send(outcome);
            drop(buffer);
            self.tell();
        }
        Ok(Placing(placing))
    }

    fn flush(&self, within: Duration) -> BoxFuture<'_, Result<(), PublishError>> {
        Box::pin(async move {
            let mut news = self.news.subscribe();
            let empty = async { while !self.buffer().waiting.is_empty() && news.changed().await.is_ok() {} };
            tokio::time::timeout(within, empty).await.map_err(|_| PublishError::TimedOut)
        })
    }

    fn knows<'a>(&'a self, topic: &'a str, partitions: i32) -> BoxFuture<'a, bool> {
        let known = self.state().topics.get(topic).is_some_and(|known| known.len() as i32 >= partitions);
        Box::pin(ready(known))
    }

    fn stats(&self) -> ProducerStats {
        let buffer = self.buffer();
        ProducerStats {
            buffer_records_max: buffer.settings.buffer_records_max as u64,
            buffer_bytes_max: buffer.settings.buffer_bytes_max as u64,
            ..buffer.stats
        }
    }
}

impl Bus for MemoryBus {
    fn publisher(&self) -> Arc<dyn Publisher> {
        self.shared.clone()
    }

    fn open(&self, topic: &str, partition: i32, from: Start) -> Result<Box<dyn PartitionReader>, BusError> {
        Ok(Box::new(reader::MemoryReader::open(self.shared.clone(), topic, partition, from)?))
    }

    fn join(&self, options: GroupOptions) -> Result<Box<dyn GroupReader>, BusError> {
        Ok(Box::new(group::MemoryGroup::join(self.shared.clone(), options)))
    }

    fn admin(&self) -> Arc<dyn Admin> {
        Arc::new(admin::MemoryAdmin(self.shared.clone()))
    }

    fn consumer_stats(&self) -> ConsumerStats {
        self.shared.counters.stats()
    }
}
