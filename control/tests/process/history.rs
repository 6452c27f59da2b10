//! History, read cursors, and what a restart keeps.

use axum::http::StatusCode;
use serde_json::{Value, json};
use tidegate_proto::v1::HistoryRequest;

use crate::support::{Node, config};

fn seqs(body: &Value) -> Vec<u64> {
    body["messages"].as_array().expect("messages").iter().map(|m| m["seq"].as_u64().expect("seq")).collect()
}

#[tokio::test]
async fn history_is_paged() {
    let node = Node::start().await;
    for n in 1..=25 {
        node.push("g:talk", &format!("m{n}")).await;
    }
    let mut after = 0;
    let mut all = Vec::new();
    loop {
        let page = node.get(&format!("/api/v1/streams/g:talk/messages?after={after}&limit=10")).await;
        assert_eq!(page.status, StatusCode::OK, "{}", page.text);
        assert_eq!(page.body["head"], 25);
        all.extend(seqs(&page.body));
        after = page.body["next_after"].as_u64().expect("a place");
        if after >= 25 {
            break;
        }
    }
    assert_eq!(all, (1..=25).collect::<Vec<u64>>());
    let other_name = node.get("/api/v1/streams/g:talk/messages?last_seq_id=23").await;
    assert_eq!(seqs(&other_name.body), [24, 25]);
    let message = &other_name.body["messages"][0];
    assert_eq!(
        (&message["stream"], &message["type"], &message["content"], &message["priority"]),
        (&json!("g:talk"), &json!("text"), &json!("m24"), &json!("normal"))
    );
    assert!(message["ts"].as_i64().is_some_and(|ts| ts > 1_700_000_000_000));
    let ts = message["ts"].as_i64().expect("ts");
    let since = node.get(&format!("/api/v1/streams/g:talk/messages?since_ts={ts}")).await;
    assert!(seqs(&since.body).contains(&24) && seqs(&since.body).contains(&25));
    let lowered = node.get("/api/v1/streams/g:talk/messages?limit=100000").await;
    assert_eq!(seqs(&lowered.body).len(), 25);

    let request = HistoryRequest { stream: "g:talk".into(), after: 20, limit: 3 };
    let answer = node.query_client().await.history(request).await.expect("answered").into_inner();
    let got: Vec<u64> = answer.messages.iter().map(|message| message.seq).collect();
    assert_eq!((got, answer.next_after, answer.head), (vec![21, 22, 23], 23, 25));
    node.control.stop().await;
}

#[tokio::test]
async fn history_requests_are_checked() {
    let node = Node::start().await;
    for path in ["nobody/messages", "u:a/messages?after=x", "u:a/messages?limit=-1", "u:a/messages?uid=a%20b"] {
        let answer = node.get(&format!("/api/v1/streams/{path}")).await;
        assert_eq!((answer.status, answer.code()), (StatusCode::BAD_REQUEST, "BAD_REQUEST"), "{path}");
    }
    node.push("u:a", "hi").await;
    let foreign = node.get("/api/v1/streams/u:a/messages?epoch=zzzz").await;
    assert_eq!((foreign.status, foreign.code()), (StatusCode::CONFLICT, "EXPIRED"), "{}", foreign.text);
    assert_eq!((&foreign.body["error"]["head"], &foreign.body["error"]["first"]), (&json!(1), &json!(1)));
    node.control.stop().await;
}

#[tokio::test]
async fn content_of_every_kind_comes_back_as_it_went() {
    let node = Node::start().await;
    let message = json!({"type": "order", "content_b64": "AAECAw==", "metadata": {"n": 1}, "title": "t"});
    let body = json!({"to": ["u:a"], "message": message, "from": "billing", "priority": "high"});
    node.post("/api/v1/push", &body).await;
    let page = node.get("/api/v1/streams/u:a/messages?uid=a").await;
    let got = &page.body["messages"][0];
    for (field, value) in [
        ("type", json!("order")),
        ("content_b64", json!("AAECAw==")),
        ("metadata", json!({"n": 1})),
        ("title", json!("t")),
        ("from", json!("billing")),
        ("priority", json!("high")),
    ] {
        assert_eq!(got[field], value, "{field}");
    }
    assert!(got.get("content").is_none());
    node.control.stop().await;
}

#[tokio::test]
async fn a_read_cursor_is_moved_by_its_owner() {
    let node = Node::start().await;
    node.push("u:a", "hi").await;
    let read = node.post("/api/v1/streams/u:a/read?uid=a", &json!({"seq": 1})).await;
    assert_eq!(read.status, StatusCode::OK, "{}", read.text);
    for (path, body) in
        [("u:a/read?uid=a", json!({})), ("u:a/read?uid=a", json!({"seq": "1"})), ("u:a/read", json!({"seq": 1}))]
    {
        let answer = node.post(&format!("/api/v1/streams/{path}"), &body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{path} {body}");
    }
    let other = node.post("/api/v1/streams/u:a/read?uid=b", &json!({"seq": 1})).await;
    assert!(other.status.is_client_error());
    node.control.stop().await;
}

#[tokio::test]
async fn a_restart_keeps_everything() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = Node::start_with(config(folder.path())).await;
    let key = json!({"to": ["u:a"], "message": {"content": "keyed"}, "message_id": "k"});
    let first = node.post("/api/v1/push", &key).await.body["results"][0].clone();
    for n in 0..10 {
        node.push("g:talk", &n.to_string()).await;
    }
    node.post("/api/v1/groups?uid=alice", &json!({"gid": "team", "members": ["bob"]})).await;
    node.control.stop().await;

    let node = Node::start_with(config(folder.path())).await;
    let again = node.post("/api/v1/push", &key).await.body["results"][0].clone();
    assert_eq!(again["duplicate"], true);
    for field in ["seq", "epoch", "message_id"] {
        assert_eq!(again[field], first[field], "{field}");
    }
    assert_eq!(seqs(&node.get("/api/v1/streams/g:talk/messages").await.body), (1..=10).collect::<Vec<u64>>());
    assert_eq!(node.push("g:talk", "next").await["seq"], 11);
    assert_eq!(node.get("/api/v1/groups?uid=bob").await.body["groups"][0]["gid"], "team");
    node.control.stop().await;
}
