//! The suite over a real OpenSearch, and what is its own: templates, items of a bulk, a server that is away.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tidegate_control::adapters::opensearch::{Credentials, OpenError, OpenSearchOptions, OpenSearchRecords};
use tidegate_control::records::{Batch, FeedMetrics, FeedOptions, Feeding, IndexError, RecordIndex, RecordQuery};
use tidegate_control_core::domain::Timestamp;
use xtask::servers::{self, Server};

use crate::kit::{
    DAY_MS, Factory, KEEP_DAYS, OwnServer, breaker, find, id, id_at, now, of_ids, own_name, pushed, until, write,
};

struct OpenSearch {
    url: String,
    prefix: String,
    index: Arc<OpenSearchRecords>,
}

impl OpenSearch {
    fn new() -> OpenSearch {
        OpenSearch::at(servers::url(Server::OpenSearch).expect("an OpenSearch to test against"))
    }

    fn at(url: String) -> OpenSearch {
        let prefix = own_name();
        OpenSearch { index: Arc::new(connect(&url, &prefix)), url, prefix }
    }

    async fn ask(&self, method: &str, path: &str, body: Option<Value>) -> Value {
        let method = method.parse().expect("a method");
        let mut request = reqwest::Client::new().request(method, format!("{}/{path}", self.url));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.expect("an answer");
        let (status, text) = (answer.status(), answer.text().await.expect("a text"));
        assert!(status.is_success(), "{path}: {status} {text}");
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    async fn indices(&self) -> Vec<String> {
        let listed = self.ask("GET", &format!("_cat/indices/{}-*?h=index&format=json", self.prefix), None).await;
        let rows = listed.as_array().expect("a list").iter();
        rows.filter_map(|row| row["index"].as_str().map(str::to_owned)).collect()
    }
}

fn options(url: &str, prefix: &str) -> OpenSearchOptions {
    OpenSearchOptions {
        prefix: prefix.to_owned(),
        replicas: 0,
        keep_days: KEEP_DAYS,
        // A small server under a whole suite takes its time.
        timeout: Duration::from_secs(60),
        ..OpenSearchOptions::new(vec![url.to_owned()])
    }
}

fn connect(url: &str, prefix: &str) -> OpenSearchRecords {
    OpenSearchRecords::new(options(url, prefix)).expect("good options")
}

impl Factory for OpenSearch {
    fn index(&self) -> Arc<dyn RecordIndex> {
        Arc::clone(&self.index) as Arc<dyn RecordIndex>
    }

    fn another(&self) -> Arc<dyn RecordIndex> {
        Arc::new(connect(&self.url, &self.prefix))
    }

    async fn settle(&self) {
        self.ask("POST", &format!("{}-*/_refresh?allow_no_indices=true", self.prefix), None).await;
    }
}

impl Drop for OpenSearch {
    fn drop(&mut self) {
        let (url, prefix) = (self.url.clone(), self.prefix.clone());
        // In a thread of its own, since futures run here.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let client = reqwest::Client::new();
                for path in [format!("{prefix}-*"), format!("_index_template/{prefix}-*")] {
                    let _ = client.delete(format!("{url}/{path}")).send().await;
                }
            });
        });
        let _ = dropped.join();
    }
}

crate::contract::index_contract!(OpenSearch::new());

#[tokio::test]
async fn an_index_holds_a_month_and_knows_only_its_fields() {
    let opensearch = OpenSearch::new();
    let index = opensearch.index();
    write(&*index, vec![pushed(id(1), "u:ann", "hi")]).await;
    let indices = opensearch.indices().await;
    let [name] = indices.as_slice() else { panic!("{indices:?}") };
    let month = name.strip_prefix(&format!("{}-records-", opensearch.prefix)).expect("its prefix");
    assert!(month.len() == 7 && month.as_bytes()[4] == b'.', "{name}");
    let mapping = &opensearch.ask("GET", &format!("{name}/_mapping"), None).await[name]["mappings"];
    assert_eq!(mapping["dynamic"], "strict");
    assert_eq!(mapping["properties"]["uids"]["type"], "keyword");
    assert_eq!(mapping["properties"]["changes"]["enabled"], false);
}

