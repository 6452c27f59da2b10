//! Names and numbers, as types.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Longest uid or gid, in bytes; both match `[A-Za-z0-9_.@-]{1,64}`.
pub const NAME_BYTES_MAX: usize = 64;

/// The group that reaches everybody.
pub const EVERYBODY: &str = "g:_all";

/// Place of a message in its stream: 1, 2, 3 … contiguous within an epoch. 0 is "before the first".
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

/// Incarnation of a stream's history: changes only when history was lost, restored or begun anew. Text outside, base 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Epoch(pub u64);

const BASE32: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = [0u8; 13];
        let mut at = digits.len();
        let mut rest = self.0;
        loop {
            at -= 1;
            digits[at] = BASE32[(rest & 31) as usize];
            rest >>= 5;
            if rest == 0 {
                break;
            }
        }
        f.write_str(std::str::from_utf8(&digits[at..]).map_err(|_| fmt::Error)?)
    }
}

impl FromStr for Epoch {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        if text.is_empty() || text.len() > 13 {
            return Err(BadName);
        }
        let mut value: u64 = 0;
        for b in text.bytes() {
            let digit = BASE32.iter().position(|d| *d == b).ok_or(BadName)? as u64;
            value = value.checked_mul(32).and_then(|v| v.checked_add(digit)).ok_or(BadName)?;
        }
        Ok(Epoch(value))
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The stream of this name.
            pub fn stream(&self) -> StreamKey {
                StreamKey(format!(concat!($prefix, "{}"), self.0).into())
            }
        }

        impl FromStr for $name {
            type Err = BadName;

            fn from_str(text: &str) -> Result<Self, BadName> {
                check_name(text)?;
                Ok($name(text.into()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

name_type!(
    /// A user.
    Uid,
    "u:"
);
name_type!(
    /// A group.
    Gid,
    "g:"
);

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
    /// The conversation of two users, in the one order that both sides share.
    pub fn conversation(one: &Uid, other: &Uid) -> StreamKey {
        let (a, b) = if one <= other { (one, other) } else { (other, one) };
        StreamKey(format!("c:{a}:{b}").into())
    }

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

    /// All after the prefix: the uid of an inbox, the gid of a group, the pair of a conversation.
    pub fn name(&self) -> &str {
        &self.0[2..]
    }

    /// The group of a `g:` stream.
    pub fn gid(&self) -> Option<Gid> {
        (self.kind() == StreamKind::Group).then(|| Gid(self.name().into()))
    }

    /// The user of a `u:` stream.
    pub fn uid(&self) -> Option<Uid> {
        (self.kind() == StreamKind::Inbox).then(|| Uid(self.name().into()))
    }

    /// The two users of a `c:` stream.
    pub fn pair(&self) -> Option<(Uid, Uid)> {
        if self.kind() != StreamKind::Conversation {
            return None;
        }
        self.name().split_once(':').map(|(a, b)| (Uid(a.into()), Uid(b.into())))
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

/// Not a valid uid, gid, stream key or epoch.
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

/// Snowflake: 41 bits ms since 2024-01-01, 10 bits worker, 12 bits sequence. Decimal text outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(pub u64);

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId(pub u32);

impl PartitionId {
    /// Partitions that a cluster may have.
    pub const COUNT_MAX: u32 = 512;

    /// The one partition that sequences a stream. Gateways compute the same; the definition never changes, since it says
    /// whose log holds a stream.
    ///
    /// It is how Kafka's own clients choose a partition by key. So where the partitions here are a multiple of those of the
    /// upstream topic, whoever produces with the stream as key meets the right one there.
    pub fn of(stream: &StreamKey, partitions: u32) -> PartitionId {
        PartitionId((murmur2(stream.as_str().as_bytes()) & 0x7fff_ffff) % partitions.max(1))
    }
}

/// Austin Appleby's MurmurHash2, 32 bit, with Kafka's seed.
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

/// Rises with every change of a partition's owner; what an older owner still says is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnerEpoch(pub u64);

/// Place of a record in its partition's log: 1, 2, 3 … without gaps. 0 is "before the first".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    pub fn next(self) -> Lsn {
        Lsn(self.0 + 1)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Milliseconds since the Unix epoch, always handed in from outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

/// Hash of what a caller sent, to tell a retry from a key used again for something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub u64);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn streams_are_what_the_protocol_says() {
        for good in ["u:a", "g:_all", "g:42", "c:a:b", "c:a:a", "u:A-z_0.9@x"] {
            assert_eq!(good.parse::<StreamKey>().map(|key| key.to_string()), Ok(good.to_owned()));
        }
        let long = format!("u:{}", "x".repeat(NAME_BYTES_MAX + 1));
        for bad in ["", "u:", "u", "x:a", "u:a b", "u:a\r\n", "u:ä", "c:b:a", "c:a", "c::a", "c:a:b:c", "U:a", &long] {
            assert_eq!(bad.parse::<StreamKey>(), Err(BadName), "{bad:?}");
        }
    }

    #[test]
    fn streams_spread_evenly_over_partitions_and_always_alike() {
        let mut counts = [0; 20];
        for user in 0..20_000 {
            let stream: StreamKey = format!("u:user-{user}").parse().expect("a stream");
            let PartitionId(partition) = PartitionId::of(&stream, 20);
            counts[partition as usize] += 1;
            assert_eq!(PartitionId::of(&stream, 1), PartitionId(0));
        }
        assert!(counts.iter().all(|count| (850..1_150).contains(count)), "{counts:?}");
        // Known values of Kafka's Java client.
        let of = |name: &str, count| PartitionId::of(&name.parse().expect("a stream"), count).0;
        assert_eq!((of("u:alice", 20), of("g:_all", 7), of("c:alice:bob", 512)), (19, 1, 65));
        assert_eq!((murmur2(b"21") as i32, murmur2(b"foobar") as i32), (-973_932_308, -790_332_482));
    }

    #[test]
    fn a_conversation_is_the_same_from_both_sides() {
        let (ann, bob): (Uid, Uid) = ("ann".parse().expect("a uid"), "bob".parse().expect("a uid"));
        let key = StreamKey::conversation(&bob, &ann);
        assert_eq!((key.as_str(), key.kind()), ("c:ann:bob", StreamKind::Conversation));
        assert_eq!(key, StreamKey::conversation(&ann, &bob));
        assert_eq!(key.pair(), Some((ann.clone(), bob)));
        assert_eq!(ann.stream().uid(), Some(ann));
    }

    proptest! {
        #[test]
        fn epochs_are_text_outside(value: u64) {
            let text = Epoch(value).to_string();
            prop_assert!(text.len() <= 13 && !text.is_empty());
            prop_assert_eq!(text.parse::<Epoch>(), Ok(Epoch(value)));
        }

        #[test]
        fn no_text_makes_an_epoch_panic(text in "\\PC{0,20}") {
            if let Ok(epoch) = text.parse::<Epoch>() {
                prop_assert!(text.ends_with(&epoch.to_string()) || epoch == Epoch(0));
            }
        }
    }
}
