//! Data folder and log of a run.

use std::path::PathBuf;

/// Kept when a run fails, so that it can be looked at.
pub struct Workspace {
    pub folder: PathBuf,
}

impl Workspace {
    pub fn new() -> anyhow::Result<Workspace> {
        Ok(Workspace { folder: tempfile::Builder::new().prefix("tidegate-").tempdir()?.keep() })
    }

    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    pub fn log(&self) -> PathBuf {
        self.folder.join("node.log")
    }

    pub fn remove(self) {
        // Leaving a folder in the temporary directory behind is no failure of the run.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
