//! Two gateways, a registry, and the endpoint ring in it: clients whose place moves are sent there and miss nothing.

mod support;

use std::sync::Arc;

use serde_json::{Value, json};
use support::control::Control;
use support::{Client, Node, Seen, within};
use tidegate_registry::names::Owner;
use tidegate_registry::{Names, Registry};
use tidegate_ring::document::RingDocument;
use tidegate_ring::{Layout, Member, Ring, UserHash, Version};

const PARTITIONS: u32 = 2;
const CLIENTS: usize = 24;

struct Site {
    registry: Registry,
    names: Names,
    control: Control,
    nodes: Vec<Node>,
}

impl Site {
    /// One control node that owns everything, and gateways `one`, `two`, `three`, of which so many run.
    async fn new(gateways: usize, moves_per_s: u32) -> Site {
        let registry = Registry::memory();
        let names = Names::new("tidegate").expect("a name");
        let (controls, addresses) = Control::cluster(PARTITIONS, 1).await;
        registry.put(&names.partitions(), &PARTITIONS.to_string()).await.expect("put");
        for partition in 0..PARTITIONS {
            let owner = Owner { node: "c".into(), incarnation: 1, grpc: addresses[0].clone(), owner_epoch: Some(1) };
            let value = serde_json::to_string(&owner).expect("JSON");
            registry.put(&names.owner(partition), &value).await.expect("put");
        }
        let mut site = Site { registry, names, control: controls[0].clone(), nodes: Vec::new() };
        for at in 0..gateways {
            let attachments = PARTITIONS as usize * (at + 1);
            let node = Node::in_registry(site.control.clone(), site.registry.clone(), attachments, |config| {
                config.name = name(at).into();
                config.ring.moves_per_s = moves_per_s;
                config.drain_ms = 1_000;
            });
            site.nodes.push(node.await);
        }
        site
    }

    fn ring(&self, version: u64, members: &[usize]) -> Arc<Ring> {
        let member = |at: &usize| Member { gateway: name(*at).into(), url: self.url(*at).into(), weight: 1 };
        let members = members.iter().map(member).collect();
        Arc::new(Ring::with(Version(version), Layout::default(), members).expect("a ring"))
    }

    async fn publish(&self, ring: &Ring) {
        let text = serde_json::to_string(&RingDocument::from(ring)).expect("JSON");
        self.registry.put(&self.names.ring(), &text).await.expect("put");
    }

    /// Published, and heard of by every gateway.
    async fn turn_to(&self, ring: &Ring) {
        self.publish(ring).await;
        for node in self.nodes.iter().filter(|node| node.gateway.is_some()) {
            node.metric_becomes("tidegate_gateway_ring_version", ring.version().0 as f64).await;
        }
    }

    fn url(&self, at: usize) -> String {
        let addr = self.nodes.get(at).map_or("127.0.0.1:1".to_owned(), |node| node.addrs.client.to_string());
        format!("ws://{addr}/api/v1/ws")
    }
}

fn name(at: usize) -> &'static str {
    ["one", "two", "three"][at]
}

fn place(ring: &Ring, uid: &str) -> String {
    ring.place(UserHash::of(uid)).expect("somebody").gateway.to_string()
}

/// A client that counts what it gets and comes back with its cursor.
struct Follower {
    uid: String,
    client: Client,
    cursor: Option<(String, u64)>,
    seen: Vec<u64>,
}

impl Follower {
    async fn open(node: &Node, uid: &str) -> Follower {
        let client = node.join(uid).await;
        Follower { uid: uid.to_owned(), client, cursor: None, seen: Vec::new() }
    }

    /// Does not wait for a welcome, which may not come before the `bye`.
    async fn knock(node: &Node, uid: &str) -> Follower {
        let client = Client::open(node.addrs.client, &format!("/api/v1/ws?uid={uid}"), &[]).await;
        Follower { uid: uid.to_owned(), client, cursor: None, seen: Vec::new() }
    }

    fn inbox(&self) -> String {
        format!("u:{}", self.uid)
    }

