use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap as Headers;
use axum::routing::post;

use super::*;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn webhook(settings: &PushSettings) -> Webhook {
    Webhook::new(settings, Arc::new(Guard::new(BREAKER))).expect("a webhook")
}

/// A service that answers with a status and keeps what it was asked.
#[derive(Clone, Default)]
struct Service {
    status: Arc<AtomicU16>,
    asked: Arc<Mutex<Vec<(Headers, Bytes)>>>,
}

impl Service {
    async fn start(status: u16) -> (Service, Webhook, tempfile::TempDir) {
        let service = Service { status: Arc::new(AtomicU16::new(status)), asked: Arc::default() };
        let router = axum::Router::new().route("/push", post(answer)).with_state(service.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/push?token=s3cret", listener.local_addr().expect("an address"));
        tokio::spawn(async move { axum::serve(listener, router).await });
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("secret");
        std::fs::write(&file, format!("{SECRET}\n")).expect("written");
        let settings = PushSettings { url: Some(url), secret_file: Some(file), ..PushSettings::default() };
        (service, webhook(&settings), folder)
    }

    fn says(&self, status: u16) {
        self.status.store(status, Ordering::Relaxed);
    }

    fn asked(&self) -> usize {
        self.asked.lock().expect("a lock").len()
    }
}

async fn answer(State(service): State<Service>, headers: Headers, body: Bytes) -> axum::http::StatusCode {
    service.asked.lock().expect("a lock").push((headers, body));
    axum::http::StatusCode::from_u16(service.status.load(Ordering::Relaxed)).expect("a status")
}

fn push() -> OfflinePush {
    let texts = ["bob", "77", "A title", "hi", "one_to_one"].map(str::to_owned);
    let [user_id, message_id, title, content, push_type] = texts;
    OfflinePush { user_id, message_id, title, content, push_type }
}

/// Test case 2 of RFC 4231, and a key longer than a block: case 6.
#[test]
fn the_mac_is_that_of_the_rfc() {
    let hex = |mac: [u8; 32]| mac.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(
        hex(hmac(b"Jefe", &[b"what do ya want ", b"for nothing?"])),
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    );
    assert_eq!(
        hex(hmac(&[0xaa; 131], &[b"Test Using Larger Than Block-Size Key - Hash Key First"])),
        "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
    );
}

#[tokio::test]
async fn a_push_is_posted_signed_and_named() {
    let (service, webhook, _folder) = Service::start(204).await;
    webhook.send("77:bob", &push()).await.expect("taken");
    let (headers, body) = service.asked.lock().expect("a lock").remove(0);
    let header = |name: &str| headers[name].to_str().expect("text").to_owned();
    assert_eq!(header("idempotency-key"), "77:bob");
    assert_eq!(header(SIGNATURE), signature(SECRET.as_bytes(), &header(TIMESTAMP), &body));
    assert!(header(TIMESTAMP).parse::<i64>().expect("seconds") > 1_700_000_000);
    let expected = serde_json::json!({
        "task_id": "77:bob", "user_id": "bob", "message_id": "77", "title": "A title", "content": "hi",
        "push_type": "one_to_one",
    });
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&body).expect("JSON"), expected);
}

#[tokio::test]
async fn a_no_is_final_and_trouble_is_not() {
    let (service, webhook, _folder) = Service::start(422).await;
    let patient = BreakerConfig { requests_min: 1_000, ..BREAKER };
    let webhook = Webhook { guard: Arc::new(Guard::new(patient)), ..webhook };
    let refused = webhook.send("1", &push()).await.expect_err("refused");
    assert!(matches!(refused, Failure::Record { .. }), "{refused:?}");
    for status in [500, 429, 401, 302] {
        service.says(status);
        let failed = webhook.send("1", &push()).await.expect_err("in trouble");
        assert!(matches!(failed, Failure::Dependency(_)), "{status}: {failed:?}");
    }
}

#[tokio::test]
async fn a_service_that_fails_is_left_alone_for_a_while_and_then_tried_once() {
    let (service, webhook, _folder) = Service::start(500).await;
    for _ in 0..20 {
        webhook.send("1", &push()).await.expect_err("in trouble");
    }
    let asked = service.asked();
    assert!((BREAKER.requests_min as usize..20).contains(&asked), "asked {asked} times");
    service.says(200);
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while webhook.send("1", &push()).await.is_err() {
        assert!(std::time::Instant::now() < deadline, "never again");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    webhook.send("2", &push()).await.expect("it goes on");
}

#[tokio::test]
async fn nobody_there_is_trouble_and_the_url_is_not_told() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/push?token=s3cret", listener.local_addr().expect("an address"));
    drop(listener);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("secret");
    std::fs::write(&file, SECRET).expect("written");
    let settings = PushSettings { url: Some(url), secret_file: Some(file.clone()), ..PushSettings::default() };
    let webhook = webhook(&settings);
    let Err(Failure::Dependency(why)) = webhook.send("1", &push()).await else { panic!("there is nobody") };
    assert!(!why.contains("s3cret"), "{why}");
    std::fs::write(&file, "short").expect("written");
    assert!(matches!(Webhook::new(&settings, Arc::default()), Err(WebhookError::Secret(_))));
}
