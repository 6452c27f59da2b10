//! The whole way over a real Kafka: from the log to the history and to those who are away. No server is a failure, never a
//! reason to skip.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use tidegate_bus::history::{self, Query};
use tidegate_bus::kafka::KafkaBus;
use tidegate_bus::port::Bus;
use tidegate_bus::records::{Downstream, TaskKey};
use tidegate_bus::settings::Settings;
use tidegate_bus::topics::Topics;
use tidegate_control_core::domain::Timestamp;
use tidegate_control_core::ports::StoreReader;
use tokio::sync::watch;
use xtask::servers::{self, Server};

use super::*;
use crate::cluster::bench::{MemoryPlaces, ORIGIN, with_body};
use crate::cluster::consumers::Membership;
use crate::cluster::ingress::wall_clock_ms;
use crate::cluster::outbox::away::AwayParts;
use crate::cluster::outbox::history::History;
use crate::cluster::outbox::places::Places;
use crate::cluster::outbox::{Relay, Teller};
use crate::cluster::routes::Routes;
use crate::cluster::tasks::outlet::TaskOutlet;
use crate::cluster::user_states::{StateHandler, UserStates};
use crate::presence::Presence;

/// Topics of this run.
fn settings() -> (Settings, String) {
    let brokers = servers::url(Server::Kafka).expect("a Kafka to test against");
    let now = SystemTime::UNIX_EPOCH.elapsed().expect("a clock after 1970").as_nanos();
    let run = format!("tasks-{}-{now}", std::process::id());
    let mut topics = Topics::default();
    let named =
        [&mut topics.upstream, &mut topics.task, &mut topics.user_state, &mut topics.dead_letter, &mut topics.history];
    for topic in named {
        topic.name = format!("{run}-{}", topic.name);
        topic.partitions = 2;
    }
    let mut settings = Settings { brokers, topics, ..Settings::default() };
    // A rebalance is heard of by a heartbeat, which tests need not wait for.
    settings.consumer.heartbeat_ms = 300;
    settings.dead_letters.backoff_ms = 5;
    (settings, run)
}

