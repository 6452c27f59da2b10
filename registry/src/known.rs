//! What a watch that is fed by listings and messages has told its reader, so that it tells each change once and in order.

use std::collections::BTreeMap;

use crate::registry::Entry;
use crate::watch::WatchEvent;

/// Everything below a prefix at one moment; `revision` is at least the version of any change that came before.
#[derive(Debug)]
pub(crate) struct Listing {
    pub revision: u64,
    pub entries: Vec<Entry>,
}

#[derive(Debug)]
pub(crate) struct Known {
    versions: BTreeMap<String, u64>,
    /// Keys that a message removed after the last listing; the next one may be older than that message.
    removed: BTreeMap<String, u64>,
    listed: u64,
}

/// The server's revision went back: it has lost what it knew, and a fresh snapshot is needed.
#[derive(Debug, thiserror::Error)]
#[error("the server has forgotten what it had")]
pub(crate) struct Forgotten;

impl Known {
    pub(crate) fn new(listing: &Listing) -> Known {
        let versions = listing.entries.iter().map(|entry| (entry.key.clone(), entry.version)).collect();
        Known { versions, removed: BTreeMap::new(), listed: listing.revision }
    }

    pub(crate) fn put(&mut self, entry: Entry) -> Option<WatchEvent> {
        if entry.version <= self.listed || !self.is_news(&entry.key, entry.version) {
            return None;
        }
        self.removed.remove(&entry.key);
        self.versions.insert(entry.key.clone(), entry.version);
        Some(WatchEvent::Put(entry))
    }

    pub(crate) fn gone(&mut self, key: &str, version: u64) -> Option<WatchEvent> {
        if version <= self.listed || !self.is_news(key, version) {
            return None;
        }
        self.removed.insert(key.to_owned(), version);
        self.versions.remove(key).map(|_| WatchEvent::Gone { key: key.to_owned() })
    }

    pub(crate) fn relisted(&mut self, listing: Listing) -> Result<Vec<WatchEvent>, Forgotten> {
        if listing.revision < self.listed {
            return Err(Forgotten);
        }
        self.listed = listing.revision;
        let mut events = Vec::new();
        let mut unseen = std::mem::take(&mut self.versions);
        for entry in listing.entries {
            let known = unseen.remove(&entry.key);
            let removed = self.removed.get(&entry.key).is_some_and(|version| *version > entry.version);
            if removed {
                continue;
            }
            let version = known.unwrap_or(0).max(entry.version);
            self.versions.insert(entry.key.clone(), version);
            if known.is_none_or(|known| known < entry.version) {
                events.push(WatchEvent::Put(entry));
            }
        }
        for (key, version) in unseen {
            // What is newer than the listing is missing from it for that reason alone.
            if version > listing.revision {
                self.versions.insert(key, version);
            } else {
                events.push(WatchEvent::Gone { key });
            }
        }
        self.removed.retain(|_, version| *version > listing.revision);
        Ok(events)
    }

    fn is_news(&self, key: &str, version: u64) -> bool {
        let told = self.versions.get(key).or_else(|| self.removed.get(key));
        told.is_none_or(|told| *told < version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &str, version: u64) -> Entry {
        Entry { key: key.into(), value: format!("v{version}"), version }
    }

    fn listing(revision: u64, entries: &[(&str, u64)]) -> Listing {
        Listing { revision, entries: entries.iter().map(|(key, version)| entry(key, *version)).collect() }
    }

    fn put(key: &str, version: u64) -> WatchEvent {
        WatchEvent::Put(entry(key, version))
    }

    fn gone(key: &str) -> WatchEvent {
        WatchEvent::Gone { key: key.into() }
    }

    #[test]
    fn a_message_that_the_listing_already_had_is_not_told_again() {
        let mut known = Known::new(&listing(5, &[("a", 3)]));
        assert_eq!(known.put(entry("a", 3)), None);
        assert_eq!(known.gone("a", 2), None);
        assert_eq!(known.put(entry("a", 6)), Some(put("a", 6)));
        assert_eq!(known.put(entry("a", 6)), None);
    }

    #[test]
    fn a_listing_older_than_a_message_takes_nothing_back() {
        let mut known = Known::new(&listing(5, &[("a", 3), ("b", 4)]));
        assert_eq!(known.put(entry("c", 8)), Some(put("c", 8)));
        assert_eq!(known.gone("b", 9), Some(gone("b")));
        assert_eq!(known.relisted(listing(7, &[("a", 3), ("b", 4)])).expect("newer"), []);
        assert_eq!(known.relisted(listing(9, &[("a", 3), ("c", 8)])).expect("newer"), []);
    }

    #[test]
    fn a_listing_tells_what_no_message_told() {
        let mut known = Known::new(&listing(5, &[("a", 3), ("b", 4)]));
        let events = known.relisted(listing(9, &[("a", 7), ("c", 8)])).expect("newer");
        assert_eq!(events, [put("a", 7), put("c", 8), gone("b")]);
        assert_eq!(known.put(entry("a", 7)), None);
    }

    #[test]
    fn a_key_that_comes_back_is_told() {
        let mut known = Known::new(&listing(5, &[("a", 3)]));
        assert_eq!(known.gone("a", 6), Some(gone("a")));
        assert_eq!(known.put(entry("a", 7)), Some(put("a", 7)));
        assert_eq!(known.gone("a", 8), Some(gone("a")));
        let events = known.relisted(listing(10, &[("a", 9)])).expect("newer");
        assert_eq!(events, [put("a", 9)]);
    }

    #[test]
    fn a_server_that_lost_its_memory_is_noticed() {
        let mut known = Known::new(&listing(5, &[("a", 3)]));
        assert!(known.relisted(listing(0, &[])).is_err());
    }
}
