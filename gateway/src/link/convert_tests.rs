use link_down_item::Item as Down;
use link_up_item::Item as Up;

use super::*;

const ALONE: Place = Place { partition: PartitionId(0), partitions: Partitions::ONE };

fn down(item: Down) -> Result<Vec<FromLink>, InvalidItem> {
    down_at(ALONE, item)
}

fn down_at(place: Place, item: Down) -> Result<Vec<FromLink>, InvalidItem> {
    let mut out = Vec::new();
    from_wire(v1::LinkDownItem { item: Some(item) }, place, &PlatformTable::default(), &mut out)?;
    Ok(out)
}

fn up(values: Vec<ToLink>) -> Vec<Up> {
    let mut out = Vec::new();
    values.into_iter().for_each(|value| to_wire(value, &mut out));
    out.into_iter().map(|item| item.item.expect("content")).collect()
}

fn wire_message(seq: u64) -> v1::LinkMessage {
    let message = v1::Message { seq, id: seq.to_string(), ..Default::default() };
    v1::LinkMessage { message: Some(message), platforms: vec!["mobile".into()] }
}

fn wire_deliver(after: Option<u64>, upto: Option<u64>, seqs: &[u64]) -> Down {
    Down::Deliver(v1::LinkDeliver {
        partition: 0,
        owner_epoch: 1,
        lsn: 9,
        stream: "g:room".into(),
        epoch: "e1".into(),
        after,
        upto,
        messages: seqs.iter().map(|seq| wire_message(*seq)).collect(),
    })
}

fn key(text: &str) -> StreamKey {
    text.parse().expect("stream")
}

#[test]
fn a_deliver_keeps_its_range_and_platforms() {
    let items = down(wire_deliver(Some(4), Some(7), &[5, 7])).expect("valid");
    let [FromLink::Deliver(deliver)] = items.as_slice() else { panic!("{items:?}") };
    assert_eq!(deliver.range, Some(SeqRange { after: Seq(4), upto: Seq(7) }));
    assert_eq!(deliver.position, Position { partition: PartitionId(0), owner_epoch: 1, lsn: 9 });
    assert_eq!(deliver.messages.len(), 2);
    assert_eq!(deliver.messages[0].platforms.as_slice(), [PlatformTable::default().intern("mobile")]);
    assert!(deliver.bytes > 0);
}

#[test]
fn impossible_items_are_refused() {
    let bad_seqs: [(Option<u64>, Option<u64>, &[u64]); 8] = [
        (Some(4), None, &[]),
        (None, Some(4), &[]),
        (Some(5), Some(4), &[]),
        (Some(4), Some(6), &[7]),
        (Some(4), Some(6), &[4]),
        (Some(4), Some(6), &[6, 5]),
        (None, None, &[1]),
        (Some(0), Some(1 << 53), &[]),
    ];
    for (after, upto, seqs) in bad_seqs {
        let refused = down(wire_deliver(after, upto, seqs)).expect_err("refused");
        assert_eq!(refused, InvalidItem::Seq, "{after:?} {upto:?} {seqs:?}");
    }
    let opened = |stream: &str, epoch: &str| {
        Down::Opened(v1::LinkOpened { stream: stream.into(), epoch: epoch.into(), ..Default::default() })
    };
    assert_eq!(down(opened("x:y", "e")).expect_err("refused"), InvalidItem::Name);
    assert_eq!(down(opened("u:a", "")).expect_err("refused"), InvalidItem::Epoch);
    assert_eq!(down(Down::Reply(v1::LinkReply::default())).expect_err("refused"), InvalidItem::Empty);
    assert_eq!(down(Down::Attached(v1::LinkAttached::default())).expect_err("refused"), InvalidItem::AttachedTwice);
}

#[test]
fn a_page_must_lie_between_start_and_head() {
    let opened = |start, head, seqs: &[u64]| {
        let messages = seqs.iter().map(|seq| wire_message(*seq)).collect();
        let (stream, epoch) = ("u:alice".into(), "e".into());
        Down::Opened(v1::LinkOpened {
            corr: 1,
            stream,
            epoch,
            start,
            head,
            first: 1,
            page: true,
            messages,
            ..Default::default()
        })
    };
    let items = down(opened(2, 4, &[3, 4])).expect("valid");
    let [FromLink::Opened(Opened { result: Ok(stream), .. })] = items.as_slice() else { panic!("{items:?}") };
    assert_eq!(stream.page.as_ref().map(Vec::len), Some(2));
    assert_eq!(down(opened(2, 4, &[2])).expect_err("refused"), InvalidItem::Seq);
    assert_eq!(down(opened(5, 4, &[])).expect_err("refused"), InvalidItem::Seq);
}

#[test]
fn errors_keep_code_and_place() {
    let error = v1::LinkError {
        code: "EXPIRED".into(),
        epoch: "e2".into(),
        head: Some(7),
        first: Some(3),
        ..Default::default()
    };
    let items = down(Down::Reply(v1::LinkReply { corr: 8, error: Some(error), ok: None })).expect("valid");
    let [FromLink::Reply { corr: 8, result: Err(error) }] = items.as_slice() else { panic!("{items:?}") };
    assert_eq!(error.code, ErrorCode::Expired);
    assert_eq!(error.stands.as_ref().map(|head| (head.head, head.first)), Some((Seq(7), Seq(3))));
}

