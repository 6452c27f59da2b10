//! One adapter per kind of registry.

pub mod etcd;
mod line;
pub(crate) mod memory;
pub mod redis;
