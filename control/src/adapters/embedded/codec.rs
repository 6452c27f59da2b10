//! `Record` ↔ the protobuf `LogRecord` that stands in the log (proto/tidegate/v1/storage.proto).
//!
//! Encoding writes the wire form straight from the record: it runs once per message on the sequencer's thread, and filling
//! the generated structs first would copy every string. Decoding goes through the generated types. A test holds the two
//! together: what is encoded here is byte for byte what the generated code encodes.

use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint};
use tidegate_control_core::domain::record::Dedup;
use tidegate_control_core::domain::{
    Append, Body, Content, Epoch, Fingerprint, Gid, GroupChange, Joined, LeaveReason, Mark, MembershipChange,
    MessageId, Place, Priority, Record, Role, Seq, StreamKey, Timestamp, Uid,
};
use tidegate_proto::v1;

/// A body that fits its checksum but is not a record: written by a newer version, or a defect.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    #[error("the record is not a LogRecord")]
    Protobuf(#[from] prost::DecodeError),
    #[error("the record has no {0}")]
    Missing(&'static str),
    #[error("the record has an invalid {0}")]
    Invalid(&'static str),
}

/// Appends the record's wire form to `out`.
pub fn encode(record: &Record, out: &mut Vec<u8>) {
    match record {
        Record::Append(append) => nested(out, 1, |out| encode_append(append, out)),
        Record::Group(group) => nested(out, 2, |out| encode_group(group, out)),
        Record::Mark(mark) => nested(out, 3, |out| encode_mark(mark, out)),
        Record::Read(mark) => nested(out, 4, |out| encode_mark(mark, out)),
        Record::Joined(joined) => nested(out, 5, |out| {
            text(out, 1, joined.uid.as_str());
            text(out, 2, joined.gid.as_str());
            varint(out, 3, joined.epoch.0);
            varint(out, 4, joined.seq.0);
            varint(out, 5, joined.ts.0 as u64);
        }),
    }
}

/// When the record was made.
pub fn timestamp(record: &Record) -> Timestamp {
    match record {
        Record::Append(append) => append.body.ts,
        Record::Group(group) => group.ts,
        Record::Mark(mark) | Record::Read(mark) => mark.ts,
        Record::Joined(joined) => joined.ts,
    }
}

pub fn decode(bytes: &[u8]) -> Result<Record, CodecError> {
    use v1::log_record::Record as Wire;
    match v1::LogRecord::decode(bytes)?.record.ok_or(CodecError::Missing("kind"))? {
        Wire::Append(append) => Ok(Record::Append(decode_append(append)?)),
        Wire::Group(group) => Ok(Record::Group(GroupChange {
            gid: name(&group.gid, "gid")?,
            epoch: Epoch(group.epoch),
            open: group.open,
            name: group.name.into(),
            creator: group.creator.into(),
            ts: Timestamp(group.ts),
            dismissed: group.dismissed,
        })),
        Wire::Mark(mark) => Ok(Record::Mark(decode_mark(mark)?)),
        Wire::Read(mark) => Ok(Record::Read(decode_mark(mark)?)),
        Wire::Joined(joined) => Ok(Record::Joined(Joined {
            uid: name(&joined.uid, "uid")?,
            gid: name(&joined.gid, "gid")?,
            epoch: Epoch(joined.epoch),
            seq: Seq(joined.seq),
            ts: Timestamp(joined.ts),
        })),
    }
}

fn encode_append(append: &Append, out: &mut Vec<u8>) {
    let body = &*append.body;
    varint(out, 1, body.id.0);
    for place in &append.places {
        nested(out, 2, |out| {
            text(out, 1, place.stream.as_str());
            varint(out, 2, place.epoch.0);
            varint(out, 3, place.seq.0);
        });
    }
    text(out, 3, &body.from);
    text(out, 4, &body.to);
    text(out, 5, &body.client_msg_id);
    text(out, 6, &body.kind);
    text(out, 7, &body.title);
    match &body.content {
        Content::Text(content) => text(out, 8, content),
        Content::Binary(content) => {
            blob(out, 8, content);
            varint(out, 9, 1);
        }
    }
    text(out, 10, &body.metadata);
    varint(out, 11, body.ts.0 as u64);
    varint(out, 12, wire_priority(body.priority) as u64);
    varint(out, 13, body.expires.map_or(0, |at| at.0 as u64));
    for platform in &body.platforms {
        repeated_text(out, 14, platform);
    }
    if let Some(dedup) = &append.dedup {
        blob(out, 15, &dedup.key);
        varint(out, 16, dedup.fingerprint.0);
    }
    if let Some(change) = &append.membership {
        nested(out, 17, |out| {
            text(out, 1, change.gid.as_str());
            text(out, 2, change.uid.as_str());
            varint(out, 3, u64::from(change.role.is_some()));
            varint(out, 4, change.role.map_or(0, role_number));
            varint(out, 5, reason_number(change.reason));
        });
    }
}

fn encode_group(group: &GroupChange, out: &mut Vec<u8>) {
    text(out, 1, group.gid.as_str());
    varint(out, 2, group.epoch.0);
    varint(out, 3, u64::from(group.open));
    text(out, 4, &group.name);
    text(out, 5, &group.creator);
    varint(out, 6, group.ts.0 as u64);
    varint(out, 7, u64::from(group.dismissed));
}

fn encode_mark(mark: &Mark, out: &mut Vec<u8>) {
    text(out, 1, mark.uid.as_str());
    text(out, 2, &mark.device);
    text(out, 3, mark.stream.as_str());
    varint(out, 4, mark.epoch.0);
    varint(out, 5, mark.seq.0);
    varint(out, 6, mark.ts.0 as u64);
}

/// Defaults are left out, as proto3 wants.
fn varint(out: &mut Vec<u8>, tag: u32, value: u64) {
    if value != 0 {
        encode_key(tag, WireType::Varint, out);
        encode_varint(value, out);
    }
}

fn text(out: &mut Vec<u8>, tag: u32, value: &str) {
    blob(out, tag, value.as_bytes());
}

fn blob(out: &mut Vec<u8>, tag: u32, value: &[u8]) {
    if !value.is_empty() {
        encode_key(tag, WireType::LengthDelimited, out);
        encode_varint(value.len() as u64, out);
        out.extend_from_slice(value);
    }
}

/// An element of a repeated field stands there even if it is empty.
fn repeated_text(out: &mut Vec<u8>, tag: u32, value: &str) {
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(value.len() as u64, out);
    out.extend_from_slice(value.as_bytes());
}

/// Writes the content first and then moves it behind its length: cheaper than measuring every field beforehand.
fn nested(out: &mut Vec<u8>, tag: u32, content: impl FnOnce(&mut Vec<u8>)) {
    encode_key(tag, WireType::LengthDelimited, out);
    let start = out.len();
    content(out);
    let len = out.len() - start;
    let prefix = prost::encoding::encoded_len_varint(len as u64);
    out.resize(start + prefix + len, 0);
    out.copy_within(start..start + len, start + prefix);
    encode_varint(len as u64, &mut &mut out[start..start + prefix]);
}

fn decode_append(wire: v1::LogAppend) -> Result<Append, CodecError> {
    let content = if wire.binary {
        Content::Binary(wire.content)
    } else {
        let text = std::str::from_utf8(&wire.content).map_err(|_| CodecError::Invalid("content"))?;
        Content::Text(text.into())
    };
    let body = Body {
        id: MessageId(wire.id),
        from: wire.from.into(),
        to: wire.to.into(),
        client_msg_id: wire.client_msg_id.into(),
        kind: wire.r#type.into(),
        title: wire.title.into(),
        content,
        metadata: wire.metadata.into(),
        ts: Timestamp(wire.ts),
        priority: domain_priority(wire.priority),
        expires: (wire.expires != 0).then_some(Timestamp(wire.expires)),
        platforms: wire.platforms.into_iter().map(Into::into).collect(),
    };
    let place = |place: v1::LogPlace| {
        let stream = name::<StreamKey>(&place.stream, "stream")?;
        Ok(Place { stream, epoch: Epoch(place.epoch), seq: Seq(place.seq) })
    };
    Ok(Append {
        body: Arc::new(body),
        places: wire.places.into_iter().map(place).collect::<Result<_, CodecError>>()?,
        dedup: decode_dedup(&wire.dedup, wire.fingerprint)?,
        membership: wire.membership.map(decode_membership).transpose()?,
    })
}

fn decode_dedup(key: &Bytes, fingerprint: u64) -> Result<Option<Dedup>, CodecError> {
    if key.is_empty() {
        return Ok(None);
    }
    let key = <[u8; 16]>::try_from(&key[..]).map_err(|_| CodecError::Invalid("dedup key"))?;
    Ok(Some(Dedup { key, fingerprint: Fingerprint(fingerprint) }))
}

fn decode_membership(wire: v1::LogMembership) -> Result<MembershipChange, CodecError> {
    let role = if wire.joined { Some(domain_role(wire.role)?) } else { None };
    let reason = match wire.reason {
        0 => LeaveReason::Left,
        1 => LeaveReason::Removed,
        2 => LeaveReason::Dismissed,
        _ => return Err(CodecError::Invalid("reason")),
    };
    Ok(MembershipChange { gid: name::<Gid>(&wire.gid, "gid")?, uid: name::<Uid>(&wire.uid, "uid")?, role, reason })
}

fn decode_mark(wire: v1::LogMark) -> Result<Mark, CodecError> {
    Ok(Mark {
        uid: name(&wire.uid, "uid")?,
        device: wire.device.into(),
        stream: name(&wire.stream, "stream")?,
        epoch: Epoch(wire.epoch),
        seq: Seq(wire.seq),
        ts: Timestamp(wire.ts),
    })
}

fn name<T: FromStr>(text: &str, what: &'static str) -> Result<T, CodecError> {
    text.parse().map_err(|_| CodecError::Invalid(what))
}

fn wire_priority(priority: Priority) -> v1::Priority {
    match priority {
        Priority::High => v1::Priority::High,
        Priority::Normal => v1::Priority::Normal,
        Priority::Low => v1::Priority::Low,
    }
}

fn domain_priority(wire: i32) -> Priority {
    match v1::Priority::try_from(wire) {
        Ok(v1::Priority::High) => Priority::High,
        Ok(v1::Priority::Low) => Priority::Low,
        _ => Priority::Normal,
    }
}

/// Numbers of the log and of index rows: never reused.
pub fn role_number(role: Role) -> u64 {
    match role {
        Role::Owner => 1,
        Role::Admin => 2,
        Role::Member => 3,
    }
}

pub fn domain_role(number: u32) -> Result<Role, CodecError> {
    match number {
        1 => Ok(Role::Owner),
        2 => Ok(Role::Admin),
        3 => Ok(Role::Member),
        _ => Err(CodecError::Invalid("role")),
    }
}

fn reason_number(reason: LeaveReason) -> u64 {
    match reason {
        LeaveReason::Left => 0,
        LeaveReason::Removed => 1,
        LeaveReason::Dismissed => 2,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names() -> impl Strategy<Value = String> {
        "[A-Za-z0-9_.@-]{1,12}"
    }

    fn streams() -> impl Strategy<Value = StreamKey> {
        prop_oneof![
            names().prop_map(|n| n.parse::<Uid>().unwrap().stream()),
            names().prop_map(|n| n.parse::<Gid>().unwrap().stream()),
            (names(), names()).prop_map(|(a, b)| StreamKey::conversation(&a.parse().unwrap(), &b.parse().unwrap())),
        ]
    }

    fn boxed(pattern: &'static str) -> impl Strategy<Value = Box<str>> {
        pattern.prop_map(Into::into)
    }

    fn bodies() -> impl Strategy<Value = Body> {
        let content = prop_oneof![
            ".{0,300}".prop_map(|t| Content::Text(t.into())),
            prop::collection::vec(any::<u8>(), 0..300).prop_map(|b| Content::Binary(b.into())),
        ];
        let priority = prop_oneof![Just(Priority::High), Just(Priority::Normal), Just(Priority::Low)];
        let texts =
            (boxed(".{0,8}"), boxed(".{0,8}"), boxed(".{0,8}"), boxed(".{0,8}"), boxed(".{0,8}"), boxed(".{0,8}"));
        let rest =
            (any::<i64>(), priority, prop::option::of(1..i64::MAX), prop::collection::vec(boxed("[a-z]{0,4}"), 0..3));
        (any::<u64>(), texts, content, rest).prop_map(|(id, t, content, (ts, priority, expires, platforms))| Body {
            id: MessageId(id),
            from: t.0,
            to: t.1,
            client_msg_id: t.2,
            kind: t.3,
            title: t.4,
            content,
            metadata: t.5,
            ts: Timestamp(ts),
            priority,
            expires: expires.map(Timestamp),
            platforms: platforms.into_iter().collect(),
        })
    }

    fn records() -> impl Strategy<Value = Record> {
        let places = prop::collection::vec(
            (streams(), any::<u64>(), any::<u64>()).prop_map(|(stream, epoch, seq)| Place {
                stream,
                epoch: Epoch(epoch),
                seq: Seq(seq),
            }),
            1..4,
        );
        let dedup = prop::option::of(
            (any::<[u8; 16]>(), any::<u64>())
                .prop_map(|(key, fingerprint)| Dedup { key, fingerprint: Fingerprint(fingerprint) }),
        );
        let role = prop::option::of(prop_oneof![Just(Role::Owner), Just(Role::Admin), Just(Role::Member)]);
        let reason = prop_oneof![Just(LeaveReason::Left), Just(LeaveReason::Removed), Just(LeaveReason::Dismissed)];
        let membership = prop::option::of((names(), names(), role, reason).prop_map(|(gid, uid, role, reason)| {
            MembershipChange { gid: gid.parse().unwrap(), uid: uid.parse().unwrap(), role, reason }
        }));
        let appends = (bodies(), places, dedup, membership).prop_map(|(body, places, dedup, membership)| {
            Record::Append(Append { body: Arc::new(body), places: places.into_iter().collect(), dedup, membership })
        });
        let groups =
            (names(), any::<u64>(), any::<bool>(), boxed(".{0,9}"), boxed(".{0,9}"), any::<i64>(), any::<bool>())
                .prop_map(|(gid, epoch, open, name, creator, ts, dismissed)| {
                    let (gid, epoch, ts) = (gid.parse().unwrap(), Epoch(epoch), Timestamp(ts));
                    Record::Group(GroupChange { gid, epoch, open, name, creator, ts, dismissed })
                });
        let marks = (any::<bool>(), names(), boxed(".{0,9}"), streams(), any::<u64>(), any::<u64>(), any::<i64>())
            .prop_map(|(read, uid, device, stream, epoch, seq, ts)| {
                let (uid, epoch, seq, ts) = (uid.parse().unwrap(), Epoch(epoch), Seq(seq), Timestamp(ts));
                let mark = Mark { uid, device, stream, epoch, seq, ts };
                if read { Record::Read(mark) } else { Record::Mark(mark) }
            });
        let joined =
            (names(), names(), any::<u64>(), any::<u64>(), any::<i64>()).prop_map(|(uid, gid, epoch, seq, ts)| {
                let (uid, gid) = (uid.parse().unwrap(), gid.parse().unwrap());
                Record::Joined(Joined { uid, gid, epoch: Epoch(epoch), seq: Seq(seq), ts: Timestamp(ts) })
            });
        prop_oneof![4 => appends, 1 => groups, 1 => marks, 1 => joined]
    }

    proptest! {
        #[test]
        fn what_is_encoded_comes_back_and_equals_the_generated_encoding(record in records()) {
            let mut bytes = vec![7; 3];
            encode(&record, &mut bytes);
            let bytes = &bytes[3..];
            prop_assert_eq!(&decode(bytes).unwrap(), &record);
            prop_assert_eq!(v1::LogRecord::decode(bytes).unwrap().encode_to_vec(), bytes);
        }

        #[test]
        fn foreign_bytes_are_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }
    }
}
