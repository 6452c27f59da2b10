use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::future::ready;
use tidegate_bus::records::{ErrorClass, Format, GroupFanout, OfflinePush, Task, TaskPayload, Upstream, VERSION};
use tidegate_bus::topics::TASK_GROUP;
use tidegate_control_core::contract::store::{begin_group, dismiss_group, join, message};
use tidegate_control_core::domain::{Epoch, ErrorCode, MessageId, Refusal, Role, Seq};
use tidegate_control_core::partition::Reply;

use super::*;
use crate::cluster::bench::{Bench, Log, ToldRoutes, until};
use crate::cluster::tasks::persist::Pushes;
use crate::cluster::tasks::push::PushSink;
use crate::runtime::Answer;

mod kafka;

const TOPIC: &str = "im-task-topic";

/// A push path that knows keys, and refuses what the test says.
#[derive(Clone, Default)]
struct Path(Arc<Mutex<PathState>>);

#[derive(Default)]
struct PathState {
    refusal: Option<ErrorCode>,
    /// Keys, and how often each came.
    came: HashMap<String, usize>,
    texts: Vec<String>,
}

impl Pushes for Path {
    fn push(&self, push: tidegate_control_core::partition::Push) -> BoxFuture<'_, Answer> {
        let mut state = self.0.lock().expect("a lock");
        if let Some(code) = state.refusal {
            return Box::pin(ready(Err(Refusal::new(code, "as the test says"))));
        }
        let key = push.message_id.clone().unwrap_or_else(|| push.client_msg_id.clone());
        let came = state.came.entry(key.to_string()).or_default();
        *came += 1;
        let duplicate = *came > 1;
        state.texts.push(format!("{} {:?}", push.to, push.content));
        let (stream, epoch, seq, id) = (push.to, Epoch(1), Some(Seq(1)), MessageId(1));
        Box::pin(ready(Ok(Reply::Pushed { stream, epoch, seq, id, duplicate, online: None })))
    }
}

/// A push service that remembers what it was given.
#[derive(Clone, Default)]
struct Service(Arc<ServiceState>);

#[derive(Default)]
struct ServiceState {
    given: Mutex<Vec<String>>,
    away: AtomicBool,
    refuses: Mutex<HashSet<String>>,
}

impl Service {
    fn given(&self) -> Vec<String> {
        self.0.given.lock().expect("a lock").clone()
    }
}

impl PushSink for Service {
    fn send<'a>(&'a self, task_id: &'a str, push: &'a OfflinePush) -> BoxFuture<'a, Result<(), Failure>> {
        let result = if self.0.away.load(Ordering::Relaxed) {
            Err(Failure::Dependency("away".to_owned()))
        } else if self.0.refuses.lock().expect("a lock").contains(&push.user_id) {
            Err(Failure::refused("no such device"))
        } else {
            self.0.given.lock().expect("a lock").push(task_id.to_owned());
            Ok(())
        };
        Box::pin(ready(result))
    }
}

struct Kit {
    bench: Bench,
    log: Arc<Log>,
    routes: Arc<ToldRoutes>,
    path: Path,
    service: Service,
}

impl Kit {
    async fn new(online: &[&str]) -> Kit {
        let (path, service) = (Path::default(), Service::default());
        Kit { bench: Bench::new().await, log: Log::new(), routes: ToldRoutes::of(online), path, service }
    }

    fn tasks(&self, sink: Option<Box<dyn PushSink>>) -> Arc<Tasks> {
        Arc::new(Tasks {
            persist: Persist { pushes: Box::new(self.path.clone()) },
            fanout: Fanout {
                reader: Arc::clone(&self.log) as Arc<dyn tidegate_control_core::ports::StoreReader>,
                routes: Arc::clone(&self.routes) as Arc<dyn crate::cluster::routes::Routes>,
                tasks: self.bench.outlet(),
            },
            push: Push::new(sink),
            metrics: self.bench.metrics.clone(),
        })
    }

