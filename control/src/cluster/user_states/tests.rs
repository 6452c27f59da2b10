use std::sync::Arc;
use std::sync::atomic::Ordering;

use tidegate_bus::port::Bus as _;
use tidegate_bus::topics::PUSH_GROUP;
use tidegate_proto::v1::{LinkConnection, LinkPresence};

use super::*;
use crate::cluster::bench::{Bench, ToldRoutes, until};
use crate::cluster::routes::Routes;
use crate::presence::Presence;

const TOPIC: &str = "user_state";

fn connection(uid: &str, id: &str) -> LinkConnection {
    let (device, platform) = ("phone".to_owned(), "ios".to_owned());
    let (uid, connection_id, reason) = (uid.to_owned(), id.to_owned(), "eof".to_owned());
    LinkConnection { uid, device, platform, connection_id, reason }
}

fn online(uid: &str, id: &str) -> LinkPresence {
    LinkPresence { online: vec![connection(uid, id)], ..Default::default() }
}

fn offline(uid: &str, id: &str) -> LinkPresence {
    LinkPresence { offline: vec![connection(uid, id)], ..Default::default() }
}

fn begin(bench: &Bench, room: usize) -> UserStates {
    let metrics = bench.metrics.clone();
    UserStates::with_room(room, bench.bus.publisher(), TOPIC.to_owned(), Format::Json, metrics).0
}

async fn told(bench: &Bench) -> Vec<UserState> {
    let mut states: Vec<UserState> = bench.decoded(TOPIC).await;
    states.sort_by(|one, other| (&one.user_id, one.timestamp).cmp(&(&other.user_id, other.timestamp)));
    states
}

#[tokio::test]
async fn who_comes_and_goes_is_told_by_uid_with_all_that_is_known() {
    let bench = Bench::new().await;
    let (states, presence) = (begin(&bench, 100), Presence::default());
    let (gateway, _) = presence.attach("gw-1/7", 42);
    for told in [online("ann", "c1"), online("ann", "c1"), offline("ann", "c1"), online("bob", "c2")] {
        states.tell(presence.apply(&gateway, told));
    }
    // The gateway dies: what it held goes with it.
    presence.detach(&gateway);
    states.tell(presence.forget(&gateway));
    until("all are told", || bench.bus.publisher().stats().acked == 4).await;
    for record in bench.all(TOPIC).await {
        let state = UserState::decode(&record.value).expect("a state");
        assert_eq!(record.key.as_deref(), Some(state.user_id.as_bytes()));
    }
    let said: Vec<(String, bool, String)> =
        told(&bench).await.into_iter().map(|state| (state.user_id, state.online, state.reason)).collect();
    let expected =
        [("ann", true, "connected"), ("ann", false, "eof"), ("bob", true, "connected"), ("bob", false, "gateway_lost")];
    assert_eq!(said, expected.map(|(uid, online, reason)| (uid.to_owned(), online, reason.to_owned())));
    let gone = told(&bench).await.remove(3);
    assert_eq!((&*gone.gateway_id, &*gone.connection_id, &*gone.incarnation), ("gw-1", "c2", "42"));
    assert_eq!((&*gone.device_id, &*gone.platform), ("phone", "ios"));
    assert!(gone.timestamp > 1_700_000_000_000);
}

#[tokio::test]
async fn while_the_bus_is_away_states_wait_and_beyond_the_bound_they_are_counted() {
    let bench = Bench::new().await;
    let (states, presence) = (begin(&bench, 3), Presence::default());
    let (gateway, _) = presence.attach("gw-1/7", 42);
    bench.bus.hold();
    states.tell(presence.apply(&gateway, online("u0", "c0")));
    until("the first is on its way", || bench.bus.publisher().stats().buffered_records == 1).await;
    for at in 1..6 {
        states.tell(presence.apply(&gateway, online(&format!("u{at}"), &format!("c{at}"))));
    }
    assert_eq!(bench.metrics.states_dropped.get(), 2);
    bench.bus.release();
    until("the others are told", || bench.bus.publisher().stats().acked == 4).await;
    assert_eq!(told(&bench).await.len(), 4);
}

#[tokio::test]
async fn the_group_follows_and_repeats_poison_and_outages_do_no_harm() {
    let bench = Bench::new().await;
    let routes = ToldRoutes::of(&[]);
    let state = |uid: &str, online: bool| {
        let (user_id, connection_id) = (uid.to_owned(), "c1".to_owned());
        UserState { user_id, connection_id, online, ..UserState::default() }.encode(Format::Json)
    };
    routes.away.store(true, Ordering::Relaxed);
    for value in [state("ann", true), state("ann", false), state("ann", false)] {
        bench.publish(TOPIC, value).await;
    }
    bench.publish(TOPIC, &b"nonsense"[..]).await;
    bench.publish(TOPIC, state("no uid", true)).await;
    let handler = StateHandler { routes: Arc::clone(&routes) as Arc<dyn Routes>, metrics: bench.metrics.clone() };
    let (running, counters) = bench.consume(PUSH_GROUP, TOPIC, Arc::new(handler));
    until("it waits for the routes", || counters.stats().dependency_failures > 3).await;
    routes.away.store(false, Ordering::Relaxed);
    bench.until_handled(PUSH_GROUP, TOPIC).await;
    running.abort();
    assert_eq!(*routes.gone.lock().expect("a lock"), ["c1", "c1"]);
    assert_eq!(counters.stats().dead_letters_by_class, [1, 1, 0]);
    assert_eq!((bench.metrics.count("user_state", "done"), bench.metrics.count("user_state", "nothing")), (2, 1));
}
