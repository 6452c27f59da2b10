//! Carries what one partition's records owe to others.
//!
//! Invariants:
//! * Errands for one partition arrive in the order of the log, one round after the other.
//! * A place is reported as routed only when everything up to it has arrived. What was on its way when an owner died is
//!   carried again by the next one, and known where it arrives.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use tidegate_control_core::domain::{Lsn, PartitionId};
use tidegate_control_core::partition::{Errand, errands_of};
use tidegate_control_core::ports::{PageLimit, StoreReader};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::seats::Hosted;
use super::spread::Spread;
use crate::runtime::ErrandSender;

/// Errands that wait; more are read from the log again.
const QUEUE_MAX: usize = 65_536;
/// Errands of one round.
const ROUND_MAX: usize = 2_048;
const IDLE: Duration = Duration::from_millis(500);
const RETRY: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);
const PAGE: PageLimit = PageLimit { messages: 1_024, bytes: 4 << 20 };

/// The way in, for a partition's thread.
pub(crate) fn queue() -> (ErrandSender, mpsc::Receiver<(Lsn, Errand)>) {
    let (queue, errands) = mpsc::channel(QUEUE_MAX);
    (ErrandSender { queue, overflowed: Arc::new(AtomicBool::new(false)) }, errands)
}

pub(crate) struct Carrier {
    pub spread: Arc<Spread>,
    pub hosted: Hosted,
    pub reader: Arc<dyn StoreReader>,
    /// Up to here all has arrived.
    pub routed: Lsn,
    pub errands: mpsc::Receiver<(Lsn, Errand)>,
    pub overflowed: Arc<AtomicBool>,
    pub partitions: u32,
}

impl Carrier {
    pub fn spawn(self) -> JoinHandle<()> {
        tokio::spawn(self.run())
    }

    async fn run(mut self) {
        // What former owners left.
        let upto = self.reader.last_lsn();
        self.carry_from_log(upto).await;
        let mut round = Vec::with_capacity(ROUND_MAX);
        loop {
            let settled = self.hosted.sequencer.settled();
            let count = tokio::time::timeout(IDLE, self.errands.recv_many(&mut round, ROUND_MAX)).await;
            if self.overflowed.swap(false, Ordering::AcqRel) {
                round.clear();
                while self.errands.try_recv().is_ok() {}
                let upto = self.reader.last_lsn();
                self.carry_from_log(upto).await;
                continue;
            }
            match count {
                // The partition's thread has ended.
                Ok(0) => return,
                Ok(_) => {
                    let whole = whole(&round, settled);
                    let carried: Vec<Errand> =
                        round.drain(..).filter(|(lsn, _)| *lsn > self.routed).map(|(_, errand)| errand).collect();
                    self.carry(carried).await;
                    self.report(whole).await;
                }
                // Nothing is owed: all that was handed out before the wait has arrived.
                Err(_idle) => self.report(settled).await,
            }
        }
    }

    async fn report(&mut self, upto: Lsn) {
        if upto > self.routed {
            self.routed = upto;
            self.hosted.sequencer.routed(upto).await;
        }
    }

    async fn carry_from_log(&mut self, upto: Lsn) {
        let origin = self.hosted.origin.partition;
        while self.routed < upto {
            let (reader, from) = (Arc::clone(&self.reader), self.routed);
            let page = tokio::task::spawn_blocking(move || reader.replay(from, PAGE)).await;
            let page = match page {
                Ok(Ok(Some(page))) => page,
                Ok(Ok(None)) => {
                    tracing::error!(partition = origin.0, "the log does not reach back to what is owed");
                    return;
                }
                Ok(Err(error)) => {
                    tracing::warn!(%error, "what is owed cannot be read");
                    tokio::time::sleep(RETRY_MAX).await;
                    continue;
                }
                Err(_stopping) => return,
            };
            let mut owed = Vec::new();
            for (_, record) in &page.records {
                owed.extend(errands_of(record, origin, self.partitions));
            }
            self.carry(owed).await;
            let reached = page.upto.max(from);
            self.report(if page.records.is_empty() { upto } else { reached }).await;
        }
    }

    /// Until all of them have arrived.
    async fn carry(&self, errands: Vec<Errand>) {
        let mut parts: BTreeMap<PartitionId, Vec<Errand>> = BTreeMap::new();
        for errand in errands {
            parts.entry(PartitionId::of(&errand.to().stream(), self.partitions)).or_default().push(errand);
        }
        let mut pause = RETRY;
        while !parts.is_empty() {
            let tries = parts
                .iter()
                .map(async |(partition, errands)| (*partition, self.spread.errands(*partition, errands).await));
            let arrived: Vec<PartitionId> =
                join_all(tries).await.into_iter().filter_map(|(partition, done)| done.then_some(partition)).collect();
            arrived.iter().for_each(|partition| drop(parts.remove(partition)));
            if !parts.is_empty() {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY_MAX);
            }
        }
    }
}

/// Up to where nothing is owed beyond this round. A record's errands are handed out one by one, and a round may end between
/// them, because it is full or because it was taken at that moment: the last record counts once the partition's thread has
/// said, before the round was taken, that it is done with it (`settled`).
fn whole<T>(round: &[(Lsn, T)], settled: Lsn) -> Lsn {
    let last = round.last().map_or(settled, |(lsn, _)| *lsn);
    match round.len() < ROUND_MAX && settled >= last {
        true => settled,
        false => Lsn(last.0.saturating_sub(1)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The thread hands out errands one by one and says after each record that it is done with it; the carrier looks at
        /// any moment, sees what is there, and never reports a place before all that it owes was taken.
        #[test]
        fn no_place_is_reported_before_all_its_errands_were_taken(
            records in prop::collection::vec(0usize..3, 1..40),
            looks in prop::collection::vec(0usize..6, 1..60),
        ) {
            let mut steps: VecDeque<(u64, Option<usize>)> = VecDeque::new();
            for (lsn, errands) in (1..).zip(&records) {
                steps.extend((0..*errands).map(|errand| (lsn, Some(errand))));
                steps.push_back((lsn, None));
            }
            let (mut queue, mut settled, mut routed, mut taken) = (Vec::new(), 0, 0, 0);
            for advance in looks.into_iter().chain([usize::MAX, 0]) {
                let seen = settled;
                // The thread goes on between the look at `settled` and the look into the queue.
                for (lsn, errand) in steps.drain(..advance.min(steps.len())) {
                    match errand {
                        Some(errand) => queue.push((Lsn(lsn), errand)),
                        None => settled = lsn,
                    }
                }
                let round = std::mem::take(&mut queue);
                let reported = whole(&round, Lsn(seen));
                taken += round.iter().filter(|(lsn, _)| lsn.0 > routed).count();
                routed = routed.max(reported.0);
                let owed: usize = records[..routed as usize].iter().sum();
                prop_assert!(taken >= owed, "{routed} is reported, {taken} of {owed} errands were taken");
            }
            prop_assert_eq!(taken, records.iter().sum::<usize>());
            prop_assert_eq!(routed, records.len() as u64);
        }
    }

    #[test]
    fn the_last_record_of_a_full_round_may_go_on_in_the_next() {
        let round: Vec<(Lsn, ())> = (1..=ROUND_MAX as u64).map(|lsn| (Lsn(lsn), ())).collect();
        assert_eq!(whole(&round, Lsn(ROUND_MAX as u64 + 7)), Lsn(ROUND_MAX as u64 - 1));
    }
}
