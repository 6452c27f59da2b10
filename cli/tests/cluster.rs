//! Several control nodes and several gateways are one server to whoever uses them. Real processes, real Kafka, PostgreSQL and
//! etcd; one cluster for all of it, since its start takes longer than what is done with it.

mod support;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;

use serde_json::{Value, json};
use support::{Client, PATIENCE, binary, eventually, http};
use tidegate_load::clock::Clock;
use tidegate_load::cluster::Cluster as Nodes;
use tidegate_load::fleet::{Fleet, FleetConfig};
use tidegate_load::payload::Filling;
use tidegate_load::population::{GroupClass, Population};
use tidegate_load::publish::{self, LoadPlan, Publishers};
use tidegate_load::scenario::{Phase, Pick, Until, Via};
use tidegate_load::schedule::Schedule;
use tidegate_proto::v1::push_service_client::PushServiceClient;
use tidegate_proto::v1::{PushMessage, PushRequest, PushResult, PushStatus};
use xtask::cluster::{Home, Shape};
use xtask::servers::{self, Server};

/// Two of each, with a name, a schema and topics of their own; nothing of it stays.
struct Stage {
    home: Home,
    nodes: Nodes,
    folder: tempfile::TempDir,
    name: String,
}

impl Stage {
    fn start() -> Stage {
        let now = std::time::UNIX_EPOCH.elapsed().expect("a clock after 1970").as_millis();
        let folder = tempfile::tempdir().expect("a folder");
        let name = format!("test_{}_{now}", std::process::id());
        let home = Home::in_folder(folder.path(), &name).with_topics_of_its_own().with_tasks();
        let known = servers::Home::find().and_then(|home| home.load()).expect("the servers' state");
        let brokers = known.servers.get(Server::Kafka.name()).map_or(1, |kafka| kafka.processes.len().max(1));
        let shape = Shape { controls: 2, gateways: 2, brokers, ..Shape::default() };
        let stage = Stage { home, nodes: Nodes { gateways: Vec::new(), controls: Vec::new() }, folder, name };
        if let Err(error) = stage.home.up(&shape, false, binary()) {
            panic!("{error:#}\n{}", stage.logs());
        }
        let nodes = Nodes::read(stage.home.json()).expect("a cluster");
        stage.with(nodes)
    }

    fn with(mut self, nodes: Nodes) -> Stage {
        self.nodes = nodes;
        self
    }

    /// The ends of all logs, for whoever has to find out why.
    fn logs(&self) -> String {
        let files = std::fs::read_dir(self.folder.path()).into_iter().flatten().flatten();
        let logs = files.map(|file| file.path()).filter(|path| path.extension().is_some_and(|kind| kind == "log"));
        let end = |path: std::path::PathBuf| {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            format!("{}\n{}\n", path.display(), lines[lines.len().saturating_sub(20)..].join("\n"))
        };
        logs.map(end).collect()
    }

    fn gateway(&self, number: usize) -> SocketAddr {
        self.nodes.gateways[number].client
    }

    fn control(&self, number: usize) -> SocketAddr {
        self.nodes.controls[number].http
    }

    /// A client that has been welcomed.
    fn client(&self, gateway: usize, uid: &str) -> Client {
        let mut client = Client::open(self.gateway(gateway), &format!("/api/v1/ws?uid={uid}"));
        client.until(|frame| frame.get("welcome").is_some());
        client
    }

    /// Pushes text by REST, again with its key until it has a place.
    fn push(&self, control: usize, to: &str, content: &str) -> Value {
        let key = format!("{to} {content}");
        let body = json!({"to": [to], "message_id": key, "message": {"type": "text", "content": content}});
        let mut result = Value::Null;
        eventually(&format!("`{content}` is accepted for {to}"), || {
            let answer = http(self.control(control), "POST", "/api/v1/push", &[], Some(&body));
            result = answer.json()["results"][0].clone();
            result["status"] == "accepted"
        });
        result
    }