    fn take(&mut self, batch: &Value) {
        let (after, upto) = (batch["after"].as_u64().expect("after"), batch["upto"].as_u64().expect("upto"));
        let last = self.cursor.as_ref().map_or(0, |(_, seq)| *seq);
        assert!(after <= last, "a hole: {batch}");
        let messages = batch["messages"].as_array().expect("messages").iter();
        self.seen.extend(messages.filter_map(|message| message["seq"].as_u64()).filter(|seq| *seq > last));
        self.cursor = Some((batch["epoch"].as_str().expect("an epoch").to_owned(), last.max(upto)));
    }

    /// Everything up to this seq.
    async fn read_to(&mut self, seq: u64) {
        while self.cursor.as_ref().is_none_or(|(_, at)| *at < seq) {
            let frame = self.client.json().await;
            assert!(frame["bye"].is_null(), "{} was let go: {frame}", self.uid);
            if !frame["batch"].is_null() {
                self.take(&frame["batch"]);
            }
        }
    }

    /// What comes until the `bye`, which is returned.
    async fn read_to_bye(&mut self) -> Value {
        loop {
            let mut frame = self.client.json().await;
            if !frame["batch"].is_null() {
                self.take(&frame["batch"]);
            }
            if !frame["bye"].is_null() {
                let bye = frame["bye"].take();
                let code = bye["code"].as_u64().expect("a code") as u16;
                assert_eq!(self.client.next().await, Seen::Close(code));
                return bye;
            }
        }
    }

