//! Topics and groups, asked about and changed.

use std::sync::Arc;

use futures_util::future::{BoxFuture, ready};

use super::Shared;
use super::log::Partition;
use crate::port::{Admin, BusError, Committed, Slot, TopicState, Watermarks};
use crate::topics::TopicSpec;

pub struct MemoryAdmin(pub Arc<Shared>);

impl MemoryAdmin {
    fn partitions(&self, topic: &str) -> Result<i32, BusError> {
        let state = self.0.state();
        let partitions = state.topics.get(topic).map(|partitions| partitions.len() as i32);
        partitions.ok_or_else(|| BusError::UnknownTopic(topic.to_owned()))
    }

    fn create(&self, topics: &[TopicSpec]) -> Vec<String> {
        let mut state = self.0.state();
        let mut created = Vec::new();
        for spec in topics {
            if !state.topics.contains_key(&*spec.name) {
                let partitions = (0..spec.partitions).map(|_| Partition::default()).collect();
                state.topics.insert((&*spec.name).into(), partitions);
                created.push(spec.name.clone());
            }
        }
        state.balance_all();
        created
    }

    fn grow_to(&self, topic: &str, partitions: i32) -> Result<(), BusError> {
        let now = self.partitions(topic)?;
        if partitions <= now {
            return Err(BusError::Refused(format!("{topic} has {now} partitions, and they only become more")));
        }
        let mut state = self.0.state();
        if let Some(logs) = state.topics.get_mut(topic) {
            logs.resize_with(partitions as usize, Partition::default);
        }
        state.balance_all();
        Ok(())
    }

    fn write(&self, group: &str, topic: &str, offsets: Vec<(i32, i64)>) -> Result<(), BusError> {
        let topic: Arc<str> = topic.into();
        let mut state = self.0.state();
        let group = state.groups.entry(group.to_owned()).or_default();
        if !group.members.is_empty() {
            return Err(BusError::GroupActive);
        }
        let slot = |partition| Slot { topic: topic.clone(), partition };
        group.committed.extend(offsets.into_iter().map(|(partition, next)| (slot(partition), next)));
        Ok(())
    }
}

impl Admin for MemoryAdmin {
    fn create_missing<'a>(&'a self, topics: &'a [TopicSpec]) -> BoxFuture<'a, Result<Vec<String>, BusError>> {
        let created = self.create(topics);
        self.0.tell();
        Box::pin(ready(Ok(created)))
    }

    fn describe<'a>(&'a self, topic: &'a str) -> BoxFuture<'a, Result<Option<TopicState>, BusError>> {
        let state = self.partitions(topic).ok().map(|partitions| TopicState { partitions, replicas: 1 });
        Box::pin(ready(Ok(state)))
    }

    fn grow<'a>(&'a self, topic: &'a str, partitions: i32) -> BoxFuture<'a, Result<(), BusError>> {
        let grown = self.grow_to(topic, partitions);
        self.0.tell();
        Box::pin(ready(grown))
    }

    fn watermarks<'a>(&'a self, topic: &'a str, partition: i32) -> BoxFuture<'a, Result<Watermarks, BusError>> {
        Box::pin(ready(self.0.state().partition(topic, partition).map(Partition::watermarks)))
    }

    fn offsets_at<'a>(&'a self, topic: &'a str, timestamp_ms: i64) -> BoxFuture<'a, Result<Vec<(i32, i64)>, BusError>> {
        let at = |(partition, log): (usize, &Partition)| (partition as i32, log.offset_at(timestamp_ms));
        let state = self.0.state();
        let found = state.topics.get(topic).map(|logs| logs.iter().enumerate().map(at).collect());
        Box::pin(ready(found.ok_or_else(|| BusError::UnknownTopic(topic.to_owned()))))
    }

    fn committed<'a>(&'a self, group: &'a str, topic: &'a str) -> BoxFuture<'a, Result<Vec<Committed>, BusError>> {
        let committed = self.partitions(topic).map(|partitions| {
            let state = self.0.state();
            let offsets = state.groups.get(group).map(|group| &group.committed);
            let next = |partition| offsets?.get(&Slot { topic: topic.into(), partition }).copied();
            (0..partitions).map(|partition| Committed { partition, next: next(partition) }).collect()
        });
        Box::pin(ready(committed))
    }

    fn set_committed<'a>(
        &'a self,
        group: &'a str,
        topic: &'a str,
        offsets: Vec<(i32, i64)>,
    ) -> BoxFuture<'a, Result<(), BusError>> {
        Box::pin(ready(self.write(group, topic, offsets)))
    }

    fn members<'a>(&'a self, group: &'a str) -> BoxFuture<'a, Result<usize, BusError>> {
        Box::pin(ready(Ok(self.0.state().groups.get(group).map_or(0, |group| group.members.len()))))
    }

    fn delete<'a>(&'a self, topic: &'a str) -> BoxFuture<'a, Result<(), BusError>> {
        let mut state = self.0.state();
        let gone = state.topics.remove(topic).map(|_| ()).ok_or_else(|| BusError::UnknownTopic(topic.to_owned()));
        state.balance_all();
        Box::pin(ready(gone))
    }
}
