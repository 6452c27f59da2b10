//! `POST /internal/v1/deliver` on the admin listener, or on one of its own ([`door`]): an ephemeral message to whoever is connected to this very gateway.
//!
//! Nothing is stored and nothing is promised beyond the answer: who is elsewhere, or away, never hears of it.

pub mod door;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use smallvec::SmallVec;
use tidegate_auth::service::{ServiceTokens, bearer_token};
use tidegate_gateway_core::client::errors::ErrorCode;
use tidegate_gateway_core::ids::{Seq, StreamKey};
use tidegate_gateway_core::link::Message;
use tidegate_proto::v1;
use tokio::sync::{mpsc, oneshot};
use tracing::info;

use crate::platforms::{PlatformTable, is_platform};
use door::Certified;

/// Body of a request, in bytes.
pub const BODY_BYTES_MAX: usize = 256 * 1024;
/// Targets of one request.
const TARGETS_MAX: usize = 1_000;
/// Text or decoded bytes of a message.
const CONTENT_BYTES_MAX: usize = 64 * 1024;
const METADATA_BYTES_MAX: usize = 16 * 1024;
const TITLE_BYTES_MAX: usize = 256;
const WORD_BYTES_MAX: usize = 64;
const PLATFORMS_MAX: usize = 16;
/// Requests that wait for the hub; more are answered OVERLOADED.
pub const WAITING_MAX: usize = 64;
/// How long a request waits for the hub, which does not take any while a shard is behind.
const PATIENCE: Duration = Duration::from_secs(2);
const RETRY_AFTER_MS: u32 = 500;

/// One request, as the hub thread takes it.
#[derive(Debug)]
pub struct Delivery {
    pub streams: Vec<StreamKey>,
    pub message: Message,
    /// Told how many connections each stream has here.
    pub answer: oneshot::Sender<Vec<u32>>,
}

/// The way to the hub thread.
pub fn queue() -> (mpsc::Sender<Delivery>, mpsc::Receiver<Delivery>) {
    mpsc::channel(WAITING_MAX)
}

/// What the endpoint works with.
#[derive(Clone)]
pub struct Deliverer {
    pub gateway: Arc<str>,
    /// Without any the endpoint is not there on the admin listener.
    pub tokens: Option<Arc<ServiceTokens>>,
    pub platforms: Arc<PlatformTable>,
    pub hub: mpsc::Sender<Delivery>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    to: To,
    message: Said,
    /// Shown as the message's id; one is made up without it.
    message_id: Option<String>,
    class: Option<String>,
    #[serde(default)]
    platforms: Vec<String>,
    #[serde(default)]
    from: String,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum To {
    Streams(Vec<String>),
    Everybody { all: bool },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Said {
    #[serde(rename = "type", default = "text")]
    kind: String,
    #[serde(default)]
    title: String,
    #[serde(default)]
    content: String,
    #[serde(default)]
    metadata: Map<String, Value>,
}

fn text() -> String {
    "text".to_owned()
}

/// A refusal, as PROTOCOL's error object.
#[derive(Debug)]
pub struct Refused {
    status: StatusCode,
    code: ErrorCode,
    message: String,
}

impl Refused {
    fn new(status: StatusCode, code: ErrorCode, message: impl Into<String>) -> Refused {
        Refused { status, code, message: message.into() }
    }

    fn bad(message: impl Into<String>) -> Refused {
        Refused::new(StatusCode::BAD_REQUEST, ErrorCode::BadRequest, message)
    }

    fn large(message: impl Into<String>) -> Refused {
        Refused::new(StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::TooLarge, message)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let mut error = json!({"code": self.code.as_str(), "message": self.message, "retry": self.code.retry()});
        let mut headers = HeaderMap::new();
        if self.code.retry() {
            error["retry_after_ms"] = RETRY_AFTER_MS.into();
            headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_MS.div_ceil(1_000)));
        }
        (self.status, headers, Json(json!({"error": error}))).into_response()
    }
}

