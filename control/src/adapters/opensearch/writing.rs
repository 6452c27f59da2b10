//! A batch: documents are created, and those that are there are merged and written back under a condition.

use reqwest::{Method, StatusCode};
use serde::Serialize;
use serde_json::{Value, json};

use super::OpenSearchRecords;
use super::documents::{RecordDocument, TextDocument, bad};
use super::http::{Body, error_kind};
use super::indices::Family;
use crate::records::{Folded, IndexError, MessageText, PushRecord, Refused, Written};

/// Bytes of one `_bulk`, unless one document is larger.
const BULK_BYTES_MAX: usize = 4 << 20;
/// Records read at once, to be merged.
const MERGE_MAX: usize = 200;
/// How often a record is merged that others write at the same time.
const ROUNDS_MAX: usize = 4;

/// One action of a `_bulk`.
struct Action {
    index: String,
    id: String,
    lines: Vec<u8>,
}

enum Outcome {
    Done,
    /// It is there already, or was written meanwhile.
    Conflict,
    Again,
    Refused(Refused),
}

/// Under which condition a document is written.
enum Condition {
    IsNew,
    /// Nobody wrote it since (`_seq_no`, `_primary_term`).
    IsStill(u64, u64),
}

impl Action {
    fn new(index: String, id: String, condition: &Condition, document: &impl Serialize) -> Action {
        let head = match condition {
            Condition::IsNew => json!({"create": {"_index": index, "_id": id}}),
            Condition::IsStill(seq_no, term) => {
                json!({"index": {"_index": index, "_id": id, "if_seq_no": seq_no, "if_primary_term": term}})
            }
        };
        let mut lines = head.to_string().into_bytes();
        lines.push(b'\n');
        serde_json::to_writer(&mut lines, document).expect("a document is plain");
        lines.push(b'\n');
        Action { index, id, lines }
    }
}

impl OpenSearchRecords {
    pub(super) async fn write_folded(&self, folded: Folded) -> Result<Written, IndexError> {
        self.ready().await?;
        let mut written = Written { refused: folded.refused, ..Written::default() };
        self.write_records(folded.records.into_values().collect(), &mut written).await?;
        self.write_texts(folded.texts.into_values().collect(), &mut written).await?;
        Ok(written)
    }

    async fn write_texts(&self, texts: Vec<MessageText>, written: &mut Written) -> Result<(), IndexError> {
        let action = |text: &MessageText| {
            let place = &text.place;
            let id = format!("{}@{}@{}", place.stream, place.epoch, place.seq);
            let index = self.names.index(Family::Texts, text.ts());
            Action::new(index, id, &Condition::IsNew, &TextDocument::from(text))
        };
        let outcomes = self.bulk(texts.iter().map(action).collect()).await?;
        for (text, outcome) in texts.into_iter().zip(outcomes) {
            match outcome {
                Outcome::Done => written.changed += 1,
                // A message's text does not change.
                Outcome::Conflict => {}
                Outcome::Again => written.again.texts.push(text),
                Outcome::Refused(refused) => written.refused.push(refused),
            }
        }
        Ok(())
    }

    async fn write_records(&self, records: Vec<PushRecord>, written: &mut Written) -> Result<(), IndexError> {
        let create = |record: PushRecord| (record, Condition::IsNew);
        let mut next: Vec<(PushRecord, Condition)> = records.into_iter().map(create).collect();
        for round in 0..=ROUNDS_MAX {
            let actions = next.iter().map(|(record, condition)| self.record_action(record, condition)).collect();
            let outcomes = self.bulk(actions).await?;
            let mut there = Vec::new();
            for ((record, _), outcome) in next.into_iter().zip(outcomes) {
                match outcome {
                    Outcome::Done => written.changed += 1,
                    Outcome::Conflict => there.push(record),
                    Outcome::Again => written.again.records.push(record),
                    Outcome::Refused(refused) => written.refused.push(refused),
                }
            }
            if there.is_empty() {
                break;
            }
            if round == ROUNDS_MAX {
                written.again.records.append(&mut there);
                break;
            }
            next = self.merge(there).await?;
        }
        Ok(())
    }

    fn record_action(&self, record: &PushRecord, condition: &Condition) -> Action {
        let index = self.names.index(Family::Records, record.ts());
        Action::new(index, record_name(record), condition, &RecordDocument::from(record))
    }

