//! Two control nodes in this process, a gateway that only tells who is connected, and the servers that they need.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use axum::http::{Request, StatusCode};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize as _;
use serde_json::{Value, json};
use tidegate_control::{Config, Control};
use tidegate_control_core::domain::PartitionId;
use tidegate_proto::v1::gateway_link_client::GatewayLinkClient;
use tidegate_proto::v1::query_service_client::QueryServiceClient;
use tidegate_proto::v1::{LinkConnection, LinkHello, LinkPresence, LinkUp, LinkUpItem, PresenceRequest, link_up_item};
use tidegate_registry::{Names, Registry};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use xtask::servers::{self, Home, Server, down_in, kill_in, processes_in, redis_flush, revive_in, up_in};

pub const PARTITIONS: u32 = 4;
pub const GATEWAY: &str = "gw-1";
const INCARNATION: u64 = 77;
const DEADLINE: Duration = Duration::from_secs(180);

pub struct Node(Control);

pub struct Answer {
    pub status: StatusCode,
    pub body: Value,
    pub text: String,
}

pub struct Stage {
    name: String,
    nodes: Vec<Node>,
    redis: OwnRedis,
    redis_url: String,
    registry: Registry,
    gateway_key: String,
    /// Attachments by partition; a link lives as long as its sender.
    links: BTreeMap<PartitionId, (mpsc::Sender<LinkUp>, tokio::task::JoinHandle<()>)>,
    connected: Mutex<BTreeMap<String, PartitionId>>,
    _folder: tempfile::TempDir,
}

impl Stage {
    pub async fn start() -> Stage {
        let now = std::time::UNIX_EPOCH.elapsed().expect("a clock after 1970").as_millis();
        let name = format!("cache_{}_{now}", std::process::id());
        let folder = tempfile::Builder::new().tempdir_in("/var/tmp").expect("a folder");
        let redis = OwnRedis(Home::at(folder.path().join("servers")).expect("a home"));
        let redis_url = up_in(&redis.0, Server::Redis, 1).expect("a Redis of our own");
        let url = |server| servers::url(server).expect("a server to test against");
        let text = configuration(&name, folder.path(), &redis_url, &url);
        let config = |node: &str| {
            let file: toml::Table = text.replace("@NODE@", node).parse().expect("TOML");
            Config::deserialize(file["control"].clone()).expect("a configuration")
        };
        let registry = Registry::connect(config("n1").registry.as_ref().expect("a registry")).expect("settings");
        let gateway_key = Names::new(&name).expect("a name").gateway(GATEWAY).expect("a key");
        let gateway = json!({
            "gateway": GATEWAY, "incarnation": INCARNATION, "client": "ws://127.0.0.1:1/", "admin": "127.0.0.1:1", "weight": 1
        });
        assert!(registry.create(&gateway_key, &gateway.to_string()).await.expect("etcd"));
        let mut nodes = Vec::new();
        for node in ["n1", "n2"] {
            nodes.push(Node(Control::start(config(node)).await.expect("started")));
        }
        let (links, connected) = (BTreeMap::new(), Mutex::default());
        let stage = Stage { name, nodes, redis, redis_url, registry, gateway_key, links, connected, _folder: folder };
        for node in 0..2 {
            let owns = async || stage.metric(node, "tidegate_control_partitions_owned").await == 2.0;
            stage.eventually("each node owns its half", owns).await;
        }
        stage
    }

    pub async fn end(self) {
        drop(self.links);
        self.registry.delete(&self.gateway_key).await.expect("etcd");
        for node in self.nodes {
            node.0.stop().await;
        }
        let home = Home::find().expect("a home");
        servers::sql(&home, &format!("drop schema if exists {:?} cascade", self.name)).expect("dropped");
        let kafka = servers::url(Server::Kafka).expect("Kafka");
        servers::delete_topics(&kafka, &self.name).expect("deleted");
    }

    pub fn control(&self, node: usize) -> &Node {
        &self.nodes[node]
    }

