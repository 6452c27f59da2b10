//! Counters of a partition; they only rise, except the gauges at the end.

use crate::domain::ErrorCode;

/// Codes have a place each in [`PartitionStats::refusals`].
pub const CODES: [ErrorCode; 12] = ErrorCode::ALL;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartitionStats {
    pub commands: u64,
    /// Durable messages that got a seq, by push or send.
    pub pushes: u64,
    pub ephemerals: u64,
    /// Answered with the first one's place.
    pub duplicates: u64,
    /// Refused commands, in the order of [`CODES`].
    pub refusals: [u64; CODES.len()],
    /// Committed.
    pub records: u64,
    /// Commits that wrote something.
    pub batches: u64,
    pub batch_records_max: u64,
    /// Commits that the store was not available for.
    pub commits_unavailable: u64,
    /// Messages handed to links, once per gateway.
    pub deliveries: u64,
    pub ephemeral_deliveries: u64,
    /// Ephemeral messages not handed to a link that was behind.
    pub ephemeral_drops: u64,
    pub opens: u64,
    /// Opens that had to wait for their link to catch up.
    pub opens_deferred: u64,
    /// Times a link fell behind for want of credit, or came back with a cursor.
    pub catch_ups: u64,
    pub replayed_records: u64,
    pub resets: u64,
    pub detached: u64,
    /// Looked up in the store for want of a cached head.
    pub head_misses: u64,
    /// Now: links attached, streams that gateways are interested in, heads kept.
    pub links: u64,
    pub interest: u64,
    pub heads: u64,
}

impl PartitionStats {
    pub(super) fn refused(&mut self, code: ErrorCode) {
        if let Some(at) = CODES.iter().position(|known| *known == code) {
            self.refusals[at] += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_counted_by_code() {
        let mut stats = PartitionStats::default();
        stats.refused(ErrorCode::Internal);
        stats.refused(ErrorCode::Internal);
        assert_eq!(stats.refusals[CODES.len() - 1], 2);
        assert_eq!(stats.refusals.iter().sum::<u64>(), 2);
    }
}
