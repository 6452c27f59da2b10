//! `POST /api/v1/push` and the unary gRPC calls.

use axum::http::StatusCode;
use serde_json::{Value, json};
use tidegate_proto::v1::{MessageClass, PresenceRequest, PushBatchRequest, PushRequest, PushStatus};
use tonic::Code;

use crate::support::{Node, push_request};

#[tokio::test]
async fn a_push_is_answered_with_its_place() {
    let node = Node::start().await;
    let first = node.push("u:alice", "one").await;
    let second = node.push("u:alice", "two").await;
    assert_eq!((&first["to"], &first["seq"], &second["seq"]), (&json!("u:alice"), &json!(1), &json!(2)));
    assert_eq!((&first["duplicate"], &first["online"]), (&json!(false), &json!(0)));
    assert_eq!(first["epoch"], second["epoch"]);
    assert!(first["epoch"].is_string() && first["message_id"].as_str().is_some_and(|id| id.parse::<u64>().is_ok()));
    assert!(first.get("error").is_none());
    node.control.stop().await;
}

#[tokio::test]
async fn a_repeated_push_is_the_first_one() {
    let node = Node::start().await;
    let body = |content: &str| json!({"to": ["u:a", "g:1"], "message": {"content": content}, "message_id": "k"});
    let first = node.post("/api/v1/push", &body("hi")).await;
    let again = node.post("/api/v1/push", &body("hi")).await;
    for at in 0..2 {
        let (first, again) = (&first.body["results"][at], &again.body["results"][at]);
        assert_eq!((&first["duplicate"], &again["duplicate"]), (&json!(false), &json!(true)));
        for field in ["seq", "epoch", "message_id", "to"] {
            assert_eq!(first[field], again[field], "{field}");
        }
    }
    let other = node.post("/api/v1/push", &body("something else")).await;
    assert_eq!(other.status, StatusCode::OK);
    assert_eq!(other.body["results"][0]["error"]["code"], "BAD_REQUEST");
    assert_eq!(node.push("u:a", "next").await["seq"], 2);
    node.control.stop().await;
}

#[tokio::test]
async fn a_partly_wrong_push_does_the_rest() {
    let node = Node::start().await;
    let to = json!(["u:a", "nobody", "c:a:b", "g:x", "u:a"]);
    let answer = node.post("/api/v1/push", &json!({"to": to, "message": {"content": "hi"}})).await;
    assert_eq!(answer.status, StatusCode::OK);
    let results = answer.body["results"].as_array().expect("results");
    let status: Vec<&str> = results.iter().map(|result| result["status"].as_str().expect("status")).collect();
    assert_eq!(status, ["accepted", "error", "error", "accepted", "error"]);
    assert_eq!(results[1]["to"], "nobody");
    assert_eq!(results[1]["error"]["code"], "BAD_REQUEST");
    assert_eq!(results[1]["error"]["retry"], false);
    assert!(results[1].get("seq").is_none() && results[1].get("duplicate").is_none());
    let answer = node.post("/api/v1/push", &json!({"to": {"alias": ["a1"], "all": true}, "message": {}})).await;
    let results = &answer.body["results"];
    assert_eq!(results[0]["error"]["code"], "UNIMPLEMENTED");
    assert_eq!((&results[1]["to"], &results[1]["status"]), (&json!("g:_all"), &json!("accepted")));
    node.control.stop().await;
}

#[tokio::test]
async fn ephemeral_messages_have_no_place() {
    let node = Node::start().await;
    let body = json!({"to": ["u:a"], "message": {"type": "typing"}, "class": "ephemeral"});
    let answer = node.post("/api/v1/push", &body).await;
    let result = &answer.body["results"][0];
    assert_eq!(result["status"], "accepted", "{result}");
    assert!(result.get("seq").is_none());
    assert_eq!(node.push("u:a", "durable").await["seq"], 1);
    node.control.stop().await;
}

