//! What tests of the bus's side of a node share: a log in memory, a bus in memory, and peers that do as they are told.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::{BoxFuture, ready};
use tidegate_bus::dead_letters::{self, Handler, HandlingCounters, Policy};
use tidegate_bus::memory::MemoryBus;
use tidegate_bus::port::{Begin, Bus as _, Commit, GroupOptions, Outgoing, Record, Start};
use tidegate_bus::records::{DeadLetter, Form, Format, Task, TaskKey, UserState};
use tidegate_bus::settings::{DeadLetters, Producer, Settings};
use tidegate_control_core::domain::{
    self, Append, Body, Epoch, Gid, Lsn, OwnerEpoch, PartitionId, Seq, StreamKey, Timestamp, Uid,
};
use tidegate_control_core::partition::Origin;
use tidegate_control_core::ports::memory::{MemoryDisk, MemoryStore};
use tidegate_control_core::ports::{
    DedupHit, DeviceMark, Group, Head, Member, MessageStore as _, Page, PageLimit, ReplayPage, StoreError, StoreReader,
};
use tokio::task::JoinHandle;

use super::outbox::places::Places;
use super::routes::{Routes, RoutesError};
use super::tasks::metrics::TaskMetrics;
use super::tasks::outlet::TaskOutlet;

/// Generous: a condition that does not come true by then never will.
const DEADLINE: Duration = Duration::from_secs(60);

pub async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !so() {
        assert!(Instant::now() < deadline, "{what}: it does not come");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub fn uid(name: &str) -> Uid {
    name.parse().expect("a uid")
}

pub const ORIGIN: Origin = Origin { partition: PartitionId(0), history: Epoch(0x41), owner_epoch: OwnerEpoch(3) };

/// A store whose reader sees what is committed meanwhile.
pub struct Log {
    store: Mutex<MemoryStore>,
    pub away: AtomicBool,
}

impl Log {
    pub fn new() -> Arc<Log> {
        let store = Mutex::new(MemoryDisk::new(Epoch(0x77)).open());
        Arc::new(Log { store, away: AtomicBool::new(false) })
    }

    pub fn commit(&self, records: &[domain::Record]) {
        self.store.lock().expect("a lock").commit(records).expect("committed");
    }

    pub fn trim(&self, upto: u64) {
        self.store.lock().expect("a lock").trim(Lsn(upto));
    }

    fn ask<T>(&self, ask: impl FnOnce(&MemoryStore) -> Result<T, StoreError>) -> Result<T, StoreError> {
        if self.away.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable("away".into()));
        }
        ask(&self.store.lock().expect("a lock"))
    }
}

impl StoreReader for Log {
    fn head(&self, stream: &StreamKey) -> Result<Option<Head>, StoreError> {
        self.ask(|store| store.head(stream))
    }

    fn dedup(&self, key: &[u8; 16]) -> Result<Option<DedupHit>, StoreError> {
        self.ask(|store| store.dedup(key))
    }

    fn page(&self, stream: &StreamKey, after: Seq, limit: PageLimit) -> Result<Page, StoreError> {
        self.ask(|store| store.page(stream, after, limit))
    }

    fn seq_before(&self, stream: &StreamKey, ts: Timestamp) -> Result<Seq, StoreError> {
        self.ask(|store| store.seq_before(stream, ts))
    }

    fn group(&self, gid: &Gid) -> Result<Option<Group>, StoreError> {
        self.ask(|store| store.group(gid))
    }

    fn member(&self, gid: &Gid, uid: &Uid) -> Result<Option<Member>, StoreError> {
        self.ask(|store| store.member(gid, uid))
    }

    fn members(&self, gid: &Gid, after: Option<&Uid>, limit: usize) -> Result<Vec<Member>, StoreError> {
        self.ask(|store| store.members(gid, after, limit))
    }

