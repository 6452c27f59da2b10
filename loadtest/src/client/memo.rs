//! The frame memo: 10,000 clients receive byte-identical frames, so a frame is decoded and checked once and then recognised by
//! its bytes. A hit costs one hash of its beginning and one comparison of all of it.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashTable;

use super::batch::Batch;
use crate::judge::Tally;
use crate::population::StreamNo;

/// Frames kept; the oldest is forgotten first, and decoded again if it still comes.
const FRAMES_MAX: usize = 16 * 1024;
const BYTES_MAX: usize = 64 << 20;
/// Bytes of a frame that its hash covers: enough for stream, epoch and range.
const HASHED_BYTES: usize = 96;

#[derive(Debug)]
pub struct Entry {
    hash: u64,
    /// The whole frame, WebSocket head included.
    bytes: Box<[u8]>,
    /// `None`: of a bare server, whose frames are compared only.
    pub batch: Option<Arc<Batch>>,
    /// Clients that were shown all of it at `shown_us`; recorded together.
    shown: u32,
    shown_us: u64,
}

impl Entry {
    /// One more client was shown all its messages now.
    pub fn show(&mut self, now_us: u64, tally: &mut Tally) {
        if self.shown_us != now_us {
            self.flush(tally);
            self.shown_us = now_us;
        }
        self.shown += 1;
    }

    fn flush(&mut self, tally: &mut Tally) {
        let count = std::mem::take(&mut self.shown);
        if let (Some(batch), 1..) = (&self.batch, count) {
            for item in &batch.items {
                tally.latency(item.stamp, self.shown_us, u64::from(count));
            }
        }
    }
}

#[derive(Debug, Default)]
pub struct Memo {
    entries: VecDeque<Entry>,
    /// Serial of the first entry.
    first: u64,
    serials: HashTable<u64>,
    bytes: usize,
}

impl Memo {
    /// The entry of a frame with just these bytes.
    pub fn find(&mut self, frame: &[u8]) -> Option<&mut Entry> {
        let hash = hash(frame);
        let (entries, first) = (&self.entries, self.first);
        let is_it = |serial: &u64| {
            let entry = &entries[(serial - first) as usize];
            entry.hash == hash && *entry.bytes == *frame
        };
        let serial = *self.serials.find(hash, is_it)?;
        self.entries.get_mut((serial - first) as usize)
    }

    /// Keeps a frame that is not in it.
    pub fn insert(&mut self, frame: &[u8], batch: Option<Arc<Batch>>, tally: &mut Tally) -> &mut Entry {
        while self.entries.len() >= FRAMES_MAX || (self.bytes + frame.len() > BYTES_MAX && !self.entries.is_empty()) {
            self.forget_oldest(tally);
        }
        let hash = hash(frame);
        let serial = self.first + self.entries.len() as u64;
        let (entries, first) = (&self.entries, self.first);
        self.serials.insert_unique(hash, serial, |serial| entries[(serial - first) as usize].hash);
        self.bytes += frame.len();
        self.entries.push_back(Entry { hash, bytes: frame.into(), batch, shown: 0, shown_us: 0 });
        self.entries.back_mut().expect("just pushed")
    }

    /// Records what has not been recorded yet.
    pub fn flush(&mut self, tally: &mut Tally) {
        self.entries.iter_mut().for_each(|entry| entry.flush(tally));
    }

    /// The newest live frame of a stream.
    pub fn newest(&self, stream: StreamNo) -> Option<&[u8]> {
        let of = |batch: &Arc<Batch>| batch.stream == Some(stream) && batch.page.is_none();
        let entry = self.entries.iter().rev().find(|entry| entry.batch.as_ref().is_some_and(of))?;
        Some(&entry.bytes)
    }

    fn forget_oldest(&mut self, tally: &mut Tally) {
        let Some(mut oldest) = self.entries.pop_front() else { return };
        oldest.flush(tally);
        let first = self.first;
        if let Ok(entry) = self.serials.find_entry(oldest.hash, |serial| *serial == first) {
            entry.remove();
        }
        self.bytes -= oldest.bytes.len();
        self.first += 1;
    }
}

fn hash(frame: &[u8]) -> u64 {
    const MIX: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut hash = frame.len() as u64 ^ MIX;
    for word in frame[..frame.len().min(HASHED_BYTES)].chunks(8) {
        let mut bytes = [0; 8];
        bytes[..word.len()].copy_from_slice(word);
        let product = u128::from(hash ^ u64::from_le_bytes(bytes)) * u128::from(MIX);
        hash = product as u64 ^ (product >> 64) as u64;
    }
    hash
}