    pub async fn eventually(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !holds().await {
            assert!(Instant::now() < deadline, "it does not come: {what}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// One more user, at the node that owns the partition of the inbox.
    pub async fn connect(&mut self, partition: PartitionId, uid: &str) {
        if !self.links.contains_key(&partition) {
            let deadline = Instant::now() + DEADLINE;
            let link = loop {
                let (one, other) = (self.attach(0, partition).await, self.attach(1, partition).await);
                if let Some(link) = one.or(other) {
                    break link;
                }
                assert!(Instant::now() < deadline, "nobody owns {partition:?}");
            };
            self.links.insert(partition, link);
        }
        self.connected.lock().expect("not poisoned").insert(uid.to_owned(), partition);
        let change = LinkPresence { online: vec![connection(uid)], ..Default::default() };
        self.tell(partition, link_up_item::Item::Presence(change)).await;
    }

    pub async fn disconnect(&self, uid: &str) {
        let partition = self.connected.lock().expect("not poisoned")[uid];
        let change = LinkPresence { offline: vec![connection(uid)], ..Default::default() };
        self.tell(partition, link_up_item::Item::Presence(change)).await;
    }

    async fn tell(&self, partition: PartitionId, item: link_up_item::Item) {
        let items = vec![LinkUpItem { item: Some(item) }];
        self.links[&partition].0.send(LinkUp { items }).await.expect("attached");
    }

    async fn attach(
        &self,
        node: usize,
        partition: PartitionId,
    ) -> Option<(mpsc::Sender<LinkUp>, tokio::task::JoinHandle<()>)> {
        let (up, queue) = mpsc::channel(16);
        let gateway = GATEWAY.to_owned();
        let hello = LinkHello { gateway, incarnation: INCARNATION, credit_bytes: 1 << 20, partition: partition.0 };
        let items = vec![LinkUpItem { item: Some(link_up_item::Item::Hello(hello)) }];
        up.send(LinkUp { items }).await.expect("room");
        let mut client = GatewayLinkClient::connect(self.nodes[node].grpc()).await.expect("connected");
        let mut down = client.attach(ReceiverStream::new(queue)).await.expect("answered").into_inner();
        down.message().await.ok().flatten()?;
        // What comes is of no interest, but must be taken.
        let taking = tokio::spawn(async move { while let Ok(Some(_)) = down.message().await {} });
        Some((up, taking))
    }

    pub async fn presence(&self, node: usize, uids: &[&str]) -> Vec<u32> {
        let mut client = QueryServiceClient::connect(self.nodes[node].grpc()).await.expect("connected");
        let uids = uids.iter().map(|uid| (*uid).to_owned()).collect();
        let answer = client.presence(PresenceRequest { uids }).await.expect("an answer").into_inner();
        answer.users.iter().map(|user| user.connections).collect()
    }

    /// Pushes text under its own key until it has a place; the key makes it one message.
    pub async fn push(&self, node: usize, to: &str, content: &str) -> Value {
        let body = json!({"to": [to], "message_id": content, "message": {"content": content}});
        let mut result = Value::Null;
        self.eventually(&format!("`{content}` has a place"), async || {
            let answer = self.nodes[node].call("POST", "/api/v1/push", Some(&body)).await;
            result = answer.body["results"][0].clone();
            result["status"] == "accepted"
        })
        .await;
        result
    }

    pub async fn history(&self, node: usize, stream: &str, after: u64) -> Value {
        let mut page = Value::Null;
        self.eventually("history is answered", async || {
            let answer = self.nodes[node].get(&format!("/api/v1/streams/{stream}/messages?after={after}")).await;
            assert!(answer.status == 200 || answer.status == 503, "{} {}", answer.status, answer.text);
            page = answer.body;
            answer.status == 200
        })
        .await;
        page
    }

    /// Reads on both nodes what follows `after`, of at least one message; whether it came from this cache.
    pub async fn is_answered_from(&self, cache: &str, stream: &str, after: u64) -> bool {
        let name = format!("tidegate_cache_hits_total{{cache=\"{cache}\"}}");
        let mut from_cache = true;
        for node in 0..2 {
            let before = self.metric(node, &name).await;
            let page = self.history(node, stream, after).await;
            let found = seqs(&page);
            let head = page["head"].as_u64().expect("a head");
            assert_eq!(found, (after + 1..=head).collect::<Vec<_>>(), "{page}");
            from_cache &= self.metric(node, &name).await > before;
        }
        from_cache
    }

    /// A line of `/metrics`; -1 if it is not there.
    pub async fn metric(&self, node: usize, name: &str) -> f64 {
        let text = self.nodes[node].get("/metrics").await.text;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(-1.0, |value| value.parse().expect("a number"))
    }

    pub async fn make_group(&self, gid: &str, members: &[&str]) {
        let body = json!({"gid": gid, "name": gid, "mode": "members", "members": members});
        let made = self.nodes[0].call("POST", "/api/v1/groups", Some(&body)).await;
        assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    }

    pub async fn remove_member(&self, node: usize, gid: &str, uid: &str) {
        let path = format!("/api/v1/groups/{gid}/members/{uid}");
        let removed = self.nodes[node].call("DELETE", &path, None).await;
        assert!(removed.status.is_success(), "{}", removed.text);
    }

    /// How many members this user sees; `None`: no such group for them.
    pub async fn members_seen_by(&self, node: usize, gid: &str, uid: &str) -> Option<usize> {
        let answer = self.nodes[node].get(&format!("/api/v1/groups/{gid}/members?uid={uid}")).await;
        assert!(answer.status == 200 || answer.status == 404, "{}", answer.text);
        answer.body["members"].as_array().map(Vec::len)
    }

    pub fn ring(&self) -> Option<String> {
        let mut connection = redis::Client::open(self.redis_url.as_str()).ok()?.get_connection().ok()?;
        redis::cmd("HGET").arg(format!("{0}:ring:{0}", self.name)).arg("json").query(&mut connection).ok()?
    }

    pub fn flush(&self) {
        redis_flush(&self.redis.0).expect("flushed");
    }

    pub fn kill(&self) {
        kill_in(&self.redis.0, Server::Redis, None).expect("killed");
    }

    pub fn revive(&self) {
        revive_in(&self.redis.0, Server::Redis).expect("started again");
    }

    pub fn signal(&self, signal: &str) {
        self.redis.signal(signal);
    }
}

/// Ended and removed with the test, whatever becomes of it.
struct OwnRedis(Home);

impl OwnRedis {
    fn signal(&self, signal: &str) {
        for process in processes_in(&self.0, Server::Redis).expect("a Redis") {
            let status = Command::new("kill").arg(signal).arg(process.pid.to_string()).status();
            assert!(status.expect("kill runs").success());
        }
    }
}

impl Drop for OwnRedis {
    fn drop(&mut self) {
        // One that stands still would not end; one that is dead cannot be told.
        for process in processes_in(&self.0, Server::Redis).into_iter().flatten() {
            drop(process.thaw());
        }
        if let Err(error) = down_in(&self.0, Server::Redis, true) {
            eprintln!("a Redis was left behind: {error:#}");
        }
    }
}

impl Node {
    pub fn grpc(&self) -> String {
        format!("http://{}", self.0.addrs().grpc)
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, None).await
    }

    pub async fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", self.0.addrs().http));
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = request.body(Full::new(Bytes::from(body))).expect("a request");
        let response = Client::builder(TokioExecutor::new()).build_http().request(request).await.expect("a response");
        let status = response.status();
        let bytes = response.into_body().collect().await.expect("a body").to_bytes();
        let text = String::from_utf8(bytes.to_vec()).expect("text");
        Answer { status, body: serde_json::from_str(&text).unwrap_or(Value::Null), text }
    }
}

pub fn seqs(page: &Value) -> Vec<u64> {
    let messages = page["messages"].as_array().unwrap_or_else(|| panic!("{page}"));
    messages.iter().map(|message| message["seq"].as_u64().expect("a seq")).collect()
}

fn connection(uid: &str) -> LinkConnection {
    let connection_id = format!("{uid}-1");
    LinkConnection {
        uid: uid.to_owned(),
        device: "phone".to_owned(),
        platform: "ios".to_owned(),
        connection_id,
        ..Default::default()
    }
}

fn configuration(name: &str, folder: &Path, redis: &str, url: &impl Fn(Server) -> String) -> String {
    let topics = ["upstream", "downstream", "task", "user_state", "dead_letter", "history"].map(|topic| {
        let suffix = if topic == "downstream" { "downstream-{gateway_id}" } else { topic };
        format!("[control.bus.topics.{topic}]\nname = \"{name}-{suffix}\"\npartitions = 2\n")
    });
    format!(
        r#"
        [control]
        http_addr = "127.0.0.1:0"
        grpc_addr = "127.0.0.1:0"
        data_dir = "{data}"
        dev_auth = true
        auto_groups = true
        [control.cluster]
        name = "{name}"
        node = "@NODE@"
        partitions = {PARTITIONS}
        [control.registry]
        kind = "etcd"
        endpoints = ["{etcd}"]
        [control.bus]
        brokers = "{kafka}"
        [control.store]
        url = "{postgres}"
        schema = "{name}"
        [control.cache]
        urls = ["{redis}"]
        prefix = "{name}:"
        {topics}
        "#,
        data = folder.join("data").display(),
        etcd = url(Server::Etcd),
        kafka = url(Server::Kafka),
        postgres = url(Server::Postgres),
        topics = topics.join("\n"),
    )
}
