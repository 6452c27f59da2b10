use proptest::prelude::*;

use super::*;

/// The compressed payload of a frame.
fn payload(frame: &[u8]) -> &[u8] {
    assert_eq!(frame[0] & 0xc0, 0xc0, "FIN and RSV1");
    match frame[1] {
        126 => &frame[4..],
        127 => &frame[10..],
        _ => &frame[2..],
    }
}

fn patterned(len: usize) -> Vec<u8> {
    (0..len).map(|i| ((i / 7) % 251) as u8 ^ (i % 13) as u8).collect()
}

#[test]
fn what_stays_too_big_is_no_frame() {
    let mut deflater = Deflater::new(15, 3);
    let packed = payload(&deflater.frame_always(OpCode::Text, &[b'a'; 1024])).len();
    assert_eq!(deflater.frame(OpCode::Text, &[b'a'; 1024], packed - 1), None);
    assert!(deflater.frame(OpCode::Text, &[b'a'; 1024], packed).is_some());
    let mut state = 1u32;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
    .take(4096)
    .collect();
    assert_eq!(deflater.frame(OpCode::Binary, &noise, noise.len()), None);
    let mut inflater = Inflater::new();
    assert_eq!(inflater.inflate(payload(&deflater.frame_always(OpCode::Binary, &noise)), 4096), Ok(&*noise));
}

#[test]
fn an_empty_message_is_one_zero_byte() {
    let frame = Deflater::new(15, 3).frame_always(OpCode::Text, b"");
    assert_eq!(&frame[..], [0xc1, 1, 0]);
    let mut inflater = Inflater::new();
    assert_eq!(inflater.inflate(&[0], 10), Ok(&[][..]));
    assert_eq!(inflater.inflate(&[], 10), Ok(&[][..]));
}

#[test]
fn control_frames_are_never_compressed() {
    let mut deflater = Deflater::new(15, 3);
    assert_eq!(deflater.frame(OpCode::Ping, &[0; 2000], 2000), None);
    assert_eq!(&deflater.frame_always(OpCode::Ping, b"abc")[..], [0x89, 3, b'a', b'b', b'c']);
}

#[test]
fn messages_stand_alone() {
    let mut deflater = Deflater::new(15, 3);
    let text = b"the same text compresses to the same bytes, because no context is taken over ".repeat(20);
    let first = deflater.frame_always(OpCode::Text, &text);
    assert_eq!(deflater.frame_always(OpCode::Text, &text), first);
}

/// A peer that agreed to a small window decompresses with that window and no more.
#[test]
fn the_negotiated_window_is_kept() {
    let unit = patterned(3000);
    let data = [&unit[..], &unit, &unit].concat();
    for bits in WINDOW_BITS_MIN..=WINDOW_BITS_MAX {
        let frame = Deflater::new(bits, 3).frame_always(OpCode::Binary, &data);
        let packed = [payload(&frame), &FLUSH_TAIL].concat();
        let mut stream = Decompress::new_with_window_bits(false, bits);
        let (mut out, mut piece) = (Vec::new(), [0u8; 61]);
        loop {
            let (before_in, before_out) = (stream.total_in() as usize, stream.total_out());
            stream.decompress(&packed[before_in..], &mut piece, FlushDecompress::None).unwrap();
            let n = (stream.total_out() - before_out) as usize;
            out.extend_from_slice(&piece[..n]);
            if n == 0 && stream.total_in() as usize == before_in {
                break;
            }
        }
        assert_eq!(out, data, "{bits} bits");
    }
}

#[test]
fn a_bomb_is_stopped_within_the_limit() {
    let zeros = vec![0u8; 16 << 20];
    let frame = Deflater::new(15, 3).frame_always(OpCode::Binary, &zeros);
    assert!(frame.len() < 100_000);
    let mut inflater = Inflater::new();
    for limit in [0, 1, 4095, 4096, 65_536] {
        assert_eq!(inflater.inflate(payload(&frame), limit), Err(WsError::TooBig));
        assert_eq!(inflater.out.capacity(), 0, "given back");
    }
    let exact = Deflater::new(15, 3).frame_always(OpCode::Binary, &zeros[..65_536]);
    assert_eq!(inflater.inflate(payload(&exact), 65_536).map(<[u8]>::len), Ok(65_536));
    assert!(inflater.out.capacity() <= 65_537);
    assert_eq!(inflater.inflate(payload(&exact), 65_535), Err(WsError::TooBig));
}

