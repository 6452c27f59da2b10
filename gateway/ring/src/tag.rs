//! What an operation's user data says: which kind of operation, of which slot, in which use of that slot. The use counter
//! makes a late completion of an older use recognisable, whatever sits in the slot now.

use crate::config::SLOTS_MAX;

const SLOT_BITS: u32 = 24;
const USE_BITS: u32 = 32;
const _: () = assert!(SLOTS_MAX <= 1 << SLOT_BITS);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum OpKind {
    Send = 1,
    Recv,
    Poll,
    Writable,
    Cancel,
    Linger,
    Shutdown,
    Close,
    Bell,
}

const KINDS: [OpKind; 9] = [
    OpKind::Send,
    OpKind::Recv,
    OpKind::Poll,
    OpKind::Writable,
    OpKind::Cancel,
    OpKind::Linger,
    OpKind::Shutdown,
    OpKind::Close,
    OpKind::Bell,
];

/// One use of a slot, from registration to close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlotUse {
    pub slot: u32,
    pub uses: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tag {
    pub kind: OpKind,
    pub of: SlotUse,
}

impl Tag {
    pub fn new(kind: OpKind, of: SlotUse) -> Tag {
        Tag { kind, of }
    }

    pub fn pack(self) -> u64 {
        debug_assert!(self.of.slot < 1 << SLOT_BITS);
        u64::from(self.kind as u8) << (SLOT_BITS + USE_BITS)
            | u64::from(self.of.uses) << SLOT_BITS
            | u64::from(self.of.slot)
    }

    /// `None` for user data that [`Tag::pack`] never makes.
    pub fn unpack(user_data: u64) -> Option<Tag> {
        let kind = (user_data >> (SLOT_BITS + USE_BITS)) as usize;
        Some(Tag {
            kind: *KINDS.get(kind.wrapping_sub(1))?,
            of: SlotUse { slot: user_data as u32 & ((1 << SLOT_BITS) - 1), uses: (user_data >> SLOT_BITS) as u32 },
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_tag_survives_packing(kind in 0..KINDS.len(), slot in 0..SLOTS_MAX, uses: u32) {
            let tag = Tag::new(KINDS[kind], SlotUse { slot, uses });
            prop_assert_eq!(Tag::unpack(tag.pack()), Some(tag));
        }

        #[test]
        fn tags_of_different_uses_differ(slot in 0..SLOTS_MAX, a: u32, b: u32) {
            let pack = |uses| Tag::new(OpKind::Send, SlotUse { slot, uses }).pack();
            prop_assert_eq!(pack(a) == pack(b), a == b);
        }
    }

    #[test]
    fn foreign_user_data_is_recognised() {
        assert_eq!(Tag::unpack(0), None);
        assert_eq!(Tag::unpack(u64::MAX), None);
    }
}
