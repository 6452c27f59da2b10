//! What values a request may carry, whatever it was encoded in. Every refusal names the field.

use std::fmt;

use bytes::Bytes;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::client::Refusal;
use crate::client::errors::ErrorCode;
use crate::client::ops::{AckMode, CURSORS_MAX, Connect, Content, Op, PULL_MESSAGES_MAX, Priority, Send};
use crate::ids::{Cursor, Epoch, Seq, StreamKey, StreamKind};

const TOKEN_BYTES_MAX: usize = 8 * 1024;
const DEVICE_BYTES_MAX: usize = 128;
const PLATFORM_BYTES_MAX: usize = 32;
const EPOCH_BYTES_MAX: usize = 64;
const CLIENT_MSG_ID_BYTES_MAX: usize = 128;
const TYPE_BYTES_MAX: usize = 64;
/// Type of a message that names none, as in the push API.
const KIND_DEFAULT: &str = "text";
const METADATA_BYTES_MAX: usize = 16 * 1024;
/// Parsers of clients give up somewhere above 100 levels, and then the whole batch would be lost to them.
const METADATA_DEPTH_MAX: u32 = 32;

/// Names of a cursor's fields, since they occur in several operations.
pub(super) struct CursorFields {
    pub(super) cursor: &'static str,
    pub(super) stream: &'static str,
    pub(super) epoch: &'static str,
    pub(super) seq: &'static str,
}

pub(super) const JOIN_CURSOR: CursorFields =
    CursorFields { cursor: "join.cursor", stream: "join.stream", epoch: "join.cursor.epoch", seq: "join.cursor.seq" };
pub(super) const CONNECT_CURSORS: CursorFields = CursorFields {
    cursor: "connect.cursors",
    stream: "connect.cursors",
    epoch: "connect.cursors.epoch",
    seq: "connect.cursors.seq",
};
pub(super) const SYNC_CURSORS: CursorFields = CursorFields {
    cursor: "sync.cursors",
    stream: "sync.cursors",
    epoch: "sync.cursors.epoch",
    seq: "sync.cursors.seq",
};

/// A cursor as sent.
pub(super) struct RawCursor<'a> {
    pub(super) stream: &'a str,
    pub(super) epoch: &'a str,
    pub(super) seq: u64,
}

#[derive(Default)]
pub(super) struct RawConnect<'a> {
    pub(super) token: &'a str,
    pub(super) device: &'a str,
    pub(super) platform: &'a str,
    pub(super) auto_join: Option<bool>,
    pub(super) ack_mode: &'a str,
    pub(super) ping_interval_ms: u32,
}

pub(super) struct RawSend<'a> {
    pub(super) to: &'a str,
    pub(super) client_msg_id: &'a str,
    pub(super) kind: &'a str,
    pub(super) content: Content,
    pub(super) metadata: &'a str,
    pub(super) ephemeral: bool,
    pub(super) priority: Option<Priority>,
}

pub(super) fn connect(raw: &RawConnect<'_>, cursors: Vec<(StreamKey, Cursor)>) -> Result<Op, Refusal> {
    let ack_mode = match raw.ack_mode {
        "" | "client" => AckMode::Client,
        "sent" => AckMode::Sent,
        _ => return Err(Refusal::bad("connect.ack_mode: expected client or sent")),
    };
    let token = plain("connect.token", raw.token, TOKEN_BYTES_MAX)?;
    Ok(Op::Connect(Box::new(Connect {
        token: (!token.is_empty()).then(|| token.into()),
        device: plain("connect.device", raw.device, DEVICE_BYTES_MAX)?.into(),
        platform: plain("connect.platform", raw.platform, PLATFORM_BYTES_MAX)?.into(),
        cursors,
        auto_join: raw.auto_join.unwrap_or(true),
        ack_mode,
        ping_interval_ms: (raw.ping_interval_ms != 0).then_some(raw.ping_interval_ms),
    })))
}

pub(super) fn send(raw: RawSend<'_>) -> Result<Op, Refusal> {
    let to = stream("send.to", raw.to)?;
    if to.kind() == StreamKind::Conversation {
        return Err(Refusal::bad("send.to: expected g:<gid> or u:<uid>"));
    }
    let kind = if raw.kind.is_empty() { KIND_DEFAULT } else { plain("send.type", raw.kind, TYPE_BYTES_MAX)? };
    Ok(Op::Send(Box::new(Send {
        to,
        client_msg_id: plain("send.client_msg_id", raw.client_msg_id, CLIENT_MSG_ID_BYTES_MAX)?.into(),
        kind: kind.into(),
        content: raw.content,
        metadata: metadata("send.metadata", raw.metadata)?.into(),
        ephemeral: raw.ephemeral,
        priority: raw.priority,
    })))
}

/// Both empty is an empty text.
pub(super) fn content(text: Option<&str>, binary: Option<Bytes>) -> Result<Content, Refusal> {
    match (text, binary) {
        (Some(_), Some(_)) => Err(Refusal::bad("send.content: text and binary content exclude each other")),
        (None, Some(binary)) => Ok(Content::Binary(binary)),
        (text, None) => Ok(Content::Text(text.unwrap_or_default().into())),
    }
}