    /// The same by gRPC.
    fn push_grpc(&self, control: usize, to: &str, key: &str, content: &str) -> PushResult {
        let address = format!("http://{}", self.nodes.controls[control].grpc);
        let message = PushMessage { r#type: "text".into(), content: content.into(), ..PushMessage::default() };
        let request = PushRequest {
            to: vec![to.into()],
            message: Some(message),
            message_id: key.into(),
            ..PushRequest::default()
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let mut result = PushResult::default();
        eventually(&format!("`{content}` is accepted for {to}"), || {
            let call = async {
                let mut client = PushServiceClient::connect(address.clone()).await.expect("connected");
                client.push(request.clone()).await
            };
            let answer = runtime.block_on(call).map(|answer| answer.into_inner().results);
            result = answer.ok().and_then(|mut results| results.pop()).unwrap_or_default();
            result.status() == PushStatus::Accepted
        });
        result
    }

    /// Of a metric at both control nodes, over all rows with these labels.
    fn sum(&self, name: &str, labels: &str) -> f64 {
        let of = |control: usize| http(self.control(control), "GET", "/metrics", &[], None).body;
        let pages = [of(0), of(1)];
        let rows =
            pages.iter().flat_map(|page| page.lines()).filter(|row| row.starts_with(name) && row.contains(labels));
        rows.filter_map(|row| row.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
    }

    fn make_group(&self, control: usize, gid: &str, members: &[&str]) {
        let body = json!({"gid": gid, "name": gid, "mode": "members", "members": members});
        let made = http(self.control(control), "POST", "/api/v1/groups", &[], Some(&body));
        assert_eq!(made.status, 201, "{}", made.body);
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.logs());
        }
        let cluster = self.home.load();
        if let Err(error) = self.home.down() {
            eprintln!("the cluster does not end: {error:#}");
        }
        // Others use these servers too: what stays behind is only clutter.
        if let Err(error) = cluster.and_then(|cluster| self.home.erase(&cluster)) {
            eprintln!("the cluster's traces stay: {error:#}");
        }
    }
}

#[test]
fn several_nodes_are_one_server() {
    let stage = Stage::start();
    pushes_reach_users_and_groups_behind_any_gateway(&stage);
    one_to_one_messages_reach_both_inboxes_in_one_order(&stage);
    changes_of_members_reach_the_other_gateway(&stage);
    one_key_at_both_nodes_is_one_message(&stage);
    history_is_read_over_all_partitions(&stage);
    a_device_goes_on_at_the_other_gateway(&stage);
    the_bus_hears_of_messages_and_of_who_is_away(&stage);
    a_refusal_is_heard_or_is_a_dead_letter(&stage);
    the_upstream_topic_grows_while_messages_flow(&stage);
    kill_nine_of_a_control_node_loses_nothing(&stage);
}

fn contents(messages: &[Value]) -> Vec<(u64, &str)> {
    let seq = |message: &Value| message["seq"].as_u64().expect("a seq");
    messages.iter().map(|message| (seq(message), message["content"].as_str().expect("text"))).collect()
}

fn pushes_reach_users_and_groups_behind_any_gateway(stage: &Stage) {
    let (mut ann, mut ben) = (stage.client(0, "ann"), stage.client(1, "ben"));
    for client in [&mut ann, &mut ben] {
        client.ok("join", json!({"stream": "g:hall"}));
    }
    for (control, uid) in [(0, "ben"), (1, "ann"), (0, "ann"), (1, "ben")] {
        stage.push(control, &format!("u:{uid}"), &format!("rest {control}"));
    }
    stage.push_grpc(1, "u:ann", "grpc-ann", "grpc");
    stage.push_grpc(0, "u:ben", "grpc-ben", "grpc");
    for (client, stream, expected) in [
        (&mut ann, "u:ann", [(1, "rest 1"), (2, "rest 0"), (3, "grpc")]),
        (&mut ben, "u:ben", [(1, "rest 0"), (2, "rest 1"), (3, "grpc")]),
    ] {
        assert_eq!(contents(&client.messages(stream, 3)), expected, "{stream}");
    }
    stage.push(0, "g:hall", "one");
    stage.push_grpc(1, "g:hall", "grpc-hall", "two");
    for client in [&mut ann, &mut ben] {
        assert_eq!(contents(&client.messages("g:hall", 2)), [(1, "one"), (2, "two")]);
    }
}

fn one_to_one_messages_reach_both_inboxes_in_one_order(stage: &Stage) {
    let (mut alice, mut bob) = (stage.client(0, "alice"), stage.client(1, "bob"));
    let send = |to: &str, key: &str| json!({"to": to, "client_msg_id": key, "type": "text", "content": key});
    let said = [alice.ok("send", send("u:bob", "a-1")), bob.ok("send", send("u:alice", "b-1"))];
    let again = alice.ok("send", send("u:bob", "a-1"));
    assert_eq!((&again["seq"], &again["duplicate"]), (&said[0]["seq"], &json!(true)), "{again}");
    alice.ok("send", send("u:bob", "a-2"));
    let expected = [(1, "a-1"), (2, "b-1"), (3, "a-2")];
    for (client, inbox) in [(&mut alice, "u:alice"), (&mut bob, "u:bob")] {
        let messages = client.messages(inbox, 3);
        assert_eq!(messages.len(), 3, "{inbox}: {messages:?}");
        let mut of_conversation: Vec<(u64, &str)> = messages
            .iter()
            .map(|message| {
                assert_eq!(message["conv"], "c:alice:bob", "{message}");
                (message["conv_seq"].as_u64().expect("conv_seq"), message["content"].as_str().expect("text"))
            })
            .collect();
        assert_eq!(contents(&messages).iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), [1, 2, 3]);
        of_conversation.sort_unstable();
        assert_eq!(of_conversation, expected, "{inbox}");
    }
    let page = bob.ok("pull", json!({"stream": "c:alice:bob", "after": 0, "limit": 10}));
    assert_eq!(contents(page["messages"].as_array().expect("messages")), expected);
}

