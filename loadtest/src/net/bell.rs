//! Wakes the network's thread: rings signal it when something completed, other threads when they want something.
//!
//! * INV-1 The descriptor is owned by the value and open as long as it lives.
//! * INV-2 A pointer given to a libc call is to a local of the size the call is told, alive for the call.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

/// An eventfd. Clones are the same bell.
#[derive(Clone, Debug)]
pub struct Bell(Arc<OwnedFd>);

impl Bell {
    pub(super) fn new() -> io::Result<Bell> {
        // SAFETY: no pointers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: INV-1: the call made this descriptor for us.
        Ok(Bell(Arc::new(unsafe { OwnedFd::from_raw_fd(fd) })))
    }

    /// Ends the present or the next sleep of the network's thread.
    pub fn ring(&self) {
        let one = 1u64;
        // SAFETY: INV-1, INV-2. It cannot fail: the counter is far from its limit, and a wake-up is all that is wanted.
        unsafe { libc::write(self.0.as_raw_fd(), (&raw const one).cast(), size_of::<u64>()) };
    }

    pub(super) fn fd(&self) -> i32 {
        self.0.as_raw_fd()
    }

    /// Makes it silent until the next signal.
    pub(super) fn reset(&self) {
        let mut count = 0u64;
        // SAFETY: INV-1, INV-2. EAGAIN (not rung) is a common answer.
        unsafe { libc::read(self.0.as_raw_fd(), (&raw mut count).cast(), size_of::<u64>()) };
    }

    /// Sleeps until it rings or for `timeout`. A signal may end it early.
    pub(super) fn wait(&self, timeout: Duration) {
        let mut poll = libc::pollfd { fd: self.fd(), events: libc::POLLIN, revents: 0 };
        let seconds = timeout.as_secs().min(3600) as libc::time_t;
        let time = libc::timespec { tv_sec: seconds, tv_nsec: timeout.subsec_nanos().into() };
        // SAFETY: INV-1, INV-2: one pollfd and a time, both locals.
        unsafe { libc::ppoll(&raw mut poll, 1, &raw const time, ptr::null()) };
    }
}
