//! `GET /api/v1/records` and `GET /api/v1/search`, through the router.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tidegate_auth::{Algorithm, Issuer};
use tidegate_control::adapters::embedded::{EmbeddedOptions, EmbeddedStore};
use tidegate_control::api::auth::Access;
use tidegate_control::api::{Api, Records, router};
use tidegate_control::config::{AuthConfig, KeyConfig, LimitsConfig};
use tidegate_control::dispatch::Dispatch;
use tidegate_control::metrics::Metrics;
use tidegate_control::presence::Presence;
use tidegate_control::records::{Feed, FeedMetrics, FeedOptions, Feeding, MemoryIndex, MessageText, Status, follow};
use tidegate_control::runtime::{Hooks, Running, spawn};
use tidegate_control_core::domain::{Epoch, Lsn, MessageId, PartitionId, Place, Seq, Timestamp};
use tidegate_control_core::partition::{Partition, PartitionConfig};
use tidegate_control_core::ports::StoreReader;
use tokio::sync::watch;
use tower::ServiceExt as _;

use crate::kit::{KEEP_DAYS, breaker, event, id, now, pushed, start, until};

const SERVICE_TOKEN: &str = "0123456789abcdef0123456789abcdef-service";
const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef-users";

struct Node {
    router: Router,
    /// `None`: it keeps no records.
    feed: Option<Feed>,
    running: Option<Running>,
    reader: Arc<dyn StoreReader>,
    issuer: Issuer,
    _stopping: watch::Sender<bool>,
    _folder: tempfile::TempDir,
}

struct Answer {
    status: StatusCode,
    body: Value,
}

impl Answer {
    fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or_default()
    }

    fn texts(&self, list: &str, field: &str) -> Vec<String> {
        assert_eq!(self.status, StatusCode::OK, "{}", self.body);
        let items = self.body[list].as_array().expect("a list").iter();
        items.map(|item| item[field].as_str().expect("a text").to_owned()).collect()
    }
}

impl Node {
    fn start(keeps_records: bool) -> Node {
        let folder = tempfile::tempdir().expect("a folder");
        let (tokens, key) = (folder.path().join("tokens"), folder.path().join("key"));
        fs::write(&tokens, SERVICE_TOKEN).expect("written");
        fs::write(&key, SECRET).expect("written");
        let auth = AuthConfig {
            keys: vec![KeyConfig { algorithm: Algorithm::HS256, file: key, id: None }],
            ..AuthConfig::default()
        };
        let store = EmbeddedStore::open(&folder.path().join("data"), EmbeddedOptions::default()).expect("a store");
        let reader: Arc<dyn StoreReader> = Arc::new(store.reader());
        let config = PartitionConfig { auto_groups: true, ..PartitionConfig::default() };
        let partition = Partition::new(PartitionId(0), store, config, 7).expect("a partition");
        let metrics = Arc::new(Metrics::new());
        let hooks = Hooks {
            partition: PartitionId(0),
            metrics: Arc::clone(&metrics),
            on_fatal: Box::new(|error| panic!("{error}")),
            errands: None,
        };
        let started = spawn(partition, hooks).expect("a thread");
        let records = keeps_records.then(|| {
            let index = Arc::new(MemoryIndex::new(KEEP_DAYS));
            let options = FeedOptions { batch_wait: Duration::ZERO, ..FeedOptions::default() };
            let (feed, _) = Feeding::start(index.clone(), options, breaker(), FeedMetrics::default());
            Records { index, feed }
        });
        let (stopping, stop) = watch::channel(false);
        let feed = records.as_ref().map(|records| records.feed.clone());
        let api = Api {
            dispatch: Dispatch::one(started.sequencer),
            endpoints: None,
            reader: Arc::clone(&reader),
            presence: Arc::new(Presence::default()),
            metrics,
            access: Arc::new(Access::load(&auth, Some(&tokens)).expect("credentials")),
            limits: LimitsConfig { answer_timeout_ms: 60_000, ..LimitsConfig::default() },
            records,
            stopping: stop,
        };
        Node {
            router: router(Arc::new(api)),
            feed,
            running: Some(started.running),
            reader,
            issuer: Issuer::new(SECRET, None).expect("a key"),
            _stopping: stopping,
            _folder: folder,
        }
    }

    fn user(&self, uid: &str) -> String {
        self.issuer.issue(uid, None, None, now().0, 3_600).expect("a token")
    }

