//! One adapter, made ready for one test.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use tidegate_bus::kafka::KafkaBus;
use tidegate_bus::memory::MemoryBus;
use tidegate_bus::port::{Begin, Bus, Commit, GroupOptions, GroupReader, Outgoing, PartitionReader, Placed, Record};
use tidegate_bus::settings::Settings;
use tidegate_bus::topics::TopicSpec;
use xtask::servers::{self, Server};

/// Generous: a condition that does not come true by then never will.
pub const DEADLINE: Duration = Duration::from_secs(90);

/// Who does what. One bus can be all of them; with access control each is another user.
pub struct Rig {
    pub producer: Arc<dyn Bus>,
    pub consumer: Arc<dyn Bus>,
    /// Creates topics, resets offsets, lists and replays dead letters.
    pub operator: Arc<dyn Bus>,
    pub prefix: &'static str,
}

pub fn memory() -> Rig {
    Rig::of(Arc::new(MemoryBus::default()))
}

pub fn kafka_settings() -> Settings {
    let brokers = servers::url(Server::Kafka).expect("a Kafka to test against");
    quick(Settings { brokers, ..Settings::default() })
}

pub fn kafka() -> Rig {
    Rig::of(Arc::new(KafkaBus::new(kafka_settings()).expect("a bus")))
}

pub fn unique(prefix: &str) -> String {
    static MADE: AtomicUsize = AtomicUsize::new(0);
    let number = MADE.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}-{}-{number}-{}", std::process::id(), now())
}

pub fn now() -> i64 {
    SystemTime::UNIX_EPOCH.elapsed().expect("a clock after 1970").as_millis() as i64
}

impl Rig {
    fn of(bus: Arc<dyn Bus>) -> Rig {
        Rig { producer: bus.clone(), consumer: bus.clone(), operator: bus, prefix: "contract" }
    }

    pub async fn topic(&self, partitions: i32) -> String {
        self.topic_named("upstream", partitions).await
    }

    pub async fn topic_named(&self, what: &str, partitions: i32) -> String {
        let name = unique(&format!("{}-{what}", self.prefix));
        let spec = self.spec(&name, partitions);
        self.operator.admin().create_missing(&[spec]).await.expect("a topic");
        name
    }

    /// Three replicas are wanted, and fewer are made where there are fewer brokers.
    pub fn spec(&self, name: &str, partitions: i32) -> TopicSpec {
        let config = Vec::new();
        TopicSpec { name: name.to_owned(), partitions, replicas: 3, retention_ms: 3_600_000, config }
    }

    pub fn group(&self) -> String {
        unique(&format!("{}-group", self.prefix))
    }

    pub async fn publish(&self, record: Outgoing) -> Placed {
        self.producer.publisher().publish(record).expect("taken").await.expect("placed")
    }

    pub fn join(&self, options: GroupOptions) -> Box<dyn GroupReader> {
        self.consumer.join(options).expect("a member")
    }
}

pub fn options(group: &str, topic: &str) -> GroupOptions {
    let (group, topics) = (group.to_owned(), vec![topic.to_owned()]);
    GroupOptions { group, topics, begin: Begin::Earliest, commit: Commit::Manual, batch_max: 100 }
}

pub fn outgoing(topic: &str, partition: Option<i32>, key: &str, value: impl Into<Vec<u8>>) -> Outgoing {
    Outgoing {
        topic: Cow::Owned(topic.to_owned()),
        partition,
        key: Some(key.as_bytes().to_vec().into()),
        headers: Vec::new(),
        value: value.into().into(),
    }
}

pub fn value(record: &Record) -> &str {
    std::str::from_utf8(&record.value).expect("text")
}

/// The next `count` records of a partition.
pub async fn read(reader: &mut dyn PartitionReader, count: usize) -> Vec<Record> {
    let deadline = Instant::now() + DEADLINE;
    let mut records = Vec::new();
    while records.len() < count {
        assert!(Instant::now() < deadline, "{} of {count} records came", records.len());
        let more = reader.next(count - records.len(), Duration::from_millis(200)).await.expect("records");
        records.extend(more);
    }
    records
}

/// The next `count` records of a group's member.
pub async fn take(member: &mut dyn GroupReader, count: usize) -> Vec<Record> {
    let deadline = Instant::now() + DEADLINE;
    let mut records = Vec::new();
    while records.len() < count {
        assert!(Instant::now() < deadline, "{} of {count} records came", records.len());
        records.extend(member.next(Duration::from_millis(200)).await.expect("records"));
    }
    assert_eq!(records.len(), count, "more came than were published");
    records
}

/// Polls the members until this is so.
pub async fn until(members: &mut [&mut Box<dyn GroupReader>], what: &str, so: impl Fn(&[Vec<i32>]) -> bool) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let held: Vec<Vec<i32>> = members
            .iter()
            .map(|member| member.assignment().into_iter().map(|(slot, _)| slot.partition).collect())
            .collect();
        if so(&held) {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: {held:?}");
        for member in members.iter_mut() {
            let records = member.next(Duration::from_millis(50)).await.expect("a poll");
            assert_eq!(records, [], "nothing is there to be read yet");
        }
    }
}

/// Members hear of a rebalance by their heartbeat, which tests need not wait for.
pub fn quick(mut settings: Settings) -> Settings {
    settings.consumer.heartbeat_ms = 300;
    settings
}
