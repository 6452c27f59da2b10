use std::time::Duration;

use tidegate_bus::port::{Begin, Commit, GroupOptions, Slot};

use crate::rig::{DEADLINE, Rig, options, outgoing, take, until, value};

async fn filled(rig: &Rig, partitions: i32, count: usize) -> String {
    let topic = rig.topic(partitions).await;
    let publisher = rig.producer.publisher();
    for number in 0..count {
        let partition = number as i32 % partitions;
        drop(publisher.publish(outgoing(&topic, Some(partition), "k", number.to_string())).expect("taken"));
    }
    publisher.flush(DEADLINE).await.expect("flushed");
    topic
}

fn slot(topic: &str, partition: i32) -> Slot {
    Slot { topic: topic.into(), partition }
}

pub async fn a_group_goes_on_where_it_committed(rig: &Rig) {
    let (topic, group) = (filled(rig, 1, 10).await, rig.group());
    let mut member = rig.join(GroupOptions { batch_max: 4, ..options(&group, &topic) });
    let mut first = Vec::new();
    while first.is_empty() {
        first = member.next(DEADLINE).await.expect("records");
    }
    assert!(first.len() <= 4, "more than a batch");
    member.commit(vec![(slot(&topic, 0), 3)]).await.expect("committed");
    member.close().await;
    let mut member = rig.join(options(&group, &topic));
    let records = take(&mut *member, 7).await;
    assert_eq!(value(&records[0]), "3");
    member.close().await;
}

pub async fn what_was_not_committed_is_read_again(rig: &Rig) {
    let (topic, group) = (filled(rig, 2, 10).await, rig.group());
    for _ in 0..2 {
        let mut member = rig.join(options(&group, &topic));
        take(&mut *member, 10).await;
        member.close().await;
    }
}

pub async fn members_share_partitions_and_take_over(rig: &Rig) {
    let (topic, group) = (rig.topic(4).await, rig.group());
    let mut one = rig.join(options(&group, &topic));
    until(&mut [&mut one], "the first member gets all", |held| held[0].len() == 4).await;
    let mut other = rig.join(options(&group, &topic));
    until(&mut [&mut one, &mut other], "both get half", |held| held[0].len() == 2 && held[1].len() == 2).await;
    other.close().await;
    until(&mut [&mut one], "the first member gets all again", |held| held[0].len() == 4).await;
    for partition in 0..4 {
        rig.publish(outgoing(&topic, Some(partition), "k", "v")).await;
    }
    take(&mut *one, 4).await;
    let numbers = one.assignment();
    assert_eq!(numbers.len(), 4);
    one.close().await;
}

pub async fn a_group_may_begin_at_the_end(rig: &Rig) {
    let (topic, group) = (filled(rig, 1, 5).await, rig.group());
    let mut member = rig.join(GroupOptions { begin: Begin::Latest, ..options(&group, &topic) });
    until(&mut [&mut member], "the member gets the partition", |held| held[0].len() == 1).await;
    // The end is looked up after that; what is published before is not new.
    let records = loop {
        rig.publish(outgoing(&topic, Some(0), "k", "new")).await;
        let records = member.next(Duration::from_millis(200)).await.expect("records");
        if !records.is_empty() {
            break records;
        }
    };
    assert!(records.iter().all(|record| value(record) == "new"), "{records:?}");
    member.close().await;
}

pub async fn what_was_taken_is_committed_in_the_background(rig: &Rig) {
    let (topic, group) = (filled(rig, 1, 10).await, rig.group());
    let auto = || GroupOptions { commit: Commit::Auto, ..options(&group, &topic) };
    let mut member = rig.join(auto());
    take(&mut *member, 10).await;
    member.close().await;
    rig.publish(outgoing(&topic, Some(0), "k", "next")).await;
    let mut member = rig.join(auto());
    assert_eq!(value(&take(&mut *member, 1).await[0]), "next");
    member.close().await;
}

pub async fn a_paused_partition_holds_up_no_other(rig: &Rig) {
    let (topic, group) = (filled(rig, 2, 2).await, rig.group());
    let mut member = rig.join(options(&group, &topic));
    take(&mut *member, 2).await;
    member.pause(&slot(&topic, 0)).expect("paused");
    for (partition, text) in [(0, "waits"), (1, "comes")] {
        rig.publish(outgoing(&topic, Some(partition), "k", text)).await;
    }
    assert_eq!(value(&take(&mut *member, 1).await[0]), "comes");
    assert_eq!(member.next(Duration::from_millis(300)).await, Ok(Vec::new()));
    member.resume(&slot(&topic, 0)).expect("resumed");
    assert_eq!(value(&take(&mut *member, 1).await[0]), "waits");
    member.close().await;
}
