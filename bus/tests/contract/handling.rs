use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use tidegate_bus::dead_letters::{
    Failure, Filter, Handler, HandlingCounters, Letter, Policy, REPLAYED_FROM, REPLAYS, list, replay, run,
};
use tidegate_bus::port::{Placed, Record, Start};
use tidegate_bus::records::{ErrorClass, Form as _, Format, Upstream};
use tidegate_bus::settings::DeadLetters;

use crate::rig::{DEADLINE, Rig, options, outgoing, read, value};

/// Fails as the values say, and remembers what came.
#[derive(Default)]
struct Scripted {
    came: Mutex<Vec<String>>,
    attempts: Mutex<HashMap<String, u32>>,
}

impl Scripted {
    fn came(&self) -> Vec<String> {
        self.came.lock().expect("a lock").clone()
    }

    fn attempts(&self, value: &str) -> u32 {
        self.attempts.lock().expect("a lock").get(value).copied().unwrap_or_default()
    }

    fn answer(&self, record: &Record) -> Result<(), Failure> {
        let text = String::from_utf8_lossy(&record.value).into_owned();
        let attempt = {
            let mut attempts = self.attempts.lock().expect("a lock");
            let attempt = attempts.entry(text.clone()).or_default();
            *attempt += 1;
            *attempt
        };
        match &*text {
            "store is away" if attempt <= 9 => return Err(Failure::Dependency("connection refused".to_owned())),
            "store is away for long" => return Err(Failure::Dependency("connection refused".to_owned())),
            "refused" => return Err(Failure::refused("not a member")),
            "fails twice" if attempt <= 2 => return Err(Failure::invalid("not yet")),
            text if text.starts_with('!') => Upstream::decode(text.as_bytes()).map_err(|e| Failure::undecodable(&e))?,
            _ => Upstream::default(),
        };
        self.came.lock().expect("a lock").push(text);
        Ok(())
    }
}

impl Handler for Scripted {
    fn handle<'a>(&'a self, record: &'a Record) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move { self.answer(record) })
    }
}

struct Bench {
    topic: String,
    letters: String,
    group: String,
    handler: Scripted,
    counters: HandlingCounters,
}

impl Bench {
    async fn new(rig: &Rig, partitions: i32) -> Bench {
        let (topic, letters) = (rig.topic(partitions).await, rig.topic_named("dead", 2).await);
        let (handler, counters) = Default::default();
        Bench { topic, letters, group: rig.group(), handler, counters }
    }