fn group_named(run: &str, group: &str) -> &'static str {
    Box::leak(format!("{run}-{group}").into_boxed_str())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_kafka_what_is_committed_reaches_the_history_and_those_who_are_away() {
    let (settings, run) = settings();
    let bus: Arc<dyn Bus> = Arc::new(KafkaBus::new(settings.clone()).expect("a bus"));
    bus.admin().create_missing(&settings.topics.specs()).await.expect("topics");
    let kit = Kit::new(&["m3"]).await;
    let outlet = Arc::new(TaskOutlet {
        publisher: bus.publisher(),
        topic: settings.topics.task.name.clone(),
        key: TaskKey::TypeAndId,
        format: settings.format,
        metrics: kit.bench.metrics.clone(),
    });
    let routes = Arc::clone(&kit.routes) as Arc<dyn Routes>;
    let reader = Arc::clone(&kit.log) as Arc<dyn StoreReader>;
    let places = Arc::new(MemoryPlaces::default());
    let (tasks, age_max) = (Arc::clone(&outlet), Duration::from_secs(600));
    let away = AwayParts { routes: Arc::clone(&routes), tasks, partitions: 1, fanout_above: 5, age_max };
    let topic = settings.topics.history.name.clone();
    let history =
        History { publisher: bus.publisher(), topic, format: settings.format, partitions: 1, counts: Arc::default() };
    let tellers: [Arc<dyn Teller>; 2] = [Arc::new(history), Arc::new(away.of(Arc::clone(&reader)))];
    let mut running: Vec<_> = tellers
        .map(|teller| {
            let (reader, places) = (Arc::clone(&reader), Arc::clone(&places) as Arc<dyn Places>);
            Relay { origin: ORIGIN, reader, places, teller }.spawn()
        })
        .into();
    until("places", || places.at("away").is_some() && places.at("history").is_some()).await;

    let handler = Tasks {
        persist: Persist { pushes: Box::new(kit.path.clone()) },
        fanout: Fanout { reader, routes: Arc::clone(&routes), tasks: outlet },
        push: Push::new(Some(Box::new(kit.service.clone()))),
        metrics: kit.bench.metrics.clone(),
    };
    let states = StateHandler { routes, metrics: kit.bench.metrics.clone() };
    let (stop, stopping) = watch::channel(false);
    let member = |group: &str, topic: &str, handler: Arc<dyn Handler>| Membership {
        bus: Arc::clone(&bus),
        settings: settings.clone(),
        group: group_named(&run, group),
        topic: topic.to_owned(),
        handler,
        stopping: stopping.clone(),
    };
    let (task_member, [works, lag]) = member("tasks", &settings.topics.task.name, Arc::new(handler)).begin();
    let (state_member, [follows, state_lag]) =
        member("push", &settings.topics.user_state.name, Arc::new(states)).begin();
    running.extend([lag, state_lag]);

    // A big group, and an inbox.
    let members: Vec<String> = (0..12).map(|at| format!("m{at:02}")).chain(["m3".to_owned()]).collect();
    let joins = members.iter().zip(1..).map(|(who, seq)| join("go", seq, who, Role::Member));
    kit.log.commit(&std::iter::once(begin_group("go")).chain(joins).collect::<Vec<_>>());
    let fresh = |record| with_body(record, |body| body.ts = Timestamp(wall_clock_ms()));
    kit.log.commit(&[fresh(message("g:go", 14)), fresh(message("u:dan", 1))]);
    bus.publisher()
        .publish(tidegate_bus::port::Outgoing {
            topic: settings.topics.task.name.clone().into(),
            value: (&b"poison"[..]).into(),
            ..Default::default()
        })
        .expect("taken")
        .await
        .expect("placed");
    let expected: BTreeSet<String> =
        (0..12).map(|at| format!("1014:m{at:02}")).chain(["1001:dan".to_owned()]).collect();
    let given = || kit.service.given().into_iter().collect::<BTreeSet<String>>();
    until("everybody who is away is told", || given() == expected).await;
    until("poison is given up", || task_member.counters.stats().dead_letters_by_class == [1, 0, 0]).await;

    // The history by offset, as a reader without a place in it.
    let query = Query {
        topic: &settings.topics.history.name,
        key: b"g:go",
        partition: None,
        since_ms: 0,
        scan_max: 10_000,
        found_max: 10_000,
    };
    let range = history::read(&*bus, &query, None).await.expect("the history");
    let told: Vec<u64> =
        range.records.iter().map(|record| Downstream::decode(&record.value).expect("a record").seq).collect();
    assert_eq!(told, (1..=14).collect::<Vec<u64>>());

    // Somebody comes and goes.
    let (states, telling) = UserStates::begin(
        bus.publisher(),
        settings.topics.user_state.name.clone(),
        settings.format,
        kit.bench.metrics.clone(),
    );
    let presence = Presence::default();
    let (gateway, _) = presence.attach("gw/0", 1);
    let connection = || tidegate_proto::v1::LinkConnection {
        uid: "dan".to_owned(),
        connection_id: "c1".to_owned(),
        ..Default::default()
    };
    let (online, offline) = (vec![connection()], vec![connection()]);
    states.tell(presence.apply(&gateway, tidegate_proto::v1::LinkPresence { online, ..Default::default() }));
    states.tell(presence.apply(&gateway, tidegate_proto::v1::LinkPresence { offline, ..Default::default() }));
    until("the group follows", || *kit.routes.gone.lock().expect("a lock") == ["c1"]).await;
    until("the lag is shown and gone", || {
        [&task_member, &state_member].iter().all(|member| {
            let lag = member.lag.lock().expect("a lock");
            lag.len() == 2 && lag.values().all(|behind| *behind == 0)
        })
    })
    .await;
    stop.send_replace(true);
    for ending in [works, follows] {
        ending.await.expect("it leaves its group");
    }
    running.push(telling);
    running.iter().for_each(tokio::task::JoinHandle::abort);
}
