//! `tidegate.v1.proto`, both ways. Up, the top level is scanned by hand: prost's oneof would keep the last of two
//! operations silently, and an operation that cannot be read would cost the id to answer to.

use prost::Message as _;
use prost::bytes::Bytes;
use smallvec::SmallVec;
use tidegate_proto::v1;

use crate::client::check::{self, CursorFields, RawConnect, RawCursor, RawSend};
use crate::client::ops::{Op, Priority, Request};
use crate::client::{DecodeError, OPERATIONS, REQUEST_ID_MAX, Refusal};
use crate::ids::{Cursor, Epoch, SeqRange, StreamKey};

const ID_FIELD: u64 = 1;
const FIRST_OPERATION_FIELD: u64 = 2;

pub(super) fn decode(mut bytes: &[u8]) -> Result<Request, DecodeError> {
    let (mut id, mut operations, mut found) = (None, 0u32, None);
    while !bytes.is_empty() {
        let (field, value) = take_field(&mut bytes).ok_or(DecodeError::Fatal)?;
        if field == ID_FIELD {
            match value {
                Value::Varint(n) if id.is_none() && (1..=u64::from(REQUEST_ID_MAX)).contains(&n) => id = Some(n as u32),
                _ => return Err(DecodeError::Fatal),
            }
        } else if let Some(name) = operation_name(field) {
            operations += 1;
            found = Some((name, value));
        }
    }
    let id = id.ok_or(DecodeError::Fatal)?;
    let op = match (operations, found) {
        (1, Some((name, Value::Bytes(body)))) => operation(name, body),
        (1, Some((name, _))) => Err(Refusal::bad(format!("{name}: wrong wire type"))),
        (0, _) => Err(Refusal::unknown_operation()),
        _ => Err(Refusal::two_operations()),
    };
    op.map(|op| Request { id, op }).map_err(|refusal| refusal.at(id))
}

/// Equal to encoding a `ServerFrame` with a `Batch`, without owning the messages.
pub(super) fn encode_batch<'a>(
    stream: &str,
    epoch: &Epoch,
    range: Option<SeqRange>,
    messages: impl Iterator<Item = &'a v1::Message>,
) -> Vec<u8> {
    // Field numbers of `Batch.messages` and `ServerFrame.batch`, both length-delimited.
    const MESSAGES_TAG: u8 = 5 << 3 | 2;
    const BATCH_TAG: u8 = 5 << 3 | 2;
    let head = v1::Batch {
        stream: stream.to_string(),
        epoch: if range.is_some() { epoch.to_string() } else { String::new() },
        after: range.map(|range| range.after.0),
        upto: range.map(|range| range.upto.0),
        messages: Vec::new(),
    };
    let sized: SmallVec<[(&v1::Message, usize); 16]> =
        messages.map(|message| (message, message.encoded_len())).collect();
    let messages_len: usize = sized.iter().map(|(_, len)| 1 + prost::length_delimiter_len(*len) + len).sum();
    let batch_len = head.encoded_len() + messages_len;
    let mut out = Vec::with_capacity(1 + prost::length_delimiter_len(batch_len) + batch_len);
    out.push(BATCH_TAG);
    put_varint(&mut out, batch_len as u64);
    head.encode_raw(&mut out);
    for (message, len) in sized {
        out.push(MESSAGES_TAG);
        put_varint(&mut out, len as u64);
        message.encode_raw(&mut out);
    }
    out
}

fn operation(name: &'static str, body: &[u8]) -> Result<Op, Refusal> {
    Ok(match name {
        "connect" => return connect(&read(body)?),
        "join" => join(&read(body)?)?,
        "leave" => Op::Leave { stream: check::stream("leave.stream", &read::<v1::LeaveOp>(body)?.stream)? },
        "head" => Op::Head { stream: check::stream("head.stream", &read::<v1::HeadOp>(body)?.stream)? },
        "send" => return send(&read(body)?),
        "ack" => {
            let ack: v1::AckOp = read(body)?;
            Op::Ack {
                stream: check::stream("ack.stream", &ack.stream)?,
                epoch: check::epoch("ack.epoch", &ack.epoch)?,
                seq: check::seq("ack.seq", ack.seq)?,
            }
        }
        "read" => {
            let mark: v1::ReadOp = read(body)?;
            Op::Read {
                stream: check::stream("read.stream", &mark.stream)?,
                epoch: check::epoch("read.epoch", &mark.epoch)?,
                seq: check::seq("read.seq", mark.seq)?,
            }
        }
        "pull" => {
            let pull: v1::PullOp = read(body)?;
            Op::Pull {
                stream: check::stream("pull.stream", &pull.stream)?,
                epoch: check::epoch("pull.epoch", &pull.epoch)?,
                after: check::seq("pull.after", pull.after)?,
                since_ts: check::since_ts(pull.since_ts)?,
                limit: check::pull_limit(u64::from(pull.limit)),
            }
        }
        "sync" => Op::Sync { cursors: cursors(&check::SYNC_CURSORS, &read::<v1::SyncOp>(body)?.cursors)? },
        "ping" => read::<v1::PingOp>(body).map(|_| Op::Ping)?,
        _ => Op::Unimplemented(name),
    })
}

