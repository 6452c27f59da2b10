//! The epoll driver of the gateway's worker loop: [`EpollDriver`] implements [`tidegate_gateway_core::driver::Driver`] where
//! io_uring is forbidden or missing. It behaves towards caller and peer like the io_uring driver; both run the suite of
//! `gateway/contract`.
//!
//! How a connection lives in it:
//!
//! * It is an ordinary descriptor, an entry of the shard's one epoll instance, and 24 bytes of ours. It has no buffer: all of
//!   a shard's sockets are read into one, a buffer each per turn.
//! * It is watched edge-triggered: an event is told once, and the socket is read until it is empty, over several turns if
//!   need be. So a socket whose peer has finished, or that nobody reads, costs nothing until it is closed.
//! * A send is one `send(MSG_DONTWAIT)`, made at the flush or when enough have been queued.
//! * A closed one is gone when its descriptor is. What epoll still says about it names an old use of its slot and is dropped.
//!
//! There is no `unsafe` here: rustix offers the system calls as safe functions over owned descriptors
//! (`docs/adr/0008-epoll-over-rustix.md`). It does not choose timers, order sends, or know frames: that is the core's.

#![forbid(unsafe_code)]

mod clock;
mod config;
mod doorbell;
mod driver;
mod outbox;
mod table;

pub use config::{ConfigError, EpollConfig};
pub use doorbell::Doorbell;
pub use driver::{EpollDriver, OpenError};
