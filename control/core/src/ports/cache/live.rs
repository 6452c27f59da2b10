//! Which gateways live, and the short name that stands for one of their incarnations beside each route.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

/// One life of a gateway's process.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Incarnation {
    pub gateway: Arc<str>,
    pub number: u64,
}

const GATEWAY_BYTES: usize = 6;

/// Six bytes of the gateway's hash, four of its incarnation's. It stands beside every route in place of the name, and means
/// something only to who knows the living.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IncarnationTag(pub [u8; IncarnationTag::BYTES]);

impl IncarnationTag {
    pub const BYTES: usize = 10;

    pub fn of(incarnation: &Incarnation) -> IncarnationTag {
        let name = Sha256::digest(incarnation.gateway.as_bytes());
        let number = Sha256::digest(incarnation.number.to_be_bytes());
        let mut tag = [0; IncarnationTag::BYTES];
        tag[..GATEWAY_BYTES].copy_from_slice(&name[..GATEWAY_BYTES]);
        tag[GATEWAY_BYTES..].copy_from_slice(&number[..IncarnationTag::BYTES - GATEWAY_BYTES]);
        IncarnationTag(tag)
    }

    fn same_gateway(self) -> (Bound<IncarnationTag>, Bound<IncarnationTag>) {
        let (mut first, mut last) = (self, self);
        first.0[GATEWAY_BYTES..].fill(0);
        last.0[GATEWAY_BYTES..].fill(0xff);
        (Bound::Included(first), Bound::Included(last))
    }
}

/// The gateways that the registry knows to be alive. Made anew when that changes, and shared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Live {
    by_tag: BTreeMap<IncarnationTag, Incarnation>,
}

impl Live {
    pub fn find(&self, tag: IncarnationTag) -> Option<&Incarnation> {
        self.by_tag.get(&tag)
    }

    /// The same gateway lives in another incarnation, so this one never comes back. False for one that is merely not known: the
    /// registry's view may be late.
    pub fn supersedes(&self, tag: IncarnationTag) -> bool {
        let mut of_gateway = self.by_tag.range(tag.same_gateway()).peekable();
        of_gateway.peek().is_some() && !self.by_tag.contains_key(&tag)
    }
}

impl FromIterator<Incarnation> for Live {
    fn from_iter<I: IntoIterator<Item = Incarnation>>(incarnations: I) -> Live {
        Live { by_tag: incarnations.into_iter().map(|life| (IncarnationTag::of(&life), life)).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(gateway: &str, number: u64) -> Incarnation {
        Incarnation { gateway: gateway.into(), number }
    }

    /// Tags stand in caches that outlive a process.
    #[test]
    fn the_definition_is_pinned() {
        let text = IncarnationTag::of(&life("gw-1", 7)).0.map(|byte| format!("{byte:02x}")).concat();
        assert_eq!(text, "f5135b2765fda3eb8db8");
    }

    #[test]
    fn only_a_gateway_that_lives_otherwise_is_superseded() {
        let live: Live = [life("gw-1", 2), life("gw-2", 1)].into_iter().collect();
        let tag = |gateway, number| IncarnationTag::of(&life(gateway, number));
        assert!(live.supersedes(tag("gw-1", 1)) && live.find(tag("gw-1", 1)).is_none());
        assert!(!live.supersedes(tag("gw-1", 2)) && live.find(tag("gw-1", 2)).is_some());
        assert!(!live.supersedes(tag("gw-3", 1)), "unknown is not dead");
    }
}
