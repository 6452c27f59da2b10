//! Adapters of control's ports, named after their backend.

pub mod embedded;
pub mod opensearch;
pub mod postgres;
pub mod records;
