//! Adapters of control's ports, named after their backend.

pub mod embedded;
pub mod postgres;
