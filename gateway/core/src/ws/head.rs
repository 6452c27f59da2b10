//! The head of a client frame (RFC 6455 §5.2), checked as early as each byte allows.

use crate::ws::encode::{CONTROL_BYTES_MAX, FIN, RSV1};
use crate::ws::error::WsError;

/// Longest head: two bytes, a 64-bit length, the mask.
pub(super) const HEAD_BYTES_MAX: usize = 14;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FrameKind {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

impl FrameKind {
    pub(super) fn is_control(self) -> bool {
        matches!(self, FrameKind::Close | FrameKind::Ping | FrameKind::Pong)
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub(super) kind: FrameKind,
    pub(super) fin: bool,
    pub(super) compressed: bool,
    /// Declared payload bytes, below 2^63. Nothing may be allocated from it.
    pub(super) len: u64,
    mask: [u8; 4],
}

impl Head {
    /// The mask as it applies `offset` bytes into the payload.
    pub(super) fn mask_at(&self, offset: u64) -> [u8; 4] {
        let mut mask = self.mask;
        mask.rotate_left((offset % 4) as usize);
        mask
    }

    /// Reads a head from the beginning of `bytes`; `None` if more bytes are needed. The number is the head's size.
    ///
    /// `deflate`: RSV1 may mark a compressed message. `in_message`: a fragmented message is open.
    pub(super) fn parse(bytes: &[u8], deflate: bool, in_message: bool) -> Result<Option<(Head, usize)>, WsError> {
        let Some(&first) = bytes.first() else { return Ok(None) };
        let (kind, fin, compressed) = parse_first(first, deflate, in_message)?;
        let Some(&second) = bytes.get(1) else { return Ok(None) };
        if second & 0x80 == 0 {
            return Err(WsError::Unmasked);
        }
        let short = second & 0x7f;
        if kind.is_control() && usize::from(short) > CONTROL_BYTES_MAX {
            return Err(WsError::ControlTooLong);
        }
        let (len, at) = match short {
            126 => {
                let Some(&raw) = bytes[2..].first_chunk::<2>() else { return Ok(None) };
                (u64::from(u16::from_be_bytes(raw)), 4)
            }
            127 => {
                let Some(&raw) = bytes[2..].first_chunk::<8>() else { return Ok(None) };
                (u64::from_be_bytes(raw), 10)
            }
            len => (u64::from(len), 2),
        };
        if len >> 63 != 0 {
            return Err(WsError::LengthTooLarge);
        }
        if (short == 126 && len < 126) || (short == 127 && len <= 0xffff) {
            return Err(WsError::LengthNotMinimal);
        }
        let Some(&mask) = bytes[at..].first_chunk::<4>() else { return Ok(None) };
        Ok(Some((Head { kind, fin, compressed, len, mask }, at + 4)))
    }
}

fn parse_first(first: u8, deflate: bool, in_message: bool) -> Result<(FrameKind, bool, bool), WsError> {
    let (fin, compressed) = (first & FIN != 0, first & RSV1 != 0);
    let kind = match first & 0x0f {
        0x0 => FrameKind::Continuation,
        0x1 => FrameKind::Text,
        0x2 => FrameKind::Binary,
        0x8 => FrameKind::Close,
        0x9 => FrameKind::Ping,
        0xa => FrameKind::Pong,
        reserved => return Err(WsError::ReservedOpcode(reserved)),
    };
    // RFC 7692 §6: RSV1 belongs to the first frame of a data message alone.
    let may_compress = deflate && matches!(kind, FrameKind::Text | FrameKind::Binary);
    if first & 0x30 != 0 || (compressed && !may_compress) {
        return Err(WsError::ReservedBits);
    }
    match kind {
        FrameKind::Continuation if !in_message => Err(WsError::ContinuationUnexpected),
        FrameKind::Text | FrameKind::Binary if in_message => Err(WsError::ContinuationExpected),
        _ if kind.is_control() && !fin => Err(WsError::ControlFragmented),
        _ => Ok((kind, fin, compressed)),
    }
}
