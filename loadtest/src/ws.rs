//! The client's side of RFC 6455: masked frames up, unmasked frames down. The only extension is permessage-deflate, so any
//! other set reserved bit is an error of the server and reported as one.

use bytes::{Buf as _, Bytes, BytesMut};

/// Largest frame that a server may send to us.
pub const FRAME_BYTES_MAX: u64 = 64 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpCode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

#[derive(Debug)]
pub struct Frame {
    pub op: OpCode,
    pub payload: Bytes,
}

#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("the server set reserved bits or sent a masked frame: {0:02x?}")]
    Head([u8; 2]),
    #[error("the server sent a frame of {0} bytes")]
    TooLong(u64),
    #[error("the server fragmented a message")]
    Fragmented,
}

/// Where a frame's payload lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub op: OpCode,
    pub head_bytes: usize,
    pub payload_bytes: usize,
    /// RSV1: the payload is compressed.
    pub compressed: bool,
}

impl Head {
    pub fn frame_bytes(&self) -> usize {
        self.head_bytes + self.payload_bytes
    }
}

/// Reads the head of the frame at the front of `bytes`; `None` if more bytes are needed for it.
pub fn head(bytes: &[u8]) -> Result<Option<Head>, FrameError> {
    let [first, second, rest @ ..] = bytes else { return Ok(None) };
    let compressed = first & 0x70 == 0x40 && matches!(first & 0x0f, 1 | 2);
    if first & 0x70 != 0 && !compressed || second & 0x80 != 0 {
        return Err(FrameError::Head([*first, *second]));
    }
    let op = match first & 0x0f {
        0 => OpCode::Continuation,
        1 => OpCode::Text,
        2 => OpCode::Binary,
        8 => OpCode::Close,
        9 => OpCode::Ping,
        10 => OpCode::Pong,
        _ => return Err(FrameError::Head([*first, *second])),
    };
    if first & 0x80 == 0 || op == OpCode::Continuation {
        return Err(FrameError::Fragmented);
    }
    let (length, head_bytes) = match (second, rest) {
        (126, [a, b, ..]) => (u64::from(u16::from_be_bytes([*a, *b])), 4),
        (127, [a, b, c, d, e, f, g, h, ..]) => (u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]), 10),
        (126 | 127, _) => return Ok(None),
        (length, _) => (u64::from(*length), 2),
    };
    if length > FRAME_BYTES_MAX {
        return Err(FrameError::TooLong(length));
    }
    Ok(Some(Head { op, head_bytes, payload_bytes: length as usize, compressed }))
}

/// Takes one whole frame off the front of `buffer`, if there is one. Compression was not offered.
pub fn take_frame(buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
    let Some(head) = head(buffer)?.filter(|head| head.frame_bytes() <= buffer.len()) else { return Ok(None) };
    if head.compressed {
        return Err(FrameError::Head([buffer[0], buffer[1]]));
    }
    buffer.advance(head.head_bytes);
    Ok(Some(Frame { op: head.op, payload: buffer.split_to(head.payload_bytes).freeze() }))
}

/// Appends one masked frame. A zero mask is a legal mask, and the harness measures servers, not masks.
pub fn put_frame(buffer: &mut Vec<u8>, op: OpCode, payload: &[u8]) {
    let op = match op {
        OpCode::Continuation => 0,
        OpCode::Text => 1,
        OpCode::Binary => 2,
        OpCode::Close => 8,
        OpCode::Ping => 9,
        OpCode::Pong => 10,
    };
    buffer.push(0x80 | op);
    match payload.len() {
        len @ 0..=125 => buffer.push(0x80 | len as u8),
        len @ 126..=0xffff => {
            buffer.push(0x80 | 126);
            buffer.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            buffer.push(0x80 | 127);
            buffer.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    buffer.extend_from_slice(&[0; 4]);
    buffer.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server_frame(op: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x80 | op];
        match payload.len() {
            len @ 0..=125 => bytes.push(len as u8),
            len @ 126..=0xffff => {
                bytes.push(126);
                bytes.extend((len as u16).to_be_bytes());
            }
            len => {
                bytes.push(127);
                bytes.extend((len as u64).to_be_bytes());
            }
        }
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn frames_of_every_length_class_come_out_whole() {
        for len in [0, 1, 125, 126, 127, 65_535, 65_536, 100_000] {
            let payload = vec![b'x'; len];
            let bytes = server_frame(2, &payload);
            let mut buffer = BytesMut::new();
            for chunk in bytes.chunks(4_093) {
                assert!(take_frame(&mut buffer).expect("valid").is_none());
                buffer.extend_from_slice(chunk);
            }
            let frame = take_frame(&mut buffer).expect("valid").expect("whole");
            assert_eq!((frame.op, frame.payload.len()), (OpCode::Binary, len));
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn a_servers_mistakes_are_named() {
        for (bytes, want) in [(vec![0xc2, 0], "reserved"), (vec![0x82, 0x80], "masked"), (vec![0x02, 0], "fragmented")]
        {
            let mut buffer = BytesMut::from(&bytes[..]);
            let text = take_frame(&mut buffer).expect_err("refused").to_string();
            assert!(text.contains(want), "{text}");
        }
    }
}
