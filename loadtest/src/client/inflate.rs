//! permessage-deflate, the server's direction, without context takeover (RFC 7692). Only frames that the memo does not know are
//! unpacked, so a batch costs the clients one unpacking however many of them get it.

use flate2::{Decompress, FlushDecompress};

/// Largest message that a server may send to us.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// A sync flush ends with these; they are left out on the wire (RFC 7692 §7.2.2).
const FLUSH_TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];

#[derive(Debug, thiserror::Error)]
pub(super) enum InflateError {
    #[error("a compressed frame cannot be unpacked")]
    Corrupt,
    #[error("a compressed frame holds more than {MESSAGE_BYTES_MAX} bytes")]
    TooBig,
}

#[derive(Debug)]
pub(super) struct Inflater {
    stream: Decompress,
    packed: Vec<u8>,
    plain: Vec<u8>,
}

impl Default for Inflater {
    fn default() -> Self {
        Inflater { stream: Decompress::new(false), packed: Vec::new(), plain: Vec::new() }
    }
}

impl Inflater {
    pub fn inflate(&mut self, payload: &[u8]) -> Result<&[u8], InflateError> {
        self.stream.reset(false);
        self.packed.clear();
        self.packed.extend_from_slice(payload);
        self.packed.extend_from_slice(&FLUSH_TAIL);
        self.plain.clear();
        loop {
            self.plain.reserve(payload.len().max(4096));
            let rest = &self.packed[self.stream.total_in() as usize..];
            let room = self.plain.capacity();
            let inflated = self.stream.decompress_vec(rest, &mut self.plain, FlushDecompress::Sync);
            inflated.map_err(|_| InflateError::Corrupt)?;
            if self.plain.len() > MESSAGE_BYTES_MAX {
                return Err(InflateError::TooBig);
            }
            // Room left over means that all there is came out.
            if self.plain.len() < room {
                break;
            }
        }
        let all = self.stream.total_in() as usize == self.packed.len();
        if all { Ok(&self.plain) } else { Err(InflateError::Corrupt) }
    }
}

#[cfg(test)]
mod tests {
    use flate2::{Compress, Compression, FlushCompress};

    use super::*;

    fn deflate(plain: &[u8]) -> Vec<u8> {
        let mut packed = Vec::with_capacity(plain.len() + 1024);
        let mut stream = Compress::new(Compression::new(3), false);
        stream.compress_vec(plain, &mut packed, FlushCompress::Sync).expect("compresses");
        assert!(packed.ends_with(&FLUSH_TAIL));
        packed.truncate(packed.len() - FLUSH_TAIL.len());
        packed
    }

    #[test]
    fn what_a_server_packs_is_unpacked_message_by_message() {
        let mut inflater = Inflater::default();
        for len in [0, 1, 4095, 4096, 4097, 1_000_000] {
            let plain: Vec<u8> = (0..len).map(|at| (at / 5 % 251) as u8).collect();
            assert_eq!(inflater.inflate(&deflate(&plain)).expect("whole"), plain, "{len} bytes");
        }
    }

    #[test]
    fn damage_is_an_error() {
        let mut inflater = Inflater::default();
        assert!(inflater.inflate(&[0xff; 40]).is_err());
        assert_eq!(inflater.inflate(&deflate(b"again")).expect("whole"), b"again");
    }
}
