//! A message on its way to its sequencer.

use serde::{Deserialize, Serialize};

use super::{Priority, fields, is_default};

/// What a push or a client's send is in the upstream topic, without loss. The first ten fields are the ones that outside
/// producers know; a record with only these is taken as a client's send.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upstream {
    /// Idempotency key of a backend; empty: none. A client's key is `client_msg_id`, scoped by sender.
    #[serde(default, deserialize_with = "fields::text")]
    pub message_id: String,
    #[serde(default, deserialize_with = "fields::text")]
    pub from_user_id: String,
    #[serde(default, deserialize_with = "fields::text")]
    pub to_user_id: String,
    #[serde(default, deserialize_with = "fields::text")]
    pub conversation_id: String,
    /// Text. Empty if there is `content_b64`.
    #[serde(default, deserialize_with = "fields::text")]
    pub content: String,
    #[serde(default, deserialize_with = "fields::text")]
    pub message_type: String,
    /// A JSON object as text; empty: none.
    #[serde(default, with = "fields::metadata")]
    pub metadata: String,
    #[serde(default, deserialize_with = "fields::text")]
    pub gateway_id: String,
    /// Milliseconds since the Unix epoch, by the producer's clock.
    #[serde(default, deserialize_with = "fields::millis")]
    pub timestamp: i64,
    #[serde(default = "fields::default_version", deserialize_with = "fields::version")]
    pub version: u32,

    /// The target, `u:…`, `g:…` or `c:…`; empty: see [`Upstream::target`].
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stream: String,
    #[serde(default)]
    pub sender: Sender,
    /// Absent: see [`Upstream::client_key`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_msg_id: Option<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub title: String,
    #[serde(default, skip_serializing_if = "is_default")]
    pub ephemeral: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub priority: Priority,
    /// Seconds; 0: until the retention's end.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ttl_s: u32,
    /// Only connections of these; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub platforms: Vec<String>,
    /// Content that need not be text.
    #[serde(default, rename = "content_b64", with = "fields::bytes", skip_serializing_if = "Option::is_none")]
    pub content_bytes: Option<Vec<u8>>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub traceparent: String,
}

/// Who `from_user_id` is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sender {
    /// A client that a gateway has authenticated: membership is asked, and a send to a user becomes their conversation.
    #[default]
    Client,
    /// A backend; `from_user_id` is what recipients see as sender.
    Backend,
}

/// A record that decodes but says no target. It is invalid, now and later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no target: stream, to_user_id and conversation_id are empty")]
pub struct BadTarget;

impl Upstream {
    /// The stream key that the message goes to, not checked for its letters. `stream` if it is there; otherwise
    /// `u:<to_user_id>`; otherwise `conversation_id`, which is a stream key if it begins like one and a group's id if not.
    pub fn target(&self) -> Result<String, BadTarget> {
        if !self.stream.is_empty() {
            return Ok(self.stream.clone());
        }
        if !self.to_user_id.is_empty() {
            return Ok(format!("u:{}", self.to_user_id));
        }
        match &*self.conversation_id {
            "" => Err(BadTarget),
            key if ["u:", "g:", "c:"].iter().any(|prefix| key.starts_with(prefix)) => Ok(key.to_owned()),
            group => Ok(format!("g:{group}")),
        }
    }

    /// What a client knows its message by, and by which a repeated send is told: `client_msg_id`, or where that is absent (an
    /// outside producer's record) `message_id`.
    pub fn client_key(&self) -> &str {
        self.client_msg_id.as_deref().unwrap_or(match self.sender {
            Sender::Client => &self.message_id,
            Sender::Backend => "",
        })
    }

    pub fn content(&self) -> &[u8] {
        self.content_bytes.as_deref().unwrap_or(self.content.as_bytes())
    }
}