#[tokio::test]
async fn bodies_that_are_refused() {
    let node = Node::start().await;
    let problems = |body: &Value| {
        let listed = body["error"]["problems"].as_array().cloned().unwrap_or_default();
        listed.iter().map(|problem| problem["field"].as_str().expect("field").to_owned()).collect::<Vec<_>>()
    };
    let bad = node.post("/api/v1/push", &json!({"to": 7, "message": {"type": 1, "metadata": []}, "ttl_s": "x"})).await;
    assert_eq!((bad.status, bad.code()), (StatusCode::BAD_REQUEST, "BAD_REQUEST"));
    let mut fields = problems(&bad.body);
    fields.sort();
    assert_eq!(fields, ["message.metadata", "message.type", "to", "ttl_s"]);
    assert_eq!(bad.body["error"]["retry"], false);

    let json_type = ("content-type", "application/json");
    let cut = node.call("POST", "/api/v1/push", &[json_type], "{\"to\":").await;
    assert_eq!((cut.status, cut.code()), (StatusCode::BAD_REQUEST, "BAD_REQUEST"));
    let not_utf8 = node.call("POST", "/api/v1/push", &[json_type], &b"{\"to\":[\"\xff\"]}"[..]).await;
    assert_eq!(not_utf8.status, StatusCode::BAD_REQUEST);
    for kind in ["text/plain", "application/x-www-form-urlencoded", ""] {
        let answer = node.call("POST", "/api/v1/push", &[("content-type", kind)], "{}").await;
        assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{kind}");
    }
    let with_charset = [("content-type", "application/json; charset=utf-8")];
    let good = node.call("POST", "/api/v1/push", &with_charset, r#"{"to":["u:a"],"message":{}}"#).await;
    assert_eq!(good.status, StatusCode::OK);

    let large = node.post("/api/v1/push", &json!({"to": ["u:a"], "message": {"content": "x".repeat(1 << 20)}})).await;
    assert_eq!((large.status, large.code()), (StatusCode::PAYLOAD_TOO_LARGE, "TOO_LARGE"));
    let content = node.post("/api/v1/push", &json!({"to": ["u:a"], "message": {"content": "x".repeat(70_000)}})).await;
    assert_eq!((content.status, content.code()), (StatusCode::PAYLOAD_TOO_LARGE, "TOO_LARGE"));
    let many: Vec<String> = (0..1_001).map(|n| format!("u:{n}")).collect();
    let many = node.post("/api/v1/push", &json!({"to": many, "message": {}})).await;
    assert_eq!(many.status, StatusCode::BAD_REQUEST);
    let routed = node.post("/api/v1/push", &json!({"to": ["u:a"], "message": {}, "ack": "routed"})).await;
    assert_eq!(routed.status, StatusCode::BAD_REQUEST);
    node.control.stop().await;
}

#[tokio::test]
async fn a_thousand_targets_in_one_push() {
    let node = Node::start().await;
    let to: Vec<String> = (0..1_000).map(|n| format!("u:user-{n}")).collect();
    let answer = node.post("/api/v1/push", &json!({"to": to, "message": {"content": "hi"}})).await;
    let results = answer.body["results"].as_array().expect("results");
    assert_eq!(results.len(), 1_000);
    for (to, result) in to.iter().zip(results) {
        assert_eq!((result["to"].as_str(), &result["seq"]), (Some(to.as_str()), &json!(1)));
    }
    node.control.stop().await;
}

#[tokio::test]
async fn unary_and_batched_grpc_pushes() {
    let node = Node::start().await;
    let mut client = node.push_client().await;
    let answer = client.push(push_request("u:a", "one")).await.expect("answered").into_inner();
    assert_eq!((answer.results[0].status(), answer.results[0].seq), (PushStatus::Accepted, Some(1)));

    let bad = PushRequest { class: 77, ..push_request("u:a", "x") };
    let status = client.push(bad).await.expect_err("refused");
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("class"), "{}", status.message());

    let ephemeral = PushRequest { class: MessageClass::Ephemeral as i32, ..push_request("u:a", "x") };
    let two = PushRequest { to: vec!["u:a".into(), "oops".into()], corr: 5, ..push_request("", "x") };
    let requests = vec![two, PushRequest { corr: 6, ..PushRequest::default() }, ephemeral];
    let answer = client.push_batch(PushBatchRequest { requests }).await.expect("answered").into_inner();
    let shape: Vec<Vec<(u64, PushStatus, Option<u64>)>> = answer
        .responses
        .iter()
        .map(|response| response.results.iter().map(|r| (r.corr, r.status(), r.seq)).collect())
        .collect();
    assert_eq!(
        shape,
        [
            vec![(5, PushStatus::Accepted, Some(2)), (5, PushStatus::Error, None)],
            vec![(6, PushStatus::Error, None)],
            vec![(0, PushStatus::Accepted, None)]
        ]
    );
    let users = node.query_client().await.presence(PresenceRequest { uids: vec!["a".into()] }).await.expect("answered");
    assert!(!users.into_inner().users[0].online);
    node.control.stop().await;
}