fn changes_of_members_reach_the_other_gateway(stage: &Stage) {
    stage.make_group(0, "team", &["mia"]);
    let (mut mia, mut max) = (stage.client(0, "mia"), stage.client(1, "max"));
    assert_eq!(max.refused("join", json!({"stream": "g:team"})), "FORBIDDEN");
    let members = json!({"uids": ["max"]});
    let added = http(stage.control(1), "POST", "/api/v1/groups/team/members", &[], Some(&members));
    assert_eq!(added.status / 100, 2, "{}", added.body);
    let joined = max.until(|frame| frame.get("joined").is_some());
    assert_eq!(joined["joined"]["stream"], "g:team");
    stage.push(0, "g:team", "hello");
    let is_hello = |message: &Value| message["content"] == "hello";
    while !max.messages("g:team", 1).iter().any(is_hello) {}
    let kicked = http(stage.control(0), "DELETE", "/api/v1/groups/team/members/max", &[], None);
    assert_eq!(kicked.status / 100, 2, "{}", kicked.body);
    max.until(|frame| frame["left"]["stream"] == "g:team");
    stage.push(1, "g:team", "after the kick");
    while !mia.messages("g:team", 1).iter().any(|message| message["content"] == "after the kick") {}
    stage.push(1, "u:max", "yours");
    max.until(|frame| frame.to_string().contains("yours"));
    assert!(!max.aside.iter().any(|frame| frame.to_string().contains("after the kick")), "{:?}", max.aside);
    // What was said while he was a member stays readable, and nothing since.
    let page = max.ok("pull", json!({"stream": "g:team", "after": 0, "limit": 10}));
    let said = contents(page["messages"].as_array().expect("messages"));
    assert_eq!(said.into_iter().filter(|(_, text)| !text.is_empty()).collect::<Vec<_>>(), [(3, "hello")], "{page}");
}

fn one_key_at_both_nodes_is_one_message(stage: &Stage) {
    let keys: Vec<String> = (0..20).map(|number| format!("same-{number}")).collect();
    let mut seqs = BTreeSet::new();
    for key in &keys {
        let results = thread::scope(|scope| {
            let push = |control: usize| scope.spawn(move || stage.push_grpc(control, "g:same", key, "once"));
            [push(0), push(1), push(0)].map(|call| call.join().expect("pushed"))
        });
        let place = |result: &PushResult| (result.seq, result.message_id.clone(), result.epoch.clone());
        assert!(results.iter().all(|result| place(result) == place(&results[0])), "{key}: {results:?}");
        assert!(results.iter().filter(|result| !result.duplicate).count() <= 1, "{key}: {results:?}");
        seqs.extend(results[0].seq);
    }
    assert_eq!(seqs, (1..=20).collect());
}

