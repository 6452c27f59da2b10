//! Says of most keys that they are not in a bucket, without asking the index: nearly every key that a caller sends is new,
//! and a day has two dozen buckets.
//!
//! A blocked Bloom filter (Putze, Sanders, Singler: Cache-, Hash- and Space-Efficient Bloom Filters, 2007): all bits of a
//! key lie in one cache line. It grows by layers, each four times the one before. Keys are hashes already, so their own
//! bits are used.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

const FIRST_LAYER_KEYS: u64 = 65_536;
const GROWTH: u64 = 4;
const BITS_PER_KEY: u64 = 12;
const WORDS_PER_BLOCK: usize = 8;
/// Bits that a key sets in its block of 512.
const PROBES: u32 = 6;

/// One thread adds, any thread asks.
#[derive(Debug)]
pub struct Filter {
    layers: RwLock<Vec<Layer>>,
}

#[derive(Debug)]
struct Layer {
    words: Box<[AtomicU64]>,
    keys: AtomicU64,
    keys_max: u64,
}

impl Filter {
    /// For so many keys at first.
    pub fn for_keys(keys: u64) -> Filter {
        Filter { layers: RwLock::new(vec![Layer::new(keys.max(FIRST_LAYER_KEYS))]) }
    }

    /// False: the key was never added.
    pub fn may_contain(&self, key: &[u8; 16]) -> bool {
        self.layers.read().unwrap_or_else(PoisonError::into_inner).iter().any(|layer| layer.may_contain(key))
    }

    pub fn add<'a>(&self, keys: impl Iterator<Item = &'a [u8; 16]>) {
        for key in keys {
            let layers = self.layers.read().unwrap_or_else(PoisonError::into_inner);
            let room = layers.last().is_some_and(|layer| layer.add(key));
            let next = layers.last().map_or(FIRST_LAYER_KEYS, |layer| layer.keys_max * GROWTH);
            drop(layers);
            if !room {
                let layer = Layer::new(next);
                layer.add(key);
                self.layers.write().unwrap_or_else(PoisonError::into_inner).push(layer);
            }
        }
    }
}

impl Layer {
    fn new(keys_max: u64) -> Layer {
        let blocks = (keys_max * BITS_PER_KEY).div_ceil(512).next_power_of_two() as usize;
        let words = (0..blocks * WORDS_PER_BLOCK).map(|_| AtomicU64::new(0)).collect();
        Layer { words, keys: AtomicU64::new(0), keys_max }
    }

    /// False: full; the key was not added.
    fn add(&self, key: &[u8; 16]) -> bool {
        if self.keys.fetch_add(1, Ordering::Relaxed) >= self.keys_max {
            return false;
        }
        let (block, bits) = self.place(key);
        for bit in bits {
            block[bit / 64].fetch_or(1 << (bit % 64), Ordering::Relaxed);
        }
        true
    }

    fn may_contain(&self, key: &[u8; 16]) -> bool {
        let (block, mut bits) = self.place(key);
        bits.all(|bit| block[bit / 64].load(Ordering::Relaxed) & 1 << (bit % 64) != 0)
    }

    /// One half of the key chooses the block, the other the bits in it, nine each.
    fn place(&self, key: &[u8; 16]) -> (&[AtomicU64], impl Iterator<Item = usize> + use<>) {
        let halves = u128::from_le_bytes(*key);
        let (low, high) = (halves as u64, (halves >> 64) as u64);
        let blocks = self.words.len() / WORDS_PER_BLOCK;
        let block = (low as usize & (blocks - 1)) * WORDS_PER_BLOCK;
        let bits = (0..PROBES).map(move |probe| (high >> (probe * 9)) as usize & 511);
        (&self.words[block..block + WORDS_PER_BLOCK], bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u64) -> [u8; 16] {
        let hash = |n: u64| {
            let n = (n ^ n >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let n = (n ^ n >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            n ^ n >> 31
        };
        (u128::from(hash(n)) << 64 | u128::from(hash(!n))).to_le_bytes()
    }

    #[test]
    fn what_was_added_is_found_and_little_else_over_several_layers() {
        let filter = Filter::for_keys(0);
        let added = FIRST_LAYER_KEYS * 3;
        let keys: Vec<_> = (0..added).map(key).collect();
        filter.add(keys.iter());
        assert_eq!(filter.layers.read().unwrap().len(), 2);
        assert!(keys.iter().all(|key| filter.may_contain(key)));
        let wrong = (added..2 * added).filter(|n| filter.may_contain(&key(*n))).count() as u64;
        assert!(wrong < added / 25, "{wrong} of {added} keys are held for known");
    }
}
