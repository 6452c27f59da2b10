//! The ring itself: who stands where, and whose place is a user's.

use std::collections::BTreeSet;
use std::fmt;

use crate::hash::{UserHash, point};
use crate::loads::Loads;
use crate::{
    LOAD_FACTOR_DEFAULT, LOAD_FACTOR_MAX, LOAD_FACTOR_MIN, MEMBERS_MAX, NAME_BYTES_MAX, POINTS_MAX, URL_BYTES_MAX,
    VIRTUAL_NODES_DEFAULT, VIRTUAL_NODES_MAX, WEIGHT_MAX,
};

/// Rises with every change. Who holds a ring takes only newer ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u64);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A gateway and where its clients connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// `[A-Za-z0-9_.@-]{1,64}`, unique in a ring.
    pub gateway: Box<str>,
    /// `ws://…` or `wss://…`, with the path.
    pub url: Box<str>,
    /// Shares, against those of the others: 1 to [`WEIGHT_MAX`].
    pub weight: u16,
}

/// Load that a member may have above its even share, in thousandths ([`LOAD_FACTOR_MIN`] to [`LOAD_FACTOR_MAX`]). An integer, so
/// that every node computes the same bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadFactor(pub u32);

/// What all rings of a cluster have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Points of a member of weight 1.
    pub virtual_nodes: u16,
    pub load_factor: LoadFactor,
}

impl Default for Layout {
    fn default() -> Layout {
        Layout { virtual_nodes: VIRTUAL_NODES_DEFAULT, load_factor: LoadFactor(LOAD_FACTOR_DEFAULT) }
    }
}

/// Members that do not make a ring.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    #[error("{0} members, and at most {MEMBERS_MAX} fit")]
    TooManyMembers(usize),
    #[error("{0:?} is no name of a gateway")]
    BadName(Box<str>),
    #[error("{0} is there twice")]
    Twice(Box<str>),
    #[error("{0}: its URL must begin with ws:// or wss:// and have at most {URL_BYTES_MAX} bytes")]
    BadUrl(Box<str>),
    #[error("{0}: its weight must be 1 to {WEIGHT_MAX}")]
    BadWeight(Box<str>),
    #[error("{0} virtual nodes, and it must be 1 to {VIRTUAL_NODES_MAX}")]
    BadVirtualNodes(u16),
    #[error("the load factor must be {LOAD_FACTOR_MIN} to {LOAD_FACTOR_MAX} thousandths")]
    BadLoadFactor,
    #[error("{0} points, and at most {POINTS_MAX} fit: lower the weights or the virtual nodes")]
    TooManyPoints(usize),
}

/// One version of the ring. The same members and layout make the same ring on every node.
#[derive(Clone, PartialEq, Eq)]
pub struct Ring {
    version: Version,
    layout: Layout,
    /// By name.
    members: Vec<Member>,
    /// Points and whose they are, as an index of `members`; in the order of the circle.
    points: Vec<(u64, u16)>,
    weights: u64,
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.members.iter().map(|member| &*member.gateway).collect();
        f.debug_struct("Ring").field("version", &self.version).field("members", &names).finish_non_exhaustive()
    }
}

impl Ring {
    /// The first version, with the default layout.
    pub fn new(members: Vec<Member>) -> Result<Ring, RingError> {
        Ring::with(Version(1), Layout::default(), members)
    }

    /// The order of `members` does not matter. No members is a ring, too: nobody has a place.
    pub fn with(version: Version, layout: Layout, mut members: Vec<Member>) -> Result<Ring, RingError> {
        check(layout, &members)?;
        members.sort_unstable_by(|a, b| a.gateway.cmp(&b.gateway));
        let points_of = |member: &Member| u32::from(layout.virtual_nodes) * u32::from(member.weight);
        let count = members.iter().map(|member| points_of(member) as usize).sum();
        if count > POINTS_MAX {
            return Err(RingError::TooManyPoints(count));
        }
        let mut points = Vec::with_capacity(count);
        for (at, member) in members.iter().enumerate() {
            points.extend((0..points_of(member)).map(|index| (point(&member.gateway, index), at as u16)));
        }
        // Two members at one point stand there in the order of their names, which no third one changes.
        points.sort_unstable();
        let weights = members.iter().map(|member| u64::from(member.weight)).sum();
        Ok(Ring { version, layout, members, points, weights })
    }

    /// The next version with these members; `None` if nothing changes. What one node, holding the lock, publishes.
    pub fn succeeded_by(&self, members: Vec<Member>) -> Result<Option<Ring>, RingError> {
        let next = Ring::with(Version(self.version.0 + 1), self.layout, members)?;
        Ok((next.members != self.members).then_some(next))
    }

