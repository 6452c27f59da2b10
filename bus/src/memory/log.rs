//! Topics, partitions, and who of a group holds which.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use crate::port::{BusError, Outgoing, Placed, PublishError, Record, Slot, Start, Watermarks};
use crate::topics::partition_of;

#[derive(Default)]
pub struct State {
    pub topics: BTreeMap<Arc<str>, Vec<Partition>>,
    pub groups: BTreeMap<String, Group>,
    /// Partitions that a reader has.
    pub open: BTreeSet<Slot>,
    /// For records without key and partition.
    turn: i32,
    /// Numbers members and what is given to them.
    pub numbers: u64,
}

#[derive(Default)]
pub struct Partition {
    low: i64,
    records: Vec<Record>,
}

#[derive(Default)]
pub struct Group {
    pub members: BTreeMap<u64, Vec<String>>,
    /// Who holds it, and since when.
    pub held: BTreeMap<Slot, (u64, u64)>,
    pub committed: HashMap<Slot, i64>,
}

impl Partition {
    pub fn watermarks(&self) -> Watermarks {
        Watermarks { low: self.low, high: self.low + self.records.len() as i64 }
    }

    pub fn start(&self, from: Start) -> i64 {
        match from {
            Start::Offset(offset) => offset,
            Start::Earliest => self.low,
            Start::Latest => self.watermarks().high,
        }
    }

    /// Up to `max` records from here; `None`: there is no such place.
    pub fn read(&self, from: i64, max: usize) -> Option<&[Record]> {
        let Watermarks { low, high } = self.watermarks();
        if !(low..=high).contains(&from) {
            return None;
        }
        let rest = &self.records[(from - low) as usize..];
        Some(&rest[..rest.len().min(max)])
    }

    pub fn offset_at(&self, timestamp_ms: i64) -> i64 {
        let found = self.records.iter().find(|record| record.timestamp >= timestamp_ms);
        found.map_or(self.watermarks().high, |record| record.offset)
    }
}

impl State {
    pub fn partition(&self, topic: &str, partition: i32) -> Result<&Partition, BusError> {
        let partitions = self.topics.get(topic);
        let found = partitions.and_then(|partitions| partitions.get(usize::try_from(partition).ok()?));
        found.ok_or_else(|| BusError::UnknownTopic(format!("{topic}/{partition}")))
    }

    pub fn append(&mut self, record: Outgoing) -> Result<Placed, PublishError> {
        let unknown = || PublishError::UnknownTopic(record.topic.to_string());
        let (topic, partitions) = self.topics.get_key_value(&*record.topic).ok_or_else(unknown)?;
        let topic = topic.clone();
        let count = partitions.len() as i32;
        let partition = match (record.partition, &record.key) {
            (Some(partition), _) => partition,
            (None, Some(key)) => partition_of(key, count),
            (None, None) => {
                self.turn = (self.turn + 1) % count;
                self.turn
            }
        };
        let log = self.topics.get_mut(&topic).and_then(|all| all.get_mut(usize::try_from(partition).ok()?));
        let log = log.ok_or_else(unknown)?;
        let offset = log.watermarks().high;
        let headers = record.headers.into_iter().map(|(name, value)| (name.into_owned(), value.to_vec())).collect();
        let now = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_millis() as i64);
        let key = record.key.map(|key| key.to_vec());
        log.records.push(Record { topic, partition, offset, key, headers, value: record.value, timestamp: now });
        Ok(Placed { partition, offset })
    }

    pub fn trim(&mut self, topic: &str, partition: i32, low: i64) {
        let Some(log) = self.topics.get_mut(topic).and_then(|all| all.get_mut(partition as usize)) else { return };
        let gone = (low - log.low).clamp(0, log.records.len() as i64);
        log.records.drain(..gone as usize);
        log.low += gone;
    }

    pub fn next_number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// Gives each partition to a member. Who keeps one, keeps its number: only what moves is read again.
    pub fn balance(&mut self, group: &str) {
        let number = self.next_number();
        let Some(group) = self.groups.get_mut(group) else { return };
        let before = std::mem::take(&mut group.held);
        let mut turn = 0;
        for (topic, partitions) in &self.topics {
            let takers: Vec<u64> = group
                .members
                .iter()
                .filter(|(_, topics)| topics.iter().any(|wanted| **wanted == **topic))
                .map(|(member, _)| *member)
                .collect();
            if takers.is_empty() {
                continue;
            }
            for partition in 0..partitions.len() {
                let slot = Slot { topic: topic.clone(), partition: partition as i32 };
                let member = takers[turn % takers.len()];
                turn += 1;
                let kept = before.get(&slot).filter(|(owner, _)| *owner == member);
                let since = kept.map_or(number, |(_, since)| *since);
                group.held.insert(slot, (member, since));
            }
        }
    }

    pub fn balance_all(&mut self) {
        let groups: Vec<String> = self.groups.keys().cloned().collect();
        groups.iter().for_each(|group| self.balance(group));
    }
}
