//! The gRPC services for backends.

mod push;
mod query;

pub use push::PushApi;
pub use query::QueryApi;
