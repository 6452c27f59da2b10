//! Which records are found, and in which order.

use tidegate_control::records::{RecordPosition, RecordQuery, Status};
use tidegate_control_core::domain::Timestamp;

use crate::kit::{Factory, event, find, id, id_at, ids, of_ids, pushed, start, words, write};

fn all() -> RecordQuery {
    RecordQuery::default()
}

pub async fn nothing_is_found_in_an_empty_index(factory: &impl Factory) {
    let index = factory.index();
    assert_eq!(ids(&*index, all()).await, Vec::<String>::new());
    write(&*index, vec![pushed(id(1), "u:ann", "hi")]).await;
    factory.settle().await;
    for unknown in [
        RecordQuery { uid: "zoe".parse().ok(), ..all() },
        RecordQuery { message_id: Some("7212".into()), ..all() },
        RecordQuery { message_id: Some("".into()), ..all() },
        RecordQuery { message_id: Some("no number".into()), ..all() },
        RecordQuery { stream: "u:an".parse().ok(), ..all() },
        RecordQuery { words: Some(words("bye")), ..all() },
        RecordQuery { to: Some(Timestamp(0)), ..all() },
        RecordQuery { from: Some(Timestamp(i64::MAX)), ..all() },
    ] {
        assert_eq!(ids(&*index, unknown.clone()).await, Vec::<String>::new(), "{unknown:?}");
    }
}

pub async fn a_record_is_found_by_each_of_its_fields(factory: &impl Factory) {
    let index = factory.index();
    let mut keyed = pushed(id(2), "g:go", "two words");
    keyed.key = "order-7".into();
    keyed.uids = vec!["ann".parse().expect("a uid"), "bob".parse().expect("a uid")];
    keyed.traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into();
    let mut fleeting = pushed(id(3), "u:bob", "three words");
    (fleeting.ephemeral, fleeting.place, fleeting.online) = (true, None, Some(u32::MAX));
    let records = vec![pushed(id(1), "u:ann", "one word"), keyed.clone(), fleeting.clone()];
    write(&*index, records).await;
    factory.settle().await;

    assert_eq!(ids(&*index, all()).await, of_ids(&[id(3), id(2), id(1)]), "newest first");
    for (query, expected) in [
        (RecordQuery { uid: "ann".parse().ok(), ..all() }, vec![id(2), id(1)]),
        (RecordQuery { uid: "bob".parse().ok(), ..all() }, vec![id(3), id(2)]),
        (RecordQuery { message_id: Some(id(1).to_string().into()), ..all() }, vec![id(1)]),
        (RecordQuery { message_id: Some("order-7".into()), ..all() }, vec![id(2)]),
        (RecordQuery { stream: "g:go".parse().ok(), ..all() }, vec![id(2)]),
        (RecordQuery { words: Some(words("WORDS")), ..all() }, vec![id(3), id(2)]),
        (RecordQuery { words: Some(words("words two")), ..all() }, vec![id(2)]),
        (RecordQuery { from: Some(id_ts(2)), ..all() }, vec![id(3), id(2)]),
    ] {
        assert_eq!(ids(&*index, query.clone()).await, of_ids(&expected), "{query:?}");
    }
    let whole = |id: &str| RecordQuery { message_id: Some(id.into()), ..all() };
    keyed.clean();
    assert_eq!(find(&*index, whole("order-7")).await.records, [keyed], "it comes back whole");
    assert_eq!(find(&*index, whole(&id(3).to_string())).await.records, [fleeting]);
}

fn id_ts(n: i64) -> Timestamp {
    Timestamp(start() + n)
}

pub async fn all_that_is_asked_must_hold(factory: &impl Factory) {
    let index = factory.index();
    let mut records = Vec::new();
    for n in 0..16 {
        let who = ["u:ann", "u:bob"][n as usize % 2];
        let what = ["red", "blue"][n as usize / 2 % 2];
        records.push(pushed(id(n), who, what));
    }
    write(&*index, records).await;
    factory.settle().await;
    let query = RecordQuery {
        uid: "ann".parse().ok(),
        stream: "u:ann".parse().ok(),
        words: Some(words("red")),
        from: Some(id_ts(4)),
        to: Some(id_ts(12)),
        ..all()
    };
    assert_eq!(ids(&*index, query.clone()).await, of_ids(&[id(8), id(4)]));
    let one = RecordQuery { message_id: Some(id(4).to_string().into()), ..query.clone() };
    assert_eq!(ids(&*index, one).await, of_ids(&[id(4)]));
    let other = RecordQuery { message_id: Some(id(6).to_string().into()), ..query.clone() };
    assert_eq!(ids(&*index, other).await, Vec::<String>::new());
    let after = find(&*index, RecordQuery { limit: 1, ..query.clone() }).await.next;
    assert_eq!(ids(&*index, RecordQuery { after, ..query }).await, of_ids(&[id(4)]));
}

pub async fn times_begin_at_from_and_end_before_to(factory: &impl Factory) {
    let index = factory.index();
    write(&*index, (1..=4).map(|n| pushed(id(n), "u:ann", "hi")).collect()).await;
    factory.settle().await;
    let between = |from: i64, to: i64| RecordQuery { from: Some(id_ts(from)), to: Some(id_ts(to)), ..all() };
    assert_eq!(ids(&*index, between(2, 4)).await, of_ids(&[id(3), id(2)]));
    assert_eq!(ids(&*index, between(3, 3)).await, Vec::<String>::new());
    assert_eq!(ids(&*index, between(4, 2)).await, Vec::<String>::new());
}

pub async fn records_of_one_moment_have_an_order(factory: &impl Factory) {
    let index = factory.index();
    let at = Timestamp(start());
    let records = (0..30).map(|n| pushed(id_at(at, n / 3), ["u:ann", "u:bob", "g:go"][n as usize % 3], "hi"));
    write(&*index, records.collect()).await;
    factory.settle().await;
    let mut seen: Vec<RecordPosition> = Vec::new();
    let mut query = RecordQuery { limit: 7, ..all() };
    loop {
        let page = find(&*index, query.clone()).await;
        assert!(page.records.len() <= 7);
        seen.extend(page.records.iter().map(RecordPosition::of));
        query.after = page.next;
        if query.after.is_none() {
            break;
        }
    }
    assert_eq!(seen.len(), 30);
    assert!(seen.is_sorted_by(|one, next| one > next), "{seen:?}");
}

pub async fn pages_stay_while_records_arrive(factory: &impl Factory) {
    let index = factory.index();
    write(&*index, (100..120).map(|n| pushed(id(n), "u:ann", "hi")).collect()).await;
    factory.settle().await;
    let mut query = RecordQuery { limit: 6, ..all() };
    let mut seen = Vec::new();
    for round in 0.. {
        let page = find(&*index, query.clone()).await;
        seen.extend(page.records.iter().map(|record| record.id.to_string()));
        // Newer ones arrive, and older ones change.
        let mut news: Vec<_> = (0..5).map(|n| pushed(id(200 + round * 5 + n), "u:ann", "hi")).collect();
        news.push(event(id(100 + round), "u:ann", Status::Acked, start() + 300));
        write(&*index, news).await;
        factory.settle().await;
        query.after = page.next.map(|next| RecordPosition::decode(&next.encode()).expect("its own cursor"));
        if query.after.is_none() {
            break;
        }
    }
    assert_eq!(seen, of_ids(&(100..120).rev().map(id).collect::<Vec<_>>()));
}
