//! Checking a data folder without opening it: nothing is changed, no index is needed.

use std::path::{Path, PathBuf};

use tidegate_control_core::domain::{Epoch, Lsn, OwnerEpoch};

use super::error::OpenError;
use super::open::Truth;
use super::store_file::{DirLock, StoreFile};

pub use super::log::recover::TornTail;

/// What a sound data folder holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub base_epoch: Epoch,
    pub owner_epoch: OwnerEpoch,
    pub segments: usize,
    pub records: u64,
    pub bytes: u64,
    pub first: Lsn,
    /// `first - 1`: no record.
    pub last: Lsn,
    /// The next opening will cut this.
    pub torn: Option<TornTail>,
    /// The file, and the record that it is as of.
    pub snapshot: Option<(PathBuf, Lsn)>,
}

/// Reads and verifies every byte of the log and the snapshot. Errors are those that opening would give.
pub fn verify(dir: &Path) -> Result<Report, OpenError> {
    let file = dir.join("store");
    if !file.exists() {
        return Err(OpenError::Incomplete { file, what: "there is no store here" });
    }
    let _lock = DirLock::acquire(dir)?;
    let Some(store) = StoreFile::load(dir)? else {
        return Err(OpenError::Incomplete { file, what: "there is no store here" });
    };
    let truth = Truth::check(dir, &store)?;
    let checked = truth.checked;
    Ok(Report {
        base_epoch: store.base_epoch,
        owner_epoch: store.owner_epoch,
        segments: checked.segments.len(),
        records: checked.records,
        bytes: checked.bytes,
        first: truth.begin.first,
        last: checked.end.map_or(Lsn(truth.begin.first.0 - 1), |end| end.last),
        torn: checked.torn,
        snapshot: truth.snapshot.map(|snapshot| (snapshot.file, snapshot.at)),
    })
}
