//! `POST /api/v1/push` over kept-alive connections.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::header::CONTENT_TYPE;
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::{Deserialize, Serialize};
use tidegate_proto::v1::{PushError, PushRequest, PushResult, PushStatus};

use super::calls::Called;
use crate::payload::TYPE;

#[derive(Clone, Debug)]
pub struct Rest {
    client: Client<HttpConnector, Full<Bytes>>,
    uri: Uri,
}

#[derive(Serialize)]
struct Body<'a> {
    to: &'a [String],
    message: Message<'a>,
    message_id: &'a str,
}

#[derive(Serialize)]
struct Message<'a> {
    r#type: &'a str,
    content: &'a str,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    results: Vec<Outcome>,
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Outcome {
    to: String,
    status: String,
    #[serde(default)]
    message_id: String,
    #[serde(default)]
    epoch: String,
    seq: Option<u64>,
    #[serde(default)]
    duplicate: bool,
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Refusal {
    code: String,
}

impl Rest {
    /// Errors: what is wrong with the address.
    pub fn new(api: &str) -> Result<Rest, String> {
        let uri = format!("{}/api/v1/push", api.trim_end_matches('/'));
        let uri = uri.parse::<Uri>().map_err(|error| format!("{uri}: {error}"))?;
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Ok(Rest { client: Client::builder(TokioExecutor::new()).build(connector), uri })
    }

    pub async fn call(&self, push: PushRequest) -> Called {
        let content = push.message.as_ref().map_or("", |message| message.content.as_str());
        let message = Message { r#type: TYPE, content };
        let body = Body { to: &push.to, message, message_id: &push.message_id };
        let Ok(body) = serde_json::to_vec(&body) else { return Called::Refused("not JSON".to_owned()) };
        let request = Request::builder()
            .method(Method::POST)
            .uri(self.uri.clone())
            .header(CONTENT_TYPE, "application/json")
            .body(Full::from(body));
        let Ok(request) = request else { return Called::Refused("no HTTP request".to_owned()) };
        let Ok(response) = self.client.request(request).await else { return Called::Lost };
        let status = response.status();
        let Ok(body) = response.into_body().collect().await else { return Called::Lost };
        read(status, &body.to_bytes())
    }
}

fn read(status: StatusCode, body: &[u8]) -> Called {
    let answer = serde_json::from_slice::<Answer>(body);
    match answer {
        Ok(Answer { results, .. }) if status.is_success() => match results.into_iter().next() {
            Some(outcome) => Called::Answer(Box::new(outcome.into())),
            None => Called::Refused("no result".to_owned()),
        },
        Ok(Answer { error: Some(error), .. }) if error.code == "UNAVAILABLE" => Called::Unknown,
        Ok(Answer { error: Some(error), .. }) => Called::Refused(error.code),
        Ok(_) | Err(_) => Called::Refused(format!("HTTP {}", status.as_u16())),
    }
}

impl From<Outcome> for PushResult {
    fn from(outcome: Outcome) -> Self {
        let status = match outcome.status.as_str() {
            "accepted" => PushStatus::Accepted,
            "queued" => PushStatus::Queued,
            _ => PushStatus::Error,
        };
        PushResult {
            to: outcome.to,
            status: status.into(),
            message_id: outcome.message_id,
            epoch: outcome.epoch,
            seq: outcome.seq,
            duplicate: outcome.duplicate,
            error: outcome.error.map(|error| PushError { code: error.code, ..PushError::default() }),
            ..PushResult::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        let body =
            br#"{"results":[{"to":"g:a","status":"accepted","message_id":"72","epoch":"e","seq":4,"duplicate":true}]}"#;
        let Called::Answer(answer) = read(StatusCode::OK, body) else { panic!("an answer") };
        assert_eq!((answer.status(), answer.seq, answer.duplicate), (PushStatus::Accepted, Some(4), true));
        let body =
            br#"{"results":[{"to":"g:a","status":"error","error":{"code":"NOT_FOUND","message":"","retry":false}}]}"#;
        let Called::Answer(answer) = read(StatusCode::OK, body) else { panic!("an answer") };
        assert_eq!(answer.error.expect("an error").code, "NOT_FOUND");
    }

    #[test]
    fn refusals_are_told_from_the_unknown() {
        let body = br#"{"error":{"code":"UNAVAILABLE","message":"later","retry":true}}"#;
        assert!(matches!(read(StatusCode::SERVICE_UNAVAILABLE, body), Called::Unknown));
        let body = br#"{"error":{"code":"TOO_LARGE","message":"","retry":false}}"#;
        assert!(matches!(read(StatusCode::PAYLOAD_TOO_LARGE, body), Called::Refused(code) if code == "TOO_LARGE"));
        assert!(matches!(read(StatusCode::BAD_GATEWAY, b"<html>"), Called::Refused(code) if code == "HTTP 502"));
    }
}
