//! The endpoint ring at one shard: who is let go, whereto, how fast, and who stays.

mod shard_world;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use shard_world::{Client, READS, World, batch, member};
use tidegate_gateway_core::messages::ToHub;
use tidegate_gateway_core::shard::{Promoted, ShardConfig, ShardInput};
use tidegate_gateway_core::ws::close::CloseCode;
use tidegate_ring::{Member, Ring, UserHash, Version};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

fn url(name: &str) -> String {
    format!("wss://{name}.example.com/api/v1/ws")
}

fn ring(version: u64, names: &[&str]) -> Arc<Ring> {
    let member = |name: &&str| Member { gateway: (*name).into(), url: url(name).into(), weight: 1 };
    let members = names.iter().map(member).collect();
    Arc::new(Ring::with(Version(version), Default::default(), members).expect("a ring"))
}

/// The shard of gateway `a`.
fn world(moves_per_s: u32) -> World {
    let config = ShardConfig { connections_max: 10_000, gateway: "a".into(), moves_per_s, ..ShardConfig::default() };
    World::new(config, 7)
}

fn hear(world: &mut World, ring: &Arc<Ring>) {
    world.mail.inbox.push_back(ShardInput::Ring(Arc::clone(ring)));
}

fn place(ring: &Ring, uid: &str) -> String {
    ring.place(UserHash::of(uid)).expect("somebody").gateway.to_string()
}

/// Code and endpoint of the `bye` that ended the connection.
fn bye(world: &World, client: Client) -> Option<(u64, String)> {
    let texts = world.texts(client.socket);
    let mut frames = texts.iter().rev().filter_map(|text| serde_json::from_str::<serde_json::Value>(text).ok());
    let bye = frames.find(|frame| !frame["bye"].is_null())?;
    let (bye, endpoint) = (&bye["bye"], &bye["bye"]["endpoint"]);
    assert_eq!(bye["reconnect"], true, "{bye}");
    assert!(bye["reconnect_after_ms"].as_u64().is_some_and(|ms| ms <= 2_000), "{bye}");
    Some((bye["code"].as_u64().expect("a code"), endpoint.as_str().unwrap_or_default().to_owned()))
}

fn moved(world: &World) -> u64 {
    world.stats().closes.with(CloseCode::Moved)
}

#[test]
fn those_whose_place_moved_are_told_where_it_is_and_the_others_stay() {
    let mut world = world(10_000);
    let clients: Vec<(String, Client)> =
        (0..1_500).map(|n| format!("u{n}")).map(|u| (u.clone(), world.connect(&u))).collect();
    let echo = world.echo(READS);
    hear(&mut world, &ring(1, &["a"]));
    world.pass(Duration::from_secs(1));
    assert_eq!((moved(&world), world.stats().ring_version.value()), (0, 1));
    let next = ring(2, &["a", "b", "c"]);
    hear(&mut world, &next);
    world.pass(Duration::from_secs(2));
    let mut gone = 0;
    for (uid, client) in &clients {
        let expected = place(&next, uid);
        let told = (expected != "a").then(|| (3002, url(&expected)));
        assert_eq!(bye(&world, *client), told, "{uid}");
        gone += u64::from(told.is_some());
    }
    assert_eq!((moved(&world), world.stats().moves_pending.value()), (gone, 0));
    assert!(gone > 500 && !world.over(echo));
}

#[test]
fn they_go_at_most_at_the_rate_and_the_rest_is_pending() {
    let mut world = world(20);
    for n in 0..300 {
        world.connect(&format!("u{n}"));
    }
    hear(&mut world, &ring(1, &["b", "a"]));
    world.pass(Duration::from_millis(125));
    let planned = world.stats().moves_pending.value() + moved(&world);
    for seconds in 1..=4u64 {
        world.pass(Duration::from_secs(1));
        let gone = moved(&world);
        assert!(gone <= 20 * seconds + 6 && gone >= 20 * seconds - 4, "{gone} in {seconds} s");
        assert_eq!(gone + world.stats().moves_pending.value(), planned);
    }
}