    async fn call(&self, method: &str, path: &str, token: &str, body: Option<Value>) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        if !token.is_empty() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let body = match body {
            Some(json) => {
                request = request.header("content-type", "application/json");
                Body::from(json.to_string())
            }
            None => Body::empty(),
        };
        let response = self.router.clone().oneshot(request.body(body).expect("a request")).await.expect("an answer");
        let status = response.status();
        let bytes = response.into_body().collect().await.expect("a body").to_bytes();
        Answer { status, body: serde_json::from_slice(&bytes).unwrap_or(Value::Null) }
    }

    async fn get(&self, path: &str, token: &str) -> Answer {
        self.call("GET", path, token, None).await
    }

    async fn post(&self, path: &str, token: &str, body: Value) -> Answer {
        self.call("POST", path, token, Some(body)).await
    }

    fn feed(&self) -> &Feed {
        self.feed.as_ref().expect("it keeps records")
    }

    async fn fed(&self) {
        until("all is written", async || self.feed().waiting() == 0).await;
    }

    /// Pushes a message and has its text searched.
    async fn push(&self, stream: &str, content: &str) {
        let body = json!({"to": [stream], "message": {"content": content}});
        let answer = self.post("/api/v1/push", SERVICE_TOKEN, body).await;
        let result = &answer.body["results"][0];
        assert_eq!(result["status"], "accepted", "{}", answer.body);
        let text = |field: &str| result[field].as_str().expect("a text").to_owned();
        let place = Place {
            stream: stream.parse().expect("a stream"),
            epoch: text("epoch").parse().expect("an epoch"),
            seq: Seq(result["seq"].as_u64().expect("a seq")),
        };
        let id = MessageId(text("message_id").parse().expect("an id"));
        self.feed().text(MessageText { id, place, text: content.into() });
        self.fed().await;
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop();
        }
    }
}

#[tokio::test]
async fn without_an_index_both_are_unimplemented() {
    let node = Node::start(false);
    for (path, token) in [("/api/v1/records", SERVICE_TOKEN), ("/api/v1/search?q=a", &node.user("ann"))] {
        let answer = node.get(path, token).await;
        assert_eq!((answer.status, answer.code()), (StatusCode::NOT_IMPLEMENTED, "UNIMPLEMENTED"), "{path}");
    }
}

#[tokio::test]
async fn records_are_for_backends() {
    let node = Node::start(true);
    let answer = node.get("/api/v1/records", "").await;
    assert_eq!((answer.status, answer.code()), (StatusCode::UNAUTHORIZED, "UNAUTHENTICATED"));
    let answer = node.get("/api/v1/records?uid=ann", &node.user("ann")).await;
    assert_eq!((answer.status, answer.code()), (StatusCode::FORBIDDEN, "FORBIDDEN"));
    let answer = node.get("/api/v1/records?uid=ann", SERVICE_TOKEN).await;
    assert_eq!((answer.status, answer.body), (StatusCode::OK, json!({"records": []})));
}

#[tokio::test]
async fn records_are_found_and_shown() {
    let node = Node::start(true);
    for n in 0..5 {
        node.feed().record(pushed(id(n), ["u:ann", "u:bob"][n as usize % 2], &format!("bill number{n}")));
    }
    node.feed().record(event(id(4), "u:ann", Status::Acked, start() + 50));
    node.fed().await;
    let ids = async |query: &str| {
        node.get(&format!("/api/v1/records?{query}"), SERVICE_TOKEN).await.texts("records", "message_id")
    };
    let expected = |ns: &[u64]| -> Vec<String> { ns.iter().map(|n| id(*n).to_string()).collect() };
    assert_eq!(ids("").await, expected(&[4, 3, 2, 1, 0]));
    assert_eq!(ids("uid=bob").await, expected(&[3, 1]));
    assert_eq!(ids("q=NUMBER2%20bill").await, expected(&[2]));
    assert_eq!(ids(&format!("message_id={}", id(3))).await, expected(&[3]));
    assert_eq!(ids(&format!("stream=u:ann&from={}&to={}", start() + 1, start() + 4)).await, expected(&[2]));

    let page = node.get("/api/v1/records?uid=ann&limit=2", SERVICE_TOKEN).await;
    assert_eq!(page.texts("records", "message_id"), expected(&[4, 2]));
    let next = page.body["next"].as_str().expect("a next page").to_owned();
    let rest = node.get(&format!("/api/v1/records?uid=ann&limit=2&cursor={next}"), SERVICE_TOKEN).await;
    assert_eq!(rest.texts("records", "message_id"), expected(&[0]));
    assert!(rest.body.get("next").is_none());

    let newest = &page.body["records"][0];
    assert_eq!((&newest["status"], &newest["status_ts"]), (&json!("acked"), &json!(start() + 50)));
    assert_eq!(
        (&newest["to"], &newest["text"], &newest["from"]),
        (&json!("u:ann"), &json!("bill number4"), &json!("billing"))
    );
    assert_eq!(newest["changes"][1], json!({"status": "accepted", "at": start() + 4}));
    assert_eq!((&newest["delivered"], &newest["online"], &newest["uids"]), (&json!(0), &json!(1), &json!(["ann"])));
}

