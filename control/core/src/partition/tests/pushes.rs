use std::collections::HashSet;

use super::*;
use crate::partition::limits;

#[test]
fn seqs_are_contiguous_and_ids_rise() {
    let mut rig = Rig::new();
    let mut ids = Vec::new();
    for batch in [1, 5, 2] {
        for (at, output) in rig.turn(pushes("u:ann", batch)).into_iter().filter_map(reply).enumerate() {
            let Ok(Reply::Pushed { stream, epoch, seq, id, duplicate: false, .. }) = output.1 else {
                panic!("refused")
            };
            assert_eq!((stream.as_str(), epoch, output.0), ("u:ann", BASE, Token(1_000_000 + at as u64)));
            assert_eq!(seq, Some(Seq(ids.len() as u64 + 1)));
            ids.push(id);
        }
    }
    assert!(ids.is_sorted() && ids.iter().collect::<HashSet<_>>().len() == 8);
    rig.restart();
    assert_eq!(rig.push(push("u:ann", "after")).0, Seq(9));
    assert_eq!(rig.partition.stats().head_misses, 1);
}

#[test]
fn the_same_key_gets_the_first_place_again() {
    let mut rig = Rig::new();
    assert_eq!(rig.push(keyed("g:go", "hi", "k")), (Seq(1), false));
    rig.push(push("g:go", "between"));
    assert_eq!(rig.push(keyed("g:go", "hi", "k")), (Seq(1), true));
    rig.restart();
    assert_eq!(rig.push(keyed("g:go", "hi", "k")), (Seq(1), true));
    assert_eq!(rig.refusal(Command::Push(Box::new(keyed("g:go", "other", "k")))), ErrorCode::BadRequest);
    assert_eq!(rig.push(keyed("u:ann", "other", "k")), (Seq(1), false), "a key is one stream's affair");
    assert_eq!(rig.push(push("g:go", "after")).0, Seq(3));
}

#[test]
fn the_same_key_twice_in_one_batch_is_one_message() {
    let mut rig = Rig::new();
    let batch: Vec<Input> =
        ["hi", "hi", "other"].map(|text| rig.command(Command::Push(Box::new(keyed("u:ann", text, "k"))))).into();
    let replies: Vec<_> = rig.turn(batch).into_iter().filter_map(reply).map(|(_, result)| result).collect();
    let [Ok(first), Ok(second), Err(third)] = &replies[..] else { panic!("{replies:?}") };
    let (Reply::Pushed { id: a, seq: s, .. }, Reply::Pushed { id: b, seq: t, duplicate, .. }) = (first, second) else {
        panic!("{replies:?}")
    };
    assert!(a == b && s == t && *duplicate);
    assert_eq!(third.code, ErrorCode::BadRequest);
    assert_eq!(rig.disk.records().len(), 1);
}

#[test]
fn keys_of_clients_and_backends_never_meet() {
    let mut rig = Rig::new();
    let client = |who: &str| Push { client_msg_id: "k".into(), ..send(who, "g:go", "hi") };
    assert_eq!(rig.push(keyed("g:go", "hi", "k")), (Seq(1), false));
    assert_eq!(rig.push(client("ann")), (Seq(2), false));
    assert_eq!(rig.push(client("bob")), (Seq(3), false));
    assert_eq!(rig.push(client("ann")), (Seq(2), true));
}

#[test]
fn a_send_to_a_user_stands_in_the_conversation_and_both_inboxes() {
    let mut rig = Rig::new();
    rig.push(push("u:bob", "from a backend"));
    let Ok(Reply::Pushed { stream, seq, .. }) = rig.ask(Command::Push(Box::new(send("bob", "u:ann", "hi")))) else {
        panic!("refused")
    };
    assert_eq!((stream.as_str(), seq), ("c:ann:bob", Some(Seq(1))));
    assert_eq!(rig.disk.records().len(), 2, "one record holds all three places");
    for (who, name, seq) in [("ann", "u:ann", 1), ("bob", "u:bob", 2), ("ann", "c:ann:bob", 1)] {
        let (page, head) = rig.pull(Some(who), name, 0).expect("own stream");
        assert_eq!(head.head, Seq(seq), "{name}");
        let last = page.messages.last().expect("it has a message");
        assert_eq!((&*last.body.from, &*last.body.to), ("bob", "ann"));
        let conversation = last.conversation.as_ref().map(|(stream, seq)| (stream.as_str(), seq.0));
        assert_eq!(conversation, name.starts_with("u:").then_some(("c:ann:bob", 1)));
    }
    let keyed = || Push { client_msg_id: "k".into(), ..send("ann", "u:bob", "hi") };
    assert_eq!(rig.push(keyed()), (Seq(2), false));
    assert_eq!(rig.push(keyed()), (Seq(2), true));
}

