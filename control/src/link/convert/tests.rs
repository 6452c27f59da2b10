use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message as _;
use smallvec::smallvec;
use tidegate_control_core::domain::{MessageId, PartitionId, Timestamp};
use tidegate_control_core::ports::Head;

use super::*;

const GATEWAY: GatewayId = GatewayId(3);
const ORIGIN: Origin = Origin { partition: PartitionId(0), history: Epoch(7), owner_epoch: OwnerEpoch(5) };

fn parse(item: link_up_item::Item) -> Result<Up, BadItem> {
    up(GATEWAY, ORIGIN, v1::LinkUpItem { item: Some(item) })
}

fn request(uid: &str, op: link_request::Op) -> Result<Up, BadItem> {
    parse(link_up_item::Item::Request(v1::LinkRequest { corr: 1, uid: uid.into(), device: "d".into(), op: Some(op) }))
}

fn command(up: Result<Up, BadItem>) -> Command {
    match up {
        Ok(Up::Work(LinkWork::Request { corr: 1, command })) => command,
        other => panic!("no command: {other:?}"),
    }
}

#[test]
fn what_breaks_the_protocol_is_refused() {
    let open = |corr, uid: &str, stream: &str| {
        let streams =
            vec![v1::LinkOpenStream { stream: stream.into(), after: None, epoch: String::new(), auto: false }];
        link_up_item::Item::Open(v1::LinkOpen { corr, uid: uid.into(), streams, ..Default::default() })
    };
    let interest =
        |stream: &str| link_up_item::Item::Interest(v1::LinkInterest { add: vec![stream.into()], remove: Vec::new() });
    assert!(parse(open(1, "a", "g:1")).is_ok());
    let bad = [
        (open(0, "a", "g:1"), BadItem::Corr),
        (open(1, "", "g:1"), BadItem::Uid),
        (open(1, "a b", "g:1"), BadItem::Uid),
        (open(1, "a", "x:1"), BadItem::Stream),
        (interest("u:"), BadItem::Stream),
        (link_up_item::Item::Hello(v1::LinkHello::default()), BadItem::Hello),
    ];
    for (item, why) in bad {
        assert_eq!(parse(item).expect_err("refused"), why);
    }
    assert_eq!(up(GATEWAY, ORIGIN, v1::LinkUpItem { item: None }).expect_err("refused"), BadItem::Empty);
    let pull = link_request::Op::Pull(v1::LinkPull { stream: "g:1".into(), ..Default::default() });
    assert!(request("", pull).is_ok(), "the node itself may pull");
    let mark = link_request::Op::Ack(v1::LinkMark { stream: "g:1".into(), ..Default::default() });
    assert_eq!(request("", mark).expect_err("no mark without a user"), BadItem::Uid);
}

