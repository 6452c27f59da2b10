//! RFC 6455 frames and RFC 7692 compression, strict and bounded by what was received.

pub mod close;
