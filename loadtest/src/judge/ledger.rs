//! What a publisher knows: every answered message with its place.

use hashbrown::HashSet;

use crate::payload::Stamp;
use crate::population::{Population, StreamNo};

/// A message that was answered OK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    pub seq: u64,
    pub id: u64,
    pub stamp: Stamp,
}

/// Answered messages by stream and seq.
#[derive(Debug, Default)]
pub struct Ledger {
    /// By stream, then by seq − 1.
    streams: Vec<Vec<Option<Answered>>>,
    answered: u64,
    seqs_used_twice: u64,
    /// Load and number of messages that may have been stored, though nobody was told where.
    untold: HashSet<(u16, u64)>,
}

/// Seqs are contiguous from 1 in the streams of a run, which are new; an answer far beyond is the server's mistake, and must not cost memory.
const SEQ_JUMP_MAX: u64 = 16 << 20;

impl Ledger {
    /// Records an answer; false: the server gave a seq twice or one that no stream of this run can have.
    pub fn record(&mut self, stream: StreamNo, answered: Answered) -> bool {
        let index = stream.0 as usize;
        if self.streams.len() <= index {
            self.streams.resize_with(index + 1, Vec::new);
        }
        let seqs = &mut self.streams[index];
        let Some(place) = answered.seq.checked_sub(1).filter(|place| *place < seqs.len() as u64 + SEQ_JUMP_MAX) else {
            self.seqs_used_twice += 1;
            return false;
        };
        let place = place as usize;
        if seqs.len() <= place {
            seqs.resize(place + 1, None);
        }
        match seqs[place] {
            // The first answer stands: what was shown is held against one of them only.
            Some(before) if before.id != answered.id => {
                self.seqs_used_twice += 1;
                false
            }
            Some(_) => true,
            None => {
                seqs[place] = Some(answered);
                self.answered += 1;
                true
            }
        }
    }

    /// A message that may be shown or not: its answer never came, or says nothing about it.
    pub fn leave_open(&mut self, stamp: Stamp) {
        self.untold.insert((stamp.load, stamp.number));
    }

    pub fn is_open(&self, stamp: Stamp) -> bool {
        self.untold.contains(&(stamp.load, stamp.number))
    }

    pub fn answered(&self) -> u64 {
        self.answered
    }

    /// Answered messages × who is to be shown them, if all followed from the beginning.
    pub fn deliveries(&self, population: &Population) -> u64 {
        let streams = (0..self.streams.len() as u32).map(StreamNo);
        streams.map(|stream| self.of(stream).count() as u64 * u64::from(population.audience(stream))).sum()
    }

    pub fn seqs_used_twice(&self) -> u64 {
        self.seqs_used_twice
    }

    /// The answered messages of a stream, in order.
    pub fn of(&self, stream: StreamNo) -> impl DoubleEndedIterator<Item = &Answered> {
        self.streams.get(stream.0 as usize).into_iter().flatten().flatten()
    }

    pub fn at(&self, stream: StreamNo, seq: u64) -> Option<&Answered> {
        self.streams.get(stream.0 as usize)?.get(seq.checked_sub(1)? as usize)?.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(seq: u64, id: u64) -> Answered {
        Answered { seq, id, stamp: Stamp { load: 0, number: id, intended_us: 0 } }
    }

    #[test]
    fn a_seq_given_twice_is_seen() {
        let mut ledger = Ledger::default();
        assert!(ledger.record(StreamNo(3), answered(2, 7)));
        assert!(ledger.record(StreamNo(3), answered(2, 7)), "the same answer again is a retry");
        assert!(!ledger.record(StreamNo(3), answered(2, 8)));
        assert!(!ledger.record(StreamNo(3), answered(0, 9)));
        assert!(!ledger.record(StreamNo(3), answered(1 << 60, 9)));
        assert_eq!((ledger.answered(), ledger.seqs_used_twice()), (1, 3));
        assert_eq!(ledger.of(StreamNo(3)).copied().collect::<Vec<_>>(), [answered(2, 7)], "the first answer stands");
        assert!(ledger.at(StreamNo(3), 2).is_some() && ledger.at(StreamNo(3), 1).is_none());
        assert_eq!(ledger.of(StreamNo(0)).count(), 0);
    }
}
