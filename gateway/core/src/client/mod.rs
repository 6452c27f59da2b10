//! The two client sub-protocols: `tidegate.v1.json` and `tidegate.v1.proto`. Both decode to [`ops`] and encode from the
//! same values; [`errors`] is the one table of error codes.
//!
//! Decoding is split: the JSON and the protobuf reader find the id, the one operation and its typed fields; one set of
//! checks then judges the values, so that the two cannot differ in what they accept. No generated type leaves this folder
//! on the way up.

mod check;
pub mod errors;
mod frames;
mod json_in;
mod json_out;
pub mod ops;
mod proto;

use std::borrow::Cow;

use prost::Message as _;
use tidegate_proto::v1;

pub use frames::{bye_frame, error_frame, gap_frame, link_error_frame, ok_frame, session_frame, stream_state};

use crate::client::errors::ErrorCode;
use crate::client::ops::Request;
use crate::ids::{Epoch, SeqRange};
use crate::messages::Encoding;
use crate::ws::Incoming;

/// Largest request id.
pub const REQUEST_ID_MAX: u32 = i32::MAX as u32;

/// Why a message is not a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Undecodable, or without a valid id to answer to: close 3504. (A message of the other sub-protocol's kind is 1003;
    /// whoever holds the connection sees that before it decodes.)
    #[error("not a client frame, or no valid id")]
    Fatal,
    /// Answer with an error object and go on.
    #[error("{message}")]
    Refused { id: u32, code: ErrorCode, message: Cow<'static, str> },
}

/// Reads one message: a text in JSON, a binary in protobuf; anything else is [`DecodeError::Fatal`].
pub fn decode(encoding: Encoding, message: &Incoming<'_>) -> Result<Request, DecodeError> {
    match (encoding, message) {
        (Encoding::Json, Incoming::Text(text)) => json_in::decode(text),
        (Encoding::Proto, Incoming::Binary(bytes)) => proto::decode(bytes),
        _ => Err(DecodeError::Fatal),
    }
}

/// The payload of one message down. `metadata` must be a JSON object or empty: it is passed on as it is.
pub fn encode(encoding: Encoding, frame: &v1::ServerFrame) -> Vec<u8> {
    match encoding {
        Encoding::Json => json_out::encode(frame),
        Encoding::Proto => frame.encode_to_vec(),
    }
}

/// A `batch` frame of borrowed messages, equal to [`encode`] of the same values. Without a range (ephemeral messages) the
/// epoch is left out, too.
pub fn encode_batch<'a>(
    encoding: Encoding,
    stream: &str,
    epoch: &Epoch,
    range: Option<SeqRange>,
    messages: impl Iterator<Item = &'a v1::Message>,
) -> Vec<u8> {
    match encoding {
        Encoding::Json => json_out::encode_batch(stream, epoch, range, messages),
        Encoding::Proto => proto::encode_batch(stream, epoch, range, messages),
    }
}

/// Names of the operations, in the order of their field numbers in `ClientFrame`, from 2 on.
const OPERATIONS: [&str; 15] = [
    "connect", "join", "leave", "send", "ack", "read", "pull", "sync", "head", "presence", "focus", "refresh", "ping",
    "report", "logout",
];

/// A request that is refused though its frame could be read.
#[derive(Debug, PartialEq, Eq)]
struct Refusal {
    code: ErrorCode,
    message: Cow<'static, str>,
}

impl Refusal {
    fn bad(message: impl Into<Cow<'static, str>>) -> Self {
        Refusal { code: ErrorCode::BadRequest, message: message.into() }
    }

    fn unknown_operation() -> Self {
        Refusal { code: ErrorCode::Unimplemented, message: "no operation that this server knows".into() }
    }

    fn two_operations() -> Self {
        Refusal::bad("more than one operation in a frame")
    }

    fn at(self, id: u32) -> DecodeError {
        DecodeError::Refused { id, code: self.code, message: self.message }
    }
}

#[cfg(test)]
mod tests;
