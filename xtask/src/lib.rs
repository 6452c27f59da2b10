//! What tests share with `cargo xtask`.

#![forbid(unsafe_code)]

pub mod cluster;
pub mod command;
pub mod no_uring;
pub mod servers;
