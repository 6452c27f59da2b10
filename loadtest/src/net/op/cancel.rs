//! ASYNC_CANCEL of one operation by its user data. By file it would walk every armed request of the ring.

use io_uring::opcode;
use io_uring::types::CancelBuilder;

use super::Sqe;
use crate::net::tag::{OpKind, Tag};

pub(in crate::net) fn of(target: Tag) -> Sqe {
    let entry = opcode::AsyncCancel2::new(CancelBuilder::user_data(target.pack())).build();
    Sqe(entry.user_data(Tag::new(OpKind::Cancel, target.slot).pack()))
}
