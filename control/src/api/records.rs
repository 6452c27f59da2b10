//! What became of pushes, for backends.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tidegate_control_core::domain::{ErrorCode, Timestamp};

use super::Api;
use super::error::ApiError;
use super::extract::{Backend, Params, name};
use crate::message::{KEY_BYTES_MAX, check_line};
use crate::records::{Change, Feed, IndexError, PushRecord, RecordIndex, RecordPosition, RecordQuery, Text, Words};

/// Records of one answer, if the caller does not say.
const LIMIT_DEFAULT: usize = 50;
/// Longest `q`.
const QUERY_BYTES_MAX: usize = 1_024;

/// Where records are kept, and the way there.
#[derive(Clone)]
pub struct Records {
    pub index: Arc<dyn RecordIndex>,
    pub feed: Feed,
}

impl Api {
    pub(super) fn index(&self) -> Result<&dyn RecordIndex, ApiError> {
        let missing = || ApiError::new(ErrorCode::Unimplemented, "this node keeps no records");
        self.records.as_ref().map(|records| records.index.as_ref()).ok_or_else(missing)
    }
}

impl From<IndexError> for ApiError {
    /// The reason is for the log.
    fn from(error: IndexError) -> Self {
        tracing::error!(%error, "records cannot be read");
        match error {
            IndexError::Unavailable(_) => ApiError::new(ErrorCode::Unavailable, "the index cannot answer now"),
            IndexError::Failed(_) => ApiError::new(ErrorCode::Internal, "the index"),
        }
    }
}

/// `GET /api/v1/records?uid=&message_id=&q=&stream=&from=&to=&limit=&cursor=`, newest first; times in ms, `from <= ts < to`.
/// `next` is the cursor of the page that follows, absent at the end.
pub async fn list(State(api): State<Arc<Api>>, _: Backend, params: Params) -> Result<Response, ApiError> {
    let index = api.index()?;
    let query = RecordQuery {
        uid: params.text("uid").map(|uid| name("uid", uid)).transpose()?,
        message_id: params.text("message_id").map(key).transpose()?,
        stream: params.text("stream").map(|stream| name("stream", stream)).transpose()?,
        words: params.text("q").map(words).transpose()?,
        from: params.number("from")?.map(Timestamp),
        to: params.number("to")?.map(Timestamp),
        after: params.text("cursor").map(RecordPosition::decode).transpose().map_err(bad_cursor)?,
        limit: params.number("limit")?.unwrap_or(LIMIT_DEFAULT).max(1),
    };
    let page = index.records(&query).await?;
    let next = page.next.as_ref().map(RecordPosition::encode);
    let records = page.records.iter().map(RecordBody::from).collect();
    Ok(Json(Answer { records, next }).into_response())
}

fn key(text: &str) -> Result<Box<str>, ApiError> {
    check_line(text, KEY_BYTES_MAX).map_err(|problem| ApiError::problem("message_id", problem))?;
    Ok(text.into())
}

/// The words of `q`.
pub(super) fn words(text: &str) -> Result<Words, ApiError> {
    if text.len() > QUERY_BYTES_MAX {
        return Err(ApiError::problem("q", format!("has more than {QUERY_BYTES_MAX} bytes")));
    }
    Words::of_query(text).map_err(|problem| ApiError::problem("q", problem.to_string()))
}

pub(super) fn bad_cursor(problem: crate::records::BadCursor) -> ApiError {
    ApiError::problem("cursor", problem.to_string())
}

#[derive(Serialize)]
struct Answer<'a> {
    records: Vec<RecordBody<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

#[derive(Serialize)]
struct RecordBody<'a> {
    /// A message's id, or that of an attempt that was refused.
    message_id: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    key: &'a str,
    to: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    from: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    uids: Vec<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    r#type: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    text: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    sealed: bool,
    ts: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status_ts: Option<i64>,
    changes: &'a [Change],
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    online: Option<u32>,
    delivered: u64,
    ephemeral: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    traceparent: &'a str,
}

impl<'a> From<&'a PushRecord> for RecordBody<'a> {
    fn from(record: &'a PushRecord) -> Self {
        RecordBody {
            message_id: record.id.to_string(),
            key: &record.key,
            to: &record.to,
            from: &record.from,
            uids: record.uids.iter().map(|uid| uid.as_str()).collect(),
            r#type: &record.kind,
            text: record.text.as_str(),
            sealed: record.text == Text::Sealed,
            ts: record.ts().0,
            status: record.status().map(|status| status.as_str()),
            status_ts: record.status_at().map(|at| at.0),
            changes: &record.changes,
            epoch: record.place.map(|(epoch, _)| epoch.to_string()),
            seq: record.place.map(|(_, seq)| seq.0),
            online: record.online,
            delivered: record.delivered(),
            ephemeral: record.ephemeral,
            traceparent: &record.traceparent,
        }
    }
}
