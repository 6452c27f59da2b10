//! What tests share with `cargo xtask`.

#![forbid(unsafe_code)]

pub mod no_uring;
