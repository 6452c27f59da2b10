//! Where a page ended, as text that callers hand back unread.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tidegate_control_core::domain::{Seq, StreamKey, Timestamp};

use super::form::{FIELD_BYTES_MAX, PushRecord, RecordId};
use super::port::Hit;

/// Longest cursor that is looked at.
const CURSOR_BYTES_MAX: usize = 1_024;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not a cursor of this call")]
pub struct BadCursor;

/// Records come newest first; those of one moment by id and target, the greatest first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RecordPosition {
    pub ts: Timestamp,
    pub id: String,
    pub to: Box<str>,
}

impl RecordPosition {
    pub fn of(record: &PushRecord) -> RecordPosition {
        RecordPosition { ts: record.ts(), id: record.id.to_string(), to: record.to.clone() }
    }

    pub fn encode(&self) -> String {
        encode(&[&self.id, &self.to])
    }

    pub fn decode(text: &str) -> Result<RecordPosition, BadCursor> {
        let [id, to] = decode(text)?;
        let known: RecordId = id.parse().map_err(|_| BadCursor)?;
        if to.len() > FIELD_BYTES_MAX {
            return Err(BadCursor);
        }
        Ok(RecordPosition { ts: known.ts(), id, to: to.into() })
    }
}

/// Messages come newest first; those of one moment by stream and seq, the greatest first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TextPosition {
    pub ts: Timestamp,
    pub stream: StreamKey,
    pub seq: Seq,
}

impl TextPosition {
    pub fn of(hit: &Hit) -> TextPosition {
        TextPosition { ts: hit.ts, stream: hit.stream.clone(), seq: hit.seq }
    }

    pub fn encode(&self) -> String {
        encode(&[&self.ts.0.to_string(), self.stream.as_str(), &self.seq.to_string()])
    }

    pub fn decode(text: &str) -> Result<TextPosition, BadCursor> {
        let [ts, stream, seq] = decode(text)?;
        let seq = Seq(seq.parse().map_err(|_| BadCursor)?);
        if seq > Seq::MAX {
            return Err(BadCursor);
        }
        let ts = Timestamp(ts.parse().map_err(|_| BadCursor)?);
        Ok(TextPosition { ts, stream: stream.parse().map_err(|_| BadCursor)?, seq })
    }
}

/// None of the parts has a control character in it.
fn encode(parts: &[&str]) -> String {
    URL_SAFE_NO_PAD.encode(parts.join("\n"))
}

fn decode<const N: usize>(text: &str) -> Result<[String; N], BadCursor> {
    if text.len() > CURSOR_BYTES_MAX {
        return Err(BadCursor);
    }
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| BadCursor)?;
    let text = String::from_utf8(bytes).map_err(|_| BadCursor)?;
    let parts: Vec<String> = text.split('\n').map(str::to_owned).collect();
    if parts.iter().any(|part| part.contains(char::is_control)) {
        return Err(BadCursor);
    }
    parts.try_into().map_err(|_| BadCursor)
}

#[cfg(test)]
mod tests {
    use tidegate_control_core::domain::MessageId;

    use super::*;

    #[test]
    fn a_cursor_comes_back_as_it_went() {
        let record = PushRecord::new(RecordId::Message(MessageId(7_212 << 22 | 5)), "g:go");
        let position = RecordPosition::of(&record);
        assert_eq!(RecordPosition::decode(&position.encode()), Ok(position));
        let position = TextPosition { ts: Timestamp(5), stream: "g:go".parse().expect("a stream"), seq: Seq(3) };
        assert_eq!(TextPosition::decode(&position.encode()), Ok(position));
    }

    #[test]
    fn what_is_no_cursor_is_told() {
        let long = "A".repeat(CURSOR_BYTES_MAX + 1);
        let others = encode(&["5", "g:go", "3"]);
        for bad in ["", "!", "AAAA", &long, &others, &encode(&["+1", "g:go"]), &encode(&["1", "a\0b"])] {
            assert_eq!(RecordPosition::decode(bad), Err(BadCursor), "{bad}");
        }
        for bad in [&encode(&["1", "g:go"]), &encode(&["1", "x", "3"]), &encode(&["1", "g:go", "-3"])] {
            assert_eq!(TextPosition::decode(bad), Err(BadCursor), "{bad}");
        }
    }
}
