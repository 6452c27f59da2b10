//! Publishers: every load of a run, on one thread of their own, by an open-loop schedule.
//!
//! Every message has an idempotency key and carries its stamp, so that a message that is sent again after a broken
//! connection is the same message, and a late one counts as latency (no coordinated omission).

mod calls;
mod members;
mod outbox;
mod requests;
mod rest;
mod stream;
mod tally;
mod turn;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use hdrhistogram::Histogram;
use tidegate_proto::v1::push_service_client::PushServiceClient;
use tidegate_proto::v1::{PushMessage, PushRequest, PushResult, PushStatus};
use tokio::sync::mpsc;
use tonic::transport::Channel;

use crate::clock::Clock;
use crate::judge::Ledger;
use crate::latency::histogram;
use crate::node::Addrs;
use crate::payload::{Filling, TYPE};
use crate::population::Population;
use crate::scenario::Via;
use crate::schedule::Schedule;
use outbox::Outbox;
use turn::Turn;

/// Name of the publishers' thread, as `/proc` shows it.
pub const THREAD_NAME: &str = "publishers";
/// How long a publisher waits for servers that answer nothing, unless told otherwise.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Parts of a load that may wait to begin.
const PARTS_MAX: usize = 256;

/// One load.
#[derive(Clone, Debug)]
pub struct LoadPlan {
    pub schedule: Schedule,
    pub via: Via,
    pub payload_bytes: usize,
    pub filling: Filling,
    /// Most unanswered messages.
    pub in_flight: usize,
    /// Without an answer for so long it gives up.
    pub patience: Duration,
}

/// Where messages are handed over. Of several places one is used until a connection to it is lost; then the next.
#[derive(Clone, Debug, Default)]
pub struct Endpoints {
    /// `http://host:port` of the gRPC listeners of control nodes.
    pub grpc: Vec<String>,
    /// `http://host:port` of their REST listeners.
    pub api: Vec<String>,
    /// Client listeners of gateways, for messages that clients send. Plain.
    pub clients: Vec<SocketAddr>,
}

impl Endpoints {
    /// Those of one node.
    pub fn of(addrs: &Addrs) -> Endpoints {
        let api = format!("http://{}", addrs.http);
        Endpoints { grpc: vec![addrs.grpc_url()], api: vec![api], clients: vec![addrs.client] }
    }
}

/// What one load came to.
#[derive(Clone, Debug)]
pub struct LoadOutcome {
    /// Handed over to a connection, each message once.
    pub sent: u64,
    pub answered: u64,
    pub repeats: Repeats,
    /// Answers with an error, by code.
    pub refused: BTreeMap<String, u64>,
    /// Still unanswered when the publisher gave up.
    pub unanswered: u64,
    pub wrong: Wrong,
    /// Push → answer, in µs.
    pub answer_us: Histogram<u64>,
    /// Intended → handed over, in µs, as far as it was not the server that made messages wait.
    pub lag_us: Histogram<u64>,
    pub phases: Vec<PhaseOutcome>,
    /// Some answered messages, to be sent again later: they must get their old place.
    pub samples: Vec<Sample>,
}

/// Messages whose first answer did not come.
#[derive(Clone, Copy, Debug, Default)]
pub struct Repeats {
    /// Sent again with their key.
    pub sent: u64,
    /// Answers that said `duplicate`: the message had been stored before its connection broke.
    pub duplicates: u64,
    /// Connections that broke.
    pub reconnects: u64,
}

/// What was wrong with answers: all counted, the first ones with their words.
#[derive(Clone, Debug, Default)]
pub struct Wrong {
    pub count: u64,
    pub texts: Vec<String>,
}

/// One phase that has ended, or was interrupted. Times are µs of the run's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct PhaseOutcome {
    pub phase: usize,
    pub from_us: u64,
    pub to_us: u64,
    pub sent: u64,
    pub answered: u64,
    /// When the last of them was answered.
    pub answered_us: u64,
}

/// A request and its answer.
#[derive(Clone, Debug)]
pub struct Sample {
    pub request: PushRequest,
    pub answer: PushResult,
}

