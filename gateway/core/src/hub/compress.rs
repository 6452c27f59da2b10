//! Compressed frames of the hub: once for everybody who gets the same bytes, and only when it pays.
//!
//! One batch is one payload per encoding, so it is packed once per node however many connections get it. Pages of recovery
//! are payloads of single connections, but those of a storm of reconnects are the same ones: the last few are remembered.

use std::collections::VecDeque;

use bytes::Bytes;

use super::config::{Compression, DeflateStats};
use crate::ws::{CpuClock, Deflater, OpCode, WINDOW_BITS_MAX};

/// Payloads that are remembered with what became of them.
const REMEMBERED: usize = 4;
/// It pays if so many of 8 parts remain at most: below that, what a client spends on unpacking is for nothing.
const PAYS_EIGHTHS_MAX: usize = 7;

pub(super) struct Compressor {
    config: Compression,
    clock: CpuClock,
    /// Made when the first payload is to be compressed: it takes some 300 KB.
    deflater: Option<Box<Deflater>>,
    remembered: VecDeque<Outcome>,
    stats: DeflateStats,
}

struct Outcome {
    op: OpCode,
    payload: Vec<u8>,
    /// `None`: it did not pay.
    frame: Option<Bytes>,
}

impl Compressor {
    pub fn new(config: Compression, clock: CpuClock) -> Compressor {
        Compressor { config, clock, deflater: None, remembered: VecDeque::new(), stats: DeflateStats::default() }
    }

    pub fn stats(&self) -> DeflateStats {
        self.stats
    }

    /// The compressed frame, or `None` if it does not pay.
    pub fn frame(&mut self, op: OpCode, payload: &[u8]) -> Option<Bytes> {
        if payload.len() < self.config.bytes_min {
            self.stats.small += 1;
            return None;
        }
        if let Some(known) = self.remembered.iter().find(|known| known.op == op && known.payload == payload) {
            self.stats.reused += 1;
            return known.frame.clone();
        }
        let frame = self.compress(op, payload);
        self.remember(op, payload, frame.clone());
        frame
    }

    fn compress(&mut self, op: OpCode, payload: &[u8]) -> Option<Bytes> {
        let level = self.config.level;
        let deflater = self.deflater.get_or_insert_with(|| Box::new(Deflater::new(WINDOW_BITS_MAX, level)));
        let begun = (self.clock)();
        let frame = deflater.frame(op, payload, payload.len() / 8 * PAYS_EIGHTHS_MAX);
        self.stats.cpu_ns += (self.clock)().saturating_sub(begun);
        match &frame {
            None => self.stats.unpaid += 1,
            Some(frame) => {
                self.stats.compressed += 1;
                self.stats.plain_bytes += payload.len() as u64;
                self.stats.packed_bytes += frame.len() as u64;
            }
        }
        frame
    }

    fn remember(&mut self, op: OpCode, payload: &[u8], frame: Option<Bytes>) {
        let mut kept = match self.remembered.len() {
            REMEMBERED => self.remembered.pop_front().map_or_else(Vec::new, |oldest| oldest.payload),
            _ => Vec::new(),
        };
        kept.clear();
        kept.extend_from_slice(payload);
        self.remembered.push_back(Outcome { op, payload: kept, frame });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compressor() -> Compressor {
        Compressor::new(Compression { bytes_min: 100, level: 3 }, || 0)
    }

    /// Bytes without any pattern.
    fn noise(seed: u32, len: usize) -> Vec<u8> {
        let next = |state: &u32| Some(state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
        std::iter::successors(Some(seed), next).skip(1).map(|state| (state >> 24) as u8).take(len).collect()
    }

    #[test]
    fn small_payloads_and_such_as_hardly_shrink_stay_plain() {
        let mut compressor = compressor();
        assert_eq!(compressor.frame(OpCode::Text, &[b'a'; 99]), None);
        assert!(compressor.frame(OpCode::Text, &[b'a'; 100]).is_some());
        // A tenth of it could be saved.
        let mut hardly = noise(1, 9_000);
        hardly.extend([0; 1_000]);
        assert_eq!(compressor.frame(OpCode::Binary, &hardly), None);
        hardly.extend([0; 1_000]);
        assert!(compressor.frame(OpCode::Binary, &hardly).is_some());
        let stats = compressor.stats();
        assert_eq!((stats.small, stats.compressed, stats.unpaid, stats.reused), (1, 2, 1, 0));
        assert_eq!(stats.plain_bytes, 11_100);
        assert!(stats.packed_bytes < 9_700, "{stats:?}");
    }

    #[test]
    fn the_same_payload_is_compressed_once() {
        let mut compressor = compressor();
        let (page, hopeless) = ([b'a'; 1_000], noise(7, 1_000));
        let first = compressor.frame(OpCode::Text, &page);
        assert_eq!(compressor.frame(OpCode::Binary, &hopeless), None);
        for _ in 0..10 {
            assert_eq!(compressor.frame(OpCode::Text, &page), first);
            assert_eq!(compressor.frame(OpCode::Binary, &hopeless), None);
        }
        assert_ne!(compressor.frame(OpCode::Binary, &page), first, "another encoding is another frame");
        let stats = compressor.stats();
        assert_eq!((stats.compressed, stats.unpaid, stats.reused), (2, 1, 20));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut compressor = compressor();
        for byte in 0..=u8::MAX {
            assert!(compressor.frame(OpCode::Text, &[byte; 1_000]).is_some());
        }
        assert_eq!(compressor.remembered.len(), REMEMBERED);
        assert!(compressor.frame(OpCode::Text, &[0; 1_000]).is_some());
        assert_eq!(compressor.stats().reused, 0);
    }
}
