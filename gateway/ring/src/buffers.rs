//! The receive buffers of a ring: one mapping that holds the ring of descriptors shared with the kernel and the buffers.
//!
//! * INV-1 The mapping is `ring_bytes + entries × size` long, page-aligned, private, and lives as long as the value.
//! * INV-2 A buffer belongs to the kernel from its publication until a completion names it, and to this side from there until
//!   it is published again. [`Buffers::lend`] does both ends, under `&mut self`, so one buffer at a time is lent.
//! * INV-3 RECVs are MSG_DONTWAIT: the kernel writes to a buffer only inside an `io_uring_enter`, so nothing writes after
//!   the ring's descriptor was closed. The owner drops the ring before the buffers.
//! * INV-4 Entries are written by this thread only, below `tail`, and made visible by a release store of `tail`.

use std::io;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

/// The one buffer group of each ring.
pub(crate) const GROUP: u16 = 0;

const PAGE: usize = 4096;

#[derive(Debug)]
pub(crate) struct Buffers {
    mapping: NonNull<u8>,
    mapping_bytes: usize,
    ring_bytes: usize,
    entries: u16,
    size: u32,
    tail: u16,
}

impl Buffers {
    /// Maps `entries` (a power of two) buffers of `size` bytes. The kernel has none of them before [`Buffers::register`].
    pub fn map(entries: u16, size: u32) -> io::Result<Buffers> {
        let ring_bytes = (usize::from(entries) * size_of::<BufRingEntry>()).next_multiple_of(PAGE);
        let mapping_bytes = ring_bytes + usize::from(entries) * size as usize;
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: INV-1; a new anonymous mapping at an address of the kernel's choice touches no existing memory.
        let mapping = unsafe { libc::mmap(ptr::null_mut(), mapping_bytes, protection, flags, -1, 0) };
        if mapping == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let mapping = NonNull::new(mapping.cast()).expect("mmap never places a mapping at address 0 by itself");
        Ok(Buffers { mapping, mapping_bytes, ring_bytes, entries, size, tail: 0 })
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

    pub fn entries(&self) -> u16 {
        self.entries
    }

    pub fn size(&self) -> u32 {
        self.size
    }

    /// Hands out the first `len` bytes of the buffer a completion named, then gives the buffer back to the kernel.
    ///
    /// # Safety
    ///
    /// `id` comes from a completion of this ring whose buffer was not lent before.
    pub unsafe fn lend<R>(&mut self, id: u16, len: usize, use_it: impl FnOnce(&mut [u8]) -> R) -> R {
        assert!(id < self.entries && len <= self.size as usize, "the kernel named buffer {id} with {len} bytes");
        // SAFETY: INV-1 for the bounds just checked, INV-2 for exclusiveness; mapped pages are initialised (zero or received).
        let bytes = unsafe { slice::from_raw_parts_mut(self.buffer(id), len) };
        let result = use_it(bytes);
        self.push(id);
        self.publish();
        result
    }

    fn buffer(&self, id: u16) -> *mut u8 {
        // SAFETY: INV-1: callers pass ids below `entries`.
        unsafe { self.mapping.as_ptr().add(self.ring_bytes + usize::from(id) * self.size as usize) }
    }

    fn push(&mut self, id: u16) {
        let address = self.buffer(id) as u64;
        let at = usize::from(self.tail & (self.entries - 1));
        // SAFETY: INV-1 for the bounds, INV-4 for exclusiveness. The reference is to an entry's own fields; entry 0's last two
        // bytes are the shared tail, which these setters do not touch.
        unsafe {
            let entry = self.mapping.as_ptr().cast::<BufRingEntry>().add(at);
            (*entry).set_addr(address);
            (*entry).set_len(self.size);
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
