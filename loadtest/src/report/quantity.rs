//! Numbers as people read them: three digits that matter, thousands set apart, a unit that fits.

use crate::latency::NEVER_US;

/// `1,234,567`.
pub fn count(number: u64) -> String {
    grouped(&number.to_string())
}

/// Three digits that matter; whole from 100 on.
pub fn number(value: f64) -> String {
    rounded(value, 3)
}

/// As [`number`], with as many digits as it takes to tell the value from a limit that it did not meet exactly.
pub fn beside(value: f64, limit: f64) -> String {
    let told_apart = |digits: &i32| rounded(value, *digits) != rounded(limit, *digits) || value == limit;
    let digits = (3..=15).find(told_apart).unwrap_or(15);
    rounded(value, digits)
}

/// For ticks: no digit more than it has.
pub fn plain(value: f64) -> String {
    let text = format!("{value:.9}");
    grouped(text.trim_end_matches('0').trim_end_matches('.'))
}

/// For ticks of large numbers: `20 k`, `1.5 M`.
pub fn compact(value: f64) -> String {
    match value.abs() {
        large if large >= 1e9 => format!("{} G", plain(value / 1e9)),
        large if large >= 1e6 => format!("{} M", plain(value / 1e6)),
        large if large >= 1e4 => format!("{} k", plain(value / 1e3)),
        _ => plain(value),
    }
}

/// Milliseconds without their unit; what never came is said so.
pub fn ms(value: f64) -> String {
    if is_never(value) { "never".to_owned() } else { number(value) }
}

pub fn ms_unit(value: f64) -> String {
    match value {
        never if is_never(never) => "never".to_owned(),
        long if long >= 10_000.0 => format!("{} s", number(long / 1000.0)),
        short => format!("{} ms", number(short)),
    }
}

/// Whether a latency stands for a message that never came. Histograms round, hence the thousandth.
pub fn is_never(ms: f64) -> bool {
    ms >= NEVER_US as f64 / 1000.0 * 0.999
}

pub fn bytes(value: f64) -> String {
    let (unit, name) = byte_unit(value);
    format!("{} {name}", number(value / unit))
}

/// The largest binary unit of which there is at least one.
pub fn byte_unit(value: f64) -> (f64, &'static str) {
    match value.abs() {
        large if large >= 1024f64.powi(3) => (1024f64.powi(3), "GiB"),
        large if large >= 1024f64.powi(2) => (1024f64.powi(2), "MiB"),
        large if large >= 1024.0 => (1024.0, "KiB"),
        _ => (1.0, "B"),
    }
}

/// `7.3 s`, `1 min 30 s`.
pub fn seconds(value: f64) -> String {
    let whole = value.round() as u64;
    match whole {
        0..60 => format!("{} s", plain((value * 10.0).round() / 10.0)),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}

fn rounded(value: f64, digits: i32) -> String {
    if value == 0.0 || !value.is_finite() {
        return if value == 0.0 { "0".to_owned() } else { "not a number".to_owned() };
    }
    // Rounding may carry into one more digit (9.996 to 10.0), so the magnitude is taken of the rounded value.
    let magnitude = |value: f64| value.abs().log10().floor() as i32;
    let places = |value: f64| (digits - 1 - magnitude(value)).max(0);
    let scale = 10f64.powi(places(value));
    let places = places((value * scale).round() / scale).clamp(0, 15) as usize;
    grouped(&format!("{value:.places$}"))
}

fn grouped(text: &str) -> String {
    let (sign, text) = text.strip_prefix('-').map_or(("", text), |rest| ("-", rest));
    let (whole, fraction) = text.split_once('.').map_or((text, None), |(whole, fraction)| (whole, Some(fraction)));
    let mut grouped = sign.to_owned();
    for (place, digit) in whole.chars().enumerate() {
        if place > 0 && (whole.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    fraction.map_or(grouped.clone(), |fraction| format!("{grouped}.{fraction}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_that_matter() {
        let shown = [0.0, 0.01234, 0.5, 9.996, 12.34, 999.6, 1234.4, -1234567.0].map(number);
        assert_eq!(shown, ["0", "0.0123", "0.500", "10.0", "12.3", "1,000", "1,234", "-1,234,567"]);
    }

    #[test]
    fn a_missed_limit_never_looks_kept() {
        assert_eq!(beside(65.02, 65.0), "65.02");
        assert_eq!(beside(64.0, 65.0), "64.0");
        assert_eq!(beside(65.0, 65.0), "65.0");
        assert_eq!(beside(99_999.6, 100_000.0), "99,999.6");
        assert_eq!(beside(0.9000001, 0.9), "0.9000001");
    }

    #[test]
    fn units_fit() {
        assert_eq!([398.0, 4300.0, 25_000_000_000.0].map(bytes), ["398 B", "4.20 KiB", "23.3 GiB"]);
        assert_eq!([0.042, 31.21, 12_500.0, 3_600_000.0].map(ms_unit), ["0.0420 ms", "31.2 ms", "12.5 s", "never"]);
        assert_eq!([0.0, 2.5, 9000.0, 20_000.0, 1_500_000.0].map(compact), ["0", "2.5", "9,000", "20 k", "1.5 M"]);
        assert_eq!([7.26, 90.0, 3700.0].map(seconds), ["7.3 s", "1 min 30 s", "1 h 1 min"]);
        assert_eq!(count(1_000), "1,000");
    }
}
