//! Bytes of a segment file: one header, then records until the end of the file.
//!
//! All numbers are little endian. Checksums are CRC-32 (IEEE).
//!
//! ```text
//! segment header, 40 bytes:  magic 8 | version u32 | zero u32 | store id u64 | first lsn u64 | previous crc u32 | crc u32
//! record header, 24 bytes:   body length u32 | header crc u32 | body crc u32 | lsn u64 | previous crc u32
//! ```
//!
//! "Previous crc" is the header crc of the record before this one, also across segments: records form a chain, so a
//! record that was replaced or left out is noticed even if its own checksums fit. The header crc is seeded with the random
//! store id, so neither a record of another store nor bytes that a caller put into a message can pass for a record.

use tidegate_control_core::domain::Lsn;

pub const SEGMENT_HEADER_BYTES: usize = 40;
pub const RECORD_HEADER_BYTES: usize = 24;
/// Longest body. A length above this is damage, never an allocation.
pub const RECORD_BYTES_MAX: usize = 16 * 1024 * 1024;

const MAGIC: &[u8; 8] = b"TIDESEG\n";
const VERSION: u32 = 1;

/// Random name of a store, made once: tells its files from those of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreId(pub u64);

impl StoreId {
    /// What the header checksums of this store begin with; also the "previous crc" of the very first record.
    pub fn seed(self) -> u32 {
        crc32fast::hash(&self.0.to_le_bytes())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    pub first: Lsn,
    pub previous: u32,
}

impl SegmentHeader {
    pub fn encode(self, store: StoreId) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[16..24].copy_from_slice(&store.0.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.first.0.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.previous.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..36]);
        bytes[36..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The reason for a refusal is a phrase that follows "the segment header".
    pub fn decode(bytes: &[u8], store: StoreId) -> Result<SegmentHeader, &'static str> {
        let bytes = bytes.get(..SEGMENT_HEADER_BYTES).ok_or("the segment header is cut off")?;
        if le_u32(bytes, 36) != crc32fast::hash(&bytes[..36]) || &bytes[..8] != MAGIC {
            return Err("the segment header is damaged");
        }
        if le_u32(bytes, 8) != VERSION {
            return Err("the segment was written by another version");
        }
        if le_u64(bytes, 16) != store.0 {
            return Err("the segment belongs to another store");
        }
        Ok(SegmentHeader { first: Lsn(le_u64(bytes, 24)), previous: le_u32(bytes, 32) })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    pub len: u32,
    pub body_crc: u32,
    pub lsn: Lsn,
    pub previous: u32,
}

impl RecordHeader {
    /// The bytes and the header crc, which the next record names as its previous one.
    pub fn encode(self, seed: u32) -> ([u8; RECORD_HEADER_BYTES], u32) {
        let mut bytes = [0; RECORD_HEADER_BYTES];
        bytes[..4].copy_from_slice(&self.len.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.body_crc.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.lsn.0.to_le_bytes());
        bytes[20..].copy_from_slice(&self.previous.to_le_bytes());
        let crc = header_crc(&bytes, seed);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        (bytes, crc)
    }

    /// `None`: not a header of this store.
    pub fn decode(bytes: &[u8], seed: u32) -> Option<(RecordHeader, u32)> {
        let bytes = bytes.get(..RECORD_HEADER_BYTES)?;
        let header = RecordHeader {
            len: le_u32(bytes, 0),
            body_crc: le_u32(bytes, 8),
            lsn: Lsn(le_u64(bytes, 12)),
            previous: le_u32(bytes, 20),
        };
        let crc = le_u32(bytes, 4);
        let fits = header.len as usize <= RECORD_BYTES_MAX && header_crc(bytes, seed) == crc;
        fits.then_some((header, crc))
    }

    /// Length of the record with its header.
    pub fn record_bytes(self) -> u64 {
        RECORD_HEADER_BYTES as u64 + u64::from(self.len)
    }
}

fn header_crc(bytes: &[u8], seed: u32) -> u32 {
    let mut crc = crc32fast::Hasher::new_with_initial(seed);
    crc.update(&bytes[..4]);
    crc.update(&bytes[8..RECORD_HEADER_BYTES]);
    crc.finalize()
}

fn le_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn le_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from(le_u32(bytes, at)) | u64::from(le_u32(bytes, at + 4)) << 32
}
