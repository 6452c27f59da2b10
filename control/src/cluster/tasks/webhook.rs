//! Offline pushes by HTTP: one POST for each, signed, with the task's id as its `Idempotency-Key`.
//!
//! The signature is `sha256=` and the hexadecimal HMAC-SHA-256 (RFC 2104) of `<timestamp>.<body>` with the shared secret;
//! the timestamp, in seconds since the Unix epoch, stands in a header of its own, so that an old request cannot be sent again.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use hmac::{Hmac, Mac as _};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Client, StatusCode, Url};
use serde::Serialize;
use sha2::Sha256;
use tidegate_bus::dead_letters::Failure;
use tidegate_bus::records::OfflinePush;
use tidegate_control_core::breaker::{BreakerConfig, Outcome};

use super::push::PushSink;
use super::settings::{PushSettings, SECRET_BYTES_MIN};
use crate::cluster::ingress::wall_clock_ms;
use crate::guard::Guard;

pub(crate) const SIGNATURE: &str = "tidegate-signature";
pub(crate) const TIMESTAMP: &str = "tidegate-timestamp";
const KEY: &str = "idempotency-key";
/// After some failures nothing is sent for a while, then one request is tried.
pub(crate) const BREAKER: BreakerConfig = BreakerConfig {
    failure_percent: 50,
    requests_min: 3,
    window: Duration::from_secs(10),
    cool_down: Duration::from_millis(400),
    cool_down_max: Duration::from_secs(30),
    probes: 1,
};

pub(crate) struct Webhook {
    client: Client,
    url: Url,
    secret: Vec<u8>,
    guard: Arc<Guard>,
}

/// Why the webhook cannot be used as it is configured.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    #[error("url: is no http or https URL")]
    Url,
    #[error("secret_file: {0}")]
    Secret(String),
    #[error("ca_file: {0}")]
    Authority(String),
    #[error("no HTTP client: {0}")]
    Client(String),
}

#[derive(Serialize)]
struct Body<'a> {
    task_id: &'a str,
    user_id: &'a str,
    message_id: &'a str,
    title: &'a str,
    content: &'a str,
    push_type: &'a str,
}

impl Webhook {
    /// Reads the files that the settings name.
    pub fn new(settings: &PushSettings, guard: Arc<Guard>) -> Result<Webhook, WebhookError> {
        let url: Url = settings.url.as_deref().unwrap_or_default().parse().map_err(|_| WebhookError::Url)?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(WebhookError::Url);
        }
        let secret = match &settings.secret_file {
            Some(file) => std::fs::read(file).map_err(|error| WebhookError::Secret(error.to_string()))?,
            None => return Err(WebhookError::Secret("is needed".to_owned())),
        };
        let secret = secret.trim_ascii().to_vec();
        if secret.len() < SECRET_BYTES_MIN {
            return Err(WebhookError::Secret(format!("holds fewer than {SECRET_BYTES_MIN} bytes")));
        }
        let timeout = Duration::from_millis(settings.timeout_ms.into());
        // No redirects: they would take users' messages elsewhere. No proxy of the environment.
        let mut client = Client::builder()
            .timeout(timeout)
            .connect_timeout(timeout)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy();
        if let Some(file) = &settings.ca_file {
            let pem = std::fs::read(file).map_err(|error| WebhookError::Authority(error.to_string()))?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem);
            client = client.tls_built_in_root_certs(false);
            for certificate in certificates.map_err(|error| WebhookError::Authority(error.to_string()))? {
                client = client.add_root_certificate(certificate);
            }
        }
        let client = client.build().map_err(|error| WebhookError::Client(error.to_string()))?;
        Ok(Webhook { client, url, secret, guard })
    }

    async fn post(&self, task_id: &str, push: &OfflinePush) -> Result<StatusCode, String> {
        let body = Body {
            task_id,
            user_id: &push.user_id,
            message_id: &push.message_id,
            title: &push.title,
            content: &push.content,
            push_type: &push.push_type,
        };
        let body = serde_json::to_vec(&body).map_err(|error| error.to_string())?;
        let timestamp = (wall_clock_ms() / 1000).to_string();
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let signature = signature(&self.secret, &timestamp, &body);
        // An id of somebody else's may hold what a header cannot; it stands in the body as well.
        for (name, value) in [(SIGNATURE, &*signature), (TIMESTAMP, &timestamp), (KEY, task_id)] {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        }
        let sent = self.client.post(self.url.clone()).headers(headers).body(body).send().await;
        // The error would show the URL, which may hold a token.
        sent.map(|answer| answer.status()).map_err(|error| error.without_url().to_string())
    }
}

impl PushSink for Webhook {
    fn send<'a>(&'a self, task_id: &'a str, push: &'a OfflinePush) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let Some(permit) = self.guard.allow() else {
                return Err(Failure::Dependency("the push service failed too often: it is left alone".to_owned()));
            };
            let answered = self.post(task_id, push).await;
            let failure = match answered {
                Ok(status) if status.is_success() => None,
                Ok(status) if is_passing(status) => Some(format!("the push service answers {status}")),
                // It is there, and says no to this one.
                Ok(status) => {
                    self.guard.record(permit, Outcome::Success);
                    return Err(Failure::refused(format!("the push service answers {status}")));
                }
                Err(error) => Some(error),
            };
            self.guard.record(permit, if failure.is_none() { Outcome::Success } else { Outcome::Failure });
            failure.map_or(Ok(()), |failure| Err(Failure::Dependency(failure)))
        })
    }
}

/// Whether the same request may be answered otherwise later. What is wrong with our credentials is put right by an operator.
fn is_passing(status: StatusCode) -> bool {
    status.is_server_error()
        || status.is_redirection()
        || matches!(
            status,
            StatusCode::UNAUTHORIZED
                | StatusCode::FORBIDDEN
                | StatusCode::REQUEST_TIMEOUT
                | StatusCode::TOO_EARLY
                | StatusCode::TOO_MANY_REQUESTS
        )
}

/// As the module says.
pub(crate) fn signature(secret: &[u8], timestamp: &str, body: &[u8]) -> String {
    let mac = hmac(secret, &[timestamp.as_bytes(), b".", body]);
    let hex: String = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256={hex}")
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of any length will do");
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
#[path = "webhook_tests.rs"]
mod tests;
