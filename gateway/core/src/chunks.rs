//! A list that grows by whole chunks: nothing is copied when it grows, and no more than one chunk of it is unused. A vector
//! that doubles wastes up to half, and for a moment holds everything twice.

/// Bytes of a chunk, just below a power of two.
const CHUNK_BYTES: usize = 128 * 1024;

#[derive(Debug)]
pub(crate) struct Chunks<T> {
    chunks: Vec<Vec<T>>,
}

impl<T> Default for Chunks<T> {
    fn default() -> Self {
        Chunks { chunks: Vec::new() }
    }
}

impl<T> Chunks<T> {
    const PER_CHUNK: usize = CHUNK_BYTES / size_of::<T>();

    pub fn len(&self) -> usize {
        self.chunks.last().map_or(0, |last| (self.chunks.len() - 1) * Self::PER_CHUNK + last.len())
    }

    /// Returns the new element's index.
    pub fn push(&mut self, value: T) -> usize {
        let at = self.len();
        if at == self.chunks.len() * Self::PER_CHUNK {
            self.chunks.push(Vec::with_capacity(Self::PER_CHUNK));
        }
        if let Some(last) = self.chunks.last_mut() {
            last.push(value);
        }
        at
    }

    pub fn at(&self, index: usize) -> Option<&T> {
        self.chunks.get(index / Self::PER_CHUNK)?.get(index % Self::PER_CHUNK)
    }

    pub fn at_mut(&mut self, index: usize) -> Option<&mut T> {
        self.chunks.get_mut(index / Self::PER_CHUNK)?.get_mut(index % Self::PER_CHUNK)
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_stay_at_their_index_across_chunks() {
        let mut chunks = Chunks::default();
        let count = 3 * Chunks::<u64>::PER_CHUNK + 7;
        for n in 0..count {
            assert_eq!(chunks.push(n as u64), n);
        }
        assert_eq!((chunks.len(), chunks.at(count)), (count, None));
        assert!(chunks.iter().copied().eq(0..count as u64));
        *chunks.at_mut(count - 1).expect("there") = 5;
        assert_eq!(chunks.at(count - 1), Some(&5));
    }
}
