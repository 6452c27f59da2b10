//! How long messages take from being pushed to their first socket here: a sample of batches, in buckets.

use super::stats::Counter;

/// Upper bounds in milliseconds; what took longer is counted behind them.
pub const BOUNDS_MS: [u64; 14] = [1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000];

/// One thread writes, anybody may read.
#[derive(Debug, Default)]
pub struct Latency {
    buckets: [Counter; BOUNDS_MS.len() + 1],
    sum_ms: Counter,
}

impl Latency {
    /// How many took longer than the bound before and not longer than this one; the last have none.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<u64>, u64)> + '_ {
        let bounds = BOUNDS_MS.iter().copied().map(Some).chain([None]);
        bounds.zip(self.buckets.iter().map(Counter::value))
    }

    pub fn sum_ms(&self) -> u64 {
        self.sum_ms.value()
    }

    /// Clocks of two machines differ: what seems to come from the future took no time.
    pub(super) fn note(&self, pushed_at_ms: i64, now_ms: i64) {
        let took = u64::try_from(now_ms.saturating_sub(pushed_at_ms)).unwrap_or(0);
        let at = BOUNDS_MS.partition_point(|bound| *bound < took);
        self.buckets[at].add(1);
        self.sum_ms.add(took);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_counted_below_its_bound() {
        let latency = Latency::default();
        for took in [-5, 0, 1, 2, 3, 5, 30_000, 30_001] {
            latency.note(1_000_000, 1_000_000 + took);
        }
        let counted: Vec<u64> = latency.buckets().map(|(_, count)| count).collect();
        assert_eq!(counted, [3, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        assert_eq!((latency.sum_ms(), latency.buckets().last()), (60_012, Some((None, 1))));
    }
}
