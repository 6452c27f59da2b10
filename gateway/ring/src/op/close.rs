//! CLOSE of a slot. It takes the file out of the table; the socket itself ends, and the peer hears of it, when the last request
//! that holds the file has ended, which is why armed polls are cancelled with it.

use io_uring::opcode;
use io_uring::types::Fixed;

use super::Sqe;
use crate::tag::{OpKind, SlotUse, Tag};

pub(crate) const CODE: u8 = opcode::Close::CODE;

pub(crate) fn slot(of: SlotUse) -> Sqe {
    let entry = opcode::Close::new(Fixed(of.slot)).build();
    Sqe(entry.user_data(Tag::new(OpKind::Close, of).pack()))
}
