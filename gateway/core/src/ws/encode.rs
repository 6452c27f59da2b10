//! Server frames: unmasked, never fragmented, head and payload in one buffer.

use bytes::Bytes;

/// Opcodes that a server sends or a client's message has; continuation frames never leave the decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OpCode {
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

impl OpCode {
    /// RFC 6455 §5.2.
    pub(super) fn number(self) -> u8 {
        match self {
            OpCode::Text => 0x1,
            OpCode::Binary => 0x2,
            OpCode::Close => 0x8,
            OpCode::Ping => 0x9,
            OpCode::Pong => 0xa,
        }
    }
}

pub(super) const FIN: u8 = 0x80;
pub(super) const RSV1: u8 = 0x40;
/// Longest payload of a control frame.
pub(super) const CONTROL_BYTES_MAX: usize = 125;

const HEAD_BYTES_MAX: usize = 10;

/// A whole frame. Control payloads longer than 125 bytes are cut, since no peer would take them.
pub fn frame(op: OpCode, payload: &[u8]) -> Bytes {
    let control = matches!(op, OpCode::Close | OpCode::Ping | OpCode::Pong);
    let len = if control { payload.len().min(CONTROL_BYTES_MAX) } else { payload.len() };
    assemble(FIN | op.number(), &payload[..len])
}

/// A close frame. A reason longer than fits (123 bytes) is cut at a character's end.
pub fn close_frame(code: u16, reason: &str) -> Bytes {
    let mut payload = Vec::with_capacity(CONTROL_BYTES_MAX);
    payload.extend_from_slice(&code.to_be_bytes());
    payload.extend_from_slice(&reason.as_bytes()[..reason.floor_char_boundary(CONTROL_BYTES_MAX - 2)]);
    frame(OpCode::Close, &payload)
}

/// Head and payload in one exactly sized allocation: these buffers live as long as the slowest recipient.
pub(super) fn assemble(first: u8, payload: &[u8]) -> Bytes {
    let mut head = [0u8; HEAD_BYTES_MAX];
    head[0] = first;
    let head_len = match payload.len() {
        len @ 0..=125 => {
            head[1] = len as u8;
            2
        }
        len @ 126..=0xffff => {
            head[1] = 126;
            head[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            4
        }
        len => {
            head[1] = 127;
            head[2..10].copy_from_slice(&(len as u64).to_be_bytes());
            10
        }
    };
    let mut buffer = Vec::with_capacity(head_len + payload.len());
    buffer.extend_from_slice(&head[..head_len]);
    buffer.extend_from_slice(payload);
    buffer.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_take_the_shortest_form() {
        for (len, head) in [
            (0, &[0x82, 0][..]),
            (125, &[0x82, 125]),
            (126, &[0x82, 126, 0, 126]),
            (65_535, &[0x82, 126, 0xff, 0xff]),
            (65_536, &[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let payload = vec![7; len];
            let frame = frame(OpCode::Binary, &payload);
            assert_eq!(&frame[..head.len()], head);
            assert_eq!(&frame[head.len()..], payload);
        }
    }

    #[test]
    fn control_frames_never_exceed_125_bytes() {
        assert_eq!(&frame(OpCode::Pong, b"x")[..], [0x8a, 1, b'x']);
        assert_eq!(frame(OpCode::Ping, &[0; 200]).len(), 127);
        assert_eq!(&close_frame(1000, "")[..], [0x88, 2, 0x03, 0xe8]);
        let cut = close_frame(3001, &"é".repeat(100));
        assert_eq!((cut[1], &cut[2..4]), (124, &3001u16.to_be_bytes()[..]));
        assert_eq!(std::str::from_utf8(&cut[4..]), Ok(&*"é".repeat(61)));
    }
}
