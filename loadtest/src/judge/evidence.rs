//! What was shown under each seq, by whoever was shown it first. Everybody else must be shown the same, so that at the end it
//! is held against the ledger once, and not once for each client.

use crate::payload::Stamp;
use crate::population::StreamNo;

/// Identity of a message: its id and its stamp, which stands for its whole content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub id: u64,
    pub stamp: Stamp,
}

/// By stream, then by seq − 1.
#[derive(Debug, Default)]
pub struct Evidence {
    streams: Vec<Vec<Option<Seen>>>,
}

/// Seqs are contiguous from 1 in the streams of a run, which are new; one far beyond must not cost memory.
const SEQ_JUMP_MAX: u64 = 1 << 20;

impl Evidence {
    /// False: something else was shown under this seq before, or no stream of this run can have it.
    pub fn record(&mut self, stream: StreamNo, seq: u64, seen: Seen) -> bool {
        let index = stream.0 as usize;
        if self.streams.len() <= index {
            self.streams.resize_with(index + 1, Vec::new);
        }
        let seqs = &mut self.streams[index];
        let Some(place) = seq.checked_sub(1).filter(|place| *place < seqs.len() as u64 + SEQ_JUMP_MAX) else {
            return false;
        };
        let place = place as usize;
        if seqs.len() <= place {
            seqs.resize(place + 1, None);
        }
        *seqs[place].get_or_insert(seen) == seen
    }

    pub fn at(&self, stream: StreamNo, seq: u64) -> Option<&Seen> {
        self.streams.get(stream.0 as usize)?.get(seq.checked_sub(1)? as usize)?.as_ref()
    }

    /// Seqs of a stream and what was shown under them, rising.
    pub fn of(&self, stream: StreamNo) -> impl Iterator<Item = (u64, &Seen)> {
        let seqs = self.streams.get(stream.0 as usize).map(Vec::as_slice).unwrap_or_default();
        seqs.iter().zip(1..).filter_map(|(seen, seq)| Some((seq, seen.as_ref()?)))
    }
}