    fn groups_of(&self, uid: &Uid, limit: usize) -> Result<Vec<Gid>, StoreError> {
        self.ask(|store| store.groups_of(uid, limit))
    }

    fn marks(&self, uid: &Uid, stream: &StreamKey) -> Result<Vec<DeviceMark>, StoreError> {
        self.ask(|store| store.marks(uid, stream))
    }

    fn read_cursor(&self, uid: &Uid, stream: &StreamKey) -> Result<Option<(Epoch, Seq)>, StoreError> {
        self.ask(|store| store.read_cursor(uid, stream))
    }

    fn last_lsn(&self) -> Lsn {
        self.store.lock().expect("a lock").last_lsn()
    }

    fn replay(&self, from: Lsn, limit: PageLimit) -> Result<Option<ReplayPage>, StoreError> {
        self.ask(|store| store.replay(from, limit))
    }
}

/// The same message, changed; a place of its own for each.
pub fn with_body(record: domain::Record, change: impl FnOnce(&mut Body)) -> domain::Record {
    let domain::Record::Append(append) = record else { panic!("no message") };
    let mut body = (*append.body).clone();
    change(&mut body);
    domain::Record::Append(Append { body: Arc::new(body), ..append })
}

#[derive(Default)]
pub struct MemoryPlaces {
    all: Mutex<HashMap<String, Lsn>>,
    /// Nothing is kept any more.
    pub failing: AtomicBool,
}

impl MemoryPlaces {
    pub fn at(&self, name: &str) -> Option<u64> {
        self.all.lock().expect("a lock").get(&format!("0/{name}")).map(|lsn| lsn.0)
    }
}

impl Places for MemoryPlaces {
    fn load(&self, partition: PartitionId, name: &str) -> Result<Option<Lsn>, StoreError> {
        Ok(self.all.lock().expect("a lock").get(&format!("{}/{name}", partition.0)).copied())
    }

    fn save(&self, partition: PartitionId, name: &str, at: Lsn) -> Result<(), StoreError> {
        if self.failing.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable("away".into()));
        }
        self.all.lock().expect("a lock").insert(format!("{}/{name}", partition.0), at);
        Ok(())
    }
}

/// Who is there is told by the test.
#[derive(Default)]
pub struct ToldRoutes {
    pub online: Mutex<HashSet<String>>,
    pub away: AtomicBool,
    /// Connections whose routes were taken away.
    pub gone: Mutex<Vec<String>>,
}

impl ToldRoutes {
    pub fn of(uids: &[&str]) -> Arc<ToldRoutes> {
        let online = Mutex::new(uids.iter().map(|uid| (*uid).to_owned()).collect());
        Arc::new(ToldRoutes { online, ..ToldRoutes::default() })
    }

    fn answer<T>(&self, answer: T) -> Result<T, RoutesError> {
        match self.away.load(Ordering::Relaxed) {
            true => Err(RoutesError("away".to_owned())),
            false => Ok(answer),
        }
    }
}

impl Routes for ToldRoutes {
    fn online<'a>(&'a self, uids: &'a [Uid]) -> BoxFuture<'a, Result<Vec<bool>, RoutesError>> {
        let known = self.online.lock().expect("a lock");
        let online = uids.iter().map(|uid| known.contains(uid.as_str())).collect();
        Box::pin(ready(self.answer(online)))
    }

    fn gone<'a>(&'a self, state: &'a UserState) -> BoxFuture<'a, Result<bool, RoutesError>> {
        let answer = self.answer(true);
        if answer.is_ok() {
            self.gone.lock().expect("a lock").push(state.connection_id.clone());
        }
        Box::pin(ready(answer))
    }

    fn came<'a>(&'a self, _state: &'a UserState) -> BoxFuture<'a, Result<bool, RoutesError>> {
        Box::pin(ready(self.answer(false)))
    }
}

