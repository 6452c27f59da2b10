//! RECV that never waits (MSG_DONTWAIT), into the shared scratch: it completes inside the `io_uring_enter` that submits it.

use io_uring::opcode;
use io_uring::types::Fixed;

use super::Sqe;
use crate::net::tag::{OpKind, Tag};

/// # Safety
///
/// `part` is writable for `bytes` bytes, and nothing else uses it, until the completion was reaped.
pub(in crate::net) unsafe fn into_part(slot: u32, number: u16, part: *mut u8, bytes: u32) -> Sqe {
    let entry = opcode::Recv::new(Fixed(slot), part, bytes).flags(libc::MSG_DONTWAIT).build();
    Sqe(entry.user_data(Tag { kind: OpKind::Read, slot, part: number }.pack()))
}