/// A limit above the maximum is lowered, never refused; 0 means the maximum.
pub(super) fn pull_limit(limit: u64) -> Option<u32> {
    (limit != 0).then(|| limit.min(u64::from(PULL_MESSAGES_MAX)) as u32)
}

pub(super) fn since_ts(ts: Option<i64>) -> Result<Option<i64>, Refusal> {
    match ts {
        Some(ts) if ts < 0 => Err(Refusal::bad("pull.since_ts: expected milliseconds since 1970")),
        ts => Ok(ts),
    }
}

pub(super) fn cursor(fields: &CursorFields, raw: &RawCursor<'_>) -> Result<(StreamKey, Cursor), Refusal> {
    let cursor =
        Cursor { epoch: Epoch::from(plain(fields.epoch, raw.epoch, EPOCH_BYTES_MAX)?), seq: seq(fields.seq, raw.seq)? };
    Ok((stream(fields.stream, raw.stream)?, cursor))
}

/// In the order of the streams' names, because the order of arrival is not defined in protobuf.
pub(super) fn cursors(fields: &CursorFields, raw: &[RawCursor<'_>]) -> Result<Vec<(StreamKey, Cursor)>, Refusal> {
    if raw.len() > CURSORS_MAX {
        return Err(Refusal::bad(format!("{}: more than {CURSORS_MAX}", fields.stream)));
    }
    let mut cursors = raw.iter().map(|raw| cursor(fields, raw)).collect::<Result<Vec<_>, _>>()?;
    cursors.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    if cursors.windows(2).any(|pair| pair[0].0 == pair[1].0) {
        return Err(Refusal::bad(format!("{}: a stream occurs twice", fields.stream)));
    }
    Ok(cursors)
}

pub(super) fn stream(field: &'static str, text: &str) -> Result<StreamKey, Refusal> {
    text.parse().map_err(|_| Refusal::bad(format!("{field}: expected u:<uid>, g:<gid> or c:<a>:<b>")))
}

/// An empty epoch is none.
pub(super) fn epoch(field: &'static str, text: &str) -> Result<Option<Epoch>, Refusal> {
    let text = plain(field, text, EPOCH_BYTES_MAX)?;
    Ok((!text.is_empty()).then(|| Epoch::from(text)))
}

pub(super) fn seq(field: &'static str, seq: u64) -> Result<Seq, Refusal> {
    if seq > Seq::MAX.0 {
        return Err(Refusal::bad(format!("{field}: above 2^53-1")));
    }
    Ok(Seq(seq))
}

/// Text that ends up in logs and keys: bounded and without control characters.
fn plain<'a>(field: &'static str, text: &'a str, bytes_max: usize) -> Result<&'a str, Refusal> {
    if text.len() > bytes_max {
        return Err(Refusal::bad(format!("{field}: longer than {bytes_max} bytes")));
    }
    if text.chars().any(char::is_control) {
        return Err(Refusal::bad(format!("{field}: control characters are not allowed")));
    }
    Ok(text)
}

/// Metadata is copied verbatim into frames for others, so it must be JSON that every reader can take.
fn metadata<'a>(field: &'static str, text: &'a str) -> Result<&'a str, Refusal> {
    let text = text.trim_ascii();
    if text.is_empty() {
        return Ok(text);
    }
    if text.len() > METADATA_BYTES_MAX {
        let message = format!("{field}: longer than {METADATA_BYTES_MAX} bytes").into();
        return Err(Refusal { code: ErrorCode::TooLarge, message });
    }
    if !text.starts_with('{') {
        return Err(Refusal::bad(format!("{field}: expected a JSON object")));
    }
    match serde_json::from_str::<Sound>(text) {
        Ok(Sound) => Ok(text),
        Err(_) => Err(Refusal::bad(format!("{field}: expected a JSON object of at most {METADATA_DEPTH_MAX} levels"))),
    }
}

/// JSON whose strings decode, whose numbers fit and whose depth is bounded; nothing of it is kept.
struct Sound;

impl<'de> Deserialize<'de> for Sound {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Depth(METADATA_DEPTH_MAX).deserialize(deserializer)
    }
}

#[derive(Clone, Copy)]
struct Depth(u32);

impl Depth {
    fn deeper<E: serde::de::Error>(self) -> Result<Depth, E> {
        self.0.checked_sub(1).map(Depth).ok_or_else(|| E::custom("too deep"))
    }
}

impl<'de> DeserializeSeed<'de> for Depth {
    type Value = Sound;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Sound, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Depth {
    type Value = Sound;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Sound, A::Error> {
        let inner = self.deeper()?;
        while map.next_key_seed(inner)?.is_some() {
            map.next_value_seed(inner)?;
        }
        Ok(Sound)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Sound, A::Error> {
        let inner = self.deeper()?;
        while seq.next_element_seed(inner)?.is_some() {}
        Ok(Sound)
    }

    fn visit_str<E>(self, _: &str) -> Result<Sound, E> {
        Ok(Sound)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Sound, E> {
        Ok(Sound)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Sound, E> {
        Ok(Sound)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Sound, E> {
        Ok(Sound)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Sound, E> {
        Ok(Sound)
    }

    fn visit_unit<E>(self) -> Result<Sound, E> {
        Ok(Sound)
    }
}
