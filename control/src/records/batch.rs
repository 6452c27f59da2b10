//! What is written together.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use smallvec::SmallVec;
use tidegate_control_core::domain::{Append, Content, MessageId, Place, Seq, Timestamp};

use super::form::{PushRecord, RecordId, cut, is_sealed};
use super::port::Refused;
use super::position::RecordPosition;
use super::words::Words;

/// Longest text of a message that is searched; what follows is not found.
pub const MESSAGE_TEXT_BYTES_MAX: usize = 16_384;
/// What a clock may be ahead of ours. Anything later would make months that never end.
const FUTURE_MS_MAX: i64 = 86_400_000;
pub(crate) const DAY_MS: i64 = 86_400_000;

/// The text of a message at one of its places. Messages that are sensitive or encrypted are not given at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageText {
    pub id: MessageId,
    pub place: Place,
    pub text: Box<str>,
}

impl MessageText {
    /// A message's text at each of its places; none, if it has no text or is sealed.
    pub fn of(append: &Append) -> SmallVec<[MessageText; 3]> {
        let body = &*append.body;
        let Content::Text(content) = &body.content else { return SmallVec::new() };
        if content.is_empty() && body.title.is_empty() || is_sealed(&body.metadata) {
            return SmallVec::new();
        }
        let text = format!("{}\n{content}", body.title);
        let text: Box<str> = cut(&text, MESSAGE_TEXT_BYTES_MAX).into();
        append
            .places
            .iter()
            .map(|place| MessageText { id: body.id, place: place.clone(), text: text.clone() })
            .collect()
    }

    pub fn ts(&self) -> Timestamp {
        RecordId::Message(self.id).ts()
    }

    pub fn size(&self) -> usize {
        size_of::<MessageText>() + self.text.len()
    }
}

#[derive(Clone, Debug, Default)]
pub struct Batch {
    pub records: Vec<PushRecord>,
    pub texts: Vec<MessageText>,
}

impl Batch {
    pub fn len(&self) -> usize {
        self.records.len() + self.texts.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Cleaned, merged, in order, and without what is beyond time: each record and each place once. Adapters begin with it.
    pub fn fold(&self, now: Timestamp, keep_days: u32) -> Folded {
        let oldest = Timestamp(now.0 - i64::from(keep_days) * DAY_MS);
        let latest = Timestamp(now.0 + FUTURE_MS_MAX);
        let mut folded = Folded::default();
        let mut refuse = |name: String, ts: Timestamp| {
            let reason = if ts < oldest { "older than is kept" } else { "from the future" };
            folded.refused.push(Refused { name: name.into(), reason: reason.into() });
        };
        for record in &self.records {
            let ts = record.ts();
            let mut record = record.clone();
            record.clean();
            if ts < oldest || ts > latest {
                refuse(format!("{} to {}", record.id, record.to), ts);
                continue;
            }
            match folded.records.entry(RecordPosition::of(&record)) {
                Entry::Vacant(free) => {
                    free.insert(record);
                }
                Entry::Occupied(mut known) => known.get_mut().merge(record),
            }
        }
        for text in &self.texts {
            let (ts, place) = (text.ts(), &text.place);
            if ts < oldest || ts > latest || place.seq > Seq::MAX {
                refuse(format!("{} {}", place.stream, place.seq), ts);
                continue;
            }
            folded
                .texts
                .entry((ts, place.stream.to_string(), place.seq, place.epoch.0))
                .or_insert_with(|| text.clone());
        }
        folded
    }
}

#[derive(Clone, Debug, Default)]
pub struct Folded {
    pub records: BTreeMap<RecordPosition, PushRecord>,
    pub texts: BTreeMap<(Timestamp, String, Seq, u64), MessageText>,
    pub refused: Vec<Refused>,
}

impl PushRecord {
    /// What it is found by.
    pub fn words(&self) -> Words {
        Words::of(self.text.as_str())
    }
}

impl MessageText {
    /// What it is found by.
    pub fn words(&self) -> Words {
        Words::of(cut(&self.text, MESSAGE_TEXT_BYTES_MAX))
    }
}