    fn with_service(&self) -> Arc<Tasks> {
        self.tasks(Some(Box::new(self.service.clone())))
    }

    async fn order(&self, task_id: &str, payload: TaskPayload) {
        let (timestamp, retry_count, version) = (1, 0, VERSION);
        let task =
            Task { task_id: task_id.to_owned(), payload, timestamp, retry_count, version, traceparent: String::new() };
        self.bench.publish(TOPIC, task.encode(Format::Json)).await;
    }

    /// Works off all there is, as one member.
    async fn work(&self, tasks: Arc<Tasks>) -> tidegate_bus::dead_letters::HandlingStats {
        let (running, counters) = self.bench.consume(TASK_GROUP, TOPIC, tasks);
        self.bench.until_handled(TASK_GROUP, TOPIC).await;
        running.abort();
        counters.stats()
    }

    fn count(&self, r#type: &'static str, outcome: &'static str) -> u64 {
        self.bench.metrics.count(r#type, outcome)
    }
}

fn outside(message_id: &str, text: &str) -> TaskPayload {
    let (from_user_id, to_user_id) = ("ann".to_owned(), "bob".to_owned());
    let (message_id, content) = (message_id.to_owned(), text.to_owned());
    TaskPayload::PersistMessage(Box::new(Upstream {
        message_id,
        from_user_id,
        to_user_id,
        content,
        ..Upstream::default()
    }))
}

fn push_to(uid: &str) -> TaskPayload {
    TaskPayload::OfflinePush(OfflinePush {
        user_id: uid.to_owned(),
        message_id: "7".to_owned(),
        ..OfflinePush::default()
    })
}

fn fanout(seq: u64, batch_size: u32, excluded: &[&str]) -> TaskPayload {
    TaskPayload::GroupFanout(GroupFanout {
        group_id: "go".to_owned(),
        message_id: (1000 + seq).to_string(),
        exclude_user_ids: excluded.iter().map(|uid| (*uid).to_owned()).collect(),
        batch_size,
        seq,
        ..GroupFanout::default()
    })
}

/// `go` with these members, and one message behind their joining.
fn group(log: &Log, members: &[String]) -> u64 {
    let joins = members.iter().zip(1..).map(|(who, seq)| join("go", seq, who, Role::Member));
    log.commit(&std::iter::once(begin_group("go")).chain(joins).collect::<Vec<_>>());
    let seq = members.len() as u64 + 1;
    log.commit(&[message("g:go", seq)]);
    seq
}

#[tokio::test]
async fn a_message_from_outside_is_pushed_once_however_often_its_task_comes() {
    let kit = Kit::new(&[]).await;
    for _ in 0..3 {
        kit.order("t1", outside("m1", "hi")).await;
    }
    // Without a key of its own it is known by its task.
    kit.order("t2", outside("", "ho")).await;
    kit.order("t2", outside("", "ho")).await;
    let stats = kit.work(kit.with_service()).await;
    assert_eq!((stats.handled, stats.dead_letters), (5, 0));
    assert_eq!((kit.count("persist_message", "done"), kit.count("persist_message", "repeated")), (2, 3));
    let state = kit.path.0.lock().expect("a lock");
    assert_eq!(state.came, HashMap::from([("m1".to_owned(), 3), ("task:t2".to_owned(), 2)]));
    assert_eq!(state.texts[0], "u:bob Text(\"hi\")");
}

#[tokio::test]
async fn what_is_refused_becomes_a_dead_letter_and_what_cannot_be_now_waits() {
    let kit = Kit::new(&[]).await;
    kit.path.0.lock().expect("a lock").refusal = Some(ErrorCode::Forbidden);
    kit.order("t1", outside("m1", "hi")).await;
    let stats = kit.work(kit.with_service()).await;
    assert_eq!((stats.retries, stats.dead_letters, stats.dead_letters_by_class), (3, 1, [0, 0, 1]));
    let letters = kit.bench.dead_letters().await;
    assert_eq!((letters.len(), letters[0].class, letters[0].attempts), (1, ErrorClass::Refused, 4));
    assert!(letters[0].reason.contains("as the test says"), "{}", letters[0].reason);

    kit.path.0.lock().expect("a lock").refusal = Some(ErrorCode::Unavailable);
    kit.order("t2", outside("m2", "hi")).await;
    let (running, counters) = kit.bench.consume(TASK_GROUP, TOPIC, kit.with_service());
    until("it waits, again and again", || counters.stats().dependency_failures > 5).await;
    kit.path.0.lock().expect("a lock").refusal = None;
    kit.bench.until_handled(TASK_GROUP, TOPIC).await;
    running.abort();
    assert_eq!((counters.stats().retries, kit.bench.dead_letters().await.len()), (0, 1));
    assert_eq!(kit.count("persist_message", "done"), 1);
}

#[tokio::test]
async fn poison_holds_up_nothing_behind_it() {
    let kit = Kit::new(&[]).await;
    kit.bench.publish(TOPIC, &b"{\"task_type\":"[..]).await;
    kit.bench.publish(TOPIC, &br#"{"task_type":"make_tea","task_id":"1","payload":{}}"#[..]).await;
    kit.bench.publish(TOPIC, &br#"{"task_type":"persist_message","task_id":"2","payload":{"content":"hi"}}"#[..]).await;
    kit.order("3", TaskPayload::OfflinePush(OfflinePush::default())).await;
    kit.order("4", TaskPayload::GroupFanout(GroupFanout { group_id: "no such".to_owned(), ..GroupFanout::default() }))
        .await;
    kit.order("5", push_to("bob")).await;
    let stats = kit.work(kit.with_service()).await;
    assert_eq!((stats.handled, stats.dead_letters_by_class), (1, [2, 3, 0]));
    assert_eq!(kit.service.given(), ["5"]);
    assert_eq!(kit.count("unknown", "failed"), 2 * 4);
}

#[tokio::test]
async fn without_a_push_service_tasks_are_counted_and_done() {
    let kit = Kit::new(&[]).await;
    kit.order("1", push_to("bob")).await;
    kit.work(kit.tasks(None)).await;
    assert_eq!(kit.count("offline_push", "nothing"), 1);
}

#[tokio::test]
async fn a_push_that_was_given_and_not_committed_is_given_again_under_the_same_id() {
    let kit = Kit::new(&[]).await;
    kit.order("1", push_to("bob")).await;
    kit.order("1", push_to("bob")).await;
    let first = kit.with_service();
    // Handled without a consumer: as if it had died before its commit.
    let record = kit.bench.all(TOPIC).await.remove(0);
    first.handle(&record).await.expect("given");
    assert_eq!(kit.bench.lag(TASK_GROUP, TOPIC).await, 2);
    drop(first);
    let stats = kit.work(kit.with_service()).await;
    assert_eq!(stats.handled, 2);
    assert_eq!(kit.service.given(), ["1", "1"], "once by each process, and the second task of one is known");
    assert_eq!(kit.count("offline_push", "repeated"), 1);
}

#[tokio::test]
async fn a_push_service_that_is_away_is_waited_for_and_one_that_says_no_is_believed() {
    let kit = Kit::new(&[]).await;
    kit.service.0.away.store(true, Ordering::Relaxed);
    kit.service.0.refuses.lock().expect("a lock").insert("bob".to_owned());
    kit.order("1", push_to("bob")).await;
    kit.order("2", push_to("cat")).await;
    let (running, counters) = kit.bench.consume(TASK_GROUP, TOPIC, kit.with_service());
    until("it waits", || counters.stats().dependency_failures > 5).await;
    assert_eq!(kit.bench.lag(TASK_GROUP, TOPIC).await, 2);
    kit.service.0.away.store(false, Ordering::Relaxed);
    kit.bench.until_handled(TASK_GROUP, TOPIC).await;
    running.abort();
    assert_eq!((kit.service.given(), counters.stats().dead_letters_by_class), (vec!["2".to_owned()], [0, 0, 1]));
}

#[tokio::test]
async fn a_fanout_finds_each_member_who_is_away_once_and_nobody_else() {
    let kit = Kit::new(&["m1", "m5"]).await;
    let members: Vec<String> = (0..10).map(|at| format!("m{at}")).collect();
    let seq = group(&kit.log, &members);
    // Came after the message.
    kit.log.commit(&[join("go", seq + 1, "late", Role::Member)]);
    for _ in 0..2 {
        kit.order("f", fanout(seq, 3, &["m2", "stranger"])).await;
    }
    let stats = kit.work(kit.with_service()).await;
    let expected: Vec<String> = [0, 3, 4, 6, 7, 8, 9].map(|at| format!("{}:m{at}", 1000 + seq)).into();
    let mut given = kit.service.given();
    given.sort();
    assert_eq!(given, expected, "the second fan-out's pushes are known");
    assert_eq!((stats.handled, kit.count("offline_push", "repeated")), (2 + 14, 7));
}

#[tokio::test]
async fn a_fanout_over_many_goes_on_in_other_tasks() {
    let kit = Kit::new(&[]).await;
    let members: Vec<String> = (0..120).map(|at| format!("m{at:03}")).collect();
    let seq = group(&kit.log, &members);
    kit.order("f", fanout(seq, 1, &[])).await;
    kit.work(kit.with_service()).await;
    assert_eq!(kit.count("group_fanout", "done"), 3, "50, 50 and 20");
    let mut given = kit.service.given();
    given.sort();
    given.dedup();
    assert_eq!(given.len(), 120);
}

#[tokio::test]
async fn a_fanout_waits_for_store_and_routes() {
    let kit = Kit::new(&[]).await;
    let seq = group(&kit.log, &["ann".to_owned()]);
    kit.log.away.store(true, Ordering::Relaxed);
    kit.routes.away.store(true, Ordering::Relaxed);
    kit.order("f", fanout(seq, 100, &[])).await;
    let (running, counters) = kit.bench.consume(TASK_GROUP, TOPIC, kit.with_service());
    until("it waits for the store", || counters.stats().dependency_failures > 2).await;
    kit.log.away.store(false, Ordering::Relaxed);
    let before = counters.stats().dependency_failures;
    until("it waits for routes", || counters.stats().dependency_failures > before + 2).await;
    kit.routes.away.store(false, Ordering::Relaxed);
    kit.bench.until_handled(TASK_GROUP, TOPIC).await;
    running.abort();
    assert_eq!((kit.service.given().len(), counters.stats().dead_letters), (1, 0));
}

#[tokio::test]
async fn a_fanout_of_others_names_the_message_and_one_that_is_gone_wakes_nobody() {
    let kit = Kit::new(&[]).await;
    let seq = group(&kit.log, &["ann".to_owned()]);
    let named = |message_id: String| {
        let group_id = "go".to_owned();
        TaskPayload::GroupFanout(GroupFanout { group_id, message_id, ..GroupFanout::default() })
    };
    kit.order("by-id", named((1000 + seq).to_string())).await;
    kit.order("unknown", named("77".to_owned())).await;
    let stats = kit.work(kit.with_service()).await;
    assert_eq!((kit.service.given().len(), stats.dead_letters_by_class), (1, [0, 0, 1]));

    kit.log.commit(&[dismiss_group("go")]);
    kit.order("gone", fanout(seq, 100, &[])).await;
    kit.work(kit.with_service()).await;
    assert_eq!((kit.service.given().len(), kit.count("group_fanout", "nothing")), (1, 1));
}
