//! What control is told that nobody here wants any more, and the answers that such a word crosses.
//!
//! An open may name a stream just when it is forgotten. Control then registers the interest, hears `Forget`, and drops it
//! again, while the answer on its way here says that all is well: the stream would wait for deliveries that never come. So
//! forgotten streams are remembered while opens are under way, and an open that was asked before is asked again.

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use super::Hub;
use super::open::{PendingOpen, Stage};
use crate::ids::{Now, StreamKey};
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

    /// The number of an open that is asked now.
    pub fn number(&mut self) -> u64 {
        self.asked += 1;
        self.asked
    }
}

impl Hub {
    /// Nobody here has members of the stream, and it is not live.
    pub(super) fn forget(&mut self, stream: StreamKey) {
        if !self.link.up {
            return;
        }
        if self.opens_asked > 0 {
            let asked = self.link.forgotten.asked;
            self.link.forgotten.streams.insert(stream.clone(), asked);
        }
        self.to_link.push_back(ToLink::Forget { stream });
    }

    /// Whether control dropped the interest that this answer speaks of. Then the whole open is asked again at its end.
    pub(super) fn was_forgotten(&mut self, corr: Corr, stream: &StreamKey) -> bool {
        let Some(open) = self.opens.get_mut(&corr) else { return false };
        let crossed = self.link.forgotten.streams.get(stream).is_some_and(|asked| *asked >= open.asked);
        let crossed = crossed && !planted::is(Bug::ForgetCrossesOpen);
        open.crossed |= crossed;
        crossed
    }

    pub(super) fn ask_again(&mut self, now: Now, corr: Corr) {
        let Some(open) = self.opens.get_mut(&corr) else { return };
        let entries = open.begin_again();
        self.to_ask.push_front(corr);
        self.retries.push_back(corr);
        self.release(now, entries);
    }
}

impl PendingOpen {
    /// What was answered counts for nothing. Returns what is to be let go.
    pub(super) fn begin_again(&mut self) -> Vec<super::open::Entry> {
        self.stage = Stage::Waiting;
        self.crossed = false;
        self.errors.clear();
        std::mem::take(&mut self.entries)
    }
}
