//! RECV that waits: armed on a socket, it takes one of the ring's provided buffers only when something arrived. ENOBUFS says
//! that none was left: arm it again.

use std::ptr;

use io_uring::opcode;
use io_uring::squeue::Flags;
use io_uring::types::Fixed;

use super::Sqe;
use crate::net::buffers::GROUP;
use crate::net::tag::{OpKind, Tag};

/// Once: for sockets that are armed only for a handshake.
pub(in crate::net) fn once(slot: u32) -> Sqe {
    let entry = opcode::Recv::new(Fixed(slot), ptr::null_mut(), 0).buf_group(GROUP).build();
    Sqe(entry.flags(Flags::BUFFER_SELECT).user_data(Tag::new(OpKind::Receive, slot).pack()))
}

/// Again and again, until it ends with a completion that does not say `more`.
pub(in crate::net) fn multishot(slot: u32) -> Sqe {
    let entry = opcode::RecvMulti::new(Fixed(slot), GROUP).build();
    Sqe(entry.user_data(Tag::new(OpKind::Receive, slot).pack()))
}
