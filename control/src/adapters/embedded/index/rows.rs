//! Keys and values of the index's tables.
//!
//! Names hold no zero byte, so a zero byte ends each name within a key. Numbers in keys are big endian (they sort), in
//! values little endian.

use tidegate_control_core::domain::{Epoch, Fingerprint, Gid, Lsn, MessageId, Seq, StreamKey, Timestamp, Uid};
use tidegate_control_core::ports::{DedupHit, DeviceMark, Group, Member};

use crate::adapters::embedded::codec;
use crate::adapters::embedded::error::IndexError;
use crate::adapters::embedded::log::Location;
use crate::adapters::embedded::overlay::{GroupRow, HeadRow, MemberRow};

/// Seqs that one row of places spans at most, so a row that holds a seq begins less than this before it.
pub const RUN_SEQS_MAX: u64 = 128;

pub fn run_key(stream: &StreamKey, epoch: Epoch, seq: Seq) -> Vec<u8> {
    let mut key = Vec::with_capacity(stream.as_str().len() + 17);
    key.extend_from_slice(stream.as_str().as_bytes());
    key.push(0);
    key.extend_from_slice(&epoch.0.to_be_bytes());
    key.extend_from_slice(&seq.0.to_be_bytes());
    key
}

pub fn run_key_seq(key: &[u8]) -> Result<Seq, IndexError> {
    let tail = key.last_chunk::<8>().ok_or(IndexError::Row { table: "places" })?;
    Ok(Seq(u64::from_be_bytes(*tail)))
}

/// Two names as one key.
pub fn pair_key(one: &str, other: &str) -> Vec<u8> {
    let mut key = prefix_key(one);
    key.extend_from_slice(other.as_bytes());
    key
}

/// What the keys of everything under a name begin with.
pub fn prefix_key(name: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(name.len() * 2 + 1);
    key.extend_from_slice(name.as_bytes());
    key.push(0);
    key
}

pub fn mark_prefix(uid: &Uid, stream: &StreamKey) -> Vec<u8> {
    let mut key = pair_key(uid.as_str(), stream.as_str());
    key.push(0);
    key
}

/// Consecutive places as one row: the first place stands in the key.
pub fn encode_run(places: &[(Seq, Location)]) -> Vec<u8> {
    let mut out = Vec::with_capacity(places.len() * 6 + 8);
    let (mut seq, mut lsn) = (places[0].0, Lsn(0));
    for (at, location) in places {
        varint(&mut out, at.0 - seq.0);
        varint(&mut out, location.lsn.0 - lsn.0);
        varint(&mut out, u64::from(location.offset));
        (seq, lsn) = (*at, location.lsn);
    }
    out
}

pub fn decode_run(first: Seq, bytes: &[u8], out: &mut Vec<(Seq, Location)>) -> Result<(), IndexError> {
    let mut row = Reader::new(bytes, "places");
    let (mut seq, mut lsn) = (first, Lsn(0));
    while !row.bytes.is_empty() {
        seq = Seq(seq.0.saturating_add(row.varint()?));
        lsn = Lsn(lsn.0.saturating_add(row.varint()?));
        let offset = u32::try_from(row.varint()?).map_err(|_| IndexError::Row { table: "places" })?;
        out.push((seq, Location { lsn, offset }));
    }
    Ok(())
}

pub fn encode_head(row: HeadRow) -> Vec<u8> {
    let mut out = Writer::default();
    [row.epoch.0, row.head.0, row.last.0].into_iter().for_each(|n| out.u64(n));
    out.0
}

pub fn decode_head(bytes: &[u8]) -> Result<HeadRow, IndexError> {
    let mut row = Reader::new(bytes, "heads");
    Ok(HeadRow { epoch: Epoch(row.u64()?), head: Seq(row.u64()?), last: Lsn(row.u64()?) })
}

/// An epoch and a seq: of firsts and read cursors.
pub fn encode_cursor(epoch: Epoch, seq: Seq) -> Vec<u8> {
    let mut out = Writer::default();
    out.u64(epoch.0);
    out.u64(seq.0);
    out.0
}

pub fn decode_cursor(bytes: &[u8]) -> Result<(Epoch, Seq), IndexError> {
    let mut row = Reader::new(bytes, "cursors");
    Ok((Epoch(row.u64()?), Seq(row.u64()?)))
}

pub fn encode_dedup(hit: &DedupHit) -> Vec<u8> {
    let mut out = Writer::default();
    [hit.epoch.0, hit.seq.0, hit.id.0, hit.fingerprint.0].into_iter().for_each(|n| out.u64(n));
    out.0
}

