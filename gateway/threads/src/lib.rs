//! What the gateway's threads agree on without a lock: who may sleep ([`Sleep`]), how it is woken ([`Bell`]), and how much
//! many may hold together ([`Bound`]).
//!
//! A crate of its own, because `tests/loom.rs` walks through every order in which the threads can run, and for that all of
//! it is compiled with loom's atomics (`--cfg loom`), which tokio and its kind do not survive. `cargo xtask test` does so.
//! What it does not do: queues (crossbeam's), and the descriptor behind a bell (the driver's).

#![forbid(unsafe_code)]

mod atomic;
mod bell;
mod bound;
mod sleep;

pub use bell::{Bell, Signal, Wait};
pub use bound::Bound;
pub use sleep::Sleep;
