//! SEND of a shared frame to a slot.
//!
//! MSG_DONTWAIT makes it complete inside the `io_uring_enter` that submits it: the kernel neither arms a poll for it nor hands
//! it to a worker, so the bytes are copied when enter returns. MSG_WAITALL makes a short send a failed request that
//! completes in spite of SKIP_SUCCESS; without it short sends vanish silently. Pinned by `tests/kernel_send.rs`.

use io_uring::opcode;
use io_uring::squeue::Flags;
use io_uring::types::Fixed;

use super::Sqe;
use crate::tag::{OpKind, SlotUse, Tag};

pub(crate) const CODE: u8 = opcode::Send::CODE;

/// The kernel cuts longer transfers (MAX_RW_COUNT) and would call that success.
pub(crate) const SEND_BYTES_MAX: usize = 1 << 30;

/// # Safety
///
/// `bytes` stays alive and unchanged until the entry has been consumed by an `io_uring_enter`.
pub(crate) unsafe fn to_slot(of: SlotUse, bytes: &[u8]) -> Sqe {
    assert!(bytes.len() <= SEND_BYTES_MAX, "a frame of {} bytes is beyond every queue's bound", bytes.len());
    let entry = opcode::Send::new(Fixed(of.slot), bytes.as_ptr(), bytes.len() as u32)
        .flags(libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT | libc::MSG_WAITALL)
        .build();
    Sqe(entry.flags(Flags::SKIP_SUCCESS).user_data(Tag::new(OpKind::Send, of).pack()))
}
