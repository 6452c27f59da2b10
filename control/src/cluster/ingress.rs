//! Pushes on their way into the upstream topic, and the results that come back for them.
//!
//! Invariants:
//! * Nothing is said to be durable before the bus has placed it.
//! * What was placed is answered with its seq, or after the caller's patience as `queued`; never as refused, unless its
//!   sequencer refused it.
//! * Waiters are bounded: each holds slots of [`super::spread`] until it is answered or forgotten.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tidegate_bus::port::{Outgoing, Placing, PublishError, Publisher};
use tidegate_bus::records::Format;
use tidegate_control_core::breaker::{Outcome, Permit};
use tidegate_control_core::domain::{ErrorCode, MessageId, PartitionId, Refusal};
use tidegate_control_core::partition::{Push, Reply, stream_of};
use tokio::sync::watch;

use super::forms::{self, ID, KEYED, REPLY_TO};
use super::ids::Ids;
use crate::guard::Guard;
use crate::runtime::{Answer, Gather, late};

/// A result is waited for at most so long; the caller has lost its patience long before.
const FORGET_AFTER: Duration = Duration::from_secs(60);
/// Low bits of a corr: the place within a submission.
const PLACE_BITS: u32 = 16;
const RETRY_AFTER_MS: u32 = 500;

/// Where messages of each partition are appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mapping {
    /// Rises when the topic grows.
    pub version: u64,
    /// Of the upstream topic.
    pub sources: u32,
    /// The topic is growing: nothing is appended until it has.
    pub draining: bool,
    /// Where each source of before the growth ended: what stands there below it is read before what stands elsewhere.
    pub barriers: Arc<[u64]>,
}

impl Mapping {
    pub fn source_of(&self, partition: PartitionId) -> u32 {
        partition.0 % self.sources.max(1)
    }

    /// Where a source ended for those partitions that moved away from it.
    pub fn barrier(&self, source: u32) -> Option<u64> {
        self.barriers.get(source as usize).copied()
    }

    /// Whether a message of this partition was rightly put there before the topic grew.
    pub fn comes_from(&self, partition: PartitionId, source: u32, offset: u64) -> bool {
        let before = self.barriers.len() as u32;
        before > 0 && partition.0 % before == source && self.barrier(source).is_some_and(|barrier| offset < barrier)
    }
}

pub(crate) struct Ingress {
    pub publisher: Arc<dyn Publisher>,
    pub topic: String,
    pub format: Format,
    pub partitions: u32,
    pub mapping: watch::Receiver<Mapping>,
    /// `node#incarnation`.
    pub reply_to: String,
    pub results: Arc<Results>,
    pub ids: Arc<Ids>,
    /// The bus refused or lost the last thing that was published.
    pub failing: Arc<std::sync::atomic::AtomicBool>,
    /// While it is open nothing is published: what would only wait for its time-out is refused at once.
    pub guard: Arc<Guard>,
}

/// Who waits for what the sequencers say.
pub(crate) struct Results {
    next: AtomicU64,
    waiting: Mutex<HashMap<u64, Waiting>>,
}

struct Waiting {
    gather: Arc<Gather>,
    /// Places in the gather, by place in the submission.
    places: Vec<usize>,
    left: usize,
    since: Instant,
}

impl Ingress {
    /// Appends pushes in their order. Each is answered at its place of the gather.
    pub async fn take(self: &Arc<Self>, gather: &Arc<Gather>, pushes: Vec<(usize, Box<Push>)>) {
        if pushes.is_empty() {
            return;
        }
        let mut mapping = self.mapping.clone();
        if mapping.borrow().draining && mapping.wait_for(|mapping| !mapping.draining).await.is_err() {
            gather.answer_all(pushes.into_iter().map(|(place, _)| (place, Err(unavailable()))));
            return;
        }
        self.append(gather, pushes);
    }

    /// As [`Ingress::take`], while the topic is not growing.
    pub fn append(self: &Arc<Self>, gather: &Arc<Gather>, pushes: Vec<(usize, Box<Push>)>) {
        let mapping = self.mapping.borrow().clone();
        // Who is content with a durable message hears nothing of its sequencer.
        let waiting = pushes.iter().filter(|(_, push)| !push.ack_durable).map(|(place, _)| *place).collect();
        let submission = self.results.wait(gather, waiting);
        let mut placings = Vec::with_capacity(pushes.len());
        let (mut at, now) = (0, wall_clock_ms());
        for (place, mut push) in pushes {
            let corr = (!push.ack_durable).then_some(submission << PLACE_BITS | at);
            at += u64::from(corr.is_some());
            // A caller's key is the message's name in the topic; without one it is named by us.
            if push.message_id.is_none() {
                push.id = self.ids.next();
            }
            if push.message_id.is_none() && push.id.is_none() && push.sender.is_none() {
                push.message_id = Some(format!("{}#{submission}#{place}", self.reply_to).into());
            }
            let taken = match self.guard.allow() {
                None => Err(unavailable()),
                Some(permit) => match self.publisher.publish(self.outgoing(&mapping, &push, corr, now)) {
                    Ok(placing) => Ok(Taken { place, id: push.id, corr, placing, permit }),
                    Err(error) => Err(self.refusal(&error)),
                },
            };
            match taken {
                Ok(taken) => placings.push(taken),
                Err(refusal) => self.refuse(gather, corr, place, refusal),
            }
        }
        let (ingress, gather) = (Arc::clone(self), Arc::clone(gather));
        tokio::spawn(async move { ingress.settle(&gather, placings).await });
    }

