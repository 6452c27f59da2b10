//! What is written into a cache, and the names it is asked by.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;

use super::live::Incarnation;
use crate::domain::{Epoch, OwnerEpoch, Seq, StreamKey, Timestamp, Uid};
use crate::ports::store::DedupHit;

/// One live connection of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    pub at: Incarnation,
    pub id: Box<str>,
    pub device: Box<str>,
    pub platform: Box<str>,
    /// In whole seconds; the rest is not kept.
    pub since: Timestamp,
}

/// What names a connection: it goes only if all of this still matches.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteKey {
    pub uid: Uid,
    pub at: Incarnation,
    pub id: Box<str>,
}

/// A message of a stream, as its reader wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub seq: Seq,
    pub bytes: Bytes,
}

/// Messages of a stream that its partition's owner has committed: contiguous, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedRun {
    pub stream: StreamKey,
    pub epoch: Epoch,
    pub owner: OwnerEpoch,
    pub entries: Vec<Entry>,
}

impl OwnedRun {
    /// The end of the run that a list keeps: at most `keep`, without a hole, and nothing that is too large. What comes before a
    /// message that is not kept is of no use, since nobody could go on from it.
    pub fn kept(&self, keep: usize, bytes_max: usize) -> &[Entry] {
        let entries = &self.entries;
        let mut from = entries.len();
        while from > 0 && entries.len() - from < keep {
            let entry = &entries[from - 1];
            let follows = entries.get(from).is_none_or(|next| next.seq == entry.seq.next());
            if entry.bytes.len() > bytes_max || !follows {
                break;
            }
            from -= 1;
        }
        &entries[from..]
    }
}

/// Asks for what follows `after`, at most `limit` of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunQuery {
    pub stream: StreamKey,
    pub epoch: Epoch,
    pub after: Seq,
    pub limit: usize,
}

/// Where one device of a user stands in a stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CursorKey {
    pub uid: Uid,
    pub device: Box<str>,
    pub stream: StreamKey,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    Online {
        uid: Uid,
        connection: Connection,
    },
    Offline(RouteKey),
    /// The incarnation is dead: its routes are void from now on.
    Void(Incarnation),
    /// Where a stream's head is. Moves forward only, within an epoch.
    Head {
        stream: StreamKey,
        epoch: Epoch,
        seq: Seq,
        owner: OwnerEpoch,
    },
    /// What a caller's key was used for.
    Dedup {
        key: [u8; 16],
        hit: DedupHit,
        owner: OwnerEpoch,
    },
    /// Newest messages, for the hot list.
    Hot(OwnedRun),
    /// Newest entries of an inbox, for the short queue.
    Queue(OwnedRun),
    /// Moves forward only, within an epoch.
    Cursor {
        key: CursorKey,
        epoch: Epoch,
        seq: Seq,
        owner: OwnerEpoch,
    },
    /// Head, hot list and short queue of this stream are not to be trusted any more.
    Forget(StreamKey),
    /// Said to whoever listens now.
    Publish {
        channel: Channel,
        bytes: Bytes,
    },
}

/// The assignment of clients to gateways, as published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ring {
    pub version: u64,
    /// A JSON object.
    pub json: Box<str>,
}

/// Longest name of a channel, in bytes.
pub const CHANNEL_BYTES_MAX: usize = 128;

/// A channel of notices: `[A-Za-z0-9_.@:-]{1,128}`, so that no name can split a line or a key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Channel(Box<str>);

/// For whom a notice of the Redis Pub/Sub downstream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bell<'a> {
    All,
    Gateway(&'a str),
}

impl Channel {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What was cached about a user, group or membership has changed.
    pub fn invalidation() -> Channel {
        Channel("invalidate".into())
    }

    /// Deliveries for one gateway, or for all of them.
    pub fn downstream(bell: Bell<'_>) -> Result<Channel, BadChannel> {
        match bell {
            Bell::All => Ok(Channel("downstream".into())),
            Bell::Gateway(name) => format!("downstream:{name}").parse(),
        }
    }
}

impl FromStr for Channel {
    type Err = BadChannel;

    fn from_str(text: &str) -> Result<Channel, BadChannel> {
        let ok = |b: u8| b.is_ascii_alphanumeric() || b"_.@:-".contains(&b);
        if text.is_empty() || text.len() > CHANNEL_BYTES_MAX || !text.bytes().all(ok) {
            return Err(BadChannel);
        }
        Ok(Channel(text.into()))
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("channels match [A-Za-z0-9_.@:-]{{1,128}}")]
pub struct BadChannel;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_of_a_run_has_no_hole_and_nothing_too_large() {
        let seqs = |entries: &[(u64, usize)]| {
            let entry = |(seq, len): &(u64, usize)| Entry { seq: Seq(*seq), bytes: vec![0; *len].into() };
            let (stream, entries) = ("u:ann".parse().expect("a stream"), entries.iter().map(entry).collect());
            let run = OwnedRun { stream, epoch: Epoch(1), owner: OwnerEpoch(1), entries };
            run.kept(3, 10).iter().map(|entry| entry.seq.0).collect::<Vec<_>>()
        };
        assert_eq!(seqs(&[(1, 1), (2, 1), (3, 1), (4, 1)]), [2, 3, 4]);
        assert_eq!(seqs(&[(1, 1), (2, 11), (3, 1)]), [3]);
        assert_eq!(seqs(&[(1, 1), (3, 1)]), [3]);
        assert_eq!(seqs(&[(1, 1), (2, 11)]), [0; 0]);
    }

    #[test]
    fn no_channel_splits_a_line_or_a_key() {
        for bad in ["", "a b", "a\r\n", "{a}", "ä", &"x".repeat(CHANNEL_BYTES_MAX + 1)] {
            assert_eq!(bad.parse::<Channel>(), Err(BadChannel), "{bad:?}");
        }
        assert!(Channel::downstream(Bell::Gateway("gw\r\n1")).is_err());
        assert_eq!(Channel::downstream(Bell::Gateway("gw-1")).map(|c| c.to_string()), Ok("downstream:gw-1".to_owned()));
    }
}
