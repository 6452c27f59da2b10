use std::time::{Duration, Instant};

use tidegate_bus::port::{BusError, Record, Start};

use crate::rig::{DEADLINE, Rig, outgoing, read, value};

const MOMENT: Duration = Duration::from_millis(300);

async fn filled(rig: &Rig, count: usize) -> String {
    let topic = rig.topic(1).await;
    for number in 0..count {
        rig.publish(outgoing(&topic, Some(0), "k", number.to_string())).await;
    }
    topic
}

fn values(records: &[Record]) -> Vec<&str> {
    records.iter().map(value).collect()
}

pub async fn a_reader_begins_where_it_is_told(rig: &Rig) {
    let topic = filled(rig, 5).await;
    let mut reader = rig.consumer.open(&topic, 0, Start::Earliest).expect("a reader");
    assert_eq!(values(&read(&mut *reader, 5).await), ["0", "1", "2", "3", "4"]);
    assert_eq!(reader.next(10, MOMENT).await, Ok(Vec::new()));
    drop(reader);
    let mut reader = rig.consumer.open(&topic, 0, Start::Offset(3)).expect("a reader");
    assert_eq!(values(&read(&mut *reader, 1).await), ["3"], "no more than were asked for");
    drop(reader);
    let mut reader = rig.consumer.open(&topic, 0, Start::Latest).expect("a reader");
    assert_eq!(reader.next(10, MOMENT).await, Ok(Vec::new()));
    // Where the end is, is decided when the broker is first asked.
    let deadline = Instant::now() + DEADLINE;
    let new = loop {
        rig.publish(outgoing(&topic, Some(0), "k", "new")).await;
        let records = reader.next(1, MOMENT).await.expect("records");
        if !records.is_empty() {
            break records;
        }
        assert!(Instant::now() < deadline, "nothing new came");
    };
    assert_eq!(values(&new), ["new"]);
}

pub async fn a_reader_goes_back_and_forth(rig: &Rig) {
    let topic = filled(rig, 20).await;
    let mut reader = rig.consumer.open(&topic, 0, Start::Earliest).expect("a reader");
    assert_eq!(read(&mut *reader, 3).await.len(), 3);
    // The rest has been fetched already, and must not come now.
    for to in [15, 0, 7, 19, 1] {
        reader.seek(Start::Offset(to)).await.expect("a seek");
        assert_eq!(values(&read(&mut *reader, 1).await), [to.to_string()]);
    }
    reader.seek(Start::Earliest).await.expect("a seek");
    assert_eq!(read(&mut *reader, 20).await.len(), 20);
}

pub async fn a_place_that_is_not_there_is_told(rig: &Rig) {
    let topic = filled(rig, 3).await;
    let mut reader = rig.consumer.open(&topic, 0, Start::Offset(1000)).expect("a reader");
    let deadline = Instant::now() + DEADLINE;
    let error = loop {
        match reader.next(10, MOMENT).await {
            Ok(records) => assert_eq!(records, [], "a hole that nobody sees"),
            Err(error) => break error,
        }
        assert!(Instant::now() < deadline, "nothing was told");
    };
    assert!(matches!(error, BusError::OffsetGone { .. }), "{error}");
    let marks = reader.watermarks().await.expect("watermarks");
    assert_eq!((marks.low, marks.high), (0, 3));
    reader.seek(Start::Offset(marks.low)).await.expect("a seek");
    assert_eq!(values(&read(&mut *reader, 3).await), ["0", "1", "2"]);
}

pub async fn a_paused_reader_gets_nothing_new(rig: &Rig) {
    let topic = filled(rig, 2).await;
    let mut reader = rig.consumer.open(&topic, 0, Start::Earliest).expect("a reader");
    assert_eq!(read(&mut *reader, 2).await.len(), 2);
    reader.pause().expect("paused");
    rig.publish(outgoing(&topic, Some(0), "k", "later")).await;
    assert_eq!(reader.next(10, MOMENT).await, Ok(Vec::new()));
    reader.resume().expect("resumed");
    assert_eq!(values(&read(&mut *reader, 1).await), ["later"]);
}

pub async fn many_readers_share_a_process(rig: &Rig) {
    const PARTITIONS: i32 = 20;
    let topic = rig.topic(PARTITIONS).await;
    let publisher = rig.producer.publisher();
    for number in 0..PARTITIONS * 50 {
        let text = format!("{}", number / PARTITIONS);
        drop(publisher.publish(outgoing(&topic, Some(number % PARTITIONS), "k", text)).expect("taken"));
    }
    publisher.flush(DEADLINE).await.expect("flushed");
    let open = |partition| rig.consumer.open(&topic, partition, Start::Earliest).expect("a reader");
    let mut readers: Vec<_> = (0..PARTITIONS).map(open).collect();
    assert_eq!(rig.consumer.consumer_stats().readers, 20);
    for reader in &mut readers {
        let records = read(&mut **reader, 50).await;
        let numbers: Vec<usize> = records.iter().map(|record| value(record).parse().expect("a number")).collect();
        assert_eq!(numbers, (0..50).collect::<Vec<_>>());
    }
    drop(readers);
    assert_eq!(rig.consumer.consumer_stats().readers, 0);
}

pub async fn a_partition_is_open_once(rig: &Rig) {
    let topic = filled(rig, 1).await;
    let reader = rig.consumer.open(&topic, 0, Start::Earliest).expect("a reader");
    let second = rig.consumer.open(&topic, 0, Start::Earliest).map(|_| ());
    assert!(matches!(second, Err(BusError::OpenAlready { .. })), "{second:?}");
    drop(reader);
    let mut reader = rig.consumer.open(&topic, 0, Start::Earliest).expect("a reader again");
    assert_eq!(read(&mut *reader, 1).await.len(), 1);
}
