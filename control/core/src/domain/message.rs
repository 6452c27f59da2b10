//! A message apart from its place in a stream.

use bytes::Bytes;
use smallvec::SmallVec;

use super::names::{MessageId, Timestamp};

/// Immutable and shared: one body stands in several streams (a conversation and two inboxes).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    pub id: MessageId,
    /// A uid or the name of a backend; empty if the caller gave none.
    pub from: Box<str>,
    /// The recipient of a one-to-one message; otherwise empty.
    pub to: Box<str>,
    pub client_msg_id: Box<str>,
    pub kind: Box<str>,
    pub title: Box<str>,
    pub content: Content,
    /// A JSON object as text, checked; empty: none.
    pub metadata: Box<str>,
    pub ts: Timestamp,
    pub priority: Priority,
    /// After this it is not delivered any more.
    pub expires: Option<Timestamp>,
    /// Only connections of these platforms; empty: all.
    pub platforms: SmallVec<[Box<str>; 1]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Valid UTF-8.
    Text(Box<str>),
    Binary(Bytes),
}

impl Content {
    pub fn len(&self) -> usize {
        match self {
            Content::Text(text) => text.len(),
            Content::Binary(bytes) => bytes.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Priority {
    High,
    #[default]
    Normal,
    Low,
}
