//! Names and numbers of the domain, as types.

use std::fmt;
use std::ops::Sub;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// Longest uid or gid, in bytes; both match `[A-Za-z0-9_.@-]{1,64}`.
pub const NAME_BYTES_MAX: usize = 64;

/// Place of a message in its stream: 1, 2, 3 … without gaps within an epoch. 0 is "before the first".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(pub u64);

impl Seq {
    pub const ZERO: Seq = Seq(0);
    /// JSON numbers are exact up to here.
    pub const MAX: Seq = Seq((1 << 53) - 1);

    pub fn next(self) -> Seq {
        Seq(self.0 + 1)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a frame or an answer covers: `(after, upto]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeqRange {
    pub after: Seq,
    pub upto: Seq,
}

/// Incarnation of a stream's history; opaque text outside. Cheap to clone, and no larger than a pointer: every live stream has one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Epoch(Arc<Box<str>>);

impl Epoch {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// How many values share the text with this one, itself included.
    pub(crate) fn shares(&self) -> usize {
        Arc::strong_count(&self.0)
    }
}

impl<T: Into<Box<str>>> From<T> for Epoch {
    fn from(text: T) -> Epoch {
        Epoch(Arc::new(text.into()))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A client's place in a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    pub epoch: Epoch,
    pub seq: Seq,
}

/// A user, `[A-Za-z0-9_.@-]{1,64}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uid(Arc<str>);

impl Uid {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The user's inbox.
    pub fn inbox(&self) -> StreamKey {
        StreamKey(format!("u:{}", self.0).into())
    }
}

impl FromStr for Uid {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        check_name(text)?;
        Ok(Uid(text.into()))
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The stream that reaches everybody.
pub const EVERYBODY: &str = "g:_all";

/// Key of a stream: `u:<uid>`, `g:<gid>` or `c:<a>:<b>` with a ≤ b. Checked at construction, cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamKey(Arc<str>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamKind {
    Inbox,
    Group,
    Conversation,
}

impl StreamKey {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn kind(&self) -> StreamKind {
        match self.0.as_bytes()[0] {
            b'u' => StreamKind::Inbox,
            b'g' => StreamKind::Group,
            _ => StreamKind::Conversation,
        }
    }

    /// The uid of an inbox, the gid of a group, the pair of a conversation: all after the prefix.
    pub fn name(&self) -> &str {
        &self.0[2..]
    }
}

impl FromStr for StreamKey {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        match text.split_at_checked(2) {
            Some(("u:" | "g:", name)) => check_name(name)?,
            Some(("c:", pair)) => {
                let (a, b) = pair.split_once(':').ok_or(BadName)?;
                check_name(a)?;
                check_name(b)?;
                if a > b {
                    return Err(BadName);
                }
            }
            _ => return Err(BadName),
        }
        Ok(StreamKey(text.into()))
    }
}

impl fmt::Display for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Not a valid uid, gid or stream key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("names match [A-Za-z0-9_.@-]{{1,64}} and streams are u:<uid>, g:<gid> or c:<a>:<b> with a ≤ b")]
pub struct BadName;

fn check_name(name: &str) -> Result<(), BadName> {
    let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'@' | b'-');
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(ok) {
        return Err(BadName);
    }
    Ok(())
}

/// A shard of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardId(pub u16);

/// A slab slot with its generation, so that a late completion or command cannot touch a reused slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnId {
    pub index: u32,
    pub generation: u32,
}

/// A connection of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnRef {
    pub shard: ShardId,
    pub conn: ConnId,
}

/// Node-wide dense index of a live stream, given out by the hub and reused only once no shard has members of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamIdx(pub u32);

/// Monotonic time in nanoseconds since an arbitrary start, always handed in from outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Now(pub u64);

impl std::ops::Add<Duration> for Now {
    type Output = Now;

    fn add(self, span: Duration) -> Now {
        Now(self.0.saturating_add(span.as_nanos() as u64))
    }
}

impl Sub for Now {
    type Output = Duration;

    /// Saturates at zero.
    fn sub(self, earlier: Now) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}
