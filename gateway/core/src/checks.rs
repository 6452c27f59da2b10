//! What holds for any bytes of a client: property tests and the fuzz targets in `fuzz/` run the same functions, which
//! panic where it does not hold. Compiled for them only.

use std::ops::ControlFlow;

use prost::Message as _;
use serde_json::Value;
use tidegate_proto::v1;

use crate::client::errors::ErrorCode;
use crate::client::ops::{Op, Request};
use crate::client::{self, DecodeError, REQUEST_ID_MAX};
use crate::ids::Now;
use crate::messages::Encoding;
use crate::ws::{self, Decoder, Deflater, Incoming, Inflater, Limits, OpCode, WsError};

const LIMITS: Limits = Limits { message_bytes_max: 1 << 16, fragments_max: 64, control_per_second_max: 64 };
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

#[derive(Debug, PartialEq, Eq)]
struct Got {
    op: OpCode,
    payload: Vec<u8>,
}

/// The first byte: whether compression was negotiated; the second: how the rest, a client's frames, is cut. However it is
/// cut, the same messages come out, and what came out can be written and read again.
pub fn ws_codec(data: &[u8]) {
    let [flags, cut, wire @ ..] = data else { return };
    let deflate = flags & 1 == 1;
    let whole = decode(deflate, [wire]);
    assert_eq!(decode(deflate, wire.chunks(usize::from(*cut) + 1)), whole, "cut every {} bytes", usize::from(*cut) + 1);
    let mut deflater = deflate.then(|| Deflater::new(ws::WINDOW_BITS_MAX, 3));
    for got in &whole.0 {
        let plain = ws::frame(got.op, &got.payload);
        let packed = deflater.as_mut().map(|deflater| deflater.frame_always(got.op, &got.payload));
        for frame in [Some(plain), packed].into_iter().flatten() {
            let again = decode(deflate, [&*masked(&frame)]);
            assert_eq!(again, (vec![Got { op: got.op, payload: got.payload.clone() }], Ok(())));
        }
    }
}

/// The first byte chooses the sub-protocol of the rest, a client's message. What is read is the same however it was
/// written; what is refused can be answered.
pub fn client_frames(data: &[u8]) {
    let [flags, message @ ..] = data else { return };
    if flags & 1 == 0 {
        json_frame(message);
    } else {
        proto_frame(message);
    }
}

/// A frame down in protobuf. As JSON it is valid, whatever stands in its texts.
pub fn server_frames(data: &[u8]) {
    let Ok(mut frame) = v1::ServerFrame::decode(data) else { return };
    forget_false_metadata(&mut frame);
    let json = client::encode(Encoding::Json, &frame);
    let value: Value = serde_json::from_slice(&json).expect("what is sent is JSON");
    assert!(value.is_object());
    let proto = client::encode(Encoding::Proto, &frame);
    assert_eq!(v1::ServerFrame::decode(&*proto).expect("what is sent is protobuf"), frame);
}

fn decode<'a>(deflate: bool, chunks: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Got>, Result<(), WsError>) {
    let (mut decoder, mut inflater, mut got) = (Decoder::new(deflate), Inflater::new(), Vec::new());
    for chunk in chunks {
        let mut chunk = chunk.to_vec();
        let fed = decoder.feed(Now(0), &mut chunk, &LIMITS, &mut inflater, &mut |incoming| {
            got.push(owned(incoming));
            ControlFlow::Continue(())
        });
        match fed {
            Ok(used) => assert_eq!(used, chunk.len(), "nothing is left behind without a break"),
            Err(error) => return (got, Err(error)),
        }
    }
    (got, Ok(()))
}

fn owned(incoming: Incoming<'_>) -> Got {
    let (op, payload) = match incoming {
        Incoming::Text(text) => (OpCode::Text, text.as_bytes().to_vec()),
        Incoming::Binary(bytes) => (OpCode::Binary, bytes.to_vec()),
        Incoming::Ping(bytes) => (OpCode::Ping, bytes.to_vec()),
        Incoming::Pong(bytes) => (OpCode::Pong, bytes.to_vec()),
        Incoming::Close { code: None, .. } => (OpCode::Close, Vec::new()),
        Incoming::Close { code: Some(code), reason } => {
            (OpCode::Close, [&code.to_be_bytes()[..], reason.as_bytes()].concat())
        }
    };
    Got { op, payload }
}

