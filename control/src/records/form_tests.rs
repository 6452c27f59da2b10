use proptest::prelude::*;
use tidegate_control_core::domain::{Epoch, MessageId};

use super::*;

fn id() -> RecordId {
    RecordId::Message(MessageId(7_212 << ID_SHIFT | 5))
}

fn change(status: Status, at: i64) -> PushRecord {
    PushRecord::new(id(), "u:ann").with(status, Timestamp(at))
}

#[test]
fn an_id_says_its_time_and_comes_back_from_its_text() {
    assert_eq!(id().ts(), Timestamp(ID_EPOCH_MS + 7_212));
    let attempt = RecordId::attempt(Timestamp(1_790_000_000_123));
    assert_eq!(attempt.ts(), Timestamp(1_790_000_000_123));
    for id in [id(), attempt, RecordId::Message(MessageId(0))] {
        assert_eq!(id.to_string().parse(), Ok(id));
    }
    for bad in ["", "x", "x1", "x1-g", "+1", "01", " 1", "x01-5", "1-1"] {
        assert_eq!(bad.parse::<RecordId>(), Err(BadName), "{bad}");
    }
}

#[test]
fn a_later_status_wins_whenever_it_comes() {
    let mut record = change(Status::Acked, 30);
    record.merge(change(Status::Accepted, 10));
    record.merge(change(Status::Delivered, 20));
    assert_eq!((record.status(), record.status_at()), (Some(Status::Acked), Some(Timestamp(30))));
    assert_eq!(record.changes.len(), 3);
}

#[test]
fn the_gateways_counts_add_up_and_a_repeated_one_does_not() {
    let delivered = |by: &str, devices| {
        let mut record = change(Status::Delivered, 20);
        record.changes[0].by = by.into();
        record.changes[0].devices = devices;
        record
    };
    let mut record = delivered("gateway-1", 2);
    record.merge(delivered("gateway-2", 1));
    record.merge(delivered("gateway-1", 2));
    record.merge(delivered("gateway-1", 3));
    assert_eq!(record.delivered(), 4);
}

#[test]
fn what_is_sealed_stays_sealed() {
    let mut record = change(Status::Accepted, 1);
    record.text = Text::Sealed;
    let mut other = change(Status::Accepted, 1);
    other.text = Text::of("", "secret");
    record.merge(other.clone());
    assert_eq!(record.text, Text::Sealed);
    other.merge(record);
    assert_eq!((other.text.as_str(), other.words().iter().count()), ("", 0));
}

#[test]
fn metadata_says_what_is_sealed() {
    for sealed in [r#"{"sensitive":true}"#, r#"{"encrypted":"aes"}"#, r#"{"\u0073ensitive":1}"#, r#"{"sensitive":"#] {
        assert!(is_sealed(sealed), "{sealed}");
    }
    for open in ["", "{}", r#"{"sensitive":false}"#, r#"{"encrypted":null}"#, r#"{"note":"sensitive"}"#] {
        assert!(!is_sealed(open), "{open}");
    }
}

#[test]
fn nothing_of_a_clean_record_splits_a_line_or_is_endless() {
    let mut record = PushRecord::new(id(), "u:a\r\nb");
    record.from = "x\0y".into();
    record.kind = "ä".repeat(1_000).into();
    record.text = Text::Shown("a\nb\u{85}c".repeat(10_000).into());
    record.changes =
        (0..200).map(|n| Change { by: n.to_string().into(), ..change(Status::Acked, n).changes[0].clone() }).collect();
    record.uids = (0..100).map(|n| format!("user{n}").parse().expect("a uid")).collect();
    record.clean();
    assert_eq!((&*record.to, &*record.from), ("u:a  b", "x y"));
    assert_eq!(record.kind.len(), FIELD_BYTES_MAX);
    assert!(record.text.as_str().len() <= TEXT_BYTES_MAX && !record.text.as_str().contains(char::is_control));
    assert_eq!((record.changes.len(), record.uids.len()), (CHANGES_MAX, UIDS_MAX));
    let before = record.clone();
    record.clean();
    assert_eq!(record, before);
}

fn records() -> impl Strategy<Value = PushRecord> {
    let status = prop_oneof![
        Just(Status::Accepted),
        Just(Status::Queued),
        Just(Status::Delivered),
        Just(Status::Expired),
        Just(Status::Acked),
    ];
    let changes = prop::collection::vec((status, 0..4i64, 0..3u32, "[ab]?", "[xy]?"), 0..4);
    let text = prop_oneof![Just(Text::Unknown), Just(Text::Sealed), "[ab]{0,2}".prop_map(|t| Text::Shown(t.into()))];
    let fields = ("[ab]?", "[ab]?", text, any::<bool>());
    let place = prop::option::of((0..3u64, 0..3u64));
    (changes, fields, place, prop::option::of(0..3u32), prop::collection::vec("[a-d]", 0..3)).prop_map(
        |(changes, (from, key, text, ephemeral), place, online, uids)| PushRecord {
            from: from.into(),
            key: key.into(),
            text,
            ephemeral,
            place: place.map(|(epoch, seq)| (Epoch(epoch), Seq(seq))),
            online,
            uids: uids.iter().map(|uid| uid.parse().expect("a uid")).collect(),
            changes: changes
                .into_iter()
                .map(|(status, at, devices, by, reason)| Change {
                    status,
                    at,
                    devices,
                    by: by.into(),
                    reason: reason.into(),
                })
                .collect(),
            ..PushRecord::new(id(), "u:ann")
        },
    )
}

fn merged(records: impl IntoIterator<Item = PushRecord>) -> PushRecord {
    let mut records = records.into_iter();
    let mut first = records.next().expect("one record");
    first.clean();
    records.for_each(|record| first.merge(record));
    first
}

proptest! {
    #[test]
    fn the_order_of_events_and_their_repetition_do_not_matter(
        events in prop::collection::vec(records(), 1..6),
        order in any::<prop::sample::Index>(),
        again in any::<prop::sample::Index>(),
    ) {
        let once = merged(events.clone());
        let mut turned = events.clone();
        turned.rotate_left(order.index(events.len()));
        turned.reverse();
        turned.push(events[again.index(events.len())].clone());
        prop_assert_eq!(&merged(turned), &once);
        let (left, right) = events.split_at(events.len() / 2);
        if !left.is_empty() {
            prop_assert_eq!(&merged([merged(left.to_vec()), merged(right.to_vec())]), &once);
        }
        let mut twice = once.clone();
        twice.merge(once.clone());
        prop_assert_eq!(twice, once);
    }
}
