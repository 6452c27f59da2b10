//! The client's side of the wire: parses what the server sent, makes masked frames.

pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// One server frame, whole.
#[derive(Debug)]
pub struct Frame {
    pub opcode: u8,
    pub compressed: bool,
    pub payload: Vec<u8>,
}

/// Takes the first whole frame out of the buffer. An error: these are not server frames.
pub fn take(buffer: &mut Vec<u8>) -> Result<Option<Frame>, &'static str> {
    let (Some(&first), Some(&second)) = (buffer.first(), buffer.get(1)) else { return Ok(None) };
    if first & 0b1011_0000 != 0b1000_0000 {
        return Err("a server frame that is not whole, or has reserved bits");
    }
    if second & 0x80 != 0 {
        return Err("a masked server frame");
    }
    let (head, len) = match second {
        126 => match buffer.get(2..4) {
            Some(len) => (4, u16::from_be_bytes([len[0], len[1]]) as usize),
            None => return Ok(None),
        },
        127 => match buffer.get(2..10).and_then(|len| <[u8; 8]>::try_from(len).ok()) {
            Some(len) => (10, u64::from_be_bytes(len) as usize),
            None => return Ok(None),
        },
        len => (2, usize::from(len)),
    };
    if !matches!(first & 0x0f, TEXT | BINARY | CLOSE | PING | PONG) {
        return Err("a server frame of no known kind");
    }
    if buffer.len() < head + len {
        return Ok(None);
    }
    let payload = buffer[head..head + len].to_vec();
    buffer.drain(..head + len);
    Ok(Some(Frame { opcode: first & 0x0f, compressed: first & 0x40 != 0, payload }))
}

/// A client's frame.
pub fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![opcode | 0x80];
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
