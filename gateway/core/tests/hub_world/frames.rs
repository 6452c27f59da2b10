//! Reads what the hub encoded, as a client would.

use flate2::{Decompress, FlushDecompress};
use prost::Message as _;
use serde_json::Value;
use tidegate_gateway_core::messages::Encoding;
use tidegate_proto::v1::{self, server_frame::Body};

/// One unmasked server frame, plain or compressed, to its value.
pub fn decode(encoding: Encoding, frame: &[u8]) -> v1::ServerFrame {
    let payload = payload(frame);
    match encoding {
        Encoding::Proto => v1::ServerFrame::decode(&payload[..]).expect("a protobuf ServerFrame"),
        Encoding::Json => from_json(&serde_json::from_slice(&payload).expect("a JSON object")),
    }
}

pub fn is_compressed(frame: &[u8]) -> bool {
    frame[0] & 0x40 != 0
}

fn payload(frame: &[u8]) -> Vec<u8> {
    let (len, head) = match frame[1] {
        126 => (usize::from(u16::from_be_bytes([frame[2], frame[3]])), 4),
        127 => (u64::from_be_bytes(frame[2..10].try_into().expect("8 bytes")) as usize, 10),
        len => (usize::from(len), 2),
    };
    assert_eq!(frame.len(), head + len, "one frame per buffer");
    let body = &frame[head..];
    if !is_compressed(frame) {
        return body.to_vec();
    }
    let mut input = body.to_vec();
    input.extend_from_slice(&[0, 0, 0xff, 0xff]);
    let mut out = Vec::with_capacity(1 << 20);
    Decompress::new(false).decompress_vec(&input, &mut out, FlushDecompress::Sync).expect("raw deflate");
    out
}

fn from_json(value: &Value) -> v1::ServerFrame {
    let id = value["id"].as_u64().unwrap_or(0) as u32;
    let has = |name: &str| value.get(name).is_some();
    let body = if has("welcome") {
        Body::Welcome(session(&value["welcome"]))
    } else if has("batch") {
        Body::Batch(batch(&value["batch"]))
    } else if has("gap") {
        let gap = &value["gap"];
        let num = |name: &str| gap[name].as_u64().expect("a number");
        let (from, to, head) = (num("from"), num("to"), num("head"));
        let (stream, epoch) = (text(gap, "stream"), text(gap, "epoch"));
        Body::Gap(v1::Gap { stream, epoch, from, to, head, pull_after_ms: num("pull_after_ms") as u32, lazy: false })
    } else if has("joined") {
        let joined = &value["joined"];
        let head = joined["head"].as_u64().expect("a number");
        Body::Joined(v1::Joined { stream: text(joined, "stream"), epoch: text(joined, "epoch"), head })
    } else if has("left") {
        let left = &value["left"];
        let seq = left["seq"].as_u64().unwrap_or(0);
        Body::Left(v1::Left { stream: text(left, "stream"), seq, reason: text(left, "reason") })
    } else if has("error") {
        let error = &value["error"];
        Body::Error(v1::Error {
            code: text(error, "code"),
            message: text(error, "message"),
            retry: error["retry"].as_bool().unwrap_or(false),
            retry_after_ms: error["retry_after_ms"].as_u64().map(|ms| ms as u32),
            epoch: text(error, "epoch"),
            head: error["head"].as_u64(),
            first: error["first"].as_u64(),
        })
    } else {
        Body::Ok(v1::Ok { result: ok(&value["ok"]) })
    };
    v1::ServerFrame { id, body: Some(body) }
}

fn ok(value: &Value) -> Option<v1::ok::Result> {
    if value.get("connection_id").is_some() {
        return Some(v1::ok::Result::Connect(session(value)));
    }
    if value.get("next_after").is_some() {
        let num = |name: &str| value[name].as_u64().expect("a number");
        let batch = batch(value);
        return Some(v1::ok::Result::Pull(v1::PullResult {
            stream: batch.stream,
            epoch: batch.epoch,
            after: num("after"),
            upto: num("upto"),
            messages: batch.messages,
            next_after: num("next_after"),
            head: num("head"),
            first: num("first"),
        }));
    }
    value.get("stream").map(|_| v1::ok::Result::Join(state(value)))
}

fn session(value: &Value) -> v1::Session {
    let streams = value["streams"].as_array().into_iter().flatten().map(state).collect();
    v1::Session {
        connection_id: text(value, "connection_id"),
        uid: text(value, "uid"),
        gateway: text(value, "gateway"),
        ping_interval_ms: value["ping_interval_ms"].as_u64().unwrap_or(0) as u32,
        session_expires_ms: value["session_expires_ms"].as_i64(),
        streams,
    }
}

fn state(value: &Value) -> v1::StreamState {
    v1::StreamState {
        stream: text(value, "stream"),
        epoch: text(value, "epoch"),
        head: value["head"].as_u64().unwrap_or(0),
        first: value["first"].as_u64().unwrap_or(0),
        recovered: text(value, "recovered"),
    }
}

fn batch(value: &Value) -> v1::Batch {
    let messages = value["messages"].as_array().expect("messages").iter();
    v1::Batch {
        stream: text(value, "stream"),
        epoch: text(value, "epoch"),
        after: value["after"].as_u64(),
        upto: value["upto"].as_u64(),
        messages: messages
            .map(|message| v1::Message {
                seq: message["seq"].as_u64().unwrap_or(0),
                content: text(message, "content"),
                ..Default::default()
            })
            .collect(),
    }
}

fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_default().to_owned()
}