    /// What is left to write of records that are there: those that know something new, merged.
    async fn merge(&self, records: Vec<PushRecord>) -> Result<Vec<(PushRecord, Condition)>, IndexError> {
        let mut next = Vec::new();
        for some in records.chunks(MERGE_MAX) {
            let name = |record: &PushRecord| json!({"_index": self.names.index(Family::Records, record.ts()), "_id": record_name(record)});
            let body = json!({"docs": some.iter().map(name).collect::<Vec<_>>()});
            let mut answer = self.http.ask(Method::POST, "/_mget", Body::Json(&body)).await?.ok()?;
            let Value::Array(found) = answer["docs"].take() else { return Err(bad("an answer to _mget")) };
            if found.len() != some.len() {
                return Err(bad("an answer to _mget"));
            }
            for (record, mut found) in some.iter().cloned().zip(found) {
                if found["found"] != true {
                    next.push((record, Condition::IsNew));
                    continue;
                }
                let (Some(seq_no), Some(term)) = (found["_seq_no"].as_u64(), found["_primary_term"].as_u64()) else {
                    return Err(bad("an answer to _mget"));
                };
                let known: RecordDocument =
                    serde_json::from_value(found["_source"].take()).map_err(|_| bad("a document"))?;
                let known = known.into_record()?;
                let mut merged = known.clone();
                merged.merge(record);
                if merged != known {
                    next.push((merged, Condition::IsStill(seq_no, term)));
                }
            }
        }
        Ok(next)
    }

    /// One outcome for each action, in order.
    async fn bulk(&self, actions: Vec<Action>) -> Result<Vec<Outcome>, IndexError> {
        let mut outcomes = Vec::with_capacity(actions.len());
        let mut rest = actions.as_slice();
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = rest.iter().take_while(|action| {
                bytes += action.lines.len();
                bytes <= BULK_BYTES_MAX
            });
            let (now, later) = rest.split_at(fits.count().max(1));
            rest = later;
            let lines = now.iter().flat_map(|action| action.lines.iter().copied()).collect();
            let path = "/_bulk?filter_path=items.*.status,items.*.error.type";
            let answer = self.http.ask(Method::POST, path, Body::Lines(lines)).await?;
            if answer.status == StatusCode::PAYLOAD_TOO_LARGE {
                outcomes.extend(now.iter().map(|action| refused(action, "too large for the server")));
                continue;
            }
            let answer = answer.ok()?;
            let items = answer["items"].as_array().map(Vec::as_slice).unwrap_or_default();
            if items.len() != now.len() {
                return Err(bad("an answer to _bulk"));
            }
            outcomes.extend(now.iter().zip(items).map(|(action, item)| outcome(action, item)));
        }
        Ok(outcomes)
    }
}

/// Names a record within its index. A target has no `@` before the first one of an id, which has none.
fn record_name(record: &PushRecord) -> String {
    format!("{}@{}", record.id, record.to)
}

fn outcome(action: &Action, item: &Value) -> Outcome {
    let result = item.get("create").or_else(|| item.get("index")).unwrap_or(&Value::Null);
    match result["status"].as_u64() {
        Some(200..=299) => Outcome::Done,
        Some(409) => Outcome::Conflict,
        Some(429 | 500..=599) | None => Outcome::Again,
        // An index that may not be written for a while, or that is closed, is the operator's to mend.
        Some(403) => Outcome::Again,
        Some(_) => refused(action, &error_kind(result)),
    }
}

fn refused(action: &Action, reason: &str) -> Outcome {
    let name = format!("{} in {}", action.id, action.index);
    Outcome::Refused(Refused { name: name.into(), reason: reason.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_item_of_a_bulk_is_judged_alone() {
        let action = Action::new("i".to_owned(), "7@u:ann".to_owned(), &Condition::IsNew, &json!({}));
        let of = |status: u64| outcome(&action, &json!({"create": {"status": status, "error": {"type": "some_kind"}}}));
        assert!(matches!(of(201), Outcome::Done));
        assert!(matches!(of(409), Outcome::Conflict));
        assert!(matches!(of(429), Outcome::Again));
        assert!(matches!(of(503), Outcome::Again));
        assert!(matches!(outcome(&action, &json!({})), Outcome::Again));
        let Outcome::Refused(refused) = of(400) else { panic!("refused") };
        assert_eq!((&*refused.name, &*refused.reason), ("7@u:ann in i", "some_kind"));
    }
}
