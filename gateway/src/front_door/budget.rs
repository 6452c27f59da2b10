//! A bound on bytes that many connections hold together.

use std::sync::Arc;

use tidegate_gateway_threads::Bound;

/// Bytes of unfinished `connect` frames of a node. Without it, half-open connections times the message limit would be
/// hundreds of megabytes of strangers' data.
pub const FIRST_FRAME_BYTES_MAX: usize = 32 << 20;

/// A shared bound. Clones share it.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Bound>);

/// What one connection holds; given back when dropped.
#[derive(Debug)]
pub struct Held {
    budget: Budget,
    bytes: usize,
}

impl Budget {
    pub fn new(max: usize) -> Budget {
        Budget(Arc::new(Bound::new(max)))
    }

    pub fn hold(&self) -> Held {
        Held { budget: self.clone(), bytes: 0 }
    }
}

impl Held {
    /// False if the bound is reached: then nothing more is held.
    #[must_use]
    pub fn grow(&mut self, bytes: usize) -> bool {
        let fits = self.budget.0.take(bytes);
        self.bytes += if fits { bytes } else { 0 };
        fits
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.0.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_can_be_held_again() {
        let budget = Budget::new(100);
        let (mut one, mut other) = (budget.hold(), budget.hold());
        assert!(one.grow(60));
        assert!(!other.grow(41));
        assert!(other.grow(40));
        drop(one);
        assert!(other.grow(60));
        assert!(!other.grow(1));
    }
}