#[test]
fn a_note_to_oneself_has_two_places() {
    let mut rig = Rig::new();
    assert_eq!(rig.push(send("ann", "u:ann", "milk")).0, Seq(1));
    assert_eq!(rig.pull(Some("ann"), "u:ann", 0).expect("own inbox").1.head, Seq(1));
    assert_eq!(rig.pull(Some("ann"), "c:ann:ann", 0).expect("own conversation").1.head, Seq(1));
}

#[test]
fn refusals_change_nothing_and_name_the_field() {
    let mut rig = Rig::with(PartitionConfig::default());
    let long = |len: usize| -> Box<str> { "x".repeat(len).into() };
    let cases = [
        (Push { content: Content::Text(long(limits::CONTENT_BYTES_MAX + 1)), ..push("u:a", "") }, "content"),
        (Push { metadata: long(limits::METADATA_BYTES_MAX + 1), ..push("u:a", "") }, "metadata"),
        (Push { title: long(limits::TITLE_BYTES_MAX + 1), ..push("u:a", "") }, "title"),
        (Push { kind: long(limits::KIND_BYTES_MAX + 1), ..push("u:a", "") }, "type"),
        (Push { client_msg_id: long(limits::CLIENT_MSG_ID_BYTES_MAX + 1), ..push("u:a", "") }, "client_msg_id"),
        (Push { message_id: Some(long(limits::MESSAGE_ID_BYTES_MAX + 1)), ..push("u:a", "") }, "message_id"),
        (
            Push { platforms: SmallVec::from_elem("web".into(), limits::PLATFORMS_MAX + 1), ..push("u:a", "") },
            "platforms",
        ),
        (push("c:a:b", ""), "to"),
    ];
    for (push, field) in cases {
        let refusal = rig.ask(Command::Push(Box::new(push))).expect_err("beyond a bound");
        assert!(matches!(refusal.code, ErrorCode::TooLarge | ErrorCode::BadRequest));
        assert!(refusal.message.starts_with(&format!("{field}:")), "{}", refusal.message);
    }
    assert_eq!(rig.refusal(Command::Push(Box::new(push("g:none", "")))), ErrorCode::NotFound);
    assert_eq!(rig.refusal(Command::Push(Box::new(send("ann", "g:_all", "")))), ErrorCode::Forbidden);
    assert!(rig.disk.records().is_empty());
    assert_eq!(rig.push(push("g:_all", "to everybody")).0, Seq(1));
    let full = Content::Text(long(limits::CONTENT_BYTES_MAX));
    assert_eq!(rig.push(Push { content: full, ..push("u:a", "") }).0, Seq(1));
    assert_eq!(rig.partition.stats().refusals.iter().sum::<u64>(), 10);
}

#[test]
fn ephemeral_messages_have_no_place() {
    let mut rig = Rig::new();
    rig.attach(GATEWAY, 1 << 20);
    rig.open(LinkOpen { streams: vec![named("u:ann", None), named("g:go", None)], ..open("ann", "d") });
    let ephemeral = |push| Command::Push(Box::new(Push { ephemeral: true, message_id: Some("k".into()), ..push }));
    let records = rig.disk.records().len();
    for (command, to, answered) in [
        (ephemeral(push("u:ann", "")), "u:ann", "u:ann"),
        (ephemeral(send("bob", "g:go", "")), "g:go", "g:go"),
        (ephemeral(send("bob", "u:ann", "")), "u:ann", "c:ann:bob"),
    ] {
        let input = rig.command(command);
        let out = rig.turn(vec![input]);
        let told = out.iter().any(|output| {
            matches!(output, Output::Reply { result: Ok(Reply::Pushed { stream, seq: None, duplicate: false, .. }), .. }
                if stream.as_str() == answered)
        });
        assert!(told, "{out:?}");
        let items = links(out, GATEWAY);
        assert!(matches!(&items[..], [LinkItem::Ephemeral { stream, .. }] if stream.as_str() == to), "{items:?}");
    }
    assert_eq!(rig.disk.records().len(), records);
}

#[test]
fn time_never_runs_backwards_in_a_stream() {
    let mut rig = Rig::new();
    for step in [0, 3_600_000, -7_200_000, 1] {
        rig.now += step;
        rig.push(push("u:ann", ""));
        rig.restart();
    }
    let (page, _) = rig.pull(None, "u:ann", 0).expect("readable");
    assert!(page.messages.is_sorted_by_key(|m| m.body.ts));
    assert!(page.messages.is_sorted_by(|a, b| a.body.id < b.body.id));
}
