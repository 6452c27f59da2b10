//! What a node keeps near: the shared cache (Redis) and its own bounded ones.
//!
//! ```text
//!  partition ─▶ [committed] ─▶ cache ◀─ [routes] ◀─ presence, registry
//!                                │
//!  API ─▶ [recent] ─────────────┘        API ─▶ [Caches]: groups, memberships, routes
//! ```
//!
//! Everything here is a fact that is committed elsewhere, written after its commit. Whoever changes a group or a membership
//! commits it first, then calls [`Caches::changed`]; a notice that may have been missed ([`Notice::Gap`]) clears them.

pub mod bounded;
pub mod committed;
pub mod form;
pub mod recent;
pub mod routes;

use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidegate_control_core::domain::{Gid, Uid};
use tidegate_control_core::ports::cache::{Cache, Channel, Connection, Fact, Notice, Subscription};
use tidegate_control_core::ports::{Group, Member};

use bounded::{Bounded, Tally};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheBounds {
    pub groups_max: usize,
    pub members_max: usize,
    /// For so long an older answer may be believed when a notice does not come at all.
    pub told_max_age: Duration,
    pub routes_max: usize,
    /// Routes change too often to be told one by one; for so long an older answer is good enough (`online`).
    pub routes_max_age: Duration,
}

impl Default for CacheBounds {
    fn default() -> Self {
        CacheBounds {
            groups_max: 100_000,
            members_max: 1_000_000,
            told_max_age: Duration::from_secs(5),
            routes_max: 100_000,
            routes_max_age: Duration::from_secs(2),
        }
    }
}

/// Only what there is: that there is no such group or member is never kept, so whoever just made one finds it.
pub struct Caches {
    pub groups: Bounded<Gid, Arc<Group>>,
    pub members: Bounded<(Gid, Uid), Arc<Member>>,
    pub routes: Bounded<Uid, Arc<[Connection]>>,
}

/// What has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Group(Gid),
    /// A user joined, left, or has another role.
    Member(Gid, Uid),
    Routes(Uid),
}

impl Caches {
    /// `tally` is asked for each by its name.
    pub fn new(bounds: &CacheBounds, tally: impl Fn(&'static str) -> Tally) -> Caches {
        let told = Some(bounds.told_max_age);
        Caches {
            groups: Bounded::new(bounds.groups_max, told, tally("groups")),
            members: Bounded::new(bounds.members_max, told, tally("members")),
            routes: Bounded::new(bounds.routes_max, Some(bounds.routes_max_age), tally("routes")),
        }
    }

    /// Forgets it here, and tells the other nodes.
    pub fn changed(&self, changes: &[Change], told_by: &dyn Cache) {
        changes.iter().for_each(|change| self.forget(change));
        if !changes.is_empty() {
            told_by.write(vec![Fact::Publish { channel: Channel::invalidation(), bytes: encode(changes) }]);
        }
    }

    /// Listens for changes that other nodes tell, until the cache is closed.
    pub async fn follow(&self, mut notices: Box<dyn Subscription>) {
        while let Some(notice) = notices.next().await {
            match notice {
                Notice::Gap => self.clear(),
                Notice::Message { bytes, .. } => match decode(&bytes) {
                    Some(changes) => changes.iter().for_each(|change| self.forget(change)),
                    // Said by a newer version, which knows more kinds of changes.
                    None => self.clear(),
                },
            }
        }
    }

    pub fn clear(&self) {
        self.groups.clear();
        self.members.clear();
        self.routes.clear();
    }

    fn forget(&self, change: &Change) {
        match change {
            // A group that was dismissed or begun anew has no members of before; which they were is not known here.
            Change::Group(gid) => {
                self.groups.invalidate(gid);
                self.members.clear();
            }
            Change::Member(gid, uid) => self.members.invalidate(&(gid.clone(), uid.clone())),
            Change::Routes(uid) => self.routes.invalidate(uid),
        }
    }
}

/// A line for each: `g <gid>`, `m <gid> <uid>`, `r <uid>`.
fn encode(changes: &[Change]) -> Bytes {
    let line = |change: &Change| match change {
        Change::Group(gid) => format!("g {gid}\n"),
        Change::Member(gid, uid) => format!("m {gid} {uid}\n"),
        Change::Routes(uid) => format!("r {uid}\n"),
    };
    changes.iter().map(line).collect::<String>().into()
}

fn decode(bytes: &[u8]) -> Option<Vec<Change>> {
    let gid = |name: &str| Gid::from_str(name).ok();
    let uid = |name: &str| Uid::from_str(name).ok();
    let change = |line: &str| match line.split(' ').collect::<Vec<_>>()[..] {
        ["g", name] => Some(Change::Group(gid(name)?)),
        ["m", group, user] => Some(Change::Member(gid(group)?, uid(user)?)),
        ["r", name] => Some(Change::Routes(uid(name)?)),
        _ => None,
    };
    std::str::from_utf8(bytes).ok()?.lines().map(change).collect()
}

#[cfg(test)]
mod tests {
    use tidegate_control_core::domain::{Epoch, Timestamp};

