//! The control process: REST and gRPC for backends and users, the link of gateways, and the partition that gives every
//! message its place.
//!
//! [`Control::start`] opens the store, gives the partition its thread ([`runtime`]), and serves [`api`] and [`link`].
//! `compose` is the only place that names a concrete store; everything else knows the ports of
//! [`tidegate_control_core`]. What it does not do: hold client connections (that is the gateway's), decide about dedup,
//! seqs and membership (that is the partition's).

#![forbid(unsafe_code)]

pub mod adapters;
pub mod api;
pub mod cache;
#[cfg(any(test, feature = "checks"))]
pub mod checks;
pub mod cluster;
mod compose;
pub mod config;
pub mod dispatch;
pub mod endpoints;
pub mod guard;
pub mod link;
mod message;
pub mod metrics;
pub mod operations;
pub mod presence;
pub mod records;
pub mod runtime;
mod server;

pub use config::{Config, DEFAULT_CONFIG, Problem, check};
pub use server::{Addrs, Control, StartError};
