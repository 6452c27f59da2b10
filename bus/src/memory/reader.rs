//! One partition, read from a place.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures_util::future::{BoxFuture, ready};

use super::Shared;
use crate::port::{BusError, PartitionReader, Record, Slot, Start, Watermarks};

pub struct MemoryReader {
    shared: Arc<Shared>,
    slot: Slot,
    next: i64,
    paused: bool,
}

impl MemoryReader {
    pub fn open(shared: Arc<Shared>, topic: &str, partition: i32, from: Start) -> Result<MemoryReader, BusError> {
        let slot = Slot { topic: topic.into(), partition };
        let next = {
            let mut state = shared.state();
            let next = state.partition(topic, partition)?.start(from);
            if !state.open.insert(slot.clone()) {
                return Err(BusError::OpenAlready { topic: topic.to_owned(), partition });
            }
            next
        };
        shared.counters.readers.fetch_add(1, Relaxed);
        Ok(MemoryReader { shared, slot, next, paused: false })
    }

    fn read(&mut self, max: usize) -> Result<Vec<Record>, BusError> {
        if self.paused {
            return Ok(Vec::new());
        }
        let state = self.shared.state();
        let Slot { topic, partition } = &self.slot;
        let records = state.partition(topic, *partition)?.read(self.next, max).ok_or_else(|| BusError::OffsetGone {
            topic: topic.to_string(),
            partition: *partition,
            offset: self.next,
        })?;
        self.next += records.len() as i64;
        self.shared.counters.took(records);
        Ok(records.to_vec())
    }
}

impl PartitionReader for MemoryReader {
    fn next(&mut self, max: usize, wait: Duration) -> BoxFuture<'_, Result<Vec<Record>, BusError>> {
        Box::pin(async move {
            let mut news = self.shared.news.subscribe();
            let deadline = tokio::time::Instant::now() + wait;
            loop {
                let records = self.read(max.max(1))?;
                if !records.is_empty() || tokio::time::timeout_at(deadline, news.changed()).await.is_err() {
                    return Ok(records);
                }
            }
        })
    }

    fn seek(&mut self, to: Start) -> BoxFuture<'_, Result<(), BusError>> {
        let start = self.shared.state().partition(&self.slot.topic, self.slot.partition).map(|log| log.start(to));
        Box::pin(ready(start.map(|next| self.next = next)))
    }

    fn pause(&mut self) -> Result<(), BusError> {
        self.paused = true;
        Ok(())
    }

    fn resume(&mut self) -> Result<(), BusError> {
        self.paused = false;
        Ok(())
    }

    fn watermarks(&self) -> BoxFuture<'_, Result<Watermarks, BusError>> {
        let state = self.shared.state();
        Box::pin(ready(state.partition(&self.slot.topic, self.slot.partition).map(|log| log.watermarks())))
    }
}

impl Drop for MemoryReader {
    fn drop(&mut self) {
        self.shared.state().open.remove(&self.slot);
        self.shared.counters.readers.fetch_sub(1, Relaxed);
    }
}
