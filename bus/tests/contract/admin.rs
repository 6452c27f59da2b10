use std::time::Duration;

use tidegate_bus::offsets::{To, reset};
use tidegate_bus::port::{BusError, Committed, Lag, PublishError, TopicState};

use crate::rig::{Rig, now, options, outgoing, take, unique, until, value};

pub async fn topics_are_created_once(rig: &Rig) {
    let admin = rig.operator.admin();
    let names = [1, 2].map(|_| unique(&format!("{}-upstream", rig.prefix)));
    assert_eq!(admin.describe(&names[0]).await, Ok(None));
    let specs = [rig.spec(&names[0], 3), rig.spec(&names[1], 1)];
    assert_eq!(admin.create_missing(&specs[..1]).await, Ok(vec![names[0].clone()]));
    assert_eq!(admin.create_missing(&specs).await, Ok(vec![names[1].clone()]));
    assert_eq!(admin.create_missing(&specs).await, Ok(Vec::new()));
    let Ok(Some(TopicState { partitions, replicas })) = admin.describe(&names[0]).await else { panic!("no topic") };
    assert_eq!(partitions, 3);
    assert!((1..=3).contains(&replicas));
    admin.delete(&names[0]).await.expect("deleted");
}

pub async fn topics_grow(rig: &Rig) {
    let topic = rig.topic(2).await;
    let admin = rig.operator.admin();
    // The producer has met the topic while it was smaller.
    assert_eq!(rig.publish(outgoing(&topic, Some(0), "k", "v")).await.partition, 0);
    let publisher = rig.producer.publisher();
    assert_eq!(publisher.learn(&topic, 5, Duration::from_millis(100)).await, Err(PublishError::TimedOut));
    admin.grow(&topic, 5).await.expect("grown");
    publisher.learn(&topic, 5, Duration::from_secs(60)).await.expect("learned");
    assert_eq!(rig.publish(outgoing(&topic, Some(4), "k", "v")).await.partition, 4);
    assert_eq!(admin.describe(&topic).await.expect("asked").expect("a topic").partitions, 5);
    assert!(matches!(admin.grow(&topic, 3).await, Err(BusError::Refused(_))));
    assert_eq!(rig.publish(outgoing(&topic, Some(1), "k", "v")).await.partition, 1);
}

pub async fn offsets_are_found_by_time(rig: &Rig) {
    let topic = rig.topic(2).await;
    let admin = rig.operator.admin();
    rig.publish(outgoing(&topic, Some(0), "k", "old")).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let between = now();
    tokio::time::sleep(Duration::from_millis(20)).await;
    rig.publish(outgoing(&topic, Some(0), "k", "new")).await;
    let found = |timestamp_ms| {
        let (admin, topic) = (admin.clone(), topic.clone());
        async move { admin.offsets_at(&topic, timestamp_ms).await.expect("offsets") }
    };
    assert_eq!(found(0).await, [(0, 0), (1, 0)]);
    assert_eq!(found(between).await, [(0, 1), (1, 0)]);
    assert_eq!(found(now() + 60_000).await, [(0, 2), (1, 0)]);
}

pub async fn lag_is_what_is_not_committed(rig: &Rig) {
    let (topic, group) = (rig.topic(2).await, rig.group());
    let admin = rig.operator.admin();
    for _ in 0..4 {
        rig.publish(outgoing(&topic, Some(1), "k", "v")).await;
    }
    let lag = |zero, one| Ok(vec![Lag { partition: 0, behind: zero }, Lag { partition: 1, behind: one }]);
    assert_eq!(admin.lag(&group, &topic).await, lag(0, 4));
    // As a sequencer does, which keeps its place elsewhere and only shows it here.
    admin.set_committed(&group, &topic, vec![(1, 3)]).await.expect("committed");
    let expected = [Committed { partition: 0, next: None }, Committed { partition: 1, next: Some(3) }];
    assert_eq!(admin.committed(&group, &topic).await.expect("committed"), expected);
    assert_eq!(admin.lag(&group, &topic).await, lag(0, 1));
    assert_eq!(admin.members(&group).await, Ok(0));
}

pub async fn offsets_are_reset(rig: &Rig) {
    let (topic, group) = (rig.topic(1).await, rig.group());
    let admin = rig.operator.admin();
    rig.publish(outgoing(&topic, Some(0), "k", "0")).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let between = now();
    tokio::time::sleep(Duration::from_millis(20)).await;
    for number in 1..4 {
        rig.publish(outgoing(&topic, Some(0), "k", number.to_string())).await;
    }
    for (to, first) in [
        (To::Latest, None),
        (To::Earliest, Some("0")),
        (To::Offset(2), Some("2")),
        (To::Offset(-5), Some("0")),
        (To::Time(between), Some("1")),
    ] {
        let resets = reset(&*admin, &group, &topic, to, false).await.expect("reset");
        let next = first.map_or(4, |first| first.parse().expect("a number"));
        assert_eq!((resets.len(), resets[0].after), (1, next), "{to:?}");
        if let Some(first) = first {
            let mut member = rig.join(options(&group, &topic));
            assert_eq!(value(&take(&mut *member, 4 - next as usize).await[0]), first, "{to:?}");
            member.close().await;
        }
    }
}

pub async fn a_group_with_members_is_not_reset(rig: &Rig) {
    let (topic, group) = (rig.topic(1).await, rig.group());
    let admin = rig.operator.admin();
    let mut member = rig.join(options(&group, &topic));
    until(&mut [&mut member], "the member gets the partition", |held| held[0].len() == 1).await;
    assert_eq!(admin.members(&group).await, Ok(1));
    assert_eq!(reset(&*admin, &group, &topic, To::Earliest, false).await, Err(BusError::GroupActive));
    assert_eq!(reset(&*admin, &group, &topic, To::Earliest, true).await, Err(BusError::GroupActive), "the broker's no");
    member.close().await;
    reset(&*admin, &group, &topic, To::Earliest, false).await.expect("reset");
}
