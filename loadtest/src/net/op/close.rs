//! CLOSE of a slot. The peer hears of it when the last request that holds the file has ended, which is why they are cancelled
//! first.

use io_uring::opcode;
use io_uring::types::Fixed;

use super::Sqe;
use crate::net::tag::{OpKind, Tag};

pub(in crate::net) fn slot(slot: u32) -> Sqe {
    Sqe(opcode::Close::new(Fixed(slot)).build().user_data(Tag::new(OpKind::Close, slot).pack()))
}
