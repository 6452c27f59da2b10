use std::collections::HashMap;
use std::time::{Duration, Instant};

use tidegate_bus::port::{Outgoing, Placing, PublishError, Start};
use tidegate_bus::settings::RECORD_BYTES_MAX;
use tidegate_bus::topics::partition_of;

use crate::rig::{DEADLINE, Rig, outgoing, read, value};

pub async fn records_come_back_as_they_were_published(rig: &Rig) {
    let topic = rig.topic(2).await;
    let headers = vec![("reply_to".into(), "node-1".into()), ("bytes".into(), vec![0_u8, 255].into())];
    let long = "x".repeat(5000);
    let first = rig.publish(Outgoing { headers: headers.clone(), ..outgoing(&topic, Some(1), "ann", "hello") }).await;
    let second = rig.publish(Outgoing { key: None, ..outgoing(&topic, Some(1), "", &*long) }).await;
    assert_eq!((first.partition, second.partition, second.offset), (1, 1, first.offset + 1));
    let mut reader = rig.consumer.open(&topic, 1, Start::Earliest).expect("a reader");
    let records = read(&mut *reader, 2).await;
    assert_eq!((records[0].partition, records[0].offset, &*records[0].topic), (1, first.offset, &*topic));
    assert_eq!((records[0].key.as_deref(), value(&records[0])), (Some(b"ann".as_slice()), "hello"));
    assert_eq!(records[0].header("bytes"), Some([0_u8, 255].as_slice()));
    assert_eq!((records[0].header("reply_to"), records[0].header("none")), (Some(b"node-1".as_slice()), None));
    assert!(records[0].timestamp > 0);
    assert_eq!((&records[1].key, value(&records[1])), (&None, &*long));
}

pub async fn a_key_belongs_where_other_producers_put_it(rig: &Rig) {
    let topic = rig.topic(5).await;
    for key in ["u:ann", "g:42", "c:ann:bob", "x"] {
        let placed = rig.publish(outgoing(&topic, None, key, "v")).await;
        assert_eq!(placed.partition, partition_of(key.as_bytes(), 5), "{key}");
    }
}

/// Short and long values take different producers, and none may overtake.
pub async fn records_of_a_key_keep_their_order_whatever_their_sizes(rig: &Rig) {
    const KEYS: usize = 7;
    const EACH: usize = 600;
    let topic = rig.topic(3).await;
    let publisher = rig.producer.publisher();
    let mut placings: Vec<Placing> = Vec::new();
    for number in 0..EACH {
        for key in 0..KEYS {
            // Runs of both kinds, of different lengths.
            let long = (number / (key + 1)).is_multiple_of(3);
            let text = format!("{number:05}{}", "y".repeat(if long { 1500 } else { 40 }));
            placings.push(publish(&*publisher, outgoing(&topic, None, &format!("key-{key}"), text)).await);
        }
    }
    for placing in placings {
        placing.await.expect("placed");
    }
    let mut next: HashMap<Vec<u8>, usize> = HashMap::new();
    for partition in 0..3 {
        let mut reader = rig.consumer.open(&topic, partition, Start::Earliest).expect("a reader");
        let count = reader.watermarks().await.expect("watermarks").high as usize;
        for record in read(&mut *reader, count).await {
            let number: usize = value(&record)[..5].parse().expect("a number");
            let next = next.entry(record.key.expect("a key")).or_default();
            assert_eq!(number, *next, "out of order");
            *next += 1;
        }
    }
    assert_eq!(next.len(), KEYS);
    assert!(next.values().all(|count| *count == EACH));
    let stats = publisher.stats();
    assert_eq!((stats.produced, stats.acked, stats.failed), ((KEYS * EACH) as u64, (KEYS * EACH) as u64, 0));
    assert_eq!((stats.buffered_records, stats.buffered_bytes), (0, 0));
}

async fn publish(publisher: &dyn tidegate_bus::port::Publisher, record: Outgoing) -> Placing {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match publisher.publish(record.clone()) {
            Ok(placing) => return placing,
            Err(PublishError::BufferFull) => {
                assert!(Instant::now() < deadline, "the buffer stays full");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

pub async fn records_of_an_asked_partition_keep_their_order_whatever_their_keys(rig: &Rig) {
    const COUNT: usize = 3000;
    let topic = rig.topic(2).await;
    let publisher = rig.producer.publisher();
    let mut placings = Vec::new();
    for number in 0..COUNT {
        let text = format!("{number:05}{}", "z".repeat(if number % 5 == 0 { 2000 } else { 10 }));
        placings.push(publish(&*publisher, outgoing(&topic, Some(1), &format!("key-{}", number % 11), text)).await);
    }
    let mut last = -1;
    for placing in placings {
        let placed = placing.await.expect("placed");
        assert!(placed.offset > last, "acknowledged at {} after {last}", placed.offset);
        last = placed.offset;
    }
    let mut reader = rig.consumer.open(&topic, 1, Start::Earliest).expect("a reader");
    for (at, record) in read(&mut *reader, COUNT).await.iter().enumerate() {
        assert_eq!(value(record)[..5].parse::<usize>().expect("a number"), at);
    }
}

pub async fn what_cannot_be_placed_is_told(rig: &Rig) {
    let topic = rig.topic(1).await;
    let publisher = rig.producer.publisher();
    let large = publisher.publish(outgoing(&topic, None, "k", vec![b'x'; RECORD_BYTES_MAX + 1]));
    assert!(matches!(large, Err(PublishError::TooLarge { .. })), "{large:?}");
    let nowhere = publisher.publish(outgoing(&topic, Some(7), "k", "v")).expect("taken").await;
    assert!(matches!(nowhere, Err(PublishError::UnknownTopic(_))), "{nowhere:?}");
    let nowhere = publisher.publish(outgoing(&format!("{topic}-none"), None, "k", "v")).expect("taken").await;
    // Without the right to see it, nobody learns whether there is such a topic.
    let told = matches!(nowhere, Err(PublishError::UnknownTopic(_) | PublishError::Refused(_)));
    assert!(told, "{nowhere:?}");
    rig.publish(outgoing(&topic, None, "k", "v")).await;
    assert_eq!(publisher.stats().failed, 2);
}

pub async fn a_flush_waits_for_everything(rig: &Rig) {
    let topic = rig.topic(1).await;
    let publisher = rig.producer.publisher();
    for number in 0..500 {
        let text = "w".repeat(if number % 2 == 0 { 10 } else { 1200 });
        drop(publisher.publish(outgoing(&topic, None, "k", text)).expect("taken"));
    }
    publisher.flush(DEADLINE).await.expect("flushed");
    assert_eq!(publisher.stats().acked, 500);
    let reader = rig.consumer.open(&topic, 0, Start::Earliest).expect("a reader");
    assert_eq!(reader.watermarks().await.expect("watermarks").high, 500);
}
