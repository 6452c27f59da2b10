//! What a push's record begins with: who pushed what, and whether it was accepted.

use std::sync::Arc;

use tidegate_control_core::domain::{Content, Seq, StreamKey, Timestamp};
use tidegate_control_core::partition::Reply;

use super::Template;
use crate::api::auth::now_ms;
use crate::records::{Feed, PushRecord, RecordId, Status, Text, is_sealed};
use crate::runtime::Answer;

/// What all targets of a push have in common, kept until its answer.
#[derive(Debug)]
pub(super) struct About {
    from: Box<str>,
    key: Box<str>,
    kind: Box<str>,
    text: Text,
    ephemeral: bool,
}

impl About {
    pub fn of(message: &Template) -> Arc<About> {
        let text = match &message.content {
            _ if is_sealed(&message.metadata) => Text::Sealed,
            Content::Text(content) => Text::of(&message.title, content),
            Content::Binary(_) => Text::of(&message.title, ""),
        };
        Arc::new(About {
            from: message.from.clone(),
            key: message.message_id.clone().unwrap_or_default(),
            kind: message.kind.clone(),
            text,
            ephemeral: message.ephemeral,
        })
    }

    /// Hands in what became of one target. Waits for nothing.
    pub fn tell(&self, feed: &Feed, to: &str, answer: &Answer, online: Option<u32>) {
        let record = match answer {
            Ok(Reply::Pushed { epoch, seq, id, .. }) => {
                let id = RecordId::Message(*id);
                let mut record = PushRecord::new(id, to).with(Status::Accepted, id.ts());
                // A place without a seq is none: ephemeral messages have no number.
                record.place = seq.filter(|seq| *seq > Seq::ZERO).map(|seq| (*epoch, seq));
                record.online = online;
                if online == Some(0) && !self.ephemeral {
                    record = record.with(Status::Queued, id.ts());
                }
                record
            }
            Ok(_) => return,
            Err(refusal) => {
                let at = Timestamp(now_ms());
                let mut record = PushRecord::new(RecordId::attempt(at), to).with(Status::Refused, at);
                record.changes[0].reason = refusal.code.as_str().into();
                record
            }
        };
        let uid = to.parse::<StreamKey>().ok().and_then(|stream| stream.uid());
        feed.record(PushRecord {
            from: self.from.clone(),
            key: self.key.clone(),
            kind: self.kind.clone(),
            text: self.text.clone(),
            ephemeral: self.ephemeral,
            uids: uid.into_iter().collect(),
            ..record
        });
    }
}
