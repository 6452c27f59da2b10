//! PROTOCOL's frames as they stand there, every way to be refused, and the agreement of the two encodings.

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message as _;
use serde_json::{Value, json};
use tidegate_proto::v1::{client_frame, ok, server_frame::Body};

use super::*;
use crate::client::ops::{AckMode, Connect, Content, Op, Priority, Send};

use crate::ids::{Cursor, Seq, StreamKey};

fn json(text: &str) -> Result<Request, DecodeError> {
    decode(Encoding::Json, &Incoming::Text(text))
}

fn stream(text: &str) -> StreamKey {
    text.parse().unwrap()
}

fn epoch(text: &str) -> Epoch {
    Epoch::from(text)
}

fn cursor(at: &str, seq: u64) -> Cursor {
    Cursor { epoch: epoch(at), seq: Seq(seq) }
}

/// The refusal of request 7, as code and message.
fn refused(result: Result<Request, DecodeError>) -> (ErrorCode, String) {
    match result {
        Err(DecodeError::Refused { id: 7, code, message }) => (code, message.into_owned()),
        other => panic!("expected a refusal of request 7, got {other:?}"),
    }
}

#[test]
fn every_operation_of_the_protocol() {
    let connect = json(
        r#"{"id":1,"connect":{"token":"t","device":"ios-1","platform":"mobile","cursors":{"u:alice":{"epoch":"k3f9","seq":17},
            "g:42":{"epoch":"e","seq":3}},"auto_join":false,"ack_mode":"sent","ping_interval_ms":60000}}"#,
    );
    let expected = Connect {
        token: Some("t".into()),
        device: "ios-1".into(),
        platform: "mobile".into(),
        cursors: vec![(stream("g:42"), cursor("e", 3)), (stream("u:alice"), cursor("k3f9", 17))],
        auto_join: false,
        ack_mode: AckMode::Sent,
        ping_interval_ms: Some(60_000),
    };
    assert_eq!(connect, Ok(Request { id: 1, op: Op::Connect(Box::new(expected)) }));
    let send = Send {
        to: stream("g:42"),
        client_msg_id: "c-1".into(),
        kind: "text".into(),
        content: Content::Text("hi".into()),
        metadata: "{}".into(),
        ephemeral: false,
        priority: Some(Priority::Normal),
    };
    let (g42, alice) = (stream("g:42"), stream("u:alice"));
    for (text, op) in [
        (
            r#"{"join":{"stream":"g:42","cursor":{"epoch":"e","seq":3}},"id":2}"#,
            Op::Join { stream: g42.clone(), cursor: Some(cursor("e", 3)) },
        ),
        (r#"{"id":2,"join":{"stream":"g:42","cursor":null}}"#, Op::Join { stream: g42.clone(), cursor: None }),
        (r#"{"id":2,"leave":{"stream":"g:42"}}"#, Op::Leave { stream: g42.clone() }),
        (
            r#"{"id":2,"send":{"to":"g:42","client_msg_id":"c-1","type":"text","content":"hi","metadata":{},"class":"durable","priority":"normal"}}"#,
            Op::Send(Box::new(send)),
        ),
        (
            r#"{"id":2,"ack":{"stream":"u:alice","epoch":"e","seq":19}}"#,
            Op::Ack { stream: alice, epoch: Some(epoch("e")), seq: Seq(19) },
        ),
        (r#"{"id":2,"read":{"stream":"g:42","seq":20}}"#, Op::Read { stream: g42.clone(), epoch: None, seq: Seq(20) }),
        (
            r#"{"id":2,"pull":{"stream":"g:42","epoch":"e","after":17,"limit":5000000000}}"#,
            Op::Pull {
                stream: g42.clone(),
                epoch: Some(epoch("e")),
                after: Seq(17),
                since_ts: None,
                limit: Some(1000),
            },
        ),
        (
            r#"{"id":2,"pull":{"stream":"g:42","since_ts":1790000000000}}"#,
            Op::Pull {
                stream: g42.clone(),
                epoch: None,
                after: Seq(0),
                since_ts: Some(1_790_000_000_000),
                limit: None,
            },
        ),
        (
            r#"{"id":2,"sync":{"cursors":{"g:42":{"epoch":"e","seq":3}}}}"#,
            Op::Sync { cursors: vec![(g42.clone(), cursor("e", 3))] },
        ),
        (r#"{"id":2,"head":{"stream":"g:42"}}"#, Op::Head { stream: g42.clone() }),
        (r#"{"id":2,"ping":{}}"#, Op::Ping),
        (r#"{"id":2,"presence":{"uids":["bob"],"subscribe":true}}"#, Op::Unimplemented("presence")),
        (r#"{"id":2,"focus":{"stream":"g:42"}}"#, Op::Unimplemented("focus")),
        (r#"{"id":2,"refresh":{"token":"t"}}"#, Op::Unimplemented("refresh")),
        (r#"{"id":2,"report":{"topic":"gps","data":{"a":[1]}}}"#, Op::Unimplemented("report")),
        (r#"{"id":2,"logout":{"all":false}}"#, Op::Unimplemented("logout")),
        (r#"{"id":2,"head":{"stream":"g:42","later":[{}]},"trace":"x"}"#, Op::Head { stream: g42 }),
    ] {
        assert_eq!(json(text), Ok(Request { id: 2, op }), "{text}");
    }
}

#[test]
fn what_is_left_out_has_its_default() {
    let expected = Connect {
        token: None,
        device: "".into(),
        platform: "".into(),
        cursors: vec![],
        auto_join: true,
        ack_mode: AckMode::Client,
        ping_interval_ms: None,
    };
    let request = Ok(Request { id: REQUEST_ID_MAX, op: Op::Connect(Box::new(expected)) });
    assert_eq!(json(r#"{"id":2147483647,"connect":{}}"#), request);
    assert_eq!(json(r#"{"id":2147483647,"connect":{"token":null,"cursors":null,"auto_join":null}}"#), request);
    let expected = Send {
        to: stream("u:bob"),
        client_msg_id: "".into(),
        kind: "text".into(),
        content: Content::Text("".into()),
        metadata: "".into(),
        ephemeral: false,
        priority: None,
    };
    let request = Ok(Request { id: 7, op: Op::Send(Box::new(expected)) });
    assert_eq!(json(r#"{"id":7,"send":{"to":"u:bob"}}"#), request);
    let send = v1::SendOp { to: "u:bob".into(), ..Default::default() };
    let frame = v1::ClientFrame { id: 7, op: Some(client_frame::Op::Send(send)) };
    assert_eq!(proto(&frame.encode_to_vec()), request);
}

#[test]
fn frames_without_a_valid_id_are_fatal() {
    for text in [
        "",
        "[]",
        "7",
        "{",
        r#"{"ping":{}}"#,
        r#"{"id":0,"ping":{}}"#,
        r#"{"id":-1,"ping":{}}"#,
        r#"{"id":2147483648,"ping":{}}"#,
        r#"{"id":"7","ping":{}}"#,
        r#"{"id":7.0,"ping":{}}"#,
        r#"{"id":null,"ping":{}}"#,
        r#"{"id":7,"id":8,"ping":{}}"#,
        r#"{"id":7,"ping":{}}x"#,
        r#"{"id":7,"ping":{}"#,
        r#"{"id":7,"ping":{"a":}}"#,
    ] {
        assert_eq!(json(text), Err(DecodeError::Fatal), "{text}");
    }
    assert_eq!(decode(Encoding::Json, &Incoming::Binary(br#"{"id":7,"ping":{}}"#)), Err(DecodeError::Fatal));
    assert_eq!(decode(Encoding::Proto, &Incoming::Text("\u{8}\u{7}")), Err(DecodeError::Fatal));
}

#[test]
fn one_known_operation_is_needed() {
    for text in [r#"{"id":7}"#, r#"{"id":7,"dance":{}}"#] {
        assert_eq!(refused(json(text)).0, ErrorCode::Unimplemented, "{text}");
    }
    for text in [
        r#"{"id":7,"ping":{},"head":{"stream":"g:42"}}"#,
        r#"{"id":7,"ping":{},"ping":{}}"#,
        r#"{"id":7,"ping":{},"logout":{}}"#,
    ] {
        assert_eq!(
            refused(json(text)),
            (ErrorCode::BadRequest, "more than one operation in a frame".to_owned()),
            "{text}"
        );
    }
}

#[test]
fn refusals_name_the_field() {
    let long = |n| "x".repeat(n);
    let cases = [
        ("ping", json!(5), "ping"),
        ("ping", json!(null), "ping"),
        ("presence", json!([]), "presence"),
        ("join", json!("g:42"), "join"),
        ("join", json!({}), "join.stream"),
        ("join", json!({"stream": 42}), "join.stream"),
        ("join", json!({"stream": "g:"}), "join.stream"),
        ("join", json!({"stream": "g:a b"}), "join.stream"),
        ("join", json!({"stream": "c:b:a"}), "join.stream"),
        ("join", json!({"stream": format!("g:{}", long(65))}), "join.stream"),
        ("join", json!({"stream": "g:42", "cursor": []}), "join.cursor"),
        ("join", json!({"stream": "g:42", "cursor": {"epoch": "e"}}), "join.cursor.seq"),
        ("join", json!({"stream": "g:42", "cursor": {"epoch": 1, "seq": 1}}), "join.cursor.epoch"),
        ("leave", json!({"stream": null}), "leave.stream"),
        ("head", json!({"stream": "x:42"}), "head.stream"),
        ("ack", json!({"stream": "g:42", "epoch": "e"}), "ack.seq"),
        ("ack", json!({"stream": "g:42", "seq": -1}), "ack.seq"),
        ("ack", json!({"stream": "g:42", "seq": 1.5}), "ack.seq"),
        ("ack", json!({"stream": "g:42", "seq": 9_007_199_254_740_992u64}), "ack.seq"),
        ("ack", json!({"stream": "g:42", "seq": 1, "epoch": long(65)}), "ack.epoch"),
        ("read", json!({"stream": "g:42", "seq": "1"}), "read.seq"),
        ("read", json!({"stream": "g:42", "seq": 1, "epoch": "a\nb"}), "read.epoch"),
        ("pull", json!({"stream": "g:42"}), "pull.after"),
        ("pull", json!({"stream": "g:42", "after": 1, "limit": "all"}), "pull.limit"),
        ("pull", json!({"stream": "g:42", "since_ts": -5}), "pull.since_ts"),
        ("pull", json!({"stream": "g:42", "since_ts": true}), "pull.since_ts"),
        ("sync", json!({"cursors": []}), "sync.cursors"),
        ("sync", json!({"cursors": {"g:42": 3}}), "sync.cursors"),
        ("sync", json!({"cursors": {"42": {"epoch": "e", "seq": 1}}}), "sync.cursors"),
        ("sync", json!({"cursors": {"g:42": {"epoch": "e", "seq": 1e3}}}), "sync.cursors.seq"),
        ("connect", json!({"token": 1}), "connect.token"),
        ("connect", json!({"token": long(9000)}), "connect.token"),
        ("connect", json!({"device": long(129)}), "connect.device"),
        ("connect", json!({"device": "a\u{0}"}), "connect.device"),
        ("connect", json!({"platform": long(33)}), "connect.platform"),
        ("connect", json!({"auto_join": "yes"}), "connect.auto_join"),
        ("connect", json!({"ack_mode": "server"}), "connect.ack_mode"),
        ("connect", json!({"ping_interval_ms": -1}), "connect.ping_interval_ms"),
        ("connect", json!({"cursors": {"u:a": {"epoch": long(65), "seq": 1}}}), "connect.cursors.epoch"),
        ("send", json!({"content": "hi"}), "send.to"),
        ("send", json!({"to": "c:a:b"}), "send.to"),
        ("send", json!({"to": "g:42", "client_msg_id": long(129)}), "send.client_msg_id"),
        ("send", json!({"to": "g:42", "type": long(65)}), "send.type"),
        ("send", json!({"to": "g:42", "content": {}}), "send.content"),
        ("send", json!({"to": "g:42", "content": "", "content_b64": "aGk="}), "send.content"),
        ("send", json!({"to": "g:42", "content_b64": "a*"}), "send.content_b64"),
        ("send", json!({"to": "g:42", "metadata": "{}"}), "send.metadata"),
        ("send", json!({"to": "g:42", "metadata": [1]}), "send.metadata"),
        ("send", json!({"to": "g:42", "class": "Durable"}), "send.class"),
        ("send", json!({"to": "g:42", "priority": 1}), "send.priority"),
        ("send", json!({"to": "g:42", "priority": "urgent"}), "send.priority"),
    ];
    for (name, body, field) in cases {
        let text = json!({"id": 7, name: body}).to_string();
        let (code, message) = refused(json(&text));
        assert_eq!(code, ErrorCode::BadRequest);
        assert!(message.starts_with(&format!("{field}:")), "{text} gave {message}");
    }
    let text = json!({"id": 7, "send": {"to": "g:42", "metadata": {"a": long(16 * 1024)}}}).to_string();
    assert_eq!(refused(json(&text)), (ErrorCode::TooLarge, "send.metadata: longer than 16384 bytes".to_owned()));
    for (text, field) in [
        (r#"{"id":7,"ack":{"stream":"g:42","seq":1,"seq":2}}"#, "ack.seq: given twice"),
        (r#"{"id":7,"sync":{"cursors":{"g:1":{"seq":1},"g:1":{"seq":2}}}}"#, "sync.cursors: a stream occurs twice"),
        (r#"{"id":7,"leave":{"stream":"\ud800"}}"#, "leave.stream: expected a string"),
    ] {
        assert_eq!(refused(json(text)), (ErrorCode::BadRequest, field.to_owned()));
    }
}

#[test]
fn metadata_that_would_break_readers_is_refused() {
    let send = |metadata: &str| json(&format!(r#"{{"id":7,"send":{{"to":"g:42","metadata":{metadata}}}}}"#));
    let nested = |n: usize| format!("{}{}", r#"{"a":"#.repeat(n - 1) + "{}", "}".repeat(n - 1));
    for good in ["{}", r#"{ "a" : [1, -2.5, null, "é\n", {"b": true}] }"#, &nested(32)] {
        let Ok(Request { op: Op::Send(send), .. }) = send(good) else { panic!("{good}") };
        assert_eq!(&*send.metadata, good, "passed on as it is");
    }
    for bad in [r#"{"a":"\ud800"}"#, r#"{"a":1e999}"#, r#"{"\udc00":1}"#, &nested(33), &nested(200)] {
        assert_eq!(refused(send(bad)).0, ErrorCode::BadRequest, "{bad}");
    }
}

#[test]
fn too_many_cursors_are_refused() {
    let cursors: Vec<_> = (0..=ops::CURSORS_MAX).map(|n| format!(r#""g:{n}":{{"epoch":"e","seq":1}}"#)).collect();
    let text = |n: usize| format!(r#"{{"id":7,"sync":{{"cursors":{{{}}}}}}}"#, cursors[..n].join(","));
    assert!(json(&text(ops::CURSORS_MAX)).is_ok());
    assert_eq!(refused(json(&text(ops::CURSORS_MAX + 1))).1, "sync.cursors: more than 10000");
}

fn proto(bytes: &[u8]) -> Result<Request, DecodeError> {
    decode(Encoding::Proto, &Incoming::Binary(bytes))
}

#[test]
fn protobuf_frames_that_are_refused() {
    let ping = v1::ClientFrame { id: 7, op: Some(client_frame::Op::Ping(v1::PingOp {})) }.encode_to_vec();
    assert_eq!(proto(&ping), Ok(Request { id: 7, op: Op::Ping }));
    let head = v1::ClientFrame { id: 0, op: Some(client_frame::Op::Head(v1::HeadOp { stream: "g:42".into() })) }
        .encode_to_vec();
    assert_eq!(refused(proto(&[&ping[..], &head].concat())).1, "more than one operation in a frame");
    assert_eq!(refused(proto(&[&ping[..], &ping[2..]].concat())).1, "more than one operation in a frame");
    // No operation; field 100, unknown.
    assert_eq!(refused(proto(&[0x08, 7])).0, ErrorCode::Unimplemented);
    assert_eq!(refused(proto(&[0x08, 7, 0xa2, 0x06, 0])).0, ErrorCode::Unimplemented);
    // `join` as a varint, `join.stream` as a varint, `join.stream` not UTF-8.
    assert_eq!(refused(proto(&[0x08, 7, 0x18, 1])), (ErrorCode::BadRequest, "join: wrong wire type".into()));
    for body in [&[0x08, 1][..], &[0x0a, 1, 0xff]] {
        let (code, message) = refused(proto(&[&[0x08, 7, 0x1a, body.len() as u8], body].concat()));
        assert_eq!(code, ErrorCode::BadRequest);
        assert!(message.contains("JoinOp.stream"), "{message}");
    }
    for fatal in [
        &[][..],
        &ping[2..],
        &[0x08, 0, 0x72, 0],
        &[0x08, 0x80, 0x80, 0x80, 0x80, 0x08, 0x72, 0],
        &[0x08, 7, 0x08, 7, 0x72, 0],
        &[0x0a, 1, 7, 0x72, 0],
        &[0x08, 7, 0x72, 5, 1],
        &[0x08, 7, 0x73],
        &[0x08, 7, 0x00, 0],
        &[0xff; 11],
    ] {
        assert_eq!(proto(fatal), Err(DecodeError::Fatal), "{fatal:x?}");
    }
    for (class, priority, field) in [(9, 0, "send.class"), (0, -1, "send.priority")] {
        let send = v1::SendOp { to: "g:42".into(), class, priority, ..Default::default() };
        let frame = v1::ClientFrame { id: 7, op: Some(client_frame::Op::Send(send)) };
        assert!(refused(proto(&frame.encode_to_vec())).1.starts_with(field));
    }
}

fn name() -> impl Strategy<Value = String> {
    "[A-Za-z0-9_.@-]{1,64}"
}

fn any_stream() -> impl Strategy<Value = String> {
    prop_oneof![
        name().prop_map(|n| format!("u:{n}")),
        name().prop_map(|n| format!("g:{n}")),
        (name(), name()).prop_map(|(a, b)| if a <= b { format!("c:{a}:{b}") } else { format!("c:{b}:{a}") }),
    ]
}

fn any_cursors() -> impl Strategy<Value = std::collections::HashMap<String, v1::Cursor>> {
    let cursor = ("\\PC{0,12}", 0..=Seq::MAX.0).prop_map(|(epoch, seq)| v1::Cursor { epoch, seq });
    prop::collection::hash_map(any_stream(), cursor, 0..4)
}

fn json_cursors(cursors: &std::collections::HashMap<String, v1::Cursor>) -> Value {
    cursors.iter().map(|(stream, cursor)| (stream.clone(), json!({"epoch": cursor.epoch, "seq": cursor.seq}))).collect()
}

/// The same operation in both forms.
fn operation() -> impl Strategy<Value = (client_frame::Op, Value)> {
    let seq = || 0..=Seq::MAX.0;
    let connect =
        ("\\PC{0,20}", "\\PC{0,20}", "[a-z]{0,9}", any_cursors(), any::<Option<bool>>(), any::<bool>(), any::<u32>());
    let send = (
        prop_oneof![name().prop_map(|n| format!("u:{n}")), name().prop_map(|n| format!("g:{n}"))],
        "\\PC{0,20}",
        "\\PC{0,12}",
        prop_oneof![".{0,60}".prop_map(Ok), prop::collection::vec(any::<u8>(), 1..60).prop_map(Err)],
        prop::option::of(prop::collection::hash_map("\\PC{0,5}", ".{0,9}", 0..3)),
        any::<bool>(),
        0..=3usize,
    );
    prop_oneof![
        connect.prop_map(|(token, device, platform, cursors, auto_join, sent, ping_interval_ms)| {
            let ack_mode = if sent { "sent" } else { "client" };
            let json = json!({"connect": {"token": token, "device": device, "platform": platform, "auto_join": auto_join,
                "cursors": json_cursors(&cursors), "ack_mode": ack_mode, "ping_interval_ms": ping_interval_ms}});
            let ack_mode = ack_mode.to_owned();
            let op = v1::ConnectOp { token, device, platform, cursors, auto_join, ack_mode, ping_interval_ms };
            (client_frame::Op::Connect(op), json)
        }),
        send.prop_map(|(to, client_msg_id, kind, content, metadata, ephemeral, priority)| {
            let word = [None, Some("high"), Some("normal"), Some("low")][priority];
            let mut body = json!({"to": to, "client_msg_id": client_msg_id, "type": kind, "metadata": metadata,
                "class": if ephemeral { "ephemeral" } else { "durable" }, "priority": word});
            match &content {
                Ok(text) => body["content"] = json!(text),
                Err(bytes) => body["content_b64"] = json!(base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes)),
            }
            let op = v1::SendOp {
                to,
                client_msg_id,
                r#type: kind,
                content: content.clone().unwrap_or_default(),
                content_bytes: content.err().unwrap_or_default().into(),
                metadata: metadata.map_or_else(String::new, |metadata| json!(metadata).to_string()),
                class: if ephemeral { 2 } else { 1 },
                priority: priority as i32,
            };
            (client_frame::Op::Send(op), json!({"send": body}))
        }),
        (any_stream(), "\\PC{0,12}", seq(), any::<u32>(), prop::option::of(0i64..)).prop_map(|(stream, epoch, after, limit, since_ts)| {
            let json = json!({"pull": {"stream": stream, "epoch": epoch, "after": after, "limit": limit, "since_ts": since_ts}});
            (client_frame::Op::Pull(v1::PullOp { stream, epoch, after, limit, since_ts }), json)
        }),
        (any_stream(), "\\PC{0,12}", seq()).prop_map(|(stream, epoch, seq)| {
            let json = json!({"ack": {"stream": stream, "epoch": epoch, "seq": seq}});
            (client_frame::Op::Ack(v1::AckOp { stream, epoch, seq }), json)
        }),
        (any_stream(), prop::option::of(("\\PC{0,12}", seq()))).prop_map(|(stream, cursor)| {
            let cursor = cursor.map(|(epoch, seq)| v1::Cursor { epoch, seq });
            let json = cursor.as_ref().map(|cursor| json!({"epoch": cursor.epoch, "seq": cursor.seq}));
            let json = json!({"join": {"stream": stream, "cursor": json}});
            (client_frame::Op::Join(v1::JoinOp { stream, cursor }), json)
        }),
        any_cursors().prop_map(|cursors| {
            let json = json!({"sync": {"cursors": json_cursors(&cursors)}});
            (client_frame::Op::Sync(v1::SyncOp { cursors }), json)
        }),
    ]
}

proptest! {
    #[test]
    fn both_encodings_carry_the_same_requests(id in 1..=REQUEST_ID_MAX, (op, mut body) in operation()) {
        body["id"] = json!(id);
        let frame = v1::ClientFrame { id, op: Some(op) };
        let from_json = json(&body.to_string());
        prop_assert!(from_json.is_ok(), "{from_json:?}");
        prop_assert_eq!(from_json, proto(&frame.encode_to_vec()));
    }

    #[test]
    fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), text in ".{0,200}") {
        let _ = proto(&bytes);
        let _ = proto(&[&[0x08, 7][..], &bytes].concat());
        let _ = json(&text);
    }

    #[test]
    fn changed_frames_never_panic((op, body) in operation(), at in any::<usize>(), to in any::<u8>()) {
        let mut bytes = v1::ClientFrame { id: 7, op: Some(op) }.encode_to_vec();
        let len = bytes.len();
        bytes[at % len] = to;
        let _ = proto(&bytes);
        let mut text: Vec<char> = body.to_string().replacen('{', r#"{"id":7,"#, 1).chars().collect();
        let len = text.len();
        text[at % len] = char::from(to);
        let _ = json(&text.into_iter().collect::<String>());
    }
}

mod down;