#[tokio::test]
async fn a_template_that_is_newer_or_was_removed() {
    let opensearch = OpenSearch::new();
    opensearch.index.maintain(now()).await.expect("maintained");
    let path = format!("_index_template/{}-records", opensearch.prefix);
    let version =
        async || opensearch.ask("GET", &path, None).await["index_templates"][0]["index_template"]["version"].as_i64();
    assert_eq!(version().await, Some(1));
    opensearch.ask("DELETE", &path, None).await;
    opensearch.index.maintain(now()).await.expect("maintained");
    assert_eq!(version().await, Some(1), "made again");
    let newer = json!({"index_patterns": [format!("{}-records-*", opensearch.prefix)], "version": 9, "priority": 500});
    opensearch.ask("PUT", &path, Some(newer)).await;
    opensearch.index.maintain(now()).await.expect("maintained");
    assert_eq!(version().await, Some(9), "left as it is");
}

#[tokio::test]
async fn only_indices_of_ours_are_deleted() {
    let opensearch = OpenSearch::new();
    let others = format!("{}-records-old", opensearch.prefix);
    opensearch.ask("PUT", &others, Some(json!({"settings": {"number_of_replicas": 0}}))).await;
    write(&*opensearch.index, vec![pushed(id(1), "u:ann", "hi")]).await;
    opensearch.index.maintain(Timestamp(now().0 + 1_000 * DAY_MS)).await.expect("maintained");
    assert_eq!(opensearch.indices().await, [others]);
}

/// One index takes nothing for a while, another has other fields, a third is good: each item is judged alone.
#[tokio::test]
async fn items_that_cannot_be_written_do_not_hold_up_the_others() {
    let opensearch = OpenSearch::new();
    let index = opensearch.index();
    // In three months, counted back from now; retention of this index reaches further than the suite's.
    let reaching =
        OpenSearchRecords::new(OpenSearchOptions { keep_days: 90, ..options(&opensearch.url, &opensearch.prefix) });
    let reaching = reaching.expect("good options");
    reaching.maintain(now()).await.expect("maintained");
    let ids = [0, 31, 62].map(|days| id_at(Timestamp(now().0 - days * DAY_MS), 0));
    let records = ids.map(|id| pushed(id, "u:ann", "hi"));
    for record in &records[1..] {
        reaching.write(&Batch { records: vec![record.clone()], texts: Vec::new() }, now()).await.expect("written");
    }
    let mut months = opensearch.indices().await;
    months.sort();
    let [blocked, foreign] = months.as_slice() else { panic!("{months:?}") };
    let (blocked, foreign) = (blocked.clone(), foreign.clone());
    opensearch.ask("PUT", &format!("{blocked}/_settings"), Some(json!({"index.blocks.write": true}))).await;
    opensearch.ask("DELETE", &foreign, None).await;
    opensearch.ask("DELETE", &format!("_index_template/{}-records", opensearch.prefix), None).await;
    let other = json!({"settings": {"number_of_replicas": 0}, "mappings": {"dynamic": "strict", "properties": {}}});
    opensearch.ask("PUT", &foreign, Some(other)).await;

    let changed = |record: &tidegate_control::records::PushRecord| {
        record.clone().with(tidegate_control::records::Status::Acked, now())
    };
    let batch = Batch { records: records.iter().map(changed).collect(), texts: Vec::new() };
    let done = reaching.write(&batch, now()).await.expect("an answer");
    let again: Vec<String> = done.again.records.iter().map(|record| record.id.to_string()).collect();
    assert_eq!((done.changed, again), (1, of_ids(&[ids[2]])), "{done:?}", done = done.refused);
    assert_eq!(done.refused.len(), 1, "{done:?}");
    assert!(done.refused[0].reason.contains("strict_dynamic_mapping"), "{done:?}");

    let open = json!({"index.blocks.write": false});
    opensearch.ask("PUT", &format!("{blocked}/_settings"), Some(open)).await;
    let done = reaching.write(&done.again, now()).await.expect("written");
    assert_eq!((done.changed, done.again.len()), (1, 0), "{done:?}");
    drop(index);
}