#[test]
fn a_shard_looks_at_its_connections_in_slices() {
    let mut world = world(1);
    let clients: Vec<Client> = (0..2_000).map(|n| world.connect(&format!("u{n}"))).collect();
    let next = ring(2, &["a", "b"]);
    let stays = (0..2_000).find(|n| place(&next, &format!("u{n}")) == "a").expect("somebody stays");
    world.hub(member(clients[stays], 1, 0));
    world.ticks(3);
    hear(&mut world, &ring(1, &["b", "c"]));
    hear(&mut world, &next);
    world.tick();
    let first = world.stats().moves_pending.value();
    assert!(first > 0 && first < 512, "{first} of the first slice");
    world.hub(batch(1, 0, 10));
    world.ticks(2);
    let delivered = world.texts(clients[stays].socket).iter().any(|text| text.starts_with("L 1 0"));
    assert!(delivered, "a delivery does not wait until everybody was looked at");
    world.ticks(4);
    assert!(world.stats().moves_pending.value() > 3 * first);
}

#[test]
fn who_lands_on_the_wrong_gateway_is_kept_for_its_turn_and_then_moved_once() {
    let mut world = world(10_000);
    let ring = ring(1, &["a", "b"]);
    hear(&mut world, &ring);
    world.ticks(2);
    let (home, wrong) = ("a", "b");
    let uid_at = |at: &str| (0..).map(|n| format!("u{n}")).find(|uid| place(&ring, uid) == at).expect("somebody");
    let (at_home, elsewhere) = (world.connect(&uid_at(home)), world.connect(&uid_at(wrong)));
    world.pass(Duration::from_secs(1));
    assert_eq!((bye(&world, at_home), bye(&world, elsewhere)), (None, Some((3002, url(wrong)))));
    assert!(world.said().iter().any(|item| matches!(item, ToHub::Disconnected { .. })), "control hears of its end");
    let back = world.connect(&uid_at(wrong));
    world.pass(Duration::from_secs(5));
    assert_eq!(bye(&world, back), None, "it would be sent to and fro for ever");
    // The ring changed: its place may be where it can go.
    hear(&mut world, &self::ring(2, &["a", "b", "c"]));
    world.pass(Duration::from_secs(5));
    let told = bye(&world, back).expect("it is told");
    assert_eq!(told, (3002, url(&place(&self::ring(2, &["a", "b", "c"]), &uid_at(wrong)))));
}

#[test]
fn a_second_change_replaces_the_plan_and_nobody_is_sent_to_who_has_gone() {
    let mut world = world(50);
    let clients: Vec<(String, Client)> =
        (0..400).map(|n| format!("u{n}")).map(|u| (u.clone(), world.connect(&u))).collect();
    hear(&mut world, &ring(1, &["a", "b", "c"]));
    world.pass(Duration::from_secs(1));
    let early: BTreeSet<u32> =
        clients.iter().filter(|(_, client)| bye(&world, *client).is_some()).map(|(_, client)| client.socket).collect();
    assert!(early.len() > 20, "some have gone by the first plan");
    let last = ring(2, &["a", "d"]);
    hear(&mut world, &last);
    world.pass(Duration::from_secs(20));
    for (uid, client) in clients.iter().filter(|(_, client)| !early.contains(&client.socket)) {
        let told = (place(&last, uid) == "d").then(|| (3002, url("d")));
        assert_eq!(bye(&world, *client), told, "{uid}");
    }
}

#[test]
fn a_drain_names_the_place_that_each_has_without_this_gateway() {
    for moves_per_s in [0, 100] {
        let mut world = world(moves_per_s);
        let clients: Vec<(String, Client)> =
            (0..50).map(|n| format!("u{n}")).map(|u| (u.clone(), world.connect(&u))).collect();
        hear(&mut world, &ring(1, &["a", "b", "c"]));
        world.mail.inbox.push_back(ShardInput::Drain { over_ms: 10_000 });
        world.pass(Duration::from_secs(3));
        // Meanwhile one more has gone, and so have we.
        hear(&mut world, &ring(2, &["c"]));
        let told_b = clients.iter().filter(|(_, client)| bye(&world, *client) == Some((3001, url("b")))).count();
        let early = clients.iter().filter(|(_, client)| bye(&world, *client).is_some()).count();
        world.pass(Duration::from_secs(8));
        let without = ring(1, &["b", "c"]);
        for (at, (uid, client)) in clients.iter().enumerate() {
            let (code, endpoint) = bye(&world, *client).expect("everybody is let go");
            let expected = if at < early { place(&without, uid) } else { "c".to_owned() };
            assert_eq!((code, endpoint), (3001, url(&expected)), "{uid}");
        }
        assert!(told_b > 0 && early < 30, "{told_b} of {early}");
        assert_eq!(moved(&world), 0, "a drain moves everybody already");
        let newcomer = world.socket(READS);
        let hello = Box::new(world.hello("late"));
        world.promote(newcomer, b"", Promoted::Client { hello, params: None });
        world.ticks(3);
        assert!(world.texts(newcomer)[0].contains(&url("c")));
    }
}

