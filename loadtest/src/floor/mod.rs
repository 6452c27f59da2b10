//! The least that a broadcast can cost on this machine: two bare servers that know no protocol beyond the handshake, one
//! with epoll and `send`, one with io_uring and direct descriptors. A result then reads "x times the floor".
//!
//! A bare server is a child process, so that its CPU time is its own, and dies with its parent. Per round it makes one
//! send per socket, always in the same order. After the handshake it reads nothing: a poll that is armed for reading
//! is not looked at by a send, and with 10,000 of them armed the cost per send was the same within the noise.
//!
//! Invariants of the `unsafe` code in this folder:
//! * INV-1: system calls get pointers to locals or borrowed slices that outlive the call, with their true lengths.
//! * INV-2: every descriptor passed to a system call is borrowed from an owner that outlives the call.
//! * INV-3: a frame outlives its requests: they carry `MSG_DONTWAIT`, so the kernel is done with each when the `enter`
//!   that consumes it returns, and a fan-out enters until none is left before it gives the frame back.
//!
//! Not here: clients. They are a fleet in `Mode::Bare`, the same sockets and reads as in the run it is compared with.

mod bare;
mod compare;
mod door;
mod epoll;
mod limits;
mod serve;
pub mod stats;
mod uring;

use std::io;

pub use bare::{Bare, Slice};
pub use compare::{Broadcast, Clients, Floors, summarize};
pub use serve::serve;

/// Which of the two bare servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loop {
    Epoll,
    Uring,
}

#[derive(Debug, thiserror::Error)]
pub enum FloorError {
    #[error("the bare server could not be run")]
    Io(#[from] io::Error),
    #[error(
        "the bare epoll server needs a descriptor per socket: {sockets} are beyond the limit of {limit} for a process"
    )]
    TooManySockets { sockets: usize, limit: usize },
    #[error("the bare {0} server ended")]
    Ended(&'static str),
    #[error("{short} of {sends} sends of the bare {name} server were short: its clients did not keep up or are gone")]
    Short { name: &'static str, short: u64, sends: u64 },
    #[error("the bare {name} server did not say {expected:?} in time")]
    Silent { name: &'static str, expected: &'static str },
    #[error("the bare {name} server said {said:?} instead of {expected:?}")]
    Unexpected { name: &'static str, expected: &'static str, said: String },
}

impl Loop {
    pub const BOTH: [Loop; 2] = [Loop::Epoll, Loop::Uring];

    pub fn name(self) -> &'static str {
        match self {
            Loop::Epoll => "epoll",
            Loop::Uring => "io_uring",
        }
    }

    pub fn named(name: &str) -> Option<Loop> {
        Loop::BOTH.into_iter().find(|which| which.name() == name)
    }

    /// Whether a process may hold so many sockets in this way.
    pub fn can_hold(self, sockets: usize) -> Result<(), FloorError> {
        let limit = limits::descriptors()?;
        match self {
            // The standard streams, the listener and the epoll descriptor want some too.
            Loop::Epoll if sockets + 64 > limit => Err(FloorError::TooManySockets { sockets, limit }),
            _ => Ok(()),
        }
    }
}
