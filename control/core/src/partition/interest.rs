//! Which gateways want which streams.

use hashbrown::HashTable;
use smallvec::SmallVec;

use super::stream_hash::StreamHasher;
use crate::domain::StreamKey;

/// Index of an attachment in [`super::links::Links`].
pub(super) type Slot = u16;

/// Invariant: an entry has at least one gateway, and none twice.
#[derive(Debug)]
pub(super) struct Interest {
    entries: HashTable<Entry>,
    hasher: StreamHasher,
}

#[derive(Debug)]
struct Entry {
    stream: StreamKey,
    gateways: SmallVec<[Slot; 4]>,
}

impl Interest {
    pub fn new(seed: u64) -> Interest {
        Interest { entries: HashTable::new(), hasher: StreamHasher::new(seed) }
    }

    /// Streams that somebody wants.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn hash(&self, stream: &StreamKey) -> u64 {
        self.hasher.hash(stream)
    }

    pub fn gateways(&self, hash: u64, stream: &StreamKey) -> &[Slot] {
        self.entries.find(hash, |entry| entry.stream == *stream).map_or(&[], |entry| &entry.gateways)
    }

    pub fn add(&mut self, stream: &StreamKey, gateway: Slot) {
        let hasher = &self.hasher;
        let hash = hasher.hash(stream);
        let entry = self
            .entries
            .entry(hash, |entry| entry.stream == *stream, |entry| hasher.hash(&entry.stream))
            .or_insert_with(|| Entry { stream: stream.clone(), gateways: SmallVec::new() });
        let gateways = &mut entry.into_mut().gateways;
        if !gateways.contains(&gateway) {
            gateways.push(gateway);
        }
    }

    pub fn remove(&mut self, stream: &StreamKey, gateway: Slot) {
        let hash = self.hasher.hash(stream);
        let Ok(mut entry) = self.entries.find_entry(hash, |entry| entry.stream == *stream) else { return };
        entry.get_mut().gateways.retain(|slot| *slot != gateway);
        if entry.get().gateways.is_empty() {
            entry.remove();
        }
    }

    /// Forgets a gateway: it looks at every entry, which links that break seldom can afford.
    pub fn remove_gateway(&mut self, gateway: Slot) {
        self.entries.retain(|entry| {
            entry.gateways.retain(|slot| *slot != gateway);
            !entry.gateways.is_empty()
        });
    }

    /// Whether the gateway wants anything at all. It looks at entries until it finds one, which attachments that begin can
    /// afford.
    pub fn has(&self, gateway: Slot) -> bool {
        self.entries.iter().any(|entry| entry.gateways.contains(&gateway))
    }

    /// Everything that one gateway wants, sorted.
    pub fn of(&self, gateway: Slot) -> Vec<StreamKey> {
        let wanted = self.entries.iter().filter(|entry| entry.gateways.contains(&gateway));
        let mut streams: Vec<StreamKey> = wanted.map(|entry| entry.stream.clone()).collect();
        streams.sort();
        streams
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(name: &str) -> StreamKey {
        name.parse().expect("a valid stream key")
    }

    #[test]
    fn gateways_come_and_go() {
        let mut interest = Interest::new(3);
        for (name, gateway) in [("u:a", 1), ("u:a", 2), ("u:a", 1), ("g:b", 2)] {
            interest.add(&stream(name), gateway);
        }
        let gateways =
            |interest: &Interest, name: &str| interest.gateways(interest.hash(&stream(name)), &stream(name)).to_vec();
        assert_eq!(gateways(&interest, "u:a"), [1, 2]);
        assert_eq!(interest.of(2), [stream("g:b"), stream("u:a")]);
        interest.remove(&stream("u:a"), 1);
        interest.remove(&stream("u:none"), 1);
        assert_eq!(gateways(&interest, "u:a"), [2]);
        interest.remove_gateway(2);
        assert_eq!(interest.len(), 0);
    }
}
