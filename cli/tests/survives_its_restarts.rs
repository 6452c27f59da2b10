//! What holds over `kill -9`, a drain, and two processes that lose each other.

mod support;

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use serde_json::json;
use support::{Dev, Ended, PATIENCE, binary, eventually, http, signal};
use tidegate_load::clock::Clock;
use tidegate_load::fleet::{Fleet, FleetConfig};
use tidegate_load::measure::process::Watched;
use tidegate_load::node::{Addrs, Node};
use tidegate_load::payload::Filling;
use tidegate_load::population::{GroupClass, Population};
use tidegate_load::publish::{self, Endpoints, LoadPlan, Publishers};
use tidegate_load::result::Verdict;
use tidegate_load::run::{self, Options, Stop};
use tidegate_load::scenario::{Phase, Pick, Scenario, Until, Via};
use tidegate_load::schedule::Schedule;

#[test]
fn kill_nine_loses_nothing() {
    let mut dev = Dev::start();
    let class = GroupClass { name: "all".into(), count: 1, members: 20 };
    let population = Arc::new(Population::new("k", 20, vec![class], 0));
    let clock = Clock::start();
    let config = FleetConfig::following(vec![dev.addrs.client], 1_000.0, 1);
    let fleet = Fleet::start(config, population.clone(), clock).expect("a fleet");
    assert!(fleet.gather(PATIENCE), "{:?}", fleet.progress());
    let all = Phase { name: "all".into(), per_second: 1_000.0, until: Until::Messages(4_000) };
    let targets = 0..population.inbox_range().end;
    let schedule = Schedule { load: 0, seed: 1, pick: Pick::Turn, targets, phases: vec![all] };
    let plan = LoadPlan {
        schedule,
        via: Via::Stream,
        payload_bytes: 100,
        filling: Filling::Letters,
        in_flight: 5_000,
        patience: publish::PATIENCE,
    };
    let endpoints = Endpoints::of(&dev.addrs);
    let publishers = Publishers::start(vec![plan], endpoints, population.clone(), clock).expect("publishers");
    publishers.begin(0, 0..1, clock.now_us());
    for least in [500, 2_000] {
        eventually("load flows", || publishers.meter().answered() >= least);
        dev.kill_nine();
        dev.again();
    }
    let published = publishers.finish();
    let load = &published.loads[0];
    assert_eq!((load.answered, load.unanswered, load.wrong.count), (4_000, 0, 0), "{load:?}");
    assert!(load.repeats.reconnects >= 1, "the kill was not felt");
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    let moved = runtime.block_on(publish::send_again(&dev.addrs.grpc_url(), &load.samples)).expect("sent");
    assert_eq!(moved, Vec::<String>::new());
    assert_eq!(published.ledger.seqs_used_twice(), 0);
    let wanted = published.ledger.deliveries(&population);
    eventually("everything is shown", || fleet.progress().shown >= wanted);
    assert!(fleet.progress().reconnects >= 40, "{:?}", fleet.progress());
    let judgement = fleet.judge(&published.ledger);
    assert!(judgement.findings.is_clean(), "{:?}", judgement.findings);
    assert_eq!((judgement.expected, judgement.received), (wanted, wanted));
}

#[test]
fn a_drain_says_when_to_come_back_and_exits_0() {
    let mut dev = Dev::start();
    let mut clients: Vec<_> = (0..5).map(|n| dev.client(&format!("d{n}"))).collect();
    for client in &mut clients {
        client.until(|f| f.get("welcome").is_some());
    }
    let mut node = dev.node.take().expect("running");
    signal(node.pid(), "TERM");
    for client in &mut clients {
        let (ended, bye) = client.ended();
        assert_eq!(ended, Ended::Close(3001));
        let bye = bye.expect("a bye");
        assert_eq!((&bye["code"], &bye["reconnect"]), (&json!(3001), &json!(true)), "{bye}");
        assert!(bye["reconnect_after_ms"].is_u64(), "{bye}");
    }
    let mut status = None;
    eventually("the process ends", || {
        status = node.ended().expect("status");
        status.is_some()
    });
    assert_eq!(status.and_then(|s| s.code()), Some(0));
}

struct TwoProcesses {
    addrs: Addrs,
    folder: tempfile::TempDir,
}

impl TwoProcesses {
    fn new() -> TwoProcesses {
        let addrs = Addrs::free().expect("ports");
        let folder = tempfile::tempdir().expect("tempdir");
        let text = format!(
            "[gateway]\nname = \"gw-1\"\nclient_addr = \"{}\"\nadmin_addr = \"{}\"\ndrain_ms = 500\n\
             [gateway.link]\naddr = \"http://{}\"\n[gateway.auth]\ndev = true\ndev_page_ports = [{}]\n\
             [control]\nhttp_addr = \"{}\"\ngrpc_addr = \"{}\"\ndata_dir = \"{}\"\ndev_auth = true\nauto_groups = true\n",
            addrs.client,
            addrs.admin,
            addrs.grpc,
            addrs.http.port(),
            addrs.http,
            addrs.grpc,
            folder.path().join("data").display(),
        );
        std::fs::write(folder.path().join("tidegate.toml"), text).expect("written");
        TwoProcesses { addrs, folder }
    }

