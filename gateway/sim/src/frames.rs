//! Client frames in both sub-protocols, from the client's side.

use prost::Message as _;
use serde_json::{Value, json};
use tidegate_proto::v1::{self, client_frame::Op, ok, server_frame::Body};

/// The payload of one frame up.
pub fn encode(json: bool, id: u32, op: &Op) -> Vec<u8> {
    if !json {
        return v1::ClientFrame { id, op: Some(op.clone()) }.encode_to_vec();
    }
    let (name, value) = match op {
        Op::Join(join) => {
            let mut value = json!({ "stream": join.stream });
            if let Some(cursor) = &join.cursor {
                value["cursor"] = json!({ "epoch": cursor.epoch, "seq": cursor.seq });
            }
            ("join", value)
        }
        Op::Leave(leave) => ("leave", json!({ "stream": leave.stream })),
        Op::Send(send) => {
            let class = if send.class == v1::MessageClass::Ephemeral as i32 { "ephemeral" } else { "durable" };
            let (to, key, kind, content) = (&send.to, &send.client_msg_id, &send.r#type, &send.content);
            ("send", json!({ "to": to, "client_msg_id": key, "type": kind, "content": content, "class": class }))
        }
        Op::Ack(ack) => ("ack", json!({ "stream": ack.stream, "epoch": ack.epoch, "seq": ack.seq })),
        Op::Read(read) => ("read", json!({ "stream": read.stream, "epoch": read.epoch, "seq": read.seq })),
        Op::Pull(pull) => {
            let (stream, epoch, after, limit) = (&pull.stream, &pull.epoch, pull.after, pull.limit);
            ("pull", json!({ "stream": stream, "epoch": epoch, "after": after, "limit": limit }))
        }
        Op::Sync(sync) => {
            let cursor = |(stream, cursor): (&String, &v1::Cursor)| {
                (stream.clone(), json!({ "epoch": cursor.epoch, "seq": cursor.seq }))
            };
            let cursors: serde_json::Map<String, Value> = sync.cursors.iter().map(cursor).collect();
            ("sync", json!({ "cursors": cursors }))
        }
        Op::Head(head) => ("head", json!({ "stream": head.stream })),
        _ => ("ping", json!({})),
    };
    json!({ "id": id, name: value }).to_string().into_bytes()
}

/// One frame down. An error: this is no server frame.
pub fn decode(json: bool, payload: &[u8]) -> Result<v1::ServerFrame, String> {
    if !json {
        return v1::ServerFrame::decode(payload).map_err(|error| error.to_string());
    }
    let value: Value = serde_json::from_slice(payload).map_err(|error| error.to_string())?;
    let id = number(&value, "id") as u32;
    let body = match value.as_object().and_then(|object| object.iter().find(|(name, _)| *name != "id")) {
        Some((name, value)) => body(name, value).ok_or_else(|| format!("an unknown frame: {name}"))?,
        None => return Err("an empty frame".to_owned()),
    };
    Ok(v1::ServerFrame { id, body: Some(body) })
}

fn body(name: &str, value: &Value) -> Option<Body> {
    Some(match name {
        "ok" => Body::Ok(v1::Ok { result: result(value) }),
        "error" => Body::Error(v1::Error {
            code: text(value, "code"),
            message: text(value, "message"),
            retry: value["retry"].as_bool().unwrap_or(false),
            retry_after_ms: value["retry_after_ms"].as_u64().map(|ms| ms as u32),
            epoch: text(value, "epoch"),
            head: value["head"].as_u64(),
            first: value["first"].as_u64(),
        }),
        "welcome" => Body::Welcome(session(value)),
        "batch" => Body::Batch(v1::Batch {
            stream: text(value, "stream"),
            epoch: text(value, "epoch"),
            after: value["after"].as_u64(),
            upto: value["upto"].as_u64(),
            messages: messages(value),
        }),
        "gap" => Body::Gap(v1::Gap {
            stream: text(value, "stream"),
            epoch: text(value, "epoch"),
            from: number(value, "from"),
            to: number(value, "to"),
            head: number(value, "head"),
            pull_after_ms: number(value, "pull_after_ms") as u32,
            lazy: value["lazy"].as_bool().unwrap_or(false),
        }),
        "joined" => {
            let (stream, epoch) = (text(value, "stream"), text(value, "epoch"));
            Body::Joined(v1::Joined { stream, epoch, head: number(value, "head") })
        }
        "left" => {
            let (stream, reason) = (text(value, "stream"), text(value, "reason"));
            Body::Left(v1::Left { stream, seq: number(value, "seq"), reason })
        }
        "expiring" => Body::Expiring(v1::Expiring { in_ms: number(value, "in_ms") as u32 }),
        "bye" => Body::Bye(v1::Bye {
            code: number(value, "code") as u32,
            reason: text(value, "reason"),
            reconnect: value["reconnect"].as_bool().unwrap_or(false),
            reconnect_after_ms: value["reconnect_after_ms"].as_u64().map(|ms| ms as u32),
            endpoint: text(value, "endpoint"),
        }),
        _ => return None,
    })
}

/// The kinds of `ok` are told apart by their fields, as a JSON client that did not keep its questions would.
fn result(value: &Value) -> Option<ok::Result> {
    if value.get("connection_id").is_some() {
        return Some(ok::Result::Connect(session(value)));
    }
    if value.get("next_after").is_some() {
        return Some(ok::Result::Pull(v1::PullResult {
            stream: text(value, "stream"),
            epoch: text(value, "epoch"),
            after: number(value, "after"),
            upto: number(value, "upto"),
            messages: messages(value),
            next_after: number(value, "next_after"),
            head: number(value, "head"),
            first: number(value, "first"),
        }));
    }
    if value.get("message_id").is_some() {
        return Some(ok::Result::Send(v1::SendResult {
            stream: text(value, "stream"),
            epoch: text(value, "epoch"),
            seq: value["seq"].as_u64(),
            message_id: text(value, "message_id"),
            duplicate: value["duplicate"].as_bool().unwrap_or(false),
        }));
    }
    if value.get("streams").is_some() {
        let more = value["more"].as_bool().unwrap_or(false);
        return Some(ok::Result::Sync(v1::SyncResult { streams: states(value), more }));
    }
    match (value.get("recovered"), value.get("stream")) {
        (Some(_), _) => Some(ok::Result::Join(state(value))),
        (None, Some(_)) => Some(ok::Result::Head(state(value))),
        _ => None,
    }
}

fn session(value: &Value) -> v1::Session {
    v1::Session {
        connection_id: text(value, "connection_id"),
        uid: text(value, "uid"),
        gateway: text(value, "gateway"),
        ping_interval_ms: number(value, "ping_interval_ms") as u32,
        session_expires_ms: value["session_expires_ms"].as_i64(),
        streams: states(value),
    }
}

fn states(value: &Value) -> Vec<v1::StreamState> {
    value["streams"].as_array().into_iter().flatten().map(state).collect()
}

fn state(value: &Value) -> v1::StreamState {
    v1::StreamState {
        stream: text(value, "stream"),
        epoch: text(value, "epoch"),
        head: number(value, "head"),
        first: number(value, "first"),
        recovered: text(value, "recovered"),
    }
}

fn messages(value: &Value) -> Vec<v1::Message> {
    let message = |value: &Value| v1::Message {
        seq: number(value, "seq"),
        id: text(value, "id"),
        from: text(value, "from"),
        to: text(value, "to"),
        conv: text(value, "conv"),
        conv_seq: number(value, "conv_seq"),
        client_msg_id: text(value, "client_msg_id"),
        r#type: text(value, "type"),
        title: text(value, "title"),
        content: text(value, "content"),
        ts: value["ts"].as_i64().unwrap_or(0),
        ..Default::default()
    };
    value["messages"].as_array().into_iter().flatten().map(message).collect()
}

fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_default().to_owned()
}

fn number(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or(0)
}
