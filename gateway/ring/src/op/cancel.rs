//! ASYNC_CANCEL of one armed poll, by its user data.
//!
//! By user data and not by file: the kernel finds a poll by its user data in one of up to 256 hash chains, but a cancel by file
//! walks every armed request of the ring (at 10,000 connections 218 µs against 0.8, `examples/fanout.rs`). POLL_REMOVE is not
//! enough: it gives up with EALREADY when the poll is just firing, while a cancel marks it so that it ends.

use io_uring::opcode;
use io_uring::types::CancelBuilder;

use super::Sqe;
use crate::tag::{OpKind, Tag};

pub(crate) const CODE: u8 = opcode::AsyncCancel2::CODE;

pub(crate) fn of(target: Tag) -> Sqe {
    let entry = opcode::AsyncCancel2::new(CancelBuilder::user_data(target.pack())).build();
    Sqe(entry.user_data(Tag::new(OpKind::Cancel, target.of).pack()))
}