#[test]
fn without_a_rate_and_without_a_ring_nobody_is_moved_nor_told_a_place() {
    let mut world = world(0);
    let clients: Vec<Client> = (0..50).map(|n| world.connect(&format!("u{n}"))).collect();
    hear(&mut world, &ring(1, &["b", "a"]));
    world.pass(Duration::from_secs(5));
    assert_eq!((moved(&world), world.stats().moves_pending.value()), (0, 0));
    let mut alone = self::world(100);
    let client = alone.connect("alice");
    alone.mail.inbox.push_back(ShardInput::Drain { over_ms: 0 });
    alone.pass(Duration::from_secs(1));
    assert_eq!(bye(&alone, client), Some((3001, String::new())));
    assert!(clients.iter().all(|client| bye(&world, *client).is_none()));
}

#[derive(Clone, Debug)]
enum Step {
    Ring(u8),
    Connect(u8),
    Leave(u8),
    Pass(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => (1u8..16).prop_map(Step::Ring),
        4 => any::<u8>().prop_map(Step::Connect),
        2 => any::<u8>().prop_map(Step::Leave),
        3 => (1u8..8).prop_map(Step::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever comes in whatever order: who is let go is told its place of the ring that is in force then, and no more go
    /// than the rate allows; once there is peace, everybody is at home or was told before.
    #[test]
    fn everybody_is_at_home_or_on_its_way(steps in prop::collection::vec(step(), 1..80)) {
        const RATE: u64 = 16;
        let mut world = world(RATE as u32);
        let mut now: Option<Arc<Ring>> = None;
        let mut version = 0;
        let mut here: Vec<(String, Client)> = Vec::new();
        let mut told: BTreeSet<String> = BTreeSet::new();
        let mut seconds = 0.0;
        for step in steps.into_iter().chain([Step::Pass(255)]) {
            match step {
                Step::Ring(mask) => {
                    version += 1;
                    let names: Vec<&str> = (0..4).filter(|bit| mask & (1 << bit) != 0).map(|bit| NAMES[bit]).collect();
                    let next = ring(version, &names);
                    hear(&mut world, &next);
                    world.ticks(1);
                    now = Some(next);
                    told.clear();
                }
                Step::Connect(n) => {
                    let uid = format!("u{n}");
                    let client = world.connect(&uid);
                    here.push((uid, client));
                }
                Step::Leave(n) if !here.is_empty() => {
                    let (_, client) = here.swap_remove(usize::from(n) % here.len());
                    world.client_sends(client.socket, b"");
                }
                Step::Leave(_) => {}
                Step::Pass(eighths) => {
                    seconds += f64::from(eighths) / 8.0;
                    world.pass(Duration::from_millis(125 * u64::from(eighths)));
                }
            }
            let mut stay = Vec::new();
            for (uid, client) in here.drain(..) {
                match bye(&world, client) {
                    None => stay.push((uid, client)),
                    Some((code, endpoint)) => {
                        let place = place(now.as_ref().expect("a ring"), &uid);
                        prop_assert!(place != "a", "{} is at home", uid);
                        prop_assert_eq!((code, endpoint), (3002, url(&place)));
                        told.insert(uid);
                    }
                }
            }
            here = stay;
            let allowed = (seconds * RATE as f64) as u64 + RATE / 8 + 2;
            prop_assert!(moved(&world) <= allowed, "{} of {allowed}", moved(&world));
        }
        let Some(ring) = now.filter(|ring| ring.member("a").is_some()) else { return Ok(()) };
        for (uid, _) in &here {
            prop_assert!(place(&ring, uid) == "a" || told.contains(uid), "{uid} is still here");
        }
        prop_assert_eq!(world.stats().moves_pending.value(), 0);
    }
}
