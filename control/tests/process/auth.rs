//! Who is let in, and who is not.

use std::fs;

use axum::http::StatusCode;
use serde_json::json;
use tidegate_auth::{Issuer, dev};
use tidegate_control::{Config, Control, StartError};
use tidegate_proto::v1::HistoryRequest;
use tonic::{Code, Request};

use crate::support::{Node, config, push_request};

const SERVICE_TOKEN: &str = "0123456789abcdef0123456789abcdef-service";
const BODY: &str = r#"{"to":["u:a"],"message":{"content":"hi"}}"#;
const JSON: (&str, &str) = ("content-type", "application/json");

fn now_ms() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock").as_millis() as i64
}

#[tokio::test]
async fn development_auth_is_for_this_machine_and_our_own_pages() {
    let node = Node::start().await;
    let port = node.control.addrs().http.port();
    let own = format!("http://localhost:{port}");
    let client_page = "http://127.0.0.1:8080";
    for origin in [own.as_str(), client_page] {
        let answer = node.call("POST", "/api/v1/push", &[JSON, ("origin", origin)], BODY).await;
        assert_eq!(answer.status, StatusCode::OK, "{origin}");
    }
    let wrong_port = format!("localhost:{}", port.wrapping_add(1));
    for refused in [
        ("origin", "http://evil.example"),
        ("origin", "null"),
        ("origin", "http://localhost:1"),
        ("host", "evil.example"),
        ("host", wrong_port.as_str()),
        ("x-forwarded-for", "10.0.0.1"),
        ("forwarded", "for=10.0.0.1"),
        ("via", "1.1 proxy"),
    ] {
        let answer = node.call("POST", "/api/v1/push", &[JSON, refused], BODY).await;
        assert_eq!((answer.status, answer.code()), (StatusCode::FORBIDDEN, "FORBIDDEN"), "{refused:?}");
        let answer = node.call("GET", "/api/v1/streams/u:a/messages?uid=a", &[refused], "").await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{refused:?}");
    }
    // A page elsewhere can send a form, which is no JSON.
    let form =
        node.call("POST", "/api/v1/push", &[("content-type", "text/plain"), ("origin", own.as_str())], BODY).await;
    assert_eq!(form.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    node.control.set_client_port(7_777);
    let moved = node.call("POST", "/api/v1/push", &[JSON, ("origin", "http://localhost:7777")], BODY).await;
    assert_eq!(moved.status, StatusCode::OK);
    node.control.stop().await;
}

#[tokio::test]
async fn service_tokens_push_and_users_read_their_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let tokens = folder.path().join("tokens");
    fs::write(&tokens, format!("# backends\n\n{SERVICE_TOKEN}\n")).expect("written");
    let key = dev::dev_key(folder.path()).expect("a key");
    let issuer = Issuer::new(&key, None).expect("an issuer");
    let alice = format!("Bearer {}", issuer.issue("alice", None, None, now_ms(), 60).expect("a token"));
    let late = format!("bearer {}", issuer.issue("alice", None, None, now_ms() - 7_200_000, 60).expect("a token"));
    let keys = vec![tidegate_control::config::KeyConfig {
        algorithm: tidegate_auth::Algorithm::HS256,
        file: folder.path().join(dev::KEY_FILE),
        id: None,
    }];
    let auth = tidegate_control::config::AuthConfig { keys, ..Default::default() };
    let node =
        Node::start_with(Config { dev_auth: false, service_tokens_file: Some(tokens), auth, ..config(folder.path()) })
            .await;
    let service = format!("Bearer {SERVICE_TOKEN}");
    let service = ("authorization", service.as_str());
    let alice = ("authorization", alice.as_str());

    assert_eq!(node.call("POST", "/api/v1/push", &[JSON, service], BODY).await.status, StatusCode::OK);
    for wrong in ["Bearer nonsense", "Basic YTpi", "Bearer", late.as_str()] {
        let answer = node.call("POST", "/api/v1/push", &[JSON, ("authorization", wrong)], BODY).await;
        assert_eq!((answer.status, answer.code()), (StatusCode::UNAUTHORIZED, "UNAUTHENTICATED"), "{wrong}");
        assert!(!answer.text.contains("nonsense"), "an error shows no token");
    }
    let nobody = node.call("POST", "/api/v1/push", &[JSON], BODY).await;
    assert_eq!(nobody.status, StatusCode::UNAUTHORIZED);
    assert_eq!(nobody.headers["www-authenticate"], "Bearer");
    assert_eq!(node.call("POST", "/api/v1/push", &[JSON, alice], BODY).await.status, StatusCode::FORBIDDEN);

    let push = json!({"to": ["u:alice", "u:bob"], "message": {"content": "hi"}}).to_string();
    assert_eq!(node.call("POST", "/api/v1/push", &[JSON, service], push).await.status, StatusCode::OK);
    let own = node.call("GET", "/api/v1/streams/u:alice/messages", &[alice], "").await;
    assert_eq!((own.status, &own.body["messages"][0]["content"]), (StatusCode::OK, &json!("hi")));
    let other = node.call("GET", "/api/v1/streams/u:bob/messages", &[alice], "").await;
    assert!(other.status == StatusCode::FORBIDDEN || other.status == StatusCode::NOT_FOUND, "{}", other.text);
    let as_bob = node.call("GET", "/api/v1/streams/u:bob/messages?uid=bob", &[alice], "").await;
    assert_eq!(as_bob.status, StatusCode::FORBIDDEN);
    let all = node.call("GET", "/api/v1/streams/u:bob/messages", &[service], "").await;
    assert_eq!(all.status, StatusCode::OK);
    // The example page is for development.
    assert_eq!(node.call("GET", "/", &[], "").await.status, StatusCode::NOT_FOUND);

    let mut push = node.push_client().await;
    let status = push.push(push_request("u:a", "x")).await.expect_err("refused");
    assert_eq!(status.code(), Code::Unauthenticated);
    let mut request = Request::new(push_request("u:a", "x"));
    request.metadata_mut().insert("authorization", service.1.parse().expect("metadata"));
    push.push(request).await.expect("accepted");
    let history = HistoryRequest { stream: "u:a".into(), ..Default::default() };
    let status = node.query_client().await.history(history).await.expect_err("refused");
    assert_eq!(status.code(), Code::Unauthenticated);
    node.control.stop().await;
}

#[tokio::test]
async fn a_process_without_good_settings_does_not_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let open = Config { http_addr: ([0, 0, 0, 0], 0).into(), ..config(folder.path()) };
    match Control::start(open).await {
        Err(StartError::Config(problems)) => assert_eq!(problems.len(), 2, "dev_auth and auto_groups"),
        _ => panic!("started on all addresses with development auth"),
    }
    let short = folder.path().join("short");
    fs::write(&short, "secret\n").expect("written");
    let config = Config { service_tokens_file: Some(short), ..config(folder.path()) };
    match Control::start(config).await {
        Err(StartError::Auth(error)) => assert!(!error.to_string().contains("secret")),
        _ => panic!("started with a short service token"),
    }
}
