//! Who is connected where.

use super::fixtures::{connection, gateway, live, offline, online, uid};
use super::{CacheFactory, write};
use crate::ports::cache::{CONNECTIONS_PER_USER_MAX, Cache, Fact, Live};

const GW: (&str, u64) = ("gw-1", 7);
const OTHER: (&str, u64) = ("gw-2", 1);

fn ids<F: CacheFactory>(factory: &mut F, cache: &F::Cache, name: &str, live: &Live) -> Vec<String> {
    let users = [uid(name)];
    let found = factory.wait(cache.routes_of(&users, live)).remove(0).expect("known");
    let mut ids: Vec<String> = found.into_iter().map(|c| format!("{}/{}", c.at.gateway, c.id)).collect();
    ids.sort();
    ids
}

fn counts<F: CacheFactory>(factory: &mut F, cache: &F::Cache, gateways: &[(&str, u64)]) -> Vec<u64> {
    let gateways: Vec<_> = gateways.iter().map(|(name, number)| gateway(name, *number)).collect();
    factory.wait(cache.route_counts(&gateways)).into_iter().map(|count| count.expect("known")).collect()
}

pub fn connections_are_found_by_user<F: CacheFactory>(factory: &mut F) {
    let cache = factory.open();
    write(factory, &cache, vec![online("ann", GW, "1"), online("bob", GW, "2"), online("ann", OTHER, "3")]);
    let (users, live) = ([uid("ann"), uid("nobody"), uid("bob")], live(&[GW, OTHER]));
    let mut found = factory.wait(cache.routes_of(&users, &live));
    found.iter_mut().flatten().for_each(|connections| connections.sort_by(|a, b| a.id.cmp(&b.id)));
    let (ann, bob) = (vec![connection(GW, "1"), connection(OTHER, "3")], vec![connection(GW, "2")]);
    assert_eq!(found, [Some(ann), Some(Vec::new()), Some(bob)]);
    assert_eq!(counts(factory, &cache, &[GW, OTHER, ("gw-3", 1)]), [2, 1, 0]);
    // Told again, it stands once.
    write(factory, &cache, vec![online("ann", GW, "1")]);
    assert_eq!(ids(factory, &cache, "ann", &live), ["gw-1/1", "gw-2/3"]);
    assert_eq!(counts(factory, &cache, &[GW]), [2]);
}

pub fn a_connection_goes_only_if_it_still_matches<F: CacheFactory>(factory: &mut F) {
    let cache = factory.open();
    let live = live(&[GW, OTHER]);
    write(factory, &cache, vec![online("ann", GW, "1"), online("ann", GW, "11"), online("bob", GW, "1")]);
    let strangers = [offline("ann", ("gw-1", 6), "1"), offline("ann", OTHER, "1"), offline("ann", GW, "2")];
    write(factory, &cache, strangers.into());
    assert_eq!(ids(factory, &cache, "ann", &live), ["gw-1/1", "gw-1/11"]);
    write(factory, &cache, vec![offline("ann", GW, "1"), offline("ann", GW, "1")]);
    assert_eq!(ids(factory, &cache, "ann", &live), ["gw-1/11"]);
    assert_eq!(ids(factory, &cache, "bob", &live), ["gw-1/1"]);
    assert_eq!(counts(factory, &cache, &[GW]), [2]);
    write(factory, &cache, vec![offline("ann", GW, "11"), offline("bob", GW, "1")]);
    assert_eq!(ids(factory, &cache, "ann", &live), [""; 0]);
    assert_eq!(counts(factory, &cache, &[GW]), [0]);
}

pub fn routes_of_a_dead_incarnation_are_void<F: CacheFactory>(factory: &mut F) {
    let cache = factory.open();
    write(factory, &cache, vec![online("ann", GW, "1"), online("ann", ("gw-1", 8), "2")]);
    assert_eq!(ids(factory, &cache, "ann", &live(&[("gw-1", 8)])), ["gw-1/2"]);
    write(factory, &cache, vec![Fact::Void(gateway("gw-1", 8))]);
    assert_eq!(counts(factory, &cache, &[("gw-1", 8)]), [0]);
    assert_eq!(ids(factory, &cache, "ann", &live(&[])), [""; 0]);
}

pub fn a_sweep_removes_what_is_void_and_nothing_else<F: CacheFactory>(factory: &mut F) {
    let cache = factory.open();
    let unknown = ("gw-3", 1);
    let facts = (0..50).flat_map(|n| {
        let name = format!("user{n}");
        [
            online(&name, GW, "old"),
            online(&name, ("gw-1", 8), "new"),
            online(&name, OTHER, "dead"),
            online(&name, unknown, "late"),
        ]
    });
    write(factory, &cache, facts.collect());
    write(factory, &cache, vec![Fact::Void(gateway("gw-2", 1))]);
    let now = live(&[("gw-1", 8)]);
    let mut removed = 0;
    loop {
        let sweep = factory.wait(cache.sweep(&now));
        removed += sweep.removed;
        if sweep.done {
            break;
        }
    }
    assert_eq!(removed, 100, "the older incarnation's and the voided one's");
    let all = live(&[GW, ("gw-1", 8), OTHER, unknown]);
    assert_eq!(counts(factory, &cache, &[GW, OTHER, ("gw-1", 8), unknown]), [0, 0, 50, 50]);
    let left = ids(factory, &cache, "user7", &all);
    assert_eq!(left, ["gw-1/new", "gw-3/late"], "a gateway that the registry is late with keeps its routes");
}

pub fn a_user_has_a_bounded_number_of_connections<F: CacheFactory>(factory: &mut F) {
    let cache = factory.open();
    let most = CONNECTIONS_PER_USER_MAX;
    write(factory, &cache, (0..most + 3).map(|n| online("ann", GW, &format!("{n:03}"))).collect());
    let left = ids(factory, &cache, "ann", &live(&[GW]));
    assert_eq!((left.len(), left[0].as_str()), (most, "gw-1/003"));
    assert_eq!(counts(factory, &cache, &[GW]), [most as u64]);
}

pub fn users_do_not_mix<F: CacheFactory>(factory: &mut F) {
    let cache = factory.open();
    let names: Vec<String> = (0..500).map(|n| format!("u{n}")).collect();
    write(factory, &cache, names.iter().map(|name| online(name, GW, &format!("of-{name}"))).collect());
    let (users, live) = (names.iter().map(|name| uid(name)).collect::<Vec<_>>(), live(&[GW]));
    let found = factory.wait(cache.routes_of(&users, &live));
    for (name, routes) in names.iter().zip(found) {
        let ids: Vec<String> = routes.expect("known").iter().map(|route| route.id.to_string()).collect();
        assert_eq!(ids, [format!("of-{name}")]);
    }
    assert_eq!(counts(factory, &cache, &[GW]), [500]);
}

pub fn routes_written_again_after_a_flush_are_found<F: CacheFactory>(factory: &mut F) {
    let cache = factory.open();
    write(factory, &cache, vec![online("ann", GW, "1")]);
    factory.flush(&cache);
    assert_eq!(ids(factory, &cache, "ann", &live(&[GW])), [""; 0]);
    // One that is not there may go, and does not make the count negative.
    write(factory, &cache, vec![offline("ann", GW, "1"), online("ann", GW, "2")]);
    assert_eq!(ids(factory, &cache, "ann", &live(&[GW])), ["gw-1/2"]);
    assert_eq!(counts(factory, &cache, &[GW]), [1]);
}
