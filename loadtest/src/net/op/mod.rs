//! The operations this network submits, one file each: which flags and why. An [`Sqe`] can only be made here, so what the
//! ring is given is known to be one of these.
//!
//! * INV-1 An [`Sqe`] points to nothing, or to memory that the maker's `unsafe` contract keeps alive for as long as the
//!   kernel uses it.

pub(super) mod cancel;
pub(super) mod close;
pub(super) mod connect;
pub(super) mod read;
pub(super) mod receive;
pub(super) mod send;

use io_uring::squeue;

/// A submission entry whose pointers obey INV-1.
#[derive(Clone, Debug)]
pub(super) struct Sqe(squeue::Entry);

impl Sqe {
    pub fn entry(&self) -> &squeue::Entry {
        &self.0
    }
}