    async fn come_back(&mut self, node: &Node) {
        let (epoch, seq) = self.cursor.clone().unwrap_or(("e1".into(), 0));
        let cursors = json!({self.inbox(): {"epoch": epoch, "seq": seq}}).to_string();
        let cursors: String = cursors.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let target = format!("/api/v1/ws?uid={}&cursors={cursors}", self.uid);
        self.client = Client::open(node.addrs.client, &target, &[]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_moves_is_told_where_and_goes_on_there_without_a_hole() {
    let site = Site::new(2, 1_000).await;
    site.turn_to(&site.ring(1, &[0])).await;
    let mut followers = Vec::new();
    for at in 0..CLIENTS {
        followers.push(Follower::open(&site.nodes[0], &format!("user-{at}")).await);
    }
    for follower in &followers {
        site.control.push(&follower.inbox(), &["before"]);
    }
    let both = site.ring(2, &[0, 1]);
    site.turn_to(&both).await;
    let (mut stay, mut go) = (Vec::new(), Vec::new());
    for follower in followers {
        if place(&both, &follower.uid) == name(1) { go.push(follower) } else { stay.push(follower) }
    }
    assert!(!stay.is_empty() && !go.is_empty());
    for follower in &mut go {
        let bye = follower.read_to_bye().await;
        assert_eq!((&bye["code"], &bye["reconnect"]), (&json!(3002), &json!(true)), "{bye}");
        assert_eq!(bye["endpoint"], site.url(1), "{bye}");
        assert!(bye["reconnect_after_ms"].as_u64().is_some(), "{bye}");
        // While it is nowhere.
        site.control.push(&follower.inbox(), &["between", "between"]);
        follower.come_back(&site.nodes[1]).await;
        site.control.push(&follower.inbox(), &["after"]);
    }
    for follower in &mut stay {
        site.control.push(&follower.inbox(), &["between", "between", "after"]);
    }
    for follower in go.iter_mut().chain(&mut stay) {
        follower.read_to(4).await;
        assert_eq!(follower.seen, [1, 2, 3, 4], "{}", follower.uid);
    }
    assert_eq!(site.nodes[0].metric("tidegate_gateway_moved_total").await, go.len() as f64);
    site.nodes[0].metric_becomes("tidegate_gateway_connections", stay.len() as f64).await;
    assert_eq!(site.nodes[0].metric("tidegate_gateway_moves_pending").await, 0.0);
    assert_eq!(site.nodes[1].metric("tidegate_gateway_moved_total").await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn they_go_one_by_one_and_a_second_change_replaces_the_first() {
    // One a second: the plan is never done before the next change comes.
    let mut site = Site::new(2, 1).await;
    site.turn_to(&site.ring(1, &[0])).await;
    let mut clients = Vec::new();
    for at in 0..CLIENTS {
        let uid = format!("user-{at}");
        clients.push((uid.clone(), site.nodes[0].join(&uid).await));
    }
    let began = std::time::Instant::now();
    // `three` does not run, and has gone again before most could be sent there.
    let (first, second) = (site.ring(2, &[0, 2]), site.ring(3, &[0, 1]));
    site.turn_to(&first).await;
    let moved = async || site.nodes[0].metric("tidegate_gateway_moved_total").await;
    let early = moved().await;
    site.turn_to(&second).await;
    let late = moved().await;
    // So many seconds have passed at most, and one may go at once.
    assert!(late <= began.elapsed().as_secs_f64() + 1.0, "{early}, {late}");
    let expected: Vec<&str> =
        clients.iter().map(|(uid, _)| uid.as_str()).filter(|uid| place(&second, uid) == name(1)).collect();
    let pending = site.nodes[0].metric("tidegate_gateway_moves_pending").await;
    assert!(pending <= expected.len() as f64 && pending + 8.0 >= expected.len() as f64, "{pending}");
    let two_more = async {
        while moved().await < late + 2.0 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    within("two go by the second plan", two_more).await;
    let (there, mut told) = (site.url(1), Vec::new());
    // Everybody is let go in the end, so that each can be asked what it was told.
    let listening = async {
        for (uid, client) in &mut clients {
            let bye = client.await_key("bye").await;
            if bye["code"] == 3002 {
                told.push((uid.clone(), bye["endpoint"].as_str().expect("an endpoint").to_owned()));
            }
        }
    };
    tokio::join!(site.nodes[0].drain(), listening);
    let by_second: Vec<_> = told.iter().filter(|(_, endpoint)| *endpoint == there).collect();
    let of_second = |uid: &str| place(&second, uid) == name(1);
    assert!(by_second.len() >= 2 && by_second.iter().all(|(uid, _)| of_second(uid)), "{told:?}");
    assert!(told.len() - by_second.len() <= late as usize, "nobody is told who has gone: {told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_lands_on_the_wrong_gateway_is_served_moved_once_and_then_kept() {
    let site = Site::new(2, 1_000).await;
    let ring = site.ring(1, &[0, 1]);
    site.turn_to(&ring).await;
    let uid = (0..).map(|n| format!("user-{n}")).find(|uid| place(&ring, uid) == name(1)).expect("somebody");
    let mut follower = Follower::knock(&site.nodes[0], &uid).await;
    assert_eq!(follower.read_to_bye().await["endpoint"], site.url(1));
    // A balancer brings it to where it was.
    follower.come_back(&site.nodes[0]).await;
    site.control.push(&follower.inbox(), &["here"]);
    follower.read_to(1).await;
    let other = (0..).map(|n| format!("other-{n}")).find(|uid| place(&ring, uid) == name(1)).expect("somebody");
    let mut second = Follower::knock(&site.nodes[0], &other).await;
    second.read_to_bye().await;
    assert_eq!(site.nodes[0].metric("tidegate_gateway_moved_total").await, 2.0, "the one that came back is kept");
    // Sockets of those that were let go count until they are closed.
    site.nodes[0].metric_becomes("tidegate_gateway_connections", 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_goes_leaves_the_registry_first_and_names_the_places_of_its_clients() {
    let mut site = Site::new(2, 1_000).await;
    let key = site.names.gateway(name(0)).expect("a name");
    assert!(site.registry.get(&key).await.expect("answers").is_some());
    let ring = site.ring(1, &[0, 1, 2]);
    site.turn_to(&ring).await;
    let without = site.ring(2, &[1, 2]);
    let at_home = (0..).map(|n| format!("user-{n}")).filter(|uid| place(&ring, uid) == name(0));
    let mut followers = Vec::new();
    for uid in at_home.take(6) {
        followers.push(Follower::open(&site.nodes[0], &uid).await);
    }
    let urls = [site.url(0), site.url(1), site.url(2)];
    let registry = site.registry.clone();
    let listening = async {
        for follower in &mut followers {
            let bye = follower.read_to_bye().await;
            assert!(registry.get(&key).await.expect("answers").is_none(), "it has left before anybody is let go");
            let expected = ["one", "two", "three"].iter().position(|name| place(&without, &follower.uid) == *name);
            assert_eq!(
                (&bye["code"], &bye["endpoint"]),
                (&json!(3001), &json!(urls[expected.expect("a place")])),
                "{bye}"
            );
        }
    };
    tokio::join!(site.nodes[0].drain(), listening);
    within("the other goes on", site.nodes[1].join("carol")).await;
}
