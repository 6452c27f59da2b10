//! Node ↔ node: commands for partitions that another node owns, and results for messages that another node took in.
//!
//! Every node dials every other once, and keeps the call open. A question that was never sent may be asked again by the
//! caller; of one whose call broke the outcome is unknown, and the caller says so.

mod client;
mod server;
mod wire;

pub(crate) use client::Address;
pub(crate) use server::{NOT_THE_OWNER, not_the_owner};

pub(crate) use client::{AskError, Peers};
pub(crate) use server::NodeService;
