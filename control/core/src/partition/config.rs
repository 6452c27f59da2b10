//! What the operator chooses, resolved before the partition starts.

/// How much of a group's history a member may read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GroupHistory {
    /// From the place of joining on.
    #[default]
    FromJoin,
    /// Everything that is stored.
    All,
}

#[derive(Clone, Debug)]
pub struct PartitionConfig {
    /// How many partitions there are; each stream belongs to [`PartitionId::of`](crate::domain::PartitionId::of) it.
    pub partitions: u32,
    /// Part of every message id; 0 … [`PartitionConfig::WORKER_MAX`], unique among all partitions that live.
    pub worker: u16,
    /// Joining or pushing to a group that does not exist creates it, open.
    pub auto_groups: bool,
    pub group_history: GroupHistory,
    /// A device without a cursor and without a mark that is nearer starts at most so many messages before its inbox's head.
    pub offline_max: u64,
    /// Marks of devices that were not heard of for so long are as if they were not.
    pub mark_age_max_ms: i64,
    /// Heads (with epoch and group state) kept in memory; the rest is looked up in the store.
    pub heads_max: usize,
    /// Streams that all gateways together may be interested in; the attachment that goes beyond is ended.
    pub interest_max: usize,
}

impl PartitionConfig {
    /// Ten bits of a message id.
    pub const WORKER_MAX: u16 = 1023;
}

impl Default for PartitionConfig {
    fn default() -> Self {
        PartitionConfig {
            partitions: 1,
            worker: 0,
            auto_groups: false,
            group_history: GroupHistory::FromJoin,
            offline_max: 1_000,
            mark_age_max_ms: 30 * 24 * 3600 * 1000,
            heads_max: 1 << 20,
            interest_max: 1 << 23,
        }
    }
}