#[tokio::test]
async fn what_cannot_be_asked_is_told() {
    let node = Node::start(true);
    let long = "x".repeat(1_100);
    let many = (0..17).map(|n| format!("w{n}")).collect::<Vec<_>>().join("+");
    for (query, field) in [
        ("uid=a%20b", "uid"),
        ("stream=x", "stream"),
        ("message_id=a%0Ab", "message_id"),
        ("q=", "q"),
        ("q=%21%3F", "q"),
        (&format!("q={long}"), "q"),
        (&format!("q={many}"), "q"),
        ("from=yesterday", "from"),
        ("to=1.5", "to"),
        ("limit=-1", "limit"),
        ("cursor=AAAA", "cursor"),
    ] {
        let answer = node.get(&format!("/api/v1/records?{query}"), SERVICE_TOKEN).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{query}");
        assert_eq!(answer.body["error"]["problems"][0]["field"], field, "{query}: {}", answer.body);
    }
    let user = node.user("ann");
    for (query, field) in [("", "q"), ("q=.", "q"), ("q=a&stream=a", "stream"), ("q=a&cursor=%21", "cursor")] {
        let answer = node.get(&format!("/api/v1/search?{query}"), &user).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{query}");
        assert_eq!(answer.body["error"]["problems"][0]["field"], field, "{query}: {}", answer.body);
    }
}

