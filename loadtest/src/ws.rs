//! The client's side of RFC 6455: masked frames up, unmasked frames down. No extensions are offered, so a set reserved bit
//! is an error of the server and reported as one.

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

/// Takes one whole frame off the front of `buffer`, if there is one.
pub fn take_frame(buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
    if buffer.len() < 2 {
        return Ok(None);
    }
    let head = [buffer[0], buffer[1]];
    if head[0] & 0x70 != 0 || head[1] & 0x80 != 0 {
        return Err(FrameError::Head(head));
    }
    let op = match head[0] & 0x0f {
        0 => OpCode::Continuation,
        1 => OpCode::Text,
        2 => OpCode::Binary,
        8 => OpCode::Close,
        9 => OpCode::Ping,
        10 => OpCode::Pong,
        _ => return Err(FrameError::Head(head)),
    };
    if head[0] & 0x80 == 0 || op == OpCode::Continuation {
        return Err(FrameError::Fragmented);
    }
    let (len, head_bytes) = match head[1] {
        126 if buffer.len() < 4 => return Ok(None),
        126 => (u64::from(u16::from_be_bytes([buffer[2], buffer[3]])), 4),
        127 if buffer.len() < 10 => return Ok(None),
        127 => (buffer[2..10].iter().fold(0, |len, b| len << 8 | u64::from(*b)), 10),
        len => (u64::from(len), 2),
    };
    if len > FRAME_BYTES_MAX {
        return Err(FrameError::TooLong(len));
    }
    if (buffer.len() - head_bytes) < len as usize {
        return Ok(None);
    }
    buffer.advance(head_bytes);
    Ok(Some(Frame { op, payload: buffer.split_to(len as usize).freeze() }))
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