pub async fn deliver(
    State(deliverer): State<Deliverer>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refused> {
    let Some(tokens) = &deliverer.tokens else {
        return Err(Refused::new(StatusCode::NOT_FOUND, ErrorCode::NotFound, "this gateway takes no deliveries"));
    };
    let token = token_of(tokens, &headers).ok_or_else(|| {
        Refused::new(StatusCode::UNAUTHORIZED, ErrorCode::Unauthenticated, "a service token is needed")
    })?;
    deliverer.hand_over((Some(token), None), peer, body).await
}

/// As [`deliver`], from a caller who has shown a certificate.
pub async fn deliver_certified(
    State(deliverer): State<Deliverer>,
    Extension(caller): Extension<Certified>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refused> {
    if !caller.may_deliver {
        let text = "this certificate is not one of those that may deliver";
        return Err(Refused::new(StatusCode::FORBIDDEN, ErrorCode::Forbidden, text));
    }
    deliverer.hand_over((None, Some(&caller.name)), caller.peer, body).await
}

impl Deliverer {
    /// `token`: which one of the file; or whose certificate.
    async fn hand_over(
        self,
        (token, certificate): (Option<usize>, Option<&str>),
        peer: SocketAddr,
        body: Result<Bytes, BytesRejection>,
    ) -> Result<Response, Refused> {
        let body = body.map_err(|rejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Refused::large(format!("a body has at most {BODY_BYTES_MAX} bytes")),
            _ => Refused::bad("the body cannot be read"),
        })?;
        let asked: Asked = serde_json::from_slice(&body).map_err(|error| Refused::bad(error.to_string()))?;
        let (streams, message) = check(asked, &self.platforms)?;
        let names: Vec<String> = streams.iter().map(StreamKey::to_string).collect();
        let (answer, answered) = oneshot::channel();
        let overloaded =
            || Refused::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Overloaded, "the gateway is behind; try again");
        let ending = || Refused::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unavailable, "the gateway is ending");
        self.hub.try_send(Delivery { streams, message, answer }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => overloaded(),
            mpsc::error::TrySendError::Closed(_) => ending(),
        })?;
        let reached =
            tokio::time::timeout(PATIENCE, answered).await.map_err(|_| overloaded())?.map_err(|_| ending())?;
        let connections: u64 = reached.iter().copied().map(u64::from).sum();
        // Who did what, for whoever has to know later; never the content.
        info!(target: "tidegate::audit", action = "deliver", token, certificate, %peer, targets = names.len(), connections, "delivered by HTTP");
        let results: Vec<Value> =
            names.iter().zip(&reached).map(|(to, count)| json!({"to": to, "connections": count})).collect();
        let answer = json!({"gateway": &*self.gateway, "connections": connections, "results": results});
        Ok(Json(answer).into_response())
    }
}

/// Which token it is.
fn token_of(tokens: &ServiceTokens, headers: &HeaderMap) -> Option<usize> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    tokens.place_of(bearer_token(value.to_str().ok()?)?)
}

fn check(asked: Asked, platforms: &PlatformTable) -> Result<(Vec<StreamKey>, Message), Refused> {
    let Asked { to, message: said, message_id, class, platforms: names, from } = asked;
    if class.is_some_and(|class| class != "ephemeral") {
        return Err(Refused::bad("class: only ephemeral messages are delivered here; push the others"));
    }
    let streams = targets(to)?;
    word("message.type", &said.kind, false)?;
    word("from", &from, true)?;
    word("message_id", message_id.as_deref().unwrap_or("0"), false)?;
    if said.title.len() > TITLE_BYTES_MAX || said.title.contains(char::is_control) {
        return Err(Refused::bad(format!("message.title: at most {TITLE_BYTES_MAX} bytes, no control characters")));
    }
    if said.content.len() > CONTENT_BYTES_MAX {
        return Err(Refused::large(format!("message.content: at most {CONTENT_BYTES_MAX} bytes")));
    }
    let metadata = if said.metadata.is_empty() { String::new() } else { Value::Object(said.metadata).to_string() };
    if metadata.len() > METADATA_BYTES_MAX {
        return Err(Refused::large(format!("message.metadata: at most {METADATA_BYTES_MAX} bytes")));
    }
    if names.len() > PLATFORMS_MAX || !names.iter().all(|name| is_platform(name)) {
        return Err(Refused::bad(format!("platforms: at most {PLATFORMS_MAX} names of platforms")));
    }
    let body = v1::Message {
        id: message_id.unwrap_or_else(made_up_id),
        from,
        r#type: said.kind,
        title: said.title,
        content: said.content,
        metadata,
        ts: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64),
        priority: v1::Priority::Normal as i32,
        ..Default::default()
    };
    let platforms: SmallVec<_> = names.iter().map(|name| platforms.intern(name)).collect();
    Ok((streams, Message { seq: Seq::ZERO, body: Arc::new(body), platforms }))
}

fn targets(to: To) -> Result<Vec<StreamKey>, Refused> {
    let names = match to {
        To::Streams(names) => names,
        To::Everybody { all: true } => vec!["g:_all".to_owned()],
        To::Everybody { all: false } => return Err(Refused::bad("to.all: true, or a list of streams")),
    };
    if names.is_empty() || names.len() > TARGETS_MAX {
        return Err(Refused::bad(format!("to: 1 to {TARGETS_MAX} streams")));
    }
    let mut streams = Vec::with_capacity(names.len());
    for name in &names {
        let stream = name.parse::<StreamKey>().ok().filter(|_| name.starts_with("u:") || name.starts_with("g:"));
        let stream = stream.ok_or_else(|| Refused::bad("to: streams are u:<uid> and g:<gid>"))?;
        if streams.contains(&stream) {
            return Err(Refused::bad(format!("to: {stream} is there twice")));
        }
        streams.push(stream);
    }
    Ok(streams)
}

