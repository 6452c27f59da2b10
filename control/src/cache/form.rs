//! Messages as the hot list and the short queue hold them: the log's record of one message, with its place in that stream and,
//! for an inbox entry, the place in its conversation.

use std::sync::Arc;

use smallvec::smallvec;
use tidegate_control_core::domain::{Append, Body, Place, Record, StreamKey};
use tidegate_control_core::ports::Stored;
use tidegate_control_core::ports::cache::Entry;

use crate::adapters::embedded::codec;

/// `conversation`: the first place of a message that stands here as an inbox entry.
pub fn encode(body: &Arc<Body>, place: &Place, conversation: Option<&Place>) -> Entry {
    let places = match conversation {
        Some(first) => smallvec![first.clone(), place.clone()],
        None => smallvec![place.clone()],
    };
    let record = Record::Append(Append { body: Arc::clone(body), places, dedup: None, membership: None });
    let mut bytes = Vec::new();
    codec::encode(&record, &mut bytes);
    Entry { seq: place.seq, bytes: bytes.into() }
}

/// `None`: it is not a message of this stream at this place, so somebody else wrote it, or another version.
pub fn decode(stream: &StreamKey, entry: &Entry) -> Option<Stored> {
    let Ok(Record::Append(append)) = codec::decode(&entry.bytes) else { return None };
    let own = append.places.last()?;
    if own.stream != *stream || own.seq != entry.seq {
        return None;
    }
    let first = append.places.first()?;
    let conversation = (first.stream != *stream).then(|| (first.stream.clone(), first.seq));
    Some(Stored { seq: entry.seq, body: append.body, conversation })
}
