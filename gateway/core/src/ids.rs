//! Names and numbers of the domain, as types.

use std::fmt;
use std::ops::Sub;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

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

    /// Where what the two say to each other is kept.
    pub fn conversation_with(&self, other: &str) -> StreamKey {
        let (a, b) = if self.as_str() <= other { (self.as_str(), other) } else { (other, self.as_str()) };
        StreamKey(format!("c:{a}:{b}").into())
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

/// Most partitions of a cluster.
pub const PARTITIONS_MAX: u32 = 1_024;

/// One of the logs that streams are spread over. Each has one owner at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId(pub u32);

/// How many partitions there are, 1 to [`PARTITIONS_MAX`]. It never changes in the life of a cluster, since a stream's
/// partition follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partitions(u32);

impl Partitions {
    pub const ONE: Partitions = Partitions(1);

    pub fn new(count: u32) -> Option<Partitions> {
        (1..=PARTITIONS_MAX).contains(&count).then_some(Partitions(count))
    }

    pub fn count(self) -> u32 {
        self.0
    }

    pub fn all(self) -> impl Iterator<Item = PartitionId> {
        (0..self.0).map(PartitionId)
    }

    /// Where the stream of this key is. Control works it out in the same way, so it may never change: as Kafka's clients
    /// choose a partition by key (MurmurHash2, Appleby, with Kafka's seed and without the sign), modulo the count.
    pub fn of(self, key: &str) -> PartitionId {
        if self.0 == 1 {
            return PartitionId(0);
        }
        PartitionId((murmur2(key.as_bytes()) & 0x7fff_ffff) % self.0)
    }

    /// Where the user's inbox is.
    pub fn of_inbox(self, uid: &str) -> PartitionId {
        let mut key: SmallVec<[u8; 72]> = SmallVec::from_slice(b"u:");
        key.extend_from_slice(uid.as_bytes());
        if self.0 == 1 { PartitionId(0) } else { PartitionId((murmur2(&key) & 0x7fff_ffff) % self.0) }
    }
}

fn murmur2(key: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ key.len() as u32;
    let mut words = key.chunks_exact(4);
    for word in &mut words {
        let mut k = u32::from_le_bytes([word[0], word[1], word[2], word[3]]).wrapping_mul(M);
        k = (k ^ (k >> 24)).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ k;
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        for (at, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * at);
        }
        hash = hash.wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    hash ^ (hash >> 15)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Control has the same definition. Another value would look for streams where they are not.
    #[test]
    fn the_partition_of_a_stream_never_changes() {
        let of = |key: &str, count| Partitions::new(count).expect("a valid count").of(key).0;
        let all: Vec<_> = ["u:alice", "g:_all", "g:42", "c:alice:bob", ""]
            .map(|key| (key, of(key, 20), of(key, 7), of(key, 1_024), of(key, 1)))
            .into();
        let pinned = [
            ("u:alice", 19, 0, 915, 0),
            ("g:_all", 7, 1, 395, 0),
            ("g:42", 9, 3, 453, 0),
            ("c:alice:bob", 9, 1, 65, 0),
            ("", 1, 2, 217, 0),
        ];
        assert_eq!(all, pinned);
        assert_eq!(Partitions(1_024).of_inbox("alice").0, of("u:alice", 1_024));
    }

    #[test]
    fn a_conversation_is_the_same_from_either_end() {
        let uid = |text: &str| text.parse::<Uid>().expect("a uid");
        assert_eq!(uid("bob").conversation_with("alice").as_str(), "c:alice:bob");
        assert_eq!(uid("alice").conversation_with("bob").as_str(), "c:alice:bob");
        assert_eq!(uid("al").conversation_with("al").as_str(), "c:al:al");
    }

    #[test]
    fn a_cluster_has_one_to_1024_partitions() {
        assert_eq!([0, 1, 1_024, 1_025].map(|count| Partitions::new(count).is_some()), [false, true, true, false]);
    }
}
