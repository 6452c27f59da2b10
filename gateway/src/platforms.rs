//! Platform names as small numbers, one table per node: the front door interns what connections say, the link what
//! messages are addressed to, and the core compares numbers.
//!
//! Invariant: a name keeps its number for the life of the process. The table is bounded, so names beyond it share
//! [`OTHER`]: a message for one of them reaches the connections of all of them.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use tidegate_gateway_core::messages::PlatformId;

/// Longest platform name in bytes.
pub const PLATFORM_BYTES_MAX: usize = 32;
/// Every name that came after the table was full.
pub const OTHER: PlatformId = PlatformId(u8::MAX);
/// Names with a number of their own; 0 is "not told" and 255 is [`OTHER`].
const NAMES_MAX: usize = 254;
/// These always have a number of their own, whatever clients say first.
const WELL_KNOWN: [&str; 8] = ["pc", "mobile", "web", "android", "ios", "desktop", "tv", "server"];

/// The table. Shared by all threads; reading is the common case.
#[derive(Debug)]
pub struct PlatformTable {
    names: RwLock<HashMap<Box<str>, PlatformId>>,
}

impl Default for PlatformTable {
    fn default() -> Self {
        let table = PlatformTable { names: RwLock::new(HashMap::new()) };
        for name in WELL_KNOWN {
            table.intern(name);
        }
        table
    }
}

impl PlatformTable {
    /// The number of a name; the empty name is 0.
    pub fn intern(&self, name: &str) -> PlatformId {
        if name.is_empty() {
            return PlatformId::default();
        }
        if name.len() > PLATFORM_BYTES_MAX {
            return OTHER;
        }
        let known = self.names.read().unwrap_or_else(PoisonError::into_inner).get(name).copied();
        if let Some(id) = known {
            return id;
        }
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(id) = names.get(name) {
            return *id;
        }
        if names.len() >= NAMES_MAX {
            return OTHER;
        }
        let id = PlatformId(names.len() as u8 + 1);
        names.insert(name.into(), id);
        id
    }
}

/// Whether a client may call its platform this.
pub fn is_platform(name: &str) -> bool {
    name.len() <= PLATFORM_BYTES_MAX && tidegate_auth::dev::is_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_their_numbers() {
        let table = PlatformTable::default();
        assert_eq!(table.intern(""), PlatformId(0));
        let watch = table.intern("watch");
        assert_eq!(table.intern("watch"), watch);
        assert_ne!(table.intern("mobile"), watch);
    }

    #[test]
    fn a_full_table_shares_one_number() {
        let table = PlatformTable::default();
        let ids: Vec<PlatformId> = (0..400).map(|i| table.intern(&format!("p{i}"))).collect();
        assert_eq!(ids[NAMES_MAX - WELL_KNOWN.len() - 1], PlatformId(NAMES_MAX as u8));
        assert!(ids[NAMES_MAX - WELL_KNOWN.len()..].iter().all(|id| *id == OTHER));
        assert_eq!(table.intern(&"x".repeat(PLATFORM_BYTES_MAX + 1)), OTHER);
    }
}
