//! What control is told that nobody here wants any more, and the answers that such a word crosses.
//!
//! An open may name a stream just when it is forgotten. Control then registers the interest, hears `Forget`, and drops it
//! again, while the answer on its way here says that all is well: the stream would wait for deliveries that never come. So
//! forgotten streams are remembered while opens are under way, and an open that was asked before is asked again.

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use super::Hub;
use crate::ids::{PartitionId, StreamKey};
use crate::link::{Corr, ToLink};
use crate::planted::{self, Bug};

/// Streams remembered at once; while there are so many, others linger on.
const FORGOTTEN_MAX: usize = 64 * 1024;

#[derive(Debug)]
pub(super) struct Forgotten {
    /// Opens that had been asked when the stream was forgotten.
    streams: HashMap<StreamKey, u64, FixedState>,
    /// Opens asked so far.
    asked: u64,
}

impl Forgotten {
    pub fn new(seed: u64) -> Forgotten {
        Forgotten { streams: HashMap::with_hasher(FixedState::with_seed(seed)), asked: 0 }
    }

    pub fn is_full(&self) -> bool {
        self.streams.len() >= FORGOTTEN_MAX
    }

    /// Nothing is under way that could cross.
    pub fn clear(&mut self) {
        self.streams.clear();
    }

    fn remember(&mut self, stream: StreamKey) {
        self.streams.insert(stream, self.asked);
    }

    /// How many opens had been asked when the stream was forgotten.
    fn since(&self, stream: &StreamKey) -> Option<u64> {
        self.streams.get(stream).copied()
    }

    /// The number of an open that is asked now.
    pub fn number(&mut self) -> u64 {
        self.asked += 1;
        self.asked
    }
}

impl Hub {
    /// Nobody here has members of the stream, and it is not live.
    pub(super) fn forget(&mut self, stream: StreamKey) {
        let partition = self.links.of(stream.as_str());
        let Some(link) = self.links.at_mut(partition).filter(|link| link.up) else { return };
        if link.opens_asked > 0 {
            link.forgotten.remember(stream.clone());
        }
        self.to_link.push_back((partition, ToLink::Forget { stream }));
    }

    /// Whether control dropped the interest that this answer speaks of. Then the whole part is asked again at its end.
    pub(super) fn was_forgotten(&mut self, partition: PartitionId, corr: Corr, stream: &StreamKey) -> bool {
        let Some(link) = self.links.at(partition) else { return false };
        let forgotten = link.forgotten.since(stream);
        let Some(part) = self.part_mut(corr) else { return false };
        let crossed = forgotten.is_some_and(|asked| asked >= part.asked) && !planted::is(Bug::ForgetCrossesOpen);
        part.crossed |= crossed;
        crossed
    }
}
