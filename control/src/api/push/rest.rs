//! `POST /api/v1/push`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;
use tidegate_control_core::domain::{Content, Priority};
use tidegate_proto::v1::{PushResult, PushStatus};

use super::{Batch, Draft, Malformed, Named, Template, counts_online};
use crate::api::Api;
use crate::api::error::{ApiError, FieldProblem};
use crate::api::extract::{Backend, Fields, JsonBody};
use crate::config::LimitsConfig;
use crate::message::{KIND_DEFAULT, text_or_binary};

/// Answers 200 with one result per target if the request is well formed, whatever became of each target.
///
/// Errors: 400 with every problem, 413 for too much content, 415 for another body than JSON, 503 if nothing could be taken in.
pub async fn push(State(api): State<Arc<Api>>, _: Backend, JsonBody(body): JsonBody) -> Result<Response, ApiError> {
    let draft = draft(&body, &api.limits).map_err(ApiError::from)?;
    let mut batch = Batch::new(&api);
    batch.add(0, draft);
    let commands = std::mem::take(&mut batch.commands);
    // Refused as a whole: nothing was taken in, and the whole request may be sent again.
    let pending = api.dispatch.submit(commands)?;
    let answers = pending.within(api.patience()).await;
    let results = batch.results(answers, &api);
    Ok(Json(Answer { results: results.iter().map(JsonResult::from).collect() }).into_response())
}

impl From<Malformed> for ApiError {
    fn from(malformed: Malformed) -> Self {
        match malformed {
            Malformed::Problems(problems) => ApiError::problems(problems),
            Malformed::Refused(refusal) => refusal.into(),
        }
    }
}

#[derive(Serialize)]
struct Answer<'a> {
    results: Vec<JsonResult<'a>>,
}

#[derive(Serialize)]
struct JsonResult<'a> {
    to: &'a str,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duplicate: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    online: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<JsonError<'a>>,
}

#[derive(Serialize)]
struct JsonError<'a> {
    code: &'a str,
    message: &'a str,
    retry: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u32>,
}

impl<'a> From<&'a PushResult> for JsonResult<'a> {
    fn from(result: &'a PushResult) -> Self {
        let accepted = result.error.is_none();
        let status = match result.status() {
            PushStatus::Accepted => "accepted",
            PushStatus::Queued => "queued",
            PushStatus::Error | PushStatus::Unspecified => "error",
        };
        JsonResult {
            to: &result.to,
            status,
            message_id: accepted.then_some(&result.message_id),
            epoch: accepted.then_some(&result.epoch),
            seq: result.seq,
            duplicate: accepted.then_some(result.duplicate),
            online: (accepted && counts_online(&result.to)).then_some(result.online),
            error: result.error.as_ref().map(|error| JsonError {
                code: &error.code,
                message: &error.message,
                retry: error.retry,
                retry_after_ms: error.retry_after_ms,
            }),
        }
    }
}

/// Reads a body; everything that is wrong with it is found in one go.
pub fn draft(body: &Bytes, limits: &LimitsConfig) -> Result<Draft, Malformed> {
    let mut fields =
        Fields::parse(body).map_err(|error| Malformed::Problems(vec![FieldProblem::new("body", error.message())]))?;
    let named = targets(&mut fields, limits.targets_max);
    let message = message(&mut fields);
    let word = |word: &'static str, value| (word, value);
    let ack = fields.word("ack", &[("sequenced", Ack::Sequenced), ("durable", Ack::Durable), ("routed", Ack::Routed)]);
    if ack == Some(Ack::Routed) {
        fields.problem("ack", "`routed` does not exist yet");
    }
    let template = Template {
        ack_durable: ack == Some(Ack::Durable),
        from: fields.take("from", "a string").unwrap_or_default(),
        message_id: fields.take::<Box<str>>("message_id", "a string").filter(|key| !key.is_empty()),
        ephemeral: fields.word("class", &[word("durable", false), word("ephemeral", true)]).unwrap_or(false),
        priority: fields
            .word("priority", &[("high", Priority::High), ("normal", Priority::Normal), ("low", Priority::Low)])
            .unwrap_or_default(),
        ttl_s: fields.take("ttl_s", "a whole number of seconds").unwrap_or(0),
        platforms: fields.take::<Vec<Box<str>>>("platforms", "a list of strings").unwrap_or_default().into(),
        kind: message.kind,
        title: message.title,
        content: message.content,
        metadata: message.metadata,
    };
    fields.adopt(template.problems());
    let problems = fields.into_problems();
    if !problems.is_empty() {
        return Err(Malformed::Problems(problems));
    }
    template.check_size(named.count(), limits.content_bytes_max).map_err(Malformed::Refused)?;
    Ok(Draft { targets: named.into_targets(), message: template })
}

/// What the answer waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ack {
    Sequenced,
    Durable,
    Routed,
}

/// `to` is a list of streams, or an object that names targets in other ways.
fn targets(fields: &mut Fields<'_>, targets_max: usize) -> Named {
    let mut named = Named::default();
    let Some(raw) = fields.raw("to") else {
        fields.problem("to", "is needed");
        return named;
    };
    if raw.get().starts_with('[') {
        match serde_json::from_str(raw.get()) {
            Ok(streams) => named.streams = streams,
            Err(_) => {
                fields.problem("to", "must be a list of strings");
                return named;
            }
        }
    } else if let Some(mut inner) = Fields::inner(raw, "to.") {
        named.aliases = inner.take("alias", "a list of strings").unwrap_or_default();
        named.client_ids = inner.take("client_ids", "a list of strings").unwrap_or_default();
        named.all = inner.take("all", "true or false").unwrap_or(false);
        let problems = inner.into_problems();
        if !problems.is_empty() {
            fields.adopt(problems);
            return named;
        }
    } else {
        fields.problem("to", "must be a list of streams or an object");
        return named;
    }
    match named.count() {
        0 => fields.problem("to", "names nobody"),
        n if n > targets_max => fields.problem("to", format!("names {n} targets; at most {targets_max}")),
        _ => {}
    }
    named
}

struct Message {
    kind: Box<str>,
    title: Box<str>,
    content: Content,
    metadata: Box<str>,
}

fn message(fields: &mut Fields<'_>) -> Message {
    let mut message = Message {
        kind: KIND_DEFAULT.into(),
        title: Box::default(),
        content: Content::Text(Box::default()),
        metadata: Box::default(),
    };
    let Some(raw) = fields.raw("message") else {
        fields.problem("message", "is needed");
        return message;
    };
    let Some(mut inner) = Fields::inner(raw, "message.") else {
        fields.problem("message", "must be an object");
        return message;
    };
    if let Some(kind) = inner.take("type", "a string") {
        message.kind = kind;
    }
    message.title = inner.take("title", "a string").unwrap_or_default();
    message.metadata = inner.raw("metadata").map(RawValue::get).unwrap_or_default().into();
    let text: String = inner.take("content", "a string").unwrap_or_default();
    let binary = match inner.take::<String>("content_b64", "a string").map(|text| STANDARD.decode(text)) {
        None => Vec::new(),
        Some(Ok(binary)) => binary,
        Some(Err(_)) => {
            inner.problem("content_b64", "must be base64 (RFC 4648, 4) with padding");
            Vec::new()
        }
    };
    match text_or_binary(text, binary.into()) {
        Ok(content) => message.content = content,
        Err(_) => inner.problem("content_b64", "and `content` exclude each other"),
    }
    fields.adopt(inner.into_problems());
    message
}

#[cfg(test)]
mod tests;
