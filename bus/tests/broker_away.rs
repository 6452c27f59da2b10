//! What a bus does while its broker is away, errs or comes back. The broker is librdkafka's mock: a real one cannot be told
//! which answer to give.

use std::time::{Duration, Instant};

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use tidegate_bus::kafka::KafkaBus;
use tidegate_bus::port::{Bus, BusError, Outgoing, Placing, PublishError, Publisher, Start};
use tidegate_bus::settings::Settings;

const DEADLINE: Duration = Duration::from_secs(60);
const BUFFER: usize = 40;

fn cluster() -> MockCluster<'static, DefaultProducerContext> {
    let cluster = MockCluster::new(1).expect("a mock cluster");
    cluster.create_topic("t", 2, 1).expect("a topic");
    cluster
}

fn settings(cluster: &MockCluster<'static, DefaultProducerContext>) -> Settings {
    let mut settings = Settings { brokers: cluster.bootstrap_servers(), ..Settings::default() };
    settings.producer.delivery_timeout_ms = 1500;
    settings.producer.buffer_records_max = BUFFER;
    settings
}

fn record(key: &str, value: String) -> Outgoing {
    Outgoing {
        topic: "t".into(),
        partition: Some(0),
        key: Some(key.to_owned().into_bytes().into()),
        headers: Vec::new(),
        value: value.into_bytes().into(),
    }
}

/// Publishes as a caller does who tries again.
async fn placed(publisher: &dyn Publisher, value: &str) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        assert!(Instant::now() < deadline, "nothing is placed any more");
        if let Ok(placing) = publisher.publish(record("k", value.to_owned()))
            && placing.await.is_ok()
        {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_away_makes_callers_refuse_and_nothing_is_forgotten() {
    let cluster = cluster();
    let bus = KafkaBus::new(settings(&cluster)).expect("a bus");
    let publisher = bus.publisher();
    placed(&*publisher, "before").await;
    cluster.broker_down(1).expect("down");

    let long = |number: usize| if number.is_multiple_of(3) { 2000 } else { 20 };
    let publish = |number: usize| publisher.publish(record("k", "x".repeat(long(number))));
    let placings: Vec<Placing> = (0..BUFFER).map(|number| publish(number).expect("taken")).collect();
    assert_eq!(publish(0).map(|_| ()), Err(PublishError::BufferFull));
    let stats = publisher.stats();
    assert_eq!((stats.buffered_records, stats.refused), (BUFFER as u64, 1));
    for placing in placings {
        // Each one has an outcome, also those that waited for their lane.
        assert_eq!(placing.await, Err(PublishError::TimedOut));
    }
    let stats = publisher.stats();
    assert_eq!((stats.buffered_records, stats.buffered_bytes, stats.failed), (0, 0, BUFFER as u64));

    cluster.broker_up(1).expect("up");
    placed(&*publisher, "after").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_errs_for_a_while_costs_no_record_and_no_order() {
    let cluster = cluster();
    let bus = KafkaBus::new(Settings {
        producer: tidegate_bus::settings::Producer { delivery_timeout_ms: 30_000, ..Default::default() },
        ..settings(&cluster)
    })
    .expect("a bus");
    let publisher = bus.publisher();
    let away = [
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
    ];
    cluster.request_errors(RDKafkaApiKey::Produce, &away);
    let mut placings = Vec::new();
    for number in 0..300 {
        let padding = "x".repeat(if number % 4 == 0 { 1500 } else { 10 });
        placings.push(publisher.publish(record("k", format!("{number:04}{padding}"))).expect("taken"));
    }
    for (at, placing) in placings.into_iter().enumerate() {
        let placed = placing.await.expect("placed");
        assert_eq!(placed.offset, at as i64, "nothing lost, nothing twice, nothing overtaken");
    }
}

/// An idempotent producer gives up for ever here; the bus must not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_producer_that_can_do_no_more_is_replaced() {
    let cluster = cluster();
    let bus = KafkaBus::new(settings(&cluster)).expect("a bus");
    let publisher = bus.publisher();
    placed(&*publisher, "before").await;
    let broken = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER; 1];
    cluster.request_errors(RDKafkaApiKey::Produce, &broken);
    let outcome = publisher.publish(record("k", "lost".to_owned())).expect("taken").await;
    assert!(outcome.is_err_and(|error| error.is_dependency()), "the mock did not break the producer");
    placed(&*publisher, "short").await;
    placed(&*publisher, &"long".repeat(1000)).await;
    assert_eq!(publisher.stats().renewed, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_goes_on_when_the_broker_is_back() {
    let cluster = cluster();
    let bus = KafkaBus::new(settings(&cluster)).expect("a bus");
    let publisher = bus.publisher();
    placed(&*publisher, "one").await;
    let mut reader = bus.open("t", 0, Start::Earliest).expect("a reader");
    let mut read = Vec::new();
    let deadline = Instant::now() + DEADLINE;
    while read.is_empty() {
        assert!(Instant::now() < deadline, "nothing comes");
        read.extend(reader.next(10, Duration::from_millis(200)).await.expect("records"));
    }
    cluster.broker_down(1).expect("down");
    assert_eq!(
        reader.next(10, Duration::from_millis(500)).await,
        Ok(Vec::new()),
        "being away is no error of the reader"
    );
    cluster.broker_up(1).expect("up");
    placed(&*publisher, "two").await;
    let deadline = Instant::now() + DEADLINE;
    while !read.iter().any(|record| &*record.value == b"two") {
        assert!(Instant::now() < deadline, "the reader did not go on");
        read.extend(reader.next(10, Duration::from_millis(200)).await.expect("records"));
    }
    assert_eq!(&*read[0].value, b"one");
    let offsets: Vec<i64> = read.iter().map(|record| record.offset).collect();
    assert!(offsets.windows(2).all(|pair| pair[1] == pair[0] + 1), "{offsets:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn questions_to_a_broker_that_is_away_end_with_unavailable() {
    let cluster = cluster();
    let bus = KafkaBus::new(Settings { request_timeout_ms: 500, ..settings(&cluster) }).expect("a bus");
    cluster.broker_down(1).expect("down");
    let asked = bus.admin().describe("t").await;
    assert!(matches!(asked, Err(BusError::Unavailable(_))), "{asked:?}");
}