    pub fn version(&self) -> Version {
        self.version
    }

    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// In the order of their names.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    pub fn member(&self, gateway: &str) -> Option<&Member> {
        let at = self.members.binary_search_by(|member| (*member.gateway).cmp(gateway)).ok()?;
        Some(&self.members[at])
    }

    /// A user's own place, whatever the loads; `None` on an empty ring.
    pub fn place(&self, user: UserHash) -> Option<&Member> {
        self.walk(user).next()
    }

    /// Where a user who has no connection yet should go: the first member from its place onwards that stays within its bound
    /// with one connection more (Mirrokni, Thorup, Zadimoghaddam: Consistent Hashing with Bounded Loads, 2016).
    pub fn place_within(&self, user: UserHash, loads: &Loads) -> Option<&Member> {
        let total = self.total(loads) + 1;
        let mut walk = self.walk(user);
        let has_room = |member: &&Member| loads.of(&member.gateway) < self.bound(member, total);
        // All bounds together are more than `total`, so somebody has room.
        walk.find(has_room).or_else(|| self.place(user))
    }

    /// Where a connection that `holder` has should be, its own one counted in `loads`; `None` if `holder` is no member.
    ///
    /// It goes to a place nearer to its own only while that has room to spare, and onwards only while `holder` is over its bound:
    /// between the two lies a margin ([`HOMECOMING_PERCENT`]) in which it stays, or it would be sent to and fro.
    pub fn place_held(&self, user: UserHash, holder: &str, loads: &Loads) -> Option<&Member> {
        let held = self.member(holder)?;
        if loads.is_empty() {
            return self.place(user);
        }
        let total = self.total(loads);
        let mut is_past_holder = false;
        for member in self.walk(user) {
            let bound = self.bound(member, total);
            let load = loads.of(&member.gateway);
            if member == held {
                if load <= bound {
                    return Some(held);
                }
                is_past_holder = true;
            } else if load < if is_past_holder { bound } else { (bound * HOMECOMING_PERCENT).div_ceil(100) } {
                return Some(member);
            }
        }
        Some(held)
    }

    /// Most connections that a member may have of `total`: the load factor times its share, rounded up.
    pub fn bound(&self, member: &Member, total: u64) -> u64 {
        let shares = u128::from(total) * u128::from(self.layout.load_factor.0) * u128::from(member.weight);
        let bound = shares.div_ceil(1_000 * u128::from(self.weights.max(1)));
        u64::try_from(bound).unwrap_or(u64::MAX)
    }

    /// Those of `users` whose own place differs in `next`: `(user, from, to)`.
    pub fn moved<'a, U: Copy + Into<UserHash>>(
        &'a self,
        next: &'a Ring,
        users: impl IntoIterator<Item = U> + 'a,
    ) -> impl Iterator<Item = (U, Option<&'a Member>, Option<&'a Member>)> + 'a {
        let both = users.into_iter().map(move |user| (user, self.place(user.into()), next.place(user.into())));
        both.filter(|(_, from, to)| from.map(|m| &m.gateway) != to.map(|m| &m.gateway))
    }

    fn total(&self, loads: &Loads) -> u64 {
        self.members.iter().fold(0, |total, member| total.saturating_add(loads.of(&member.gateway)))
    }

    /// Every member once, as the circle has them from the user's place onwards.
    fn walk(&self, user: UserHash) -> Walk<'_> {
        let start = self.points.partition_point(|(point, _)| *point < user.0);
        Walk { ring: self, start, taken: 0, seen: Vec::new(), found: 0 }
    }
}

/// A nearer place takes a connection back below so much of its bound.
pub const HOMECOMING_PERCENT: u64 = 90;

impl From<&str> for UserHash {
    fn from(uid: &str) -> UserHash {
        UserHash::of(uid)
    }
}

struct Walk<'a> {
    ring: &'a Ring,
    start: usize,
    taken: usize,
    /// Made with the second member: most walks end at the first.
    seen: Vec<bool>,
    found: usize,
}

impl<'a> Iterator for Walk<'a> {
    type Item = &'a Member;

    fn next(&mut self) -> Option<&'a Member> {
        let (points, members) = (&self.ring.points, &self.ring.members);
        while self.found < members.len() && self.taken < points.len() {
            let at = usize::from(points[(self.start + self.taken) % points.len()].1);
            self.taken += 1;
            if self.seen.get(at).copied().unwrap_or(false) {
                continue;
            }
            self.seen.resize(members.len(), false);
            self.seen[at] = true;
            self.found += 1;
            return Some(&members[at]);
        }
        None
    }
}

fn check(layout: Layout, members: &[Member]) -> Result<(), RingError> {
    if !(1..=VIRTUAL_NODES_MAX).contains(&layout.virtual_nodes) {
        return Err(RingError::BadVirtualNodes(layout.virtual_nodes));
    }
    if !(LOAD_FACTOR_MIN..=LOAD_FACTOR_MAX).contains(&layout.load_factor.0) {
        return Err(RingError::BadLoadFactor);
    }
    if members.len() > MEMBERS_MAX {
        return Err(RingError::TooManyMembers(members.len()));
    }
    let mut names = BTreeSet::new();
    for Member { gateway, url, weight } in members {
        let is_good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'@' | b'-');
        if gateway.is_empty() || gateway.len() > NAME_BYTES_MAX || !gateway.bytes().all(is_good) {
            return Err(RingError::BadName(gateway.clone()));
        }
        if !names.insert(gateway) {
            return Err(RingError::Twice(gateway.clone()));
        }
        let is_websocket = ["ws://", "wss://"].iter().any(|scheme| url.len() > scheme.len() && url.starts_with(scheme));
        if !is_websocket || url.len() > URL_BYTES_MAX || url.bytes().any(|b| !b.is_ascii_graphic()) {
            return Err(RingError::BadUrl(gateway.clone()));
        }
        if !(1..=WEIGHT_MAX).contains(weight) {
            return Err(RingError::BadWeight(gateway.clone()));
        }
    }
    Ok(())
}
