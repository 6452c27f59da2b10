//! What becomes of events that come often, late, or from several at once.

use tidegate_control::records::{Batch, PushRecord, RecordId, RecordQuery, Status};
use tidegate_control_core::domain::Timestamp;

use crate::kit::{
    DAY_MS, Factory, KEEP_DAYS, event, find, id, id_at, ids, now, of_ids, pushed, start, text, write, written,
};

async fn only(factory: &impl Factory) -> PushRecord {
    factory.settle().await;
    let mut page = find(&*factory.index(), RecordQuery::default()).await;
    assert_eq!(page.records.len(), 1, "{page:?}");
    page.records.remove(0)
}

pub async fn a_repeated_record_changes_nothing(factory: &impl Factory) {
    let index = factory.index();
    let records = vec![pushed(id(1), "u:ann", "hi"), event(id(1), "u:ann", Status::Acked, start() + 9)];
    assert_eq!(write(&*index, records.clone()).await.changed, 1);
    let first = only(factory).await;
    for _ in 0..2 {
        assert_eq!(write(&*index, records.clone()).await.changed, 0);
        assert_eq!(only(factory).await, first);
    }
}

pub async fn a_batch_may_hold_a_record_twice(factory: &impl Factory) {
    let record = pushed(id(1), "u:ann", "hi");
    let other = pushed(id(1), "u:bob", "hi");
    let done = write(&*factory.index(), vec![record.clone(), other, record]).await;
    assert_eq!(done.changed, 2);
    factory.settle().await;
    let page = find(&*factory.index(), RecordQuery::default()).await;
    let targets: Vec<&str> = page.records.iter().map(|record| &*record.to).collect();
    assert_eq!(targets, ["u:bob", "u:ann"], "the same message to two targets is two records");
}

pub async fn a_status_out_of_order_does_no_harm(factory: &impl Factory) {
    let index = factory.index();
    for (status, at, changed) in [
        (Status::Acked, 30, 1),
        (Status::Accepted, 10, 1),
        (Status::Acked, 30, 0),
        (Status::Delivered, 20, 1),
        (Status::Delivered, 25, 0),
    ] {
        let done = write(&*index, vec![event(id(1), "u:ann", status, start() + at)]).await;
        assert_eq!(done.changed, changed, "{status:?}");
    }
    let record = only(factory).await;
    assert_eq!((record.status(), record.status_at()), (Some(Status::Acked), Some(Timestamp(start() + 30))));
    let reached: Vec<(Status, i64)> =
        record.changes.iter().map(|change| (change.status, change.at - start())).collect();
    assert_eq!(reached, [(Status::Acked, 30), (Status::Delivered, 20), (Status::Accepted, 10)]);
}

pub async fn events_of_a_push_gather(factory: &impl Factory) {
    let index = factory.index();
    let delivered = |by: &str, devices| {
        let mut record = event(id(1), "g:go", Status::Delivered, start() + 5);
        record.changes[0].by = by.into();
        record.changes[0].devices = devices;
        record
    };
    write(&*index, vec![delivered("gateway-1", 3)]).await;
    write(&*index, vec![pushed(id(1), "g:go", "hello"), delivered("gateway-2", 4)]).await;
    write(&*index, vec![delivered("gateway-1", 3)]).await;
    let record = only(factory).await;
    assert_eq!((record.delivered(), record.status()), (7, Some(Status::Delivered)));
    assert_eq!((record.text.as_str(), &*record.from), ("hello", "billing"));
    assert_eq!(record.place, pushed(id(1), "g:go", "").place);
    let found = RecordQuery { words: Some(crate::kit::words("hello")), ..RecordQuery::default() };
    assert_eq!(ids(&*index, found).await, of_ids(&[id(1)]), "a text that came later is found");
}

pub async fn attempts_that_were_refused_are_kept(factory: &impl Factory) {
    let at = Timestamp(start());
    let mut record = PushRecord::new(RecordId::attempt(at), "nobody at all").with(Status::Refused, at);
    record.changes[0].reason = "BAD_REQUEST".into();
    record.key = "order-7".into();
    write(&*factory.index(), vec![record.clone()]).await;
    record.clean();
    assert_eq!(only(factory).await, record);
    let by_key = RecordQuery { message_id: Some("order-7".into()), ..RecordQuery::default() };
    assert_eq!(find(&*factory.index(), by_key).await.records, [record]);
}

/// Two programs, or one before and after its restart, tell of the same pushes.
pub async fn two_writers_lose_nothing(factory: &impl Factory) {
    let (one, other) = (factory.index(), factory.another());
    let reports = |by: &str| -> Vec<PushRecord> {
        let report = |n| {
            let mut record = event(id(n), "u:ann", Status::Delivered, start() + 500);
            record.changes[0].by = by.into();
            record.changes[0].devices = 1;
            record
        };
        (0..100).map(report).collect()
    };
    // Each writes the same records, so that they meet.
    let (mut left, mut right) = (Batch::default(), Batch::default());
    left.records = reports("gateway-1");
    right.records = reports("gateway-2");
    right.records.reverse();
    for _ in 0..20 {
        let (ours, theirs) = tokio::join!(one.write(&left, now()), other.write(&right, now()));
        left = ours.map_or(left, |written| written.again);
        right = theirs.map_or(right, |written| written.again);
        if left.is_empty() && right.is_empty() {
            break;
        }
    }
    assert!(left.is_empty() && right.is_empty(), "not all was written");
    factory.settle().await;
    let page = find(&*one, RecordQuery::default()).await;
    assert_eq!(page.records.len(), 100);
    assert!(page.records.iter().all(|record| record.delivered() == 2), "{page:?}");
}

pub async fn what_is_beyond_time_is_refused(factory: &impl Factory) {
    let index = factory.index();
    let old = id_at(Timestamp(now().0 - (i64::from(KEEP_DAYS) + 1) * DAY_MS), 0);
    let late = id_at(Timestamp(now().0 + 2 * DAY_MS), 0);
    let records = [old, late, id(1)].map(|id| pushed(id, "u:ann", "hi")).to_vec();
    let texts = [old, late, id(1)].map(|id| text(id, "u:ann", 1, "hi")).to_vec();
    let done = written(&*index, &Batch { records, texts }).await;
    assert_eq!((done.changed, done.refused.len()), (2, 4), "{done:?}");
    factory.settle().await;
    assert_eq!(ids(&*index, RecordQuery::default()).await, of_ids(&[id(1)]));
}

pub async fn what_is_too_old_goes(factory: &impl Factory) {
    let index = factory.index();
    index.maintain(now()).await.expect("maintained");
    let older = id_at(Timestamp(now().0 - 20 * DAY_MS), 0);
    let batch = Batch {
        records: vec![pushed(older, "u:ann", "hi"), pushed(id(1), "u:ann", "hi")],
        texts: vec![text(older, "u:ann", 1, "hi")],
    };
    assert_eq!(written(&*index, &batch).await.changed, 3);
    index.maintain(now()).await.expect("maintained");
    factory.settle().await;
    assert_eq!(ids(&*index, RecordQuery::default()).await, of_ids(&[id(1), older]));
    // Whole months go, so it may take that much longer.
    index.maintain(Timestamp(now().0 + (i64::from(KEEP_DAYS) + 40) * DAY_MS)).await.expect("maintained");
    factory.settle().await;
    assert_eq!(ids(&*index, RecordQuery::default()).await, Vec::<String>::new());
    assert_eq!(written(&*index, &batch).await.changed, 3, "there is room again for what comes");
}
