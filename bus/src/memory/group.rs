//! A member of a group.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures_util::future::{BoxFuture, ready};

use super::Shared;
use super::log::State;
use crate::port::{Begin, BusError, Commit, GroupOptions, GroupReader, Record, Slot, Start};

pub struct MemoryGroup {
    shared: Arc<Shared>,
    options: GroupOptions,
    member: u64,
    /// Where it reads on, as long as it holds the partition under this number.
    places: HashMap<Slot, (u64, i64)>,
    paused: HashSet<Slot>,
    taken: HashMap<Slot, i64>,
}

impl MemoryGroup {
    pub fn join(shared: Arc<Shared>, options: GroupOptions) -> MemoryGroup {
        let member = {
            let mut state = shared.state();
            let member = state.next_number();
            let group = state.groups.entry(options.group.clone()).or_default();
            group.members.insert(member, options.topics.clone());
            state.balance(&options.group);
            member
        };
        shared.counters.rebalances.fetch_add(1, Relaxed);
        shared.tell();
        let (places, paused, taken) = Default::default();
        MemoryGroup { shared, options, member, places, paused, taken }
    }

    fn held(&self, state: &State) -> Vec<(Slot, u64)> {
        let Some(group) = state.groups.get(&self.options.group) else { return Vec::new() };
        let ours = group.held.iter().filter(|(_, (member, _))| *member == self.member);
        ours.map(|(slot, (_, since))| (slot.clone(), *since)).collect()
    }

    fn write(&self, state: &mut State, offsets: impl IntoIterator<Item = (Slot, i64)>) {
        let held: HashSet<Slot> = self.held(state).into_iter().map(|(slot, _)| slot).collect();
        let Some(group) = state.groups.get_mut(&self.options.group) else { return };
        group.committed.extend(offsets.into_iter().filter(|(slot, _)| held.contains(slot)));
        self.shared.counters.commits.fetch_add(1, Relaxed);
    }

    fn read(&mut self) -> Result<Vec<Record>, BusError> {
        let shared = self.shared.clone();
        let mut state = shared.state();
        if !self.taken.is_empty() {
            let taken = std::mem::take(&mut self.taken);
            self.write(&mut state, taken);
        }
        let begin = if self.options.begin == Begin::Earliest { Start::Earliest } else { Start::Latest };
        let mut records = Vec::new();
        for (slot, since) in self.held(&state) {
            let log = state.partition(&slot.topic, slot.partition)?;
            let known = self.places.get(&slot).filter(|(number, _)| *number == since).map(|(_, next)| *next);
            let next = known.unwrap_or_else(|| {
                // A pause does not outlive the loss of the partition.
                self.paused.remove(&slot);
                let group = state.groups.get(&self.options.group);
                let committed = group.and_then(|group| group.committed.get(&slot).copied());
                committed.unwrap_or_else(|| log.start(begin))
            });
            let room = if self.paused.contains(&slot) { 0 } else { self.options.batch_max - records.len() };
            // As Kafka does with a committed offset that is gone.
            let (next, found) = match log.read(next, room) {
                Some(found) => (next, found),
                None => (log.start(begin), log.read(log.start(begin), room).unwrap_or_default()),
            };
            records.extend_from_slice(found);
            self.places.insert(slot, (since, next + found.len() as i64));
        }
        if self.options.commit == Commit::Auto {
            let slot = |record: &Record| Slot { topic: record.topic.clone(), partition: record.partition };
            self.taken.extend(records.iter().map(|record| (slot(record), record.offset + 1)));
        }
        shared.counters.took(&records);
        Ok(records)
    }

    fn leave(&mut self) {
        let mut state = self.shared.state();
        let taken = std::mem::take(&mut self.taken);
        self.write(&mut state, taken);
        if let Some(group) = state.groups.get_mut(&self.options.group) {
            group.members.remove(&self.member);
        }
        state.balance(&self.options.group);
        drop(state);
        self.shared.tell();
    }
}

impl GroupReader for MemoryGroup {
    fn next(&mut self, wait: Duration) -> BoxFuture<'_, Result<Vec<Record>, BusError>> {
        Box::pin(async move {
            let mut news = self.shared.news.subscribe();
            let deadline = tokio::time::Instant::now() + wait;
            loop {
                let records = self.read()?;
                if !records.is_empty() || tokio::time::timeout_at(deadline, news.changed()).await.is_err() {
                    return Ok(records);
                }
            }
        })
    }

    fn commit(&mut self, next: Vec<(Slot, i64)>) -> BoxFuture<'_, Result<(), BusError>> {
        self.write(&mut self.shared.state(), next);
        Box::pin(ready(Ok(())))
    }

    fn pause(&mut self, slot: &Slot) -> Result<(), BusError> {
        self.paused.insert(slot.clone());
        Ok(())
    }

    fn resume(&mut self, slot: &Slot) -> Result<(), BusError> {
        self.paused.remove(slot);
        self.shared.tell();
        Ok(())
    }

    fn assignment(&self) -> Vec<(Slot, u64)> {
        self.held(&self.shared.state())
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        drop(self);
        Box::pin(ready(()))
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        self.leave();
    }
}
