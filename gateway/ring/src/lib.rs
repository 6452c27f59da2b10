//! The io_uring driver of the gateway's worker loop: [`RingDriver`] implements [`tidegate_gateway_core::driver::Driver`].
//!
//! All of the gateway's `unsafe` lives in this crate. Each module with `unsafe` lists its invariants (`INV-1`, …) in its
//! header and every block cites the one it relies on. What other crates would need `unsafe` for is offered safely here:
//! [`own_stream`], [`duplicate`], [`tune`], [`pin_thread`], [`lower_priority`], [`raise_nofile`], [`monotonic`], [`thread_cpu_ns`].
//!
//! How a connection lives in a ring:
//!
//! * It is a slot of the ring's registered file table and 16 bytes of ours; its ordinary descriptor is closed at once.
//! * While idle it has one multishot poll armed and no buffer. When the poll fires, one RECV takes a buffer from the ring's
//!   provided buffers, its bytes are handed out in place, and the buffer goes back after the callback.
//! * A send is one SEND that points into the shared frame and completes inside the `io_uring_enter` that submits it. Only
//!   short and failed ones leave a completion.
//! * Closing cancels what is armed, closes the slot, and reuses it only when nothing of it is in flight.
//!
//! The facts about the kernel that this relies on are pinned by `tests/kernel_*.rs`.

mod buffers;
mod clock;
mod config;
mod doorbell;
mod driver;
mod op;
mod pins;
mod probe;
mod queue;
mod slots;
mod socket;
mod tag;
mod thread;
mod unit;

pub use clock::{monotonic, thread_cpu_ns};
pub use config::{ConfigError, RingConfig};
pub use doorbell::Doorbell;
pub use driver::{OpenError, RingDriver, RingStats};
pub use probe::{Features, Unsupported, probe};
pub use socket::{Keepalive, SocketTuning, duplicate, own_stream, tune};
pub use thread::{lower_priority, pin_thread, raise_nofile};
