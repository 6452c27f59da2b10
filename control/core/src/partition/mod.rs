//! The sequencer of one partition: the only place where a message gets its seq.
//!
//! [`Partition::handle`] takes one batch of inputs and does, in this order: decide (dedup, membership, seqs), commit the
//! records in one group commit, then answer and route. Nothing is answered or routed before the commit returned.

mod access;
mod ahead;
pub mod api;
mod batch;
pub mod config;
mod dedup;
mod errands;
mod groups;
mod heads;
mod ids;
mod interest;
pub mod limits;
mod links;
mod marks;
mod opens;
mod push;
mod reads;
mod replay;
mod routing;
mod sequencer;
pub mod stats;
mod stream_hash;
#[cfg(test)]
mod tests;

pub use ahead::{homes_of, stream_of};
pub use api::{
    Also, Command, Errand, GatewayId, Heads, Input, LinkItem, LinkOpen, LinkOpenStream, Opened, OpenedStream, Origin,
    Output, Push, Recovered, Reply, Token,
};
pub use config::{GroupHistory, PartitionConfig};
pub use errands::errands_of;
pub use groups::SYSTEM_GROUP;
pub use ids::{Clock, ID_EPOCH_MS};
pub use links::{ATTACHMENTS_MAX, OPENS_DEFERRED_MAX};
pub use sequencer::{COMMIT_TRIES_MAX, Partition};
pub use stats::PartitionStats;
