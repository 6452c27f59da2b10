//! One test per rule of RFC 6455, then properties: any cut into chunks gives the same messages, any bytes keep memory
//! within what was received.

use proptest::prelude::*;

use super::*;
use crate::ws::close::CloseCode;
use crate::ws::deflate::Deflater;
use crate::ws::encode::OpCode;

const LIMITS: Limits = Limits { message_bytes_max: 1 << 16, fragments_max: 64, control_per_second_max: 20 };

/// What was handed out, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Got {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
}

impl From<Incoming<'_>> for Got {
    fn from(incoming: Incoming<'_>) -> Self {
        match incoming {
            Incoming::Text(text) => Got::Text(text.to_owned()),
            Incoming::Binary(bytes) => Got::Binary(bytes.to_owned()),
            Incoming::Ping(bytes) => Got::Ping(bytes.to_owned()),
            Incoming::Pong(bytes) => Got::Pong(bytes.to_owned()),
            Incoming::Close { code, reason } => Got::Close(code, reason.to_owned()),
        }
    }
}

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A masked frame with this first byte.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..=125 => bytes.push(0x80 | len as u8),
        len @ 126..=0xffff => {
            bytes.push(0x80 | 126);
            bytes.extend((len as u16).to_be_bytes());
        }
        len => {
            bytes.push(0x80 | 127);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    bytes.extend(MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

fn feed_all<'a>(
    decoder: &mut Decoder,
    limits: &Limits,
    chunks: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<Got>, Result<(), WsError>) {
    let (mut inflater, mut got) = (Inflater::new(), Vec::new());
    for chunk in chunks {
        let mut chunk = chunk.to_vec();
        let len = chunk.len();
        let result = decoder.feed(Now(0), &mut chunk, limits, &mut inflater, &mut |incoming| {
            got.push(incoming.into());
            ControlFlow::Continue(())
        });
        match result {
            Ok(used) => assert_eq!(used, len),
            Err(error) => return (got, Err(error)),
        }
    }
    (got, Ok(()))
}

fn decode(bytes: &[u8]) -> (Vec<Got>, Result<(), WsError>) {
    feed_all(&mut Decoder::new(false), &LIMITS, [bytes])
}

fn fails(bytes: &[u8], error: WsError, code: CloseCode) {
    assert_eq!(decode(bytes).1, Err(error));
    assert_eq!(error.close_code(), code);
    let one_by_one = feed_all(&mut Decoder::new(false), &LIMITS, bytes.chunks(1));
    assert_eq!(one_by_one.1, Err(error), "byte by byte");
}

#[test]
fn a_frame_within_the_chunk_needs_no_heap() {
    let mut decoder = Decoder::new(false);
    let mut bytes = [masked(0x81, b"Hello"), masked(0x82, &[7; 300]), masked(0x89, b"p"), masked(0x8a, b"")].concat();
    let (start, end) = (bytes.as_ptr() as usize, bytes.as_ptr() as usize + bytes.len());
    let mut borrowed = 0;
    let used = decoder.feed(Now(0), &mut bytes, &LIMITS, &mut Inflater::new(), &mut |incoming| {
        let at = match incoming {
            Incoming::Text(text) => text.as_ptr() as usize,
            Incoming::Binary(bytes) | Incoming::Ping(bytes) | Incoming::Pong(bytes) => bytes.as_ptr() as usize,
            Incoming::Close { .. } => 0,
        };
        assert!((start..=end).contains(&at), "handed out in place");
        borrowed += 1;
        ControlFlow::Continue(())
    });
    assert_eq!((used, borrowed), (Ok(bytes.len()), 4));
    assert!(decoder.is_idle());
}

#[test]
fn lengths_at_the_borders_of_their_forms() {
    for len in [0, 1, 125, 126, 127, 65_535, 65_536] {
        let payload = vec![b'x'; len];
        let frame = masked(0x82, &payload);
        let expected = (vec![Got::Binary(payload)], Ok(()));
        assert_eq!(decode(&frame), expected);
        assert_eq!(feed_all(&mut Decoder::new(false), &LIMITS, frame.chunks(7)), expected);
    }
}

#[test]
fn frames_must_be_masked() {
    fails(&[0x81, 0x05, b'H', b'e', b'l', b'l', b'o'], WsError::Unmasked, CloseCode::Protocol);
    fails(&[0x89, 0x00], WsError::Unmasked, CloseCode::Protocol);
}

#[test]
fn reserved_bits_and_opcodes_are_refused() {
    for rsv in [0x10, 0x20, 0x40, 0x70] {
        fails(&masked(0x81 | rsv, b"a"), WsError::ReservedBits, CloseCode::Protocol);
        fails(&masked(0x89 | rsv, b"a"), WsError::ReservedBits, CloseCode::Protocol);
    }
    for opcode in [3, 4, 5, 6, 7, 0xb, 0xc, 0xd, 0xe, 0xf] {
        fails(&masked(0x80 | opcode, b""), WsError::ReservedOpcode(opcode), CloseCode::Protocol);
    }
}

#[test]
fn rsv1_marks_only_the_first_frame_of_a_data_message() {
    let with_deflate = |bytes: &[u8]| feed_all(&mut Decoder::new(true), &LIMITS, [bytes]).1;
    assert_eq!(with_deflate(&masked(0xc9, b"")), Err(WsError::ReservedBits));
    let continued = [masked(0x41, &[0xf2, 0x48, 0xcd]), masked(0xc0, &[0xc9, 0xc9, 0x07, 0x00])].concat();
    assert_eq!(with_deflate(&continued), Err(WsError::ReservedBits));
    assert_eq!(with_deflate(&masked(0xa1, b"")), Err(WsError::ReservedBits));
}

#[test]
fn control_frames_are_short_and_whole() {
    fails(&masked(0x89, &[0; 126]), WsError::ControlTooLong, CloseCode::Protocol);
    fails(&masked(0x09, b""), WsError::ControlFragmented, CloseCode::Protocol);
    fails(&masked(0x08, b""), WsError::ControlFragmented, CloseCode::Protocol);
    let longest = masked(0x89, &[9; 125]);
    assert_eq!(decode(&longest), (vec![Got::Ping(vec![9; 125])], Ok(())));
}

#[test]
fn continuation_rules() {
    fails(&masked(0x80, b"a"), WsError::ContinuationUnexpected, CloseCode::Protocol);
    fails(&masked(0x00, b"a"), WsError::ContinuationUnexpected, CloseCode::Protocol);
    let twice = [masked(0x01, b"a"), masked(0x81, b"b")].concat();
    fails(&twice, WsError::ContinuationExpected, CloseCode::Protocol);
    let after_the_end = [masked(0x01, b"a"), masked(0x80, b"b"), masked(0x80, b"c")].concat();
    assert_eq!(decode(&after_the_end), (vec![Got::Text("ab".into())], Err(WsError::ContinuationUnexpected)));
}

#[test]
fn control_frames_come_between_fragments() {
    let bytes =
        [masked(0x01, b"a"), masked(0x89, b"1"), masked(0x00, b""), masked(0x8a, b"2"), masked(0x80, b"b")].concat();
    let expected = vec![Got::Ping(b"1".to_vec()), Got::Pong(b"2".to_vec()), Got::Text("ab".into())];
    assert_eq!(decode(&bytes), (expected.clone(), Ok(())));
    let mut decoder = Decoder::new(false);
    assert_eq!(feed_all(&mut decoder, &LIMITS, bytes.chunks(1)), (expected, Ok(())));
    assert!(decoder.is_idle());
}

#[test]
fn lengths_must_be_in_shortest_form() {
    fails(&[0x82, 0xfe, 0, 125], WsError::LengthNotMinimal, CloseCode::Protocol);
    fails(&[0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff], WsError::LengthNotMinimal, CloseCode::Protocol);
    fails(&[0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0], WsError::LengthTooLarge, CloseCode::Protocol);
}

#[test]
fn too_big_is_decided_by_the_declared_length() {
    let huge = [0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4];
    fails(&huge, WsError::TooBig, CloseCode::TooBig);
    let first = masked(0x02, &[0; 40_000]);
    let second = &masked(0x80, &[0; 40_000])[..8];
    fails(&[&first, second].concat(), WsError::TooBig, CloseCode::TooBig);
    let thirds = [masked(0x02, &[0; 25_000]), masked(0x00, &[0; 25_000]), masked(0x80, &[0; 25_000])].concat();
    fails(&thirds, WsError::TooBig, CloseCode::TooBig);
}

#[test]
fn fragments_and_control_frames_are_counted() {
    let limits = Limits { fragments_max: 3, control_per_second_max: 2, ..LIMITS };
    let three = [masked(0x01, b""), masked(0x00, b""), masked(0x80, b"")].concat();
    assert_eq!(feed_all(&mut Decoder::new(false), &limits, [&*three]), (vec![Got::Text(String::new())], Ok(())));
    let four = [masked(0x01, b""), masked(0x00, b""), masked(0x00, b""), masked(0x00, b"")].concat();
    assert_eq!(feed_all(&mut Decoder::new(false), &limits, [&*four]).1, Err(WsError::TooManyFragments));
    assert_eq!(WsError::TooManyFragments.close_code(), CloseCode::Policy);

    let (mut decoder, mut inflater) = (Decoder::new(false), Inflater::new());
    let mut ping_at = |now| {
        let on = &mut |_: Incoming<'_>| ControlFlow::Continue(());
        decoder.feed(Now(now), &mut masked(0x89, b""), &limits, &mut inflater, on)
    };
    assert_eq!([ping_at(5), ping_at(999_999_999)], [Ok(6), Ok(6)]);
    assert_eq!([ping_at(1_000_000_000), ping_at(1_000_000_001)], [Ok(6), Ok(6)]);
    assert_eq!(ping_at(1_000_000_002), Err(WsError::TooManyControls));
    assert_eq!(WsError::TooManyControls.close_code(), CloseCode::Policy);
}

#[test]
fn text_fails_at_the_first_wrong_byte() {
    let text = b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xf4\x90\x80\x80edited";
    let frame = masked(0x81, text);
    fails(&frame, WsError::Utf8, CloseCode::InvalidData);
    // Head, then everything up to F4; 90 makes it hopeless, though most of the frame has not arrived.
    let mut decoder = Decoder::new(false);
    assert_eq!(feed_all(&mut decoder, &LIMITS, [&frame[..6 + 12]]), (vec![], Ok(())));
    assert_eq!(feed_all(&mut decoder, &LIMITS, [&frame[18..19]]), (vec![], Err(WsError::Utf8)));
    // In fragments: an unfinished character at the end of the message.
    let cut = [masked(0x01, b"\xce\xba\xe1"), masked(0x80, b"\xbd")].concat();
    fails(&cut, WsError::Utf8, CloseCode::InvalidData);
}

#[test]
fn close_frames() {
    let close = |code: u16, reason: &[u8]| masked(0x88, &[&code.to_be_bytes(), reason].concat());
    assert_eq!(decode(&masked(0x88, b"")), (vec![Got::Close(None, String::new())], Ok(())));
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999] {
        assert_eq!(decode(&close(code, b"why")), (vec![Got::Close(Some(code), "why".into())], Ok(())));
    }
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
        fails(&close(code, b""), WsError::CloseCode(code), CloseCode::Protocol);
    }
    fails(&masked(0x88, b"\x03"), WsError::ClosePayload, CloseCode::Protocol);
    fails(&close(1000, b"\xce\xba\xe1"), WsError::Utf8, CloseCode::InvalidData);
}

