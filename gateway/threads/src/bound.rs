//! A bound on what many threads hold together.

use crate::atomic::{AtomicUsize, Ordering};

/// Never more than its maximum is held. Two who take at the same moment may both be refused though one would fit.
#[derive(Debug)]
pub struct Bound {
    held: AtomicUsize,
    max: usize,
}

impl Bound {
    pub fn new(max: usize) -> Bound {
        Bound { held: AtomicUsize::new(0), max }
    }

    /// False if it would be too much: then nothing is taken.
    #[must_use]
    pub fn take(&self, amount: usize) -> bool {
        let before = self.held.fetch_add(amount, Ordering::Relaxed);
        let fits = before.checked_add(amount).is_some_and(|held| held <= self.max);
        if !fits {
            self.give_back(amount);
        }
        fits
    }

    /// Exactly what was taken, once. Who sees by [`Bound::held`] that it is no longer held sees what was done before.
    pub fn give_back(&self, amount: usize) {
        self.held.fetch_sub(amount, Ordering::Release);
    }

    /// What is held now; what is being refused at this moment counts, too.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Acquire)
    }
}
