//! History and read cursors of streams.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tidegate_control_core::domain::{ErrorCode, Seq, StreamKey};
use tidegate_control_core::partition::{Command, Reply};

use super::Api;
use super::auth::Caller;
use super::error::ApiError;
use super::extract::{Fields, JsonBody, Names, Params, name};
use crate::link::convert::{epoch, page_limit};

/// `GET /api/v1/streams/{stream}/messages?after=&limit=&epoch=&since_ts=`; `last_seq_id` is the same as `after`.
pub async fn messages(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Names(stream): Names<String>,
    params: Params,
) -> Result<Response, ApiError> {
    let stream: StreamKey = name("stream", &stream)?;
    let after = match params.number("after")? {
        Some(after) => Some(after),
        None => params.number("last_seq_id")?,
    };
    let command = Command::Pull {
        uid: caller.uid(),
        stream,
        epoch: params.text("epoch").and_then(epoch),
        after: Seq(after.unwrap_or(0)),
        since_ts: params.number("since_ts")?,
        limit: page_limit(params.number("limit")?.unwrap_or(0)),
    };
    match api.dispatch.ask(command, api.patience()).await? {
        Reply::Page { stream, page, head } => Ok(Json(super::json::History::new(&stream, &page, head)).into_response()),
        other => Err(unexpected(&other)),
    }
}

/// `POST /api/v1/streams/{stream}/read` with `{"seq":N,"epoch"?}` moves the caller's read cursor.
pub async fn read(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Names(stream): Names<String>,
    JsonBody(body): JsonBody,
) -> Result<Response, ApiError> {
    let stream: StreamKey = name("stream", &stream)?;
    let Some(uid) = caller.uid() else {
        return Err(ApiError::problem("uid", "says whose cursor it is: give `?uid=` beside a service token"));
    };
    let mut fields = Fields::parse(&body)?;
    let seq: Option<u64> = fields.take("seq", "a whole number");
    let named: Option<String> = fields.take("epoch", "a string");
    let Some(seq) = seq else {
        fields.problem("seq", "is needed");
        return Err(ApiError::problems(fields.into_problems()));
    };
    fields.finish()?;
    let command = Command::Read { uid, stream, epoch: named.as_deref().and_then(epoch), seq: Seq(seq) };
    api.dispatch.ask(command, api.patience()).await?;
    Ok(Json(json!({})).into_response())
}

/// A reply of another kind than the command's: our own mistake.
pub fn unexpected(reply: &Reply) -> ApiError {
    tracing::error!(?reply, "a reply of another kind than its command");
    ApiError::new(ErrorCode::Internal, "unexpected reply")
}