    use super::*;
    use crate::adapters::memory::{MemoryCache, MemoryOptions};

    fn gid(name: &str) -> Gid {
        name.parse().expect("a gid")
    }

    fn uid(name: &str) -> Uid {
        name.parse().expect("a uid")
    }

    fn group(name: &str) -> Arc<Group> {
        let (epoch, created) = (Epoch(1), Timestamp(1));
        let (name, creator) = (name.into(), "ann".into());
        Arc::new(Group { gid: gid("go"), epoch, open: true, name, creator, created, dismissed: false })
    }

    /// Nothing of it is too old by itself.
    fn caches() -> Caches {
        let bounds = CacheBounds { told_max_age: Duration::from_secs(3_600), ..CacheBounds::default() };
        Caches::new(&bounds, |_| Tally::default())
    }

    fn known(caches: &Caches, name: &str) -> bool {
        caches.groups.find(&gid(name)).is_ok()
    }

    fn fill(caches: &Caches, name: &str) {
        let _ = caches.groups.find_or(&gid(name), || Ok::<_, ()>(group(name)));
    }

    async fn until(mut condition: impl FnMut() -> bool) {
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        while !condition() {
            assert!(std::time::Instant::now() < deadline, "it does not come");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    #[test]
    fn changes_come_back_and_what_is_not_known_is_told_apart() {
        let all = [Change::Group(gid("go")), Change::Member(gid("go"), uid("ann")), Change::Routes(uid("bob"))];
        assert_eq!(decode(&encode(&all)).as_deref(), Some(&all[..]));
        for bad in [&b"x go\n"[..], b"g a b\n", b"m go\n", b"\xff", b"g g\0o\n"] {
            assert_eq!(decode(bad), None, "{bad:?}");
        }
    }

    #[tokio::test]
    async fn a_change_is_forgotten_on_every_node() {
        let shared = MemoryCache::new(MemoryOptions::default());
        let [here, there] = [(); 2].map(|()| Arc::new(caches()));
        let (follower, notices) = (Arc::clone(&there), shared.subscribe(&[Channel::invalidation()]));
        fill(&there, "before");
        let following = tokio::spawn(async move { follower.follow(notices).await });
        until(|| !known(&there, "before")).await;
        for caches in [&here, &there] {
            fill(caches, "go");
            fill(caches, "rust");
        }
        here.changed(&[Change::Group(gid("go"))], &shared);
        assert!(!known(&here, "go") && known(&here, "rust"));
        until(|| !known(&there, "go")).await;
        assert!(known(&there, "rust"));
        shared.write(vec![Fact::Publish { channel: Channel::invalidation(), bytes: Bytes::from_static(b"z 1\n") }]);
        until(|| !known(&there, "rust")).await;
        following.abort();
    }
}
