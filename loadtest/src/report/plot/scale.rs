//! From values to places on an axis, and the round values at which an axis has its ticks.

use crate::report::quantity;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    Linear {
        low: f64,
        high: f64,
        /// Ticks are round in this unit: 60 for minutes on an axis of seconds.
        unit: f64,
    },
    Log {
        low: f64,
        high: f64,
    },
    /// Shares below 1, by what lies beyond them: 0.9, 0.99 and 0.999 are equally far apart.
    Tail {
        low: f64,
        high: f64,
    },
}

impl Scale {
    /// From zero to a round value at or above `highest`.
    pub fn from_zero(highest: f64, unit: f64) -> Scale {
        let highest = if highest > 0.0 { highest } else { unit };
        let step = round_step(highest / unit / 4.0) * unit;
        Scale::Linear { low: 0.0, high: (highest / step - 1e-9).ceil() * step, unit }
    }

    /// Round values around what is shown.
    pub fn around(lowest: f64, highest: f64) -> Scale {
        let span = (highest - lowest).max(highest.abs() * 0.01).max(1e-6);
        let step = round_step(span / 4.0);
        let low = (lowest / step - 0.25).floor() * step;
        Scale::Linear { low, high: (highest / step + 0.25).ceil() * step, unit: 1.0 }
    }

    /// Whole decades, or halves of them, around what is shown.
    pub fn log(lowest: f64, highest: f64) -> Scale {
        let lowest = lowest.max(1e-6);
        let rounds = || [1.0, 2.0, 5.0].into_iter();
        let decade = |value: f64| 10f64.powf(value.log10().floor());
        let low =
            rounds().map(|r| r * decade(lowest)).filter(|v| *v <= lowest * 1.000001).fold(decade(lowest), f64::max);
        let highest = highest.max(low * 2.0);
        let above = rounds().chain([10.0]).map(|r| r * decade(highest)).find(|v| *v >= highest * 0.999999);
        Scale::Log { low, high: above.unwrap_or(highest) }
    }

    /// Where the value stands between the axis's ends, from 0 to 1; beyond them it stays at the end.
    pub fn place(&self, value: f64) -> f64 {
        let (low, high, value) = match *self {
            Scale::Linear { low, high, .. } => (low, high, value),
            Scale::Log { low, high } => (low.log10(), high.log10(), value.max(low).log10()),
            Scale::Tail { low, high } => (nines(low), nines(high), nines(value)),
        };
        if high > low { ((value - low) / (high - low)).clamp(0.0, 1.0) } else { 0.5 }
    }

    /// At most `most` round values (of a logarithmic scale: about as many), within the axis.
    pub fn ticks(&self, most: usize) -> Vec<f64> {
        match *self {
            Scale::Linear { low, high, unit } => linear_ticks(low, high, unit, most),
            Scale::Log { low, high } => log_ticks(low, high, most),
            Scale::Tail { low, high } => {
                let within = |share: &f64| (low..=high).contains(share);
                [0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999].into_iter().filter(within).collect()
            }
        }
    }

    pub fn tick_text(&self, value: f64) -> String {
        match *self {
            Scale::Linear { unit, .. } => quantity::compact(value / unit),
            Scale::Log { .. } => quantity::compact(value),
            Scale::Tail { .. } => format!("{} %", quantity::plain(value * 100.0)),
        }
    }
}

fn nines(share: f64) -> f64 {
    -(1.0 - share.min(1.0 - 1e-12)).log10()
}

/// 1, 2 or 5 times a power of ten, at or above `least`.
fn round_step(least: f64) -> f64 {
    let decade = 10f64.powf(least.max(1e-12).log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|r| r * decade).find(|s| *s >= least * 0.999999).unwrap_or(decade * 10.0)
}

fn linear_ticks(low: f64, high: f64, unit: f64, most: usize) -> Vec<f64> {
    let step = round_step((high - low) / unit / most.saturating_sub(1).max(1) as f64) * unit;
    let first = (low / step - 1e-6).ceil() as i64;
    let last = (high / step + 1e-6).floor() as i64;
    (first..=last).map(|n| n as f64 * step).collect()
}

fn log_ticks(low: f64, high: f64, most: usize) -> Vec<f64> {
    let decades = (low.log10().floor() as i32)..=(high.log10().ceil() as i32);
    let within = |tick: &f64| *tick >= low * 0.999999 && *tick <= high * 1.000001;
    let of = |rounds: &[f64]| -> Vec<f64> {
        let all = decades.clone().flat_map(|decade| rounds.iter().map(move |round| round * 10f64.powi(decade)));
        all.filter(within).collect()
    };
    let ticks = [&[1.0, 2.0, 5.0][..], &[1.0, 3.0], &[1.0]].into_iter().map(of).find(|ticks| ticks.len() <= most);
    ticks.unwrap_or_else(|| {
        let decades = of(&[1.0]);
        let every = decades.len().div_ceil(most.max(1));
        decades.into_iter().step_by(every).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(scale: Scale, most: usize) -> Vec<String> {
        scale.ticks(most).into_iter().map(|tick| scale.tick_text(tick)).collect()
    }

    #[test]
    fn ticks_are_round_and_cover_the_values() {
        assert_eq!(texts(Scale::from_zero(31.2, 1.0), 6), ["0", "10", "20", "30", "40"]);
        assert_eq!(texts(Scale::from_zero(0.0, 1.0), 3), ["0", "0.5", "1"]);
        assert_eq!(texts(Scale::from_zero(812_000.0, 1.0), 6), ["0", "200 k", "400 k", "600 k", "800 k", "1 M"]);
        assert_eq!(texts(Scale::Linear { low: 0.0, high: 59.7, unit: 1.0 }, 7), ["0", "10", "20", "30", "40", "50"]);
        assert_eq!(
            texts(Scale::Linear { low: 0.0, high: 3600.0, unit: 60.0 }, 7),
            ["0", "10", "20", "30", "40", "50", "60"]
        );
        assert_eq!(texts(Scale::around(1.04, 1.13), 6), ["1", "1.05", "1.1", "1.15"]);
    }

    #[test]
    fn logarithmic_ticks_thin_out_by_rounds_then_by_decades() {
        assert_eq!(texts(Scale::log(0.3, 12.0), 8), ["0.2", "0.5", "1", "2", "5", "10", "20"]);
        assert_eq!(texts(Scale::log(0.3, 900.0), 6), ["1", "10", "100", "1,000"]);
        assert_eq!(texts(Scale::log(0.00001, 1_000_000.0), 6), ["0.00001", "0.001", "0.1", "10", "1,000", "100 k"]);
    }

    #[test]
    fn nines_are_equally_far_apart() {
        let tail = Scale::Tail { low: 0.5, high: 0.9999 };
        assert_eq!(texts(tail, 9), ["50 %", "90 %", "99 %", "99.9 %", "99.99 %"]);
        let (a, b, c) = (tail.place(0.9), tail.place(0.99), tail.place(0.999));
        assert!(((b - a) - (c - b)).abs() < 1e-6);
        assert_eq!((tail.place(0.5), tail.place(1.0)), (0.0, 1.0));
    }

    #[test]
    fn one_value_or_none_still_makes_an_axis() {
        for scale in [Scale::from_zero(0.0, 60.0), Scale::around(1.0, 1.0), Scale::log(0.0, 0.0), Scale::log(5.0, 5.0)]
        {
            assert!(scale.place(1.0).is_finite() && !scale.ticks(5).is_empty(), "{scale:?}");
        }
    }
}
