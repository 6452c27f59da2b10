//! A push record, and how two of the same push become one.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tidegate_control_core::domain::{BadName, Epoch, MessageId, Seq, Timestamp, Uid};
use tidegate_control_core::partition::ID_EPOCH_MS;

/// Longest text of a record, title and content together; what is longer is cut.
pub const TEXT_BYTES_MAX: usize = 4_096;
/// Longest of a record's other fields.
pub const FIELD_BYTES_MAX: usize = 256;
/// Changes of status that are kept: those of the highest statuses, if there are more.
pub const CHANGES_MAX: usize = 64;
/// Users that one record names.
pub const UIDS_MAX: usize = 16;

/// Bits of an id below its milliseconds.
const ID_SHIFT: u32 = 22;

/// Which push it was. With the target it names a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordId {
    Message(MessageId),
    /// A push that was refused has no message id.
    Attempt {
        at: Timestamp,
        nonce: u64,
    },
}

impl RecordId {
    /// An attempt at this time.
    pub fn attempt(at: Timestamp) -> RecordId {
        let mut nonce = [0; 8];
        // Without randomness two attempts of one millisecond at one target may become one record; nothing else depends on it.
        let _ = getrandom::fill(&mut nonce);
        RecordId::Attempt { at: Timestamp(at.0.max(0)), nonce: u64::from_le_bytes(nonce) }
    }

    /// When it was pushed.
    pub fn ts(self) -> Timestamp {
        match self {
            RecordId::Message(id) => Timestamp(ID_EPOCH_MS + (id.0 >> ID_SHIFT) as i64),
            RecordId::Attempt { at, .. } => at,
        }
    }
}

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecordId::Message(id) => id.fmt(f),
            RecordId::Attempt { at, nonce } => write!(f, "x{}-{nonce:x}", at.0),
        }
    }
}

impl FromStr for RecordId {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let id = match text.strip_prefix('x').and_then(|attempt| attempt.split_once('-')) {
            Some((at, nonce)) => RecordId::Attempt {
                at: Timestamp(at.parse().map_err(|_| BadName)?),
                nonce: u64::from_str_radix(nonce, 16).map_err(|_| BadName)?,
            },
            None => RecordId::Message(MessageId(text.parse().map_err(|_| BadName)?)),
        };
        // Only one text per id: `+1` and `007` are others' numbers.
        if id.to_string() == text { Ok(id) } else { Err(BadName) }
    }
}

/// What became of a push; later ones win over earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It is durable and has its place.
    Accepted,
    /// Nobody it is for is online: it waits in its stream.
    Queued,
    /// Handed to devices.
    Delivered,
    /// Its time ended before it was acknowledged.
    Expired,
    /// A device said that it has it.
    Acked,
    /// Never accepted.
    Refused,
    /// Given up, and kept with the dead letters.
    Dead,
}

impl Status {
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Accepted => "accepted",
            Status::Queued => "queued",
            Status::Delivered => "delivered",
            Status::Expired => "expired",
            Status::Acked => "acked",
            Status::Refused => "refused",
            Status::Dead => "dead",
        }
    }
}

/// A status that was reached. The same one, reported by the same node, is one change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub status: Status,
    pub at: i64,
    /// Who reports it: a gateway, or nobody in particular.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub by: Box<str>,
    /// Devices that it went to, of those this node knows.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub devices: u32,
    /// Why, for what was refused or given up.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub reason: Box<str>,
}

fn is_zero(devices: &u32) -> bool {
    *devices == 0
}

/// What of a message's text is kept. Whoever knows more wins, and sealed stays sealed.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Text {
    #[default]
    Unknown,
    /// Title and content.
    Shown(Box<str>),
    /// Sensitive or encrypted: neither kept nor searched.
    Sealed,
}

impl Text {
    pub fn of(title: &str, content: &str) -> Text {
        let text = if title.is_empty() { content.to_owned() } else { format!("{title}\n{content}") };
        Text::Shown(cut(&text, TEXT_BYTES_MAX).into())
    }

    pub fn as_str(&self) -> &str {
        match self {
            Text::Shown(text) => text,
            Text::Unknown | Text::Sealed => "",
        }
    }
}

/// Whether a message's metadata says that its text is not to be kept beside the message: `"sensitive"` or `"encrypted"` is
/// there, and neither `false` nor `null`.
pub fn is_sealed(metadata: &str) -> bool {
    // Most metadata need not be read.
    if !metadata.contains("sensitive") && !metadata.contains("encrypted") && !metadata.contains("\\u") {
        return false;
    }
    match serde_json::from_str::<Value>(metadata) {
        Ok(object) => {
            ["sensitive", "encrypted"].iter().any(|key| !matches!(object[key], Value::Null | Value::Bool(false)))
        }
        // What cannot be read is not shown.
        Err(_) => true,
    }
}

/// Events of a push are records too, of which only some fields are known: empty ones leave what others said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushRecord {
    pub id: RecordId,
    /// The target as it was named: a stream, if it was a good one.
    pub to: Box<str>,
    /// A user, or the name of a backend.
    pub from: Box<str>,
    /// The caller's own key (`message_id` of the push).
    pub key: Box<str>,
    /// Users that are searched for: owner of the inbox, both of a conversation, and a sender who is a user.
    pub uids: Vec<Uid>,
    pub kind: Box<str>,
    pub text: Text,
    pub place: Option<(Epoch, Seq)>,
    /// Live connections of the target when it was pushed.
    pub online: Option<u32>,
    pub ephemeral: bool,
    pub traceparent: Box<str>,
    pub changes: Vec<Change>,
}

