//! `tidegate.v1.json` up. The frame is scanned once for its syntax, then only the known fields of its one operation are
//! read, each with its type, so that a wrong type is a BAD_REQUEST with the id and not the end of the connection.
//!
//! `null` is the same as an absent field. A field or an id given twice is refused: readers differ in which one they take.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::client::check::{self, CursorFields, RawConnect, RawCursor, RawSend};
use crate::client::ops::{CURSORS_MAX, Op, Priority, Request};
use crate::client::{DecodeError, OPERATIONS, REQUEST_ID_MAX, Refusal};
use crate::ids::{Cursor, StreamKey};

/// Padding is optional on the way in.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

pub(super) fn decode(text: &str) -> Result<Request, DecodeError> {
    let envelope: Envelope<'_> = serde_json::from_str(text).map_err(|_| DecodeError::Fatal)?;
    let id = envelope.id.and_then(|id| id.get().parse::<u32>().ok()).filter(|id| (1..=REQUEST_ID_MAX).contains(id));
    let id = id.ok_or(DecodeError::Fatal)?;
    let op = match envelope.operations {
        0 => Err(Refusal::unknown_operation()),
        1 => envelope.operation.map_or_else(|| Err(Refusal::unknown_operation()), |(name, body)| operation(name, body)),
        _ => Err(Refusal::two_operations()),
    };
    op.map(|op| Request { id, op }).map_err(|refusal| refusal.at(id))
}

fn operation(name: &'static str, body: &RawValue) -> Result<Op, Refusal> {
    match name {
        "connect" => connect(body),
        "join" => {
            let [stream, cursor] = fields(name, body, ["stream", "cursor"])?;
            let stream = required("join.stream", text("join.stream", stream)?)?;
            let Some(body) = cursor else {
                return Ok(Op::Join { stream: check::stream("join.stream", &stream)?, cursor: None });
            };
            let (stream, cursor) = cursor_of(&check::JOIN_CURSOR, &stream, body)?;
            Ok(Op::Join { stream, cursor: Some(cursor) })
        }
        "leave" => Ok(Op::Leave { stream: only_stream(name, "leave.stream", body)? }),
        "head" => Ok(Op::Head { stream: only_stream(name, "head.stream", body)? }),
        "send" => send(body),
        "ack" => {
            let (stream, epoch, seq) = mark(name, ["ack.stream", "ack.epoch", "ack.seq"], body)?;
            Ok(Op::Ack { stream, epoch, seq })
        }
        "read" => {
            let (stream, epoch, seq) = mark(name, ["read.stream", "read.epoch", "read.seq"], body)?;
            Ok(Op::Read { stream, epoch, seq })
        }
        "pull" => pull(body),
        "sync" => {
            let [cursors] = fields(name, body, ["cursors"])?;
            Ok(Op::Sync { cursors: cursors_of(&check::SYNC_CURSORS, cursors)? })
        }
        "ping" => fields(name, body, []).map(|[]| Op::Ping),
        _ => fields(name, body, []).map(|[]| Op::Unimplemented(name)),
    }
}

fn connect(body: &RawValue) -> Result<Op, Refusal> {
    let [token, device, platform, cursors, auto_join, ack_mode, ping_interval_ms] = fields(
        "connect",
        body,
        ["token", "device", "platform", "cursors", "auto_join", "ack_mode", "ping_interval_ms"],
    )?;
    let token = text("connect.token", token)?.unwrap_or_default();
    let device = text("connect.device", device)?.unwrap_or_default();
    let platform = text("connect.platform", platform)?.unwrap_or_default();
    let ack_mode = text("connect.ack_mode", ack_mode)?.unwrap_or_default();
    let raw = RawConnect {
        token: &token,
        device: &device,
        platform: &platform,
        auto_join: typed("connect.auto_join", "true or false", auto_join)?,
        ack_mode: &ack_mode,
        ping_interval_ms: typed("connect.ping_interval_ms", "a number of milliseconds", ping_interval_ms)?.unwrap_or(0),
    };
    check::connect(&raw, cursors_of(&check::CONNECT_CURSORS, cursors)?)
}

