//! What one partition owes to others, carried there as production's carrier does it: in rounds, in the order of the log, a run
//! for each partition, asked again until it is taken; then the owner is told how far that came.

use std::collections::VecDeque;

use tidegate_control_core::domain::{Lsn, PartitionId, Refusal};
use tidegate_control_core::partition::{Errand, Reply};

use crate::planted::Seam;

/// Of one partition, under one owner.
#[derive(Default)]
pub struct Carrier {
    waiting: VecDeque<(Lsn, Errand)>,
    /// The present round: runs that have not arrived.
    runs: Vec<Run>,
    /// Up to here all has arrived once the round has.
    upto: Lsn,
    /// When it looks what is to be asked.
    pub acts_at: Option<u64>,
}

struct Run {
    to: PartitionId,
    errands: Vec<Errand>,
    /// The number of the attempt that has no answer yet.
    asked: Option<u64>,
    again_at: u64,
}

/// One attempt.
pub struct Attempt {
    pub number: u64,
    pub to: PartitionId,
    pub errands: Vec<Errand>,
}

impl Carrier {
    pub fn take(&mut self, at: u64, lsn: Lsn, errand: Errand) {
        self.waiting.push_back((lsn, errand));
        if self.runs.is_empty() {
            self.acts_at.get_or_insert(at);
        }
    }

    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.runs.is_empty()
    }

    /// What goes on its way now. A new round has `most` errands if there are so many.
    pub fn attempts(
        &mut self,
        now: u64,
        (most, partitions): (usize, u32),
        seam: Option<Seam>,
        numbers: &mut u64,
    ) -> Vec<Attempt> {
        self.acts_at = None;
        if self.runs.is_empty() {
            self.begin_round(most, partitions, seam);
        }
        let mut attempts = Vec::new();
        for run in self.runs.iter_mut().filter(|run| run.asked.is_none()) {
            if run.again_at > now {
                self.acts_at = Some(self.acts_at.map_or(run.again_at, |at| at.min(run.again_at)));
                continue;
            }
            *numbers += 1;
            run.asked = Some(*numbers);
            attempts.push(Attempt { number: *numbers, to: run.to, errands: run.errands.clone() });
        }
        attempts
    }

    fn begin_round(&mut self, most: usize, partitions: u32, seam: Option<Seam>) {
        let count = most.min(self.waiting.len());
        for (lsn, errand) in self.waiting.drain(..count) {
            self.upto = lsn;
            let to = PartitionId::of(&errand.to().stream(), partitions);
            let alone = seam == Some(Seam::ErrandsOneByOne);
            match self.runs.iter_mut().find(|run| run.to == to && !alone) {
                Some(run) => run.errands.push(errand),
                None => self.runs.push(Run { to, errands: vec![errand], asked: None, again_at: 0 }),
            }
        }
        // The rest of a record comes with the next round.
        if self.waiting.front().is_some_and(|(next, _)| *next == self.upto) {
            self.upto.0 -= 1;
        }
    }

    /// The round counts as arrived with its first attempt, as a bug would have it.
    pub fn promises(&self) -> Lsn {
        self.upto
    }

    pub fn has_asked(&self, number: u64) -> bool {
        self.runs.iter().any(|run| run.asked == Some(number))
    }

    /// Nobody is there, or nobody will answer. It is tried again then.
    pub fn missed(&mut self, number: u64, at: u64) {
        if let Some(run) = self.runs.iter_mut().find(|run| run.asked == Some(number)) {
            (run.asked, run.again_at) = (None, at);
            self.acts_at = Some(self.acts_at.map_or(at, |acts| acts.min(at)));
        }
    }

    /// Returns how far everything has arrived, if that moved.
    pub fn answered(
        &mut self,
        number: u64,
        result: Result<Reply, Refusal>,
        at: u64,
        again_at: u64,
    ) -> Result<Option<Lsn>, String> {
        match result {
            Ok(_) => {}
            Err(refusal) if refusal.code.retry() => {
                self.missed(number, again_at);
                return Ok(None);
            }
            Err(refusal) => return Err(format!("an errand was refused: {refusal}")),
        }
        self.runs.retain(|run| run.asked != Some(number));
        if !self.runs.is_empty() {
            return Ok(None);
        }
        self.acts_at = self.waiting.front().map(|_| at);
        Ok(Some(self.upto))
    }
}