/// Counters of a running load.
#[derive(Debug, Default)]
pub struct LoadProgress {
    pub sent: AtomicU64,
    pub answered: AtomicU64,
    pub refused: AtomicU64,
    /// Answered messages × their audiences.
    pub expected: AtomicU64,
    /// The present phase.
    pub phase: AtomicUsize,
    /// Parts that have ended.
    pub ended: AtomicU32,
}

/// What all loads of a run have together.
#[derive(Debug)]
struct Shared {
    population: Arc<Population>,
    clock: Clock,
    ledger: Mutex<Ledger>,
    stop: AtomicBool,
    progress: Vec<LoadProgress>,
}

/// Some phases of a load that are to be published now.
#[derive(Clone, Debug)]
struct Part {
    phases: Range<usize>,
    at_us: u64,
}

/// The running publishers.
#[derive(Debug)]
pub struct Publishers {
    shared: Arc<Shared>,
    parts: Vec<mpsc::Sender<Part>>,
    thread: JoinHandle<Vec<LoadOutcome>>,
}

/// Reads the counters of running publishers, also after they have ended.
#[derive(Clone, Debug)]
pub struct Meter(Arc<Shared>);

/// What was published in a run.
#[derive(Debug)]
pub struct Published {
    pub ledger: Ledger,
    pub loads: Vec<LoadOutcome>,
}

#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error("the target address is not usable")]
    Address(#[from] tonic::transport::Error),
    #[error("the call failed: {0}")]
    Status(Box<tonic::Status>),
}

impl From<tonic::Status> for PublishError {
    fn from(status: tonic::Status) -> Self {
        PublishError::Status(Box::new(status))
    }
}

impl Publishers {
    /// Begins nothing yet. The keys of messages begin with the population's run name.
    pub fn start(
        plans: Vec<LoadPlan>,
        endpoints: Endpoints,
        population: Arc<Population>,
        clock: Clock,
    ) -> io::Result<Publishers> {
        let shared = Arc::new(Shared {
            population,
            clock,
            ledger: Mutex::default(),
            stop: AtomicBool::new(false),
            progress: plans.iter().map(|_| LoadProgress::default()).collect(),
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut parts = Vec::new();
        let mut loads = Vec::new();
        for (index, plan) in plans.into_iter().enumerate() {
            let (sender, receiver) = mpsc::channel(PARTS_MAX);
            parts.push(sender);
            loads.push((Outbox::new(plan, index, Arc::clone(&shared)), receiver));
        }
        let thread = std::thread::Builder::new()
            .name(THREAD_NAME.to_owned())
            .spawn(move || runtime.block_on(publish_all(loads, endpoints)))?;
        Ok(Publishers { shared, parts, thread })
    }

    /// Publishes some phases of a load, the first message at `at_us`; parts of one load follow each other.
    pub fn begin(&self, load: usize, phases: Range<usize>, at_us: u64) {
        // More parts than fit cannot be waiting: whoever begins one waits for the end of another.
        let begun = self.parts[load].try_send(Part { phases, at_us });
        debug_assert!(begun.is_ok(), "{begun:?}");
    }

    pub fn progress(&self, load: usize) -> &LoadProgress {
        &self.shared.progress[load]
    }

    pub fn meter(&self) -> Meter {
        Meter(Arc::clone(&self.shared))
    }

    /// Nothing new is published, what is unanswered is waited for.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }

    /// Waits for every part that was begun.
    pub fn finish(self) -> Published {
        drop(self.parts);
        let loads = self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let ledger = std::mem::take(&mut *self.shared.ledger.lock().expect("no holder panics"));
        Published { ledger, loads }
    }
}

impl Meter {
    pub fn answered(&self) -> u64 {
        self.0.progress.iter().map(|load| load.answered.load(Ordering::Relaxed)).sum()
    }

    /// Deliveries that the answers so far promise.
    pub fn expected(&self) -> u64 {
        self.0.progress.iter().map(|load| load.expected.load(Ordering::Relaxed)).sum()
    }
}

impl Default for LoadOutcome {
    fn default() -> Self {
        LoadOutcome {
            sent: 0,
            answered: 0,
            repeats: Repeats::default(),
            refused: BTreeMap::new(),
            unanswered: 0,
            wrong: Wrong::default(),
            answer_us: histogram(),
            lag_us: histogram(),
            phases: Vec::new(),
            samples: Vec::new(),
        }
    }
}

async fn publish_all(loads: Vec<(Outbox, mpsc::Receiver<Part>)>, endpoints: Endpoints) -> Vec<LoadOutcome> {
    let tasks: Vec<_> =
        loads.into_iter().map(|(outbox, parts)| tokio::spawn(publish_load(outbox, parts, endpoints.clone()))).collect();
    let mut outcomes = Vec::new();
    for task in tasks {
        outcomes.push(task.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())));
    }
    outcomes
}

