//! The sockets of a driver, 24 bytes each.
//!
//! | phase | leaves it by | to |
//! |---|---|---|
//! | Open | [`close`](tidegate_gateway_core::driver::Driver::close) | Ending |
//! | Ending | the next flush; the peer has finished already, or the close is none that waits for it | gone |
//! | Ending | the next flush, by `shutdown` | Lingering |
//! | Lingering | the peer's FIN, an error, or the linger deadline | gone |

use std::os::fd::OwnedFd;

use slab::Slab;
use tidegate_gateway_core::driver::Token;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Open,
    /// A close was asked for and is carried out at the next flush.
    Ending,
    /// Shut down; input is thrown away.
    Lingering,
}

/// Facts about a socket, as bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark(u8);

impl Mark {
    /// There is input; the socket stands in the line of those to be read.
    pub const READING: Mark = Mark(1);
    /// A Writable was asked for.
    pub const WRITING: Mark = Mark(1 << 1);
    /// epoll told the end of input or an error: read until it shows, it is not told again.
    pub const FINAL: Mark = Mark(1 << 2);
    /// Eof or Failed was handed out; nothing more is read.
    pub const ENDED: Mark = Mark(1 << 3);
}

/// One use of a slot. A later socket in the same slot is another use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlotUse {
    pub slot: u32,
    uses: u32,
}

impl SlotUse {
    pub fn pack(self) -> u64 {
        u64::from(self.uses) << 32 | u64::from(self.slot)
    }

    pub fn unpack(packed: u64) -> SlotUse {
        SlotUse { slot: packed as u32, uses: (packed >> 32) as u32 }
    }
}

#[derive(Debug)]
pub(crate) struct Connection {
    /// The caller's name.
    token: u64,
    pub socket: OwnedFd,
    uses: u32,
    pub phase: Phase,
    marks: u8,
}

const _: () = assert!(size_of::<Connection>() == 24);

impl Connection {
    pub fn token(&self) -> Token {
        Token(self.token)
    }

    pub fn has(&self, mark: Mark) -> bool {
        self.marks & mark.0 != 0
    }

    /// Returns whether it was not set before.
    pub fn set(&mut self, mark: Mark) -> bool {
        let before = self.marks;
        self.marks |= mark.0;
        before != self.marks
    }

    /// Returns whether it was set before.
    pub fn clear(&mut self, mark: Mark) -> bool {
        let before = self.marks;
        self.marks &= !mark.0;
        before != self.marks
    }
}

#[derive(Debug)]
pub(crate) struct Table {
    slots: Slab<Connection>,
    capacity: u32,
    /// Sockets so far, modulo 2³².
    uses: u32,
}

impl Table {
    /// The table's pages become resident as slots are used for the first time.
    pub fn new(capacity: u32) -> Table {
        Table { slots: Slab::with_capacity(capacity as usize), capacity, uses: 0 }
    }

    pub fn len(&self) -> u32 {
        self.slots.len() as u32
    }

    /// Gives the socket back if the table is full.
    pub fn insert(&mut self, token: Token, socket: OwnedFd) -> Result<(SlotUse, &Connection), OwnedFd> {
        if self.len() == self.capacity {
            return Err(socket);
        }
        self.uses = self.uses.wrapping_add(1);
        let connection = Connection { token: token.0, socket, uses: self.uses, phase: Phase::Open, marks: 0 };
        let entry = self.slots.vacant_entry();
        let of = SlotUse { slot: entry.key() as u32, uses: self.uses };
        Ok((of, entry.insert(connection)))
    }

    pub fn remove(&mut self, of: SlotUse) -> Option<Connection> {
        self.current(of)?;
        self.slots.try_remove(of.slot as usize)
    }

    /// The connection, if this use of its slot is still on.
    pub fn current(&mut self, of: SlotUse) -> Option<&mut Connection> {
        self.slots.get_mut(of.slot as usize).filter(|connection| connection.uses == of.uses)
    }

    /// The slot's present use, if it is open and the caller's name for it is this.
    pub fn open(&mut self, slot: u32, token: Token) -> Option<(SlotUse, &mut Connection)> {
        let connection = self.slots.get_mut(slot as usize)?;
        let is_it = connection.phase == Phase::Open && connection.token == token.0;
        is_it.then_some((SlotUse { slot, uses: connection.uses }, connection))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn socket() -> OwnedFd {
        UnixStream::pair().expect("a pair").0.into()
    }

    #[test]
    fn a_full_table_gives_the_socket_back_and_a_slot_comes_back_as_a_new_use() {
        let mut table = Table::new(2);
        let (a, _) = table.insert(Token(1), socket()).expect("room");
        let (b, _) = table.insert(Token(2), socket()).expect("room");
        let kept = table.insert(Token(3), socket()).expect_err("full");
        assert!(table.remove(a).is_some());
        assert!(table.current(a).is_none() && table.remove(a).is_none());
        let (again, _) = table.insert(Token(3), kept).expect("room");
        assert_eq!(again.slot, a.slot);
        assert_ne!(again, a);
        assert!(table.current(a).is_none() && table.remove(a).is_none(), "the old use is not the new one");
        assert!(table.open(again.slot, Token(1)).is_none(), "the old token does not open the new use");
        assert!(table.current(b).is_some() && table.open(again.slot, Token(3)).is_some());
        assert_eq!(SlotUse::unpack(again.pack()), again);
    }
}
