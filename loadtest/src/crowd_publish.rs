//! Publishers: an open-loop schedule through `PushStream`, with a ledger of what was answered, and one-at-a-time unary pushes
//! for their latency.
//!
//! Every message has its own idempotency key and carries its intended send time, so that a retry after a broken connection
//! is the same message, and a late send counts as latency (no coordinated omission).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use hdrhistogram::Histogram;
use tidegate_proto::v1::push_service_client::PushServiceClient;
use tidegate_proto::v1::{PushMessage, PushRequest, PushResult, PushStatus};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::crowd_judge::{Answered, Ledger};

/// Requests on their way to the server within the client process.
const CHANNEL_MAX: usize = 4096;
/// Pause between attempts to reach the server again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// Every so many messages one is kept as a sample.
const SAMPLE_EVERY: u64 = 101;
const SAMPLES_MAX: usize = 1_000;
/// How long a publisher waits for the last answers.
const LAST_ANSWERS: Duration = Duration::from_secs(30);

#[derive(Clone, Debug)]
pub struct Plan {
    /// `http://host:port` of the gRPC listener.
    pub grpc: String,
    /// Messages per second; `None`: as fast as `in_flight_max` allows.
    pub rate: Option<f64>,
    pub messages: u64,
    /// Set from outside: nothing new is published, what is unanswered is waited for.
    pub stop: Arc<AtomicBool>,
    /// Streams, taken in turn.
    pub targets: Vec<String>,
    pub payload_bytes: usize,
    /// Makes the idempotency keys of this run unique.
    pub key_prefix: String,
    pub in_flight_max: usize,
    /// Where the content's clock begins.
    pub origin: Instant,
}

#[derive(Debug)]
pub struct Outcome {
    pub sent: u64,
    pub answered: u64,
    pub duplicates: u64,
    pub retried: u64,
    pub reconnects: u64,
    pub refused: BTreeMap<String, u64>,
    /// Still unanswered when the publisher gave up.
    pub unanswered: u64,
    pub seconds: f64,
    /// Push → answer, in microseconds.
    pub latency_us: Histogram<u64>,
    /// Some answered requests, to be sent again later: they must get their old place.
    pub samples: Vec<(PushRequest, Answered)>,
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

/// A histogram of microseconds up to ten minutes with three digits.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 3).unwrap_or_else(|_| Histogram::new(3).expect("three digits are valid"))
}

/// The content of a message: its intended time in µs since `origin`, padded to the wanted size.
pub fn content(intended_us: u64, bytes: usize) -> String {
    let mut text = format!("t{intended_us};");
    while text.len() < bytes {
        text.push('x');
    }
    text
}

/// The intended time of a message made by [`content`].
pub fn intended_us(content: &str) -> Option<u64> {
    content.strip_prefix('t')?.split_once(';')?.0.parse().ok()
}

struct Pending {
    request: PushRequest,
    since: Instant,
}

struct Publisher {
    plan: Plan,
    ledger: Arc<Mutex<Ledger>>,
    pending: HashMap<u64, Pending>,
    next: u64,
    outcome: Outcome,
    started: Instant,
}

/// Publishes the whole plan; broken connections are made again and what was unanswered is sent again.
pub async fn publish(plan: Plan, ledger: Arc<Mutex<Ledger>>) -> Outcome {
    let outcome = Outcome {
        sent: 0,
        answered: 0,
        duplicates: 0,
        retried: 0,
        reconnects: 0,
        refused: BTreeMap::new(),
        unanswered: 0,
        seconds: 0.0,
        latency_us: histogram(),
        samples: Vec::new(),
    };
    let mut publisher = Publisher { plan, ledger, pending: HashMap::new(), next: 0, outcome, started: Instant::now() };
    let mut last_progress = (0, Instant::now());
    loop {
        let done = publisher.attempt().await;
        if matches!(done, Ok(true)) {
            break;
        }
        if publisher.outcome.answered != last_progress.0 {
            last_progress = (publisher.outcome.answered, Instant::now());
        } else if last_progress.1.elapsed() > LAST_ANSWERS {
            break;
        }
        publisher.outcome.reconnects += 1;
        tokio::time::sleep(RECONNECT_PAUSE).await;
    }
    publisher.outcome.unanswered = publisher.pending.len() as u64;
    publisher.outcome.seconds = publisher.started.elapsed().as_secs_f64();
    publisher.outcome
}

impl Publisher {
    /// One connection's worth. `true`: everything was sent and answered.
    async fn attempt(&mut self) -> Result<bool, PublishError> {
        let mut client = PushServiceClient::<Channel>::connect(self.plan.grpc.clone()).await?;
        let (requests, queue) = mpsc::channel(CHANNEL_MAX);
        let again: Vec<PushRequest> = self.pending.values().map(|p| p.request.clone()).collect();
        self.outcome.retried += again.len() as u64;
        let feeder = tokio::spawn({
            let requests = requests.clone();
            async move {
                for request in again {
                    if requests.send(request).await.is_err() {
                        return;
                    }
                }
            }
        });
        let answers = client.push_stream(ReceiverStream::new(queue)).await?.into_inner();
        let done = self.exchange(requests, answers).await;
        feeder.abort();
        done
    }

