//! Who is connected where.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use tidegate_control_core::domain::{Timestamp, Uid};
use tidegate_control_core::ports::cache::{
    CONNECTIONS_PER_USER_MAX, Connection, Incarnation, IncarnationTag, Live, RouteKey, Sweep,
};

/// Incarnations that were voided and are remembered.
const VOIDED_MAX: usize = 1_024;
/// Users that one sweep looks at.
const SWEEP_USERS: usize = 4_096;

#[derive(Debug)]
pub struct Routes {
    users: HashMap<Uid, Vec<Listed>>,
    counts: BTreeMap<Incarnation, u64>,
    voided: VecDeque<IncarnationTag>,
    connections: usize,
    connections_max: usize,
    ttl: Option<Duration>,
    /// Users that a sweep has still to look at.
    unswept: Vec<Uid>,
}

#[derive(Debug)]
struct Listed {
    connection: Connection,
    tag: IncarnationTag,
    until: Option<Instant>,
}

impl Routes {
    pub fn new(connections_max: usize, ttl: Option<Duration>) -> Routes {
        Routes {
            users: HashMap::new(),
            counts: BTreeMap::new(),
            voided: VecDeque::new(),
            connections: 0,
            connections_max,
            ttl,
            unswept: Vec::new(),
        }
    }

    /// False: there is no room, and it is not listed.
    pub fn put(&mut self, uid: Uid, connection: Connection, now: Instant) -> bool {
        let key = RouteKey { uid: uid.clone(), at: connection.at.clone(), id: connection.id.clone() };
        self.remove(&key);
        let of_user = self.users.get(&uid).map_or(0, Vec::len);
        if of_user >= CONNECTIONS_PER_USER_MAX {
            let mut first = true;
            self.retain(&uid, |_| !std::mem::take(&mut first));
        } else if self.connections >= self.connections_max {
            return false;
        }
        self.connections += 1;
        *self.counts.entry(connection.at.clone()).or_default() += 1;
        let tag = IncarnationTag::of(&connection.at);
        let since = Timestamp(connection.since.0.max(0) / 1_000 * 1_000);
        let until = self.ttl.map(|ttl| now + ttl);
        self.users.entry(uid).or_default().push(Listed { connection: Connection { since, ..connection }, tag, until });
        true
    }

    pub fn remove(&mut self, key: &RouteKey) {
        self.retain(&key.uid, |listed| listed.connection.at != key.at || listed.connection.id != key.id);
    }

    pub fn void(&mut self, at: &Incarnation) {
        self.counts.remove(at);
        if self.voided.len() >= VOIDED_MAX {
            self.voided.pop_front();
        }
        self.voided.push_back(IncarnationTag::of(at));
    }

    pub fn of(&self, uid: &Uid, live: &Live, now: Instant) -> Vec<Connection> {
        let listed = self.users.get(uid).into_iter().flatten();
        let stands = listed.filter(|l| live.find(l.tag).is_some() && !l.is_over(now));
        stands.map(|l| l.connection.clone()).collect()
    }

    pub fn count(&self, at: &Incarnation) -> u64 {
        self.counts.get(at).copied().unwrap_or(0)
    }

    pub fn sweep(&mut self, live: &Live, now: Instant) -> Sweep {
        if self.unswept.is_empty() {
            self.unswept = self.users.keys().cloned().collect();
        }
        let before = self.connections;
        let from = self.unswept.len().saturating_sub(SWEEP_USERS);
        for uid in self.unswept.split_off(from) {
            let voided = std::mem::take(&mut self.voided);
            let dead = |tag| live.supersedes(tag) || (live.find(tag).is_none() && voided.contains(&tag));
            self.retain(&uid, |listed| !dead(listed.tag) && !listed.is_over(now));
            self.voided = voided;
        }
        Sweep { removed: (before - self.connections) as u64, done: self.unswept.is_empty() }
    }

    pub fn clear(&mut self) {
        *self = Routes::new(self.connections_max, self.ttl);
    }

    fn retain(&mut self, uid: &Uid, mut keep: impl FnMut(&Listed) -> bool) {
        let Some(of_user) = self.users.get_mut(uid) else { return };
        let counts = &mut self.counts;
        let before = of_user.len();
        of_user.retain(|listed| {
            let stays = keep(listed);
            if !stays && let Some(count) = counts.get_mut(&listed.connection.at) {
                *count -= 1;
            }
            stays
        });
        self.connections -= before - of_user.len();
        if of_user.is_empty() {
            self.users.remove(uid);
        }
        counts.retain(|_, count| *count > 0);
    }
}

impl Listed {
    fn is_over(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| until <= now)
    }
}
