//! Memory that unarmed sockets are read into, in parts, one socket a part. All rings share it, one batch of reads at a time.
//!
//! * INV-1 The memory is allocated once, never moved, and lives as long as the value; parts do not overlap.
//! * INV-2 The kernel writes to a part only inside the `io_uring_enter` that submits a read into it (`op/read.rs`); this side
//!   reads it only after that read's completion and before the next batch.

use super::op::{self, Sqe};

/// Bytes that one read takes at most.
pub(super) const PART_BYTES: usize = 16 * 1024;
/// Reads in one batch.
pub(super) const PARTS: u16 = 128;
/// Parts are further apart than their size: at a power of two all heads would share the same few sets of a cache.
const STRIDE: usize = PART_BYTES + 192;

#[derive(Debug)]
pub(super) struct Scratch(Box<[u8]>);

impl Scratch {
    pub fn new() -> Scratch {
        Scratch(vec![0; STRIDE * usize::from(PARTS)].into_boxed_slice())
    }

    /// A read of a slot into a part.
    ///
    /// # Safety
    ///
    /// The part's previous read was reaped, the value outlives the next `io_uring_enter`, and [`Scratch::part`] is not called
    /// for it before the completion.
    pub unsafe fn read(&mut self, slot: u32, part: u16) -> Sqe {
        let bytes = &mut self.0[usize::from(part) * STRIDE..][..PART_BYTES];
        // SAFETY: INV-1, INV-2: exclusive by this function's contract.
        unsafe { op::read::into_part(slot, part, bytes.as_mut_ptr(), PART_BYTES as u32) }
    }

    pub fn part(&mut self, part: u16, len: usize) -> &mut [u8] {
        &mut self.0[usize::from(part) * STRIDE..][..len.min(PART_BYTES)]
    }
}
