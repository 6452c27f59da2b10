//! The message bus of a cluster: topics, the forms of their records, and the ports that adapters serve.
//!
//! [`port`] is what the house asks of a bus, [`kafka`] and [`memory`] serve it. [`dead_letters`], [`offsets`] and
//! [`history`] are written against the ports. It knows neither sequencing nor routing.
#![forbid(unsafe_code)]

pub mod dead_letters;
pub mod history;
pub mod kafka;
pub mod memory;
pub mod offsets;
pub mod port;
pub mod records;
pub mod settings;
pub mod stats;
pub mod topics;
