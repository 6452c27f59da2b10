//! The provided buffers of a ring, for armed receives: one mapping that holds the ring of descriptors shared with the kernel
//! and the buffers.
//!
//! * INV-1 The mapping is `ring_bytes + entries × BUFFER_BYTES` long, page-aligned, private, and lives as long as the value.
//! * INV-2 A buffer belongs to the kernel from its publication until a completion names it, and to this side from there until
//!   it is published again. [`Buffers::lend`] does both ends, under `&mut self`, so one buffer at a time is lent.
//! * INV-3 With deferred task work an armed receive writes to a buffer only inside an `io_uring_enter` of the ring's thread, so
//!   nothing writes after its last one. The owner drops the ring before the buffers.
//! * INV-4 Entries are written by this thread only, below `tail`, and made visible by a release store of `tail`.

use std::io;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

/// The one buffer group of each ring.
pub(super) const GROUP: u16 = 0;
/// Bytes that one receive takes at most.
pub(super) const BUFFER_BYTES: usize = 4096;
const PAGE: usize = 4096;

#[derive(Debug)]
pub(super) struct Buffers {
    mapping: NonNull<u8>,
    mapping_bytes: usize,
    ring_bytes: usize,
    entries: u16,
    tail: u16,
}

impl Buffers {
    /// Maps `entries` (a power of two) buffers. The kernel has none of them before [`Buffers::register`].
    pub fn map(entries: u16) -> io::Result<Buffers> {
        let ring_bytes = (usize::from(entries) * size_of::<BufRingEntry>()).next_multiple_of(PAGE);
        let mapping_bytes = ring_bytes + usize::from(entries) * BUFFER_BYTES;
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: INV-1; a new anonymous mapping at an address of the kernel's choice touches no existing memory.
        let mapping = unsafe { libc::mmap(ptr::null_mut(), mapping_bytes, protection, flags, -1, 0) };
        if mapping == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let mapping = NonNull::new(mapping.cast()).expect("mmap never places a mapping at address 0 by itself");
        Ok(Buffers { mapping, mapping_bytes, ring_bytes, entries, tail: 0 })
    }

    /// Gives all buffers to the ring.
    pub fn register(&mut self, submitter: &Submitter<'_>) -> io::Result<()> {
        // SAFETY: INV-1: the address is that of `entries` descriptors, and INV-3: it outlives the ring.
        unsafe {
            submitter.register_buf_ring_with_flags(self.mapping.as_ptr() as u64, self.entries, GROUP, 0)?;
        }
        for id in 0..self.entries {
            self.push(id);
        }
        self.publish();
        Ok(())
    }

    /// Hands out the first `len` bytes of the buffer a completion named, then gives the buffer back to the kernel.
    ///
    /// # Safety
    ///
    /// `id` comes from a completion of this ring whose buffer was not lent before.
    pub unsafe fn lend<R>(&mut self, id: u16, len: usize, use_it: impl FnOnce(&mut [u8]) -> R) -> R {
        assert!(id < self.entries && len <= BUFFER_BYTES, "the kernel named buffer {id} with {len} bytes");
        // SAFETY: INV-1 for the bounds just checked, INV-2 for exclusiveness; mapped pages are initialised.
        let bytes = unsafe { slice::from_raw_parts_mut(self.buffer(id), len) };
        let result = use_it(bytes);
        self.push(id);
        self.publish();
        result
    }

    fn buffer(&self, id: u16) -> *mut u8 {
        // SAFETY: INV-1: callers pass ids below `entries`.
        unsafe { self.mapping.as_ptr().add(self.ring_bytes + usize::from(id) * BUFFER_BYTES) }
    }

    fn push(&mut self, id: u16) {
        let address = self.buffer(id) as u64;
        let at = usize::from(self.tail & (self.entries - 1));
        // SAFETY: INV-1 for the bounds, INV-4 for exclusiveness. The reference is to an entry's own fields; entry 0's last two
        // bytes are the shared tail, which these setters do not touch.
        unsafe {
            let entry = self.mapping.as_ptr().cast::<BufRingEntry>().add(at);
            (*entry).set_addr(address);
            (*entry).set_len(BUFFER_BYTES as u32);
            (*entry).set_bid(id);
        }
        self.tail = self.tail.wrapping_add(1);
    }

    fn publish(&self) {
        // SAFETY: INV-1, INV-4: the tail is an aligned u16 in the first entry, written by this thread only.
        unsafe {
            let tail = BufRingEntry::tail(self.mapping.as_ptr().cast::<BufRingEntry>());
            (*tail.cast::<AtomicU16>()).store(self.tail, Ordering::Release);
        }
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // SAFETY: INV-1: this is the mapping made in `map`; INV-3: the ring is gone and nothing writes to it any more.
        unsafe {
            libc::munmap(self.mapping.as_ptr().cast(), self.mapping_bytes);
        }
    }
}