impl PushRecord {
    /// Nothing is known but which push, and to whom.
    pub fn new(id: RecordId, to: impl Into<Box<str>>) -> PushRecord {
        PushRecord {
            id,
            to: to.into(),
            from: Box::default(),
            key: Box::default(),
            uids: Vec::new(),
            kind: Box::default(),
            text: Text::Unknown,
            place: None,
            online: None,
            ephemeral: false,
            traceparent: Box::default(),
            changes: Vec::new(),
        }
    }

    #[must_use]
    pub fn with(mut self, status: Status, at: Timestamp) -> PushRecord {
        self.changes.push(Change { status, at: at.0, by: Box::default(), devices: 0, reason: Box::default() });
        self
    }

    pub fn ts(&self) -> Timestamp {
        self.id.ts()
    }

    /// The highest that was reached.
    pub fn status(&self) -> Option<Status> {
        self.changes.iter().map(|change| change.status).max()
    }

    /// When that was, as the first of its reporters says.
    pub fn status_at(&self) -> Option<Timestamp> {
        let status = self.status()?;
        self.changes.iter().filter(|change| change.status == status).map(|change| Timestamp(change.at)).min()
    }

    /// Devices that it was handed to, as all gateways together say.
    pub fn delivered(&self) -> u64 {
        let delivered = self.changes.iter().filter(|change| change.status == Status::Delivered);
        delivered.map(|change| u64::from(change.devices)).sum()
    }

    /// Takes in what another record of the same push and target knows.
    ///
    /// Commutative, associative and idempotent: replays and events out of order end in the same record.
    pub fn merge(&mut self, other: PushRecord) {
        debug_assert!(self.id == other.id && self.to == other.to);
        let texts = [
            (&mut self.from, other.from),
            (&mut self.key, other.key),
            (&mut self.kind, other.kind),
            (&mut self.traceparent, other.traceparent),
        ];
        for (ours, theirs) in texts {
            // The empty text is the least. Two that differ are no business of ours, but the choice must not depend on order.
            if theirs > *ours {
                *ours = theirs;
            }
        }
        if other.text > self.text {
            self.text = other.text;
        }
        let place = |place: Option<(Epoch, Seq)>| place.map(|(epoch, seq)| (epoch.0, seq));
        self.place = if place(other.place) > place(self.place) { other.place } else { self.place };
        self.online = self.online.max(other.online);
        self.ephemeral |= other.ephemeral;
        self.uids.extend(other.uids);
        self.changes.extend(other.changes);
        self.tidy();
    }

    /// Bounded, in order, and without what could split a line.
    pub fn clean(&mut self) {
        for field in [&mut self.to, &mut self.from, &mut self.key, &mut self.kind, &mut self.traceparent] {
            clean_text(field, FIELD_BYTES_MAX);
        }
        if let Text::Shown(text) = &mut self.text {
            clean_text(text, TEXT_BYTES_MAX);
        }
        for change in &mut self.changes {
            clean_text(&mut change.by, FIELD_BYTES_MAX);
            clean_text(&mut change.reason, FIELD_BYTES_MAX);
        }
        // A place beyond what signed numbers hold is nobody's.
        self.place = self.place.filter(|(_, seq)| *seq <= Seq::MAX);
        self.tidy();
    }

    fn tidy(&mut self) {
        self.uids.sort();
        self.uids.dedup();
        self.uids.truncate(UIDS_MAX);
        // The highest status first, so that the bound cuts the lowest; the keys do not change by merging.
        let mut changes: BTreeMap<(std::cmp::Reverse<Status>, Box<str>), Change> = BTreeMap::new();
        for change in std::mem::take(&mut self.changes) {
            let known = changes.entry((std::cmp::Reverse(change.status), change.by.clone())).or_insert(change.clone());
            known.at = known.at.min(change.at);
            known.devices = known.devices.max(change.devices);
            known.reason = std::cmp::max(std::mem::take(&mut known.reason), change.reason);
        }
        self.changes = changes.into_values().take(CHANGES_MAX).collect();
    }

    /// About what it takes in memory.
    pub fn size(&self) -> usize {
        let fields = [&self.to, &self.from, &self.key, &self.kind, &self.traceparent];
        let changes = self.changes.iter().map(|change| size_of::<Change>() + change.by.len() + change.reason.len());
        size_of::<PushRecord>()
            + fields.iter().map(|field| field.len()).sum::<usize>()
            + self.text.as_str().len()
            + self.uids.len() * 80
            + changes.sum::<usize>()
    }
}

/// Control characters become spaces; the rest is cut at a character's end.
pub(super) fn clean_text(text: &mut Box<str>, bytes_max: usize) {
    let good = cut(text, bytes_max);
    if good.len() < text.len() || good.contains(char::is_control) {
        *text = good.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().into();
        // A control character of two bytes became one.
        debug_assert!(text.len() <= bytes_max);
    }
}

/// The beginning, at most so long, of whole characters.
pub(super) fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

#[cfg(test)]
#[path = "form_tests.rs"]
mod tests;
