//! The clients' network: sockets as direct descriptors of several io_urings, all driven by one thread, so that one process
//! holds 100,000s of them whatever its limit of descriptors is.
//!
//! * An idle socket is one place in a ring's file table and a [`slots::Slot`]; it owns no buffer and nothing is armed on it
//!   unless it is to be read on arrival.
//! * [`Network::read_all`] reads every socket that is not armed, each with one RECV that never waits, into a scratch shared
//!   by all. [`Network::turn`] handles what completed by itself: connects, sends, armed receives.
//! * Closing cancels what is in flight on the socket before CLOSE, since an armed request would hold back the FIN, and the
//!   slot is used again only when nothing of it is in flight.
//!
//! `unsafe` stands only here and in `floor`. Each module with `unsafe` lists its invariants in its header. It knows nothing
//! of WebSocket, clients or judging.

mod bell;
mod buffers;
mod network;
mod op;
mod ring;
mod scratch;
mod slots;
mod socket;
mod tag;
mod thread;

pub use bell::Bell;
pub use network::{CONNECTIONS_MAX, Event, NetConfig, Network, Reading};
pub use slots::Sock;
pub use thread::{raise_nofile, thread_cpu_us};

#[cfg(test)]
mod tests;
