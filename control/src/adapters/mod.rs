//! Adapters of control's ports, named after their backend.

pub mod embedded;
pub mod memory;
pub mod opensearch;
pub mod postgres;
pub mod records;
pub mod redis;
