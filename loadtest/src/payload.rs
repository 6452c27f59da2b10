//! What a published message holds: its stamp, then a filling that follows from it, so that every byte can be checked by
//! whoever receives it.

use std::fmt::Write as _;

/// Smallest payload that holds any stamp.
pub const PAYLOAD_BYTES_MIN: usize = 48;

/// The type that every message is pushed with.
pub const TYPE: &str = "text";

/// What a message is filled up with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Filling {
    /// Letters without order, which hardly compress.
    #[default]
    Letters,
    /// Words as in a chat.
    Words,
}

const WORDS: [&str; 128] = [
    "the", "you", "and", "that", "was", "for", "are", "with", "this", "have", "from", "not", "but", "what", "all",
    "were", "when", "your", "can", "said", "there", "use", "each", "which", "she", "how", "their", "will", "other",
    "about", "out", "many", "then", "them", "these", "some", "her", "would", "make", "like", "him", "into", "time",
    "has", "look", "two", "more", "write", "see", "number", "way", "could", "people", "than", "first", "water", "been",
    "call", "who", "oil", "now", "find", "long", "down", "day", "did", "get", "come", "made", "may", "part", "over",
    "new", "sound", "take", "only", "little", "work", "know", "place", "year", "live", "back", "give", "most", "very",
    "after", "thing", "our", "just", "name", "good", "sentence", "man", "think", "say", "great", "where", "help",
    "through", "much", "before", "line", "right", "too", "mean", "old", "any", "same", "tell", "boy", "follow", "came",
    "want", "show", "also", "around", "form", "three", "small", "set", "put", "end", "does", "another", "well",
    "large", "must",
];

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
    filled(stamp, bytes, Filling::Letters)
}

/// The same with another filling.
pub fn filled(stamp: Stamp, bytes: usize, filling: Filling) -> String {
    let bytes = bytes.max(PAYLOAD_BYTES_MIN);
    let mut text = String::with_capacity(bytes);
    let mark = if filling == Filling::Words { " w" } else { "" };
    let _ = write!(text, "t{} l{} n{} b{bytes}{mark};", stamp.intended_us, stamp.load, stamp.number);
    fill(&mut text, stamp, bytes, filling);
    text
}

fn fill(text: &mut String, stamp: Stamp, bytes: usize, filling: Filling) {
    let mut state = filling_seed(stamp);
    while text.len() < bytes {
        match filling {
            Filling::Letters => text.push(char::from(b'a' + (next(&mut state) % 26) as u8)),
            Filling::Words => {
                text.push(' ');
                text.push_str(WORDS[(next(&mut state) % WORDS.len() as u64) as usize]);
            }
        }
    }
    text.truncate(bytes);
}

/// The stamp, if the content is whole and unchanged.
pub fn verify(content: &str) -> Option<Stamp> {
    let (head, _) = content.split_once(';')?;
    let mut parts = head.split(' ');
    let intended_us = parts.next()?.strip_prefix('t')?.parse().ok()?;
    let load = parts.next()?.strip_prefix('l')?.parse().ok()?;
    let number = parts.next()?.strip_prefix('n')?.parse().ok()?;
    let bytes: usize = parts.next()?.strip_prefix('b')?.parse().ok()?;
    let words = parts.next();
    let stamp = Stamp { load, number, intended_us };
    if content.len() != bytes || words.is_some_and(|mark| mark != "w") || parts.next().is_some() {
        return None;
    }
    let filling = if words.is_some() { Filling::Words } else { Filling::Letters };
    let mut wanted = String::with_capacity(bytes);
    wanted.push_str(&content[..=head.len()]);
    fill(&mut wanted, stamp, bytes, filling);
    (wanted == content).then_some(stamp)
}

fn filling_seed(stamp: Stamp) -> u64 {
    (stamp.number ^ stamp.intended_us.rotate_left(32) ^ u64::from(stamp.load) << 56) | 1
}

fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
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
            assert_eq!(verify(&filled(STAMP, bytes, Filling::Words)), Some(STAMP));
        }
        let longest = Stamp { load: u16::MAX, number: 1 << 40, intended_us: 1 << 40 };
        assert_eq!(content(longest, PAYLOAD_BYTES_MIN).len(), PAYLOAD_BYTES_MIN);
    }

    #[test]
    fn any_change_is_seen() {
        for filling in [Filling::Letters, Filling::Words] {
            changes_are_seen(&filled(STAMP, 128, filling));
        }
        assert_eq!(verify("hello"), None);
    }

    fn changes_are_seen(text: &str) {
        for at in 0..text.len() {
            let mut bytes = text.as_bytes().to_vec();
            bytes[at] = if bytes[at] == b'#' { b'$' } else { b'#' };
            assert_eq!(verify(&String::from_utf8(bytes).expect("ASCII")), None, "byte {at}");
        }
        for cut in 0..text.len() {
            assert_eq!(verify(&text[..cut]), None, "{cut} bytes of it");
        }
        assert_eq!(verify(&format!("{text}a")), None);
    }
}
