//! A token appears in no log line, at whatever level and whatever happens to it.

mod support;

use std::io::Write;
use std::sync::{Arc, Mutex};

use serde_json::json;
use support::{Client, Node, Seen, expired_token, http, token};
use tracing_subscriber::fmt::MakeWriter;

/// Keeps all lines.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("not poisoned").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Lines;

    fn make_writer(&'a self) -> Lines {
        self.clone()
    }
}

#[tokio::test]
async fn tokens_are_in_no_log_line() {
    let lines = Lines::default();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_ansi(false).with_writer(lines.clone());
    subscriber.init();
    let folder = tempfile::tempdir().expect("tempdir");
    let link_token = folder.path().join("link.token");
    std::fs::write(&link_token, "the-link-secret").expect("written");
    let mut node = Node::start(|config| {
        config.auth.dev = false;
        config.link.token_file = Some(link_token);
    })
    .await;
    let addr = node.addrs.client;
    let (good, in_band, expired) = (token("bob", 60), token("carol", 60), expired_token("dave"));
    let mut client = Client::open(addr, &format!("/api/v1/ws?token={good}"), &[]).await;
    client.await_key("welcome").await;
    let mut framed = Client::open(addr, "/api/v1/ws", &[]).await;
    framed.send_text(&json!({"id": 1, "connect": {"token": in_band}}).to_string()).await;
    framed.await_key("ok").await;
    let mut late = Client::open(addr, "/api/v1/ws", &[]).await;
    late.send_text(&json!({"id": 1, "connect": {"token": expired}}).to_string()).await;
    late.await_key("error").await;
    assert_eq!(late.next().await, Seen::Close(3501));
    let bearer = format!("Authorization: Bearer {expired}");
    assert_eq!(http::status(addr, &http::upgrade(addr, "/api/v1/ws", &[&bearer])).await, 401);
    // Refused for other reasons, with a token in the line that is wrong.
    let twice = http::upgrade(addr, &format!("/api/v1/ws?token={good}&token={good}"), &[]);
    assert_eq!(http::status(addr, &twice).await, 400);
    drop((client, framed));
    node.drain().await;

    let text = String::from_utf8(lines.0.lock().expect("not poisoned").clone()).expect("text");
    assert!(text.contains("gateway started") && text.contains("handshake refused"), "the log was captured");
    let signature = |token: &str| token.rsplit('.').next().expect("a signature").to_owned();
    for secret in [signature(&good), signature(&in_band), signature(&expired), "the-link-secret".to_owned()] {
        let found = text.lines().find(|line| line.contains(&secret));
        assert_eq!(found, None, "a secret is in the log");
    }
}
