//! What was found wrong: all counted, the first ones kept with their words.

use std::fmt;

/// Most findings that are kept with their text.
pub const FINDINGS_MAX: usize = 100;
/// So many of each kind are kept even beyond that: a flood of losses must not hide the hole that they came from.
const OF_EACH_KIND_MIN: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Answered OK to the publisher and never shown.
    Lost,
    /// Came live a second time.
    Duplicated,
    /// Came live after a higher seq, or not in order within its frame.
    Reordered,
    /// Of a stream that this client does not follow.
    WrongRecipient,
    /// Not the content that was published under this seq.
    WrongPayload,
    /// A hole that no pull filled before the end.
    UnhealedHole,
    /// Anything else against the protocol: outside its range, live within a gap, another epoch, no valid frame.
    Protocol,
}

impl Kind {
    pub const ALL: [Kind; 7] = [
        Kind::Lost,
        Kind::Duplicated,
        Kind::Reordered,
        Kind::WrongRecipient,
        Kind::WrongPayload,
        Kind::UnhealedHole,
        Kind::Protocol,
    ];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Lost => "lost",
            Kind::Duplicated => "duplicated",
            Kind::Reordered => "reordered",
            Kind::WrongRecipient => "wrong recipient",
            Kind::WrongPayload => "wrong payload",
            Kind::UnhealedHole => "unhealed hole",
            Kind::Protocol => "against the protocol",
        })
    }
}

#[derive(Clone, Debug, Default)]
pub struct Findings {
    counts: [u64; Kind::ALL.len()],
    /// Texts of each kind.
    kept: [usize; Kind::ALL.len()],
    texts: Vec<String>,
}

impl Findings {
    /// `what` names client, stream and seq; it is made only while texts are kept.
    pub fn add(&mut self, kind: Kind, what: impl FnOnce() -> String) {
        self.counts[kind as usize] += 1;
        self.keep(kind, what);
    }

    /// Counts without words.
    pub(super) fn count_more(&mut self, kind: Kind, count: u64) {
        self.counts[kind as usize] += count;
    }

    /// Keeps words for what is counted elsewhere.
    pub(super) fn keep(&mut self, kind: Kind, what: impl FnOnce() -> String) {
        if self.has_room() || self.kept[kind as usize] < OF_EACH_KIND_MIN {
            self.kept[kind as usize] += 1;
            self.texts.push(format!("{kind}: {}", what()));
        }
    }

    pub(super) fn has_room(&self) -> bool {
        self.texts.len() < FINDINGS_MAX
    }

    pub fn count(&self, kind: Kind) -> u64 {
        self.counts[kind as usize]
    }

    pub fn is_clean(&self) -> bool {
        self.counts.iter().all(|count| *count == 0)
    }

    pub fn texts(&self) -> &[String] {
        &self.texts
    }

    pub fn merge(&mut self, other: Findings) {
        for (mine, more) in self.counts.iter_mut().zip(other.counts) {
            *mine += more;
        }
        let room = (FINDINGS_MAX + OF_EACH_KIND_MIN * Kind::ALL.len()).saturating_sub(self.texts.len());
        self.texts.extend(other.texts.into_iter().take(room));
    }
}
