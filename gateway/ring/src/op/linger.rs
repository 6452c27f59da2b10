//! SO_LINGER of zero seconds: what closes next sends RST and frees its memory at once. A slot has no descriptor for
//! setsockopt(2), so this is the socket command SETSOCKOPT (Linux 6.7). Where it is missing an aborted connection is closed
//! like any other: FIN, or RST if input was left unread.

use io_uring::opcode;
use io_uring::squeue::Flags;
use io_uring::types::Fixed;

use super::Sqe;
use crate::tag::{OpKind, SlotUse, Tag};

static RESET: libc::linger = libc::linger { l_onoff: 1, l_linger: 0 };

/// Linked to the next entry, which runs after it whatever the result.
pub(crate) fn reset_then(of: SlotUse) -> Sqe {
    let (value, bytes) = ((&raw const RESET).cast(), size_of::<libc::linger>() as u32);
    let entry =
        opcode::SetSockOpt::new(Fixed(of.slot), libc::SOL_SOCKET as u32, libc::SO_LINGER as u32, value, bytes).build();
    Sqe(entry.flags(Flags::IO_HARDLINK).user_data(Tag::new(OpKind::Linger, of).pack()))
}