fn history_is_read_over_all_partitions(stage: &Stage) {
    let mut eve = stage.client(1, "eve");
    let groups: Vec<String> = (0..12).map(|number| format!("g:h{number}")).collect();
    let mut cursors = serde_json::Map::new();
    for (number, group) in groups.iter().enumerate() {
        let epoch = eve.ok("join", json!({"stream": group}))["epoch"].clone();
        cursors.insert(group.clone(), json!({"epoch": epoch, "seq": 0}));
        if number % 2 == 0 {
            (1..=3).for_each(|nth| drop(stage.push(nth % 2, group, &format!("news {nth}"))));
        }
    }
    let mut zoe = stage.client(0, "zoe");
    for (number, group) in groups.iter().enumerate() {
        let head = if number % 2 == 0 { 3 } else { 0 };
        assert_eq!(zoe.ok("head", json!({"stream": group}))["head"], head, "{group}");
        // A place beyond the head is refused, so that an empty group is read from its beginning.
        let after = u64::from(head > 0);
        let page = zoe.ok("pull", json!({"stream": group, "after": after, "limit": 10}));
        let expected: &[(u64, &str)] = if head > 0 { &[(2, "news 2"), (3, "news 3")] } else { &[] };
        assert_eq!(contents(page["messages"].as_array().expect("messages")), expected, "{group}");
    }
    let answer = zoe.ok("sync", json!({"cursors": cursors}));
    let changed = answer["streams"].as_array().expect("streams").iter();
    let changed: BTreeSet<&str> = changed.map(|stream| stream["stream"].as_str().expect("a name")).collect();
    assert_eq!(changed, groups.iter().step_by(2).map(String::as_str).collect(), "{answer}");
}

fn a_device_goes_on_at_the_other_gateway(stage: &Stage) {
    let mut first = stage.client(0, "roamer");
    let epoch = first.ok("join", json!({"stream": "g:road"}))["epoch"].clone();
    (1..=3).for_each(|nth| drop(stage.push(0, "g:road", &format!("mile {nth}"))));
    assert_eq!(first.messages("g:road", 3).len(), 3);
    drop(first);
    (4..=6).for_each(|nth| drop(stage.push(1, "g:road", &format!("mile {nth}"))));
    let mut second = Client::open(stage.gateway(1), "/api/v1/ws?uid=roamer&defer=1");
    second.ok("connect", json!({"cursors": {"g:road": {"epoch": epoch, "seq": 3}}}));
    (7..=8).for_each(|nth| drop(stage.push(0, "g:road", &format!("mile {nth}"))));
    let expected = [(4, "mile 4"), (5, "mile 5"), (6, "mile 6"), (7, "mile 7"), (8, "mile 8")];
    assert_eq!(contents(&second.messages("g:road", 5)), expected);
}

/// All nodes have all roles here, so which of them made a task and which did it is no matter.
fn the_bus_hears_of_messages_and_of_who_is_away(stage: &Stage) {
    let sum = |name: &str, labels: &str| stage.sum(name, labels);
    let pushes = || sum("tidegate_control_tasks_total", "type=\"offline_push\",outcome=\"nothing\"");
    let before = pushes();
    stage.push(0, "u:somebody_far_away", "come back");
    eventually("the absent user's push is a task, and done", || pushes() >= before + 1.0);
    // More members than an owner looks through itself.
    let members: Vec<String> = (0..150).map(|number| format!("absent_{number}")).collect();
    stage.make_group(1, "crowd", &members.iter().map(String::as_str).collect::<Vec<_>>());
    stage.push(1, "g:crowd", "is anybody there?");
    eventually("every absent member's push is a task, and done", || pushes() >= before + 151.0);
    assert!(sum("tidegate_control_tasks_total", "type=\"group_fanout\",outcome=\"done\"") >= 1.0);
    let states = |state: &str| sum("tidegate_control_user_states_total", &format!("state=\"{state}\""));
    let (online, offline) = (states("online"), states("offline"));
    drop(stage.client(0, "passer_by"));
    eventually("a coming and a going are told", || states("online") > online && states("offline") > offline);
    eventually("what was told is followed", || {
        sum("tidegate_control_tasks_total", "type=\"user_state\"") >= online + offline + 2.0
    });
    eventually("all that was committed is told", || sum("tidegate_control_history_records_total", "") >= 151.0);
    assert_eq!(sum("tidegate_control_dead_letters_total", "group=\"im-task-group\""), 0.0);
    eventually("nothing is left behind", || sum("tidegate_control_bus_lag", "group=\"im-task-group\"") == 0.0);
}

