//! What a published message holds: its stamp, then a filling that follows from it, so that every byte can be checked by
//! whoever receives it.

use std::fmt::Write as _;

/// Smallest payload that holds any stamp.
pub const PAYLOAD_BYTES_MIN: usize = 48;

/// The type that every message is pushed with.
pub const TYPE: &str = "text";

/// Which message this is and when it was to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stamp {
    /// Index of the load in the scenario.
    pub load: u16,
    /// Number within the load, from 0.
    pub number: u64,
    /// When the schedule meant it to be sent, in µs of the run's clock.
    pub intended_us: u64,
}

/// The content of a message of `bytes` bytes, at least [`PAYLOAD_BYTES_MIN`]. It names its own length, so that a cut is seen.
pub fn content(stamp: Stamp, bytes: usize) -> String {
    let bytes = bytes.max(PAYLOAD_BYTES_MIN);
    let mut text = String::with_capacity(bytes);
    let _ = write!(text, "t{} l{} n{} b{bytes};", stamp.intended_us, stamp.load, stamp.number);
    let mut state = filling_seed(stamp);
    while text.len() < bytes {
        text.push(next_letter(&mut state));
    }
    text
}

/// The stamp, if the content is whole and unchanged.
pub fn verify(content: &str) -> Option<Stamp> {
    let (head, filling) = content.split_once(';')?;
    let mut parts = head.split(' ');
    let intended_us = parts.next()?.strip_prefix('t')?.parse().ok()?;
    let load = parts.next()?.strip_prefix('l')?.parse().ok()?;
    let number = parts.next()?.strip_prefix('n')?.parse().ok()?;
    let bytes: usize = parts.next()?.strip_prefix('b')?.parse().ok()?;
    let stamp = Stamp { load, number, intended_us };
    let mut state = filling_seed(stamp);
    let whole = parts.next().is_none()
        && content.len() == bytes
        && filling.chars().all(|letter| letter == next_letter(&mut state));
    whole.then_some(stamp)
}

fn filling_seed(stamp: Stamp) -> u64 {
    (stamp.number ^ stamp.intended_us.rotate_left(32) ^ u64::from(stamp.load) << 56) | 1
}

fn next_letter(state: &mut u64) -> char {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    char::from(b'a' + (*state % 26) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { load: 3, number: 77, intended_us: 1_234_567 };

    #[test]
    fn what_was_made_is_recognised() {
        for bytes in [0, 48, 128, 4096] {
            let text = content(STAMP, bytes);
            assert!(text.len() >= bytes);
            assert_eq!(verify(&text), Some(STAMP));
        }
        let longest = Stamp { load: u16::MAX, number: 1 << 40, intended_us: 1 << 40 };
        assert_eq!(content(longest, PAYLOAD_BYTES_MIN).len(), PAYLOAD_BYTES_MIN);
    }

    #[test]
    fn any_change_is_seen() {
        let text = content(STAMP, 128);
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] = if bytes[at] == b'#' { b'$' } else { b'#' };
            assert_eq!(verify(&String::from_utf8(bytes).expect("ASCII")), None, "byte {at}");
        }
        for cut in 0..text.len() {
            assert_eq!(verify(&text[..cut]), None, "{cut} bytes of it");
        }
        assert_eq!(verify(&format!("{text}a")), None);
        assert_eq!(verify("hello"), None);
    }
}