fn word(field: &str, text: &str, may_be_empty: bool) -> Result<(), Refused> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'@' | b'-');
    if text.len() <= WORD_BYTES_MAX && text.bytes().all(good) && (may_be_empty || !text.is_empty()) {
        return Ok(());
    }
    Err(Refused::bad(format!("{field}: at most {WORD_BYTES_MAX} letters, digits and _ . @ -")))
}

/// Nobody asks for an ephemeral message again, so it needs to be like no other one on a screen, and no more.
fn made_up_id() -> String {
    (getrandom::u64().unwrap_or(1) >> 11).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str) -> Result<(Vec<StreamKey>, Message), Refused> {
        let asked = serde_json::from_str(text).map_err(|error| Refused::bad(error.to_string()))?;
        check(asked, &PlatformTable::default())
    }

    #[test]
    fn a_request_becomes_one_message_for_its_streams() {
        let text = r#"{"to":["u:alice","g:42"],"from":"billing","platforms":["web"],"message_id":"m-1","class":"ephemeral",
            "message":{"type":"typing","content":"…","title":"t","metadata":{"a":[1]}}}"#;
        let (streams, message) = checked(text).expect("good");
        assert_eq!(streams.iter().map(ToString::to_string).collect::<Vec<_>>(), ["u:alice", "g:42"]);
        let body = &message.body;
        assert_eq!((body.r#type.as_str(), body.content.as_str(), body.id.as_str()), ("typing", "…", "m-1"));
        assert_eq!((body.metadata.as_str(), body.from.as_str()), (r#"{"a":[1]}"#, "billing"));
        assert_eq!((message.seq, message.platforms.len()), (Seq::ZERO, 1));
        let (streams, message) = checked(r#"{"to":{"all":true},"message":{"content":"x"}}"#).expect("good");
        assert_eq!((streams[0].to_string(), message.body.r#type.as_str()), ("g:_all".to_owned(), "text"));
        assert!(message.body.id.parse::<u64>().expect("a number") < 1 << 53);
    }

    #[test]
    fn what_does_not_fit_is_refused_and_says_why() {
        let many: Vec<String> = (0..=TARGETS_MAX).map(|n| format!("\"u:{n}\"")).collect();
        let long = "x".repeat(CONTENT_BYTES_MAX + 1);
        for (text, code, why) in [
            (r#"{"to":[],"message":{}}"#.to_owned(), ErrorCode::BadRequest, "to:"),
            (format!(r#"{{"to":[{}],"message":{{}}}}"#, many.join(",")), ErrorCode::BadRequest, "to:"),
            (r#"{"to":["u:a","u:a"],"message":{}}"#.into(), ErrorCode::BadRequest, "twice"),
            (r#"{"to":["c:a:b"],"message":{}}"#.into(), ErrorCode::BadRequest, "to:"),
            (r#"{"to":["u:a b"],"message":{}}"#.into(), ErrorCode::BadRequest, "to:"),
            (r#"{"to":{"all":false},"message":{}}"#.into(), ErrorCode::BadRequest, "to.all"),
            (r#"{"to":["u:a"],"message":{},"class":"durable"}"#.into(), ErrorCode::BadRequest, "class"),
            (r#"{"to":["u:a"],"message":{"type":""}}"#.into(), ErrorCode::BadRequest, "message.type"),
            (r#"{"to":["u:a"],"message":{"title":"a\nb"}}"#.into(), ErrorCode::BadRequest, "message.title"),
            (r#"{"to":["u:a"],"message":{},"platforms":["a b"]}"#.into(), ErrorCode::BadRequest, "platforms"),
            (r#"{"to":["u:a"],"message":{},"message_id":""}"#.into(), ErrorCode::BadRequest, "message_id"),
            (r#"{"to":["u:a"],"message":{"contents":""}}"#.into(), ErrorCode::BadRequest, "contents"),
            (format!(r#"{{"to":["u:a"],"message":{{"content":"{long}"}}}}"#), ErrorCode::TooLarge, "message.content"),
            (
                format!(r#"{{"to":["u:a"],"message":{{"metadata":{{"a":"{long}"}}}}}}"#),
                ErrorCode::TooLarge,
                "message.metadata",
            ),
        ] {
            let refused = checked(&text).expect_err(why);
            assert_eq!(refused.code, code, "{why}");
            assert!(refused.message.contains(why), "{why}: {}", refused.message);
        }
    }
}
