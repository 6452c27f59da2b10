//! The suites that every adapter of a port must pass, whatever stands behind it.

pub mod cache;
pub mod store;
