//! One io_uring with its file table and its provided buffers.
//!
//! * INV-1 The ring is created, entered and dropped by one thread (SINGLE_ISSUER); the network that owns it is `!Send`.
//! * INV-2 A completion's buffer is lent once: completions are made here only, moved out of the kernel's queue, and consumed.
//! * INV-3 Fields drop in order: the ring before the buffers.
//! * INV-4 Work is deferred to this thread's `io_uring_enter` (DEFER_TASKRUN): after the last one nothing reads or writes
//!   memory that an operation points to.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;

use io_uring::{EnterFlags, IoUring, cqueue};

use super::buffers::Buffers;
use super::op::Sqe;
use super::tag::Tag;

const SQ_ENTRIES: u32 = 512;
const CQ_ENTRIES: u32 = 16 * 1024;
/// Attempts to enter while the kernel is short of memory for requests, with the processor given up between them.
const ENTER_ATTEMPTS_MAX: u32 = 100_000;

/// One completion, taken from the kernel's queue.
#[derive(Debug)]
pub(super) struct Completion {
    user_data: u64,
    pub result: i32,
    flags: u32,
}

impl Completion {
    pub fn tag(&self) -> Tag {
        Tag::unpack(self.user_data).expect("the kernel returns user data as it was given")
    }

    /// The multishot operation goes on.
    pub fn is_more(&self) -> bool {
        cqueue::more(self.flags)
    }

    pub fn has_buffer(&self) -> bool {
        cqueue::buffer_select(self.flags).is_some()
    }
}

pub(super) struct Ring {
    uring: IoUring,
    buffers: Buffers,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("fd", &self.uring.as_raw_fd()).finish_non_exhaustive()
    }
}

impl Ring {
    /// A ring whose file table has `slots` empty places; `bell` is signalled when it has something to reap or to run.
    pub fn open(slots: u32, buffers: u16, bell: i32) -> io::Result<Ring> {
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_clamp()
            .setup_cqsize(CQ_ENTRIES)
            .build(SQ_ENTRIES)?;
        uring.submitter().register_files_sparse(slots)?;
        uring.submitter().register_eventfd(bell)?;
        let mut buffers = Buffers::map(buffers)?;
        buffers.register(&uring.submitter())?;
        Ok(Ring { uring, buffers })
    }

    /// Puts the socket into an empty place of the file table.
    pub fn place(&self, slot: u32, socket: &OwnedFd) -> io::Result<()> {
        self.uring.submitter().register_files_update(slot, &[socket.as_raw_fd()]).map(drop)
    }

    pub fn push(&mut self, sqe: &Sqe) {
        // SAFETY: `Sqe`'s INV-1: what it points to stays valid for as long as the kernel uses it.
        while unsafe { self.uring.submission().push(sqe.entry()) }.is_err() {
            self.submit();
        }
    }

    /// A visit to the kernel would do something: submit, run deferred work, fetch overflown completions.
    pub fn needs_visit(&mut self) -> bool {
        let sq = self.uring.submission();
        !sq.is_empty() || sq.taskrun() || sq.cq_overflow()
    }

    /// Something can be reaped now, or after a visit.
    pub fn has_work(&mut self) -> bool {
        self.needs_visit() || !self.uring.completion().is_empty()
    }

    /// Submits all that is queued and runs deferred work; does not sleep.
    pub fn visit(&mut self) {
        self.submit();
        if self.needs_visit() {
            self.enter(0).unwrap_or_else(|errno| panic!("io_uring_enter: {}", io::Error::from_raw_os_error(errno)));
        }
    }

    /// Moves what has completed into `into`; no system call.
    pub fn reap(&mut self, into: &mut Vec<Completion>) {
        let completions = self.uring.completion();
        assert_eq!(completions.overflow(), 0, "the kernel dropped completions");
        into.extend(completions.map(|entry| Completion {
            user_data: entry.user_data(),
            result: entry.result(),
            flags: entry.flags(),
        }));
    }

    /// The bytes of an armed receive. The buffer goes back to the kernel afterwards.
    pub fn with_bytes<R>(&mut self, completion: Completion, use_it: impl FnOnce(&mut [u8]) -> R) -> Option<R> {
        let id = cqueue::buffer_select(completion.flags)?;
        let len = usize::try_from(completion.result).unwrap_or(0);
        // SAFETY: INV-2: the completion is consumed here.
        Some(unsafe { self.buffers.lend(id, len, use_it) })
    }

    /// Enters until the kernel has consumed all that is queued; what never waits has completed then.
    pub fn submit(&mut self) {
        for attempt in 0.. {
            let pending = {
                let mut sq = self.uring.submission();
                sq.sync();
                sq.len() as u32
            };
            if pending == 0 {
                return;
            }
            match self.enter(pending) {
                Ok(()) => {}
                Err(errno) => panic!("io_uring_enter with {pending} entries: {}", io::Error::from_raw_os_error(errno)),
            }
            if attempt > 0 {
                // Short of memory for requests: others must run.
                assert!(attempt < ENTER_ATTEMPTS_MAX, "the kernel takes no requests any more");
                thread::yield_now();
            }
        }
    }

    /// One enter that also runs deferred work. The error is an errno that does not pass by itself.
    fn enter(&mut self, submit: u32) -> Result<(), i32> {
        // SAFETY: INV-1; no argument is passed.
        let entered = unsafe { self.uring.submitter().enter::<()>(submit, 0, EnterFlags::GETEVENTS.bits(), None) };
        match entered.map_err(|error| error.raw_os_error().unwrap_or(libc::EIO)) {
            Ok(_) | Err(libc::EINTR | libc::EAGAIN | libc::EBUSY | libc::ENOMEM) => Ok(()),
            Err(errno) => Err(errno),
        }
    }
}
