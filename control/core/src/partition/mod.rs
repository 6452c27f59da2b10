//! The sequencer of one partition: the only place where a message gets its seq.
//!
//! [`Partition::handle`] takes one batch of inputs and does, in this order: decide (dedup, membership, seqs), commit the
//! records in one group commit, then answer and route. Nothing is answered or routed before the commit returned.

pub mod api;
pub mod config;

pub use api::{
    Command, GatewayId, Heads, Input, LinkItem, LinkOpen, LinkOpenStream, Opened, OpenedStream, Origin, Output, Push,
    Recovered, Reply, Token,
};
pub use config::{GroupHistory, PartitionConfig};
