//! RECV from a slot into a buffer that the kernel picks from the provided ones. MSG_DONTWAIT: it completes at once, with data,
//! EAGAIN, or ENOBUFS when no buffer is left, and never waits holding a buffer.

use std::ptr;

use io_uring::opcode;
use io_uring::squeue::Flags;
use io_uring::types::Fixed;

use super::Sqe;
use crate::buffers::GROUP;
use crate::tag::{OpKind, SlotUse, Tag};

pub(crate) const CODE: u8 = opcode::Recv::CODE;

pub(crate) fn from_slot(of: SlotUse) -> Sqe {
    let entry =
        opcode::Recv::new(Fixed(of.slot), ptr::null_mut(), 0).flags(libc::MSG_DONTWAIT).buf_group(GROUP).build();
    Sqe(entry.flags(Flags::BUFFER_SELECT).user_data(Tag::new(OpKind::Recv, of).pack()))
}
