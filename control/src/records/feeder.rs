//! Feeds an index in the background. Who hands something in never waits: a full queue loses its oldest, and counts it.
//!
//! One task writes one batch at a time, the same again while the index is away. What it was told last is what it may lose
//! at a crash: records and texts are no truth.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tidegate_control_core::breaker::{BreakerConfig, Outcome, Permit};
use tidegate_control_core::domain::{Append, Timestamp};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::batch::{Batch, MessageText};
use super::form::PushRecord;
use super::metrics::FeedMetrics;
use super::port::{IndexError, RecordIndex, Written};
use crate::api::auth::now_ms;
use crate::guard::Guard;

const MAINTAIN_EVERY: Duration = Duration::from_secs(3_600);
const PAUSE_MIN: Duration = Duration::from_millis(1);
/// After maintenance failed.
const MAINTAIN_AGAIN: Duration = Duration::from_secs(60);

/// The feeder asks one thing at a time, so each failure says enough.
pub const BREAKER: BreakerConfig = BreakerConfig {
    failure_percent: 0,
    requests_min: 1,
    window: Duration::from_secs(10),
    cool_down: Duration::from_millis(100),
    cool_down_max: Duration::from_secs(30),
    probes: 1,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeedOptions {
    /// Records and texts that may wait.
    pub queue_max: usize,
    /// Bytes that they may take.
    pub queue_bytes_max: usize,
    /// Written at once.
    pub batch_max: usize,
    /// How long the first of a batch waits for others.
    pub batch_wait: Duration,
}

impl Default for FeedOptions {
    fn default() -> FeedOptions {
        FeedOptions {
            queue_max: 50_000,
            queue_bytes_max: 64 << 20,
            batch_max: 1_000,
            batch_wait: Duration::from_millis(500),
        }
    }
}

/// Where records and texts are handed in, from any thread; cheap to clone.
#[derive(Clone, Debug)]
pub struct Feed(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    /// The queue has something, enough for a batch, or ends.
    news: Notify,
    options: FeedOptions,
    metrics: FeedMetrics,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Entry>,
    bytes: usize,
    /// Taken by the task and not written yet.
    in_hand: usize,
    closed: bool,
}

#[derive(Debug)]
enum Entry {
    Record(Box<PushRecord>),
    Text(MessageText),
}

impl Entry {
    fn size(&self) -> usize {
        match self {
            Entry::Record(record) => record.size(),
            Entry::Text(text) => text.size(),
        }
    }
}

impl Feed {
    pub fn record(&self, record: PushRecord) {
        self.0.add(Entry::Record(Box::new(record)));
    }

    pub fn text(&self, text: MessageText) {
        self.0.add(Entry::Text(text));
    }

    /// The text of a message, at each of its places; nothing of one that is sealed.
    pub fn message(&self, append: &Append) {
        for text in MessageText::of(append) {
            self.text(text);
        }
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        let queue = self.0.queue();
        queue.waiting.len() + queue.in_hand
    }

    /// Whoever can wait should, so that nothing is dropped.
    pub fn is_busy(&self) -> bool {
        let queue = self.0.queue();
        let options = &self.0.options;
        queue.waiting.len() > options.queue_max / 2 || queue.bytes > options.queue_bytes_max / 2
    }

    pub fn is_closed(&self) -> bool {
        self.0.queue().closed
    }

    pub fn metrics(&self) -> &FeedMetrics {
        &self.0.metrics
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, entry: Entry) {
        let mut queue = self.queue();
        if queue.closed {
            self.metrics.dropped.inc();
            return;
        }
        queue.bytes += entry.size();
        queue.waiting.push_back(entry);
        while queue.waiting.len() > self.options.queue_max || queue.bytes > self.options.queue_bytes_max {
            let Some(oldest) = queue.waiting.pop_front() else { break };
            queue.bytes -= oldest.size();
            self.metrics.dropped.inc();
        }
        let waiting = queue.waiting.len();
        self.metrics.waiting.set((waiting + queue.in_hand) as i64);
        drop(queue);
        // Between the two there is nothing for the task to do.
        if waiting == 1 || waiting >= self.options.batch_max {
            self.news.notify_one();
        }
    }

    /// Waits for a batch; `None`: closed and empty. May be given up at any moment.
    async fn next(&self) -> Option<Batch> {
        loop {
            {
                let queue = self.queue();
                match (queue.waiting.is_empty(), queue.closed) {
                    (false, _) => break,
                    (true, true) => return None,
                    (true, false) => {}
                }
            }
            self.news.notified().await;
        }
        let full = async {
            loop {
                {
                    let queue = self.queue();
                    if queue.waiting.len() >= self.options.batch_max || queue.closed {
                        return;
                    }
                }
                self.news.notified().await;
            }
        };
        let _not_full = tokio::time::timeout(self.options.batch_wait, full).await;
        Some(self.take())
    }

    fn take(&self) -> Batch {
        let mut queue = self.queue();
        let count = queue.waiting.len().min(self.options.batch_max);
        let mut batch = Batch::default();
        let taken: Vec<Entry> = queue.waiting.drain(..count).collect();
        for entry in taken {
            queue.bytes -= entry.size();
            match entry {
                Entry::Record(record) => batch.records.push(*record),
                Entry::Text(text) => batch.texts.push(text),
            }
        }
        queue.in_hand = count;
        batch
    }

    fn holds(&self, in_hand: usize) {
        let mut queue = self.queue();
        queue.in_hand = in_hand;
        self.metrics.waiting.set((queue.waiting.len() + in_hand) as i64);
    }

    /// Waits, or until the end is near.
    async fn rest(&self, pause: Duration) {
        let end = Instant::now() + pause;
        while !self.queue().closed {
            if tokio::time::timeout_at(end, self.news.notified()).await.is_err() {
                return;
            }
        }
        // What is left to do is tried at once, then at a pace that the end can wait for.
        tokio::time::sleep_until(end.min(Instant::now() + Duration::from_millis(50))).await;
    }
}

/// The task that feeds. Dropped, it goes on until the last [`Feed`] and it are forgotten with their runtime.
#[derive(Debug)]
pub struct Feeding {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Feeding {
    /// Begins to feed, on this runtime.
    pub fn start(
        index: Arc<dyn RecordIndex>,
        options: FeedOptions,
        guard: Arc<Guard>,
        metrics: FeedMetrics,
    ) -> (Feed, Feeding) {
        let shared = Arc::new(Shared { queue: Mutex::default(), news: Notify::new(), options, metrics });
        let feeder = Feeder { shared: Arc::clone(&shared), index, guard, told: Told::default() };
        let feeding = Feeding { shared: Arc::clone(&shared), task: tokio::spawn(feeder.run()) };
        (Feed(shared), feeding)
    }

    /// Takes nothing more, and writes what waits, as far as it can be done within this time. The rest counts as dropped.
    pub async fn stop(mut self, within: Duration) {
        self.shared.queue().closed = true;
        self.shared.news.notify_one();
        if tokio::time::timeout(within, &mut self.task).await.is_err() {
            self.task.abort();
            let _ = (&mut self.task).await;
            let mut queue = self.shared.queue();
            let left = queue.waiting.len() + queue.in_hand;
            queue.waiting.clear();
            self.shared.metrics.dropped.inc_by(left as u64);
            self.shared.metrics.waiting.set(0);
            tracing::warn!(left, "push records were left out: their index did not take them in time");
        }
    }
}

struct Feeder {
    shared: Arc<Shared>,
    index: Arc<dyn RecordIndex>,
    guard: Arc<Guard>,
    told: Told,
}

/// What stands in the log already, so that it says each thing once.
#[derive(Debug, Default)]
struct Told {
    away: bool,
    refusing: bool,
    unmaintained: bool,
}

impl Feeder {
    async fn run(mut self) {
        let mut maintain_at = Instant::now();
        loop {
            let shared = Arc::clone(&self.shared);
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(maintain_at) => maintain_at = Instant::now() + self.maintain().await,
                batch = shared.next() => match batch {
                    Some(batch) => self.write(batch).await,
                    None => return,
                },
            }
        }
    }

    /// Writes a batch, however often that must be tried.
    async fn write(&mut self, mut batch: Batch) {
        while !batch.is_empty() {
            self.shared.holds(batch.len());
            let permit = self.permit().await;
            let written = self.index.write(&batch, Timestamp(now_ms())).await;
            let away = match &written {
                Ok(written) => !written.again.is_empty(),
                Err(error) => matches!(error, IndexError::Unavailable(_)),
            };
            if let Some(permit) = permit {
                self.guard.record(permit, if away { Outcome::Failure } else { Outcome::Success });
            }
            batch = self.judge(batch, written);
        }
        self.shared.holds(0);
    }

    /// Once the index may be asked; `None`: it is tried all the same, since the end is near.
    async fn permit(&self) -> Option<Permit> {
        loop {
            if let Some(permit) = self.guard.allow() {
                return Some(permit);
            }
            self.shared.rest(self.guard.pause().max(PAUSE_MIN)).await;
            if self.shared.queue().closed {
                return None;
            }
        }
    }

    /// What is left of a batch.
    fn judge(&mut self, batch: Batch, written: Result<Written, IndexError>) -> Batch {
        let metrics = &self.shared.metrics;
        let written = match written {
            Ok(written) => written,
            Err(error @ IndexError::Unavailable(_)) => {
                metrics.failures.inc();
                if !std::mem::replace(&mut self.told.away, true) {
                    tracing::warn!(%error, "push records wait");
                }
                return batch;
            }
            Err(error @ IndexError::Failed(_)) => {
                // It is there, and says no: the next batch may be a better one.
                let reason = error.to_string().into();
                let refused = super::Refused { name: "a whole batch".into(), reason };
                metrics.refused.inc_by(batch.len() as u64);
                self.refused(&[refused]);
                return Batch::default();
            }
        };
        let done = batch.len().saturating_sub(written.again.len() + written.refused.len());
        metrics.written.inc_by(done as u64);
        metrics.changed.inc_by(written.changed as u64);
        metrics.refused.inc_by(written.refused.len() as u64);
        if !written.again.is_empty() {
            metrics.failures.inc();
        }
        self.refused(&written.refused);
        if std::mem::take(&mut self.told.away) {
            tracing::info!("push records are taken again");
        }
        written.again
    }

    fn refused(&mut self, refused: &[super::Refused]) {
        let was = std::mem::replace(&mut self.told.refusing, !refused.is_empty());
        if let (Some(first), false) = (refused.first(), was) {
            let (name, reason) = (&first.name, &first.reason);
            tracing::warn!(%name, %reason, count = refused.len(), "push records are refused by their index");
        }
    }

    /// Says when to come back.
    async fn maintain(&mut self) -> Duration {
        let done = self.index.maintain(Timestamp(now_ms())).await;
        match done {
            Ok(()) => {
                self.told.unmaintained = false;
                MAINTAIN_EVERY
            }
            Err(error) => {
                if !std::mem::replace(&mut self.told.unmaintained, true) {
                    tracing::warn!(%error, "the index of push records is not maintained");
                }
                MAINTAIN_AGAIN
            }
        }
    }
}
