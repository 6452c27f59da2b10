use tidegate_bus::history::{Query, read};

use crate::rig::{DEADLINE, Rig, now, outgoing, value};

pub async fn a_stream_finds_what_it_missed(rig: &Rig) {
    let topic = rig.topic(3).await;
    let publisher = rig.producer.publisher();
    rig.publish(outgoing(&topic, None, "g:1", "before")).await;
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    let since_ms = now();
    for number in 0..50 {
        for key in ["g:1", "g:2", "g:3", "g:4"] {
            drop(publisher.publish(outgoing(&topic, None, key, format!("{key} {number}"))).expect("taken"));
        }
    }
    publisher.flush(DEADLINE).await.expect("flushed");
    let query = Query { topic: &topic, key: b"g:1", partition: None, since_ms, scan_max: 10_000, found_max: 30 };
    let first = read(&*rig.consumer, &query, None).await.expect("a range");
    let texts: Vec<&str> = first.records.iter().map(value).collect();
    assert_eq!(texts, (0..30).map(|number| format!("g:1 {number}")).collect::<Vec<_>>());
    let rest = read(&*rig.consumer, &query, Some(first.next.expect("more"))).await.expect("a range");
    assert_eq!((rest.records.len(), rest.next), (20, None));
    assert_eq!(value(&rest.records[0]), "g:1 30");
    let bounded = read(&*rig.consumer, &Query { scan_max: 10, ..query.clone() }, None).await.expect("a range");
    assert!(bounded.records.len() <= 10 && bounded.next.is_some());
    let none = read(&*rig.consumer, &Query { key: b"g:none", ..query }, None).await.expect("a range");
    assert_eq!((none.records.len(), none.next), (0, None));
}
