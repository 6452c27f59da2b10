//! The file `store`: who this store is, written when it is made and at each opening; and the lock of the data folder.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write as _;
use std::path::Path;

use tidegate_control_core::domain::{Epoch, OwnerEpoch};

use super::error::OpenError;
use super::log::format::StoreId;
use super::log::sync_dir;

const MAGIC: &[u8; 8] = b"TIDESTO\n";
const VERSION: u32 = 1;
const FILE_BYTES: usize = 40;
/// Bits of a base epoch: eight characters of text, and room above for the epochs that recreated groups derive from it.
const BASE_EPOCH_BITS: u32 = 40;

/// `magic 8 | version u32 | store id u64 | base epoch u64 | owner epoch u64 | crc u32`, little endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreFile {
    pub id: StoreId,
    pub base_epoch: Epoch,
    /// 0: made, but never opened; then there may be no log yet.
    pub owner_epoch: OwnerEpoch,
}

impl StoreFile {
    pub fn random() -> std::io::Result<StoreFile> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
        let number = |at: usize| bytes[at..at + 8].iter().fold(0u64, |n, b| n << 8 | u64::from(*b));
        let base = (number(8) >> (64 - BASE_EPOCH_BITS)).max(1);
        Ok(StoreFile { id: StoreId(number(0)), base_epoch: Epoch(base), owner_epoch: OwnerEpoch(0) })
    }

    /// `None`: there is no such file.
    pub fn load(dir: &Path) -> Result<Option<StoreFile>, OpenError> {
        let path = dir.join("store");
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(OpenError::io(&path, "read")(e)),
        };
        let corrupt = |what| OpenError::Corrupt { file: path.clone(), offset: 0, what };
        let whole = bytes.len() == FILE_BYTES && &bytes[..8] == MAGIC;
        let number = |at: usize, len: usize| bytes[at..at + len].iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b));
        if !whole || number(36, 4) != u64::from(crc32fast::hash(&bytes[..36])) {
            return Err(corrupt("the store file is damaged"));
        }
        if number(8, 4) != u64::from(VERSION) {
            return Err(corrupt("the store was written by another version"));
        }
        let (id, base_epoch, owner_epoch) = (StoreId(number(12, 8)), Epoch(number(20, 8)), OwnerEpoch(number(28, 8)));
        Ok(Some(StoreFile { id, base_epoch, owner_epoch }))
    }

    /// Durable and whole, or as before.
    pub fn save(&self, dir: &Path) -> Result<(), OpenError> {
        let mut bytes = Vec::with_capacity(FILE_BYTES);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        for number in [self.id.0, self.base_epoch.0, self.owner_epoch.0] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        let path = dir.join("store");
        let written = || {
            let new = dir.join("store.new");
            let mut file = File::create(&new)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            sync_dir(dir)
        };
        written().map_err(OpenError::io(&path, "write"))
    }
}

/// Holds the data folder until dropped. The lock is the kernel's, so a killed process leaves none behind.
#[derive(Debug)]
pub struct DirLock {
    _file: File,
}

impl DirLock {
    pub fn acquire(dir: &Path) -> Result<DirLock, OpenError> {
        let path = dir.join("lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(OpenError::io(&path, "open"))?;
        match file.try_lock() {
            Ok(()) => Ok(DirLock { _file: file }),
            Err(TryLockError::WouldBlock) => Err(OpenError::Locked { dir: dir.to_path_buf() }),
            Err(TryLockError::Error(e)) => Err(OpenError::io(&path, "lock")(e)),
        }
    }
}