pub fn decode_dedup(bytes: &[u8]) -> Result<DedupHit, IndexError> {
    let mut row = Reader::new(bytes, "dedup");
    Ok(DedupHit {
        epoch: Epoch(row.u64()?),
        seq: Seq(row.u64()?),
        id: MessageId(row.u64()?),
        fingerprint: Fingerprint(row.u64()?),
    })
}

pub fn encode_group(row: &GroupRow) -> Vec<u8> {
    let mut out = Writer::default();
    let flags = u64::from(row.group.open) | u64::from(row.group.dismissed) << 1;
    [row.lsn.0, row.group.epoch.0, row.group.created.0 as u64, flags].into_iter().for_each(|n| out.u64(n));
    out.text(&row.group.name);
    out.text(&row.group.creator);
    out.0
}

pub fn decode_group(gid: &Gid, bytes: &[u8]) -> Result<GroupRow, IndexError> {
    let mut row = Reader::new(bytes, "groups");
    let (lsn, epoch, created, flags) = (Lsn(row.u64()?), Epoch(row.u64()?), Timestamp(row.u64()? as i64), row.u64()?);
    let (name, creator) = (row.text()?, row.text()?);
    let (open, dismissed) = (flags & 1 != 0, flags & 2 != 0);
    Ok(GroupRow { group: Group { gid: gid.clone(), epoch, open, name, creator, created, dismissed }, lsn })
}

pub fn encode_member(row: &MemberRow) -> Vec<u8> {
    let mut out = Writer::default();
    let role = codec::role_number(row.member.role);
    let left = row.member.left.map_or(0, |seq| seq.0);
    [row.lsn.0, role, row.member.joined.0, left].into_iter().for_each(|n| out.u64(n));
    out.0
}

pub fn decode_member(gid: &Gid, uid: &Uid, bytes: &[u8]) -> Result<MemberRow, IndexError> {
    let mut row = Reader::new(bytes, "members");
    let (lsn, role, joined, left) = (Lsn(row.u64()?), row.u64()?, Seq(row.u64()?), Seq(row.u64()?));
    let role = codec::domain_role(role as u32).map_err(|_| IndexError::Row { table: "members" })?;
    let left = (left != Seq::ZERO).then_some(left);
    Ok(MemberRow { member: Member { gid: gid.clone(), uid: uid.clone(), role, joined, left }, lsn })
}

pub fn encode_mark(mark: &DeviceMark) -> Vec<u8> {
    let mut out = Writer::default();
    [mark.epoch.0, mark.seq.0, mark.ts.0 as u64].into_iter().for_each(|n| out.u64(n));
    out.0
}

pub fn decode_mark(device: &[u8], bytes: &[u8]) -> Result<DeviceMark, IndexError> {
    let mut row = Reader::new(bytes, "marks");
    let device = std::str::from_utf8(device).map_err(|_| IndexError::Row { table: "marks" })?.into();
    Ok(DeviceMark { device, epoch: Epoch(row.u64()?), seq: Seq(row.u64()?), ts: Timestamp(row.u64()? as i64) })
}

/// The rest of a key after `prefix`, as a name.
pub fn name_after<T: std::str::FromStr>(key: &[u8], prefix: &[u8], table: &'static str) -> Result<T, IndexError> {
    let rest = key.strip_prefix(prefix).and_then(|rest| std::str::from_utf8(rest).ok());
    rest.and_then(|rest| rest.parse().ok()).ok_or(IndexError::Row { table })
}

fn varint(out: &mut Vec<u8>, value: u64) {
    prost::encoding::encode_varint(value, out);
}

#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.u64(text.len() as u64);
        self.0.extend_from_slice(text.as_bytes());
    }
}

pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    table: &'static str,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8], table: &'static str) -> Reader<'a> {
        Reader { bytes, table }
    }

    pub(super) fn u64(&mut self) -> Result<u64, IndexError> {
        let (number, rest) = self.bytes.split_first_chunk::<8>().ok_or(IndexError::Row { table: self.table })?;
        self.bytes = rest;
        Ok(u64::from_le_bytes(*number))
    }

    fn varint(&mut self) -> Result<u64, IndexError> {
        prost::encoding::decode_varint(&mut self.bytes).map_err(|_| IndexError::Row { table: self.table })
    }

    fn text(&mut self) -> Result<Box<str>, IndexError> {
        let len = usize::try_from(self.u64()?).unwrap_or(usize::MAX);
        let (text, rest) = self.bytes.split_at_checked(len).ok_or(IndexError::Row { table: self.table })?;
        self.bytes = rest;
        std::str::from_utf8(text).map(Into::into).map_err(|_| IndexError::Row { table: self.table })
    }
}