fn connect(connect: &v1::ConnectOp) -> Result<Op, Refusal> {
    let raw = RawConnect {
        token: &connect.token,
        device: &connect.device,
        platform: &connect.platform,
        auto_join: connect.auto_join,
        ack_mode: &connect.ack_mode,
        ping_interval_ms: connect.ping_interval_ms,
    };
    check::connect(&raw, cursors(&check::CONNECT_CURSORS, &connect.cursors)?)
}

fn join(join: &v1::JoinOp) -> Result<Op, Refusal> {
    let Some(cursor) = &join.cursor else {
        return Ok(Op::Join { stream: check::stream("join.stream", &join.stream)?, cursor: None });
    };
    let raw = RawCursor { stream: &join.stream, epoch: &cursor.epoch, seq: cursor.seq };
    let (stream, cursor) = check::cursor(&check::JOIN_CURSOR, &raw)?;
    Ok(Op::Join { stream, cursor: Some(cursor) })
}

fn send(send: &v1::SendOp) -> Result<Op, Refusal> {
    let ephemeral = match v1::MessageClass::try_from(send.class) {
        Ok(v1::MessageClass::Unspecified | v1::MessageClass::Durable) => false,
        Ok(v1::MessageClass::Ephemeral) => true,
        Err(_) => return Err(Refusal::bad("send.class: expected durable or ephemeral")),
    };
    let priority = match v1::Priority::try_from(send.priority) {
        Ok(v1::Priority::Unspecified) => None,
        Ok(v1::Priority::High) => Some(Priority::High),
        Ok(v1::Priority::Normal) => Some(Priority::Normal),
        Ok(v1::Priority::Low) => Some(Priority::Low),
        Err(_) => return Err(Refusal::bad("send.priority: expected high, normal or low")),
    };
    let text = (!send.content.is_empty()).then_some(&*send.content);
    let binary: Option<Bytes> = (!send.content_bytes.is_empty()).then(|| send.content_bytes.clone());
    check::send(RawSend {
        to: &send.to,
        client_msg_id: &send.client_msg_id,
        kind: &send.r#type,
        content: check::content(text, binary)?,
        metadata: &send.metadata,
        ephemeral,
        priority,
    })
}

fn cursors<'a>(
    fields: &CursorFields,
    cursors: impl IntoIterator<Item = (&'a String, &'a v1::Cursor)>,
) -> Result<Vec<(StreamKey, Cursor)>, Refusal> {
    let raw: Vec<_> = cursors
        .into_iter()
        .map(|(stream, cursor)| RawCursor { stream, epoch: &cursor.epoch, seq: cursor.seq })
        .collect();
    check::cursors(fields, &raw)
}

/// prost's message names the field.
fn read<M: prost::Message + Default>(body: &[u8]) -> Result<M, Refusal> {
    M::decode(body).map_err(|error| Refusal::bad(error.to_string()))
}

fn operation_name(field: u64) -> Option<&'static str> {
    let index = usize::try_from(field.checked_sub(FIRST_OPERATION_FIELD)?).ok()?;
    OPERATIONS.get(index).copied()
}

enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    /// Four or eight bytes, of no use here.
    Fixed,
}

/// Takes one field off the front. Groups are refused: proto3 has none.
fn take_field<'a>(bytes: &mut &'a [u8]) -> Option<(u64, Value<'a>)> {
    let key = take_varint(bytes)?;
    let value = match key & 7 {
        0 => Value::Varint(take_varint(bytes)?),
        1 => {
            take_bytes(bytes, 8)?;
            Value::Fixed
        }
        2 => {
            let len = take_varint(bytes)?;
            Value::Bytes(take_bytes(bytes, usize::try_from(len).ok()?)?)
        }
        5 => {
            take_bytes(bytes, 4)?;
            Value::Fixed
        }
        _ => return None,
    };
    (key >> 3 != 0).then_some((key >> 3, value))
}

fn take_bytes<'a>(bytes: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(taken)
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let part = u64::from(byte & 0x7f);
        // The tenth byte has room for one bit.
        if shift == 63 && part > 1 {
            return None;
        }
        value |= part << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
