//! Routes: which user is connected to which gateway. The node whose partition has a user's inbox hears it from the gateways and
//! writes it; every node may ask.
//!
//! They serve `online` and presence, and never decide about delivery. A route of an incarnation that does not live any more is
//! void, whoever wrote it. What a node writes again after a flush is only what it hears of now: its attached gateways.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tidegate_control_core::domain::{Timestamp, Uid};
use tidegate_control_core::ports::cache::{Connection, Fact, Incarnation, Live, RouteKey, SharedCache};
use tidegate_proto::v1::LinkPresence;

use super::Caches;
use crate::presence::Presence;

/// A gateway that the registry does not know for so long is dead, and its routes go.
pub const VOID_AFTER: Duration = Duration::from_secs(120);
/// Between two looks at the registry and at the cache's generation.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Connections of the whole cluster are counted so often.
const COUNT_EVERY: Duration = Duration::from_secs(5);
/// Parts of the table that one look sweeps, while there is something to be swept.
const SWEEPS_PER_LOOK: usize = 8;
/// Users whose routes are written again at once …
const AGAIN_USERS: usize = 1_000;
/// … while no more facts than this wait.
const AGAIN_WAITING_MAX: usize = 16_384;
/// `everywhere` before anything was counted.
const UNKNOWN: u64 = u64::MAX;

pub struct Routes {
    cache: SharedCache,
    caches: Arc<Caches>,
    live: ArcSwap<Live>,
    everywhere: AtomicU64,
}

impl Routes {
    pub fn new(cache: SharedCache, caches: Arc<Caches>) -> Routes {
        Routes { cache, caches, live: ArcSwap::default(), everywhere: AtomicU64::new(UNKNOWN) }
    }

    /// Connections that came and went; returns at once.
    pub fn changed(&self, facts: Vec<Fact>) {
        let uid = |fact: &Fact| match fact {
            Fact::Online { uid, .. } => Some(uid.clone()),
            Fact::Offline(key) => Some(key.uid.clone()),
            _ => None,
        };
        facts.iter().filter_map(uid).for_each(|uid| self.caches.routes.invalidate(&uid));
        self.cache.write(facts);
    }

    /// Live connections of each user, wherever they are; `None`: not known.
    pub async fn connections_of(&self, users: &[Uid]) -> Vec<Option<usize>> {
        let mut found = vec![None; users.len()];
        let mut asked = Vec::new();
        for (at, uid) in users.iter().enumerate() {
            match self.caches.routes.find(uid) {
                Ok(connections) => found[at] = Some(connections.len()),
                Err(ticket) => asked.push((at, uid.clone(), ticket)),
            }
        }
        let names: Vec<Uid> = asked.iter().map(|(_, uid, _)| uid.clone()).collect();
        let live = self.live.load_full();
        let routes = self.cache.routes_of(&names, &live).await;
        for ((at, uid, ticket), connections) in asked.into_iter().zip(routes) {
            let Some(connections) = connections else { continue };
            found[at] = Some(connections.len());
            self.caches.routes.keep(ticket, uid, connections.into());
        }
        found
    }

    /// Connections of the whole cluster, as they were counted a moment ago.
    pub fn everywhere(&self) -> Option<u64> {
        Some(self.everywhere.load(Ordering::Relaxed)).filter(|count| *count != UNKNOWN)
    }

