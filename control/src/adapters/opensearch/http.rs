//! Requests: to one node after another, within a time, with answers of bounded size.

use std::error::Error as _;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Client, Method, StatusCode, Url};
use serde_json::Value;

use super::{Credentials, OpenError, OpenSearchOptions};
use crate::records::IndexError;

/// Largest answer that is read.
const ANSWER_BYTES_MAX: usize = 32 << 20;

#[derive(Debug)]
pub(super) struct Http {
    client: Client,
    nodes: Vec<Url>,
    /// The node that answered last.
    node: AtomicUsize,
}

pub(super) enum Body<'a> {
    None,
    Json(&'a Value),
    /// One JSON text per line.
    Lines(Vec<u8>),
}

#[derive(Debug)]
pub(super) struct Answer {
    pub status: StatusCode,
    pub body: Value,
}

impl Http {
    pub fn new(options: OpenSearchOptions) -> Result<Http, OpenError> {
        let mut nodes = Vec::new();
        for node in &options.nodes {
            let url: Url = node.parse().map_err(|_| OpenError::Node)?;
            if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
                return Err(OpenError::Node);
            }
            nodes.push(url);
        }
        if nodes.is_empty() {
            return Err(OpenError::NoNode);
        }
        let mut headers = HeaderMap::new();
        if let Some(mut value) = authorization(&options.credentials)? {
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        // No redirects: they would take the credentials elsewhere. No proxy of the environment: nodes are named directly.
        let mut client = Client::builder()
            .default_headers(headers)
            .timeout(options.timeout)
            .connect_timeout(options.timeout)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy();
        if let Some(pem) = &options.authority {
            let certificates = reqwest::Certificate::from_pem_bundle(pem).map_err(OpenError::Authority)?;
            client = client.tls_built_in_root_certs(false);
            for certificate in certificates {
                client = client.add_root_certificate(certificate);
            }
        }
        Ok(Http { client: client.build().map_err(OpenError::Client)?, nodes, node: AtomicUsize::new(0) })
    }

    /// Asks a node, and if none is there the next. What the server may do later (too much to do, not ready, not allowed yet)
    /// is [`IndexError::Unavailable`]; any other status is the caller's to judge.
    pub async fn ask(&self, method: Method, path: &str, body: Body<'_>) -> Result<Answer, IndexError> {
        let (kind, bytes) = match body {
            Body::None => (None, Vec::new()),
            Body::Json(json) => (Some("application/json"), json.to_string().into_bytes()),
            Body::Lines(lines) => (Some("application/x-ndjson"), lines),
        };
        let bytes = bytes::Bytes::from(bytes);
        let mut why = unavailable("no node answers");
        let first = self.node.load(Ordering::Relaxed);
        for turn in 0..self.nodes.len() {
            let at = (first + turn) % self.nodes.len();
            let url = self.nodes[at].join(path).map_err(|_| IndexError::Failed("no good path".into()))?;
            let mut request = self.client.request(method.clone(), url).body(bytes.clone());
            if let Some(kind) = kind {
                request = request.header(CONTENT_TYPE, HeaderValue::from_static(kind));
            }
            match request.send().await {
                Ok(response) => {
                    self.node.store(at, Ordering::Relaxed);
                    return read(response).await;
                }
                Err(error) => why = unavailable(chain(error)),
            }
        }
        Err(why)
    }
}

async fn read(mut response: reqwest::Response) -> Result<Answer, IndexError> {
    let status = response.status();
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| unavailable(chain(error)))? {
        if bytes.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err(IndexError::Failed(format!("an answer of more than {ANSWER_BYTES_MAX} bytes").into()));
        }
        bytes.extend_from_slice(&chunk);
    }
    let body: Option<Value> = serde_json::from_slice(&bytes).ok();
    let later = status.is_server_error()
        || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
    if later {
        let kind = body.as_ref().map(error_kind).unwrap_or_default();
        return Err(unavailable(format!("{status} {kind}")));
    }
    // Something between us and the server answered, or the server is not what it should be.
    let body = body.ok_or_else(|| unavailable(format!("{status} without JSON")))?;
    Ok(Answer { status, body })
}

impl Answer {
    /// The body of a success.
    pub fn ok(self) -> Result<Value, IndexError> {
        match self.status.is_success() {
            true => Ok(self.body),
            false => Err(IndexError::Failed(format!("{} {}", self.status, error_kind(&self.body)).into())),
        }
    }
}

/// The kind of an error. Its reason may quote what was written, so it is left where it is.
pub(super) fn error_kind(body: &Value) -> String {
    let kind = body["error"]["type"].as_str().unwrap_or("of an unknown kind");
    kind.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').take(80).collect()
}

fn unavailable(why: impl Into<Box<str>>) -> IndexError {
    IndexError::Unavailable(why.into())
}

/// With its causes, and without the address, which may be long.
fn chain(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

fn authorization(credentials: &Credentials) -> Result<Option<HeaderValue>, OpenError> {
    let text = match credentials {
        Credentials::None => return Ok(None),
        Credentials::Basic { user, .. } if user.contains(':') => return Err(OpenError::Credentials),
        Credentials::Basic { user, password } => format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))),
        Credentials::ApiKey(key) => format!("ApiKey {key}"),
    };
    HeaderValue::try_from(text).map(Some).map_err(|_| OpenError::Credentials)
}
