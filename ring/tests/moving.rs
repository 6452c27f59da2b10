//! A cluster of gateways whose ring changes: who has to go, how fast, and where everybody ends up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use tidegate_ring::mover::{CATCH_UP_MAX, Mover, RECONNECT_SPREAD_MS};
use tidegate_ring::{Loads, Member, Ring, UserHash, Version};

const SEED: u64 = 7;

fn member(name: &str) -> Member {
    Member { gateway: name.into(), url: format!("wss://{name}/api/v1/ws").into(), weight: 1 }
}

fn ring(version: u64, names: &[&str]) -> Arc<Ring> {
    let members = names.iter().map(|name| member(name)).collect();
    Arc::new(Ring::with(Version(version), Default::default(), members).expect("a ring"))
}

fn user(at: usize) -> UserHash {
    UserHash::of(&format!("user-{at}"))
}

fn connections(count: usize) -> impl Iterator<Item = (usize, UserHash)> {
    (0..count).map(|at| (at, user(at)))
}

fn elsewhere(ring: &Ring, gateway: &str, count: usize) -> BTreeSet<usize> {
    (0..count).filter(|at| &*ring.place(user(*at)).expect("somebody").gateway != gateway).collect()
}

/// Polls every millisecond until nothing is planned; when each went.
fn drain(mover: &mut Mover<usize>, mut now: Duration) -> Vec<(Duration, usize)> {
    let mut gone = Vec::new();
    while mover.poll_timeout().is_some() {
        while let Some(next) = mover.poll(now) {
            gone.push((now, next.connection));
        }
        now += Duration::from_millis(1);
    }
    gone
}

#[test]
fn those_whose_place_moved_go_and_no_others() {
    let mut mover = Mover::new("a", 10_000, SEED);
    assert_eq!(mover.ring(ring(1, &["a"]), connections(1_000)), 0);
    let next = ring(2, &["a", "b", "c"]);
    mover.ring(Arc::clone(&next), connections(1_000));
    let gone: BTreeSet<usize> = drain(&mut mover, Duration::ZERO).into_iter().map(|(_, at)| at).collect();
    assert_eq!(gone, elsewhere(&next, "a", 1_000));
}

#[test]
fn each_is_told_its_place_and_when_to_knock() {
    let mut mover = Mover::new("a", 10_000, SEED);
    let next = ring(1, &["a", "b"]);
    mover.ring(Arc::clone(&next), connections(2_000));
    let mut waits = BTreeSet::new();
    let mut now = Duration::ZERO;
    while mover.poll_timeout().is_some() {
        while let Some(told) = mover.poll(now) {
            let place = next.place(user(told.connection)).expect("somebody");
            assert_eq!((&told.gateway, &told.endpoint), (&place.gateway, &place.url));
            assert!(told.reconnect_after_ms <= RECONNECT_SPREAD_MS);
            waits.insert(told.reconnect_after_ms);
        }
        now += Duration::from_millis(1);
    }
    assert!(waits.len() > 200, "they come back spread: {} moments", waits.len());
}

#[test]
fn the_rate_holds_even_after_a_late_poll() {
    let rate = 100;
    let mut mover = Mover::new("a", rate, SEED);
    mover.ring(ring(1, &["a", "b"]), connections(2_000));
    let gone = drain(&mut mover, Duration::from_secs(50));
    let span = |from: usize, to: usize| gone[to].0 - gone[from].0;
    let at_once = (CATCH_UP_MAX.as_millis() as u32 * rate / 1_000) as usize + 1;
    assert_eq!(gone.iter().filter(|(at, _)| *at == Duration::from_secs(50)).count(), at_once);
    for second in (at_once..gone.len() - 100).step_by(100) {
        assert!(
            span(second, second + 100) >= Duration::from_millis(999),
            "100 went in {:?}",
            span(second, second + 100)
        );
    }
}

#[test]
fn a_new_ring_replaces_the_plan() {
    let mut mover = Mover::new("a", 10, SEED);
    assert!(mover.ring(ring(1, &["a", "b", "c"]), connections(1_000)) > 500);
    assert!(mover.poll(Duration::ZERO).is_some());
    assert_eq!(mover.ring(ring(2, &["a"]), connections(999)), 0, "everybody is at home again");
    assert_eq!(mover.poll(Duration::from_secs(9)), None);
    assert_eq!(mover.ring(ring(1, &["a", "b"]), connections(999)), 0, "an older ring is none");
    assert_eq!(mover.version(), Some(Version(2)));
}

#[test]
fn who_lands_on_the_wrong_gateway_is_kept_until_its_turn() {
    let mut mover = Mover::new("a", 1, SEED);
    assert!(!mover.arrived(0, user(0)), "without a ring every place is right");
    let ring = ring(1, &["a", "b"]);
    mover.ring(Arc::clone(&ring), []);
    let wrong = elsewhere(&ring, "a", 100);
    for (at, user) in connections(100) {
        assert_eq!(mover.arrived(at, user), wrong.contains(&at));
    }
    assert_eq!(mover.planned(), wrong.len());
    let gone = drain(&mut mover, Duration::from_secs(1));
    assert_eq!(gone.iter().map(|(_, at)| *at).collect::<BTreeSet<_>>(), wrong);
    assert!(gone.last().expect("some").0 >= Duration::from_secs(wrong.len() as u64 - 1));
}