#[test]
fn what_a_client_got_wrong_is_its_own_refusal() {
    let send = |to: &str, kind: &str, metadata: &str| {
        let send = v1::LinkSend { to: to.into(), r#type: kind.into(), metadata: metadata.into(), ..Default::default() };
        request("a", link_request::Op::Send(send))
    };
    for (to, kind, metadata, code) in [
        ("nobody", "text", "", ErrorCode::BadRequest),
        ("g:1", "a b", "", ErrorCode::BadRequest),
        ("g:1", "text", "[]", ErrorCode::BadRequest),
        ("g:1", "system_group", "", ErrorCode::Forbidden),
    ] {
        match send(to, kind, metadata) {
            Ok(Up::Refused { corr: 1, refusal }) => assert_eq!(refusal.code, code),
            other => panic!("{to} {kind}: {other:?}"),
        }
    }
    match command(send("u:b", "", "{}")) {
        Command::Push(push) => {
            assert_eq!((&*push.kind, push.sender.as_ref().map(Uid::as_str)), ("text", Some("a")));
            assert!(!push.ephemeral && push.message_id.is_none());
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn limits_and_epochs_of_a_pull() {
    let pull = |epoch: &str, limit| {
        let pull = v1::LinkPull { stream: "u:a".into(), epoch: epoch.into(), after: 4, limit, since_ts: None };
        match command(request("a", link_request::Op::Pull(pull))) {
            Command::Pull { epoch, limit, after: Seq(4), .. } => (epoch, limit),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(pull("", 0), (None, PAGE_MESSAGES_MAX));
    assert_eq!(pull("k3f9", 7), (Some("k3f9".parse().expect("epoch")), 7));
    // One that is not ours is not "none": it must not match.
    assert_eq!(pull("ILO!", 5_000), (Some(FOREIGN_EPOCH), PAGE_MESSAGES_MAX));
}

#[test]
fn the_cursor_of_our_partition_is_found() {
    let cursor = |partition| v1::LinkCursor { partition, owner_epoch: 2, lsn: 9 };
    let end = |cursors| match parse(link_up_item::Item::InterestEnd(v1::LinkInterestEnd { cursors })) {
        Ok(Up::Work(LinkWork::Input(Input::InterestEnd { cursor, .. }))) => cursor,
        other => panic!("{other:?}"),
    };
    assert_eq!(end(vec![cursor(4), cursor(0)]), Some((OwnerEpoch(2), Lsn(9))));
    assert_eq!(end(vec![cursor(4)]), None);
}

fn stored(seq: u64) -> Stored {
    let body = Body {
        id: MessageId(7),
        from: "bob".into(),
        to: "alice".into(),
        client_msg_id: "c-1".into(),
        kind: "text".into(),
        title: "t".into(),
        content: Content::Binary(Bytes::from_static(b"\0\x01")),
        metadata: "{}".into(),
        ts: Timestamp(99),
        priority: Priority::Low,
        expires: None,
        platforms: smallvec!["mobile".into()],
    };
    let conversation =
        Some((StreamKey::conversation(&"bob".parse().expect("uid"), &"alice".parse().expect("uid")), Seq(31)));
    Stored { seq: Seq(seq), body: Arc::new(body), conversation }
}

#[test]
fn a_delivery_keeps_everything() {
    let (stream, epoch) = ("u:alice".parse().expect("stream"), Epoch(40));
    let item =
        LinkItem::Deliver { lsn: Lsn(12), stream, epoch, after: Seq(4), upto: Seq(6), messages: smallvec![stored(5)] };
    let Some(v1::LinkDownItem { item: Some(link_down_item::Item::Deliver(deliver)) }) =
        down(ORIGIN, LinkOut::Item(item))
    else {
        panic!("a delivery")
    };
    assert_eq!((deliver.partition, deliver.owner_epoch, deliver.lsn), (0, 5, 12));
    assert_eq!((deliver.after, deliver.upto, deliver.epoch.as_str()), (Some(4), Some(6), "18"));
    let shared = &deliver.messages[0];
    assert_eq!(shared.platforms, ["mobile"]);
    let message = shared.message.clone().expect("a message");
    let expected = v1::Message {
        seq: 5,
        id: "7".into(),
        from: "bob".into(),
        to: "alice".into(),
        conv: "c:alice:bob".into(),
        conv_seq: 31,
        client_msg_id: "c-1".into(),
        r#type: "text".into(),
        title: "t".into(),
        content: String::new(),
        content_bytes: Bytes::from_static(b"\0\x01"),
        metadata: "{}".into(),
        ts: 99,
        priority: v1::Priority::Low as i32,
    };
    assert_eq!(message, expected);
}

#[test]
fn ephemeral_messages_have_no_range() {
    let item = LinkItem::Ephemeral { stream: "g:1".parse().expect("stream"), epoch: Epoch(1), body: stored(0).body };
    match down(ORIGIN, LinkOut::Item(item)).and_then(|item| item.item) {
        Some(link_down_item::Item::Deliver(deliver)) => {
            assert_eq!((deliver.lsn, deliver.after, deliver.upto), (0, None, None));
            assert_eq!(deliver.messages[0].message.as_ref().map(|message| message.seq), Some(0));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_page_that_does_not_fit_is_told_from_an_empty_one() {
    let opened = |page: Option<Vec<Stored>>| {
        let head = Head { epoch: Epoch(1), head: Seq(5), first: Seq(1) };
        let (start, recovered) = (Seq(4), Recovered::Partial);
        let stream = OpenedStream { head, start, recovered, page, open_group: true, listed: true };
        down_opened(&Opened { corr: 8, stream: "u:alice".parse().expect("stream"), result: Ok(stream) })
    };
    assert!(!opened(None).page);
    assert!(opened(Some(Vec::new())).page);
    assert_eq!(opened(Some(vec![stored(5)])).messages.len(), 1);
}

#[test]
fn internals_do_not_leave() {
    let refusal = Refusal::new(ErrorCode::Internal, "/var/lib/x: disk on fire");
    let item = refused(4, &refusal);
    let Some(link_down_item::Item::Reply(reply)) = item.item else { panic!("a reply") };
    let error = reply.error.expect("an error");
    assert!(error.code == "INTERNAL" && !error.message.contains("disk"), "{error:?}");
}

proptest! {
    #[test]
    fn no_item_of_a_gateway_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(item) = v1::LinkUpItem::decode(&bytes[..]) {
            let _ = up(GATEWAY, ORIGIN, item);
        }
    }

    #[test]
    fn no_text_of_a_gateway_panics(text in "\\PC{0,70}", kind in 0..5u8, after in any::<u64>(), limit in any::<u32>()) {
        let op = match kind {
            0 => link_request::Op::Send(v1::LinkSend { to: text.clone(), metadata: text.clone(), ..Default::default() }),
            1 => link_request::Op::Ack(v1::LinkMark { stream: text.clone(), epoch: text.clone(), seq: after }),
            2 => link_request::Op::Pull(v1::LinkPull { stream: text.clone(), epoch: text.clone(), after, limit, since_ts: None }),
            3 => link_request::Op::Heads(v1::LinkHeads { streams: vec![text.clone()] }),
            _ => link_request::Op::Read(v1::LinkMark { stream: "u:a".into(), epoch: text.clone(), seq: after }),
        };
        let _ = request(&text, op.clone());
        let _ = request("a", op);
    }
}
