//! A message with its place in a stream.

use serde::{Deserialize, Serialize};

use super::{Priority, fields, is_default};

/// What a gateway gets by its downstream topic, and what `message-history` keeps: one record for each stream that the message
/// has a place in, with the stream as key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Downstream {
    #[serde(default, deserialize_with = "fields::text")]
    pub message_id: String,
    #[serde(default, deserialize_with = "fields::text")]
    pub from_user_id: String,
    #[serde(default, deserialize_with = "fields::text")]
    pub to_user_id: String,
    /// The stream key of the conversation of a one-to-one message, the stream itself for a group.
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
    /// Milliseconds since the Unix epoch, by the stream owner's clock.
    #[serde(default, deserialize_with = "fields::millis")]
    pub timestamp: i64,
    #[serde(default = "fields::default_version", deserialize_with = "fields::version")]
    pub version: u32,

    pub stream: String,
    /// 0: ephemeral, without a place.
    #[serde(default)]
    pub seq: u64,
    /// As text, base 32.
    #[serde(default)]
    pub epoch: String,
    /// The delivery covers `(after, upto]`; both 0 in the history.
    #[serde(default, skip_serializing_if = "is_default")]
    pub after: u64,
    #[serde(default, skip_serializing_if = "is_default")]
    pub upto: u64,
    /// The place in `conversation_id`, if that is another stream than this.
    #[serde(default, skip_serializing_if = "is_default")]
    pub conv_seq: u64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub client_msg_id: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub title: String,
    #[serde(default, skip_serializing_if = "is_default")]
    pub priority: Priority,
    /// Milliseconds since the Unix epoch; 0: never.
    #[serde(default, skip_serializing_if = "is_default")]
    pub expires: i64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub platforms: Vec<String>,
    #[serde(default, rename = "content_b64", with = "fields::bytes", skip_serializing_if = "Option::is_none")]
    pub content_bytes: Option<Vec<u8>>,
    /// Where the owner's log has it: partition, the epoch that the log began with, the owner's epoch, the record.
    #[serde(default, skip_serializing_if = "is_default")]
    pub partition: u32,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub history: String,
    #[serde(default, skip_serializing_if = "is_default")]
    pub owner_epoch: u64,
    #[serde(default, skip_serializing_if = "is_default")]
    pub lsn: u64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub traceparent: String,
}

impl Downstream {
    pub fn content(&self) -> &[u8] {
        self.content_bytes.as_deref().unwrap_or(self.content.as_bytes())
    }
}
