//! Which partitions are attached, for readiness and metrics.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tidegate_gateway_core::hub::PartitionsChanged;
use tidegate_gateway_core::link::{PartitionId, Partitions};
use tokio::sync::{Notify, watch};

/// One partition's.
#[derive(Debug, Default)]
pub struct LinkState {
    up: AtomicBool,
    /// Attachments so far.
    attachments: AtomicU64,
    pub(super) give_up: Notify,
}

/// All of them.
#[derive(Debug)]
pub struct LinkStates {
    partitions: watch::Sender<Option<Partitions>>,
    each: Mutex<Vec<Arc<LinkState>>>,
    /// All were attached at the same time once.
    complete: AtomicBool,
}

/// How it stands now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkSummary {
    /// Per partition: attached, and the number of attachments so far.
    pub each: Vec<(bool, u64)>,
    /// 0: not known yet.
    pub of: usize,
    /// The node can serve: every partition has been attached, and some are now. One that changes its owner is away for a
    /// moment at every gateway at once, and they must not all seem unfit for that.
    pub is_up: bool,
}

impl LinkState {
    pub(super) fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// Returns whether it was up.
    pub(super) fn set_down(&self) -> bool {
        self.up.swap(false, Ordering::Relaxed)
    }
}

impl Default for LinkStates {
    fn default() -> Self {
        let (partitions, _) = watch::channel(None);
        LinkStates { partitions, each: Mutex::default(), complete: AtomicBool::new(false) }
    }
}

impl LinkStates {
    pub fn of(&self, partition: PartitionId) -> Arc<LinkState> {
        let at = partition.0 as usize;
        let mut each = self.each.lock().unwrap_or_else(PoisonError::into_inner);
        if each.len() <= at {
            each.resize_with(at + 1, Arc::default);
        }
        Arc::clone(&each[at])
    }

    /// Resolves once their number is known.
    pub async fn partitions(&self) -> Partitions {
        match self.partitions.subscribe().wait_for(Option::is_some).await.map(|known| *known) {
            Ok(Some(partitions)) => partitions,
            _ => std::future::pending().await,
        }
    }

    pub(super) fn known(&self) -> Option<Partitions> {
        *self.partitions.borrow()
    }

    /// The first to say it is believed, and whoever says something else is not.
    pub(super) fn agree(&self, told: Partitions) -> Result<(), PartitionsChanged> {
        let mut known = told;
        self.partitions.send_if_modified(|of| {
            let is_new = of.is_none();
            known = *of.get_or_insert(told);
            is_new
        });
        let changed = PartitionsChanged { known: known.count(), told: told.count() };
        if known == told { Ok(()) } else { Err(changed) }
    }

    pub(super) fn set_up(&self, state: &LinkState) {
        state.attachments.fetch_add(1, Ordering::Relaxed);
        state.up.store(true, Ordering::Relaxed);
        let of = self.partitions.borrow().map_or(usize::MAX, |of| of.count() as usize);
        let each = self.each.lock().unwrap_or_else(PoisonError::into_inner);
        if each.len() == of && each.iter().all(|state| state.is_up()) {
            self.complete.store(true, Ordering::Relaxed);
        }
    }

    /// Ends the present attachment, because control does not read it. Nothing happens without one.
    pub fn give_up(&self, partition: PartitionId) {
        self.of(partition).give_up.notify_waiters();
    }

    pub fn summary(&self) -> LinkSummary {
        let each = self.each.lock().unwrap_or_else(PoisonError::into_inner);
        let each: Vec<_> =
            each.iter().map(|state| (state.is_up(), state.attachments.load(Ordering::Relaxed))).collect();
        let is_up = self.complete.load(Ordering::Relaxed) && each.iter().any(|(up, _)| *up);
        let of = self.partitions.borrow().map_or(0, |of| of.count() as usize);
        LinkSummary { each, of, is_up }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_serves_once_all_partitions_were_attached_and_while_any_is() {
        let states = LinkStates::default();
        let [one, two] = [0, 1].map(|at| states.of(PartitionId(at)));
        states.set_up(&one);
        assert!(!states.summary().is_up, "it is not known how many there are");
        let count = |count| Partitions::new(count).expect("a valid count");
        assert_eq!(states.agree(count(2)), Ok(()));
        assert_eq!(states.agree(count(3)), Err(PartitionsChanged { known: 2, told: 3 }));
        states.set_up(&one);
        assert!(!states.summary().is_up, "one of two");
        states.set_up(&two);
        assert!(states.summary().is_up);
        assert!(one.set_down() && states.summary().is_up, "the other serves");
        assert!(two.set_down() && !states.summary().is_up);
        assert_eq!(states.summary(), LinkSummary { each: vec![(false, 2), (false, 1)], of: 2, is_up: false });
    }
}