#[test]
fn break_leaves_the_rest_untouched() {
    let (first, second) = (masked(0x81, b"one"), masked(0x81, b"two"));
    let mut bytes = [first.clone(), second.clone()].concat();
    let (mut decoder, mut inflater) = (Decoder::new(false), Inflater::new());
    let mut got = Vec::new();
    let mut on = |incoming: Incoming<'_>| {
        got.push(Got::from(incoming));
        ControlFlow::Break(())
    };
    assert_eq!(decoder.feed(Now(0), &mut bytes, &LIMITS, &mut inflater, &mut on), Ok(first.len()));
    assert_eq!(bytes[first.len()..], second);
    let rest = &mut bytes[first.len()..];
    assert_eq!(decoder.feed(Now(0), rest, &LIMITS, &mut inflater, &mut on), Ok(second.len()));
    assert_eq!(got, [Got::Text("one".into()), Got::Text("two".into())]);
}

#[test]
fn compressed_messages_of_rfc_7692() {
    let messages: [&[&[u8]]; 5] = [
        &[&[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]],
        &[&[0xf2, 0x48, 0xcd], &[0xc9, 0xc9, 0x07, 0x00]],
        &[&[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00]],
        &[&[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00]],
        &[&[0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00]],
    ];
    for fragments in messages {
        let bytes: Vec<u8> = fragments
            .iter()
            .enumerate()
            .flat_map(|(i, part)| {
                let fin = if i + 1 == fragments.len() { 0x80 } else { 0 };
                masked(if i == 0 { 0x41 | fin } else { fin }, part)
            })
            .collect();
        for size in [1, 3, bytes.len()] {
            let got = feed_all(&mut Decoder::new(true), &LIMITS, bytes.chunks(size));
            assert_eq!(got, (vec![Got::Text("Hello".into())], Ok(())), "{fragments:x?}");
        }
    }
}

