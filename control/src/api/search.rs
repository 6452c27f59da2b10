//! Search in messages: the index finds where, the store says what. So a message that was trimmed, recalled or has expired is
//! not shown, whatever the index still knows.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tidegate_control_core::domain::{ErrorCode, Seq, StreamKey, Uid};
use tidegate_control_core::partition::{Command, Reply, limits};
use tidegate_control_core::ports::{Head, PageLimit, StoreError, StoreReader, Stored};

use super::Api;
use super::auth::{Caller, now_ms};
use super::error::ApiError;
use super::extract::{Params, name};
use super::groups::GROUPS_MAX;
use super::json::Message;
use super::records::{bad_cursor, words};
use super::streams::unexpected;
use crate::records::{Hit, Readable, Scope, TextPosition, TextQuery};

/// Messages of one answer, if the caller does not say.
const LIMIT_DEFAULT: usize = 20;
const ONE: PageLimit = PageLimit { messages: 1, bytes: limits::PULL_BYTES_MAX };

const _: () = assert!(GROUPS_MAX < limits::HEADS_MAX && GROUPS_MAX < crate::records::SCOPE_STREAMS_MAX);

/// `GET /api/v1/search?q=&stream=&limit=&cursor=`, newest first. Without `stream`: the user's inbox, which holds their
/// one-to-one messages, and the groups that they are a member of. `next` is the cursor of the page that follows.
pub async fn search(State(api): State<Arc<Api>>, caller: Caller, params: Params) -> Result<Response, ApiError> {
    let index = api.index()?;
    let Some(q) = params.text("q") else { return Err(ApiError::problem("q", "is needed")) };
    let words = words(q)?;
    let after = params.text("cursor").map(TextPosition::decode).transpose().map_err(bad_cursor)?;
    let limit = params.number("limit")?.unwrap_or(LIMIT_DEFAULT).max(1);
    let stream: Option<StreamKey> = params.text("stream").map(|stream| name("stream", stream)).transpose()?;
    let heads = readable(&api, caller.uid(), stream.clone()).await?;
    let parts = heads
        .iter()
        .map(|(stream, head)| (stream.clone(), Readable { epoch: head.epoch, first: head.first, head: head.head }));
    let query = TextQuery { words, scope: Scope::new(parts), after, limit };
    let page = index.search(&query).await?;
    let found = api.look_up(move |reader| messages(reader, &page.hits).map(|found| (found, page.next))).await?;
    let (found, next) = found;
    let listed: Vec<Message<'_>> = found.iter().map(|(stream, stored)| Message::new(stream, stored)).collect();
    let mut body = json!({ "messages": listed });
    if let Some(next) = next {
        body["next"] = next.encode().into();
    }
    if let (Some(_), [(_, head)]) = (&stream, heads.as_slice()) {
        // What follows the head is all that a reader who pages forward has still to come.
        body["head"] = head.head.0.into();
        body["next_after"] = head.head.0.into();
    }
    Ok(Json(body).into_response())
}

/// Where the streams begin and end for this caller; the partition decides, as for every reader.
async fn readable(api: &Api, uid: Option<Uid>, stream: Option<StreamKey>) -> Result<Vec<(StreamKey, Head)>, ApiError> {
    let one = stream.is_some();
    let streams = match (stream, &uid) {
        (Some(stream), _) => vec![stream],
        (None, None) => return Err(ApiError::problem("stream", "or `uid` is needed beside a service token")),
        (None, Some(uid)) => {
            let user = uid.clone();
            let groups = api.look_up(move |reader| reader.groups_of(&user, GROUPS_MAX)).await?;
            std::iter::once(uid.stream()).chain(groups.iter().map(|gid| gid.stream())).collect()
        }
    };
    let heads = match api.dispatch.ask(Command::Heads { uid, streams }, api.patience()).await? {
        Reply::Heads(heads) => heads,
        other => return Err(unexpected(&other)),
    };
    let mut readable = Vec::with_capacity(heads.len());
    for (stream, head) in heads {
        match head {
            Ok(head) => readable.push((stream, head)),
            // A group that was left a moment ago is none of theirs any more.
            Err(refusal) if one || refusal.code != ErrorCode::Forbidden && refusal.code != ErrorCode::NotFound => {
                return Err(refusal.into());
            }
            Err(_) => {}
        }
    }
    Ok(readable)
}

/// What the store still has of what was found.
fn messages(reader: &dyn StoreReader, hits: &[Hit]) -> Result<Vec<(StreamKey, Stored)>, StoreError> {
    let now = now_ms();
    let mut found = Vec::with_capacity(hits.len());
    for hit in hits {
        let page = reader.page(&hit.stream, Seq(hit.seq.0.saturating_sub(1)), ONE)?;
        let message = page.messages.into_iter().next().filter(|stored| stored.seq == hit.seq);
        // The same seq of another epoch is another message.
        let message = message.filter(|stored| stored.body.id == hit.id);
        let message = message.filter(|stored| stored.body.expires.is_none_or(|expires| expires.0 > now));
        found.extend(message.map(|stored| (hit.stream.clone(), stored)));
    }
    Ok(found)
}