async fn publish_load(outbox: Outbox, mut parts: mpsc::Receiver<Part>, endpoints: Endpoints) -> LoadOutcome {
    let (via, load) = (outbox.via(), outbox.load());
    let outbox = Arc::new(Mutex::new(outbox));
    while let Some(part) = parts.recv().await {
        outbox.lock().expect("no holder panics").begin(part.phases, part.at_us);
        match via {
            Via::Stream => stream::publish(&outbox, &Turn::new(endpoints.grpc.clone(), load)).await,
            Via::Unary => calls::publish(&outbox, Turn::each(&endpoints.grpc, load, calls::Caller::unary)).await,
            Via::Rest => calls::publish(&outbox, Turn::each(&endpoints.api, load, calls::Caller::rest)).await,
            Via::Clients => members::publish(&outbox, &Turn::new(endpoints.clients.clone(), load)).await,
        }
        outbox.lock().expect("no holder panics").end();
    }
    let mut outbox = outbox.lock().expect("no holder panics");
    outbox.outcome()
}

/// Pushes each key to `to` through all nodes at once, again until every node has accepted it. Per key the nodes' results.
pub async fn at_once(grpc: &[String], to: &str, keys: &[String]) -> Result<Vec<Vec<PushResult>>, PublishError> {
    let mut clients = Vec::new();
    for address in grpc {
        clients.push(PushServiceClient::<Channel>::connect(address.clone()).await?);
    }
    let mut all = Vec::new();
    for key in keys {
        let message = PushMessage { r#type: TYPE.to_owned(), content: key.clone(), ..PushMessage::default() };
        let request = PushRequest {
            to: vec![to.to_owned()],
            message: Some(message),
            message_id: key.clone(),
            ..PushRequest::default()
        };
        let calls: Vec<_> =
            clients.iter().map(|client| tokio::spawn(until_accepted(client.clone(), request.clone()))).collect();
        let mut results = Vec::new();
        for call in calls {
            results.push(call.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?);
        }
        all.push(results);
    }
    Ok(all)
}

async fn until_accepted(
    mut client: PushServiceClient<Channel>,
    request: PushRequest,
) -> Result<PushResult, PublishError> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let result = client.push(request.clone()).await?.into_inner().results.pop().unwrap_or_default();
        if result.status() == PushStatus::Accepted || tokio::time::Instant::now() > deadline {
            return Ok(result);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Sends each sample again with its key; returns those that did not get their old place, as text.
pub async fn send_again(grpc: &str, samples: &[Sample]) -> Result<Vec<String>, PublishError> {
    let mut client = PushServiceClient::<Channel>::connect(grpc.to_owned()).await?;
    let mut wrong = Vec::new();
    for Sample { request, answer: before } in samples {
        let results = client.push(request.clone()).await?.into_inner().results;
        let same = results.first().is_some_and(|now| {
            now.duplicate && now.seq == before.seq && now.epoch == before.epoch && now.message_id == before.message_id
        });
        if !same {
            wrong.push(format!("{} was {before:?}, now {results:?}", request.message_id));
        }
    }
    Ok(wrong)
}
