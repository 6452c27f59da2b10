//! Sets of seqs that are mostly empty or one range.

/// Most ranges of one set.
pub const RANGES_MAX: usize = 4096;

/// Disjoint, rising, inclusive ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    /// Adds `low ..= high`, which holds nothing of the set yet. False: the set is full and has not changed.
    #[must_use]
    pub fn add(&mut self, low: u64, high: u64) -> bool {
        let at = self.0.partition_point(|range| range.1 < low);
        let joins_left = at > 0 && self.0[at - 1].1 + 1 == low;
        let joins_right = self.0.get(at).is_some_and(|range| high + 1 == range.0);
        match (joins_left, joins_right) {
            (true, true) => self.0[at - 1].1 = self.0.remove(at).1,
            (true, false) => self.0[at - 1].1 = high,
            (false, true) => self.0[at].0 = low,
            (false, false) if self.0.len() < RANGES_MAX => self.0.insert(at, (low, high)),
            (false, false) => return false,
        }
        true
    }

    pub fn contains(&self, seq: u64) -> bool {
        self.find(seq).is_some()
    }

    /// Whether it was there.
    pub fn remove(&mut self, seq: u64) -> bool {
        let Some(at) = self.find(seq) else { return false };
        let (low, high) = self.0[at];
        match (low == seq, high == seq) {
            (true, true) => drop(self.0.remove(at)),
            (true, false) => self.0[at].0 = seq + 1,
            (false, true) => self.0[at].1 = seq - 1,
            (false, false) => {
                self.0[at].1 = seq - 1;
                self.0.insert(at + 1, (seq + 1, high));
            }
        }
        true
    }

    pub fn forget_oldest(&mut self) {
        if !self.0.is_empty() {
            self.0.remove(0);
        }
    }

    /// Forgets all above `seq`.
    pub fn keep_to(&mut self, seq: u64) {
        self.0.retain_mut(|range| {
            range.1 = range.1.min(seq);
            range.0 <= range.1
        });
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().copied()
    }

    fn find(&self, seq: u64) -> Option<usize> {
        let at = self.0.partition_point(|range| range.1 < seq);
        self.0.get(at).filter(|range| range.0 <= seq).map(|_| at)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_set(steps in prop::collection::vec((any::<bool>(), 0u64..60, 0u64..5), 0..80)) {
            let (mut ranges, mut set) = (Ranges::default(), BTreeSet::new());
            for (adds, low, more) in steps {
                if adds && (low..=low + more).all(|seq| !set.contains(&seq)) {
                    prop_assert!(ranges.add(low, low + more));
                    set.extend(low..=low + more);
                } else {
                    prop_assert_eq!(ranges.remove(low), set.remove(&low));
                }
                prop_assert!((0..70).all(|seq| ranges.contains(seq) == set.contains(&seq)));
                prop_assert_eq!(ranges.iter().flat_map(|(low, high)| low..=high).collect::<BTreeSet<_>>(), set.clone());
                prop_assert!(ranges.0.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0));
            }
        }
    }
}
