//! The operations this driver submits, one file each: which flags and why. An [`Sqe`] can only be made here, so what the
//! queue pushes is known to be one of these.
//!
//! * INV-1 An [`Sqe`] points to nothing, to a `static`, or to bytes that the maker's `unsafe` contract keeps alive until the
//!   entry has been consumed by an `io_uring_enter`.

pub(crate) mod cancel;
pub(crate) mod close;
pub(crate) mod linger;
pub(crate) mod poll;
pub(crate) mod recv;
pub(crate) mod send;
pub(crate) mod shutdown;

use io_uring::squeue;

/// A submission entry whose pointers obey INV-1.
#[derive(Clone, Debug)]
pub(crate) struct Sqe(squeue::Entry);

impl Sqe {
    pub fn entry(&self) -> &squeue::Entry {
        &self.0
    }
}

/// The opcodes the driver cannot do without, by name.
pub(crate) const NEEDED: [(&str, u8); 6] = [
    ("ASYNC_CANCEL", cancel::CODE),
    ("CLOSE", close::CODE),
    ("POLL_ADD", poll::CODE),
    ("RECV", recv::CODE),
    ("SEND", send::CODE),
    ("SHUTDOWN", shutdown::CODE),
];
