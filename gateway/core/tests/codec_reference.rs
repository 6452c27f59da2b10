//! The codec beside another implementation: what fastwebsockets writes is read, what is written is what it would write.

use std::ops::ControlFlow;

use fastwebsockets::{Frame, OpCode as Reference, Payload};
use proptest::prelude::*;
use tidegate_gateway_core::ids::Now;
use tidegate_gateway_core::ws::{self, Decoder, Incoming, Inflater, Limits, OpCode};

const LIMITS: Limits = Limits { message_bytes_max: 1 << 20, fragments_max: 100, control_per_second_max: 100 };

fn written(fin: bool, op: Reference, mask: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
    let mut buffer = Vec::new();
    let mut frame = Frame::new(fin, op, None, Payload::Owned(payload.to_vec()));
    if let Some(key) = mask {
        let mut masked = payload.to_vec();
        fastwebsockets::unmask(&mut masked, key);
        frame = Frame::new(fin, op, Some(key), Payload::Owned(masked));
    }
    // The buffer may be longer than what was written.
    frame.write(&mut buffer).to_vec()
}

proptest! {
    #[test]
    fn server_frames_are_the_same(payload in prop::collection::vec(any::<u8>(), 0..70_000)) {
        for (ours, theirs) in [(OpCode::Text, Reference::Text), (OpCode::Binary, Reference::Binary)] {
            prop_assert_eq!(&ws::frame(ours, &payload)[..], written(true, theirs, None, &payload));
        }
    }

    #[test]
    fn its_client_frames_are_read(
        first in prop::collection::vec(any::<u8>(), 0..3000),
        second in prop::collection::vec(any::<u8>(), 0..3000),
        text in "\\PC{0,200}",
        mask in any::<[u8; 4]>(),
        chunk in 1usize..4000,
    ) {
        let mut bytes = [
            written(false, Reference::Binary, Some(mask), &first),
            written(true, Reference::Ping, Some(mask), b"now"),
            written(true, Reference::Continuation, Some(mask), &second),
            written(true, Reference::Text, Some(mask), text.as_bytes()),
            written(true, Reference::Close, Some(mask), b"\x03\xe8bye"),
        ]
        .concat();
        let mut got = Vec::new();
        let (mut decoder, mut inflater) = (Decoder::new(true), Inflater::new());
        for chunk in bytes.chunks_mut(chunk) {
            let len = chunk.len();
            let used = decoder.feed(Now(0), chunk, &LIMITS, &mut inflater, &mut |incoming| {
                got.push(format!("{incoming:?}"));
                ControlFlow::Continue(())
            });
            prop_assert_eq!(used, Ok(len));
        }
        let whole = [first, second].concat();
        let expected = [
            Incoming::Ping(b"now"),
            Incoming::Binary(&whole),
            Incoming::Text(&text),
            Incoming::Close { code: Some(1000), reason: "bye" },
        ];
        prop_assert_eq!(got, expected.map(|incoming| format!("{incoming:?}")));
    }
}
