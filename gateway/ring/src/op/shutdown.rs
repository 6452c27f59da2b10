//! SHUTDOWN of the sending side. The kernel always gives it to a worker thread, which looks the slot up when it runs: nothing may
//! close the slot before it completed.

use io_uring::opcode;
use io_uring::types::Fixed;

use super::Sqe;
use crate::tag::{OpKind, SlotUse, Tag};

pub(crate) const CODE: u8 = opcode::Shutdown::CODE;

pub(crate) fn sending(of: SlotUse) -> Sqe {
    let entry = opcode::Shutdown::new(Fixed(of.slot), libc::SHUT_WR).build();
    Sqe(entry.user_data(Tag::new(OpKind::Shutdown, of).pack()))
}
