//! The `connect` frame of clients that bring their credential (or many cursors) in band. Pure: bytes in, bytes to write and
//! a verdict out.
//!
//! Only this frame is read here. Its bytes are taken off, whatever follows goes to the shard unread.

use std::ops::ControlFlow;

use bytes::Bytes;
use tidegate_auth::TokenError;
use tidegate_gateway_core::client::errors::ErrorCode;
use tidegate_gateway_core::client::ops::{Connect, Op, Request};
use tidegate_gateway_core::client::{DecodeError, decode, encode, error_frame};
use tidegate_gateway_core::ids::Now;
use tidegate_gateway_core::messages::{Encoding, Hello};
use tidegate_gateway_core::ws::close::CloseCode;
use tidegate_gateway_core::ws::{Decoder, DeflateParams, Incoming, Inflater, OpCode, close_frame, frame};

use super::identity::{Identity, Wishes, hello};
use super::rules::Rules;

/// A connection that has been upgraded and owes its `connect` frame.
#[derive(Debug)]
pub struct FirstFrame {
    decoder: Decoder,
    encoding: Encoding,
    params: Option<DeflateParams>,
    /// The handshake's credential, if there was one.
    identity: Option<Identity>,
    wishes: Wishes,
}

/// What bytes led to.
#[derive(Debug)]
pub enum Verdict {
    /// All consumed; more must come.
    Wait,
    /// Promote. So many of the bytes were consumed.
    Promote(Box<Hello>, usize),
    /// Write what is to be written and close.
    End(CloseCode),
}

/// What one message led to, inside the decoder's callback.
enum Met {
    Hello(Box<Hello>),
    End(CloseCode),
}

impl FirstFrame {
    pub fn new(
        encoding: Encoding,
        params: Option<DeflateParams>,
        identity: Option<Identity>,
        wishes: Wishes,
    ) -> FirstFrame {
        FirstFrame { decoder: Decoder::new(params.is_some()), encoding, params, identity, wishes }
    }

    /// Feeds received bytes. What is to be written is appended to `out`, the close frame included.
    pub fn feed(
        &mut self,
        now: Now,
        bytes: &mut [u8],
        inflater: &mut Inflater,
        rules: &Rules,
        out: &mut Vec<u8>,
    ) -> Verdict {
        let FirstFrame { decoder, encoding, params, identity, wishes } = self;
        let mut meeting =
            Meeting { encoding: *encoding, params: *params, identity: identity.as_ref(), wishes, rules, out };
        let mut met = None;
        let fed = decoder.feed(now, bytes, &rules.first_frame_limits(), inflater, &mut |incoming| {
            met = meeting.message(incoming);
            if met.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        match (fed, met) {
            (Ok(consumed), Some(Met::Hello(hello))) => Verdict::Promote(hello, consumed),
            (_, Some(Met::End(code))) => Verdict::End(code),
            (Ok(_), None) => Verdict::Wait,
            (Err(error), _) => {
                let code = error.close_code();
                out.extend_from_slice(&close_frame(code.number(), ""));
                Verdict::End(code)
            }
        }
    }

    /// No `connect` came in time. The close frame; an authenticated client may try again, another should not.
    pub fn expired(&self) -> (CloseCode, Bytes) {
        let code = if self.identity.is_some() { CloseCode::HeartbeatLost } else { CloseCode::BadToken };
        (code, close_frame(code.number(), "no connect frame in time"))
    }
}

/// One call of [`FirstFrame::feed`].
struct Meeting<'a> {
    encoding: Encoding,
    params: Option<DeflateParams>,
    identity: Option<&'a Identity>,
    wishes: &'a Wishes,
    rules: &'a Rules,
    out: &'a mut Vec<u8>,
}

impl Meeting<'_> {
    /// `None`: nothing decisive, go on.
    fn message(&mut self, incoming: Incoming<'_>) -> Option<Met> {
        match incoming {
            Incoming::Ping(payload) => {
                self.out.extend_from_slice(&frame(OpCode::Pong, payload));
                None
            }
            Incoming::Pong(_) => None,
            Incoming::Close { code, .. } => {
                self.out.extend_from_slice(&close_frame(code.unwrap_or(CloseCode::Normal.number()), ""));
                Some(Met::End(CloseCode::Normal))
            }
            Incoming::Text(_) | Incoming::Binary(_) => Some(match decode(self.encoding, &incoming) {
                Ok(Request { id, op: Op::Connect(connect) }) => self.connect(id, *connect),
                Ok(Request { id, .. }) if self.identity.is_some() => {
                    self.refuse(id, ErrorCode::BadRequest, "connect must come first", CloseCode::BadRequest)
                }
                Ok(Request { id, .. }) => {
                    self.refuse(id, ErrorCode::Unauthenticated, "connect must come first", CloseCode::BadToken)
                }
                Err(DecodeError::Refused { id, code, message }) => {
                    self.refuse(id, code, &message, CloseCode::BadRequest)
                }
                Err(DecodeError::Fatal) => self.end(CloseCode::BadRequest, "undecodable frame"),
            }),
        }
    }

    fn connect(&mut self, id: u32, connect: Connect) -> Met {
        let told = match connect.token.as_deref() {
            Some(token) => Identity::of_token(token, self.rules).map(Some),
            None => Ok(self.identity.cloned()),
        };
        let identity = match told {
            Ok(Some(identity)) => identity,
            Ok(None) => {
                return self.refuse(id, ErrorCode::Unauthenticated, "a token is needed", CloseCode::BadToken);
            }
            Err(why) => {
                let expired = why == TokenError::Expired;
                let code = if expired { CloseCode::TokenExpired } else { CloseCode::BadToken };
                return self.refuse(id, ErrorCode::Unauthenticated, &why.to_string(), code);
            }
        };
        if self.identity.is_some_and(|first| first.uid != identity.uid) {
            let message = "the token is another user's than the handshake's";
            return self.refuse(id, ErrorCode::Unauthenticated, message, CloseCode::BadToken);
        }
        let wishes = Wishes::of_frame(connect, self.wishes);
        match hello(identity, wishes, self.encoding, self.params, Some(id), self.rules) {
            Ok(hello) => Met::Hello(Box::new(hello)),
            Err(why) => self.refuse(id, ErrorCode::BadRequest, &why.to_string(), CloseCode::BadRequest),
        }
    }

    fn refuse(&mut self, id: u32, code: ErrorCode, message: &str, close: CloseCode) -> Met {
        let payload = encode(self.encoding, &error_frame(id, code, message));
        let op = match self.encoding {
            Encoding::Json => OpCode::Text,
            Encoding::Proto => OpCode::Binary,
        };
        self.out.extend_from_slice(&frame(op, &payload));
        self.end(close, message)
    }

    fn end(&mut self, code: CloseCode, reason: &str) -> Met {
        self.out.extend_from_slice(&close_frame(code.number(), reason));
        Met::End(code)
    }
}

#[cfg(test)]
#[path = "first_frame_tests.rs"]
mod tests;
