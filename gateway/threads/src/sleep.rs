//! The agreement between a thread that sleeps when its queue is empty and those who fill the queue (Dekker's): the sleeper
//! says that it sleeps, then looks once more at its queue; a sender queues, then looks whether the sleeper sleeps. The
//! fences put both in one order, so at least one sees the other, and nothing is left in the queue of a sleeping thread
//! without a ring of its bell.

use crate::atomic::{AtomicBool, Ordering, fence};

/// Whether one thread sleeps. Changed by exchanges only, never by plain stores (on x86 they are the same instruction): loom
/// leaves the order between a store and another thread's exchange open, and would show losses that no machine has.
#[derive(Debug, Default)]
pub struct Sleep(AtomicBool);

impl Sleep {
    /// The sleeper asks whether it may sleep; `is_empty` looks at its queue. After `true` it waits for its bell, then calls
    /// [`Sleep::end`].
    #[must_use]
    pub fn begin(&self, is_empty: impl FnOnce() -> bool) -> bool {
        self.0.swap(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let may_sleep = is_empty();
        if !may_sleep {
            self.end();
        }
        may_sleep
    }

    /// The sleeper is awake.
    pub fn end(&self) {
        self.0.swap(false, Ordering::SeqCst);
    }

    /// A sender asks, after it queued something, whether it has to ring. Of several, one has to.
    #[must_use]
    pub fn interrupt(&self) -> bool {
        fence(Ordering::SeqCst);
        self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::SeqCst)
    }
}