#[test]
fn compressed_text_must_be_utf8() {
    let frame = Deflater::new(15, 3).frame_always(OpCode::Text, b"\xff\xfe");
    let bytes = masked(frame[0], &frame[2..]);
    assert_eq!(feed_all(&mut Decoder::new(true), &LIMITS, [&*bytes]).1, Err(WsError::Utf8));
}

/// Bytes on the heap that a decoder answers for.
fn held(decoder: &Decoder) -> usize {
    let Some(mid) = &decoder.mid else { return 0 };
    let control = if let Frame::Payload { control, .. } = &mid.frame { control.capacity() } else { 0 };
    let body = mid.message.as_ref().map_or(0, |message| match &message.body {
        Body::Text(text) => text.capacity(),
        Body::Binary(bytes) | Body::Packed { bytes, .. } => bytes.capacity(),
    });
    size_of::<Mid>() + control + body
}

const MID_OVERHEAD: usize = size_of::<Mid>() + 16;

#[test]
fn memory_follows_received_bytes_not_declared_ones() {
    let frame = masked(0x81, &vec![b'a'; 60_000]);
    let mut decoder = Decoder::new(false);
    let mut received = 0;
    for chunk in frame.chunks(1460) {
        feed_all(&mut decoder, &LIMITS, [chunk]).1.unwrap();
        received += chunk.len();
        assert!(held(&decoder) <= 2 * received + MID_OVERHEAD);
        assert!(held(&decoder) <= 60_000 + MID_OVERHEAD);
    }
    assert!(decoder.is_idle());
}

