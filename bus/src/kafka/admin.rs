//! Questions and orders about topics and groups. librdkafka answers them by blocking a thread, so they run beside the runtime.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::{Offset, TopicPartitionList};

use super::client;
use super::consumer::{self, Context, blocking};
use crate::port::{Admin, BusError, Committed, TopicState, Watermarks};
use crate::settings::Settings;
use crate::stats::ConsumerCounters;
use crate::topics::TopicSpec;

type Asker = rdkafka::consumer::BaseConsumer<Context>;

/// Groups whose offsets were asked for, each with a client of its own.
const GROUPS_MAX: usize = 64;
const NO_GROUP: &str = "tidegate-admin";

pub struct KafkaAdmin {
    settings: Settings,
    admin: AdminClient<rdkafka::client::DefaultClientContext>,
    /// A client speaks for one group.
    askers: Mutex<HashMap<String, Arc<Asker>>>,
    counters: Arc<ConsumerCounters>,
}

impl KafkaAdmin {
    pub(super) fn new(settings: &Settings, counters: Arc<ConsumerCounters>) -> Result<KafkaAdmin, BusError> {
        let admin = client::config(settings)?.create().map_err(|error| BusError::Settings(error.to_string()))?;
        Ok(KafkaAdmin { settings: settings.clone(), admin, askers: Mutex::default(), counters })
    }

    fn timeout(&self) -> Duration {
        self.settings.request_timeout()
    }

    fn options(&self) -> AdminOptions {
        AdminOptions::new().request_timeout(Some(self.timeout())).operation_timeout(Some(self.timeout()))
    }

    fn asker(&self, group: &str) -> Result<Arc<Asker>, BusError> {
        let mut askers = self.askers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(asker) = askers.get(group) {
            return Ok(asker.clone());
        }
        let mut config = consumer::config(&self.settings)?;
        config.set("group.id", group);
        config.set("enable.auto.commit", "false");
        let asker: Asker = config
            .create_with_context(Context::new(self.counters.clone()))
            .map_err(|error| BusError::Settings(error.to_string()))?;
        if askers.len() >= GROUPS_MAX {
            askers.clear();
        }
        let asker = Arc::new(asker);
        askers.insert(group.to_owned(), asker.clone());
        Ok(asker)
    }

