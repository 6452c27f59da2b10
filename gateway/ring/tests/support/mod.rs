//! A bare ring, and what the driver's contract is run with.
#![allow(dead_code, reason = "each test file uses its part")]

use std::net::TcpStream;
use std::os::fd::AsRawFd;

use io_uring::{EnterFlags, IoUring, cqueue, squeue};
use tidegate_gateway_contract::{Factory, Shape};
use tidegate_gateway_ring::{Features, RingConfig, RingDriver, probe};

pub fn features() -> Features {
    probe().expect("these tests need io_uring")
}

/// Drivers of one ring.
#[derive(Debug)]
pub struct Rings;

impl Rings {
    /// Fewer completion entries than most tests have events.
    pub fn config(shape: &Shape) -> RingConfig {
        let whole = RingConfig {
            slots_per_ring: shape.slots,
            cq_entries: 4096,
            buffer_bytes: shape.buffer_bytes,
            reads_per_socket: shape.reads_per_socket,
            linger_ms: shape.linger_ms,
            ..RingConfig::default()
        };
        if shape.tight { RingConfig { buffers: 1, sq_entries: 8, enter_every: 8, ..whole } } else { whole }
    }
}

impl Factory for Rings {
    type Driver = RingDriver;

    fn open(&self, shape: &Shape) -> RingDriver {
        RingDriver::open(&Rings::config(shape), features()).expect("a ring")
    }

    fn bell(driver: &RingDriver) -> impl Fn() + Clone + Send + 'static {
        let bell = driver.doorbell();
        move || bell.ring()
    }

    fn sockets(driver: &RingDriver) -> u32 {
        driver.stats().sockets
    }
}

/// A bare ring with the driver's flags and 16 places in its file table, to pin facts about the kernel itself.
pub struct Bare(pub IoUring);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cqe {
    pub id: u64,
    pub result: i32,
    pub flags: u32,
}

impl Cqe {
    pub fn more(&self) -> bool {
        cqueue::more(self.flags)
    }

    pub fn buffer(&self) -> Option<u16> {
        cqueue::buffer_select(self.flags)
    }
}

impl Bare {
    pub fn new() -> Bare {
        let ring: IoUring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(4096)
            .build(64)
            .unwrap();
        ring.submitter().register_files_sparse(16).unwrap();
        Bare(ring)
    }

    /// Moves a socket into a place of the table.
    pub fn place(&self, slot: u32, socket: TcpStream) {
        self.0.submitter().register_files_update(slot, &[socket.as_raw_fd()]).unwrap();
    }

    pub fn push(&mut self, entry: squeue::Entry, id: u64) {
        // SAFETY: the tests keep what their entries point to alive until the ring is dropped or the entry has completed.
        unsafe { self.0.submission().push(&entry.user_data(id)).unwrap() };
    }

    /// Submits, runs deferred work, and returns what has completed; does not wait.
    pub fn visit(&mut self) -> Vec<Cqe> {
        self.enter(0)
    }

    /// Like `visit`, and waits for one completion at least.
    pub fn wait(&mut self) -> Vec<Cqe> {
        self.enter(1)
    }

    fn enter(&mut self, want: u32) -> Vec<Cqe> {
        let queued = {
            let mut sq = self.0.submission();
            sq.sync();
            sq.len() as u32
        };
        // SAFETY: no argument is passed; entries as in `push`.
        unsafe { self.0.submitter().enter::<()>(queued, want, EnterFlags::GETEVENTS.bits(), None).unwrap() };
        let seen = |e: cqueue::Entry| Cqe { id: e.user_data(), result: e.result(), flags: e.flags() };
        self.0.completion().map(seen).collect()
    }
}