#[derive(Clone, Debug)]
enum Sent {
    Text(String, Vec<usize>),
    Binary(Vec<u8>, Vec<usize>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
}

fn sent() -> impl Strategy<Value = Sent> {
    let cuts = || prop::collection::vec(any::<usize>(), 0..4);
    let bytes = prop_oneof![prop::collection::vec(any::<u8>(), 0..300), prop::collection::vec(0u8..4, 0..9000)];
    prop_oneof![
        ("\\PC{0,80}", cuts()).prop_map(|(text, cuts)| Sent::Text(text, cuts)),
        (bytes, cuts()).prop_map(|(bytes, cuts)| Sent::Binary(bytes, cuts)),
        prop::collection::vec(any::<u8>(), 0..=125).prop_map(Sent::Ping),
        prop::collection::vec(any::<u8>(), 0..=125).prop_map(Sent::Pong),
    ]
}

/// A data message as frames cut at `cuts`, with a ping after each but the last; compressed if `deflate`.
fn fragments(op: OpCode, payload: &[u8], cuts: &[usize], deflate: bool) -> (Vec<u8>, usize) {
    let frame;
    let (payload, rsv1) = if deflate {
        frame = Deflater::new(15, 3).frame_always(op, payload);
        let head = match frame[1] {
            126 => 4,
            127 => 10,
            _ => 2,
        };
        (&frame[head..], 0x40)
    } else {
        (payload, 0)
    };
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (payload.len() + 1)).collect();
    cuts.sort_unstable();
    cuts.push(payload.len());
    let (mut bytes, mut from) = (Vec::new(), 0);
    for (i, &cut) in cuts.iter().enumerate() {
        let first = if i == 0 { op.number() | rsv1 } else { 0 };
        let last = i + 1 == cuts.len();
        bytes.extend(masked(first | if last { 0x80 } else { 0 }, &payload[from..cut]));
        if !last {
            bytes.extend(masked(0x89, &[i as u8]));
        }
        from = cut;
    }
    (bytes, cuts.len() - 1)
}