    async fn ask<T: Send + 'static>(
        &self,
        group: &str,
        about: &str,
        question: impl FnOnce(&Asker, Duration) -> Result<T, KafkaError> + Send + 'static,
    ) -> Result<T, BusError> {
        let (asker, timeout, about) = (self.asker(group)?, self.timeout(), about.to_owned());
        blocking(move || question(&asker, timeout).map_err(|error| client::bus_error(&error, &about))).await
    }

    async fn brokers(&self) -> Result<i32, BusError> {
        let count = self.ask(NO_GROUP, "brokers", |asker, timeout| {
            Ok(asker.fetch_metadata(Some("tidegate-none"), timeout)?.brokers().len() as i32)
        });
        count.await
    }

    /// A topic is made when one controller says so; a moment later all brokers know it.
    async fn until_known(&self, topic: &str, partitions: i32) -> Result<(), BusError> {
        let deadline = Instant::now() + self.timeout();
        loop {
            if self.describe_topic(topic).await?.is_some_and(|state| state.partitions >= partitions) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(BusError::Unavailable(format!("{topic} is not known everywhere yet")));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn describe_topic(&self, topic: &str) -> Result<Option<TopicState>, BusError> {
        let name = topic.to_owned();
        let described = self.ask(NO_GROUP, topic, move |asker, timeout| {
            let metadata = asker.fetch_metadata(Some(&name), timeout)?;
            let Some(topic) = metadata.topics().first() else { return Ok(None) };
            match topic.error().map(Code::from) {
                None => {}
                Some(Code::UnknownTopicOrPartition | Code::UnknownTopic) => return Ok(None),
                Some(code) => return Err(KafkaError::MetadataFetch(code)),
            }
            // A partition without a leader cannot be written yet.
            let led = topic.partitions().iter().filter(|partition| partition.leader() >= 0).count();
            let replicas = topic.partitions().iter().map(|partition| partition.replicas().len()).min();
            let replicas = replicas.unwrap_or_default() as i32;
            Ok((led > 0).then_some(TopicState { partitions: led as i32, replicas }))
        });
        described.await
    }

    async fn create(&self, spec: &TopicSpec, brokers: i32) -> Result<bool, BusError> {
        if self.describe_topic(&spec.name).await?.is_some() {
            return Ok(false);
        }
        let mut spec = spec.clone();
        if spec.replicas > brokers && self.settings.replicas_auto {
            tracing::warn!(topic = spec.name, wanted = spec.replicas, brokers, "fewer replicas than wanted");
            spec.replicas = brokers;
        }
        let settings = spec.broker_settings();
        let topic = NewTopic::new(&spec.name, spec.partitions, TopicReplication::Fixed(spec.replicas));
        let topic = settings.iter().fold(topic, |topic, (key, value)| topic.set(key, value));
        let results = self.admin.create_topics(&[topic], &self.options()).await;
        let created = match results.map_err(|error| client::bus_error(&error, &spec.name))?.into_iter().next() {
            Some(Err((_, Code::TopicAlreadyExists))) => false,
            Some(Err((_, code))) => return Err(client::code_error(code, &spec.name)),
            Some(Ok(_)) | None => true,
        };
        self.until_known(&spec.name, spec.partitions).await?;
        Ok(created)
    }

    async fn partitions(&self, topic: &str) -> Result<i32, BusError> {
        let state = self.describe_topic(topic).await?;
        state.map(|state| state.partitions).ok_or_else(|| BusError::UnknownTopic(topic.to_owned()))
    }
}

/// All partitions of a topic at one offset.
fn all_at(topic: &str, partitions: i32, at: Offset) -> Result<TopicPartitionList, KafkaError> {
    let mut list = TopicPartitionList::with_capacity(partitions as usize);
    for partition in 0..partitions {
        list.add_partition_offset(topic, partition, at)?;
    }
    Ok(list)
}

impl Admin for KafkaAdmin {
    fn create_missing<'a>(&'a self, topics: &'a [TopicSpec]) -> BoxFuture<'a, Result<Vec<String>, BusError>> {
        Box::pin(async move {
            let brokers = self.brokers().await?;
            let mut created = Vec::new();
            for spec in topics {
                if self.create(spec, brokers).await? {
                    created.push(spec.name.clone());
                }
            }
            Ok(created)
        })
    }

    fn describe<'a>(&'a self, topic: &'a str) -> BoxFuture<'a, Result<Option<TopicState>, BusError>> {
        Box::pin(self.describe_topic(topic))
    }

    fn grow<'a>(&'a self, topic: &'a str, partitions: i32) -> BoxFuture<'a, Result<(), BusError>> {
        Box::pin(async move {
            let now = self.partitions(topic).await?;
            if partitions <= now {
                return Err(BusError::Refused(format!("{topic} has {now} partitions, and they only become more")));
            }
            let (wanted, options) = ([NewPartitions::new(topic, partitions as usize)], self.options());
            match self
                .admin
                .create_partitions(&wanted, &options)
                .await
                .map_err(|error| client::bus_error(&error, topic))?
                .into_iter()
                .next()
            {
                Some(Err((_, code))) => Err(client::code_error(code, topic)),
                Some(Ok(_)) | None => self.until_known(topic, partitions).await,
            }
        })
    }

    fn watermarks<'a>(&'a self, topic: &'a str, partition: i32) -> BoxFuture<'a, Result<Watermarks, BusError>> {
        let name = topic.to_owned();
        Box::pin(self.ask(NO_GROUP, topic, move |asker, timeout| {
            let (low, high) = asker.fetch_watermarks(&name, partition, timeout)?;
            Ok(Watermarks { low, high })
        }))
    }

    fn offsets_at<'a>(&'a self, topic: &'a str, timestamp_ms: i64) -> BoxFuture<'a, Result<Vec<(i32, i64)>, BusError>> {
        Box::pin(async move {
            let (name, partitions) = (topic.to_owned(), self.partitions(topic).await?);
            let found = self.ask(NO_GROUP, topic, move |asker, timeout| {
                let list = all_at(&name, partitions, Offset::Offset(timestamp_ms.max(0)))?;
                let list = asker.offsets_for_times(list, timeout)?;
                let mut found = Vec::with_capacity(partitions as usize);
                for element in list.elements() {
                    element.error()?;
                    // Nothing is so young: the end.
                    let offset = match element.offset() {
                        Offset::Offset(offset) => offset,
                        _ => asker.fetch_watermarks(&name, element.partition(), timeout)?.1,
                    };
                    found.push((element.partition(), offset));
                }
                Ok(found)
            });
            found.await
        })
    }

    fn committed<'a>(&'a self, group: &'a str, topic: &'a str) -> BoxFuture<'a, Result<Vec<Committed>, BusError>> {
        Box::pin(async move {
            let (name, partitions) = (topic.to_owned(), self.partitions(topic).await?);
            let committed = self.ask(group, group, move |asker, timeout| {
                let list = asker.committed_offsets(all_at(&name, partitions, Offset::Invalid)?, timeout)?;
                let next = |offset| if let Offset::Offset(next) = offset { Some(next) } else { None };
                let mut committed = Vec::with_capacity(partitions as usize);
                for element in list.elements() {
                    element.error()?;
                    committed.push(Committed { partition: element.partition(), next: next(element.offset()) });
                }
                Ok(committed)
            });
            committed.await
        })
    }

    fn set_committed<'a>(
        &'a self,
        group: &'a str,
        topic: &'a str,
        offsets: Vec<(i32, i64)>,
    ) -> BoxFuture<'a, Result<(), BusError>> {
        let name = topic.to_owned();
        Box::pin(self.ask(group, group, move |asker, _| {
            let mut list = TopicPartitionList::with_capacity(offsets.len());
            for (partition, next) in offsets {
                list.add_partition_offset(&name, partition, Offset::Offset(next))?;
            }
            asker.commit(&list, CommitMode::Sync)
        }))
    }

    fn members<'a>(&'a self, group: &'a str) -> BoxFuture<'a, Result<usize, BusError>> {
        let name = group.to_owned();
        Box::pin(self.ask(NO_GROUP, group, move |asker, timeout| {
            let list = asker.fetch_group_list(Some(&name), timeout)?;
            Ok(list.groups().iter().map(|group| group.members().len()).sum())
        }))
    }

    fn delete<'a>(&'a self, topic: &'a str) -> BoxFuture<'a, Result<(), BusError>> {
        Box::pin(async move {
            let deleted = self.admin.delete_topics(&[topic], &self.options()).await;
            match deleted.map_err(|error| client::bus_error(&error, topic))?.into_iter().next() {
                Some(Err((_, code))) => Err(client::code_error(code, topic)),
                Some(Ok(_)) | None => Ok(()),
            }
        })
    }
}
