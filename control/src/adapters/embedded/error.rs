//! Why a store cannot be opened, and why a look-up failed.

use std::io;
use std::path::{Path, PathBuf};

use tidegate_control_core::ports::StoreError;

/// Why a data folder was refused. Nothing was changed in it, except for [`OpenError::Io`] of a write.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Two processes must not write one log.
    #[error("{}: another process has this data folder open", dir.display())]
    Locked { dir: PathBuf },
    /// What was acknowledged cannot be read any more: restore the file from a copy, or start from a backup.
    #[error("{}: {what} at offset {offset}: refusing to open a damaged log", file.display())]
    Corrupt { file: PathBuf, offset: u64, what: &'static str },
    /// Files that belong together are not all there.
    #[error("{}: {what}", file.display())]
    Incomplete { file: PathBuf, what: &'static str },
    #[error("{}: cannot {what}", file.display())]
    Io { file: PathBuf, what: &'static str, source: io::Error },
    /// The index can be rebuilt, so this means that even an empty one cannot be made.
    #[error("{}: the index cannot be opened", dir.display())]
    Index { dir: PathBuf, source: IndexError },
}

impl OpenError {
    pub(super) fn io(file: &Path, what: &'static str) -> impl FnOnce(io::Error) -> OpenError {
        let file = file.to_path_buf();
        move |source| OpenError::Io { file, what, source }
    }
}

/// The index failed. It holds nothing that the log does not hold: it is rebuilt at the next opening.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    #[error("the index failed")]
    Backend(#[from] fjall::Error),
    #[error("the index's mark cannot be read or written")]
    Mark(#[from] io::Error),
    #[error("a row of the index cannot be decoded: {table}")]
    Row { table: &'static str },
    #[error("the log cannot be read for the index: {0}")]
    Log(#[from] ReadError),
}

/// A record could not be read back.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The segment was unlinked by retention since its location was looked up.
    #[error("the record was trimmed")]
    Trimmed,
    #[error("{}: {what} at offset {offset}", file.display())]
    Damaged { file: PathBuf, offset: u64, what: &'static str },
    #[error("{}: cannot read at offset {offset}", file.display())]
    Io { file: PathBuf, offset: u64, source: io::Error },
}

impl From<ReadError> for StoreError {
    fn from(error: ReadError) -> StoreError {
        StoreError::Fatal(chain(&error).into())
    }
}

/// An error with its sources in one line, for ports whose errors carry text.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}
