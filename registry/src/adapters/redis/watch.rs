//! A watch: messages of changes for speed, and a listing each second for what no message told.

use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt as _;
use redis::Msg;
use tokio::sync::mpsc::{self, error::SendTimeoutError};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use super::{Redis, refusal, scripts};
use crate::backoff::jittered;
use crate::error::RegistryError;
use crate::known::Known;
use crate::registry::Entry;
use crate::watch::WatchEvent;

/// A reader that takes longer gets a snapshot once it reads again.
const SLOW_READER: Duration = Duration::from_secs(5);

pub(super) async fn follow(
    redis: &Redis,
    prefix: &str,
    events: &mpsc::Sender<WatchEvent>,
) -> Result<(), RegistryError> {
    // Messages for a reader that does not read must not pile up here: so nothing is listened to before there is room.
    drop(events.reserve().await);
    // Listened to before the snapshot, or what changes in between would be seen a second late.
    let (mut sink, messages) = redis.dialler.listen(scripts::CHANNEL).await?.split();
    let mut messages = pin!(messages);
    let listing = redis.listing(prefix).await?;
    let mut known = Known::new(&listing);
    if events.send(WatchEvent::Snapshot(listing.entries)).await.is_err() {
        return Ok(());
    }
    let mut tick = interval_at(Instant::now() + jittered(redis.relist), redis.relist);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let news = tokio::select! {
            message = messages.next() => {
                let message = message.ok_or_else(|| RegistryError::unavailable("the messages ended"))?;
                change(&message, prefix).and_then(|change| tell(&mut known, change)).into_iter().collect()
            }
            _ = tick.tick() => {
                // A line on which no message comes looks like one that is dead.
                let pong = timeout(redis.line.timeout(), sink.ping::<redis::Value>()).await;
                pong.map_err(RegistryError::unavailable)?.map_err(refusal)?;
                known.relisted(redis.listing(prefix).await?).map_err(RegistryError::unavailable)?
            }
            () = events.closed() => return Ok(()),
        };
        for event in news {
            match events.send_timeout(event, SLOW_READER).await {
                Ok(()) => {}
                Err(SendTimeoutError::Closed(_)) => return Ok(()),
                Err(late) => return Err(RegistryError::unavailable(late)),
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Change {
    Put(Entry),
    Gone { key: String, version: u64 },
}

fn tell(known: &mut Known, change: Change) -> Option<WatchEvent> {
    match change {
        Change::Put(entry) => known.put(entry),
        Change::Gone { key, version } => known.gone(&key, version),
    }
}

fn change(message: &Msg, prefix: &str) -> Option<Change> {
    parse(std::str::from_utf8(message.get_payload_bytes()).ok()?, prefix)
}

/// What `entries.lua` publishes: `put VERSION KEY`, a newline, the value; or `gone VERSION KEY` and a newline.
fn parse(message: &str, prefix: &str) -> Option<Change> {
    let (head, value) = message.split_once('\n')?;
    let (what, head) = head.split_once(' ')?;
    let (version, key) = head.split_once(' ')?;
    let (version, key) = (version.parse().ok()?, key.to_owned());
    if !key.starts_with(prefix) {
        return None;
    }
    match what {
        "put" => Some(Change::Put(Entry { key, value: value.to_owned(), version })),
        "gone" => Some(Change::Gone { key, version }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_with_blanks_and_values_with_newlines_are_read_as_written() {
        let entry = Entry { key: "/a b/c".into(), value: "x\ny z".into(), version: 7 };
        assert_eq!(parse("put 7 /a b/c\nx\ny z", "/a"), Some(Change::Put(entry)));
        assert_eq!(parse("gone 8 /a b/c\n", "/a"), Some(Change::Gone { key: "/a b/c".into(), version: 8 }));
    }

    #[test]
    fn other_prefixes_and_noise_are_passed_over() {
        for message in ["put 7 /b\nx", "hello", "put x /a\n", "swap 7 /a\n", ""] {
            assert_eq!(parse(message, "/a"), None, "{message:?}");
        }
    }
}
