//! `offsets reset`: where a group reads on.

use crate::port::{Admin, BusError};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    Earliest,
    Latest,
    /// The first record that is not older, in milliseconds since the Unix epoch.
    Time(i64),
    /// The same in every partition, moved into what is there.
    Offset(i64),
}

/// What one partition was set to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reset {
    pub partition: i32,
    pub before: Option<i64>,
    pub after: i64,
}

/// Refuses while the group has members: they would go on where they are, and commit over it. `forced` asks the broker all the
/// same, which itself refuses while partitions are assigned.
///
/// Sequencers keep their places in the store; for their group this changes only what is displayed.
pub async fn reset(admin: &dyn Admin, group: &str, topic: &str, to: To, forced: bool) -> Result<Vec<Reset>, BusError> {
    if !forced && admin.members(group).await? > 0 {
        return Err(BusError::GroupActive);
    }
    let times = match to {
        To::Time(timestamp_ms) => admin.offsets_at(topic, timestamp_ms).await?,
        _ => Vec::new(),
    };
    let mut resets = Vec::new();
    for committed in admin.committed(group, topic).await? {
        let partition = committed.partition;
        let marks = admin.watermarks(topic, partition).await?;
        let after = match to {
            To::Earliest => marks.low,
            To::Latest => marks.high,
            To::Offset(offset) => offset.clamp(marks.low, marks.high),
            To::Time(_) => times.iter().find(|(known, _)| *known == partition).map_or(marks.high, |(_, at)| *at),
        };
        resets.push(Reset { partition, before: committed.next, after });
    }
    let offsets = resets.iter().map(|reset| (reset.partition, reset.after)).collect();
    admin.set_committed(group, topic, offsets).await?;
    Ok(resets)
}
