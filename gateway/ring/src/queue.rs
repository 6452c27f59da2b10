//! One io_uring with what the kernel may touch on its behalf: the frames of queued SENDs and the receive buffers.
//!
//! * INV-1 The ring is created, entered and dropped by one thread (SINGLE_ISSUER); the driver that owns it is `!Send`.
//! * INV-2 The bytes of a queued SEND are pinned from its push until the submission queue has been found empty after an
//!   `io_uring_enter`. A SEND completes inside that call (see `op/send.rs`), so nothing reads them later.
//! * INV-3 Pointers given to `io_uring_enter` are to locals that live through the call.
//! * INV-4 A completion's buffer is lent once: completions are only made here, moved out of the kernel's queue, and consumed.
//! * INV-5 Fields drop in order: the ring before the buffers and the pins.
//!
//! A completion never gets lost: while SENDs are queued between two flushes the completion queue is emptied into `reaped` when
//! it is half full, overflown completions are fetched back, and one that the kernel had to drop for want of memory ends the
//! process, because "no completion" means "sent".

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue};

use crate::buffers::Buffers;
use crate::config::RingConfig;
use crate::op::{self, Sqe};
use crate::pins::Pins;
use crate::tag::{SlotUse, Tag};

/// Attempts to enter while the kernel is short of memory for requests, with the processor given up between them.
const ENTER_ATTEMPTS_MAX: u32 = 100_000;

/// What SHUTDOWNs run on; two threads per ring thread are plenty.
const WORKERS_MAX: u32 = 2;

/// One completion, taken from the kernel's queue.
#[derive(Debug)]
pub(crate) struct Completion {
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
}

#[derive(Debug)]
pub(crate) struct Queue {
    ring: Ring,
    buffers: Buffers,
    pins: Pins,
    reaped: Vec<Completion>,
    queued: u32,
    enter_every: u32,
    enters: u64,
}

struct Ring(IoUring);

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Ring").field(&self.0.as_raw_fd()).finish()
    }
}

impl Queue {
    /// A ring whose file table has `slots` empty places.
    pub fn open(config: &RingConfig, slots: u32) -> io::Result<Queue> {
        let ring = build(config.sq_entries, config.cq_entries)?;
        ring.submitter().register_files_sparse(slots)?;
        let mut buffers = Buffers::map(config.buffers, config.buffer_bytes)?;
        buffers.register(&ring.submitter())?;
        Ok(Queue {
            ring: Ring(ring),
            buffers,
            pins: Pins::default(),
            reaped: Vec::new(),
            queued: 0,
            enter_every: config.enter_every,
            enters: 0,
        })
    }

    /// Puts the socket into an empty place of the file table.
    pub fn place(&self, slot: u32, socket: &OwnedFd) -> io::Result<()> {
        self.ring.0.submitter().register_files_update(slot, &[socket.as_raw_fd()]).map(drop)
    }

    /// The eventfd is signalled whenever the ring has something to reap or to run.
    pub fn signal(&self, eventfd: i32) -> io::Result<()> {
        self.ring.0.submitter().register_eventfd(eventfd)
    }

    /// Bounds the worker threads of the calling thread's rings.
    pub fn limit_workers(&self) -> io::Result<()> {
        self.ring.0.submitter().register_iowq_max_workers(&mut [WORKERS_MAX, WORKERS_MAX])
    }

    pub fn push(&mut self, sqe: &Sqe) {
        // SAFETY: `Sqe`'s INV-1: its pointers stay valid until the entry was consumed; INV-2 for a SEND's bytes.
        while unsafe { self.ring.0.submission().push(sqe.entry()) }.is_err() {
            self.submit();
        }
        self.queued += 1;
        if self.queued >= self.enter_every {
            self.submit();
        }
    }

    /// Pushes entries that are linked, so that one enter takes them all.
    pub fn push_linked(&mut self, sqes: &[Sqe]) {
        if self.queued + sqes.len() as u32 > self.enter_every {
            self.submit();
        }
        for (n, sqe) in sqes.iter().enumerate() {
            // SAFETY: as in `push`.
            unsafe { self.ring.0.submission().push(sqe.entry()) }
                .unwrap_or_else(|_| panic!("an empty queue takes {} entries, not {n}", sqes.len()));
            self.queued += 1;
        }
    }

    pub fn push_send(&mut self, of: SlotUse, frame: &Bytes, from: usize) {
        self.pins.hold(frame);
        // SAFETY: INV-2: the frame was pinned just now, and `Bytes` never changes.
        let sqe = unsafe { op::send::to_slot(of, &frame[from..]) };
        self.push(&sqe);
    }

    /// A receive buffer's bytes, if the completion brought one.
    pub fn with_bytes<R>(&mut self, completion: Completion, use_it: impl FnOnce(&mut [u8]) -> R) -> Option<R> {
        let id = cqueue::buffer_select(completion.flags)?;
        let len = usize::try_from(completion.result).unwrap_or(0);
        // SAFETY: INV-4: the completion is consumed here.
        Some(unsafe { self.buffers.lend(id, len, use_it) })
    }

