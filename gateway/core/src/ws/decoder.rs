//! The strict reader of client frames: bytes in, whole messages out.
//!
//! Invariants:
//! * Between messages the decoder has nothing on the heap; in mid-frame or mid-message one boxed [`Mid`].
//! * Memory follows received bytes (at most twice as many), never a declared length.
//! * A frame is refused at the first byte that makes it wrong, not at its end.
//! * Compressed messages are collected packed and inflated when whole, so that one [`Inflater`] serves every connection
//!   of a shard however their fragments interleave.

use std::ops::ControlFlow;
use std::str::from_utf8;

use crate::ids::Now;
use crate::ws::deflate::{Inflater, packed_bytes_max};
use crate::ws::error::WsError;
use crate::ws::head::{FrameKind, HEAD_BYTES_MAX, Head};
use crate::ws::text::{InvalidUtf8, TextBuffer};

/// What a client may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one message after decompression; more is 1009.
    pub message_bytes_max: usize,
    /// Frames of one message; more is 1008.
    pub fragments_max: u32,
    /// Pings, pongs and closes within one second of the caller's clock; more is 1008.
    pub control_per_second_max: u32,
}

/// A whole message or control frame, borrowed for the duration of the callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incoming<'a> {
    Text(&'a str),
    Binary(&'a [u8]),
    Ping(&'a [u8]),
    Pong(&'a [u8]),
    /// `code: None`: the frame had no payload. Nothing after it means anything: return `Break`.
    Close {
        code: Option<u16>,
        reason: &'a str,
    },
}

/// Per-connection state of the reader.
#[derive(Debug)]
pub struct Decoder {
    mid: Option<Box<Mid>>,
    controls: u32,
    /// The second in which `controls` were counted, 31 bits of it, and above them whether permessage-deflate was negotiated.
    second_and_deflate: u32,
}

const DEFLATE: u32 = 1 << 31;
const _: () = assert!(size_of::<Decoder>() <= 16);

/// What is unfinished.
#[derive(Debug, Default)]
struct Mid {
    frame: Frame,
    message: Option<Message>,
}

#[derive(Debug, Default)]
enum Frame {
    /// Between two frames of a message.
    #[default]
    None,
    /// The first bytes of a head.
    Head { bytes: [u8; HEAD_BYTES_MAX], len: u8 },
    /// Payload bytes are awaited; `got` came already. Data went to the message, a control frame's waits here.
    Payload { head: Head, got: u64, control: Vec<u8> },
}

/// A message in several frames or several chunks.
#[derive(Debug)]
struct Message {
    body: Body,
    fragments: u32,
    /// Payload bytes of all its frames so far, as their heads say.
    declared: usize,
}

#[derive(Debug)]
enum Body {
    Text(TextBuffer),
    Binary(Vec<u8>),
    Packed { text: bool, bytes: Vec<u8> },
}

/// Where the current frame stands.
enum Next {
    NeedBytes,
    Begun { head: Head, used: usize },
    Resumed { head: Head, got: u64, control: Vec<u8> },
}

type On<'f> = &'f mut dyn FnMut(Incoming<'_>) -> ControlFlow<()>;

impl Decoder {
    /// `deflate`: permessage-deflate was negotiated.
    pub fn new(deflate: bool) -> Self {
        Decoder { mid: None, controls: 0, second_and_deflate: if deflate { DEFLATE } else { 0 } }
    }

    /// Feeds received bytes, unmasking them in place, and hands out every message that they complete.
    ///
    /// Returns how many bytes were consumed: all, or fewer if `on` returned `Break`; the rest is untouched and can be fed
    /// later. Messages before a violation are handed out first; after an error the decoder must not be fed again.
    pub fn feed(
        &mut self,
        now: Now,
        bytes: &mut [u8],
        limits: &Limits,
        inflater: &mut Inflater,
        on: &mut dyn FnMut(Incoming<'_>) -> ControlFlow<()>,
    ) -> Result<usize, WsError> {
        let mut at = 0;
        while at < bytes.len() {
            let (used, flow) = self.step(now, &mut bytes[at..], limits, inflater, on)?;
            at += used;
            if flow.is_break() {
                break;
            }
        }
        Ok(at)
    }

    /// Nothing is unfinished: the connection stands between two messages.
    pub fn is_idle(&self) -> bool {
        self.mid.is_none()
    }

    /// Consumes the rest of one frame, or all of `bytes`.
    fn step(
        &mut self,
        now: Now,
        bytes: &mut [u8],
        limits: &Limits,
        inflater: &mut Inflater,
        on: On<'_>,
    ) -> Result<(usize, ControlFlow<()>), WsError> {
        let (head, got, control, used) = match self.next(bytes)? {
            Next::NeedBytes => return Ok((bytes.len(), ControlFlow::Continue(()))),
            Next::Begun { head, used } => {
                self.admit(now, &head, limits)?;
                (head, 0, Vec::new(), used)
            }
            Next::Resumed { head, got, control } => (head, got, control, 0),
        };
        let here = (head.len - got).min((bytes.len() - used) as u64) as usize;
        let payload = &mut bytes[used..used + here];
        fastwebsockets::unmask(payload, head.mask_at(got));
        let flow = if head.kind.is_control() {
            self.control(head, got, control, payload, on)?
        } else {
            self.data(head, got, payload, limits, inflater, on)?
        };
        Ok((used + here, flow))
    }

    fn next(&mut self, bytes: &[u8]) -> Result<Next, WsError> {
        let in_message = self.mid.as_ref().is_some_and(|mid| mid.message.is_some());
        let deflate = self.second_and_deflate & DEFLATE != 0;
        let frame = self.mid.as_mut().map(|mid| std::mem::take(&mut mid.frame)).unwrap_or_default();
        let (mut begun, begun_len) = match frame {
            Frame::Payload { head, got, control } => return Ok(Next::Resumed { head, got, control }),
            Frame::Head { bytes, len } => (bytes, usize::from(len)),
            Frame::None => match Head::parse(bytes, deflate, in_message)? {
                Some((head, used)) => return Ok(Next::Begun { head, used }),
                None => ([0; HEAD_BYTES_MAX], 0),
            },
        };
        let taken = bytes.len().min(HEAD_BYTES_MAX - begun_len);
        let len = begun_len + taken;
        begun[begun_len..len].copy_from_slice(&bytes[..taken]);
        match Head::parse(&begun[..len], deflate, in_message)? {
            Some((head, size)) => Ok(Next::Begun { head, used: size - begun_len }),
            None => {
                self.mid.get_or_insert_default().frame = Frame::Head { bytes: begun, len: len as u8 };
                Ok(Next::NeedBytes)
            }
        }
    }

    /// Decides from the head alone whether the frame keeps the limits.
    fn admit(&mut self, now: Now, head: &Head, limits: &Limits) -> Result<(), WsError> {
        if head.kind.is_control() {
            let second = (now.0 / 1_000_000_000) as u32 & !DEFLATE;
            if second != self.second_and_deflate & !DEFLATE {
                self.second_and_deflate = self.second_and_deflate & DEFLATE | second;
                self.controls = 0;
            }
            self.controls = self.controls.saturating_add(1);
            return if self.controls > limits.control_per_second_max { Err(WsError::TooManyControls) } else { Ok(()) };
        }
        let message = self.mid.as_mut().and_then(|mid| mid.message.as_mut());
        let (declared, fragments, packed) = match &message {
            Some(message) => (message.declared, message.fragments + 1, matches!(message.body, Body::Packed { .. })),
            None => (0, 1, head.compressed),
        };
        if fragments > limits.fragments_max {
            return Err(WsError::TooManyFragments);
        }
        let max = if packed { packed_bytes_max(limits.message_bytes_max) } else { limits.message_bytes_max };
        if head.len > max.saturating_sub(declared) as u64 {
            return Err(WsError::TooBig);
        }
        if let Some(message) = message {
            message.fragments = fragments;
            message.declared += head.len as usize;
        }
        Ok(())
    }

    fn control(
        &mut self,
        head: Head,
        got: u64,
        mut parked: Vec<u8>,
        payload: &[u8],
        on: On<'_>,
    ) -> Result<ControlFlow<()>, WsError> {
        let here = got + payload.len() as u64;
        if got > 0 || here < head.len {
            parked.extend_from_slice(payload);
        }
        if here < head.len {
            self.mid.get_or_insert_default().frame = Frame::Payload { head, got: here, control: parked };
            return Ok(ControlFlow::Continue(()));
        }
        if self.mid.as_ref().is_some_and(|mid| mid.message.is_none()) {
            self.mid = None;
        }
        let payload = if got > 0 { &parked } else { payload };
        Ok(on(match head.kind {
            FrameKind::Ping => Incoming::Ping(payload),
            FrameKind::Pong => Incoming::Pong(payload),
            _ => parse_close(payload)?,
        }))
    }

    fn data(
        &mut self,
        head: Head,
        got: u64,
        payload: &[u8],
        limits: &Limits,
        inflater: &mut Inflater,
        on: On<'_>,
    ) -> Result<ControlFlow<()>, WsError> {
        let got = got + payload.len() as u64;
        let ends = got == head.len && head.fin;
        if ends && self.mid.as_ref().is_none_or(|mid| mid.message.is_none()) {
            self.mid = None;
            let text = head.kind == FrameKind::Text;
            return if head.compressed {
                deliver_packed(text, payload, limits, inflater, on)
            } else {
                deliver(text, payload, on)
            };
        }
        let mid = self.mid.get_or_insert_default();
        let message = mid.message.get_or_insert_with(|| Message::new(&head));
        message.push(payload)?;
        if !ends {
            if got < head.len {
                mid.frame = Frame::Payload { head, got, control: Vec::new() };
            }
            return Ok(ControlFlow::Continue(()));
        }
        let message = self.mid.take().and_then(|mid| mid.message);
        match message.map(|message| message.body) {
            Some(Body::Text(text)) => Ok(on(Incoming::Text(&text.finish()?))),
            Some(Body::Binary(bytes)) => Ok(on(Incoming::Binary(&bytes))),
            Some(Body::Packed { text, bytes }) => deliver_packed(text, &bytes, limits, inflater, on),
            None => Ok(ControlFlow::Continue(())),
        }
    }
}

impl Message {
    fn new(head: &Head) -> Self {
        let text = head.kind == FrameKind::Text;
        let body = match (head.compressed, text) {
            (true, text) => Body::Packed { text, bytes: Vec::new() },
            (false, true) => Body::Text(TextBuffer::default()),
            (false, false) => Body::Binary(Vec::new()),
        };
        Message { body, fragments: 1, declared: head.len as usize }
    }

    fn push(&mut self, payload: &[u8]) -> Result<(), WsError> {
        match &mut self.body {
            Body::Text(text) => text.push(payload, self.declared)?,
            Body::Binary(bytes) | Body::Packed { bytes, .. } => {
                bytes.reserve_exact(room(bytes.len(), bytes.capacity(), payload.len(), self.declared));
                bytes.extend_from_slice(payload);
            }
        }
        Ok(())
    }
}

impl From<InvalidUtf8> for WsError {
    fn from(_: InvalidUtf8) -> Self {
        WsError::Utf8
    }
}

/// How much more to reserve for `add` bytes: capacity doubles as bytes come in, but not past the declared `ceiling`.
pub(super) fn room(len: usize, capacity: usize, add: usize, ceiling: usize) -> usize {
    if capacity - len >= add {
        return 0;
    }
    (len + add).max(ceiling.min(capacity.saturating_mul(2))) - len
}

fn deliver(text: bool, payload: &[u8], on: On<'_>) -> Result<ControlFlow<()>, WsError> {
    Ok(on(if text {
        Incoming::Text(from_utf8(payload).map_err(|_| WsError::Utf8)?)
    } else {
        Incoming::Binary(payload)
    }))
}

fn deliver_packed(
    text: bool,
    packed: &[u8],
    limits: &Limits,
    inflater: &mut Inflater,
    on: On<'_>,
) -> Result<ControlFlow<()>, WsError> {
    let flow = deliver(text, inflater.inflate(packed, limits.message_bytes_max)?, on);
    inflater.trim();
    flow
}

/// RFC 6455 §5.5.1 and §7.4.
fn parse_close(payload: &[u8]) -> Result<Incoming<'_>, WsError> {
    let Some((&code, reason)) = payload.split_first_chunk::<2>() else {
        return if payload.is_empty() {
            Ok(Incoming::Close { code: None, reason: "" })
        } else {
            Err(WsError::ClosePayload)
        };
    };
    let code = u16::from_be_bytes(code);
    // 1004–1006 and 1015 never travel; 1012–1014 are registered with IANA.
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(WsError::CloseCode(code));
    }
    let reason = from_utf8(reason).map_err(|_| WsError::Utf8)?;
    Ok(Incoming::Close { code: Some(code), reason })
}

#[cfg(test)]
mod tests;
