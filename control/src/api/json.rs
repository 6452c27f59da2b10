//! Messages as JSON, the same as in a client's batch, with their stream.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::value::RawValue;
use tidegate_control_core::domain::{Content, Priority, StreamKey};
use tidegate_control_core::ports::{Head, Page, Stored};

/// The answer to a history request. It covers `(after, next_after]`.
#[derive(Serialize)]
pub struct History<'a> {
    messages: Vec<Message<'a>>,
    stream: &'a str,
    epoch: String,
    after: u64,
    next_after: u64,
    head: u64,
    first: u64,
}

impl<'a> History<'a> {
    pub fn new(stream: &'a StreamKey, page: &'a Page, head: Head) -> History<'a> {
        History {
            messages: page.messages.iter().map(|stored| Message::new(stream, stored)).collect(),
            stream: stream.as_str(),
            epoch: head.epoch.to_string(),
            after: page.after.0,
            next_after: page.upto.0,
            head: head.head.0,
            first: head.first.0,
        }
    }
}

#[derive(Serialize)]
pub struct Message<'a> {
    stream: &'a str,
    seq: u64,
    id: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    from: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    to: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    conv: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    conv_seq: Option<u64>,
    #[serde(skip_serializing_if = "str::is_empty")]
    client_msg_id: &'a str,
    r#type: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    title: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_b64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a RawValue>,
    ts: i64,
    priority: &'static str,
}

impl<'a> Message<'a> {
    pub fn new(stream: &'a StreamKey, stored: &'a Stored) -> Message<'a> {
        let body = &*stored.body;
        let (content, content_b64) = match &body.content {
            Content::Text(text) => (Some(&**text), None),
            Content::Binary(bytes) => (None, Some(STANDARD.encode(bytes))),
        };
        Message {
            stream: stream.as_str(),
            seq: stored.seq.0,
            id: body.id.to_string(),
            from: &body.from,
            to: &body.to,
            conv: stored.conversation.as_ref().map(|(conversation, _)| conversation.as_str()),
            conv_seq: stored.conversation.as_ref().map(|(_, seq)| seq.0),
            client_msg_id: &body.client_msg_id,
            r#type: &body.kind,
            title: &body.title,
            content,
            content_b64,
            // It was checked when it came in; should it be broken all the same, the message is shown without it.
            metadata: serde_json::from_str(&body.metadata).ok(),
            ts: body.ts.0,
            priority: match body.priority {
                Priority::High => "high",
                Priority::Normal => "normal",
                Priority::Low => "low",
            },
        }
    }
}
