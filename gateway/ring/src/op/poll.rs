//! POLL_ADD: multishot for input (256 bytes of kernel memory for an idle connection, against 867 for a pending receive),
//! one-shot for room to write, multishot on the doorbell.
//!
//! A multishot poll reports edges: it fires once per wake-up of the socket, and once when armed if something is there already.

use io_uring::opcode;
use io_uring::types::{Fd, Fixed};

use super::Sqe;
use crate::tag::{OpKind, SlotUse, Tag};

pub(crate) const CODE: u8 = opcode::PollAdd::CODE;

/// Bits that mean that the input has an end which a short read would not show.
pub(crate) const FINAL_EVENTS: i32 = (libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR) as i32;

pub(crate) fn input(of: SlotUse) -> Sqe {
    let events = (libc::POLLIN | libc::POLLRDHUP) as u32;
    let entry = opcode::PollAdd::new(Fixed(of.slot), events).multi(true).build();
    Sqe(entry.user_data(Tag::new(OpKind::Poll, of).pack()))
}

pub(crate) fn writable(of: SlotUse) -> Sqe {
    let entry = opcode::PollAdd::new(Fixed(of.slot), libc::POLLOUT as u32).build();
    Sqe(entry.user_data(Tag::new(OpKind::Writable, of).pack()))
}

/// No slot's use: those begin with 1.
const BELL: Tag = Tag { kind: OpKind::Bell, of: SlotUse { slot: 0, uses: 0 } };

/// `fd` is the doorbell's eventfd, an ordinary descriptor.
pub(crate) fn doorbell(fd: i32) -> Sqe {
    let entry = opcode::PollAdd::new(Fd(fd), libc::POLLIN as u32).multi(true).build();
    Sqe(entry.user_data(BELL.pack()))
}

/// Ends the poll of [`doorbell`].
pub(crate) fn forget_doorbell() -> Sqe {
    super::cancel::of(BELL)
}
