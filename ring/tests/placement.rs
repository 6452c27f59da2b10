//! What the ring promises, whoever its members are.

use std::collections::BTreeMap;

use proptest::prelude::*;
use tidegate_ring::{Layout, LoadFactor, Loads, Member, Ring, RingError, UserHash, Version};

fn member(name: &str, weight: u16) -> Member {
    Member { gateway: name.into(), url: format!("wss://{name}.example.com/api/v1/ws").into(), weight }
}

fn members(count: usize) -> Vec<Member> {
    (0..count).map(|at| member(&format!("gw-{at}"), 1)).collect()
}

fn ring(members: Vec<Member>) -> Ring {
    Ring::new(members).expect("a ring")
}

fn users(count: usize) -> Vec<UserHash> {
    (0..count).map(|at| UserHash::of(&format!("user-{at}"))).collect()
}

fn place(ring: &Ring, user: UserHash) -> &str {
    &ring.place(user).expect("somebody").gateway
}

fn shares(ring: &Ring, users: &[UserHash]) -> BTreeMap<String, f64> {
    let mut counts: BTreeMap<String, f64> = BTreeMap::new();
    for user in users {
        *counts.entry(place(ring, *user).to_owned()).or_default() += 1.0 / users.len() as f64;
    }
    counts
}

/// Everybody connects, one after the other, each with the loads of its moment.
fn fill(ring: &Ring, users: &[UserHash]) -> Loads {
    let mut loads = Loads::default();
    for user in users {
        let gateway = ring.place_within(*user, &loads).expect("somebody").gateway.clone();
        loads.came(&gateway);
    }
    loads
}