#[test]
fn large_scratch_is_given_back() {
    let data = patterned(1 << 20);
    let mut deflater = Deflater::new(15, 3);
    let frame = deflater.frame_always(OpCode::Binary, &data);
    assert!(deflater.packed.capacity() <= SCRATCH_BYTES_KEEP);
    let mut inflater = Inflater::new();
    assert_eq!(inflater.inflate(payload(&frame), 1 << 20), Ok(&*data));
    inflater.trim();
    assert_eq!(inflater.out.capacity(), 0);
}

#[test]
fn damaged_and_truncated_data_is_corrupt() {
    let data = patterned(5000);
    let frame = Deflater::new(15, 3).frame_always(OpCode::Binary, &data);
    let packed = payload(&frame);
    let mut inflater = Inflater::new();
    for cut in [1, 2, 10, packed.len() / 2, packed.len() - 2] {
        assert_ne!(inflater.inflate(&packed[..packed.len() - cut], 5000), Ok(&*data), "{cut} bytes missing");
    }
    assert_eq!(inflater.inflate(b"\xff\xff\xff\xff", 5000), Err(WsError::Deflate));
    // A stored block that promises more than the message holds.
    assert_eq!(inflater.inflate(&[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48], 5000), Err(WsError::Deflate));
    assert_eq!(inflater.inflate(packed, 5000), Ok(&*data), "usable again after errors");
}

#[test]
fn final_blocks_are_bounded() {
    let mut inflater = Inflater::new();
    let few = [0x03, 0x00].repeat(10);
    assert_eq!(inflater.inflate(&few, 10), Ok(&[][..]));
    let many = [0x03, 0x00].repeat(FINAL_BLOCKS_MAX as usize + 2);
    assert_eq!(inflater.inflate(&many, 10), Err(WsError::Deflate));
}

proptest! {
    #[test]
    fn what_is_packed_unpacks(
        data in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..3000),
            prop::collection::vec(0u8..3, 0..60_000),
        ],
        bits in WINDOW_BITS_MIN..=WINDOW_BITS_MAX,
    ) {
        let frame = Deflater::new(bits, 3).frame_always(OpCode::Binary, &data);
        prop_assert!(payload(&frame).len() <= packed_bytes_max(data.len()));
        let mut inflater = Inflater::new();
        prop_assert_eq!(inflater.inflate(payload(&frame), data.len()), Ok(&*data));
    }

    #[test]
    fn any_bytes_keep_the_limit(packed in prop::collection::vec(any::<u8>(), 0..500), limit in 0usize..5000) {
        let mut inflater = Inflater::new();
        if let Ok(out) = inflater.inflate(&packed, limit) {
            prop_assert!(out.len() <= limit);
        }
        prop_assert!(inflater.out.capacity() <= limit + 1);
    }
}

#[test]
fn what_is_unpacked_is_counted_and_so_is_what_is_refused() {
    use std::cell::Cell;
    thread_local!(static CPU: Cell<u64> = const { Cell::new(0) });
    let mut inflater = Inflater::timed(|| CPU.replace(CPU.get() + 5));
    let frame = Deflater::new(15, 3).frame_always(OpCode::Text, &[b'a'; 1000]);
    let packed = payload(&frame);
    assert!(inflater.inflate(packed, 1000).is_ok());
    assert_eq!(inflater.inflate(packed, 999), Err(WsError::TooBig));
    let both = Inflated { messages: 2, packed_bytes: 2 * packed.len() as u64, plain_bytes: 2000, cpu_ns: 10 };
    assert_eq!(*inflater.inflated(), both);
}
