//! REST and gRPC: convert, ask the partition or the store, convert back.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::{any, delete, get, post};
use tidegate_control_core::domain::{ErrorCode, Uid};
use tidegate_control_core::ports::{StoreError, StoreReader};
use tokio::sync::watch;

use crate::config::LimitsConfig;
use crate::dispatch::Dispatch;
use crate::endpoints::Endpoints;
use crate::metrics::Metrics;
use crate::presence::Presence;
use auth::Access;
use error::ApiError;

pub mod auth;
mod endpoint;
pub mod error;
mod extract;
mod groups;
pub mod grpc;
mod json;
mod pages;
pub mod push;
mod records;
mod search;
mod streams;

pub use records::Records;

/// What every handler may use.
pub struct Api {
    pub dispatch: Dispatch,
    pub reader: Arc<dyn StoreReader>,
    pub presence: Arc<Presence>,
    /// Of a cluster with a ring.
    pub endpoints: Option<Arc<Endpoints>>,
    pub metrics: Arc<Metrics>,
    pub access: Arc<Access>,
    pub limits: LimitsConfig,
    /// `None`: none are kept, and nothing can be searched.
    pub records: Option<Records>,
    /// Becomes true when control stops.
    pub stopping: watch::Receiver<bool>,
}

impl Api {
    /// How long a caller waits for the partition.
    pub fn patience(&self) -> Duration {
        Duration::from_millis(u64::from(self.limits.answer_timeout_ms))
    }

    /// Live connections of each user: of those whose inbox is here as their gateways told it, of the others as the cache knows.
    async fn connections_of(&self, uids: &[Uid]) -> Vec<usize> {
        let mut counts: Vec<usize> = {
            let presence = self.presence.view();
            uids.iter().map(|uid| presence.connections_of(uid.as_str())).collect()
        };
        let Some(state) = self.dispatch.cluster() else { return counts };
        let Some(routes) = &state.routes else { return counts };
        let is_elsewhere = |uid: &Uid| state.seats.hosted(state.seats.partition_of(&uid.stream())).is_none();
        let elsewhere: Vec<usize> = (0..uids.len()).filter(|at| is_elsewhere(&uids[*at])).collect();
        let asked: Vec<Uid> = elsewhere.iter().map(|at| uids[*at].clone()).collect();
        for (at, found) in elsewhere.into_iter().zip(routes.connections_of(&asked).await) {
            counts[at] = found.unwrap_or(counts[at]);
        }
        counts
    }

    /// A look-up in the store, off the async threads: it may read the disk.
    async fn look_up<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&dyn StoreReader) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let reader = Arc::clone(&self.reader);
        match tokio::task::spawn_blocking(move || ask(reader.as_ref())).await {
            Ok(found) => Ok(found?),
            Err(_panicked_or_stopping) => Err(ApiError::new(ErrorCode::Unavailable, "the store cannot answer now")),
        }
    }
}

/// Every HTTP path.
pub fn router(api: Arc<Api>) -> Router {
    let planned = any(|| async { ApiError::new(ErrorCode::Unimplemented, "this call does not exist yet") });
    let mut router = Router::new()
        .route("/api/v1/push", post(push::rest::push))
        .route("/api/v1/streams/{stream}/messages", get(streams::messages))
        .route("/api/v1/streams/{stream}/read", post(streams::read))
        .route("/api/v1/records", get(records::list))
        .route("/api/v1/search", get(search::search))
        .route("/api/v1/groups", post(groups::create).get(groups::list))
        .route("/api/v1/groups/{gid}", delete(groups::dismiss))
        .route("/api/v1/groups/{gid}/members", get(groups::members).post(groups::add))
        .route("/api/v1/groups/{gid}/members/{uid}", delete(groups::remove))
        .route("/api/v1/endpoint", get(endpoint::endpoint))
        .route("/healthz", get(pages::health))
        .route("/readyz", get(pages::ready))
        .route("/metrics", get(pages::metrics));
    for path in PLANNED {
        router = router.route(path, planned.clone());
    }
    if api.access.is_dev() {
        router = router.route("/", get(pages::example)).route("/dev/config", get(pages::dev_config));
    }
    router
        .fallback(|| async { ApiError::new(ErrorCode::NotFound, "no such path") })
        .method_not_allowed_fallback(|| async {
            ApiError::new(ErrorCode::BadRequest, "not with this method").with_status(StatusCode::METHOD_NOT_ALLOWED)
        })
        .with_state(api)
}

/// Paths of the protocol that this version answers with `UNIMPLEMENTED`.
const PLANNED: &[&str] = &[
    "/message-push/v1/push",
    "/api/v1/register",
    "/api/v1/login",
    "/api/v1/logout",
    "/api/v1/refresh",
    "/api/v1/unread",
    "/api/v1/conversations",
];
