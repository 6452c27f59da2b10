//! Health, metrics, the example page, unknown paths; health and reflection over gRPC.

use axum::http::StatusCode;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::support::Node;

#[tokio::test]
async fn what_a_scraper_and_a_balancer_ask() {
    let node = Node::start().await;
    node.push("u:a", "hi").await;
    for path in ["/healthz", "/readyz"] {
        assert_eq!(node.get(path).await.status, StatusCode::OK, "{path}");
    }
    let mut text = String::new();
    // The partition's counters are taken over with its ticks.
    tokio::time::timeout(crate::support::DEADLINE, async {
        while !text.contains("tidegate_control_pushes_total 1") {
            text = node.get("/metrics").await.text;
        }
    })
    .await
    .unwrap_or_else(|_| panic!("the push is not counted:\n{text}"));
    for metric in ["tidegate_control_queue_depth", "tidegate_control_commit_seconds_bucket", "tidegate_control_links 0"]
    {
        assert!(text.contains(metric), "{metric} is missing in\n{text}");
    }
    node.control.stop().await;
}

#[tokio::test]
async fn the_page_knows_the_client_port() {
    let node = Node::start().await;
    node.control.set_client_port(4_321);
    let page = node.get("/").await;
    assert_eq!(page.status, StatusCode::OK);
    assert!(page.text.contains("data-client-port=\"4321\""));
    assert!(page.headers["content-type"].to_str().expect("text").starts_with("text/html"));
    assert!(page.headers.contains_key("content-security-policy"));
    assert_eq!(node.get("/dev/config").await.body["client_port"], 4_321);
    node.control.stop().await;
}

#[tokio::test]
async fn unknown_paths_and_methods_are_errors_of_ours() {
    let node = Node::start().await;
    let unknown = node.get("/api/v1/nothing").await;
    assert_eq!((unknown.status, unknown.code()), (StatusCode::NOT_FOUND, "NOT_FOUND"));
    let method = node.get("/api/v1/push").await;
    assert_eq!((method.status, method.code()), (StatusCode::METHOD_NOT_ALLOWED, "BAD_REQUEST"));
    let planned = node.get("/api/v1/unread").await;
    assert_eq!((planned.status, planned.code()), (StatusCode::NOT_IMPLEMENTED, "UNIMPLEMENTED"));
    node.control.stop().await;
}

#[tokio::test]
async fn in_development_every_users_place_is_the_gateway_beside_us() {
    let node = Node::start().await;
    node.control.set_client_port(4_321);
    let nobody = node.get("/api/v1/endpoint").await;
    assert_eq!((nobody.status, nobody.code()), (StatusCode::BAD_REQUEST, "BAD_REQUEST"));
    let alone = node.get("/api/v1/endpoint?uid=alice").await;
    assert_eq!((alone.status, alone.code()), (StatusCode::NOT_FOUND, "NOT_FOUND"), "no gateway is attached");
    node.control.stop().await;
}

#[tokio::test]
async fn grpc_health_and_reflection_are_on() {
    let node = Node::start().await;
    let channel = tonic::transport::Endpoint::new(node.grpc()).expect("address").connect().await.expect("connected");
    let service = "tidegate.v1.PushService".to_owned();
    let answer = HealthClient::new(channel.clone()).check(HealthCheckRequest { service }).await.expect("answered");
    assert_eq!(answer.into_inner().status(), ServingStatus::Serving);

    let list = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(channel);
    let mut stream = client.server_reflection_info(tokio_stream::iter([list])).await.expect("answered").into_inner();
    let answer = stream.message().await.expect("no error").expect("an answer");
    let Some(MessageResponse::ListServicesResponse(listed)) = answer.message_response else { panic!("a list") };
    let names: Vec<&str> = listed.service.iter().map(|service| service.name.as_str()).collect();
    for name in ["tidegate.v1.PushService", "tidegate.v1.QueryService", "tidegate.v1.GatewayLink"] {
        assert!(names.contains(&name), "{name} is missing in {names:?}");
    }
    node.control.stop().await;
}
