//! What one partition owes to others, carried there as production's carrier does it: one after the other, in the order of the
//! log, again until it is taken; then the partition is told how far that came.

use std::collections::VecDeque;

use tidegate_control_core::domain::{Lsn, PartitionId, Refusal};
use tidegate_control_core::partition::{Errand, Reply};

/// Of one partition, under one owner.
#[derive(Default)]
pub struct Carrier {
    waiting: VecDeque<(Lsn, Errand)>,
    /// The number of the attempt that has no answer yet.
    asked: Option<u64>,
    numbers: u64,
    /// When the next attempt is made.
    pub acts_at: Option<u64>,
}

/// One attempt.
pub struct Attempt {
    pub number: u64,
    pub to: PartitionId,
    pub errand: Errand,
}

impl Carrier {
    pub fn take(&mut self, at: u64, lsn: Lsn, errand: Errand) {
        self.waiting.push_back((lsn, errand));
        if self.asked.is_none() {
            self.acts_at.get_or_insert(at);
        }
    }

    /// Another owner carries from here on. Numbers go on: answers to the one before are not for it.
    pub fn begin_anew(&mut self) {
        *self = Carrier { numbers: self.numbers, ..Carrier::default() };
    }

    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The oldest goes on its way.
    pub fn attempt(&mut self, partitions: u32) -> Option<Attempt> {
        self.acts_at = None;
        let (_, errand) = self.waiting.front()?;
        self.numbers += 1;
        self.asked = Some(self.numbers);
        let to = PartitionId::of(&errand.to().stream(), partitions);
        Some(Attempt { number: self.numbers, to, errand: errand.clone() })
    }

    /// Nobody is there, or nobody will answer. It is tried again then.
    pub fn missed(&mut self, number: u64, at: u64) {
        if self.asked == Some(number) {
            self.asked = None;
            self.acts_at = Some(at);
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
        if self.asked != Some(number) {
            return Ok(None);
        }
        match result {
            Ok(_) => {}
            Err(refusal) if refusal.code.retry() => {
                self.missed(number, again_at);
                return Ok(None);
            }
            Err(refusal) => return Err(format!("an errand was refused: {refusal}")),
        }
        self.asked = None;
        let Some((lsn, _)) = self.waiting.pop_front() else { return Ok(None) };
        self.acts_at = self.waiting.front().map(|_| at);
        let whole = self.waiting.front().is_none_or(|(next, _)| *next > lsn);
        Ok(whole.then_some(lsn))
    }
}
