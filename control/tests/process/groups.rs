//! Groups over REST.

use axum::http::StatusCode;
use serde_json::{Value, json};
use tidegate_control::Config;

use crate::support::{Node, config};

fn uids(members: &Value) -> Vec<&str> {
    members["members"].as_array().expect("members").iter().map(|m| m["uid"].as_str().expect("uid")).collect()
}

#[tokio::test]
async fn a_group_from_its_making_to_its_end() {
    let node = Node::start().await;
    let body = json!({"gid": "team", "name": "The team", "mode": "members", "members": ["bob", "carol"]});
    let made = node.post("/api/v1/groups?uid=alice", &body).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    assert_eq!(
        (&made.body["gid"], &made.body["stream"], &made.body["mode"]),
        (&json!("team"), &json!("g:team"), &json!("members"))
    );
    let twice = node.post("/api/v1/groups?uid=alice", &body).await;
    assert!(twice.status.is_client_error(), "{}", twice.text);

    let listed = node.get("/api/v1/groups?uid=bob").await;
    assert_eq!(listed.body["groups"][0]["gid"], "team");
    let members = node.get("/api/v1/groups/team/members?uid=bob").await;
    assert_eq!(uids(&members.body), ["alice", "bob", "carol"]);
    assert!(members.body.get("next_after").is_none());
    let page = node.get("/api/v1/groups/team/members?uid=bob&limit=2").await;
    assert_eq!((uids(&page.body), &page.body["next_after"]), (vec!["alice", "bob"], &json!("bob")));
    let rest = node.get("/api/v1/groups/team/members?uid=bob&limit=2&after=bob").await;
    assert_eq!(uids(&rest.body), ["carol"]);

    // Strangers neither see nor join it, and are not told whether it exists.
    for path in ["/api/v1/groups/team/members?uid=mallory", "/api/v1/groups/none/members?uid=mallory"] {
        assert_eq!(node.get(path).await.status, StatusCode::NOT_FOUND);
    }
    let joined = node.post("/api/v1/groups/team/members?uid=mallory", &json!({})).await;
    assert!(joined.status == StatusCode::FORBIDDEN || joined.status == StatusCode::NOT_FOUND, "{}", joined.text);

    let added = node.post("/api/v1/groups/team/members?uid=alice", &json!({"uids": ["dave", "erin"]})).await;
    assert_eq!(added.status, StatusCode::OK, "{}", added.text);
    assert_eq!(added.body["results"][1]["status"], "ok");
    let left = node.call("DELETE", "/api/v1/groups/team/members/bob?uid=bob", &[], "").await;
    assert_eq!(left.status, StatusCode::OK, "{}", left.text);
    let members = node.get("/api/v1/groups/team/members?uid=alice").await;
    assert_eq!(uids(&members.body), ["alice", "carol", "dave", "erin"]);
    let kicked = node.call("DELETE", "/api/v1/groups/team/members/alice?uid=erin", &[], "").await;
    assert_eq!((kicked.status, kicked.code()), (StatusCode::FORBIDDEN, "FORBIDDEN"));

    let ended = node.call("DELETE", "/api/v1/groups/team?uid=alice", &[], "").await;
    assert_eq!(ended.status, StatusCode::OK, "{}", ended.text);
    assert_eq!(node.get("/api/v1/groups/team/members?uid=alice").await.status, StatusCode::NOT_FOUND);
    assert_eq!(node.get("/api/v1/groups?uid=carol").await.body["groups"], json!([]));
    node.control.stop().await;
}

#[tokio::test]
async fn anyone_joins_an_open_group() {
    let node = Node::start().await;
    let made = node.post("/api/v1/groups?uid=alice", &json!({"name": "room", "mode": "open"})).await;
    let gid = made.body["gid"].as_str().expect("a gid of our making").to_owned();
    assert!(gid.len() >= 12);
    let joined = node.post(&format!("/api/v1/groups/{gid}/members?uid=bob"), &json!({})).await;
    assert_eq!(joined.status, StatusCode::OK, "{}", joined.text);
    let members = node.get(&format!("/api/v1/groups/{gid}/members?uid=stranger")).await;
    assert_eq!(members.status, StatusCode::OK);
    assert!(uids(&members.body).contains(&"bob"));
    node.control.stop().await;
}

#[tokio::test]
async fn group_bodies_are_checked() {
    let node = Node::start().await;
    let bad = json!({"gid": "a b", "name": 5, "mode": "secret", "members": ["ok", "not ok"]});
    let answer = node.post("/api/v1/groups?uid=alice", &bad).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    let fields = answer.body["error"]["problems"].as_array().expect("problems").len();
    assert_eq!(fields, 4, "{}", answer.text);
    assert_eq!(node.post("/api/v1/groups/x/members", &json!({})).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(node.get("/api/v1/groups").await.status, StatusCode::BAD_REQUEST);
    assert_eq!(node.get("/api/v1/groups/a%20b/members").await.status, StatusCode::BAD_REQUEST);
    node.control.stop().await;
}

#[tokio::test]
async fn without_auto_groups_nothing_is_pushed_to_a_group_that_is_not_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = Node::start_with(Config { auto_groups: false, ..config(folder.path()) }).await;
    let answer = node.post("/api/v1/push", &json!({"to": ["g:none", "u:a"], "message": {}})).await;
    assert_eq!(answer.body["results"][0]["error"]["code"], "NOT_FOUND");
    assert_eq!(answer.body["results"][1]["status"], "accepted");
    node.control.stop().await;
}