    /// Waits for the bus, and tells what is known then.
    async fn settle(&self, gather: &Gather, placings: Vec<Taken>) {
        for Taken { place, id, corr, placing, permit } in placings {
            let placed = placing.await;
            let away = placed.as_ref().is_err_and(PublishError::is_dependency);
            self.guard.record(permit, if away { Outcome::Failure } else { Outcome::Success });
            if let Err(error) = placed {
                self.refuse(gather, corr, place, self.refusal(&error));
                continue;
            }
            self.failing.store(false, Ordering::Relaxed);
            if corr.is_some() {
                gather.placed(place, id);
            } else {
                gather.answer(place, Ok(Reply::Queued { id }));
            }
        }
    }

    /// `corr`: of who waits for the sequencer's word.
    fn outgoing(&self, mapping: &Mapping, push: &Push, corr: Option<u64>, now: i64) -> Outgoing {
        let stream = stream_of(push);
        let partition = PartitionId::of(&stream, self.partitions);
        let mut headers = Vec::with_capacity(2);
        if let Some(corr) = corr {
            headers.push((REPLY_TO.into(), format!("{}#{corr}", self.reply_to).into()));
        }
        if let (Some(MessageId(id)), None) = (push.id, &push.message_id) {
            headers.push((ID.into(), id.to_string().into()));
        }
        if headers.is_empty() {
            headers.push((KEYED.into(), Bytes::new()));
        }
        Outgoing {
            topic: self.topic.clone().into(),
            partition: Some(mapping.source_of(partition) as i32),
            key: Some(Bytes::copy_from_slice(stream.as_str().as_bytes())),
            headers,
            value: forms::encode(push, now, self.format).into(),
        }
    }

    fn refuse(&self, gather: &Gather, corr: Option<u64>, place: usize, refusal: Refusal) {
        if let Some(corr) = corr {
            self.results.done(corr);
        }
        gather.answer(place, Err(refusal));
    }

    fn refusal(&self, error: &PublishError) -> Refusal {
        self.failing.store(true, Ordering::Relaxed);
        match error {
            PublishError::TimedOut => late(),
            PublishError::TooLarge { .. } => Refusal::new(ErrorCode::TooLarge, "the message is too large for the bus"),
            error => {
                tracing::debug!(%error, "a push was not appended");
                unavailable()
            }
        }
    }
}

struct Taken {
    place: usize,
    id: Option<MessageId>,
    corr: Option<u64>,
    placing: Placing,
    permit: Permit,
}

fn unavailable() -> Refusal {
    let mut refusal = Refusal::new(ErrorCode::Unavailable, "the message bus takes nothing now");
    refusal.retry_after_ms = Some(RETRY_AFTER_MS);
    refusal
}

impl Results {
    /// Returns the number of the submission. Nothing is kept where nobody waits.
    fn wait(&self, gather: &Arc<Gather>, places: Vec<usize>) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let left = places.len();
        if left == 0 {
            return number;
        }
        let waiting = Waiting { gather: Arc::clone(gather), places, left, since: Instant::now() };
        self.lock().insert(number, waiting);
        number
    }

    /// Submissions are numbered from somewhere else in each incarnation: what still comes for an earlier one is for nobody.
    pub fn of(incarnation: u64) -> Results {
        Results { next: AtomicU64::new(incarnation & (u64::MAX >> (PLACE_BITS + 1))), waiting: Mutex::default() }
    }

    /// A sequencer said what became of it. `false`: nobody waits for it any more.
    pub fn take(&self, corr: u64, answer: Answer) -> bool {
        self.done(corr).is_some_and(|(gather, place)| gather.answer(place, answer))
    }

    /// One place less to wait for.
    fn done(&self, corr: u64) -> Option<(Arc<Gather>, usize)> {
        let (number, at) = (corr >> PLACE_BITS, (corr & ((1 << PLACE_BITS) - 1)) as usize);
        let mut waiting = self.lock();
        let of = waiting.get_mut(&number)?;
        let place = *of.places.get(at)?;
        of.left = of.left.saturating_sub(1);
        let gather = Arc::clone(&of.gather);
        if of.left == 0 {
            waiting.remove(&number);
        }
        Some((gather, place))
    }

    /// Forgets who has waited too long. To be called now and then.
    pub fn sweep(&self) {
        self.lock().retain(|_, waiting| waiting.since.elapsed() < FORGET_AFTER);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Waiting>> {
        // Nothing panics half-way through a change.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn wall_clock_ms() -> i64 {
    UNIX_EPOCH
        .elapsed()
        .or_else(|_| SystemTime::now().duration_since(UNIX_EPOCH))
        .map_or(0, |since| since.as_millis() as i64)
}