    /// For as long as the process lives. `alive` says which gateways the registry knows now.
    pub async fn keep(self: Arc<Self>, presence: Arc<Presence>, alive: impl Fn() -> BTreeSet<Incarnation> + Send) {
        let mut keeper = Keeper::default();
        let mut counted: Option<Instant> = None;
        let mut generation = self.cache.generation();
        loop {
            let alive = alive();
            let voids = keeper.look(&alive, Instant::now());
            if keeper.changed {
                self.live.store(Arc::new(alive.iter().cloned().collect()));
            }
            if !voids.is_empty() {
                self.cache.write(voids);
            }
            let live = self.live.load_full();
            for _ in 0..SWEEPS_PER_LOOK {
                if keeper.sweeps == 0 {
                    break;
                }
                keeper.sweeps -= usize::from(self.cache.sweep(&live).await.done);
            }
            if counted.is_none_or(|at| at.elapsed() >= COUNT_EVERY) {
                counted = Some(Instant::now());
                self.count(&alive.into_iter().collect::<Vec<_>>()).await;
            }
            let now = self.cache.generation();
            if now != generation {
                generation = now;
                self.write_again(&presence).await;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn count(&self, alive: &[Incarnation]) {
        let counts: Option<Vec<u64>> = self.cache.route_counts(alive).await.into_iter().collect();
        self.everywhere.store(counts.map_or(UNKNOWN, |counts| counts.iter().sum()), Ordering::Relaxed);
    }

    /// The cache has lost something. Little by little, so that the backlog never has to drop any of it.
    async fn write_again(&self, presence: &Presence) {
        let users = presence.users();
        tracing::info!(users = users.len(), "routes are written again");
        for part in users.chunks(AGAIN_USERS) {
            while self.cache.health().queued > AGAIN_WAITING_MAX {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            presence.tell_again(part);
            tokio::task::yield_now().await;
        }
    }
}

/// What a gateway told of its connections, as facts.
pub fn facts_of(at: &Incarnation, change: &LinkPresence, now: Timestamp) -> Vec<Fact> {
    let gone = change.offline.iter().filter_map(|gone| {
        let (uid, id) = (gone.uid.parse().ok()?, gone.connection_id.as_str().into());
        Some(Fact::Offline(RouteKey { uid, at: at.clone(), id }))
    });
    // Who is told again may be unknown where routes are kept.
    let come = change.online.iter().chain(&change.present).filter_map(|come| {
        let connection = Connection {
            at: at.clone(),
            id: come.connection_id.as_str().into(),
            device: come.device.as_str().into(),
            platform: come.platform.as_str().into(),
            since: now,
        };
        Some(Fact::Online { uid: come.uid.parse().ok()?, connection })
    });
    gone.chain(come).collect()
}

/// Which incarnations came and went.
#[derive(Debug, Default)]
struct Keeper {
    alive: BTreeSet<Incarnation>,
    /// Not seen since.
    absent: BTreeMap<Incarnation, Instant>,
    changed: bool,
    /// Walks over the whole table that are still to be made.
    sweeps: usize,
}

impl Keeper {
    /// What is void from now on.
    fn look(&mut self, alive: &BTreeSet<Incarnation>, now: Instant) -> Vec<Fact> {
        self.changed = self.alive != *alive;
        for gone in self.alive.difference(alive) {
            self.absent.entry(gone.clone()).or_insert(now);
        }
        self.absent.retain(|life, _| !alive.contains(life));
        // Another life of the same gateway has begun: this one never comes back.
        let superseded = |life: &Incarnation| alive.iter().any(|other| other.gateway == life.gateway);
        let dead = |(life, since): (&Incarnation, &Instant)| {
            (superseded(life) || now.duration_since(*since) >= VOID_AFTER).then(|| life.clone())
        };
        let voided: Vec<Incarnation> = self.absent.iter().filter_map(dead).collect();
        self.absent.retain(|life, _| !voided.contains(life));
        self.alive.clone_from(alive);
        if !voided.is_empty() {
            // The walk that is under way has passed some of the table already.
            self.sweeps = 2;
        }
        voided.into_iter().map(Fact::Void).collect()
    }
}

#[cfg(test)]
mod tests {
    use tidegate_proto::v1::LinkConnection;

    use super::*;
    use crate::adapters::memory::{MemoryCache, MemoryOptions};
    use crate::cache::{CacheBounds, bounded::Tally};

    fn life(gateway: &str, number: u64) -> Incarnation {
        Incarnation { gateway: gateway.into(), number }
    }

    fn lives(all: &[(&str, u64)]) -> BTreeSet<Incarnation> {
        all.iter().map(|(gateway, number)| life(gateway, *number)).collect()
    }

    #[test]
    fn a_gateway_that_began_anew_is_void_at_once_and_one_that_is_away_after_a_while() {
        let (mut keeper, began) = (Keeper::default(), Instant::now());
        assert_eq!(keeper.look(&lives(&[("a", 1), ("b", 1)]), began), []);
        assert!(keeper.changed);
        assert_eq!(keeper.look(&lives(&[("a", 2)]), began), [Fact::Void(life("a", 1))]);
        assert_eq!(keeper.look(&lives(&[("a", 2)]), began + VOID_AFTER / 2), []);
        assert!(!keeper.changed);
        assert_eq!(keeper.look(&lives(&[("a", 2)]), began + VOID_AFTER), [Fact::Void(life("b", 1))]);
        assert_eq!(keeper.look(&lives(&[("a", 2)]), began + VOID_AFTER * 2), [], "once");
    }

    #[test]
    fn a_gateway_that_came_back_in_time_keeps_its_routes() {
        let (mut keeper, began) = (Keeper::default(), Instant::now());
        for (alive, at) in [(&[("a", 1)][..], began), (&[], began), (&[("a", 1)], began + VOID_AFTER / 2)] {
            assert_eq!(keeper.look(&lives(alive), at), []);
        }
        assert_eq!(keeper.look(&lives(&[("a", 1)]), began + VOID_AFTER * 3), []);
        assert_eq!(keeper.sweeps, 0);
    }

    fn connected(uid: &str, id: &str) -> LinkConnection {
        let (uid, connection_id) = (uid.to_owned(), id.to_owned());
        LinkConnection { uid, connection_id, device: "d".to_owned(), platform: "web".to_owned(), ..Default::default() }
    }

    async fn until(mut condition: impl AsyncFnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !condition().await {
            assert!(Instant::now() < deadline, "it does not come");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn another_node_sees_who_is_connected_here_also_after_a_flush() {
        let cache = MemoryCache::new(MemoryOptions::default());
        let bounds = CacheBounds { routes_max_age: Duration::ZERO, ..CacheBounds::default() };
        let [here, there] = [(); 2].map(|()| {
            let caches = Arc::new(Caches::new(&bounds, |_| Tally::default()));
            Arc::new(Routes::new(Arc::new(cache.clone()), caches))
        });
        let [present, elsewhere] = [(); 2].map(|()| Arc::new(Presence::default()));
        present.tell(Arc::clone(&here));
        let alive = || lives(&[("gw", 1)]);
        let keeping = [
            tokio::spawn(Arc::clone(&here).keep(Arc::clone(&present), alive)),
            tokio::spawn(Arc::clone(&there).keep(elsewhere, alive)),
        ];
        let (route, _) = present.attach("gw/3", 1);
        let (stale, _) = present.attach("old/3", 1);
        let change = LinkPresence { online: vec![connected("ann", "1"), connected("ann", "2")], ..Default::default() };
        present.apply(&route, change);
        present.apply(&stale, LinkPresence { online: vec![connected("bob", "1")], ..Default::default() });
        let users: [Uid; 2] = ["ann", "bob"].map(|name| name.parse().expect("a uid"));
        until(async || there.connections_of(&users).await == [Some(2), Some(0)]).await;
        until(async || there.everywhere() == Some(2)).await;
        cache.flush();
        until(async || there.connections_of(&users).await == [Some(2), Some(0)]).await;
        present.apply(&route, LinkPresence { offline: vec![connected("ann", "1")], ..Default::default() });
        until(async || there.connections_of(&users).await == [Some(1), Some(0)]).await;
        keeping.iter().for_each(tokio::task::JoinHandle::abort);
    }
}
