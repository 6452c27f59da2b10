//! permessage-deflate (RFC 7692) without context takeover: every message stands alone, so one compressor per window size
//! and one decompressor serve all connections of a thread, and a compressed frame can be shared.

use bytes::Bytes;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use crate::ws::encode::{FIN, OpCode, RSV1, assemble, frame};
use crate::ws::error::WsError;

/// zlib cannot do raw deflate with a window of 2^8.
pub const WINDOW_BITS_MIN: u8 = 9;
pub const WINDOW_BITS_MAX: u8 = 15;

/// A sync flush ends with these; they are left out on the wire (RFC 7692 §7.2.1).
const FLUSH_TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];
/// An empty final block: after a complete message the decompressor must accept it and be at its end, so it tells a whole
/// message from a truncated one.
const END_BLOCK: [u8; 2] = [0x03, 0x00];
/// A message may hold several final blocks (RFC 7692 §7.2.3.4); nobody needs more than a few, and each costs a reset.
const FINAL_BLOCKS_MAX: u32 = 1024;
/// Scratch buffers larger than this are given back after use.
const SCRATCH_BYTES_KEEP: usize = 128 * 1024;
const SCRATCH_STEP_BYTES: usize = 4 * 1024;

/// Nanoseconds of CPU that the calling thread has used. Handed in, because here is no clock.
pub type CpuClock = fn() -> u64;

/// Makes compressed server frames. Not cheap (about 300 KB): one per thread and window size.
#[derive(Debug)]
pub struct Deflater {
    stream: Compress,
    packed: Vec<u8>,
}

impl Deflater {
    /// `window_bits` as negotiated for the server's direction, clamped to 9…15; `level` from 1, fast, to 9, small.
    pub fn new(window_bits: u8, level: u8) -> Self {
        let bits = window_bits.clamp(WINDOW_BITS_MIN, WINDOW_BITS_MAX);
        let level = Compression::new(level.clamp(1, 9).into());
        Deflater { stream: Compress::new_with_window_bits(level, false, bits), packed: Vec::new() }
    }

    /// A compressed frame, or `None` if its payload would be more than `packed_bytes_max`. Control frames are never compressed.
    pub fn frame(&mut self, op: OpCode, payload: &[u8], packed_bytes_max: usize) -> Option<Bytes> {
        if !is_data(op) || !self.pack(payload) {
            return None;
        }
        let frame = (self.packed.len() <= packed_bytes_max).then(|| assemble(FIN | RSV1 | op.number(), &self.packed));
        self.trim();
        frame
    }

    /// A frame that is compressed whatever its size, as an echo of compressed messages wants it. Control frames, which are
    /// never compressed, come out plain.
    pub fn frame_always(&mut self, op: OpCode, payload: &[u8]) -> Bytes {
        self.frame(op, payload, usize::MAX).unwrap_or_else(|| frame(op, payload))
    }

    /// Leaves the message in `packed`. False: the compressor refused, which zlib reports only for a misused stream.
    fn pack(&mut self, payload: &[u8]) -> bool {
        self.stream.reset();
        self.packed.clear();
        self.packed.reserve(payload.len() / 2 + 64);
        loop {
            let rest = &payload[self.stream.total_in() as usize..];
            if self.stream.compress_vec(rest, &mut self.packed, FlushCompress::Sync).is_err() {
                return false;
            }
            // Output space left over means that the flush is complete.
            if self.packed.len() < self.packed.capacity() {
                break;
            }
            self.packed.reserve(SCRATCH_STEP_BYTES);
        }
        if self.stream.total_in() as usize != payload.len() || !self.packed.ends_with(&FLUSH_TAIL) {
            return false;
        }
        self.packed.truncate(self.packed.len() - FLUSH_TAIL.len());
        true
    }

    fn trim(&mut self) {
        if self.packed.capacity() > SCRATCH_BYTES_KEEP {
            self.packed = Vec::new();
        }
    }
}

/// Unpacks client messages. One per shard, reused; what it holds is bounded by the caller's limit on bytes out.
#[derive(Debug)]
pub struct Inflater {
    stream: Decompress,
    out: Vec<u8>,
    clock: CpuClock,
    inflated: Inflated,
}

