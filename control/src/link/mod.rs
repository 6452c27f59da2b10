//! GatewayLink/Attach: what gateways dial. The same code serves TCP and in-process pipes.
//!
//! An attachment is one call of Attach: its first item is the hello, then its items become the partition's inputs in order,
//! and the partition's items for it leave in order, several to a message. A gateway that breaks the protocol ends its
//! attachment with a status, and nothing else. The newest attachment of a gateway's name to a partition wins.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidegate_control_core::partition::GatewayId;
use tidegate_proto::v1::gateway_link_server::GatewayLink;
use tidegate_proto::v1::{LinkDown, LinkUp};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::api::auth::ServiceTokens;
use crate::cluster::seats::Seats;
use crate::dispatch::Dispatch;
use crate::metrics::Metrics;
use crate::presence::Presence;

mod attach;
pub mod convert;

/// Attachments at a time; more are refused.
pub const ATTACHMENTS_MAX: usize = 65_536;
/// Messages down that may be ahead of the connection's own flow control.
const DOWN_MESSAGES_MAX: usize = 4;
/// How long the routes of a gateway that went away are kept for its return.
const FORGET_AFTER: Duration = Duration::from_secs(120);

/// What all attachments share.
pub struct Links {
    pub(crate) seats: Arc<Seats>,
    pub(crate) dispatch: Dispatch,
    pub(crate) presence: Arc<Presence>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) stopping: watch::Receiver<bool>,
    next: AtomicU64,
    /// By gateway name: how to end its present attachment.
    present: Mutex<HashMap<String, Present>>,
}

struct Present {
    gateway: GatewayId,
    replaced: oneshot::Sender<()>,
}

impl Links {
    pub(crate) fn new(
        seats: Arc<Seats>,
        dispatch: Dispatch,
        presence: Arc<Presence>,
        metrics: Arc<Metrics>,
        stopping: watch::Receiver<bool>,
    ) -> Links {
        let (next, present) = (AtomicU64::new(1), Mutex::default());
        Links { seats, dispatch, presence, metrics, stopping, next, present }
    }

    fn next_gateway(&self) -> GatewayId {
        GatewayId(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Makes this the attachment of its name and ends the one before; resolves when a newer one does the same to it.
    pub(crate) fn enter(&self, name: &str, gateway: GatewayId) -> Result<oneshot::Receiver<()>, Status> {
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        if present.len() >= ATTACHMENTS_MAX && !present.contains_key(name) {
            return Err(Status::resource_exhausted("too many gateways"));
        }
        let (replaced, told) = oneshot::channel();
        if let Some(older) = present.insert(name.to_owned(), Present { gateway, replaced }) {
            // Its task may have ended by itself already.
            let _ = older.replaced.send(());
        }
        Ok(told)
    }

    pub(crate) fn leave(&self, name: &str, gateway: GatewayId) {
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        if present.get(name).is_some_and(|p| p.gateway == gateway) {
            present.remove(name);
        }
    }

    /// Voids the routes of a gateway that does not come back.
    pub(crate) fn forget_later(&self, name: String, attachment: u64) {
        self.presence.detach(&name, attachment);
        let presence = Arc::clone(&self.presence);
        tokio::spawn(async move {
            tokio::time::sleep(FORGET_AFTER).await;
            presence.forget(&name, attachment);
        });
    }
}

/// The gRPC service over one kind of listener.
#[derive(Clone)]
pub struct LinkService {
    links: Arc<Links>,
    /// `None`: whoever can reach the listener may attach (in process, or loopback without a configured token).
    tokens: Option<Arc<ServiceTokens>>,
}

impl LinkService {
    pub fn new(links: Arc<Links>, tokens: Option<Arc<ServiceTokens>>) -> LinkService {
        LinkService { links, tokens }
    }
}

#[tonic::async_trait]
impl GatewayLink for LinkService {
    type AttachStream = ReceiverStream<Result<LinkDown, Status>>;

    async fn attach(&self, request: Request<Streaming<LinkUp>>) -> Result<Response<Self::AttachStream>, Status> {
        if let Some(tokens) = &self.tokens {
            tokens.check_metadata(request.metadata())?;
        }
        let links = Arc::clone(&self.links);
        let gateway = links.next_gateway();
        let (down, stream) = mpsc::channel(DOWN_MESSAGES_MAX);
        let up = request.into_inner();
        // Answered before the hello was read: a gateway may wait for our headers before it sends anything.
        tokio::spawn(async move {
            if let Err(status) = attach::run(&links, gateway, up, &down).await {
                links.metrics.links_refused.inc();
                let _ = down.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}
