//! What the bus carries on this machine: `cargo run --release -p tidegate-bus --example throughput [BROKERS]`.
//!
//! Produces with acks=all, reads everything back by partition readers and by a group, and measures a record's way one at a
//! time. Without BROKERS it uses the Kafka of `cargo xtask servers`.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tidegate_bus::kafka::KafkaBus;
use tidegate_bus::port::{Begin, Bus, Commit, GroupOptions, Outgoing, Placing, PublishError, Start};
use tidegate_bus::settings::Settings;
use tidegate_bus::topics::TopicSpec;
use xtask::servers::{self, Server};

const PARTITIONS: i32 = 10;
const SINGLES: usize = 500;

#[tokio::main]
async fn main() {
    let brokers = std::env::args().nth(1).unwrap_or_else(|| servers::url(Server::Kafka).expect("a Kafka"));
    let bus = KafkaBus::new(Settings { brokers, ..Settings::default() }).expect("a bus");
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("a clock after 1970").as_millis();
    for (name, bytes, long_every, count) in
        [("200 B", 200, 0, 1_000_000), ("2 KB", 2048, 1, 200_000), ("200 B, every tenth 2 KB", 200, 10, 500_000)]
    {
        let topic = format!("throughput-{bytes}-{long_every}-{now}");
        let (partitions, config) = (PARTITIONS, Vec::new());
        let spec = TopicSpec { name: topic.clone(), partitions, replicas: 1, retention_ms: 600_000, config };
        bus.admin().create_missing(&[spec]).await.expect("a topic");
        let before = bus.publisher().stats();
        let produced = produce(&bus, &topic, bytes, long_every, count).await;
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let after = bus.publisher().stats();
        let by_readers = consume(&bus, &topic, count).await;
        let by_group = consume_as_group(&bus, &topic, count).await;
        let [raw, wire] = [
            after.compressed_bytes_before - before.compressed_bytes_before,
            after.compressed_bytes_after - before.compressed_bytes_after,
        ];
        let ratio = if raw == 0 { 1.0 } else { wire as f64 / raw as f64 };
        println!(
            "{name:26} produced {produced:9.0}/s  read by {PARTITIONS} readers {by_readers:9.0}/s  by a group {by_group:9.0}/s  \
             compressed to {ratio:.2}  switched lanes {}",
            after.switched - before.switched
        );
        bus.admin().delete(&topic).await.expect("deleted");
    }
    singles(&bus, now).await;
    idle(&bus, now).await;
}

/// What twenty readers cost that have nothing to read.
async fn idle(bus: &KafkaBus, now: u128) {
    const READERS: i32 = 20;
    const SECONDS: u64 = 10;
    let topic = format!("throughput-idle-{now}");
    let (partitions, config) = (READERS, Vec::new());
    let spec = TopicSpec { name: topic.clone(), partitions, replicas: 1, retention_ms: 600_000, config };
    bus.admin().create_missing(&[spec]).await.expect("a topic");
    let open = |partition| bus.open(&topic, partition, Start::Latest).expect("a reader");
    let mut readers: Vec<_> = (0..READERS).map(open).collect();
    let (before, until) = (ticks(), Instant::now() + Duration::from_secs(SECONDS));
    let idle = readers.iter_mut().map(|reader| async move {
        while Instant::now() < until {
            assert!(reader.next(100, Duration::from_secs(1)).await.expect("nothing").is_empty());
        }
    });
    join_all(idle).await;
    let percent = (ticks() - before) as f64 / SECONDS as f64;
    println!("{READERS} idle readers take {percent:.2} % of a core");
    drop(readers);
    bus.admin().delete(&topic).await.expect("deleted");
}

/// Processor time of this process, in hundredths of a second.
fn ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("a process");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace().collect();
    fields[11].parse::<u64>().expect("user time") + fields[12].parse::<u64>().expect("system time")
}

