//! The attachment to control: one tonic bidirectional stream, dialled by the gateway, batches both ways.
//!
//! The task here connects, says hello, hands the hub thread a channel for what goes up and passes on what comes down;
//! when the stream breaks it says so and dials again with a growing, jittered pause. It holds no state of its own: what
//! an attachment forgot, the hub announces to the next one.
//!
//! Invariants: values of one attachment never reach another, because the way up is a channel that dies with it; and an
//! invalid item ends the attachment, not the process.

mod backoff;
pub mod convert;
mod up;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tidegate_gateway_core::link::FromLink;
use tidegate_proto::v1;
use tidegate_proto::v1::gateway_link_client::GatewayLinkClient;
use tokio::io::DuplexStream;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tracing::{error, info, warn};

use crate::config::LinkSettings;
use crate::platforms::PlatformTable;
use backoff::Backoff;
use convert::{InvalidItem, from_wire, histories};
pub use up::{Flushed, UpQueue};

/// Batches from control that wait for the hub thread; beyond, HTTP/2 flow control holds control back.
const DOWN_BATCHES_MAX: usize = 16;
/// Batches to control that wait for the network; beyond, [`UpQueue`] holds items.
const UP_BATCHES_MAX: usize = 16;
/// Largest message from control: a page of 64 KB per stream, many streams in one batch.
const DOWN_MESSAGE_BYTES_MAX: usize = 64 << 20;
/// Bytes under way in an in-process link.
const DUPLEX_BYTES: usize = 256 * 1024;
/// HTTP/2 flow-control window: enough for a batch of deliveries to be under way while one is read.
const WINDOW_BYTES: u32 = 4 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A silent peer is asked after this time and given up after as much again.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Where control is.
#[derive(Clone, Debug)]
pub enum LinkTarget {
    /// `http://host:port`.
    Tcp(String),
    /// In this process: the gateway makes a duplex pair per attachment and sends the server's end.
    InProcess(mpsc::Sender<DuplexStream>),
}

/// What the link tells the hub thread.
#[derive(Debug)]
pub enum LinkEvent {
    /// A new attachment, and the way up to it.
    Up(mpsc::Sender<v1::LinkUp>),
    Items(Vec<FromLink>),
    Down,
}

/// What identifies this process to control.
#[derive(Clone, Debug)]
pub struct Identity {
    pub gateway: String,
    /// New at every start.
    pub incarnation: u64,
}

/// Whether an attachment exists, for readiness and metrics.
#[derive(Debug, Default)]
pub struct LinkState {
    up: AtomicBool,
    give_up: Notify,
}

impl LinkState {
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// Ends the present attachment, because control does not read it. Nothing happens without one.
    pub fn give_up(&self) {
        self.give_up.notify_waiters();
    }
}

/// The task that keeps the gateway attached.
pub struct Link {
    pub target: LinkTarget,
    pub settings: LinkSettings,
    pub identity: Identity,
    pub platforms: Arc<PlatformTable>,
    pub state: Arc<LinkState>,
}

