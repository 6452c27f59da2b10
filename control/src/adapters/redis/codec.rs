//! Values as bytes. What cannot be read is a miss: it was written by another version, or by somebody else.

use bytes::Bytes;
use tidegate_control_core::domain::{Epoch, Fingerprint, MessageId, OwnerEpoch, Seq, Timestamp};
use tidegate_control_core::ports::DedupHit;
use tidegate_control_core::ports::cache::{Connection, Entry, Incarnation, IncarnationTag, Live};

/// Longest entry of a connection: its length is one byte.
const CONNECTION_BYTES_MAX: usize = 255;
/// Set in an id's length: its bytes are those that the id writes as hexadecimal digits, in half the room.
const HEX: u8 = 0x80;

/// What an entry of a connection begins with, and what it is found by. `None`: the id is too long to be listed.
pub fn identity(at: &Incarnation, id: &str) -> Option<Vec<u8>> {
    let mut bytes = IncarnationTag::of(at).0.to_vec();
    let (raw, flag) = match from_hex(id) {
        Some(raw) => (raw, HEX),
        None => (id.as_bytes().to_vec(), 0),
    };
    bytes.push(u8::try_from(raw.len()).ok().filter(|len| *len < HEX)? | flag);
    bytes.extend(raw);
    Some(bytes)
}

/// `None`: not an even number of lower-case digits, so it could not be told apart when it is read again.
fn from_hex(id: &str) -> Option<Vec<u8>> {
    let digit = |b: u8| char::from(b).to_digit(16).filter(|_| !b.is_ascii_uppercase());
    let (pairs, odd) = id.as_bytes().as_chunks::<2>();
    let byte = |[high, low]: &[u8; 2]| Some((digit(*high)? << 4 | digit(*low)?) as u8);
    if odd.is_empty() { pairs.iter().map(byte).collect() } else { None }
}

/// {tag, id, device, platform, since (s), until (s; absent: for ever)}; texts have a length byte.
pub fn encode_connection(connection: &Connection, until_s: u32) -> Option<Vec<u8>> {
    let mut bytes = identity(&connection.at, &connection.id)?;
    push_text(&mut bytes, &connection.device)?;
    push_text(&mut bytes, &connection.platform)?;
    bytes.extend_from_slice(&seconds(connection.since).to_be_bytes());
    if until_s != 0 {
        bytes.extend_from_slice(&until_s.to_be_bytes());
    }
    (bytes.len() <= CONNECTION_BYTES_MAX).then_some(bytes)
}

fn push_text(bytes: &mut Vec<u8>, text: &str) -> Option<()> {
    bytes.push(u8::try_from(text.len()).ok()?);
    bytes.extend_from_slice(text.as_bytes());
    Some(())
}

pub fn seconds(ts: Timestamp) -> u32 {
    u32::try_from(ts.0.max(0) / 1_000).unwrap_or(u32::MAX)
}

/// One listed connection, with the name of its incarnation still short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed<'a> {
    pub tag: IncarnationTag,
    /// What it is found by: see [`identity`].
    pub identity: &'a [u8],
    device: &'a str,
    platform: &'a str,
    since_s: u32,
    until_s: u32,
}

impl Listed<'_> {
    pub fn is_over(&self, now_s: u32) -> bool {
        self.until_s != 0 && self.until_s <= now_s
    }

    pub fn resolve(&self, live: &Live) -> Option<Connection> {
        Some(Connection {
            at: live.find(self.tag)?.clone(),
            id: self.id()?,
            device: self.device.into(),
            platform: self.platform.into(),
            since: Timestamp(i64::from(self.since_s) * 1_000),
        })
    }

    fn id(&self) -> Option<Box<str>> {
        let (length, raw) = self.identity.get(IncarnationTag::BYTES..)?.split_first()?;
        match length & HEX {
            0 => Some(std::str::from_utf8(raw).ok()?.into()),
            _ => Some(raw.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into()),
        }
    }
}

/// A user's connections; ends at the first that cannot be read.
pub fn listed(mut field: &[u8]) -> impl Iterator<Item = Listed<'_>> {
    std::iter::from_fn(move || {
        let entry = take_sized(&mut field)?;
        decode_listed(entry)
    })
}

fn decode_listed(mut entry: &[u8]) -> Option<Listed<'_>> {
    let tag = IncarnationTag(*entry.first_chunk()?);
    let id_bytes = usize::from(entry.get(IncarnationTag::BYTES)? & !HEX);
    let identity = entry.split_off(..IncarnationTag::BYTES + 1 + id_bytes)?;
    let mut text = || std::str::from_utf8(take_sized(&mut entry)?).ok();
    let (device, platform) = (text()?, text()?);
    let since_s = take_u32(&mut entry)?;
    Some(Listed { tag, identity, device, platform, since_s, until_s: take_u32(&mut entry).unwrap_or(0) })
}