fn record(topic: &str, number: usize, bytes: usize) -> Outgoing {
    // Text that is neither all the same nor random: a few hundred words.
    let mut value = String::with_capacity(bytes + 16);
    let mut seed = number as u64 ^ 0x9e37_79b9;
    while value.len() < bytes {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        value.push_str(["message", "channel", "hello", "tide", "gate", "user", "42", "stream "][(seed >> 61) as usize]);
        value.push_str(&((seed >> 33) % 1000).to_string());
    }
    value.truncate(bytes);
    Outgoing {
        topic: topic.to_owned().into(),
        partition: None,
        key: Some(format!("u:{}", number % 10_000).into()),
        headers: Vec::new(),
        value: value.into(),
    }
}

async fn produce(bus: &KafkaBus, topic: &str, bytes: usize, long_every: usize, count: usize) -> f64 {
    let publisher = bus.publisher();
    let size = |number: usize| if long_every > 0 && number.is_multiple_of(long_every) { 2048 } else { bytes };
    let records: Vec<Outgoing> = (0..10_000).map(|number| record(topic, number, size(number))).collect();
    let began = Instant::now();
    let mut placings: Vec<Placing> = Vec::with_capacity(count);
    for number in 0..count {
        loop {
            match publisher.publish(records[number % records.len()].clone()) {
                Ok(placing) => break placings.push(placing),
                Err(PublishError::BufferFull) => tokio::time::sleep(Duration::from_millis(1)).await,
                Err(error) => panic!("{error}"),
            }
        }
    }
    for placing in placings {
        placing.await.expect("placed");
    }
    count as f64 / began.elapsed().as_secs_f64()
}

async fn consume(bus: &KafkaBus, topic: &str, count: usize) -> f64 {
    let began = Instant::now();
    let read = (0..PARTITIONS).map(|partition| async move {
        let mut reader = bus.open(topic, partition, Start::Earliest).expect("a reader");
        let high = reader.watermarks().await.expect("watermarks").high as usize;
        let mut read = 0;
        while read < high {
            read += reader.next(1000, Duration::from_secs(5)).await.expect("records").len();
        }
        read
    });
    let read: usize = join_all(read).await.into_iter().sum();
    assert_eq!(read, count);
    count as f64 / began.elapsed().as_secs_f64()
}

async fn consume_as_group(bus: &KafkaBus, topic: &str, count: usize) -> f64 {
    let (group, topics) = (format!("{topic}-group"), vec![topic.to_owned()]);
    let options = GroupOptions { group, topics, begin: Begin::Earliest, commit: Commit::Auto, batch_max: 1000 };
    let mut member = bus.join(options).expect("a member");
    let mut read = member.next(Duration::from_secs(30)).await.expect("records").len();
    let (began, first) = (Instant::now(), read);
    while read < count {
        read += member.next(Duration::from_secs(5)).await.expect("records").len();
    }
    let speed = (count - first) as f64 / began.elapsed().as_secs_f64();
    member.close().await;
    speed
}

/// One record after the other: published, acknowledged, read.
async fn singles(bus: &KafkaBus, now: u128) {
    let topic = format!("throughput-single-{now}");
    let spec = TopicSpec { name: topic.clone(), partitions: 1, replicas: 1, retention_ms: 600_000, config: Vec::new() };
    bus.admin().create_missing(&[spec]).await.expect("a topic");
    let publisher = bus.publisher();
    let mut reader = bus.open(&topic, 0, Start::Earliest).expect("a reader");
    let (mut acknowledged, mut arrived) = (Vec::new(), Vec::new());
    for number in 0..SINGLES {
        let began = Instant::now();
        publisher.publish(record(&topic, number, 200)).expect("taken").await.expect("placed");
        acknowledged.push(began.elapsed());
        while reader.next(1, Duration::from_secs(5)).await.expect("records").is_empty() {}
        arrived.push(began.elapsed());
    }
    for (what, mut times) in [("acknowledged", acknowledged), ("read", arrived)] {
        times.sort_unstable();
        let [half, most] = [times[SINGLES / 2], times[SINGLES * 99 / 100]];
        println!("one at a time, {what:12} P50 {half:.1?}  P99 {most:.1?}");
    }
    drop(reader);
    bus.admin().delete(&topic).await.expect("deleted");
}
