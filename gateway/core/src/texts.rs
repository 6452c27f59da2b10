//! Many short texts that live long, each named by four bytes: keys of streams, names of users.
//!
//! A text stands, with its length before it, in a block of its size class (whole words of eight bytes), and blocks of a
//! class stand side by side: a name of twenty bytes costs 24, where an allocation of its own costs 32 or 48 and a pointer of
//! 16. Freed blocks are used again by later texts of their class.

use std::num::NonZeroU32;

/// Longest text. Two names of 64 bytes and what joins them fit.
pub(crate) const TEXT_BYTES_MAX: usize = u8::MAX as usize;

const WORD: usize = 8;
const CLASSES: usize = (TEXT_BYTES_MAX + 1) / WORD;
const BLOCKS_PER_CHUNK: usize = 512;
const PLACE_BITS: u32 = 27;
const NONE: u32 = (1 << PLACE_BITS) - 1;

const _: () = assert!(CLASSES <= 1 << (u32::BITS - PLACE_BITS));
const _: () = assert!(TEXT_BYTES_MAX > 2 * crate::ids::NAME_BYTES_MAX + 3);

/// A text of a [`Texts`]: its class and its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TextId(NonZeroU32);

#[derive(Debug)]
pub(crate) struct Texts {
    classes: [Class; CLASSES],
}

#[derive(Debug)]
struct Class {
    /// Each of [`BLOCKS_PER_CHUNK`] blocks.
    chunks: Vec<Box<[u8]>>,
    blocks: u32,
    /// The last freed block, which names the one before.
    free: u32,
}

impl Default for Texts {
    fn default() -> Self {
        Texts { classes: std::array::from_fn(|_| Class { chunks: Vec::new(), blocks: 0, free: NONE }) }
    }
}

impl Texts {
    /// Keeps the parts as one text.
    ///
    /// # Panics
    ///
    /// If they have more than [`TEXT_BYTES_MAX`] bytes, or 134 million texts of the size are kept: callers have bounds far below.
    pub fn insert(&mut self, parts: &[&str]) -> TextId {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        assert!(len <= TEXT_BYTES_MAX, "a text of {len} bytes");
        let class = len / WORD;
        let place = self.classes[class].take((class + 1) * WORD);
        let block = self.block_mut(class, place);
        block[0] = len as u8;
        let mut at = 1;
        for part in parts {
            block[at..at + part.len()].copy_from_slice(part.as_bytes());
            at += part.len();
        }
        // One more than it is, so that an option of it takes no more room.
        TextId(NonZeroU32::MIN.saturating_add((class as u32) << PLACE_BITS | place))
    }

    /// The caller has the id from `insert` and has not removed it.
    pub fn bytes(&self, id: TextId) -> &[u8] {
        let (class, place) = id.parts();
        let size = (class + 1) * WORD;
        let at = place as usize % BLOCKS_PER_CHUNK * size;
        let block = &self.classes[class].chunks[place as usize / BLOCKS_PER_CHUNK][at..at + size];
        &block[1..1 + usize::from(block[0])]
    }

    pub fn text(&self, id: TextId) -> &str {
        let text = str::from_utf8(self.bytes(id));
        debug_assert!(text.is_ok(), "texts are whole strings put side by side");
        text.unwrap_or_default()
    }

    pub fn remove(&mut self, id: TextId) {
        let (class, place) = id.parts();
        let before = std::mem::replace(&mut self.classes[class].free, place);
        self.block_mut(class, place)[..4].copy_from_slice(&before.to_le_bytes());
    }

    fn block_mut(&mut self, class: usize, place: u32) -> &mut [u8] {
        let size = (class + 1) * WORD;
        let at = place as usize % BLOCKS_PER_CHUNK * size;
        &mut self.classes[class].chunks[place as usize / BLOCKS_PER_CHUNK][at..at + size]
    }
}

impl Class {
    fn take(&mut self, size: usize) -> u32 {
        if self.free != NONE {
            let place = self.free as usize;
            let at = place % BLOCKS_PER_CHUNK * size;
            let block = &self.chunks[place / BLOCKS_PER_CHUNK][at..at + size];
            self.free = block.first_chunk().map_or(NONE, |before| u32::from_le_bytes(*before));
            return place as u32;
        }
        if self.blocks as usize == self.chunks.len() * BLOCKS_PER_CHUNK {
            self.chunks.push(vec![0; BLOCKS_PER_CHUNK * size].into());
        }
        self.blocks += 1;
        assert!(self.blocks < NONE, "too many texts of one size");
        self.blocks - 1
    }
}

impl TextId {
    fn parts(self) -> (usize, u32) {
        let packed = self.0.get() - 1;
        ((packed >> PLACE_BITS) as usize, packed & NONE)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parts_become_one_text_and_the_longest_fits() {
        let mut texts = Texts::default();
        let longest = "x".repeat(TEXT_BYTES_MAX);
        let ids = [texts.insert(&["u:", "alice"]), texts.insert(&[]), texts.insert(&[&longest])];
        assert_eq!(ids.map(|id| texts.text(id).to_owned()), ["u:alice".to_owned(), String::new(), longest]);
    }

    proptest! {
        #[test]
        fn every_text_stays_as_it_is_whatever_comes_and_goes(
            ops in prop::collection::vec((0usize..40, any::<bool>(), any::<prop::sample::Index>()), 0..2_000),
        ) {
            let mut texts = Texts::default();
            let mut kept: HashMap<u32, String> = HashMap::new();
            for (n, (len, add, which)) in ops.into_iter().enumerate() {
                if add || kept.is_empty() {
                    let text = format!("{n}{}", "y".repeat(len));
                    prop_assert!(kept.insert(texts.insert(&[&text]).0.get(), text).is_none());
                } else {
                    let mut ids: Vec<u32> = kept.keys().copied().collect();
                    ids.sort_unstable();
                    let id = ids[which.index(ids.len())];
                    kept.remove(&id);
                    texts.remove(TextId(NonZeroU32::new(id).expect("was one")));
                }
                if n % 50 == 0 {
                    for (id, text) in &kept {
                        prop_assert_eq!(texts.text(TextId(NonZeroU32::new(*id).expect("was one"))), text);
                    }
                }
            }
        }
    }
}