/// A server's frame as a client would send it.
fn masked(frame: &[u8]) -> Vec<u8> {
    let head = match frame[1] {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    let mut bytes = frame[..head].to_vec();
    bytes[1] |= 0x80;
    bytes.extend(MASK);
    bytes.extend(frame[head..].iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

fn json_frame(message: &[u8]) {
    let Ok(text) = std::str::from_utf8(message) else { return };
    let read = |text: &str| client::decode(Encoding::Json, &Incoming::Text(text));
    match read(text) {
        Err(error) => answerable(&error),
        Ok(request) => {
            valid(&request);
            // Other white space, other escapes, another order of the fields.
            let Ok(value) = serde_json::from_str::<Value>(text) else { return };
            let again = read(&value.to_string()).expect("the same frame");
            assert_eq!(without_metadata(again), without_metadata(request));
        }
    }
}

fn proto_frame(message: &[u8]) {
    let read = |bytes: &[u8]| client::decode(Encoding::Proto, &Incoming::Binary(bytes));
    match read(message) {
        Err(error) => answerable(&error),
        // What is not implemented is not looked into.
        Ok(Request { op: Op::Unimplemented(_), .. }) => {}
        Ok(request) => {
            valid(&request);
            let frame = v1::ClientFrame::decode(message).expect("it was read");
            assert_eq!(read(&frame.encode_to_vec()).expect("the same frame"), request);
        }
    }
}

fn answerable(error: &DecodeError) {
    if let DecodeError::Refused { id, code, message } = error {
        assert!((1..=REQUEST_ID_MAX).contains(id) && !message.is_empty());
        assert!(matches!(code, ErrorCode::BadRequest | ErrorCode::Unimplemented | ErrorCode::TooLarge), "{code:?}");
    }
}

fn valid(request: &Request) {
    assert!((1..=REQUEST_ID_MAX).contains(&request.id));
    if let Op::Send(send) = &request.op
        && !send.metadata.is_empty()
    {
        assert!(send.metadata.trim_start().starts_with('{'), "metadata is an object");
    }
}

/// Metadata is passed on as it was written.
fn without_metadata(mut request: Request) -> Request {
    if let Op::Send(send) = &mut request.op {
        send.metadata = Box::default();
    }
    request
}

/// What control hands down has metadata that is an object or empty; control checks that.
fn forget_false_metadata(frame: &mut v1::ServerFrame) {
    use v1::{ok::Result as Answer, server_frame::Body};
    let messages = match &mut frame.body {
        Some(Body::Batch(batch)) => &mut batch.messages,
        Some(Body::Ok(v1::Ok { result: Some(Answer::Pull(pulled)) })) => &mut pulled.messages,
        _ => return,
    };
    for message in messages {
        if !serde_json::from_str::<Value>(&message.metadata).is_ok_and(|value| value.is_object()) {
            message.metadata.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn client_frame() -> impl Strategy<Value = Vec<u8>> {
        let payload = prop_oneof![
            prop::collection::vec(any::<u8>(), 0..300),
            "\\PC{0,200}".prop_map(String::into_bytes),
            Just(vec![0x03, 0xe8]),
        ];
        let first =
            prop::sample::select(vec![0x81u8, 0x82, 0x01, 0x02, 0x80, 0x00, 0x88, 0x89, 0x8a, 0xc1, 0xc2, 0x41]);
        (first, payload).prop_map(|(first, payload)| {
            let payload = if first & 0x08 != 0 { &payload[..payload.len().min(125)] } else { &payload[..] };
            let mut frame = ws::frame(OpCode::Binary, payload).to_vec();
            frame[0] = first;
            masked(&frame)
        })
    }

    fn changed(bytes: &mut Vec<u8>, (at, to): (usize, Option<u8>)) {
        if bytes.is_empty() {
            return;
        }
        let at = at % bytes.len();
        match to {
            Some(to) => bytes[at] = to,
            None => bytes.truncate(at),
        }
    }

    /// A byte that is another, or the end of what comes.
    fn change() -> impl Strategy<Value = Option<(usize, Option<u8>)>> {
        prop::option::of((any::<usize>(), prop::option::of(any::<u8>())))
    }

    #[test]
    fn a_body_that_nobody_reads_may_be_broken() {
        client_frames(&[1, 0x08, 0x35, 0x6a, 0x02, 0x11, 0x35]);
    }

    proptest! {
        #[test]
        fn frames_of_any_kind_in_any_order(
            frames in prop::collection::vec(client_frame(), 0..8),
            flags in 0u8..2,
            cut in any::<u8>(),
            change in change(),
        ) {
            let mut wire = frames.concat();
            change.into_iter().for_each(|change| changed(&mut wire, change));
            ws_codec(&[&[flags, cut][..], &wire].concat());
        }

        #[test]
        fn messages_that_are_nearly_right(
            id in prop::sample::select(vec!["1", "0", "2147483647", "2147483648", "\"1\"", "1.0", "-1"]),
            op in prop::sample::select(vec![
                r#""ping":{}"#,
                r#""join":{"stream":"g:a","cursor":{"epoch":"k","seq":3}}"#,
                r#""send":{"to":"u:b","content":"\u00e9\n","metadata":{"a":[1,{}]},"client_msg_id":"c"}"#,
                r#""send":{"to":"g:b","content_b64":"AAEC","class":"ephemeral","type":"t"}"#,
                r#""pull":{"stream":"g:a","after":9,"limit":3,"since_ts":5,"unknown":[{}]}"#,
                r#""sync":{"cursors":{"g:a":{"epoch":"k","seq":3},"g:b":{"epoch":"","seq":0}}}"#,
                r#""connect":{"device":"d","platform":"p","cursors":{},"auto_join":false,"ack_mode":"sent"}"#,
                r#""ack":{"stream":"g:a","epoch":"k","seq":9007199254740991}"#,
                r#""nothing":{}"#,
                r#""ping":{},"head":{"stream":"g:a"}"#,
            ]),
            change in change(),
        ) {
            let mut text = format!("{{\"id\":{id} ,{op}}}").into_bytes();
            change.into_iter().for_each(|change| changed(&mut text, change));
            client_frames(&[&[0], &text[..]].concat());
        }

        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            ws_codec(&bytes);
            client_frames(&bytes);
            server_frames(&bytes);
        }

        #[test]
        fn any_texts_in_a_frame_down(texts in prop::collection::vec(".{0,20}", 8), seq in any::<u64>(), number in any::<i32>()) {
            let text = |at: usize| texts[at].clone();
            let message = v1::Message {
                seq,
                id: text(0),
                from: text(1),
                to: text(2),
                conv: text(3),
                client_msg_id: text(4),
                r#type: text(5),
                content: text(6),
                metadata: text(7),
                priority: number,
                ..Default::default()
            };
            let batch = v1::Batch { stream: text(1), epoch: text(2), after: Some(seq), upto: None, messages: vec![message] };
            let frame = v1::ServerFrame { id: 0, body: Some(v1::server_frame::Body::Batch(batch)) };
            server_frames(&frame.encode_to_vec());
        }
    }
}
