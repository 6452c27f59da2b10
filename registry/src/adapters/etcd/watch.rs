//! A watch: a snapshot, then everything that came after its revision.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::proto::event::EventType;
use super::proto::watch_request::RequestUnion;
use super::proto::{Event, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse};
use super::{Etcd, end, entry, refusal, start};
use crate::error::RegistryError;
use crate::watch::WatchEvent;

/// A watch on which nothing changes says nothing, just as a dead connection does. So it is asked where it stands, and taken for
/// dead after this many questions without any answer.
const UNANSWERED_MAX: u32 = 3;
/// Creation, and questions of which at most [`UNANSWERED_MAX`] are under way.
const REQUESTS_MAX: usize = 8;

#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("it ended")]
    Ended,
    #[error("no answer to {UNANSWERED_MAX} questions, one each {0:?}")]
    Silent(Duration),
    #[error("etcd has compacted what follows the snapshot, up to revision {0}")]
    Compacted(i64),
    #[error("etcd ended it: {0}")]
    Cancelled(String),
}

pub(super) async fn follow(etcd: &Etcd, prefix: &str, events: &mpsc::Sender<WatchEvent>) -> Result<(), RegistryError> {
    let range_end = end(prefix);
    let (revision, entries) = etcd.range(prefix, range_end.clone()).await?;
    if events.send(WatchEvent::Snapshot(entries)).await.is_err() {
        return Ok(());
    }
    let create = WatchCreateRequest { key: start(prefix, &range_end), range_end, start_revision: revision + 1 };
    let (requests, receiver) = mpsc::channel(REQUESTS_MAX);
    let _ = requests.try_send(request(RequestUnion::CreateRequest(create)));
    let open = etcd.call(|connection| async move { connection.watch().watch(ReceiverStream::new(receiver)).await });
    let mut answers = open.await?.into_inner();
    let patience = etcd.line.timeout();
    let mut unanswered = 0;
    loop {
        let answer = tokio::select! {
            answer = timeout(patience, answers.message()) => answer,
            () = events.closed() => return Ok(()),
        };
        let Ok(answer) = answer else {
            if unanswered == UNANSWERED_MAX {
                return Err(RegistryError::unavailable(Broken::Silent(patience)));
            }
            unanswered += 1;
            let _ = requests.try_send(request(RequestUnion::ProgressRequest(WatchProgressRequest {})));
            continue;
        };
        unanswered = 0;
        for event in news(answer)? {
            if events.send(event).await.is_err() {
                return Ok(());
            }
        }
    }
}

fn request(union: RequestUnion) -> WatchRequest {
    WatchRequest { request_union: Some(union) }
}

fn news(answer: Result<Option<WatchResponse>, Status>) -> Result<Vec<WatchEvent>, RegistryError> {
    let answer = answer.map_err(refusal)?.ok_or_else(|| RegistryError::unavailable(Broken::Ended))?;
    if answer.compact_revision > 0 {
        return Err(RegistryError::unavailable(Broken::Compacted(answer.compact_revision)));
    }
    if answer.canceled {
        return Err(RegistryError::unavailable(Broken::Cancelled(answer.cancel_reason)));
    }
    Ok(answer.events.into_iter().filter_map(change).collect())
}

fn change(event: Event) -> Option<WatchEvent> {
    let kind = event.r#type();
    let entry = entry(event.kv?);
    Some(match kind {
        EventType::Put => WatchEvent::Put(entry),
        EventType::Delete => WatchEvent::Gone { key: entry.key },
    })
}
