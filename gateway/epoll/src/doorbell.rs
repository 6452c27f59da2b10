//! Wakes a driver from another thread, by an eventfd that the driver watches edge-triggered: every signal ends a wait or the
//! next one, whether the count was read or not, so nobody ever reads it.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{Errno, write};
use tidegate_gateway_threads::{Bell, Signal};

/// Wakes one [`crate::EpollDriver`]. Clones ring the same bell.
#[derive(Clone, Debug)]
pub struct Doorbell(Arc<Bell<EventFd>>);

#[derive(Debug)]
pub(crate) struct EventFd(OwnedFd);

impl Doorbell {
    pub(crate) fn new() -> Result<Doorbell, Errno> {
        let eventfd = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Doorbell(Arc::new(Bell::new(EventFd(eventfd)))))
    }

    /// The driver hands out one `Event::Doorbell` soon, waking up if it sleeps. Rings before it did so count as one and cost
    /// no system call. What was written to memory before the ring is seen after the event.
    pub fn ring(&self) {
        self.0.ring();
    }

    /// Whether it was rung since the last call.
    pub(crate) fn answer(&self) -> bool {
        self.0.answer()
    }

    pub(crate) fn descriptor(&self) -> &OwnedFd {
        &self.0.signal().0
    }
}

impl Signal for EventFd {
    fn raise(&self) {
        // It cannot fail: centuries of signals do not reach the counter's limit.
        let _ = write(&self.0, &1u64.to_ne_bytes());
    }
}
