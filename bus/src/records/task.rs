//! Work that is not the sequencer's.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Undecodable, Upstream, fields, is_default};

/// Offline members of a big group that one `group_fanout` takes at once.
pub const FANOUT_BATCH: u32 = 100;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    pub task_id: String,
    pub payload: TaskPayload,
    /// Milliseconds since the Unix epoch.
    pub timestamp: i64,
    pub retry_count: u32,
    pub version: u32,
    pub traceparent: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskPayload {
    /// From outside producers; the sequencer stores its own messages itself.
    PersistMessage(Box<Upstream>),
    OfflinePush(OfflinePush),
    GroupFanout(GroupFanout),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OfflinePush {
    #[serde(deserialize_with = "fields::text")]
    pub user_id: String,
    #[serde(deserialize_with = "fields::text")]
    pub message_id: String,
    pub title: String,
    pub content: String,
    pub push_type: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GroupFanout {
    #[serde(deserialize_with = "fields::text")]
    pub group_id: String,
    #[serde(deserialize_with = "fields::text")]
    pub message_id: String,
    pub exclude_user_ids: Vec<String>,
    pub batch_size: u32,
    /// Ours: the message's place, so that the task need not look for it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub epoch: String,
    #[serde(skip_serializing_if = "is_default")]
    pub seq: u64,
}

impl Default for GroupFanout {
    fn default() -> GroupFanout {
        GroupFanout {
            group_id: String::new(),
            message_id: String::new(),
            exclude_user_ids: Vec::new(),
            batch_size: FANOUT_BATCH,
            epoch: String::new(),
            seq: 0,
        }
    }
}

/// What a task's record is keyed by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaskKey {
    /// Spreads tasks of one type over all partitions.
    #[default]
    #[serde(rename = "type+id")]
    TypeAndId,
    /// Keeps tasks of one type in one partition, in order.
    #[serde(rename = "type")]
    Type,
}

impl TaskPayload {
    pub fn task_type(&self) -> &'static str {
        match self {
            TaskPayload::PersistMessage(_) => "persist_message",
            TaskPayload::OfflinePush(_) => "offline_push",
            TaskPayload::GroupFanout(_) => "group_fanout",
        }
    }
}

impl Task {
    pub fn key(&self, key: TaskKey) -> String {
        match key {
            TaskKey::TypeAndId => format!("{}:{}", self.payload.task_type(), self.task_id),
            TaskKey::Type => self.payload.task_type().to_owned(),
        }
    }

    pub(super) fn to_json(&self) -> Vec<u8> {
        let payload = match &self.payload {
            TaskPayload::PersistMessage(payload) => serde_json::value::to_raw_value(payload),
            TaskPayload::OfflinePush(payload) => serde_json::value::to_raw_value(payload),
            TaskPayload::GroupFanout(payload) => serde_json::value::to_raw_value(payload),
        };
        let payload = payload.unwrap_or_else(|_| RawValue::NULL.to_owned());
        super::to_json(&Written {
            task_type: self.payload.task_type(),
            task_id: &self.task_id,
            payload: &payload,
            timestamp: self.timestamp,
            retry_count: self.retry_count,
            version: self.version,
            traceparent: &self.traceparent,
        })
    }

    pub(super) fn from_json(bytes: &[u8]) -> Result<Task, Undecodable> {
        let read: Read<'_> = super::from_json(bytes)?;
        let payload = read.payload.get().as_bytes();
        Ok(Task {
            task_id: read.task_id,
            payload: match &*read.task_type {
                "persist_message" => TaskPayload::PersistMessage(Box::new(super::from_json(payload)?)),
                "offline_push" => TaskPayload::OfflinePush(super::from_json(payload)?),
                "group_fanout" => TaskPayload::GroupFanout(super::from_json(payload)?),
                other => return Err(Undecodable::Json(format!("unknown task_type {other:?}"))),
            },
            timestamp: read.timestamp,
            retry_count: read.retry_count,
            version: read.version,
            traceparent: read.traceparent,
        })
    }
}

#[derive(Serialize)]
struct Written<'a> {
    task_type: &'static str,
    task_id: &'a str,
    payload: &'a RawValue,
    timestamp: i64,
    retry_count: u32,
    version: u32,
    #[serde(skip_serializing_if = "str::is_empty")]
    traceparent: &'a str,
}

/// The payload's type may stand after the payload, so it is read as text first.
#[derive(Deserialize)]
struct Read<'a> {
    task_type: String,
    #[serde(default, deserialize_with = "fields::text")]
    task_id: String,
    #[serde(borrow)]
    payload: &'a RawValue,
    #[serde(default, deserialize_with = "fields::millis")]
    timestamp: i64,
    #[serde(default)]
    retry_count: u32,
    #[serde(default = "fields::default_version", deserialize_with = "fields::version")]
    version: u32,
    #[serde(default)]
    traceparent: String,
}