/// What was unpacked, refused messages included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inflated {
    pub messages: u64,
    pub packed_bytes: u64,
    pub plain_bytes: u64,
    pub cpu_ns: u64,
}

impl Default for Inflater {
    fn default() -> Self {
        Self::new()
    }
}

impl Inflater {
    /// Understands every window size a client may choose.
    pub fn new() -> Self {
        Inflater::timed(|| 0)
    }

    /// The same; what it takes is counted by this clock.
    pub fn timed(clock: CpuClock) -> Self {
        Inflater { stream: Decompress::new(false), out: Vec::new(), clock, inflated: Inflated::default() }
    }

    /// Counts since the start.
    pub fn inflated(&self) -> &Inflated {
        &self.inflated
    }

    /// Unpacks one whole message. More than `out_max` bytes is [`WsError::TooBig`], found before they are allocated.
    pub(super) fn inflate(&mut self, packed: &[u8], out_max: usize) -> Result<&[u8], WsError> {
        self.out.clear();
        if packed.is_empty() {
            // Not what RFC 7692 §7.2.3.6 prescribes for an empty message, but peers send it.
            return Ok(&self.out);
        }
        self.stream.reset(false);
        let begun = (self.clock)();
        let result = self.run(packed, out_max);
        self.inflated.messages += 1;
        self.inflated.packed_bytes += packed.len() as u64;
        self.inflated.plain_bytes += self.out.len() as u64;
        self.inflated.cpu_ns += (self.clock)().saturating_sub(begun);
        match result {
            Ok(()) => Ok(&self.out),
            Err(error) => {
                self.out = Vec::new();
                Err(error)
            }
        }
    }

    /// Gives a large buffer back.
    pub(super) fn trim(&mut self) {
        if self.out.capacity() > SCRATCH_BYTES_KEEP {
            self.out = Vec::new();
        }
    }

    fn run(&mut self, packed: &[u8], out_max: usize) -> Result<(), WsError> {
        let mut finals = 0;
        if self.consume(packed, out_max, &mut finals)? {
            return Ok(());
        }
        // A truncated message would take the closing bytes for its own content.
        let len = self.out.len();
        let ended =
            self.consume(&FLUSH_TAIL, out_max, &mut finals)? || self.consume(&END_BLOCK, out_max, &mut finals)?;
        if ended && self.out.len() == len { Ok(()) } else { Err(WsError::Deflate) }
    }

    /// Takes all of `part` and writes all that follows from it. True: a final block ended with the part.
    fn consume(&mut self, mut part: &[u8], out_max: usize, finals: &mut u32) -> Result<bool, WsError> {
        loop {
            self.make_room(out_max);
            let (in_before, out_before) = (self.stream.total_in(), self.out.len());
            let status =
                self.stream.decompress_vec(part, &mut self.out, FlushDecompress::None).map_err(|_| WsError::Deflate)?;
            let used = (self.stream.total_in() - in_before) as usize;
            part = &part[used..];
            if self.out.len() > out_max {
                return Err(WsError::TooBig);
            }
            if status == Status::StreamEnd {
                if part.is_empty() {
                    return Ok(true);
                }
                *finals += 1;
                if *finals > FINAL_BLOCKS_MAX {
                    return Err(WsError::Deflate);
                }
                self.stream.reset(false);
            } else if used == 0 && self.out.len() == out_before {
                // No progress though there is room to write: the part is used up.
                return Ok(false);
            }
        }
    }

    /// One byte past the limit may be written, so that exceeding it shows.
    fn make_room(&mut self, out_max: usize) {
        if self.out.len() == self.out.capacity() {
            let step = self.out.len().max(SCRATCH_STEP_BYTES);
            self.out.reserve_exact(step.min(out_max + 1 - self.out.len()));
        }
    }
}

/// Most packed bytes that a message of `message_bytes_max` can need: nine bits per literal in a fixed block, and flush markers.
pub(super) fn packed_bytes_max(message_bytes_max: usize) -> usize {
    message_bytes_max.saturating_add(message_bytes_max / 8).saturating_add(64)
}

fn is_data(op: OpCode) -> bool {
    matches!(op, OpCode::Text | OpCode::Binary)
}

#[cfg(test)]
mod tests;