/// Members with other names and weights each time.
fn any_members() -> impl Strategy<Value = Vec<Member>> {
    prop::collection::btree_map("[a-z0-9_.@-]{1,12}", 1u16..=5, 1..12)
        .prop_map(|rows| rows.iter().map(|(name, weight)| member(name, *weight)).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_order_of_members_does_not_matter(
        (members, shuffled) in any_members().prop_flat_map(|m| (Just(m.clone()), Just(m).prop_shuffle()))
    ) {
        prop_assert_eq!(ring(members), ring(shuffled));
    }

    #[test]
    fn who_comes_takes_and_nobody_else_moves(members in any_members(), weight in 1u16..=5) {
        let before = ring(members.clone());
        // No other name has capitals.
        let with = members.into_iter().chain([member("NEWCOMER", weight)]);
        let after = ring(with.collect());
        for (_, _, to) in before.moved(&after, users(500)) {
            prop_assert_eq!(&*to.expect("somebody").gateway, "NEWCOMER");
        }
    }

    #[test]
    fn who_goes_gives_and_nobody_else_moves(members in any_members(), which in any::<prop::sample::Index>()) {
        let before = ring(members.clone());
        let gone = members[which.index(members.len())].gateway.clone();
        let after = ring(members.into_iter().filter(|m| m.gateway != gone).collect());
        for (_, from, _) in before.moved(&after, users(500)) {
            prop_assert_eq!(&from.expect("somebody").gateway, &gone);
        }
    }

    #[test]
    fn two_changes_at_once_are_the_two_in_either_order(members in any_members(), which in any::<prop::sample::Index>()) {
        let gone = members[which.index(members.len())].gateway.clone();
        let comes = |members: Vec<Member>| members.into_iter().chain([member("NEW", 2)]).collect::<Vec<_>>();
        let goes = |members: Vec<Member>| members.into_iter().filter(|m| m.gateway != gone).collect::<Vec<_>>();
        let start = ring(members.clone());
        let step = |from: &Ring, members| from.succeeded_by(members).expect("a ring").expect("another");
        let one = step(&step(&start, comes(members.clone())), goes(comes(members.clone())));
        let other = step(&step(&start, goes(members.clone())), comes(goes(members.clone())));
        let both = step(&start, goes(comes(members.clone())));
        prop_assert_eq!(&one, &other);
        for user in users(300) {
            prop_assert_eq!(place(&one, user), place(&both, user));
        }
    }

    #[test]
    fn nobody_gets_more_than_the_bound(members in any_members(), factor in 1_010u32..3_000, count in 1usize..1_500) {
        let layout = Layout { load_factor: LoadFactor(factor), ..Layout::default() };
        let ring = Ring::with(Version(1), layout, members).expect("a ring");
        let loads = fill(&ring, &users(count));
        let weights: u32 = ring.members().iter().map(|m| u32::from(m.weight)).sum();
        for member in ring.members() {
            let even = count as f64 * f64::from(member.weight) / f64::from(weights);
            let most = (even * f64::from(factor) / 1_000.0 - 1e-6).ceil();
            prop_assert!(loads.of(&member.gateway) as f64 <= most, "{} > {most}", loads.of(&member.gateway));
        }
    }

    #[test]
    fn a_user_is_at_its_own_place_while_that_has_room(members in any_members()) {
        let ring = ring(members);
        let loads = fill(&ring, &users(100));
        let total: u64 = ring.members().iter().map(|m| loads.of(&m.gateway)).sum();
        for user in users(200) {
            let own = ring.place(user).expect("somebody");
            let given = ring.place_within(user, &loads).expect("somebody");
            prop_assert_eq!(own == given, loads.of(&own.gateway) < ring.bound(own, total + 1));
        }
    }
}

#[test]
fn a_newcomer_takes_about_its_share() {
    let users = users(50_000);
    for count in [2, 5, 10, 30] {
        let (before, after) = (ring(members(count)), ring(members(count + 1)));
        let moved = before.moved(&after, users.iter().copied()).count() as f64 / users.len() as f64;
        let share = 1.0 / (count + 1) as f64;
        assert!((0.6 * share..1.4 * share).contains(&moved), "{moved} of users moved to one of {}", count + 1);
    }
}

#[test]
fn weights_are_shares() {
    let ring = ring(vec![member("small", 1), member("middle", 2), member("large", 5)]);
    let shares = shares(&ring, &users(50_000));
    for (name, weight) in [("small", 1.0), ("middle", 2.0), ("large", 5.0)] {
        let fair = weight / 8.0;
        assert!((0.75 * fair..1.25 * fair).contains(&shares[name]), "{name} has {} of {fair}", shares[name]);
    }
}

/// A user's place may not change with a new version of this program while a cluster is upgraded.
#[test]
fn places_stay_what_they_are() {
    let ring = ring(members(5));
    let places: Vec<&str> = ["alice", "bob", "carol", "dave", "57098049"].map(|uid| place(&ring, uid.into())).into();
    assert_eq!(places, PLACES);
}

const PLACES: [&str; 5] = ["gw-3", "gw-3", "gw-4", "gw-1", "gw-0"];

#[test]
fn an_empty_ring_places_nobody_and_can_be_succeeded() {
    let empty = ring(Vec::new());
    assert_eq!(empty.place("alice".into()), None);
    assert_eq!(empty.place_within("alice".into(), &Loads::default()), None);
    let next = empty.succeeded_by(members(1)).expect("a ring").expect("another");
    assert_eq!((next.version(), place(&next, "alice".into())), (Version(2), "gw-0"));
    assert_eq!(next.succeeded_by(members(1)), Ok(None), "nothing changed");
}

#[test]
fn what_makes_no_ring_is_named() {
    let url = |url: &str| Member { url: url.into(), ..member("a", 1) };
    for (members, error) in [
        (vec![member("a", 1), member("a", 2)], RingError::Twice("a".into())),
        (vec![member("a b", 1)], RingError::BadName("a b".into())),
        (vec![member("", 1)], RingError::BadName("".into())),
        (vec![member("a", 0)], RingError::BadWeight("a".into())),
        (vec![member("a", 101)], RingError::BadWeight("a".into())),
        (vec![url("http://a")], RingError::BadUrl("a".into())),
        (vec![url("wss://")], RingError::BadUrl("a".into())),
        (vec![url("wss://a\r\nb")], RingError::BadUrl("a".into())),
        (members(1_025), RingError::TooManyMembers(1_025)),
        ((0..1_000).map(|at| member(&at.to_string(), 100)).collect(), RingError::TooManyPoints(16_000_000)),
    ] {
        assert_eq!(Ring::new(members), Err(error));
    }
}