    async fn exchange(
        &mut self,
        requests: mpsc::Sender<PushRequest>,
        mut answers: tonic::Streaming<PushResult>,
    ) -> Result<bool, PublishError> {
        let mut deadline = None;
        loop {
            let exhausted = self.next >= self.plan.messages || self.plan.stop.load(Ordering::Relaxed);
            if exhausted && self.pending.is_empty() {
                return Ok(true);
            }
            if exhausted && deadline.is_none() {
                deadline = Some(tokio::time::Instant::now() + LAST_ANSWERS);
            }
            let due = self.due();
            let may_send = !exhausted && self.pending.len() < self.plan.in_flight_max;
            tokio::select! {
                biased;
                answer = answers.message() => match answer? {
                    Some(answer) => self.answered(answer),
                    None => return Ok(false),
                },
                permit = send_at(&requests, due), if may_send => match permit {
                    Some(permit) => permit.send(self.make()),
                    None => return Ok(false),
                },
                () = tokio::time::sleep_until(deadline.unwrap_or_else(far)), if deadline.is_some() => return Ok(true),
            }
        }
    }

    /// When the next message is to be sent.
    fn due(&self) -> Instant {
        match self.plan.rate {
            Some(rate) => self.started + Duration::from_secs_f64(self.next as f64 / rate),
            None => Instant::now(),
        }
    }

    fn make(&mut self) -> PushRequest {
        let corr = self.next;
        let intended = self.due().saturating_duration_since(self.plan.origin).as_micros() as u64;
        self.next += 1;
        let target = &self.plan.targets[(corr % self.plan.targets.len() as u64) as usize];
        let request = PushRequest {
            to: vec![target.clone()],
            message: Some(PushMessage {
                r#type: "text".into(),
                content: content(intended, self.plan.payload_bytes),
                ..PushMessage::default()
            }),
            message_id: format!("{}-{corr}", self.plan.key_prefix),
            corr,
            ..PushRequest::default()
        };
        self.outcome.sent += 1;
        self.pending.insert(corr, Pending { request: request.clone(), since: Instant::now() });
        request
    }

    fn answered(&mut self, answer: PushResult) {
        if answer.status() == PushStatus::Error {
            let error = answer.error.unwrap_or_default();
            *self.outcome.refused.entry(error.code).or_default() += 1;
            // A retriable refusal stored nothing; the schedule is open-loop, so it is not sent again.
            self.pending.remove(&answer.corr);
            return;
        }
        let Some(pending) = self.pending.remove(&answer.corr) else { return };
        self.outcome.answered += 1;
        self.outcome.duplicates += u64::from(answer.duplicate);
        let _ = self.outcome.latency_us.record(pending.since.elapsed().as_micros() as u64);
        let answered = Answered {
            stream: answer.to,
            epoch: answer.epoch,
            seq: answer.seq.unwrap_or(0),
            id: answer.message_id.parse().unwrap_or(0),
        };
        if answer.corr.is_multiple_of(SAMPLE_EVERY) && self.outcome.samples.len() < SAMPLES_MAX {
            self.outcome.samples.push((pending.request, answered.clone()));
        }
        self.ledger.lock().expect("no holder panics").record(&answered);
    }
}

async fn send_at(requests: &mpsc::Sender<PushRequest>, due: Instant) -> Option<mpsc::Permit<'_, PushRequest>> {
    if due > Instant::now() {
        tokio::time::sleep_until(due.into()).await;
    }
    requests.reserve().await.ok()
}

fn far() -> tokio::time::Instant {
    tokio::time::Instant::now() + Duration::from_secs(86_400)
}

/// `count` unary pushes one after the other; their latencies in µs.
pub async fn unary(grpc: &str, target: &str, count: u64, payload_bytes: usize) -> Result<Histogram<u64>, PublishError> {
    let mut client = PushServiceClient::<Channel>::connect(grpc.to_owned()).await?;
    let mut latency = histogram();
    for number in 0..count {
        let message =
            PushMessage { r#type: "text".into(), content: content(number, payload_bytes), ..PushMessage::default() };
        let request = PushRequest { to: vec![target.to_owned()], message: Some(message), ..PushRequest::default() };
        let since = Instant::now();
        client.push(request).await?;
        let _ = latency.record(since.elapsed().as_micros() as u64);
    }
    Ok(latency)
}

/// Sends each sample again with its key; returns those that did not get their old place, as text.
pub async fn send_again(grpc: &str, samples: &[(PushRequest, Answered)]) -> Result<Vec<String>, PublishError> {
    let mut client = PushServiceClient::<Channel>::connect(grpc.to_owned()).await?;
    let mut wrong = Vec::new();
    for (request, before) in samples {
        let results = client.push(request.clone()).await?.into_inner().results;
        let same = results.first().is_some_and(|now| {
            now.duplicate
                && now.seq == Some(before.seq)
                && now.epoch == before.epoch
                && now.message_id == before.id.to_string()
        });
        if !same {
            wrong.push(format!("{} was {before:?}, now {results:?}", request.message_id));
        }
    }
    Ok(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_carries_its_intended_time() {
        let text = content(1_234_567, 128);
        assert_eq!(text.len(), 128);
        assert_eq!(intended_us(&text), Some(1_234_567));
        assert_eq!(intended_us("hello"), None);
        assert_eq!(intended_us(&content(u64::MAX, 0)), Some(u64::MAX));
    }
}