#[test]
fn a_gateway_that_is_in_no_ring_lets_nobody_go() {
    let mut mover = Mover::new("a", 10_000, SEED);
    assert_eq!(mover.ring(ring(1, &["b", "c"]), connections(100)), 0);
    assert!(!mover.arrived(0, user(0)));
    assert_eq!(mover.poll(Duration::from_secs(1)), None);
}

/// Gateways with their clients, which go where they are told.
struct Cluster {
    movers: BTreeMap<String, Mover<usize>>,
    at: BTreeMap<usize, String>,
    moves: BTreeMap<usize, usize>,
    now: Duration,
}

impl Cluster {
    fn new(names: &[&str], clients: usize) -> Cluster {
        let movers = names.iter().map(|name| ((*name).to_owned(), Mover::new(name, 1_000, SEED))).collect();
        let at = (0..clients).map(|client| (client, names[client % names.len()].to_owned())).collect();
        Cluster { movers, at, moves: BTreeMap::new(), now: Duration::ZERO }
    }

    fn loads(&self) -> Loads {
        let mut loads: Loads = self.movers.keys().map(|name| (name.as_str(), 0)).collect();
        self.at.values().for_each(|gateway| loads.came(gateway));
        loads
    }

    fn publish(&mut self, ring: &Arc<Ring>) {
        for (name, mover) in &mut self.movers {
            let held = self.at.iter().filter(|(_, at)| *at == name).map(|(client, _)| (*client, user(*client)));
            mover.ring(Arc::clone(ring), held);
        }
    }

    /// Everybody is told everybody's count; who is beyond its bound and plans nothing looks for whom to let go.
    fn count(&mut self) {
        let loads = self.loads();
        for (name, mover) in &mut self.movers {
            if mover.loads(loads.clone()) > 0 && mover.planned() == 0 {
                let held = self.at.iter().filter(|(_, at)| *at == name).map(|(client, _)| (*client, user(*client)));
                mover.review(held);
            }
        }
    }

    fn is_settled(&self, counted: bool) -> bool {
        let loads = self.loads();
        let is_within =
            || self.movers.iter().all(|(name, mover)| mover.clone().loads(loads.clone()) == 0 || loads.of(name) == 0);
        self.movers.values().all(|mover| mover.poll_timeout().is_none()) && (!counted || is_within())
    }

    /// 10 ms: who is let go knocks where it was told to.
    fn step(&mut self) {
        self.now += Duration::from_millis(10);
        let mut told = Vec::new();
        for mover in self.movers.values_mut() {
            told.extend(std::iter::from_fn(|| mover.poll(self.now)));
        }
        for next in told {
            *self.moves.entry(next.connection).or_default() += 1;
            let arrived = self.movers.get_mut(&*next.gateway).expect("a gateway");
            arrived.arrived(next.connection, user(next.connection));
            self.at.insert(next.connection, next.gateway.into());
        }
    }

    /// Until nobody is planned and, with `counted`, nobody is beyond its bound. `counted`: loads are told twice a second.
    fn settle(&mut self, counted: bool) {
        for turn in 0..20_000 {
            if self.is_settled(counted) {
                return;
            }
            if counted && turn % 50 == 0 {
                self.count();
            }
            self.step();
        }
        panic!("clients are sent to and fro");
    }
}

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn everybody_comes_home(masks in prop::collection::vec(1u8..64, 1..5), clients in 1usize..400) {
        let mut cluster = Cluster::new(&NAMES, clients);
        let mut last = ring(1, &NAMES);
        for (at, mask) in masks.iter().enumerate() {
            let names: Vec<&str> = (0..6).filter(|bit| mask & (1 << bit) != 0).map(|bit| NAMES[bit]).collect();
            last = ring(at as u64 + 1, &names);
            cluster.publish(&last);
            // The next change comes in the middle of this one's moves.
            (0..3).for_each(|_| cluster.step());
        }
        cluster.settle(false);
        for (client, gateway) in &cluster.at {
            let is_member = last.member(gateway).is_some();
            let home = &last.place(user(*client)).expect("somebody").gateway;
            prop_assert!(!is_member || **home == **gateway, "client {client} is at {gateway}, not {home}");
        }
    }

    #[test]
    fn nobody_stays_over_its_bound_and_nobody_is_sent_to_and_fro(count in 2usize..=6, clients in 60usize..600) {
        let mut cluster = Cluster::new(&NAMES[..count], clients);
        // All on one: the worst that a start can be.
        cluster.at.values_mut().for_each(|at| *at = "a".to_owned());
        cluster.count();
        let ring = ring(1, &NAMES[..count]);
        cluster.publish(&ring);
        cluster.settle(true);
        let loads = cluster.loads();
        for member in ring.members() {
            let bound = ring.bound(member, clients as u64);
            prop_assert!(loads.of(&member.gateway) <= bound, "{:?} over {bound}: {loads:?}", member.gateway);
        }
        let most = cluster.moves.values().copied().max().unwrap_or(0);
        prop_assert!(most <= 2, "one client moved {most} times");
    }
}
