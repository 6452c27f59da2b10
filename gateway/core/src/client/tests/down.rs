//! Frames to the client: PROTOCOL's examples, and JSON read back by another parser.

use super::*;
use crate::ids::SeqRange;
use crate::link::{Head, LinkError, Recovered};
use crate::ws::close::CloseCode;

fn text(frame: &v1::ServerFrame) -> String {
    String::from_utf8(encode(Encoding::Json, frame)).unwrap()
}

fn unasked(body: Body) -> v1::ServerFrame {
    v1::ServerFrame { id: 0, body: Some(body) }
}

fn state(recovered: &str) -> v1::StreamState {
    v1::StreamState { stream: "g:42".into(), epoch: "k3f9".into(), head: 18, first: 1, recovered: recovered.into() }
}

const STATE: &str = r#""stream":"g:42","epoch":"k3f9","head":18,"first":1"#;

fn group_message() -> v1::Message {
    v1::Message {
        seq: 18,
        id: "7212".into(),
        from: "bob".into(),
        client_msg_id: "c-1".into(),
        r#type: "text".into(),
        content: "hi".into(),
        metadata: "{}".into(),
        ts: 1_790_000_000_000,
        priority: v1::Priority::Normal.into(),
        ..Default::default()
    }
}

#[test]
fn batches_of_the_protocol() {
    let range = Some(SeqRange { after: Seq(17), upto: Seq(18) });
    let batch = |range, messages: &[v1::Message]| {
        let bytes = encode_batch(Encoding::Json, "g:42", &epoch("k3f9"), range, messages.iter());
        String::from_utf8(bytes).unwrap()
    };
    assert_eq!(
        batch(range, &[group_message()]),
        r#"{"batch":{"stream":"g:42","epoch":"k3f9","after":17,"upto":18,"messages":[{"seq":18,"id":"7212","from":"bob","client_msg_id":"c-1","type":"text","content":"hi","metadata":{},"ts":1790000000000,"priority":"normal"}]}}"#
    );
    let one_to_one = v1::Message {
        seq: 5,
        id: "1".into(),
        from: "bob".into(),
        to: "alice".into(),
        conv: "c:alice:bob".into(),
        conv_seq: 31,
        r#type: "text".into(),
        content: "hi".into(),
        title: "T".into(),
        priority: v1::Priority::High.into(),
        ..Default::default()
    };
    let one_to_one_json = r#"{"seq":5,"id":"1","from":"bob","to":"alice","conv":"c:alice:bob","conv_seq":31,"type":"text","title":"T","content":"hi","priority":"high"}"#;
    let typing = v1::Message { id: "2".into(), from: "bob".into(), r#type: "typing".into(), ..Default::default() };
    assert_eq!(
        batch(None, &[one_to_one, typing]),
        format!(
            r#"{{"batch":{{"stream":"g:42","messages":[{one_to_one_json},{{"id":"2","from":"bob","type":"typing","content":""}}]}}}}"#
        )
    );
    let binary = v1::Message {
        r#type: "x".into(),
        content_bytes: Bytes::from_static(&[0, 0xff]),
        priority: 3,
        ..Default::default()
    };
    assert_eq!(
        batch(range, &[binary]),
        r#"{"batch":{"stream":"g:42","epoch":"k3f9","after":17,"upto":18,"messages":[{"id":"","type":"x","content_b64":"AP8=","priority":"low"}]}}"#
    );
    assert_eq!(batch(range, &[]), r#"{"batch":{"stream":"g:42","epoch":"k3f9","after":17,"upto":18,"messages":[]}}"#);
}

#[test]
fn answers_of_the_protocol() {
    let session = v1::Session {
        connection_id: "x1".into(),
        uid: "alice".into(),
        gateway: "gw".into(),
        ping_interval_ms: 60_000,
        session_expires_ms: Some(1_790_000_000_000),
        streams: vec![state("full"), state("")],
    };
    let session_json = format!(
        r#"{{"connection_id":"x1","uid":"alice","gateway":"gw","ping_interval_ms":60000,"session_expires_ms":1790000000000,"streams":[{{{STATE},"recovered":"full"}},{{{STATE}}}]}}"#
    );
    let sent = v1::SendResult {
        stream: "g:42".into(),
        epoch: "e".into(),
        seq: Some(3),
        message_id: "9".into(),
        duplicate: false,
    };
    let ephemeral = v1::SendResult { seq: None, duplicate: true, ..sent.clone() };
    let pulled = v1::PullResult {
        stream: "g:42".into(),
        epoch: "e".into(),
        after: 0,
        upto: 2,
        messages: vec![v1::Message { seq: 1, id: "a".into(), r#type: "t".into(), ..Default::default() }],
        next_after: 2,
        head: 7,
        first: 1,
    };
    let sync = v1::SyncResult { streams: vec![state("")], more: true };
    for (frame, expected) in [
        (session_frame(None, session.clone()), format!(r#"{{"welcome":{session_json}}}"#)),
        (session_frame(Some(1), session), format!(r#"{{"id":1,"ok":{session_json}}}"#)),
        (ok_frame(2, Some(ok::Result::Join(state("partial")))), format!(r#"{{"id":2,"ok":{{{STATE},"recovered":"partial"}}}}"#)),
        (ok_frame(3, None), r#"{"id":3,"ok":{}}"#.into()),
        (
            ok_frame(4, Some(ok::Result::Send(sent))),
            r#"{"id":4,"ok":{"stream":"g:42","epoch":"e","seq":3,"message_id":"9","duplicate":false}}"#.into(),
        ),
        (
            ok_frame(4, Some(ok::Result::Send(ephemeral))),
            r#"{"id":4,"ok":{"stream":"g:42","epoch":"e","message_id":"9","duplicate":true}}"#.into(),
        ),
        (
            ok_frame(7, Some(ok::Result::Pull(pulled))),
            r#"{"id":7,"ok":{"stream":"g:42","epoch":"e","after":0,"upto":2,"messages":[{"seq":1,"id":"a","type":"t","content":""}],"next_after":2,"head":7,"first":1}}"#.into(),
        ),
        (ok_frame(8, Some(ok::Result::Sync(sync))), format!(r#"{{"id":8,"ok":{{"streams":[{{{STATE}}}],"more":true}}}}"#)),
        (ok_frame(9, Some(ok::Result::Head(state("")))), format!(r#"{{"id":9,"ok":{{{STATE}}}}}"#)),
    ] {
        assert_eq!(text(&frame), expected);
    }
}

#[test]
fn errors_of_the_protocol() {
    assert_eq!(
        text(&error_frame(5, ErrorCode::BadRequest, "a \"b\"")),
        r#"{"id":5,"error":{"code":"BAD_REQUEST","message":"a \"b\"","retry":false}}"#
    );
    let mut error =
        LinkError { code: ErrorCode::RateLimited, message: "slow".into(), retry_after_ms: Some(500), stands: None };
    assert_eq!(
        text(&link_error_frame(5, &error)),
        r#"{"id":5,"error":{"code":"RATE_LIMITED","message":"slow","retry":true,"retry_after_ms":500}}"#
    );
    error.code = ErrorCode::Expired;
    error.retry_after_ms = None;
    error.stands = Some(Head { epoch: epoch("new"), head: Seq(0), first: Seq(1) });
    assert_eq!(
        text(&link_error_frame(5, &error)),
        r#"{"id":5,"error":{"code":"EXPIRED","message":"slow","retry":false,"epoch":"new","head":0,"first":1}}"#
    );
}

#[test]
fn notices_of_the_protocol() {
    let presence = v1::PresenceEvent { uid: "bob".into(), online: true, devices: vec!["web".into(), "ios".into()] };
    for (frame, expected) in [
        (
            gap_frame("g:42", &epoch("k3f9"), Seq(18), Seq(95), Seq(95), 370),
            r#"{"gap":{"stream":"g:42","epoch":"k3f9","from":18,"to":95,"head":95,"pull_after_ms":370,"lazy":false}}"#,
        ),
        (
            unasked(Body::Joined(v1::Joined { stream: "g:43".into(), epoch: "e".into(), head: 9 })),
            r#"{"joined":{"stream":"g:43","epoch":"e","head":9}}"#,
        ),
        (
            unasked(Body::Left(v1::Left { stream: "g:43".into(), seq: 12, reason: "removed".into() })),
            r#"{"left":{"stream":"g:43","seq":12,"reason":"removed"}}"#,
        ),
        (unasked(Body::Expiring(v1::Expiring { in_ms: 60_000 })), r#"{"expiring":{"in_ms":60000}}"#),
        (unasked(Body::Presence(presence)), r#"{"presence":{"uid":"bob","online":true,"devices":["web","ios"]}}"#),
        (
            bye_frame(CloseCode::Drain, "drain", Some(1830), ""),
            r#"{"bye":{"code":3001,"reason":"drain","reconnect":true,"reconnect_after_ms":1830}}"#,
        ),
        (
            bye_frame(CloseCode::Moved, "moved", Some(7), "wss://b/ws"),
            r#"{"bye":{"code":3002,"reason":"moved","reconnect":true,"reconnect_after_ms":7,"endpoint":"wss://b/ws"}}"#,
        ),
        (
            unasked(Body::Bye(v1::Bye {
                code: 3503,
                reason: "banned".into(),
                endpoint: "wss://x".into(),
                ..Default::default()
            })),
            r#"{"bye":{"code":3503,"reason":"banned","reconnect":false,"endpoint":"wss://x"}}"#,
        ),
    ] {
        assert_eq!(text(&frame), expected);
    }
    let head = Head { epoch: epoch("k3f9"), head: Seq(18), first: Seq(1) };
    assert_eq!(stream_state("g:42", &head, Some(Recovered::Full)), state("full"));
    assert_eq!(stream_state("g:42", &head, Some(Recovered::Partial)), state("partial"));
    assert_eq!(stream_state("g:42", &head, Some(Recovered::Expired)), state("expired"));
    assert_eq!(stream_state("g:42", &head, None), state(""));
}

fn message() -> impl Strategy<Value = v1::Message> {
    let texts = (".{0,20}", ".{0,20}", "[\\x00-\\x7f]{0,20}", ".{0,40}", "\\PC{0,12}");
    let numbers = (0..=Seq::MAX.0, any::<i64>(), 0..=3i32, 0..=Seq::MAX.0);
    (texts, numbers, prop::collection::vec(any::<u8>(), 0..20), any::<bool>()).prop_map(
        |((id, from, kind, content, client_msg_id), (seq, ts, priority, conv_seq), bytes, metadata)| v1::Message {
            seq,
            id,
            from,
            client_msg_id,
            r#type: kind,
            content: if bytes.is_empty() { content } else { String::new() },
            content_bytes: bytes.into(),
            metadata: if metadata { r#"{ "a": [1, {"b": null}] }"#.into() } else { String::new() },
            ts,
            priority,
            conv_seq,
            ..Default::default()
        },
    )
}

/// What JSON must say about a message, built by other means than the writer under test.
fn expected(message: &v1::Message) -> Value {
    let mut value = json!({"id": message.id, "type": message.r#type});
    for (name, text) in [("from", &message.from), ("client_msg_id", &message.client_msg_id)] {
        if !text.is_empty() {
            value[name] = json!(text);
        }
    }
    for (name, number) in [("seq", message.seq), ("conv_seq", message.conv_seq)] {
        if number != 0 {
            value[name] = json!(number);
        }
    }
    if message.content_bytes.is_empty() {
        value["content"] = json!(message.content);
    } else {
        let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &message.content_bytes);
        value["content_b64"] = json!(encoded);
    }
    if !message.metadata.is_empty() {
        value["metadata"] = json!({"a": [1, {"b": null}]});
    }
    if message.ts != 0 {
        value["ts"] = json!(message.ts);
    }
    if message.priority != 0 {
        value["priority"] = json!(["high", "normal", "low"][message.priority as usize - 1]);
    }
    value
}

proptest! {
    #[test]
    fn batches_are_the_same_in_every_way(
        messages in prop::collection::vec(message(), 0..5),
        after in 0..Seq::MAX.0,
        durable in any::<bool>(),
    ) {
        let range = durable.then_some(SeqRange { after: Seq(after), upto: Seq(after + 1) });
        let batch = v1::Batch {
            stream: "g:42".into(),
            epoch: if durable { "k3f9".into() } else { String::new() },
            after: range.map(|range| range.after.0),
            upto: range.map(|range| range.upto.0),
            messages: messages.clone(),
        };
        let frame = unasked(Body::Batch(batch));
        for encoding in [Encoding::Json, Encoding::Proto] {
            let direct = encode_batch(encoding, "g:42", &epoch("k3f9"), range, messages.iter());
            prop_assert_eq!(direct, encode(encoding, &frame));
        }
        let read: Value = serde_json::from_slice(&encode(Encoding::Json, &frame)).unwrap();
        let mut value = json!({"stream": "g:42", "messages": messages.iter().map(expected).collect::<Vec<_>>()});
        if durable {
            value["epoch"] = json!("k3f9");
            value["after"] = json!(after);
            value["upto"] = json!(after + 1);
        }
        prop_assert_eq!(read, json!({"batch": value}));
    }
}