    /// Handles until this is so.
    async fn until(&self, rig: &Rig, what: &str, so: impl Fn(&Bench) -> bool + Send + Sync) {
        let policy = Policy {
            group: self.group.clone(),
            topic: self.letters.clone(),
            format: Format::Json,
            retry: DeadLetters { retries: 3, backoff_ms: 5, backoff_max_ms: 20 },
            publisher: rig.consumer.publisher(),
        };
        let deadline = Instant::now() + DEADLINE;
        let stop = async {
            while !so(self) {
                assert!(Instant::now() < deadline, "{what}: {:?} {:?}", self.handler.came(), self.counters.stats());
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        run(rig.join(options(&self.group, &self.topic)), &self.handler, &policy, &self.counters, stop).await;
    }

    async fn publish(&self, rig: &Rig, partition: i32, values: &[&str]) {
        for value in values {
            rig.publish(outgoing(&self.topic, Some(partition), "the-key", *value)).await;
        }
    }

    async fn letters(&self, rig: &Rig, filter: Filter) -> Vec<Letter> {
        list(&*rig.operator, &self.letters, &filter, 100, 10_000).await.expect("letters")
    }
}

pub async fn a_failing_dependency_uses_up_no_retry(rig: &Rig) {
    let bench = Bench::new(rig, 1).await;
    bench.publish(rig, 0, &["a", "store is away", "b"]).await;
    bench.until(rig, "all three are handled", |bench| bench.handler.came().len() == 3).await;
    assert_eq!(bench.handler.came(), ["a", "store is away", "b"]);
    let stats = bench.counters.stats();
    assert_eq!((stats.handled, stats.retries, stats.dead_letters, stats.dependency_failures), (3, 0, 0, 9));
    assert_eq!(bench.letters(rig, Filter::default()).await, []);
    // What was handled is committed when the loop ends.
    let lag = rig.operator.admin().lag(&bench.group, &bench.topic).await.expect("lag");
    assert_eq!(lag.iter().map(|lag| lag.behind).sum::<u64>(), 0);
}

pub async fn what_fails_by_itself_becomes_a_dead_letter(rig: &Rig) {
    let bench = Bench::new(rig, 1).await;
    bench.publish(rig, 0, &["fails twice", "refused", "!no json", "after"]).await;
    bench.until(rig, "the last one is handled", |bench| bench.handler.came().len() == 2).await;
    assert_eq!(bench.handler.came(), ["fails twice", "after"]);
    assert_eq!((bench.handler.attempts("refused"), bench.handler.attempts("fails twice")), (4, 3));
    let stats = bench.counters.stats();
    assert_eq!((stats.handled, stats.retries, stats.dead_letters, stats.paused), (2, 8, 2, 0));
    let mut letters: Vec<_> = bench.letters(rig, Filter::default()).await.into_iter().map(|at| at.letter).collect();
    letters.sort_by_key(|letter| letter.offset);
    let [refused, undecodable] = &letters[..] else { panic!("{letters:?}") };
    assert_eq!((refused.class, &*refused.reason, refused.attempts), (ErrorClass::Refused, "not a member", 4));
    assert_eq!((&refused.topic, refused.partition, refused.offset), (&bench.topic, 0, 1));
    assert_eq!((refused.key.as_deref(), &*refused.value), (Some(b"the-key".as_slice()), b"refused".as_slice()));
    assert_eq!((undecodable.class, &*undecodable.value), (ErrorClass::Undecodable, b"!no json".as_slice()));
    assert!(undecodable.reason.contains("protobuf"), "{}", undecodable.reason);
    let lag = rig.operator.admin().lag(&bench.group, &bench.topic).await.expect("lag");
    assert_eq!(lag[0].behind, 0);
}

pub async fn a_waiting_partition_holds_up_no_other(rig: &Rig) {
    let bench = Bench::new(rig, 2).await;
    bench.publish(rig, 0, &["before", "store is away for long", "never"]).await;
    bench.publish(rig, 1, &["x", "y", "z"]).await;
    bench.until(rig, "the other partition is handled", |bench| bench.handler.came().len() == 4).await;
    let came = bench.handler.came();
    assert!(!came.contains(&"never".to_owned()), "{came:?}");
    let lag = rig.operator.admin().lag(&bench.group, &bench.topic).await.expect("lag");
    assert_eq!((lag[0].behind, lag[1].behind), (2, 0));
}

pub async fn dead_letters_are_found_and_replayed(rig: &Rig) {
    let bench = Bench::new(rig, 1).await;
    bench.publish(rig, 0, &["refused", "!x"]).await;
    bench.until(rig, "both are given up", |bench| bench.counters.stats().dead_letters == 2).await;
    let count = |filter| async { bench.letters(rig, filter).await.len() };
    assert_eq!(count(Filter::default()).await, 2);
    assert_eq!(count(Filter { class: Some(ErrorClass::Refused), ..Filter::default() }).await, 1);
    assert_eq!(count(Filter { reason: Some("member".to_owned()), ..Filter::default() }).await, 1);
    assert_eq!(count(Filter { topic: Some("another".to_owned()), ..Filter::default() }).await, 0);
    assert_eq!(count(Filter { since_ms: Some(crate::rig::now() + 60_000), ..Filter::default() }).await, 0);
    assert_eq!(list(&*rig.operator, &bench.letters, &Filter::default(), 1, 10_000).await.expect("one").len(), 1);

    let refused = bench.letters(rig, Filter { class: Some(ErrorClass::Refused), ..Filter::default() }).await.remove(0);
    let nowhere = Placed { partition: refused.place.partition, offset: 1000 };
    let replayed = replay(&*rig.operator, &bench.letters, &[refused.place, nowhere]).await;
    assert_eq!(replayed[0].outcome.as_ref().expect("replayed").offset, 2);
    assert!(replayed[1].outcome.is_err());
    let mut reader = rig.consumer.open(&bench.topic, 0, Start::Offset(2)).expect("a reader");
    let record = read(&mut *reader, 1).await.remove(0);
    assert_eq!((value(&record), record.key.as_deref()), ("refused", Some(b"the-key".as_slice())));
    let from = format!("{}/{}/{}", bench.letters, refused.place.partition, refused.place.offset);
    assert_eq!(record.header(REPLAYED_FROM), Some(from.as_bytes()));
    assert_eq!(record.header(REPLAYS), Some(b"1".as_slice()));
    drop(reader);

    // It dies again, and the new letter knows that it was replayed.
    bench.until(rig, "it is given up again", |bench| bench.counters.stats().dead_letters == 3).await;
    let letters = bench.letters(rig, Filter { class: Some(ErrorClass::Refused), ..Filter::default() }).await;
    assert_eq!(letters.iter().map(Letter::replays).max(), Some(1));
}
