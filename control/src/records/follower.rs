//! Hands in the texts of a store's messages by following its log. It can wait, so that texts wait in the log while the index
//! is away, and none is dropped as long as the log reaches back.

use std::sync::Arc;
use std::time::Duration;

use tidegate_control_core::domain::{Lsn, Record};
use tidegate_control_core::ports::{PageLimit, StoreReader};
use tokio::task::JoinHandle;

use super::feeder::Feed;

const PAGE: PageLimit = PageLimit { messages: 500, bytes: 1 << 20 };
/// Between two looks at a log that has nothing new, or at an index that is behind.
const PAUSE: Duration = Duration::from_millis(100);
/// After a look-up failed.
const PAUSE_FAILED: Duration = Duration::from_secs(1);

/// Follows a log from the record after `from` until the feed is closed. A text that was handed in before does no harm, so
/// after a restart it may begin earlier than it ended.
pub fn follow(reader: Arc<dyn StoreReader>, feed: Feed, from: Lsn) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut at = from;
        while !feed.is_closed() {
            if feed.is_busy() || reader.last_lsn() <= at {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            let (log, after) = (Arc::clone(&reader), at);
            // The look-up may read a disk.
            match tokio::task::spawn_blocking(move || log.replay(after, PAGE)).await {
                Ok(Ok(Some(page))) => {
                    for (_, record) in &page.records {
                        if let Record::Append(append) = record {
                            feed.message(append);
                        }
                    }
                    at = page.upto;
                }
                Ok(Ok(None)) => {
                    let newest = reader.last_lsn();
                    tracing::warn!(from = at.0, to = newest.0, "texts are not searched: the log was trimmed before");
                    at = newest;
                }
                Ok(Err(error)) => {
                    tracing::warn!(%error, "the log cannot be followed for texts");
                    tokio::time::sleep(PAUSE_FAILED).await;
                }
                // The runtime ends.
                Err(_) => return,
            }
        }
    })
}
