//! How sure a median of few noisy slices is.

/// Resamples of the bootstrap.
const RESAMPLES: usize = 2_000;

/// A median with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    pub median: f64,
    pub low: f64,
    pub high: f64,
}

/// Percentile bootstrap (Efron 1979) of the median; the same seed gives the same interval. All NaN if there is no value.
pub fn interval(values: &[f64], seed: u64) -> Interval {
    let mut random = SplitMix(seed);
    let mut sample = vec![0.0; values.len()];
    let mut medians: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            sample.iter_mut().for_each(|slot| *slot = values[random.below(values.len())]);
            median(&mut sample)
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    let at = |quantile: f64| medians[(quantile * (RESAMPLES - 1) as f64).round() as usize];
    Interval { median: median(&mut values.to_vec()), low: at(0.025), high: at(0.975) }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[half],
        _ => f64::midpoint(values[half - 1], values[half]),
    }
}

/// Steele, Lea, Flood 2014: a counter and a mixing function are random enough to resample with.
struct SplitMix(u64);

impl SplitMix {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        // The high half of a widening multiplication maps evenly to 0..bound.
        ((u128::from(mixed ^ (mixed >> 31)) * bound as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_holds_the_median_and_narrows_with_values() {
        let few: Vec<f64> = (0..9).map(|n| 5.0 + f64::from(n * 7 % 9) / 9.0).collect();
        let many: Vec<f64> = (0..900).map(|n| 5.0 + f64::from(n * 7 % 9) / 9.0).collect();
        let (wide, narrow) = (interval(&few, 1), interval(&many, 1));
        for interval in [wide, narrow] {
            assert!(interval.low <= interval.median && interval.median <= interval.high, "{interval:?}");
            assert!(interval.low >= 5.0 && interval.high < 6.0, "{interval:?}");
        }
        assert!((wide.median - (5.0 + 4.0 / 9.0)).abs() < 1e-9);
        assert!(narrow.high - narrow.low < wide.high - wide.low, "{wide:?} {narrow:?}");
    }

    #[test]
    fn the_seed_decides() {
        let values: Vec<f64> = (0..20).map(|n| f64::from(n * n)).collect();
        assert_eq!(interval(&values, 7), interval(&values, 7));
        assert_ne!(interval(&values, 7), interval(&values, 8));
    }

    #[test]
    fn one_value_is_its_own_interval_and_none_is_nan() {
        assert_eq!(interval(&[3.0], 1), Interval { median: 3.0, low: 3.0, high: 3.0 });
        assert!(interval(&[], 1).median.is_nan());
        assert_eq!(interval(&[1.0, 3.0], 1).median, 2.0);
    }
}