#[tokio::test]
async fn another_node_is_asked_when_one_is_away() {
    let opensearch = OpenSearch::new();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address");
    let nodes = vec![format!("http://{nobody}"), opensearch.url.clone()];
    let index =
        OpenSearchRecords::new(OpenSearchOptions { nodes, ..options("", &opensearch.prefix) }).expect("good options");
    write(&index, vec![pushed(id(1), "u:ann", "hi")]).await;
    opensearch.settle().await;
    assert_eq!(find(&index, RecordQuery::default()).await.records.len(), 1);
}

#[tokio::test]
async fn nobody_there_is_unavailable() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address");
    let index = connect(&format!("http://{nobody}"), "none");
    let batch = Batch { records: vec![pushed(id(1), "u:ann", "hi")], texts: Vec::new() };
    assert!(matches!(index.write(&batch, now()).await, Err(IndexError::Unavailable(_))));
    assert!(matches!(index.records(&RecordQuery::default()).await, Err(IndexError::Unavailable(_))));
    assert!(matches!(index.maintain(now()).await, Err(IndexError::Unavailable(_))));
}

#[tokio::test]
async fn feeding_goes_on_after_the_server_was_killed() {
    let server = OwnServer::new(Server::OpenSearch);
    let url = server.up();
    let opensearch = OpenSearch::at(url.clone());
    let feed_options = FeedOptions { batch_wait: Duration::from_millis(5), ..FeedOptions::default() };
    let (feed, feeding) = Feeding::start(opensearch.index(), feed_options, breaker(), FeedMetrics::default());
    let feed_some = |from: u64| (from..from + 20).for_each(|n| feed.record(pushed(id(n), "u:ann", "hi")));
    feed_some(0);
    until("the first are written", async || feed.waiting() == 0).await;
    server.down();
    feed_some(20);
    until("it was missed", async || feed.metrics().failures.get() > 0).await;
    assert_eq!(server.up(), url);
    feed_some(40);
    until("all is written", async || feed.waiting() == 0).await;
    opensearch.settle().await;
    let page = find(&*opensearch.index, RecordQuery::default()).await;
    assert_eq!((page.records.len(), feed.metrics().dropped.get()), (60, 0));
    feeding.stop(crate::kit::DEADLINE).await;
}

#[test]
fn secrets_are_not_shown_and_bad_options_are_refused() {
    let basic = Credentials::Basic { user: "u".to_owned(), password: "s3cret".to_owned() };
    for credentials in [basic, Credentials::ApiKey("s3cret".to_owned())] {
        let options = OpenSearchOptions { credentials, ..options("http://127.0.0.1:1", "p") };
        assert!(!format!("{options:?}").contains("s3cret"));
        let index = OpenSearchRecords::new(options).expect("good options");
        assert!(!format!("{index:?}").contains("s3cret"));
    }
    let refused = |options: OpenSearchOptions| OpenSearchRecords::new(options).expect_err("refused");
    assert!(matches!(refused(OpenSearchOptions::new(Vec::new())), OpenError::NoNode));
    for node in ["ftp://a", "a:9200", "", "http://"] {
        assert!(matches!(refused(options(node, "p")), OpenError::Node), "{node}");
    }
    for prefix in ["", "A", "a*", "a,b", "../x"] {
        assert!(matches!(refused(options("http://a", prefix)), OpenError::Prefix(_)), "{prefix}");
    }
    let line = Credentials::ApiKey("a\r\nb".to_owned());
    let options = OpenSearchOptions { credentials: line, ..options("http://a", "p") };
    assert!(matches!(refused(options), OpenError::Credentials));
}