fn wire(messages: &[Sent], deflate: bool) -> (Vec<u8>, Vec<Got>) {
    let (mut bytes, mut expected) = (Vec::new(), Vec::new());
    let data = |op, payload: &[u8], cuts: &[usize], got, expected: &mut Vec<Got>| {
        let (wire, pings) = fragments(op, payload, cuts, deflate);
        expected.extend((0..pings).map(|i| Got::Ping(vec![i as u8])));
        expected.push(got);
        wire
    };
    for message in messages {
        let wire = match message {
            Sent::Text(text, cuts) => data(OpCode::Text, text.as_bytes(), cuts, Got::Text(text.clone()), &mut expected),
            Sent::Binary(body, cuts) => data(OpCode::Binary, body, cuts, Got::Binary(body.clone()), &mut expected),
            Sent::Ping(body) => {
                expected.push(Got::Ping(body.clone()));
                masked(0x89, body)
            }
            Sent::Pong(body) => {
                expected.push(Got::Pong(body.clone()));
                masked(0x8a, body)
            }
        };
        bytes.extend(wire);
    }
    (bytes, expected)
}

/// Cuts `bytes` into chunks of the given sizes, the last size repeated.
fn chunked<'a>(bytes: &'a [u8], sizes: &[usize]) -> Vec<&'a [u8]> {
    let (mut rest, mut chunks, mut sizes) = (bytes, Vec::new(), sizes.iter().cycle());
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(sizes.next().copied().unwrap_or(1).clamp(1, rest.len()));
        chunks.push(chunk);
        rest = after;
    }
    chunks
}

proptest! {
    #[test]
    fn any_chunks_give_the_same_messages(
        messages in prop::collection::vec(sent(), 1..8),
        sizes in prop::collection::vec(1usize..2000, 1..6),
        small in prop::collection::vec(1usize..9, 1..6),
        deflate in any::<bool>(),
    ) {
        let limits = Limits { control_per_second_max: 1000, ..LIMITS };
        let (bytes, expected) = wire(&messages, deflate);
        for sizes in [sizes, small, vec![bytes.len()]] {
            let mut decoder = Decoder::new(deflate);
            let got = feed_all(&mut decoder, &limits, chunked(&bytes, &sizes));
            prop_assert_eq!(got, (expected.clone(), Ok(())));
            prop_assert!(decoder.is_idle());
        }
    }

    #[test]
    fn any_bytes_never_panic_and_memory_stays_bounded(
        prefix in prop::sample::select(vec![vec![], masked(0x01, b"abc"), masked(0x42, b"abc"), vec![0x82, 0xff, 0, 0, 0, 0, 0, 0]]),
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        sizes in prop::collection::vec(1usize..40, 1..6),
        deflate in any::<bool>(),
    ) {
        let bytes = [prefix, bytes].concat();
        let mut decoder = Decoder::new(deflate);
        let mut received = 0;
        for chunk in chunked(&bytes, &sizes) {
            let result = feed_all(&mut decoder, &LIMITS, [chunk]).1;
            received += chunk.len();
            prop_assert!(held(&decoder) <= 2 * received + MID_OVERHEAD);
            if result.is_err() {
                break;
            }
        }
    }

    /// A valid stream with one byte changed is where a parser's assumptions break.
    #[test]
    fn a_changed_byte_never_panics(
        messages in prop::collection::vec(sent(), 1..4),
        at in any::<usize>(),
        to in any::<u8>(),
        sizes in prop::collection::vec(1usize..200, 1..6),
        deflate in any::<bool>(),
    ) {
        let (mut bytes, _) = wire(&messages, deflate);
        let at = at % bytes.len();
        bytes[at] = to;
        let whole = feed_all(&mut Decoder::new(deflate), &LIMITS, [&*bytes]);
        let cut = feed_all(&mut Decoder::new(deflate), &LIMITS, chunked(&bytes, &sizes));
        if whole.1.is_ok() {
            prop_assert_eq!(whole, cut);
        } else {
            prop_assert!(cut.1.is_err());
        }
    }
}
