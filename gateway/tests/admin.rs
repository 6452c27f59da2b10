//! Health, readiness and metrics.

mod support;

use support::{Node, http};
use tidegate_gateway::LinkTarget;
use tidegate_gateway::config::OneOrMany;

#[tokio::test]
async fn readiness_follows_the_link() {
    let node = Node::start(|_| {}).await;
    assert_eq!(http::get(node.addrs.admin, "/healthz").await, (200, "ok".to_owned()));
    let (status, body) = http::get(node.addrs.admin, "/readyz").await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(http::get(node.addrs.admin, "/other").await.0, 404);
}

#[tokio::test]
async fn without_control_the_gateway_lives_but_is_not_ready() {
    // Nobody listens on a port that was just given back.
    let unused = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let (gateway, _folder) = support::start_gateway(LinkTarget::Configured, |config| {
        config.link.addr = Some(OneOrMany::One(format!("http://{unused}")));
    });
    let admin = gateway.addrs().admin;
    assert_eq!(http::get(admin, "/healthz").await.0, 200);
    let (status, body) = http::get(admin, "/readyz").await;
    assert_eq!(status, 503, "{body}");
    assert!(body.contains("\"link\":false"), "{body}");
    tokio::task::spawn_blocking(move || gateway.drain()).await.expect("drained");
}

#[tokio::test]
async fn metrics_count_what_happened() {
    let node = Node::start(|_| {}).await;
    let _client = node.join("alice").await;
    let request = http::upgrade(node.addrs.client, "/nothing", &[]);
    assert_eq!(http::status(node.addrs.client, &request).await, 404);
    assert!(node.metric("tidegate_gateway_handshakes_total{result=\"accepted\"}").await >= 1.0);
    assert!(node.metric("tidegate_gateway_handshakes_total{result=\"not_found\"}").await <= 1.0);
    assert_eq!(node.metric("tidegate_gateway_connections").await, 1.0);
    assert_eq!(node.metric("tidegate_gateway_link_up").await, 1.0);
    assert_eq!(node.metric("tidegate_gateway_connects_total").await, 1.0);
    assert!(node.metric("tidegate_gateway_sends_total").await >= 1.0);
}

#[test]
fn a_bad_configuration_starts_nothing() {
    let config = tidegate_gateway::Config { name: "a b".into(), window_ms: 5_000, ..Default::default() };
    let Err(error) = tidegate_gateway::Gateway::start(config, LinkTarget::Configured) else {
        panic!("started");
    };
    let text = error.to_string();
    assert!(text.contains("gateway.name") && text.contains("gateway.window_ms"), "{text}");
}
