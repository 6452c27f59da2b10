//! A node of its own for each test, and the few calls that tests make.

use std::path::Path;
use std::time::Duration;

use axum::http::{HeaderMap, Request, StatusCode};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tempfile::TempDir;
use tidegate_control::{Config, Control};
use tidegate_proto::v1::push_service_client::PushServiceClient;
use tidegate_proto::v1::query_service_client::QueryServiceClient;
use tidegate_proto::v1::{PushMessage, PushRequest};
use tonic::transport::Channel;

/// Generous: a test waits for a condition, and fails only if it never comes.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// A node in development mode unless told otherwise.
pub struct Node {
    pub control: Control,
    _folder: Option<TempDir>,
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Value,
    pub text: String,
}

impl Answer {
    pub fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or_default()
    }
}

pub fn config(data_dir: &Path) -> Config {
    Config {
        http_addr: ([127, 0, 0, 1], 0).into(),
        grpc_addr: ([127, 0, 0, 1], 0).into(),
        data_dir: data_dir.to_owned(),
        ..Config::dev()
    }
}

impl Node {
    pub async fn start() -> Node {
        let folder = tempfile::tempdir().expect("a folder");
        let control = Control::start(config(folder.path())).await.expect("started");
        Node { control, _folder: Some(folder) }
    }

    /// With other settings, in a folder that the test keeps.
    pub async fn start_with(config: Config) -> Node {
        Node { control: Control::start(config).await.expect("started"), _folder: None }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.control.addrs().http)
    }

    pub async fn call(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        let mut request = Request::builder().method(method).uri(self.url(path));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).expect("a request");
        let client = Client::builder(TokioExecutor::new()).build_http();
        let response = client.request(request).await.expect("a response");
        let (head, body) = response.into_parts();
        let bytes = body.collect().await.expect("a body").to_bytes();
        let text = String::from_utf8(bytes.to_vec()).expect("text");
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        Answer { status: head.status, headers: head.headers, body, text }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, &[], "").await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.call("POST", path, &[("content-type", "application/json")], body.to_string()).await
    }

    /// Pushes one text and returns its result, which must not be an error.
    pub async fn push(&self, to: &str, content: &str) -> Value {
        let answer = self.post("/api/v1/push", &json!({"to": [to], "message": {"content": content}})).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        let result = answer.body["results"][0].clone();
        assert_eq!(result["status"], "accepted", "{result}");
        result
    }

    pub async fn push_client(&self) -> PushServiceClient<Channel> {
        PushServiceClient::connect(self.grpc()).await.expect("connected")
    }

    pub async fn query_client(&self) -> QueryServiceClient<Channel> {
        QueryServiceClient::connect(self.grpc()).await.expect("connected")
    }

    pub fn grpc(&self) -> String {
        format!("http://{}", self.control.addrs().grpc)
    }
}

pub fn push_request(to: &str, content: &str) -> PushRequest {
    PushRequest {
        to: vec![to.to_owned()],
        message: Some(PushMessage { content: content.to_owned(), ..Default::default() }),
        ..Default::default()
    }
}
