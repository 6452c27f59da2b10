//! From a hash to the 32-bit place of what has it: five bytes an entry in tables that are at most 7/8 full. What is looked
//! for stands in that place and nowhere else, so the caller compares.
//!
//! The index is cut into segments by some of the hash' bits: a table that doubles is a 64th of all, so that no call has to
//! hash a million keys again.

use hashbrown::HashTable;

const SEGMENTS: usize = 64;
/// Tables take their buckets from the low end of a hash and their tags from the high end.
const SEGMENT_SHIFT: u32 = 40;

#[derive(Debug)]
pub(crate) struct Index {
    segments: Box<[HashTable<u32>]>,
    len: usize,
}

impl Default for Index {
    fn default() -> Self {
        Index { segments: std::iter::repeat_with(HashTable::new).take(SEGMENTS).collect(), len: 0 }
    }
}

impl Index {
    pub fn len(&self) -> usize {
        self.len
    }

    /// The first place with this hash that `is` accepts.
    pub fn find(&self, hash: u64, is: impl Fn(u32) -> bool) -> Option<u32> {
        self.segments[segment(hash)].find(hash, |at| is(*at)).copied()
    }

    /// Every place that may have this hash, and perhaps others.
    pub fn candidates(&self, hash: u64) -> impl Iterator<Item = u32> + '_ {
        self.segments[segment(hash)].iter_hash(hash).copied()
    }

    /// `hash_of` tells the hash of any place that is in the index. It may come to stand there more than once.
    pub fn insert(&mut self, hash: u64, at: u32, hash_of: impl Fn(u32) -> u64) {
        self.segments[segment(hash)].insert_unique(hash, at, |at| hash_of(*at));
        self.len += 1;
    }

    /// Returns whether it was there.
    pub fn remove(&mut self, hash: u64, at: u32) -> bool {
        let found = self.segments[segment(hash)].find_entry(hash, |other| *other == at);
        let removed = found.map(hashbrown::hash_table::OccupiedEntry::remove).is_ok();
        self.len -= usize::from(removed);
        removed
    }
}

fn segment(hash: u64) -> usize {
    (hash >> SEGMENT_SHIFT) as usize % SEGMENTS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(n: u32) -> u64 {
        u64::from(n).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }

    #[test]
    fn places_are_found_by_hash_and_comparison_until_removed() {
        let mut index = Index::default();
        // Two places for each key.
        let key = |at: u32| at / 2;
        let of = |at: u32| hash(key(at));
        for at in 0..40_000 {
            index.insert(of(at), at, of);
        }
        assert_eq!(index.len(), 40_000);
        for at in 0..40_000 {
            assert_eq!(index.find(of(at), |other| other == at), Some(at));
            let mut same: Vec<u32> = index.candidates(of(at)).filter(|other| key(*other) == key(at)).collect();
            same.sort_unstable();
            assert_eq!(same, [2 * key(at), 2 * key(at) + 1]);
        }
        for at in (0..40_000).step_by(2) {
            assert!(index.remove(of(at), at));
            assert!(!index.remove(of(at), at));
        }
        assert_eq!(index.len(), 20_000);
        assert_eq!(index.find(of(6), |other| key(other) == 3), Some(7));
    }
}
