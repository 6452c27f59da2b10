//! The gateway's core, sans-io: no sockets, no clock, no randomness of its own, no `unsafe`.
//!
//! Two state machines exchange plain values through queues that the process wires up:
//!
//! * [`shard`] owns connections. Its worker loop is generic over a [`driver::Driver`] (io_uring, epoll, or the
//!   simulator's world), parses frames, runs sessions, fans frames out and bears slow consumers.
//! * [`hub`] owns streams. There is one per node: it batches what the link delivers, encodes it once, knows which shard
//!   has members, answers joins and pulls, and heals holes.
//!
//! [`ws`] is the RFC 6455 / RFC 7692 codec, [`client`] the two client sub-protocols, [`link`] what is said to control and
//! [`messages`] what shard and hub say to each other.

#![forbid(unsafe_code)]

#[cfg(any(test, feature = "checks"))]
pub mod checks;
mod chunks;
pub mod client;
pub mod driver;
pub mod hub;
pub mod ids;
mod index;
pub mod link;
pub mod messages;
pub mod planted;
pub mod shard;
mod texts;
pub mod ws;
