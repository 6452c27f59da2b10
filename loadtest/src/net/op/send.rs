//! SEND. MSG_WAITALL: the kernel goes on by itself after a short send, so a completion means all or an error.

use io_uring::opcode;
use io_uring::types::Fixed;

use super::Sqe;
use crate::net::tag::{OpKind, Tag};

/// # Safety
///
/// `bytes` stays alive and unchanged until the completion was reaped or the ring was closed.
pub(in crate::net) unsafe fn to_slot(slot: u32, bytes: &[u8]) -> Sqe {
    let entry = opcode::Send::new(Fixed(slot), bytes.as_ptr(), bytes.len() as u32)
        .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
        .build();
    Sqe(entry.user_data(Tag::new(OpKind::Send, slot).pack()))
}
