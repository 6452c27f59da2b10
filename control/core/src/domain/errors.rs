//! The codes that callers and clients see, and the refusal that carries one.

use super::names::{Epoch, Seq};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    BadRequest,
    Unauthenticated,
    Forbidden,
    NotFound,
    TooLarge,
    RateLimited,
    Overloaded,
    Unavailable,
    Expired,
    Rejected,
    Unimplemented,
    Internal,
}

impl ErrorCode {
    pub const ALL: [ErrorCode; 12] = [
        ErrorCode::BadRequest,
        ErrorCode::Unauthenticated,
        ErrorCode::Forbidden,
        ErrorCode::NotFound,
        ErrorCode::TooLarge,
        ErrorCode::RateLimited,
        ErrorCode::Overloaded,
        ErrorCode::Unavailable,
        ErrorCode::Expired,
        ErrorCode::Rejected,
        ErrorCode::Unimplemented,
        ErrorCode::Internal,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            ErrorCode::BadRequest => "BAD_REQUEST",
            ErrorCode::Unauthenticated => "UNAUTHENTICATED",
            ErrorCode::Forbidden => "FORBIDDEN",
            ErrorCode::NotFound => "NOT_FOUND",
            ErrorCode::TooLarge => "TOO_LARGE",
            ErrorCode::RateLimited => "RATE_LIMITED",
            ErrorCode::Overloaded => "OVERLOADED",
            ErrorCode::Unavailable => "UNAVAILABLE",
            ErrorCode::Expired => "EXPIRED",
            ErrorCode::Rejected => "REJECTED",
            ErrorCode::Unimplemented => "UNIMPLEMENTED",
            ErrorCode::Internal => "INTERNAL",
        }
    }

    /// The code of this name.
    pub fn parse(name: &str) -> Option<ErrorCode> {
        ErrorCode::ALL.into_iter().find(|code| code.as_str() == name)
    }

    /// Whether the same request can succeed later.
    pub fn retry(self) -> bool {
        matches!(self, ErrorCode::RateLimited | ErrorCode::Overloaded | ErrorCode::Unavailable | ErrorCode::Internal)
    }
}

/// Why a command was not carried out. Nothing was stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", code.as_str())]
pub struct Refusal {
    pub code: ErrorCode,
    pub message: Box<str>,
    pub retry_after_ms: Option<u32>,
    /// With `Expired`: where the stream stands now.
    pub stands: Option<Stands>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stands {
    pub epoch: Epoch,
    pub head: Seq,
    pub first: Seq,
}

impl Refusal {
    pub fn new(code: ErrorCode, message: impl Into<Box<str>>) -> Refusal {
        Refusal { code, message: message.into(), retry_after_ms: None, stands: None }
    }

    pub fn expired(stands: Stands) -> Refusal {
        let message = "the epoch or the retention is gone".into();
        Refusal { code: ErrorCode::Expired, message, retry_after_ms: None, stands: Some(stands) }
    }
}