    pub fn buffers(&self) -> u16 {
        self.buffers.entries()
    }

    pub fn buffer_bytes(&self) -> u32 {
        self.buffers.size()
    }

    pub fn enters(&self) -> u64 {
        self.enters
    }

    /// Moves what has completed into `into`; no system call.
    pub fn reap(&mut self, into: &mut Vec<Completion>) {
        self.stash();
        into.append(&mut self.reaped);
    }

    /// Whether a visit to the kernel would do something: submit, run deferred work, fetch overflown completions.
    pub fn needs_visit(&mut self) -> bool {
        let sq = self.ring.0.submission();
        !sq.is_empty() || sq.taskrun() || sq.cq_overflow()
    }

    /// Whether something can be reaped without a visit.
    pub fn has_completions(&mut self) -> bool {
        !self.reaped.is_empty() || !self.ring.0.completion().is_empty()
    }

    /// Completions wait in the kernel because the queue was full.
    pub fn is_overflown(&mut self) -> bool {
        self.ring.0.submission().cq_overflow()
    }

    /// Submits all that is queued and runs deferred work; does not sleep.
    pub fn visit(&mut self) {
        let pending = self.pending();
        match self.enter(pending, 0, None) {
            // An enter that did not consume everything did not come to the deferred work either, and its flag stays up.
            Ok(()) | Err(libc::EINTR | libc::EAGAIN | libc::EBUSY | libc::ENOMEM) => self.submit(),
            Err(errno) => panic!("io_uring_enter: {}", io::Error::from_raw_os_error(errno)),
        }
    }

    /// Like [`Queue::visit`], then sleeps until a completion or for `timeout` (`None`: without end).
    pub fn visit_and_wait(&mut self, timeout: Option<Duration>) {
        self.submit();
        if !self.reaped.is_empty() {
            return;
        }
        match self.enter(0, 1, timeout) {
            // ETIME: the time-out. A signal or a shortage of memory ends the sleep early, which the caller's loop bears.
            Ok(()) | Err(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY) => {}
            Err(errno) => panic!("io_uring_enter: {}", io::Error::from_raw_os_error(errno)),
        }
    }

    /// Enters until the kernel has consumed all that is queued.
    fn submit(&mut self) {
        for attempt in 0.. {
            let pending = self.pending();
            if pending == 0 {
                break;
            }
            self.enters += 1;
            // SAFETY: INV-1; no argument is passed.
            let entered = unsafe { self.ring.0.submitter().enter::<()>(pending, 0, 0, None) };
            match entered.map_err(|e| e.raw_os_error()) {
                Ok(_) | Err(Some(libc::EINTR)) => {}
                // Short of memory for requests, or completions must be fetched first.
                Err(Some(libc::EAGAIN | libc::EBUSY | libc::ENOMEM)) if attempt < ENTER_ATTEMPTS_MAX => {
                    self.stash();
                    let _ = self.enter(0, 0, None);
                    thread::yield_now();
                }
                Err(errno) => panic!("io_uring_enter: errno {errno:?} with {pending} entries queued"),
            }
        }
        self.submitted();
    }

    /// The submission queue is empty.
    fn submitted(&mut self) {
        self.queued = 0;
        self.pins.release_all();
        let completions = self.ring.0.completion();
        if completions.len() * 2 >= completions.capacity() {
            drop(completions);
            self.stash();
        }
    }

    fn stash(&mut self) {
        let mut completions = self.ring.0.completion();
        assert_eq!(completions.overflow(), 0, "the kernel dropped completions, so what was sent is not known any more");
        self.reaped.extend(completions.by_ref().map(|entry| Completion {
            user_data: entry.user_data(),
            result: entry.result(),
            flags: entry.flags(),
        }));
    }

    fn pending(&mut self) -> u32 {
        let mut sq = self.ring.0.submission();
        sq.sync();
        sq.len() as u32
    }

    /// One enter that runs deferred work. The error is an errno.
    fn enter(&mut self, submit: u32, want: u32, timeout: Option<Duration>) -> Result<(), i32> {
        self.enters += 1;
        let submitter = self.ring.0.submitter();
        let entered = match timeout {
            None => {
                let flags = EnterFlags::GETEVENTS.bits();
                // SAFETY: INV-1; no argument is passed.
                unsafe { submitter.enter::<()>(submit, want, flags, None) }
            }
            Some(timeout) => {
                let timeout = Timespec::from(timeout);
                let args = SubmitArgs::new().timespec(&timeout);
                let flags = (EnterFlags::GETEVENTS | EnterFlags::EXT_ARG).bits();
                // SAFETY: INV-1, INV-3: `args` and the time it points to are locals.
                unsafe { submitter.enter(submit, want, flags, Some(&args)) }
            }
        };
        entered.map(drop).map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))
    }
}

/// The flags every ring here has.
pub(crate) fn build(sq_entries: u32, cq_entries: u32) -> io::Result<IoUring> {
    IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_clamp()
        .setup_cqsize(cq_entries)
        .build(sq_entries)
}
