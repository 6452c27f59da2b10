//! Records and texts as documents, and back.

use serde::{Deserialize, Serialize};
use tidegate_control_core::domain::{Epoch, MessageId, Seq, StreamKey};

use crate::records::{Change, Hit, IndexError, MessageText, PushRecord, RecordId, Text};

#[derive(Serialize, Deserialize)]
pub(super) struct RecordDocument {
    ts: i64,
    id: String,
    to: String,
    from: String,
    key: String,
    uids: Vec<String>,
    r#type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    sealed: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    epoch: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    online: Option<u32>,
    ephemeral: bool,
    traceparent: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    status: Option<String>,
    changes: Vec<Change>,
    #[serde(default)]
    words: Vec<String>,
}

impl From<&PushRecord> for RecordDocument {
    fn from(record: &PushRecord) -> Self {
        RecordDocument {
            ts: record.ts().0,
            id: record.id.to_string(),
            to: record.to.to_string(),
            from: record.from.to_string(),
            key: record.key.to_string(),
            uids: record.uids.iter().map(ToString::to_string).collect(),
            r#type: record.kind.to_string(),
            text: match &record.text {
                Text::Shown(text) => Some(text.to_string()),
                Text::Unknown | Text::Sealed => None,
            },
            sealed: record.text == Text::Sealed,
            epoch: record.place.map(|(epoch, _)| epoch.to_string()),
            seq: record.place.map(|(_, seq)| seq.0),
            online: record.online,
            ephemeral: record.ephemeral,
            traceparent: record.traceparent.to_string(),
            status: record.status().map(|status| status.as_str().to_owned()),
            changes: record.changes.clone(),
            words: record.words().iter().map(str::to_owned).collect(),
        }
    }
}

impl RecordDocument {
    pub fn into_record(self) -> Result<PushRecord, IndexError> {
        let id: RecordId = self.id.parse().map_err(|_| bad("the id of a record"))?;
        let uids = self.uids.iter().map(|uid| uid.parse()).collect::<Result<_, _>>();
        let epoch = self.epoch.map(|epoch| epoch.parse::<Epoch>()).transpose().map_err(|_| bad("an epoch"))?;
        let mut record = PushRecord {
            from: self.from.into(),
            key: self.key.into(),
            uids: uids.map_err(|_| bad("a uid"))?,
            kind: self.r#type.into(),
            text: match (self.sealed, self.text) {
                (true, _) => Text::Sealed,
                (false, Some(text)) => Text::Shown(text.into()),
                (false, None) => Text::Unknown,
            },
            place: epoch.zip(self.seq.map(Seq)),
            online: self.online,
            ephemeral: self.ephemeral,
            traceparent: self.traceparent.into(),
            changes: self.changes,
            ..PushRecord::new(id, self.to)
        };
        // In the order that comparing two records expects.
        record.clean();
        Ok(record)
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct TextDocument {
    ts: i64,
    stream: String,
    seq: u64,
    epoch: String,
    id: String,
    #[serde(default)]
    words: Vec<String>,
}

impl From<&MessageText> for TextDocument {
    fn from(text: &MessageText) -> Self {
        TextDocument {
            ts: text.ts().0,
            stream: text.place.stream.to_string(),
            seq: text.place.seq.0,
            epoch: text.place.epoch.to_string(),
            id: text.id.to_string(),
            words: text.words().iter().map(str::to_owned).collect(),
        }
    }
}

impl TextDocument {
    pub fn into_hit(self) -> Result<Hit, IndexError> {
        let stream: StreamKey = self.stream.parse().map_err(|_| bad("the stream of a text"))?;
        let epoch: Epoch = self.epoch.parse().map_err(|_| bad("an epoch"))?;
        let id = MessageId(self.id.parse().map_err(|_| bad("the id of a text"))?);
        Ok(Hit { stream, epoch, seq: Seq(self.seq), id, ts: RecordId::Message(id).ts() })
    }
}

pub(super) fn bad(what: &str) -> IndexError {
    IndexError::Failed(format!("{what} is not as it was written").into())
}
