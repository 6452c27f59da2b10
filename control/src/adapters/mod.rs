//! Adapters of control's ports, named after their backend.

pub mod embedded;
pub mod memory;
pub mod postgres;
pub mod redis;
