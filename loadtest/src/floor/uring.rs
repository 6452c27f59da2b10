//! The bare loop of an io_uring server: one SEND per direct descriptor, entered every [`ENTER_EVERY`], no completion for
//! those that succeed.

use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd as _;

use io_uring::types::Fixed;
use io_uring::{IoUring, opcode, squeue};

use super::serve::FanOut;

/// Measured best between 32 and 64: larger batches push the sockets' memory out of the cache.
const ENTER_EVERY: u32 = 64;

pub struct Uring {
    rings: Vec<Ring>,
    slots_per_ring: u32,
}

struct Ring {
    ring: IoUring,
    taken: u32,
}

impl Uring {
    /// For so many sockets, in as many rings as the descriptor limit asks for: it bounds the table of each.
    pub fn new(sockets: usize, descriptors_max: usize) -> Uring {
        Uring { rings: Vec::new(), slots_per_ring: sockets.clamp(1, descriptors_max.max(1)) as u32 }
    }
}

impl FanOut for Uring {
    fn admit(&mut self, stream: TcpStream) -> io::Result<()> {
        if self.rings.last().is_none_or(|ring| ring.taken == self.slots_per_ring) {
            self.rings.push(Ring::new(self.slots_per_ring)?);
        }
        let last = self.rings.len() - 1;
        let ring = &mut self.rings[last];
        // The table holds the file from here on; the descriptor is closed.
        ring.ring.submitter().register_files_update(ring.taken, &[stream.as_raw_fd()])?;
        ring.taken += 1;
        Ok(())
    }

    fn sockets(&self) -> usize {
        self.rings.iter().map(|ring| ring.taken as usize).sum()
    }

    fn send_all(&mut self, frame: &[u8]) -> io::Result<u64> {
        self.rings.iter_mut().map(|ring| ring.send_all(frame)).sum()
    }
}

impl Ring {
    fn new(slots: u32) -> io::Result<Ring> {
        let ring: IoUring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_clamp()
            .setup_cqsize(32_768)
            .build(ENTER_EVERY)?;
        ring.submitter().register_files_sparse(slots)?;
        // Saves looking the ring's descriptor up at each enter.
        ring.submitter().register_ring_fd()?;
        Ok(Ring { ring, taken: 0 })
    }

    fn send_all(&mut self, frame: &[u8]) -> io::Result<u64> {
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT | libc::MSG_WAITALL;
        let mut short = 0;
        for first in (0..self.taken).step_by(ENTER_EVERY as usize) {
            let slots = first..self.taken.min(first + ENTER_EVERY);
            let queued = slots.len();
            let mut queue = self.ring.submission();
            for slot in slots {
                let send = opcode::Send::new(Fixed(slot), frame.as_ptr(), frame.len() as u32).flags(flags).build();
                // SAFETY: INV-3.
                unsafe { queue.push(&send.flags(squeue::Flags::SKIP_SUCCESS)) }.map_err(io::Error::other)?;
            }
            drop(queue);
            self.enter(queued)?;
            // Only what failed or came back short has a completion.
            short += self.ring.completion().count() as u64;
        }
        Ok(short)
    }

    fn enter(&self, queued: usize) -> io::Result<()> {
        // SAFETY: INV-3; no argument is passed.
        let entered = unsafe { self.ring.submitter().enter::<()>(queued as u32, 0, 0, None) }?;
        // A rest would keep pointing to the frame, so the process must not go on.
        assert_eq!(entered, queued, "a ring with SUBMIT_ALL consumes every entry");
        Ok(())
    }
}
