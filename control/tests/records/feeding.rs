//! The feeder, before an index that does as it is told.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tidegate_control::records::{
    Batch, FeedMetrics, FeedOptions, Feeding, IndexError, RecordIndex, RecordPage, RecordQuery, Refused, TextPage,
    TextQuery, Written,
};
use tidegate_control_core::domain::Timestamp;
use tokio::sync::Semaphore;

use crate::kit::{DEADLINE, breaker, id, pushed, text, until};

/// What the next writes answer; after that all is written.
enum Answer {
    Unavailable,
    Failed,
    /// The first so many come again, the next so many are refused.
    Partly(usize, usize),
}

struct Told {
    answers: Mutex<VecDeque<Answer>>,
    /// What it took, in order.
    taken: Mutex<Vec<String>>,
    /// Writes wait for one of these each.
    turns: Semaphore,
}

impl Told {
    fn new(turns: usize, answers: impl IntoIterator<Item = Answer>) -> Arc<Told> {
        let answers = Mutex::new(answers.into_iter().collect());
        Arc::new(Told { answers, taken: Mutex::default(), turns: Semaphore::new(turns) })
    }

    fn taken(&self) -> Vec<String> {
        self.taken.lock().expect("no panic").clone()
    }

    fn answer(&self, batch: &Batch) -> Result<Written, IndexError> {
        let mut records = batch.records.clone();
        let mut written = Written::default();
        match self.answers.lock().expect("no panic").pop_front() {
            Some(Answer::Unavailable) => return Err(IndexError::Unavailable("told so".into())),
            Some(Answer::Failed) => return Err(IndexError::Failed("told so".into())),
            Some(Answer::Partly(again, refused)) => {
                written.again.records = records.drain(..again).collect();
                let refuse = |_| Refused { name: "a record".into(), reason: "told so".into() };
                written.refused = records.drain(..refused).map(refuse).collect();
            }
            None => {}
        }
        written.changed = records.len() + batch.texts.len();
        let mut taken = self.taken.lock().expect("no panic");
        taken.extend(records.iter().map(|record| record.text.as_str().to_owned()));
        taken.extend(batch.texts.iter().map(|text| text.text.to_string()));
        Ok(written)
    }
}

impl RecordIndex for Told {
    fn write<'a>(&'a self, batch: &'a Batch, _: Timestamp) -> BoxFuture<'a, Result<Written, IndexError>> {
        async move {
            self.turns.acquire().await.expect("never closed").forget();
            self.answer(batch)
        }
        .boxed()
    }

    fn records<'a>(&'a self, _: &'a RecordQuery) -> BoxFuture<'a, Result<RecordPage, IndexError>> {
        async { Ok(RecordPage::default()) }.boxed()
    }

    fn search<'a>(&'a self, _: &'a TextQuery) -> BoxFuture<'a, Result<TextPage, IndexError>> {
        async { Ok(TextPage::default()) }.boxed()
    }

    fn maintain(&self, _: Timestamp) -> BoxFuture<'_, Result<(), IndexError>> {
        async { Err(IndexError::Unavailable("told so".into())) }.boxed()
    }
}

fn options(queue_max: usize, batch_max: usize) -> FeedOptions {
    FeedOptions { queue_max, batch_max, batch_wait: Duration::from_millis(1), ..FeedOptions::default() }
}