/// Why an attachment ended or did not begin.
#[derive(Debug, thiserror::Error)]
enum LinkFailure {
    #[error("control's address is not valid")]
    Address(#[source] tonic::transport::Error),
    #[error("connecting to control failed")]
    Connect(#[source] tonic::transport::Error),
    #[error("control refused the attachment: {0:?}")]
    Refused(tonic::Code),
    #[error("the attachment broke: {0:?}")]
    Broken(tonic::Code),
    #[error("control closed the attachment")]
    Closed,
    #[error("control sent an invalid item")]
    Invalid(#[from] InvalidItem),
    #[error("control does not read the attachment")]
    NotRead,
    #[error("the hub is gone")]
    HubGone,
}

/// The events' receiving end is the hub thread.
pub fn events() -> (mpsc::Sender<LinkEvent>, mpsc::Receiver<LinkEvent>) {
    mpsc::channel(DOWN_BATCHES_MAX)
}

impl Link {
    /// Runs until the receiver of the events is gone. An attachment that exists then ends when control, seeing that nothing
    /// more comes up, closes it.
    pub async fn run(self, events: mpsc::Sender<LinkEvent>) {
        let mut backoff = Backoff::default();
        loop {
            let ended = tokio::select! {
                ended = self.attach(&events, &mut backoff) => ended,
                () = self.state.give_up.notified() => LinkFailure::NotRead,
            };
            let was_up = self.state.up.swap(false, Ordering::Relaxed);
            match &ended {
                LinkFailure::HubGone => return,
                LinkFailure::Invalid(why) => error!(%why, "control sent an invalid item; the attachment ends"),
                other => {
                    let source = std::error::Error::source(other).map(ToString::to_string);
                    warn!(why = %other, source, "link down");
                }
            }
            if was_up && events.send(LinkEvent::Down).await.is_err() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.pause()) => {}
                () = events.closed() => return,
            }
        }
    }

    /// One attachment from dial to end.
    async fn attach(&self, events: &mpsc::Sender<LinkEvent>, backoff: &mut Backoff) -> LinkFailure {
        match self.attached(events, backoff).await {
            Ok(never) => match never {},
            Err(failure) => failure,
        }
    }

    async fn attached(
        &self,
        events: &mpsc::Sender<LinkEvent>,
        backoff: &mut Backoff,
    ) -> Result<std::convert::Infallible, LinkFailure> {
        let channel = self.dial().await?;
        let mut client = GatewayLinkClient::new(channel).max_decoding_message_size(DOWN_MESSAGE_BYTES_MAX);
        let (up, up_stream) = mpsc::channel(UP_BATCHES_MAX);
        up.try_send(self.hello()).map_err(|_| LinkFailure::Closed)?;
        let mut request = tonic::Request::new(ReceiverStream::new(up_stream));
        if let Some(authorization) = &self.settings.authorization {
            request.metadata_mut().insert("authorization", authorization.clone());
        }
        let answer = client.attach(request).await.map_err(|status| LinkFailure::Refused(status.code()))?;
        let mut down = answer.into_inner();
        let mut waiting = Some(up);
        loop {
            let message = down.message().await.map_err(|status| LinkFailure::Broken(status.code()))?;
            let batch = message.ok_or(LinkFailure::Closed)?;
            let mut items = batch.items.into_iter().peekable();
            if items.peek().is_some()
                && let Some(up) = waiting.take()
            {
                let attached = expect_attached(items.next())?;
                backoff.reset();
                self.state.up.store(true, Ordering::Relaxed);
                info!("link up");
                let histories = LinkEvent::Items(histories(&attached));
                events.send(histories).await.map_err(|_| LinkFailure::HubGone)?;
                events.send(LinkEvent::Up(up)).await.map_err(|_| LinkFailure::HubGone)?;
            }
            let mut values = Vec::with_capacity(items.len());
            for item in items {
                from_wire(item, &self.platforms, &mut values)?;
            }
            if !values.is_empty() {
                events.send(LinkEvent::Items(values)).await.map_err(|_| LinkFailure::HubGone)?;
            }
        }
    }

    async fn dial(&self) -> Result<Channel, LinkFailure> {
        let address = match &self.target {
            LinkTarget::Tcp(address) => address.clone(),
            LinkTarget::InProcess(_) => "http://control.in-process".to_owned(),
        };
        let endpoint = Endpoint::from_shared(address)
            .map_err(LinkFailure::Address)?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES);
        let dialled = match &self.target {
            LinkTarget::Tcp(_) => endpoint.connect().await,
            LinkTarget::InProcess(acceptor) => {
                let acceptor = acceptor.clone();
                let connector = tower::service_fn(move |_: Uri| duplex(acceptor.clone()));
                endpoint.connect_with_connector(connector).await
            }
        };
        dialled.map_err(LinkFailure::Connect)
    }

    fn hello(&self) -> v1::LinkUp {
        let hello = v1::LinkHello {
            gateway: self.identity.gateway.clone(),
            incarnation: self.identity.incarnation,
            credit_bytes: self.settings.credit_bytes,
            partition: 0,
        };
        v1::LinkUp { items: vec![v1::LinkUpItem { item: Some(v1::link_up_item::Item::Hello(hello)) }] }
    }
}

fn expect_attached(first: Option<v1::LinkDownItem>) -> Result<v1::LinkAttached, InvalidItem> {
    match first.and_then(|item| item.item) {
        Some(v1::link_down_item::Item::Attached(attached)) => Ok(attached),
        _ => Err(InvalidItem::NotAttached),
    }
}

async fn duplex(acceptor: mpsc::Sender<DuplexStream>) -> std::io::Result<TokioIo<DuplexStream>> {
    let (ours, theirs) = tokio::io::duplex(DUPLEX_BYTES);
    acceptor.send(theirs).await.map_err(|_| std::io::Error::from(std::io::ErrorKind::ConnectionRefused))?;
    Ok(TokioIo::new(ours))
}