fn send(body: &RawValue) -> Result<Op, Refusal> {
    let [to, client_msg_id, kind, content, content_b64, metadata, class, priority] = fields(
        "send",
        body,
        ["to", "client_msg_id", "type", "content", "content_b64", "metadata", "class", "priority"],
    )?;
    let to = required("send.to", text("send.to", to)?)?;
    let client_msg_id = text("send.client_msg_id", client_msg_id)?.unwrap_or_default();
    let kind = text("send.type", kind)?.unwrap_or_default();
    let content = text("send.content", content)?;
    let binary = match text("send.content_b64", content_b64)? {
        Some(encoded) => {
            let decoded = BASE64.decode(&*encoded);
            Some(decoded.map_err(|_| Refusal::bad("send.content_b64: expected base64"))?.into())
        }
        None => None,
    };
    let ephemeral = match text("send.class", class)?.as_deref() {
        None | Some("durable") => false,
        Some("ephemeral") => true,
        Some(_) => return Err(Refusal::bad("send.class: expected durable or ephemeral")),
    };
    let priority = match text("send.priority", priority)?.as_deref() {
        None => None,
        Some("high") => Some(Priority::High),
        Some("normal") => Some(Priority::Normal),
        Some("low") => Some(Priority::Low),
        Some(_) => return Err(Refusal::bad("send.priority: expected high, normal or low")),
    };
    check::send(RawSend {
        to: &to,
        client_msg_id: &client_msg_id,
        kind: &kind,
        content: check::content(content.as_deref(), binary)?,
        metadata: metadata.map_or("", RawValue::get),
        ephemeral,
        priority,
    })
}

fn pull(body: &RawValue) -> Result<Op, Refusal> {
    let [stream, epoch, after, limit, since_ts] =
        fields("pull", body, ["stream", "epoch", "after", "limit", "since_ts"])?;
    let stream = required("pull.stream", text("pull.stream", stream)?)?;
    let since_ts = typed("pull.since_ts", "milliseconds since 1970", since_ts)?;
    let after = number("pull.after", after)?;
    if after.is_none() && since_ts.is_none() {
        return Err(Refusal::bad("pull.after: required, or since_ts"));
    }
    Ok(Op::Pull {
        stream: check::stream("pull.stream", &stream)?,
        epoch: check::epoch("pull.epoch", &text("pull.epoch", epoch)?.unwrap_or_default())?,
        after: check::seq("pull.after", after.unwrap_or(0))?,
        since_ts: check::since_ts(since_ts)?,
        limit: check::pull_limit(number("pull.limit", limit)?.unwrap_or(0)),
    })
}

type Mark = (StreamKey, Option<crate::ids::Epoch>, crate::ids::Seq);

fn mark(name: &'static str, paths: [&'static str; 3], body: &RawValue) -> Result<Mark, Refusal> {
    let [stream, epoch, seq] = fields(name, body, ["stream", "epoch", "seq"])?;
    let stream = required(paths[0], text(paths[0], stream)?)?;
    let epoch = text(paths[1], epoch)?.unwrap_or_default();
    let seq = required(paths[2], number(paths[2], seq)?)?;
    Ok((check::stream(paths[0], &stream)?, check::epoch(paths[1], &epoch)?, check::seq(paths[2], seq)?))
}

fn only_stream(name: &'static str, path: &'static str, body: &RawValue) -> Result<StreamKey, Refusal> {
    let [stream] = fields(name, body, ["stream"])?;
    check::stream(path, &required(path, text(path, stream)?)?)
}

fn cursor_of(names: &CursorFields, stream: &str, body: &RawValue) -> Result<(StreamKey, Cursor), Refusal> {
    let (epoch, seq) = cursor_fields(names, body)?;
    check::cursor(names, &RawCursor { stream, epoch: &epoch, seq })
}

fn cursor_fields<'a>(names: &CursorFields, body: &'a RawValue) -> Result<(Cow<'a, str>, u64), Refusal> {
    let [epoch, seq] = fields(names.cursor, body, ["epoch", "seq"])?;
    Ok((text(names.epoch, epoch)?.unwrap_or_default(), required(names.seq, number(names.seq, seq)?)?))
}

