//! The client's side of the wire: parses what the server sent, makes masked frames.

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSent {
    pub opcode: u8,
    pub compressed: bool,
    pub payload: Vec<u8>,
}

pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

impl ServerSent {
    pub fn into_text(self) -> Option<String> {
        (self.opcode == TEXT && !self.compressed).then(|| String::from_utf8(self.payload).expect("UTF-8"))
    }

    pub fn close_code(&self) -> Option<u16> {
        let code = self.payload.first_chunk::<2>()?;
        (self.opcode == CLOSE).then(|| u16::from_be_bytes(*code))
    }
}

/// Whole frames, and whether a part of another follows. Panics if the bytes are anything but server frames.
pub fn parse(mut bytes: &[u8]) -> (Vec<ServerSent>, bool) {
    let mut frames = Vec::new();
    loop {
        let Some((opcode, compressed, head, len)) = head(bytes) else { return (frames, !bytes.is_empty()) };
        if bytes.len() < head + len {
            return (frames, true);
        }
        frames.push(ServerSent { opcode, compressed, payload: bytes[head..head + len].to_vec() });
        bytes = &bytes[head + len..];
    }
}

fn head(bytes: &[u8]) -> Option<(u8, bool, usize, usize)> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    assert_eq!(first & 0b1011_0000, 0b1000_0000, "whole frames: FIN, no RSV2 or RSV3");
    assert_eq!(second & 0x80, 0, "a server does not mask");
    let (head, len) = match second {
        126 => (4, u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?) as usize),
        127 => (10, u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?) as usize),
        len => (2, len as usize),
    };
    Some((first & 0x0f, first & 0x40 != 0, head, len))
}

/// A client's frame.
pub fn masked(opcode: u8, fin: bool, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![opcode | if fin { 0x80 } else { 0 }];
    match payload.len() {
        len @ 0..126 => bytes.push(0x80 | len as u8),
        len @ 126..65_536 => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    let mask = [7, 77, 177, 27];
    bytes.extend_from_slice(&mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

pub fn text(text: &str) -> Vec<u8> {
    masked(TEXT, true, text.as_bytes())
}

pub fn close(code: u16) -> Vec<u8> {
    masked(CLOSE, true, &code.to_be_bytes())
}
