//! The admin listener: `/healthz`, `/readyz`, `/metrics`, `/internal/v1/deliver`, and the listener for deliveries by certificate.
//! On a thread of their own, so that a slow scrape delays nothing.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, FromRef, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::json;
use tokio::sync::oneshot;
use tracing::{error, warn};

use crate::deliver::door::Door;
use crate::deliver::{self, Deliverer};
use crate::fleet::{Fleet, HubStatus};
use crate::front_door::metrics::DoorMetrics;
use crate::io::Io;
use crate::link::LinkStates;
use crate::metrics;
use crate::reload::TlsStatus;

/// Open requests get so long to end when the process stops.
const STOP_GRACE: Duration = Duration::from_millis(500);

/// What the answers are made from.
#[derive(Clone)]
pub struct AdminState {
    pub fleet: Arc<Fleet>,
    pub door: Arc<DoorMetrics>,
    /// With a listener for TLS.
    pub tls: Option<Arc<TlsStatus>>,
    pub links: Arc<LinkStates>,
    pub hub: Arc<HubStatus>,
    pub io: Io,
    pub draining: Arc<AtomicBool>,
    pub deliverer: Deliverer,
}

impl FromRef<AdminState> for Deliverer {
    fn from_ref(state: &AdminState) -> Deliverer {
        state.deliverer.clone()
    }
}

/// The running listener.
pub struct Admin {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Admin {
    /// `door`: for deliveries by certificate.
    pub fn start(listener: TcpListener, door: Option<(TcpListener, Door)>, state: AdminState) -> io::Result<Admin> {
        for listener in [Some(&listener), door.as_ref().map(|(listener, _)| listener)].into_iter().flatten() {
            listener.set_nonblocking(true)?;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let work = move || {
            runtime.block_on(async {
                let deliveries = door.map(|(listener, door)| door.serve(listener, state.deliverer.clone()));
                let _ends_with_us = deliveries.map(tokio::spawn);
                serve(listener, state, stopped).await;
            });
            runtime.shutdown_timeout(STOP_GRACE);
        };
        let thread = thread::Builder::new().name("admin".into()).spawn(work)?;
        Ok(Admin { stop, thread })
    }

    pub fn stop(self) {
        // Without a listener left to stop there is nothing to do.
        let _ = self.stop.send(());
        if self.thread.join().is_err() {
            warn!("the admin thread panicked");
        }
    }
}

async fn serve(listener: TcpListener, state: AdminState, stopped: oneshot::Receiver<()>) {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(expose))
        .route("/internal/v1/deliver", post(deliver::deliver).layer(DefaultBodyLimit::max(deliver::BODY_BYTES_MAX)))
        .with_state(state)
        .into_make_service_with_connect_info::<SocketAddr>();
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return error!(%error, "the admin listener cannot be used"),
    };
    tokio::select! {
        served = async { axum::serve(listener, router).await } => {
            if let Err(error) = served {
                error!(%error, "the admin listener ended");
            }
        }
        _ = stopped => {}
    }
}

/// Ready: attached to every partition since the start and to some now, every shard running, not draining.
async fn ready(State(state): State<AdminState>) -> Response {
    let shards = state.fleet.shards().iter().filter(|shard| shard.is_running()).count();
    let links = state.links.summary();
    let up = links.each.iter().filter(|(up, _)| *up).count();
    let facts = json!({
        "link": links.is_up,
        "partitions": {"up": up, "of": links.of},
        "shards": {"running": shards, "of": state.fleet.shards().len()},
        "draining": state.draining.load(Ordering::Relaxed),
    });
    let ready = facts["link"] == true && shards == state.fleet.shards().len() && facts["draining"] == false;
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(facts)).into_response()
}

async fn expose(State(state): State<AdminState>) -> Response {
    match metrics::render(&state) {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
