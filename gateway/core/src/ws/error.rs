//! Why a peer's bytes end the connection.

use crate::ws::close::CloseCode;

/// A violation; the connection is closed with [`WsError::close_code`] and the decoder is not fed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WsError {
    #[error("reserved bits set without an extension that uses them")]
    ReservedBits,
    #[error("reserved opcode {0:#x}")]
    ReservedOpcode(u8),
    #[error("client frame is not masked")]
    Unmasked,
    #[error("control frame of more than 125 bytes")]
    ControlTooLong,
    #[error("fragmented control frame")]
    ControlFragmented,
    #[error("continuation frame without a message to continue")]
    ContinuationUnexpected,
    #[error("new data frame inside a fragmented message")]
    ContinuationExpected,
    #[error("payload length not in its shortest form")]
    LengthNotMinimal,
    #[error("payload length with the highest bit set")]
    LengthTooLarge,
    #[error("close frame with a payload of one byte")]
    ClosePayload,
    #[error("close code {0} may not be sent")]
    CloseCode(u16),
    #[error("text is not UTF-8")]
    Utf8,
    #[error("compressed data is corrupt")]
    Deflate,
    #[error("message is over the limit")]
    TooBig,
    #[error("too many fragments in one message")]
    TooManyFragments,
    #[error("too many control frames in one second")]
    TooManyControls,
}

impl WsError {
    pub fn close_code(&self) -> CloseCode {
        match self {
            WsError::Utf8 | WsError::Deflate => CloseCode::InvalidData,
            WsError::TooBig => CloseCode::TooBig,
            WsError::TooManyFragments | WsError::TooManyControls => CloseCode::Policy,
            WsError::ReservedBits
            | WsError::ReservedOpcode(_)
            | WsError::Unmasked
            | WsError::ControlTooLong
            | WsError::ControlFragmented
            | WsError::ContinuationUnexpected
            | WsError::ContinuationExpected
            | WsError::LengthNotMinimal
            | WsError::LengthTooLarge
            | WsError::ClosePayload
            | WsError::CloseCode(_) => CloseCode::Protocol,
        }
    }
}