#[test]
fn positions_become_one_value_each() {
    let positions = (0..3).map(|lsn| v1::LinkCursor { partition: 0, owner_epoch: 1, lsn }).collect();
    let items = down(Down::Position(v1::LinkPosition { positions })).expect("valid");
    assert_eq!(items.len(), 3);
}

#[test]
fn what_belongs_to_another_partition_is_refused() {
    let partitions = Partitions::new(7).expect("a valid count");
    let place = Place { partition: partitions.of("g:room"), partitions };
    let deliver = |partition, stream: &str| {
        let Down::Deliver(deliver) = wire_deliver(Some(4), Some(7), &[5, 7]) else { unreachable!() };
        Down::Deliver(v1::LinkDeliver { partition, stream: stream.into(), ..deliver })
    };
    let ours = place.partition.0;
    assert!(down_at(place, deliver(ours, "g:room")).is_ok());
    assert_ne!(partitions.of("u:alice"), place.partition);
    for (partition, stream) in [(ours + 1, "g:room"), (ours, "u:alice")] {
        let refused = down_at(place, deliver(partition, stream)).expect_err("refused");
        assert_eq!(refused, InvalidItem::Elsewhere);
    }
    let also = v1::LinkAlso { corr: 5, streams: vec!["u:alice".into(), "g:room".into()] };
    let items = down_at(place, Down::Also(also)).expect("wherever they are");
    assert!(matches!(&items[..], [FromLink::Also { corr: 5, streams }] if streams.len() == 2), "{items:?}");
}

#[test]
fn an_attachment_says_how_many_partitions_there_are_and_whose_log_it_speaks_of() {
    let attached_as = |partitions, partition| {
        let histories = vec![v1::LinkHistory { partition: 2, history: 9 }];
        let item = Down::Attached(v1::LinkAttached { partitions, histories });
        attached(Some(v1::LinkDownItem { item: Some(item) }), PartitionId(partition))
    };
    assert_eq!(attached_as(3, 2), Ok((Partitions::new(3).expect("a valid count"), Some(9))));
    assert_eq!(attached_as(3, 1).map(|(_, history)| history), Ok(None));
    for (partitions, partition) in [(0, 0), (1_025, 0), (3, 3)] {
        assert_eq!(attached_as(partitions, partition), Err(InvalidItem::Partitions));
    }
    assert_eq!(attached(None, PartitionId(0)), Err(InvalidItem::NotAttached));
}

#[test]
fn an_announcement_ends_with_where_the_node_stands() {
    let streams = (0..INTEREST_STREAMS_MAX + 1).map(|i| key(&format!("g:{i}"))).collect();
    let position = Some(Position { partition: PartitionId(1), owner_epoch: 2, lsn: 3 });
    let items = up(vec![ToLink::Announce { streams, position }]);
    let [Up::Interest(first), Up::Interest(second), Up::InterestEnd(end)] = items.as_slice() else {
        panic!("{items:?}")
    };
    assert_eq!((first.add.len(), second.add.len()), (INTEREST_STREAMS_MAX, 1));
    assert_eq!(end.cursors, vec![v1::LinkCursor { partition: 1, owner_epoch: 2, lsn: 3 }]);
}

#[test]
fn forgets_travel_together_but_never_overtake() {
    let forget = |stream: &str| ToLink::Forget { stream: key(stream) };
    let items = up(vec![forget("g:1"), forget("g:2"), ToLink::Credit { bytes: 5 }, forget("g:3")]);
    let [Up::Interest(first), Up::Credit(_), Up::Interest(last)] = items.as_slice() else { panic!("{items:?}") };
    assert_eq!(first.remove, ["g:1", "g:2"]);
    assert_eq!(last.remove, ["g:3"]);
}

#[test]
fn opens_and_sends_keep_their_fields() {
    let cursor = Some((Epoch::from("e"), Seq(4)));
    let streams = vec![
        OpenStream { stream: key("u:bob"), cursor, auto: false },
        OpenStream { stream: key("g:1"), cursor: None, auto: true },
    ];
    let uid: Uid = "bob".parse().expect("uid");
    let open = ToLink::Open { corr: 7, uid: uid.clone(), device: "d".into(), streams, auto_join: true };
    let send = Send {
        to: key("g:1"),
        client_msg_id: "c".into(),
        kind: "text".into(),
        content: Content::Binary(bytes::Bytes::from_static(b"\x00\x01")),
        metadata: "{}".into(),
        ephemeral: true,
        priority: Some(Priority::Low),
    };
    let request = ToLink::Request { corr: 8, uid: Some(uid), device: "d".into(), op: LinkOp::Send(Box::new(send)) };
    let items = up(vec![open, request]);
    let [Up::Open(open), Up::Request(request)] = items.as_slice() else { panic!("{items:?}") };
    assert_eq!((open.streams[0].after, open.streams[1].after), (Some(4), None));
    assert_eq!((open.streams[0].auto, open.streams[1].auto), (false, true));
    let Some(link_request::Op::Send(send)) = &request.op else { panic!("{request:?}") };
    assert_eq!(send.content_bytes.as_ref(), b"\x00\x01");
    assert_eq!((send.class(), send.priority()), (v1::MessageClass::Ephemeral, v1::Priority::Low));
}
