//! What can go wrong, and who recovers from it.

use std::error::Error;

pub(crate) type Cause = Box<dyn Error + Send + Sync>;

#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// No answer in time, or the server cannot serve now. The request may have been done all the same.
    ///
    /// The next request dials anew; sessions and watches repeat by themselves. A caller repeats `get`, `list`, `put`, `delete`,
    /// `hold`, `claim` and `release` freely; after `create` and `replace` it first looks at what is there.
    #[error("the registry does not answer")]
    Unavailable(#[source] Cause),
    /// The server understood and refuses: wrong credentials, missing permissions, no space left. An operator recovers;
    /// repeating alone is in vain.
    #[error("the registry refuses")]
    Rejected(#[source] Cause),
    /// The session has ended, or may have. Its owner stops what it did under it, and begins a new one.
    #[error("the session is over")]
    SessionLost,
    /// All worker ids are leased or cooling down. The caller tries again after a term, or an operator removes nodes.
    #[error("no worker id is free")]
    NoWorkerId,
    /// The caller's mistake: see [`crate::names`].
    #[error("{name:?} is not a name: {reason}")]
    InvalidName { name: String, reason: &'static str },
    /// The caller's mistake: not empty, at most [`crate::KEY_BYTES_MAX`] bytes, no control characters.
    #[error("{key:?} is not a key: {reason}")]
    InvalidKey { key: String, reason: &'static str },
    /// The value is longer than [`crate::VALUE_BYTES_MAX`], or not what its reader expects. Whoever wrote it recovers.
    #[error("the value of {key:?} is not valid")]
    InvalidValue {
        key: String,
        #[source]
        source: Cause,
    },
    /// Outside of [`crate::TTL_MIN`] to [`crate::TTL_MAX`].
    #[error("a session cannot last {0:?}")]
    InvalidTtl(std::time::Duration),
    /// Found before anything is dialled; whoever wrote the configuration recovers.
    #[error("the registry's settings are not valid: {0}")]
    InvalidSettings(String),
}

impl RegistryError {
    pub(crate) fn unavailable(cause: impl Into<Cause>) -> RegistryError {
        RegistryError::Unavailable(cause.into())
    }

    pub(crate) fn rejected(cause: impl Into<Cause>) -> RegistryError {
        RegistryError::Rejected(cause.into())
    }

    pub(crate) fn settings(what: impl Into<String>) -> RegistryError {
        RegistryError::InvalidSettings(what.into())
    }

    /// Trying again later may help, without anybody doing anything.
    pub fn is_temporary(&self) -> bool {
        matches!(self, RegistryError::Unavailable(_))
    }
}

/// An error and its sources in one line, for logs.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
