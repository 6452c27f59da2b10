//! CONNECT of a slot. The kernel copies the address when it takes the entry.

use io_uring::opcode;
use io_uring::types::Fixed;
use socket2::SockAddr;

use super::Sqe;
use crate::net::tag::{OpKind, Tag};

/// # Safety
///
/// `target` stays where it is until the entry was consumed by an `io_uring_enter`.
pub(in crate::net) unsafe fn slot(slot: u32, target: &SockAddr) -> Sqe {
    let entry = opcode::Connect::new(Fixed(slot), target.as_ptr().cast(), target.len()).build();
    Sqe(entry.user_data(Tag::new(OpKind::Connect, slot).pack()))
}