fn take_sized<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let size = usize::from(*bytes.split_off_first()?);
    bytes.split_off(..size)
}

fn take_u32(bytes: &mut &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.split_off(..4)?.first_chunk()?))
}

fn take_u64(bytes: &mut &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(*bytes.split_off(..8)?.first_chunk()?))
}

pub fn encode_dedup(hit: &DedupHit, owner: OwnerEpoch) -> Vec<u8> {
    [owner.0, hit.epoch.0, hit.seq.0, hit.id.0, hit.fingerprint.0].map(u64::to_be_bytes).concat()
}

pub fn decode_dedup(mut bytes: &[u8]) -> Option<DedupHit> {
    let mut next = || take_u64(&mut bytes);
    let _owner = next()?;
    Some(DedupHit {
        epoch: Epoch(next()?),
        seq: Seq(next()?),
        id: MessageId(next()?),
        fingerprint: Fingerprint(next()?),
    })
}

/// An element of a hot list or a short queue.
pub fn encode_entry(entry: &Entry, epoch: Epoch, owner: OwnerEpoch) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(24 + entry.bytes.len());
    [owner.0, epoch.0, entry.seq.0].iter().for_each(|n| bytes.extend_from_slice(&n.to_be_bytes()));
    bytes.extend_from_slice(&entry.bytes);
    bytes
}

pub fn decode_entry(bytes: Vec<u8>, epoch: Epoch) -> Option<Entry> {
    let mut rest = &bytes[..];
    let (_owner, of, seq) = (take_u64(&mut rest)?, take_u64(&mut rest)?, take_u64(&mut rest)?);
    (of == epoch.0).then(|| Entry { seq: Seq(seq), bytes: Bytes::from(bytes).slice(24..) })
}

/// `seq epoch owner_epoch`.
pub fn decode_head(bytes: &[u8]) -> Option<(Epoch, Seq)> {
    let mut words = std::str::from_utf8(bytes).ok()?.split(' ');
    let seq = words.next()?.parse().ok()?;
    Some((words.next()?.parse().ok()?, Seq(seq)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn connection(id: &str, device: &str) -> Connection {
        let at = Incarnation { gateway: "gw".into(), number: 1 };
        Connection { at, id: id.into(), device: device.into(), platform: "web".into(), since: Timestamp(5_000) }
    }

    #[test]
    fn what_is_too_long_is_not_listed() {
        assert!(encode_connection(&connection("id", &"d".repeat(300)), 0).is_none());
        assert!(encode_connection(&connection("id", &"d".repeat(240)), 0).is_none());
        assert!(identity(&connection("id", "").at, &"i".repeat(128)).is_none());
    }

    proptest! {
        #[test]
        fn connections_come_back(ids in prop::collection::vec("[0-9a-f]{32}|[0-9a-fA-F]{0,4}|[a-z0-9]{0,20}", 0..5), device in "\\PC{0,20}", until: u32) {
            let all: Vec<Connection> = ids.iter().map(|id| connection(id, &device)).collect();
            let live: Live = [all.first().map(|c| c.at.clone())].into_iter().flatten().collect();
            let mut field = Vec::new();
            for entry in all.iter().map(|c| encode_connection(c, until).expect("short")) {
                field.push(entry.len() as u8);
                field.extend(entry);
            }
            let back: Vec<Connection> = listed(&field).filter_map(|l| l.resolve(&live)).collect();
            prop_assert_eq!(back, all);
            prop_assert!(listed(&field).all(|l| l.is_over(until) == (until != 0)));
        }

        #[test]
        fn no_bytes_make_a_decoder_panic(bytes: Vec<u8>) {
            let _ = (listed(&bytes).count(), decode_dedup(&bytes), decode_head(&bytes), decode_entry(bytes.clone(), Epoch(0)));
        }

        #[test]
        fn entries_belong_to_their_epoch(seq: u64, owner: u64, epoch: u64, payload: Vec<u8>) {
            let entry = Entry { seq: Seq(seq), bytes: payload.into() };
            let bytes = encode_entry(&entry, Epoch(epoch), OwnerEpoch(owner));
            prop_assert_eq!(decode_entry(bytes.clone(), Epoch(epoch)), Some(entry));
            prop_assert_eq!(decode_entry(bytes, Epoch(!epoch)), None);
        }
    }
}
