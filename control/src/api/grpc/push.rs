//! PushService. A push stream is served without a task or a wait per message: what has arrived is converted and handed over
//! together, and its results come back together.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{FutureExt as _, Stream, StreamExt as _, stream};
use tidegate_control_core::domain::{ErrorCode, Refusal};
use tidegate_proto::v1::push_service_server::PushService;
use tidegate_proto::v1::{
    AckMode, MessageClass, PushBatchRequest, PushBatchResponse, PushRequest, PushResponse, PushResult,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::api::Api;
use crate::api::error::{FieldProblem, sentence, status};
use crate::api::push::{Batch, Draft, Malformed, Named, Template};
use crate::config::LimitsConfig;
use crate::link::convert::priority_in;
use crate::message::{KIND_DEFAULT, text_or_binary};
use crate::runtime::Pending;

/// Requests of one PushBatch.
pub const BATCH_REQUESTS_MAX: usize = 10_000;
/// Requests of a push stream that are handed over together.
const CHUNK_REQUESTS_MAX: usize = 1_024;
/// About how many bytes of them.
const CHUNK_BYTES_MAX: usize = 256 << 10;
/// Bytes of one push stream that may be unanswered; past it we stop reading, and HTTP/2 holds the caller back.
const IN_FLIGHT_BYTES_MAX: usize = 8 << 20;
/// Chunks of one push stream that may be unanswered.
const IN_FLIGHT_CHUNKS_MAX: usize = 1_024;
/// What a request costs beside its content.
const REQUEST_BYTES: usize = 256;

const _: () = assert!(CHUNK_BYTES_MAX < IN_FLIGHT_BYTES_MAX);

pub struct PushApi(pub Arc<Api>);

#[tonic::async_trait]
impl PushService for PushApi {
    async fn push(&self, request: Request<PushRequest>) -> Result<Response<PushResponse>, Status> {
        self.0.access.backend_call(&request)?;
        let mut batch = Batch::new(&self.0);
        let (corr, draft) = draft(request.into_inner(), &self.0.limits);
        batch.add(corr, draft.map_err(|rejected| malformed(rejected.why))?);
        let results = self.answer(batch).await?;
        Ok(Response::new(PushResponse { results }))
    }

    async fn push_batch(&self, request: Request<PushBatchRequest>) -> Result<Response<PushBatchResponse>, Status> {
        self.0.access.backend_call(&request)?;
        let requests = request.into_inner().requests;
        if requests.len() > BATCH_REQUESTS_MAX {
            return Err(Status::invalid_argument(format!("at most {BATCH_REQUESTS_MAX} requests")));
        }
        let mut batch = Batch::new(&self.0);
        let counts: Vec<usize> = requests.into_iter().map(|request| add(&mut batch, request, &self.0.limits)).collect();
        let mut results = self.answer(batch).await?.into_iter();
        let responses = counts.into_iter().map(|n| PushResponse { results: results.by_ref().take(n).collect() });
        Ok(Response::new(PushBatchResponse { responses: responses.collect() }))
    }

    type PushStreamStream = Pin<Box<dyn Stream<Item = Result<PushResult, Status>> + Send>>;

    async fn push_stream(
        &self,
        request: Request<Streaming<PushRequest>>,
    ) -> Result<Response<Self::PushStreamStream>, Status> {
        self.0.access.backend_call(&request)?;
        let (chunks, in_flight) = mpsc::channel(IN_FLIGHT_CHUNKS_MAX);
        let reader = Reader {
            api: Arc::clone(&self.0),
            room: Arc::new(Semaphore::new(IN_FLIGHT_BYTES_MAX)),
            requests: request.into_inner(),
            chunks,
        };
        tokio::spawn(reader.run());
        let api = Arc::clone(&self.0);
        let results =
            ReceiverStream::new(in_flight).then(move |chunk| finish(Arc::clone(&api), chunk)).flat_map(stream::iter);
        Ok(Response::new(Box::pin(results)))
    }
}

impl PushApi {
    /// Results of a call that waits for all of them. An error: nothing was taken in.
    async fn answer(&self, mut batch: Batch) -> Result<Vec<PushResult>, Status> {
        let api = &self.0;
        let commands = std::mem::take(&mut batch.commands);
        let pending = api.dispatch.submit(commands).map_err(|refusal| status(&refusal))?;
        let answers = pending.within(api.patience()).await;
        Ok(batch.results(answers, api))
    }
}

/// Some pushes of a stream, from their submission to their results.
enum Chunk {
    Submitted {
        batch: Batch,
        pending: Result<Pending, Refusal>,
        /// Given back when the results are on their way.
        _room: Option<OwnedSemaphorePermit>,
    },
    /// The stream ends with this status.
    End(Status),
}

/// Results wait for the commit however long it takes: a stream has no deadline of its own, and order is kept.
async fn finish(api: Arc<Api>, chunk: Chunk) -> Vec<Result<PushResult, Status>> {
    match chunk {
        Chunk::End(status) => vec![Err(status)],
        Chunk::Submitted { batch, pending, _room } => {
            let answers = match pending {
                Ok(pending) => pending.for_stream(api.patience()).await,
                Err(refusal) => Err(refusal),
            };
            batch.results(answers, &api).into_iter().map(Ok).collect()
        }
    }
}

struct Reader {
    api: Arc<Api>,
    room: Arc<Semaphore>,
    requests: Streaming<PushRequest>,
    chunks: mpsc::Sender<Chunk>,
}

impl Reader {
    async fn run(mut self) {
        let mut stopping = self.api.stopping.clone();
        loop {
            let first = tokio::select! {
                first = self.requests.message() => first,
                _ = stopping.wait_for(|stopping| *stopping) => Err(Status::unavailable("the server is stopping")),
            };
            let more = match first {
                Ok(Some(request)) => self.chunk(request).await,
                Ok(None) => return,
                Err(status) => Err(Some(status)),
            };
            match more {
                Ok(()) => {}
                Err(Some(status)) => {
                    let _ = self.chunks.send(Chunk::End(status)).await;
                    return;
                }
                // The caller has gone.
                Err(None) => return,
            }
        }
    }

    /// Takes what has arrived and hands it over. `Err`: the stream ends, with a status if there is somebody to tell.
    async fn chunk(&mut self, first: PushRequest) -> Result<(), Option<Status>> {
        let limits = self.api.limits.clone();
        let mut batch = Batch::new(&self.api);
        let (mut requests, mut bytes) = (1, size(&first));
        add(&mut batch, first, &limits);
        let mut end = None;
        while requests < CHUNK_REQUESTS_MAX && bytes < CHUNK_BYTES_MAX {
            // What is not here yet belongs to the next chunk.
            match self.requests.message().now_or_never() {
                Some(Ok(Some(request))) => {
                    requests += 1;
                    bytes += size(&request);
                    add(&mut batch, request, &limits);
                }
                Some(Err(status)) => {
                    end = Some(status);
                    break;
                }
                Some(Ok(None)) | None => break,
            }
        }
        let cost = bytes.min(IN_FLIGHT_BYTES_MAX) as u32;
        let room = Arc::clone(&self.room).acquire_many_owned(cost).await.ok();
        let commands = std::mem::take(&mut batch.commands);
        let pending = self.api.dispatch.submit_with_patience(commands, self.api.patience()).await;
        let chunk = Chunk::Submitted { batch, pending, _room: room };
        self.chunks.send(chunk).await.map_err(|_| None)?;
        end.map_or(Ok(()), |status| Err(Some(status)))
    }
}

fn size(request: &PushRequest) -> usize {
    let message = request.message.as_ref();
    let content = message.map_or(0, |m| m.content.len() + m.content_bytes.len() + m.metadata.len());
    (REQUEST_BYTES + content) * request.to.len().max(1)
}

/// Adds one request to the batch and says how many results it will have.
fn add(batch: &mut Batch, request: PushRequest, limits: &LimitsConfig) -> usize {
    match draft(request, limits) {
        (corr, Ok(draft)) => {
            let count = draft.targets.len();
            batch.add(corr, draft);
            count
        }
        (corr, Err(rejected)) => {
            let refusal = match rejected.why {
                Malformed::Problems(problems) => Refusal::new(ErrorCode::BadRequest, sentence(&problems)),
                Malformed::Refused(refusal) => refusal,
            };
            let count = rejected.names.len().max(1);
            batch.add_refused(corr, rejected.names, &refusal);
            count
        }
    }
}

fn malformed(why: Malformed) -> Status {
    match why {
        Malformed::Problems(problems) => Status::invalid_argument(sentence(&problems)),
        Malformed::Refused(refusal) => status(&refusal),
    }
}

/// A request that is no draft, with the names that want a result all the same.
struct Rejected {
    names: Vec<String>,
    why: Malformed,
}

fn draft(request: PushRequest, limits: &LimitsConfig) -> (u64, Result<Draft, Rejected>) {
    let corr = request.corr;
    let mut problems = Vec::new();
    let mut say = |field: &str, problem: String| problems.push(FieldProblem::new(field, problem));
    let named = Named { streams: request.to, aliases: request.alias, client_ids: request.client_ids, all: request.all };
    match named.count() {
        0 => say("to", "names nobody".to_owned()),
        n if n > limits.targets_max => say("to", format!("names {n} targets; at most {}", limits.targets_max)),
        _ => {}
    }
    if request.message.is_none() {
        say("message", "is needed".to_owned());
    }
    let ephemeral = match MessageClass::try_from(request.class) {
        Ok(class) => class == MessageClass::Ephemeral,
        Err(_) => {
            say("class", "is not a known class".to_owned());
            false
        }
    };
    if !matches!(AckMode::try_from(request.ack), Ok(AckMode::Unspecified | AckMode::Durable)) {
        say("ack", "`routed` does not exist yet".to_owned());
    }
    let message = request.message.unwrap_or_default();
    let content = text_or_binary(message.content, message.content_bytes).unwrap_or_else(|problem| {
        say("message", problem);
        tidegate_control_core::domain::Content::Text(Box::default())
    });
    let kind = if message.r#type.is_empty() { KIND_DEFAULT.into() } else { message.r#type.into() };
    let template = Template {
        from: request.from.into(),
        kind,
        title: message.title.into(),
        content,
        metadata: message.metadata.into(),
        message_id: (!request.message_id.is_empty()).then(|| request.message_id.into()),
        ephemeral,
        priority: priority_in(request.priority),
        ttl_s: request.ttl_s,
        ack_durable: request.ack == AckMode::Durable as i32,
        platforms: request.platforms.into_iter().map(String::into_boxed_str).collect(),
    };
    problems.extend(template.problems());
    let why = if !problems.is_empty() {
        Malformed::Problems(problems)
    } else if let Err(refusal) = template.check_size(named.count(), limits.content_bytes_max) {
        Malformed::Refused(refusal)
    } else {
        return (corr, Ok(Draft { targets: named.into_targets(), message: template }));
    };
    (corr, Err(Rejected { names: named.into_names(), why }))
}