/// Whichever node owns the partition: of both that are asked, one is not it.
fn a_refusal_is_heard_or_is_a_dead_letter(stage: &Stage) {
    let letters = || stage.sum("tidegate_control_dead_letters_total", "reason=\"refused\"");
    let before = letters();
    stage.push(0, "g:keys", "taken");
    let again = |control: usize, ack: &str| {
        let body = json!({"to": ["g:keys"], "message_id": "g:keys taken", "ack": ack,
            "message": {"type": "text", "content": "something else under this key"}});
        http(stage.control(control), "POST", "/api/v1/push", &[], Some(&body)).json()["results"][0].clone()
    };
    for control in [0, 1] {
        let heard = again(control, "sequenced");
        assert_eq!(heard["error"]["code"], "BAD_REQUEST", "{heard}");
    }
    for control in [0, 1] {
        let queued = again(control, "durable");
        assert_eq!(queued["status"], "queued", "{queued}");
    }
    eventually("what nobody heard is a dead letter", || letters() >= before + 2.0);
    assert_eq!(letters(), before + 2.0, "what was heard is none");
}

fn kill_nine_of_a_control_node_loses_nothing(stage: &Stage) {
    loses_nothing_while(stage, "k", || {
        let victim = stage.home.load().expect("a cluster").process("control-1").expect("a node");
        assert!(victim.is_alive());
        victim.kill().expect("killed");
        stage.home.restart("control-1").expect("it comes back");
    });
}

/// Partitions that move leave their old place behind a record of somebody else's, which they never get.
fn the_upstream_topic_grows_while_messages_flow(stage: &Stage) {
    loses_nothing_while(stage, "w", || {
        let topic = format!("{}-upstream", stage.name);
        let config = stage.home.config("control-2");
        let grow = ["topics", "grow", &topic, "20", "--config"];
        let grown = std::process::Command::new(binary()).args(grow).arg(config).output().expect("it runs");
        assert!(grown.status.success(), "{}", String::from_utf8_lossy(&grown.stderr));
    });
}

/// Load through every way while something happens to the cluster, judged by what its clients saw.
fn loses_nothing_while(stage: &Stage, run: &str, happens: impl FnOnce()) {
    let class = GroupClass { name: "all".into(), count: 4, members: 5 };
    let population = Arc::new(Population::new(run, 20, vec![class], 0));
    let clock = Clock::start();
    let config = FleetConfig::following(stage.nodes.clients(), 1_000.0, 3);
    let fleet = Fleet::start(config, population.clone(), clock).expect("a fleet");
    assert!(fleet.gather(PATIENCE), "{:?}", fleet.progress());
    let plans = [(Via::Stream, 200.0, 1_500), (Via::Rest, 50.0, 300), (Via::Clients, 50.0, 300)];
    let plan = |(load, (via, per_second, messages)): (usize, &(Via, f64, u64))| {
        let all = Phase { name: "all".into(), per_second: *per_second, until: Until::Messages(*messages) };
        // What a client sends to a user has its place in their conversation.
        let end = if *via == Via::Clients { population.inbox_range().start } else { population.inbox_range().end };
        let schedule = Schedule { load: load as u16, seed: 1, pick: Pick::Turn, targets: 0..end, phases: vec![all] };
        let (payload_bytes, filling, patience) = (100, Filling::Letters, PATIENCE * 2);
        LoadPlan { schedule, via: *via, payload_bytes, filling, in_flight: 64, patience }
    };
    let plans: Vec<LoadPlan> = plans.iter().enumerate().map(plan).collect();
    let publishers = Publishers::start(plans, stage.nodes.endpoints(), population.clone(), clock).expect("publishers");
    (0..3).for_each(|load| publishers.begin(load, 0..1, clock.now_us()));
    eventually("load flows", || publishers.meter().answered() >= 300);
    happens();
    let before = publishers.meter().answered();
    eventually("load flows again", || publishers.meter().answered() > before);
    let published = publishers.finish();
    for (load, messages) in published.loads.iter().zip([1_500, 300, 300]) {
        assert_eq!((load.answered, load.unanswered, load.wrong.count), (messages, 0, 0), "{load:?}");
    }
    assert_eq!(published.ledger.seqs_used_twice(), 0);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let grpc = &stage.nodes.endpoints().grpc[1];
    let moved = runtime.block_on(publish::send_again(grpc, &published.loads[0].samples)).expect("sent");
    assert_eq!(moved, Vec::<String>::new());
    let wanted = published.ledger.deliveries(&population);
    eventually("everything is shown", || fleet.progress().shown >= wanted);
    let judgement = fleet.judge(&published.ledger);
    assert!(judgement.findings.is_clean(), "{:?}", judgement.findings);
    assert_eq!((judgement.expected, judgement.received), (wanted, wanted));
}