fn names(range: std::ops::Range<u64>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

#[tokio::test]
async fn what_is_handed_in_arrives_in_order() {
    let index = Told::new(1_000, []);
    let (feed, feeding) = Feeding::start(index.clone(), options(1_000, 7), breaker(), FeedMetrics::default());
    for n in 0..50 {
        feed.record(pushed(id(n), "u:ann", &n.to_string()));
    }
    feed.text(text(id(50), "u:ann", 1, "50"));
    feeding.stop(DEADLINE).await;
    assert_eq!(index.taken(), names(0..51));
    assert_eq!((feed.waiting(), feed.metrics().written.get(), feed.metrics().dropped.get()), (0, 51, 0));
    feed.record(pushed(id(60), "u:ann", "late"));
    assert_eq!((feed.waiting(), feed.metrics().dropped.get()), (0, 1), "after its end it takes nothing");
}

#[tokio::test]
async fn a_full_queue_loses_its_oldest_and_counts_them() {
    let index = Told::new(0, []);
    let (feed, feeding) = Feeding::start(index.clone(), options(10, 5), breaker(), FeedMetrics::default());
    for n in 0..5 {
        feed.record(pushed(id(n), "u:ann", &n.to_string()));
    }
    // Five are in hand, and the index does not answer.
    until("the task has taken them", async || {
        index.turns.available_permits() == 0 && feed.metrics().waiting.get() == 5
    })
    .await;
    for n in 5..40 {
        feed.record(pushed(id(n), "u:ann", &n.to_string()));
        assert!(feed.waiting() <= 15);
    }
    index.turns.add_permits(1_000);
    feeding.stop(DEADLINE).await;
    let taken = index.taken();
    assert!(taken.ends_with(&names(30..40)), "{taken:?}");
    assert_eq!(taken.len() as u64 + feed.metrics().dropped.get(), 40);
}

#[tokio::test]
async fn bytes_are_bounded_too() {
    let index = Told::new(0, []);
    let bounded = FeedOptions { queue_bytes_max: 100_000, ..options(1_000_000, 1) };
    let (feed, feeding) = Feeding::start(index.clone(), bounded, breaker(), FeedMetrics::default());
    for n in 0..1_000 {
        feed.text(text(id(n), "u:ann", n, &"x".repeat(1_000)));
    }
    assert!(feed.waiting() <= 101, "{}", feed.waiting());
    feed.text(text(id(1), "u:ann", 1, &"x".repeat(200_000)));
    assert!(feed.waiting() <= 1, "what is larger than all room goes itself");
    index.turns.add_permits(1_000);
    feeding.stop(DEADLINE).await;
}

#[tokio::test]
async fn a_batch_is_tried_until_it_is_written() {
    let answers =
        [Answer::Unavailable, Answer::Unavailable, Answer::Partly(3, 2), Answer::Unavailable, Answer::Partly(1, 0)];
    let index = Told::new(1_000, answers);
    let (feed, feeding) = Feeding::start(index.clone(), options(100, 10), breaker(), FeedMetrics::default());
    for n in 0..10 {
        feed.record(pushed(id(n), "u:ann", &n.to_string()));
    }
    until("all is written", async || feed.waiting() == 0).await;
    feeding.stop(DEADLINE).await;
    let mut taken = index.taken();
    taken.sort_by_key(|name| name.parse::<u64>().expect("a number"));
    let metrics = feed.metrics();
    assert_eq!((taken.len() as u64, metrics.written.get()), (8, 8));
    assert_eq!((metrics.refused.get(), metrics.dropped.get(), metrics.failures.get()), (2, 0, 5));
}

#[tokio::test]
async fn a_batch_that_can_never_be_written_does_not_stop_the_next() {
    let index = Told::new(1_000, [Answer::Failed]);
    let (feed, feeding) = Feeding::start(index.clone(), options(100, 1), breaker(), FeedMetrics::default());
    feed.record(pushed(id(0), "u:ann", "0"));
    feed.record(pushed(id(1), "u:ann", "1"));
    until("both are judged", async || feed.waiting() == 0).await;
    feeding.stop(DEADLINE).await;
    assert_eq!((index.taken(), feed.metrics().refused.get()), (names(1..2), 1));
}

#[tokio::test]
async fn an_end_does_not_wait_for_ever() {
    let index = Told::new(0, []);
    let (feed, feeding) = Feeding::start(index.clone(), options(100, 10), breaker(), FeedMetrics::default());
    for n in 0..25 {
        feed.record(pushed(id(n), "u:ann", "hi"));
    }
    feeding.stop(Duration::from_millis(50)).await;
    assert_eq!((feed.metrics().dropped.get(), feed.metrics().waiting.get()), (25, 0));
}
