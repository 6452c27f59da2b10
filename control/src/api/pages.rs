//! Health, metrics, and the example page of development.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use serde_json::json;
use tidegate_control_core::domain::ErrorCode;

use super::Api;
use super::error::ApiError;
use crate::metrics::Snapshot;

const PAGE: &str = include_str!("../../../docs/examples/browser.html");
/// In the page; replaced by the real port.
const PORT_PLACEHOLDER: &str = "data-client-port=\"8080\"";
/// The page is one file: nothing is fetched from elsewhere, and nobody frames it.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
    connect-src 'self' ws://localhost:* ws://127.0.0.1:*; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

/// The process lives.
pub async fn health() -> &'static str {
    "ok\n"
}

/// Pushes can be stored now.
pub async fn ready(State(api): State<Arc<Api>>) -> Response {
    if api.dispatch.is_ready() && !*api.stopping.borrow() {
        return "ready\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, "not ready: the store does not commit now, or the process is stopping\n")
        .into_response()
}

pub async fn metrics(State(api): State<Arc<Api>>) -> Result<Response, ApiError> {
    let connections = api.presence.view().connections();
    let cluster = api.dispatch.cluster().map(|state| crate::dispatch::figures(state));
    let (queue_depth, log_records) = (api.dispatch.depth(), api.reader.last_lsn().0);
    let snapshot = Snapshot { queue_depth, log_records, connections, cluster };
    let text = api.metrics.encode(snapshot).map_err(|_| ApiError::new(ErrorCode::Internal, "metrics"))?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

/// The browser example.
pub async fn example(State(api): State<Arc<Api>>) -> Response {
    let port = api.access.client_port().unwrap_or_default();
    let page = PAGE.replace(PORT_PLACEHOLDER, &format!("data-client-port=\"{port}\""));
    let headers: [(HeaderName, &str); 3] = [
        (header::CONTENT_SECURITY_POLICY, PAGE_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, Html(page)).into_response()
}

/// `GET /dev/config`: what a page of ours needs to know.
pub async fn dev_config(State(api): State<Arc<Api>>) -> Response {
    Json(json!({ "client_port": api.access.client_port() })).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_the_placeholder_once() {
        assert_eq!(PAGE.matches(PORT_PLACEHOLDER).count(), 1);
    }
}
