//! The bus over Kafka, by librdkafka. Must be used within a tokio runtime.

mod admin;
mod client;
mod consumer;
mod figures;
mod group;
mod lanes;
mod publisher;
mod reader;

use std::sync::{Arc, Mutex, PoisonError};

pub use self::admin::KafkaAdmin;
pub use self::publisher::KafkaPublisher;
use self::reader::Readers;
use crate::port::{Admin, Bus, BusError, GroupOptions, GroupReader, PartitionReader, Publisher, Start};
use crate::settings::Settings;
use crate::stats::{ConsumerCounters, ConsumerStats};

/// Connects when it is first used, and again whenever it must: a broker that is away at the start is no error.
pub struct KafkaBus {
    settings: Settings,
    publisher: Arc<KafkaPublisher>,
    admin: Arc<KafkaAdmin>,
    readers: Mutex<Option<Arc<Readers>>>,
    counters: Arc<ConsumerCounters>,
}

impl KafkaBus {
    pub fn new(settings: Settings) -> Result<KafkaBus, BusError> {
        let counters = Arc::new(ConsumerCounters::default());
        Ok(KafkaBus {
            publisher: Arc::new(KafkaPublisher::new(&settings)?),
            admin: Arc::new(KafkaAdmin::new(&settings, counters.clone())?),
            readers: Mutex::new(None),
            counters,
            settings,
        })
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }
}

impl Bus for KafkaBus {
    fn publisher(&self) -> Arc<dyn Publisher> {
        self.publisher.clone()
    }

    fn open(&self, topic: &str, partition: i32, from: Start) -> Result<Box<dyn PartitionReader>, BusError> {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        let readers = match &*readers {
            Some(readers) => readers.clone(),
            None => readers.insert(Readers::new(&self.settings, self.counters.clone())?).clone(),
        };
        Ok(Box::new(readers.open(topic, partition, from)?))
    }

    fn join(&self, options: GroupOptions) -> Result<Box<dyn GroupReader>, BusError> {
        Ok(Box::new(group::KafkaGroup::join(&self.settings, options, self.counters.clone())?))
    }

    fn admin(&self) -> Arc<dyn Admin> {
        self.admin.clone()
    }

    fn consumer_stats(&self) -> ConsumerStats {
        self.counters.stats()
    }
}
