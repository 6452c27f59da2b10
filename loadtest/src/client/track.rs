//! One client's place in one stream: the client rule (a cursor), and exactly which seqs came live, so that nothing comes twice
//! or late without being seen. Both are one number each for a stream that runs as it should.

use std::sync::Arc;

use super::batch::Batch;
use super::epochs::EpochNo;
use super::ranges::Ranges;
use crate::population::StreamNo;

/// Messages kept aside behind a hole; what comes beyond is pulled.
const ASIDE_MAX: usize = 256;

#[derive(Debug)]
pub struct Track {
    pub stream: StreamNo,
    pub epoch: EpochNo,
    /// Where this client began to follow.
    pub start: u64,
    /// The cursor: everything up to here was shown or passed over.
    pub last: u64,
    /// The highest seq that came live.
    pub live: u64,
    /// What a stream without trouble does not need.
    pub rare: Option<Box<Rare>>,
}

#[derive(Debug, Default)]
pub struct Rare {
    /// Not above `live`, and did not come live.
    unseen: Ranges,
    /// Not above `last`, covered by a range, and in no frame.
    absent: Ranges,
    pub behind: Option<Behind>,
    /// Live frames above a hole.
    aside: Vec<Arc<Batch>>,
    /// The next live frame may be the recovery that the answer to `connect` announced, up to this seq.
    pub recovers_to: Option<u64>,
    /// When a refused join is asked again.
    pub join_at_us: Option<u64>,
}

/// In a gap or with a hole.
#[derive(Clone, Copy, Debug)]
pub struct Behind {
    /// Id of the pull under way.
    pub request: Option<u32>,
    pub not_before_us: u64,
    /// A gap was told: no live frame may come before a pull reached the head.
    pub is_gap: bool,
    /// A gap was told while a pull was under way: its answer may not reach far enough.
    pub again: bool,
}

/// What a live message is to the client that gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    New,
    /// Passed over: a pull or a recovery had it already.
    Overlap,
    /// After a higher one, and not shown before.
    Late,
    /// It came live before.
    Again,
}

impl Track {
    pub fn new(stream: StreamNo) -> Track {
        Track { stream, epoch: EpochNo::NONE, start: 0, last: 0, live: 0, rare: None }
    }

    /// Begins to follow after `at`.
    pub fn begin(&mut self, epoch: EpochNo, at: u64) {
        (self.epoch, self.start, self.last, self.live) = (epoch, at, at, at);
    }

    /// Goes on in another epoch, or where the server's memory begins, from `at`. What this passes over is absent.
    pub fn begin_anew(&mut self, epoch: EpochNo, at: u64) {
        let Rare { mut unseen, mut absent, .. } = self.rare.take().map(|rare| *rare).unwrap_or_default();
        unseen.keep_to(at);
        absent.keep_to(at);
        // Sets that are full were full of findings.
        if at > self.live {
            let _ = unseen.add(self.live + 1, at);
        }
        if at > self.last {
            let _ = absent.add(self.last + 1, at);
        }
        (self.epoch, self.start, self.last, self.live) = (epoch, self.start.min(at), at, at);
        if !unseen.is_empty() || !absent.is_empty() {
            self.rare = Some(Box::new(Rare { unseen, absent, ..Rare::default() }));
        }
    }

    pub fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    pub fn behind(&self) -> Option<&Behind> {
        self.rare.as_ref()?.behind.as_ref()
    }

    pub fn absent(&self) -> Option<&Ranges> {
        Some(&self.rare.as_ref()?.absent)
    }

    pub fn was_shown(&self, seq: u64) -> bool {
        seq <= self.last && seq > self.start && self.absent().is_none_or(|absent| !absent.contains(seq))
    }

    /// Whether a plain batch can be taken by moving the cursor.
    pub fn takes_plainly(&self, batch: &Batch) -> bool {
        batch.plain
            && batch.after == self.last
            && self.live == self.last
            && batch.epoch == self.epoch
            && self.rare.as_ref().is_none_or(|rare| rare.behind.is_none() && rare.recovers_to.is_none())
    }

    /// Notes that a seq came live.
    pub fn arrived(&mut self, seq: u64) -> Arrival {
        if seq <= self.start {
            return Arrival::Overlap;
        }
        if seq <= self.live {
            let was_unseen = self.rare.as_mut().is_some_and(|rare| rare.unseen.remove(seq));
            return match (was_unseen, self.was_shown(seq)) {
                (false, _) => Arrival::Again,
                (true, true) => Arrival::Overlap,
                (true, false) => Arrival::Late,
            };
        }
        if seq > self.live + 1 {
            let (low, high) = (self.live + 1, seq - 1);
            let unseen = &mut self.rare().unseen;
            if !unseen.add(low, high) {
                // Nobody sends what was passed over so long ago; if it comes it counts as a duplicate.
                unseen.forget_oldest();
                let _ = unseen.add(low, high);
            }
        }
        self.live = seq;
        match (seq <= self.last, self.was_shown(seq)) {
            (false, _) => Arrival::New,
            (true, true) => Arrival::Overlap,
            (true, false) => Arrival::Late,
        }
    }

    /// Moves the cursor to `upto`, over a range that holds just `new` of what is above the cursor, rising. False: there was no
    /// room to note what is missing.
    #[must_use]
    pub fn cover(&mut self, upto: u64, new: impl Iterator<Item = u64>) -> bool {
        let mut noted = true;
        let mut next = self.last + 1;
        for seq in new.chain((upto >= next).then_some(upto + 1)) {
            if seq > next {
                noted &= self.rare().absent.add(next, seq - 1);
            }
            next = seq + 1;
        }
        self.last = self.last.max(upto);
        noted
    }

    /// A message that was passed over came after all.
    pub fn came_late(&mut self, seq: u64) -> bool {
        self.rare.as_mut().is_some_and(|rare| rare.absent.remove(seq))
    }

    /// Keeps a live frame for when the hole before it is filled.
    pub fn keep_aside(&mut self, batch: Arc<Batch>) {
        let aside = &mut self.rare().aside;
        let kept: usize = aside.iter().map(|batch| batch.items.len()).sum();
        if kept + batch.items.len() <= ASIDE_MAX {
            aside.push(batch);
        }
    }

    /// A frame that was kept aside and has no hole before it any more. What pulls have overtaken is dropped.
    pub fn take_aside(&mut self) -> Option<Arc<Batch>> {
        let last = self.last;
        let aside = &mut self.rare.as_mut()?.aside;
        aside.retain(|batch| batch.upto > last);
        let at = aside.iter().position(|batch| batch.after <= last)?;
        Some(aside.remove(at))
    }

    /// The connection ended: what was under way on it is void. What came live and was not shown will come again.
    pub fn disconnected(&mut self) {
        self.live = self.live.min(self.last);
        if let Some(rare) = &mut self.rare {
            rare.behind = None;
            rare.join_at_us = None;
            rare.recovers_to = None;
            rare.aside.clear();
            rare.unseen.keep_to(self.last);
            if rare.unseen.is_empty() && rare.absent.is_empty() {
                self.rare = None;
            }
        }
    }
}
