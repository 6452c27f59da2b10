//! Wakes a driver from another thread.
//!
//! * INV-1 The descriptor is owned by the value and open as long as it lives.
//! * INV-2 A pointer given to a libc call is to a local of the size the call is told, alive for the call.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use tidegate_gateway_threads::{Bell, Signal, Wait};

/// Wakes one [`crate::RingDriver`]. Clones ring the same bell.
#[derive(Clone, Debug)]
pub struct Doorbell(Arc<Bell<EventFd>>);

#[derive(Debug)]
struct EventFd(OwnedFd);

impl Doorbell {
    pub(crate) fn new() -> io::Result<Doorbell> {
        // SAFETY: no pointers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: INV-1: the call made this descriptor for us.
        let eventfd = unsafe { OwnedFd::from_raw_fd(fd) };
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

    pub(crate) fn fd(&self) -> i32 {
        self.0.signal().0.as_raw_fd()
    }

    /// Makes the eventfd unreadable until the next signal.
    pub(crate) fn reset(&self) {
        self.0.signal().lower();
    }

    /// Sleeps until the eventfd is signalled, unless it was rung or `has_work`.
    pub(crate) fn sleep(&self, timeout: Option<Duration>, has_work: impl FnOnce() -> bool) {
        self.0.sleep(timeout, has_work);
    }
}

impl Signal for EventFd {
    fn raise(&self) {
        let one = 1u64;
        // SAFETY: INV-1, INV-2. It cannot fail: the counter is far from its limit, and a wake-up is all that is wanted.
        unsafe { libc::write(self.0.as_raw_fd(), (&raw const one).cast(), size_of::<u64>()) };
    }
}

impl Wait for EventFd {
    fn lower(&self) {
        let mut count = 0u64;
        // SAFETY: INV-1, INV-2. EAGAIN (not readable) is the common answer.
        unsafe { libc::read(self.0.as_raw_fd(), (&raw mut count).cast(), size_of::<u64>()) };
    }

    fn wait(&self, timeout: Option<Duration>) {
        let mut poll = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let time =
            timeout.map(|t| libc::timespec { tv_sec: t.as_secs() as libc::time_t, tv_nsec: t.subsec_nanos().into() });
        let time = time.as_ref().map_or(ptr::null(), ptr::from_ref);
        // SAFETY: INV-1, INV-2: one pollfd, and a time that is null or a local.
        unsafe { libc::ppoll(&raw mut poll, 1, time, ptr::null()) };
    }
}