#[tokio::test]
async fn users_find_what_they_may_read() {
    let node = Node::start(true);
    let group = json!({"gid": "team", "members": ["ann"]});
    let made = node.post("/api/v1/groups", &node.user("olga"), group).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
    node.push("u:ann", "needle for ann").await;
    node.push("u:bob", "needle for bob").await;
    node.push("g:team", "needle for the team").await;
    node.push("g:open", "needle for all").await;
    let joined = node.post("/api/v1/groups/team/members", &node.user("olga"), json!({"uids": ["bob"]})).await;
    assert_eq!(joined.status, StatusCode::OK, "{}", joined.body);
    node.push("g:team", "another needle for the team").await;

    let found = async |uid: &str, query: &str| {
        node.get(&format!("/api/v1/search?q=needle{query}"), &node.user(uid)).await.texts("messages", "content")
    };
    assert_eq!(found("ann", "").await, ["another needle for the team", "needle for the team", "needle for ann"]);
    assert_eq!(found("bob", "").await, ["another needle for the team", "needle for bob"], "bob came later");
    assert_eq!(found("bob", "%20another").await, ["another needle for the team"]);
    assert_eq!(found("zoe", "").await, Vec::<String>::new());
    assert_eq!(found("zoe", "&stream=g:open").await, ["needle for all"]);
    for (uid, stream) in [("zoe", "g:team"), ("ann", "u:bob"), ("ann", "c:bob:zoe")] {
        let answer = node.get(&format!("/api/v1/search?q=needle&stream={stream}"), &node.user(uid)).await;
        assert_eq!((answer.status, answer.code()), (StatusCode::FORBIDDEN, "FORBIDDEN"), "{uid} {stream}");
    }
    let removed = node.call("DELETE", "/api/v1/groups/team/members/bob", &node.user("olga"), None).await;
    assert_eq!(removed.status, StatusCode::OK, "{}", removed.body);
    node.push("g:team", "needle without bob").await;
    assert_eq!(found("bob", "").await, ["needle for bob"]);
    assert_eq!(found("bob", "&stream=g:team").await, ["another needle for the team"], "inside the interval");

    let all = node.get("/api/v1/search?q=needle&stream=g:team", SERVICE_TOKEN).await;
    assert_eq!(all.texts("messages", "content").len(), 3);
    assert_eq!((&all.body["head"], &all.body["next_after"]), (&all.body["messages"][0]["seq"], &all.body["head"]));
    assert_eq!(all.body["messages"][0]["stream"], "g:team");
    let nobody = node.get("/api/v1/search?q=needle", SERVICE_TOKEN).await;
    assert_eq!((nobody.status, nobody.code()), (StatusCode::BAD_REQUEST, "BAD_REQUEST"));
    let on_behalf = node.get("/api/v1/search?q=needle&uid=ann", SERVICE_TOKEN).await;
    assert_eq!(on_behalf.texts("messages", "content").len(), 4);
    assert_eq!(node.get("/api/v1/search?q=needle&uid=bob", &node.user("ann")).await.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn what_the_store_does_not_have_is_not_shown() {
    let node = Node::start(true);
    node.push("u:ann", "needle").await;
    // An index that knows of messages that are not, or that are others now.
    let head = node.get("/api/v1/streams/u:ann/messages", &node.user("ann")).await.body;
    let epoch: Epoch = head["epoch"].as_str().expect("a text").parse().expect("an epoch");
    for seq in [1, 2] {
        let place = Place { stream: "u:ann".parse().expect("a stream"), epoch, seq: Seq(seq) };
        let id = crate::kit::id_at(Timestamp(now().0 - 1), seq);
        node.feed().text(MessageText { id, place, text: "needle of another".into() });
    }
    node.fed().await;
    let found = node.get("/api/v1/search?q=needle", &node.user("ann")).await;
    assert_eq!(found.texts("messages", "content"), ["needle"]);
}

#[tokio::test]
async fn pages_of_a_search_follow_each_other() {
    let node = Node::start(true);
    for n in 0..7 {
        node.push("u:ann", &format!("needle {n}")).await;
    }
    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = node.get(&format!("/api/v1/search?q=needle&limit=3{cursor}"), &node.user("ann")).await;
        seen.extend(page.texts("messages", "content"));
        let Some(next) = page.body["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen, (0..7).rev().map(|n| format!("needle {n}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn pushes_are_recorded_with_what_became_of_them() {
    let node = Node::start(true);
    let message = json!({"title": "Bill", "content": "seven euros", "type": "invoice"});
    let body = json!({"to": ["u:ann", "nobody"], "message": message, "message_id": "order-7", "from": "billing"});
    for _ in 0..2 {
        assert_eq!(node.post("/api/v1/push", SERVICE_TOKEN, body.clone()).await.status, StatusCode::OK);
    }
    let sealed = json!({"content": "pin 1234", "metadata": {"sensitive": true}});
    node.post("/api/v1/push", SERVICE_TOKEN, json!({"to": ["u:bob"], "message": sealed})).await;
    node.fed().await;

    let bill = node.get("/api/v1/records?uid=ann&q=euros%20bill&message_id=order-7", SERVICE_TOKEN).await.body;
    let [record] = bill["records"].as_array().expect("a list").as_slice() else { panic!("{bill}") };
    assert_eq!((&record["status"], &record["seq"], &record["online"]), (&json!("queued"), &json!(1), &json!(0)));
    assert_eq!(
        (&record["from"], &record["type"], &record["key"]),
        (&json!("billing"), &json!("invoice"), &json!("order-7"))
    );
    let all = node.get("/api/v1/records?message_id=order-7", SERVICE_TOKEN).await.body;
    let refused: Vec<&Value> =
        all["records"].as_array().expect("a list").iter().filter(|record| record["status"] == "refused").collect();
    assert_eq!(refused.len(), 2, "each attempt: {all}");
    assert_eq!((&refused[0]["to"], &refused[0]["changes"][0]["reason"]), (&json!("nobody"), &json!("BAD_REQUEST")));
    let bob = node.get("/api/v1/records?uid=bob", SERVICE_TOKEN).await.body;
    assert_eq!((&bob["records"][0]["sealed"], bob["records"][0].get("text")), (&json!(true), None));
}

#[tokio::test]
async fn the_texts_of_a_log_are_searched() {
    let node = Node::start(true);
    let push = async |content: &str, metadata: Value| {
        let message = json!({"content": content, "metadata": metadata});
        let answer = node.post("/api/v1/push", SERVICE_TOKEN, json!({"to": ["u:ann"], "message": message})).await;
        assert_eq!(answer.body["results"][0]["status"], "accepted");
    };
    push("needle before", json!({})).await;
    push("needle secret", json!({"encrypted": "yes"})).await;
    let following = follow(Arc::clone(&node.reader), node.feed().clone(), Lsn(0));
    push("needle after", json!({})).await;
    let found = async || node.get("/api/v1/search?q=needle", &node.user("ann")).await.texts("messages", "content");
    until("the last one is found", async || found().await.contains(&"needle after".to_owned())).await;
    assert_eq!(found().await, ["needle after", "needle before"]);
    following.abort();
}