fn cursors_of(names: &CursorFields, body: Option<&RawValue>) -> Result<Vec<(StreamKey, Cursor)>, Refusal> {
    let Some(body) = body else { return Ok(Vec::new()) };
    let Entries(entries) = serde_json::from_str(body.get())
        .map_err(|_| Refusal::bad(format!("{}: expected an object of cursors", names.stream)))?;
    let read = entries
        .iter()
        .map(|(stream, body)| cursor_fields(names, body).map(|(epoch, seq)| (stream, epoch, seq)))
        .collect::<Result<Vec<_>, _>>()?;
    let raw: Vec<_> = read.iter().map(|(stream, epoch, seq)| RawCursor { stream, epoch, seq: *seq }).collect();
    check::cursors(names, &raw)
}

fn required<T>(field: &'static str, value: Option<T>) -> Result<T, Refusal> {
    value.ok_or_else(|| Refusal::bad(format!("{field}: required")))
}

fn text<'a>(field: &'static str, raw: Option<&'a RawValue>) -> Result<Option<Cow<'a, str>>, Refusal> {
    typed::<Text<'a>>(field, "a string", raw).map(|text| text.map(|Text(text)| text))
}

fn number(field: &'static str, raw: Option<&RawValue>) -> Result<Option<u64>, Refusal> {
    typed(field, "a whole number", raw)
}

fn typed<'a, T: Deserialize<'a>>(
    field: &'static str,
    expected: &str,
    raw: Option<&'a RawValue>,
) -> Result<Option<T>, Refusal> {
    let Some(raw) = raw else { return Ok(None) };
    serde_json::from_str(raw.get()).map(Some).map_err(|_| Refusal::bad(format!("{field}: expected {expected}")))
}

/// A string, borrowed unless it holds escapes.
#[derive(serde::Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// The top level of a frame.
struct Envelope<'a> {
    id: Option<&'a RawValue>,
    operation: Option<(&'static str, &'a RawValue)>,
    operations: u32,
}

impl<'de> Deserialize<'de> for Envelope<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EnvelopeVisitor)
    }
}

struct EnvelopeVisitor;

impl<'de> Visitor<'de> for EnvelopeVisitor {
    type Value = Envelope<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a client frame")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Envelope<'de>, A::Error> {
        let mut envelope = Envelope { id: None, operation: None, operations: 0 };
        while let Some(Text(key)) = map.next_key()? {
            if key == "id" {
                if envelope.id.replace(map.next_value()?).is_some() {
                    return Err(serde::de::Error::duplicate_field("id"));
                }
            } else if let Some(name) = OPERATIONS.into_iter().find(|name| *name == key) {
                envelope.operation = Some((name, map.next_value()?));
                envelope.operations += 1;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(envelope)
    }
}

/// The known fields of an object, in the order of `names`; `null` counts as absent.
fn fields<'a, const N: usize>(
    path: &'static str,
    body: &'a RawValue,
    names: [&'static str; N],
) -> Result<[Option<&'a RawValue>; N], Refusal> {
    let mut reader = serde_json::Deserializer::from_str(body.get());
    let (values, twice) =
        Fields(names).deserialize(&mut reader).map_err(|_| Refusal::bad(format!("{path}: expected an object")))?;
    match twice {
        Some(name) => Err(Refusal::bad(format!("{path}.{name}: given twice"))),
        None => Ok(values.map(|value: Option<&RawValue>| value.filter(|value| value.get() != "null"))),
    }
}

struct Fields<const N: usize>([&'static str; N]);

type Found<'a, const N: usize> = ([Option<&'a RawValue>; N], Option<&'static str>);

impl<'de, const N: usize> DeserializeSeed<'de> for Fields<N> {
    type Value = Found<'de, N>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, const N: usize> Visitor<'de> for Fields<N> {
    type Value = Found<'de, N>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut values, mut twice) = ([None; N], None);
        while let Some(Text(key)) = map.next_key()? {
            match self.0.iter().position(|name| *name == key) {
                Some(i) => {
                    if values[i].replace(map.next_value::<&RawValue>()?).is_some() {
                        twice = Some(self.0[i]);
                    }
                }
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok((values, twice))
    }
}

/// An object with any keys, as `cursors` is. Entries past the bound are counted by one more, so that the check refuses them.
struct Entries<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Entries<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor)
    }
}

struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = Entries<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries<'de>, A::Error> {
        let mut entries = Vec::new();
        while let Some(Text(key)) = map.next_key()? {
            let value = map.next_value()?;
            if entries.len() <= CURSORS_MAX {
                entries.push((key, value));
            }
        }
        Ok(Entries(entries))
    }
}