    fn start(&self, role: &str) -> Node {
        let mut command = Command::new(binary());
        command.arg(role).arg("--config").arg(self.folder.path().join("tidegate.toml"));
        let probe = if role == "gateway" { self.addrs.admin } else { self.addrs.http };
        let log = self.folder.path().join(format!("{role}.log"));
        Node::start(command, &self.addrs, &[probe], &log).unwrap_or_else(|error| {
            panic!("{error}\n{}", std::fs::read_to_string(&log).unwrap_or_default());
        })
    }

    fn push(&self, content: &str) -> u16 {
        let body = json!({"to": ["g:two"], "message": {"type": "text", "content": content}});
        http(self.addrs.http, "POST", "/api/v1/push", &[], Some(&body)).status
    }
}

#[test]
fn connections_outlive_control() {
    let two = TwoProcesses::new();
    let mut control = two.start("control");
    let _gateway = two.start("gateway");
    let mut alice = support::Client::open(two.addrs.client, "/api/v1/ws?uid=alice");
    alice.ok("join", json!({"stream": "g:two"}));
    assert_eq!(two.push("one"), 200);
    assert_eq!(alice.messages("g:two", 1)[0]["seq"], 1);
    control.kill().expect("killed");
    let answer = alice.ask("head", json!({"stream": "g:other"}));
    assert_eq!(answer["error"]["code"], "UNAVAILABLE", "{answer}");
    assert_eq!(answer["error"]["retry"], true);
    let _control = two.start("control");
    for content in ["two", "three"] {
        assert_eq!(two.push(content), 200);
    }
    let messages = alice.messages("g:two", 2);
    let seen: Vec<_> = messages.iter().map(|m| (m["seq"].as_u64(), m["content"].as_str())).collect();
    assert_eq!(seen, [(Some(2), Some("two")), (Some(3), Some("three"))], "the same connection goes on");
}

#[test]
fn a_gateway_comes_back_alone() {
    let two = TwoProcesses::new();
    let _control = two.start("control");
    let mut gateway = two.start("gateway");
    let mut alice = support::Client::open(two.addrs.client, "/api/v1/ws?uid=alice");
    let state = alice.ok("join", json!({"stream": "g:two"}));
    assert_eq!(two.push("one"), 200);
    alice.messages("g:two", 1);
    gateway.kill().expect("killed");
    assert_eq!(alice.ended().0, Ended::Cut);
    assert_eq!(two.push("two"), 200);
    let _gateway = two.start("gateway");
    let mut alice = support::Client::open(two.addrs.client, "/api/v1/ws?uid=alice");
    alice.ok("join", json!({"stream": "g:two", "cursor": {"epoch": state["epoch"], "seq": 1}}));
    assert_eq!(alice.messages("g:two", 1)[0]["content"], "two");
}

#[test]
fn one_flipped_byte_in_the_middle_is_refused_with_its_place() {
    let mut dev = Dev::start();
    for n in 0..50 {
        dev.push("u:alice", &format!("message {n} {}", "x".repeat(500)));
    }
    dev.kill_nine();
    let mut segments: Vec<_> =
        std::fs::read_dir(dev.data().join("log")).expect("log").map(|e| e.expect("entry").path()).collect();
    segments.sort();
    let segment = segments.last().expect("a segment");
    let mut bytes = std::fs::read(segment).expect("read");
    let middle = bytes.windows(10).position(|w| w == b"message 20").expect("in the log");
    bytes[middle + 30] ^= 1;
    std::fs::write(segment, bytes).expect("written");
    let log = dev.folder.path().join("refused.log");
    let refused = Node::dev(binary(), &dev.data(), &dev.addrs, &log, &[]);
    assert!(refused.is_err(), "a corrupt log was opened");
    let text = std::fs::read_to_string(&log).expect("log");
    let name = segment.file_name().expect("name").to_string_lossy().into_owned();
    assert!(text.contains(&name) && text.contains("offset"), "{text}");
}

#[test]
fn slow_readers_are_told_a_gap_and_end_with_everything() {
    let dev = Dev::start();
    let text = r#"
        name = "slow"
        [connections]
        count = 100
        [[groups]]
        name = "all"
        count = 1
        [[publish]]
        name = "broadcast"
        to = "all"
        payload_bytes = 4096
        phases = [{ name = "steady", per_second = 200, for_s = 6 }]
        [slow]
        count = 3
        after_s = 0.5
        for_s = 4
        [generator]
        loop_lag_p99_ms_max = 60000
        publish_lag_p99_ms_max = 60000
        cpu_percent_max = 100
        [thresholds]
        slow_told_a_gap = true
    "#;
    let scenario = Scenario::parse(text).expect("valid");
    let options = Options {
        target: format!("ws://{}", dev.addrs.client),
        clients: vec![dev.addrs.client],
        tls: None,
        endpoints: Endpoints::of(&dev.addrs),
        admins: vec![dev.addrs.admin],
        watched: vec![Watched { name: run::BOTH.to_owned(), pid: dev.node.as_ref().expect("running").pid() }],
        run: "slow".to_owned(),
        binary: PathBuf::new(),
    };
    let report = run::run(&scenario, &options, &Stop::default(), |_| ()).expect("ran");
    assert_eq!(report.verdict, Verdict::Pass, "{:?}", report.reasons);
}
