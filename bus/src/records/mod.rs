//! What stands in the topics, and its two forms: JSON (the default) and protobuf.
//!
//! Each record has the fields that other producers and consumers of such topics know, and some of ours beside them; unknown
//! fields are ignored, missing ones of ours take defaults. A reader needs no setting: JSON begins with `{`, which the protobuf
//! forms never do. `docs/kafka.md` lists all fields.

mod dead_letter;
mod downstream;
mod fields;
mod proto;
mod task;
#[cfg(test)]
mod tests;
mod upstream;
mod user_state;

use serde::{Deserialize, Serialize};

pub use self::dead_letter::{DeadLetter, ErrorClass};
pub use self::downstream::Downstream;
pub use self::task::{FANOUT_BATCH, GroupFanout, OfflinePush, Task, TaskKey, TaskPayload};
pub use self::upstream::{BadTarget, Sender, Upstream};
pub use self::user_state::UserState;

/// Of every record of ours. A later one only adds fields.
pub const VERSION: u32 = 1;

/// The form that is written. Both are always read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    #[default]
    Json,
    Protobuf,
}

/// Why bytes are no record. They never will be: such a record goes to the dead letters.
#[derive(Debug, thiserror::Error)]
pub enum Undecodable {
    #[error("an empty value")]
    Empty,
    #[error("no valid JSON record: {0}")]
    Json(String),
    #[error("no valid protobuf record: {0}")]
    Protobuf(String),
}

/// A record's two forms.
pub trait Form: Sized {
    fn encode(&self, format: Format) -> Vec<u8>;
    fn decode(bytes: &[u8]) -> Result<Self, Undecodable>;
}

/// How urgent a stream's message is; orders streams, never the messages of one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    High,
    #[default]
    Normal,
    Low,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Records hold nothing that has no JSON form; an empty value is refused by whoever reads it.
fn to_json(record: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(record).unwrap_or_else(|error| {
        tracing::error!(%error, "a record has no JSON form");
        Vec::new()
    })
}

fn from_json<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Undecodable> {
    serde_json::from_slice(bytes).map_err(|error| Undecodable::Json(error.to_string()))
}
