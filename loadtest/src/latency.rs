//! Latencies from the intended time: one histogram per load, and one per second of the run for what changes over time.
//!
//! A message that never came counts as [`NEVER_US`], so that percentiles cannot look better by losing messages.

use hdrhistogram::Histogram;

/// One hour: recorded for a delivery that never came.
pub const NEVER_US: u64 = 3_600_000_000;
/// Most seconds of a run that have a histogram of their own; later ones share the last.
pub const SECONDS_MAX: usize = 4 * 3600;

/// Microseconds up to [`NEVER_US`] with three digits.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, NEVER_US, 3).expect("the bounds are valid")
}

/// Latencies of one load.
#[derive(Clone, Debug)]
pub struct Latency {
    pub all: Histogram<u64>,
    /// By the second in which the message was to be sent (of the run's clock).
    pub seconds: Vec<Histogram<u64>>,
}

impl Default for Latency {
    fn default() -> Self {
        Latency { all: histogram(), seconds: Vec::new() }
    }
}

impl Latency {
    /// A message that was to be sent at `intended_us` was shown `latency_us` later.
    pub fn record(&mut self, intended_us: u64, latency_us: u64) {
        self.record_many(intended_us, latency_us, 1);
    }

    /// `count` deliveries of it that never came.
    pub fn never(&mut self, intended_us: u64, count: u64) {
        self.record_many(intended_us, NEVER_US, count);
    }

    /// `count` deliveries of a message took equally long.
    pub fn record_many(&mut self, intended_us: u64, latency_us: u64, count: u64) {
        let latency_us = latency_us.clamp(1, NEVER_US);
        self.all.saturating_record_n(latency_us, count);
        let second = ((intended_us / 1_000_000) as usize).min(SECONDS_MAX - 1);
        while self.seconds.len() <= second {
            // Two digits are enough for a curve, and a run has thousands of these.
            let bucket = Histogram::new_with_bounds(1, NEVER_US, 2).expect("the bounds are valid");
            self.seconds.push(bucket);
        }
        self.seconds[second].saturating_record_n(latency_us, count);
    }

    pub fn merge(&mut self, other: &Latency) {
        let same_bounds = "both have the bounds of this module";
        self.all.add(&other.all).expect(same_bounds);
        for (second, bucket) in other.seconds.iter().enumerate() {
            match self.seconds.get_mut(second) {
                Some(mine) => mine.add(bucket).expect(same_bounds),
                None => self.seconds.push(bucket.clone()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_came_is_the_worst_latency() {
        let mut latency = Latency::default();
        (0..98).for_each(|_| latency.record(1_500_000, 2_000));
        latency.never(1_500_000, 2);
        assert_eq!(latency.all.len(), 100);
        assert!(latency.all.value_at_quantile(0.5) < 2_100);
        assert!(latency.all.value_at_quantile(0.99) >= NEVER_US / 1000 * 999);
        assert_eq!((latency.seconds[0].len(), latency.seconds[1].len()), (0, 100));
    }
}
