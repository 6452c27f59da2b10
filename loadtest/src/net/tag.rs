//! What an operation's user data says: which kind of operation, of which slot, into which part of the scratch. It needs no
//! generation, because a slot is used again only when nothing of it is in flight.

const SLOT_BITS: u32 = 24;
const PART_BITS: u32 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum OpKind {
    Connect = 1,
    Send,
    /// Armed: completes when something arrives.
    Receive,
    /// Into the scratch: completes at once.
    Read,
    Cancel,
    Close,
}

const KINDS: [OpKind; 6] =
    [OpKind::Connect, OpKind::Send, OpKind::Receive, OpKind::Read, OpKind::Cancel, OpKind::Close];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag {
    pub kind: OpKind,
    pub slot: u32,
    /// Of the scratch, for [`OpKind::Read`].
    pub part: u16,
}

impl Tag {
    pub fn new(kind: OpKind, slot: u32) -> Tag {
        Tag { kind, slot, part: 0 }
    }

    pub fn pack(self) -> u64 {
        debug_assert!(self.slot < 1 << SLOT_BITS);
        u64::from(self.kind as u8) << (SLOT_BITS + PART_BITS) | u64::from(self.part) << SLOT_BITS | u64::from(self.slot)
    }

    /// `None` for user data that [`Tag::pack`] never makes.
    pub fn unpack(user_data: u64) -> Option<Tag> {
        let kind = (user_data >> (SLOT_BITS + PART_BITS)) as usize;
        Some(Tag {
            kind: *KINDS.get(kind.wrapping_sub(1))?,
            slot: user_data as u32 & ((1 << SLOT_BITS) - 1),
            part: (user_data >> SLOT_BITS) as u16,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_tag_survives_packing(kind in 0..KINDS.len(), slot in 0u32..1 << SLOT_BITS, part: u16) {
            let tag = Tag { kind: KINDS[kind], slot, part };
            prop_assert_eq!(Tag::unpack(tag.pack()), Some(tag));
        }
    }

    #[test]
    fn foreign_user_data_is_recognised() {
        assert_eq!((Tag::unpack(0), Tag::unpack(u64::MAX)), (None, None));
    }
}
