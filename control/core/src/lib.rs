//! Control's core, sans-io: no sockets, no clock, no randomness of its own.
//!
//! [`partition`] is the sequencer's loop body: it takes a batch of commands, drops duplicates, checks membership, gives
//! seqs, commits one batch to the [`ports::MessageStore`], and only then answers and routes. [`ports`] are the traits that
//! adapters implement; [`domain`] are the words both sides use. With the feature `contract`, `contract` holds the suites
//! that every adapter of a port must pass.

#![forbid(unsafe_code)]

pub mod breaker;
#[cfg(any(test, feature = "contract"))]
pub mod contract;
pub mod domain;
pub mod partition;
pub mod planted;
pub mod ports;