/// A bus in memory with a cluster's topics.
pub struct Bench {
    pub bus: MemoryBus,
    pub settings: Settings,
    pub metrics: TaskMetrics,
}

impl Bench {
    pub async fn new() -> Bench {
        let dead_letters = DeadLetters { backoff_ms: 1, backoff_max_ms: 5, ..DeadLetters::default() };
        let settings = Settings { dead_letters, ..Settings::default() };
        let bench = Bench { bus: MemoryBus::new(Producer::default()), settings, metrics: TaskMetrics::default() };
        bench.bus.admin().create_missing(&bench.settings.topics.specs()).await.expect("topics");
        bench
    }

    pub fn outlet(&self) -> Arc<TaskOutlet> {
        Arc::new(TaskOutlet {
            publisher: self.bus.publisher(),
            topic: self.settings.topics.task.name.clone(),
            key: TaskKey::TypeAndId,
            format: Format::Json,
            metrics: self.metrics.clone(),
        })
    }

    pub async fn publish(&self, topic: &str, value: impl Into<Bytes>) {
        let outgoing = Outgoing {
            topic: topic.to_owned().into(),
            partition: Some(0),
            key: None,
            headers: Vec::new(),
            value: value.into(),
        };
        self.bus.publisher().publish(outgoing).expect("taken").await.expect("placed");
    }

    /// All that stands in a topic, partition after partition.
    pub async fn all(&self, topic: &str) -> Vec<Record> {
        let partitions = self.bus.admin().describe(topic).await.expect("described").expect("a topic").partitions;
        let mut all = Vec::new();
        for partition in 0..partitions {
            let mut reader = self.bus.open(topic, partition, Start::Earliest).expect("a reader");
            all.extend(reader.next(100_000, Duration::ZERO).await.expect("records"));
        }
        all
    }

    pub async fn decoded<T: Form>(&self, topic: &str) -> Vec<T> {
        let records = self.all(topic).await;
        records.iter().map(|record| T::decode(&record.value).expect("a record of ours")).collect()
    }

    /// Sorted by their ids.
    pub async fn tasks(&self) -> Vec<Task> {
        let mut tasks: Vec<Task> = self.decoded(&self.settings.topics.task.name).await;
        tasks.sort_by(|one, other| one.task_id.cmp(&other.task_id));
        tasks
    }

    pub async fn task_ids(&self) -> Vec<String> {
        self.tasks().await.into_iter().map(|task| task.task_id).collect()
    }

    pub async fn dead_letters(&self) -> Vec<DeadLetter> {
        self.decoded(&self.settings.topics.dead_letter.name).await
    }

    /// A member of the group, until the task is aborted.
    pub fn consume(
        &self,
        group: &'static str,
        topic: &str,
        handler: Arc<dyn Handler>,
    ) -> (JoinHandle<()>, Arc<HandlingCounters>) {
        let options = GroupOptions {
            group: group.to_owned(),
            topics: vec![topic.to_owned()],
            begin: Begin::Earliest,
            commit: Commit::Manual,
            batch_max: 200,
        };
        let reader = self.bus.join(options).expect("a member");
        let policy = Policy::new(&self.settings, group, self.bus.publisher());
        let counters = Arc::new(HandlingCounters::default());
        let counting = Arc::clone(&counters);
        let running = tokio::spawn(async move {
            dead_letters::run(reader, &*handler, &policy, &counting, std::future::pending()).await;
        });
        (running, counters)
    }

    /// Records that the group has not committed.
    pub async fn lag(&self, group: &str, topic: &str) -> u64 {
        let lag = self.bus.admin().lag(group, topic).await.expect("the lag");
        lag.iter().map(|lag| lag.behind).sum()
    }

    pub async fn until_handled(&self, group: &str, topic: &str) {
        let deadline = Instant::now() + DEADLINE;
        while self.lag(group, topic).await > 0 {
            assert!(Instant::now() < deadline, "{topic} is not worked off");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}
