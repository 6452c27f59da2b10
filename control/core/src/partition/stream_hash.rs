//! One hash of a stream's key serves every table of the partition, so that a push hashes its stream once.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;

use crate::domain::StreamKey;

#[derive(Clone, Debug)]
pub(super) struct StreamHasher(FixedState);

impl StreamHasher {
    pub fn new(seed: u64) -> StreamHasher {
        StreamHasher(FixedState::with_seed(seed))
    }

    pub fn hash(&self, stream: &StreamKey) -> u64 {
        self.0.hash_one(stream.as_str())
    }
}
