//! Where a user should connect.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tidegate_control_core::domain::ErrorCode;
use tidegate_ring::Version;

use super::Api;
use super::auth::Caller;
use super::error::ApiError;
use crate::endpoints::Endpoint;

/// `GET /api/v1/endpoint?uid=` → `{"uid","gateway","endpoint","ring_version"}`. A user is told its own place, a backend (a load
/// balancer, too) that of the uid it asks for. `UNAVAILABLE` while the ring is not known or empty, `NOT_FOUND` where there is
/// none. In development it is the gateway of this very process, and the version 0.
pub async fn endpoint(State(api): State<Arc<Api>>, caller: Caller) -> Result<Response, ApiError> {
    let Some(uid) = caller.uid() else {
        return Err(ApiError::problem("uid", "says whose place: give `?uid=` beside a service token"));
    };
    let place = match &api.endpoints {
        Some(endpoints) => {
            endpoints.of(&uid).ok_or_else(|| ApiError::new(ErrorCode::Unavailable, "no gateway is on the ring now"))?
        }
        None => own(&api).ok_or_else(|| ApiError::new(ErrorCode::NotFound, "this installation has no ring"))?,
    };
    let Endpoint { gateway, url, ring_version } = place;
    let body = json!({ "uid": uid.as_str(), "gateway": gateway, "endpoint": url, "ring_version": ring_version.0 });
    Ok(Json(body).into_response())
}

/// The one gateway of development.
fn own(api: &Api) -> Option<Endpoint> {
    let port = api.access.client_port()?;
    let gateway = api.presence.view().only_gateway()?.into();
    let url = format!("ws://127.0.0.1:{port}/api/v1/ws").into();
    Some(Endpoint { gateway, url, ring_version: Version(0) })
}
