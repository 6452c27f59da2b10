//! The process: open everything, serve, and end in the right order.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tidegate_auth::Algorithm;
use tidegate_auth::dev::{KEY_FILE, dev_key};
use tidegate_control_core::ports::StoreError;
use tidegate_proto::v1::gateway_link_server::GatewayLinkServer;
use tidegate_proto::v1::node_link_server::NodeLinkServer;
use tidegate_proto::v1::push_service_server::PushServiceServer;
use tidegate_proto::v1::query_service_server::QueryServiceServer;
use tokio::io::DuplexStream;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::api::auth::{Access, AuthError, ServiceTokens};
use crate::api::grpc::{PushApi, QueryApi};
use crate::api::{Api, router};
use crate::cluster::node::NodeService;
use crate::compose::{ComposeError, Composed, Form, Surroundings, compose};
use crate::config::{Config, KeyConfig, Problem};
use crate::link::{LinkService, Links};
use crate::metrics::Metrics;
use crate::presence::Presence;
use crate::records::Feeding;
use crate::runtime::OnFatal;

/// In-process gateways that may be waiting to be attached.
const ACCEPTOR_MAX: usize = 16;
/// Largest message of a gateway: an announcement of many streams.
const LINK_MESSAGE_BYTES_MAX: usize = 16 << 20;
/// A request's head must have come whole after this.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after accept failed, as it does when descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// A gRPC peer that is silent is asked after this, and given up after as long again.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// What calls may still take once we stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// HTTP/2 windows of a stream and of a connection: what one push stream may have on its way to us.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// Calls at a time on one gRPC connection.
const STREAMS_MAX: u32 = 1_024;
/// Exit status after the store failed for good.
const EXIT_STORE_FAILED: i32 = 70;

/// A running control process.
pub struct Control {
    addrs: Addrs,
    access: Arc<Access>,
    acceptor: mpsc::Sender<DuplexStream>,
    stopping: watch::Sender<bool>,
    servers: Vec<JoinHandle<()>>,
    form: Form,
    feeding: Option<Feeding>,
}

/// Where it listens, with the ports that the system chose.
#[derive(Clone, Copy, Debug)]
pub struct Addrs {
    pub http: SocketAddr,
    pub grpc: SocketAddr,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the configuration has problems: {}", texts(.0))]
    Config(Vec<Problem>),
    #[error("the development key cannot be read or made")]
    DevKey(#[source] io::Error),
    #[error("the credentials cannot be loaded")]
    Auth(#[from] AuthError),
    #[error("cannot start the partition")]
    Compose(#[from] ComposeError),
    #[error("cannot listen on {addr}")]
    Listen {
        addr: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("gRPC reflection cannot be built")]
    Reflection(#[from] tonic_reflection::server::Error),
    #[error("a start-up task was cancelled")]
    Cancelled,
}

fn texts(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("; ")
}

impl Control {
    /// Opens the store and serves. If the store fails for good later, the process ends with status 70 and recovers from its
    /// log at the next start: nothing that was not durable is ever answered.
    pub async fn start(config: Config) -> Result<Control, StartError> {
        Control::start_with(config, Box::new(end_process)).await
    }

    /// As [`Control::start`], with something else to do when the store has failed for good.
    pub async fn start_with(mut config: Config, on_fatal: OnFatal) -> Result<Control, StartError> {
        let problems = config.problems();
        if !problems.is_empty() {
            return Err(StartError::Config(problems));
        }
        if config.dev_auth {
            tracing::warn!("development auth is on: whoever is on this machine may push and read as anybody");
            add_dev_key(&mut config).map_err(StartError::DevKey)?;
        }
        let mut access = Access::load(&config.auth, config.service_tokens_file.as_deref())?;
        let link_tokens = config.link_token_file.as_deref().map(ServiceTokens::load).transpose()?;
        let metrics = Arc::new(Metrics::new());
        let (http, http_addr) = listen(config.http_addr).await?;
        let (grpc, grpc_addr) = listen(config.grpc_addr).await?;
        if config.dev_auth {
            access = access.with_dev(http_addr, config.client_port);
        }
        let (stopping, stop) = watch::channel(false);
        let link_tokens = link_tokens.map(Arc::new);
        let surroundings = Surroundings {
            metrics: Arc::clone(&metrics),
            presence: Arc::default(),
            http: http_addr,
            grpc: grpc_addr,
            link_tokens: link_tokens.clone(),
            stopping: stop,
        };
        let presence = Arc::clone(&surroundings.presence);
        let composed = compose(&config, surroundings, on_fatal).await?;
        let listeners = Listeners { http, grpc, link_tokens };
        let addrs = Addrs { http: http_addr, grpc: grpc_addr };
        Control::serve(config, listeners, composed, Arc::new(access), (metrics, presence), (addrs, stopping))
    }

    fn serve(
        config: Config,
        listeners: Listeners,
        composed: Composed,
        access: Arc<Access>,
        (metrics, presence): (Arc<Metrics>, Arc<Presence>),
        (addrs, stopping): (Addrs, watch::Sender<bool>),
    ) -> Result<Control, StartError> {
        let stop = stopping.subscribe();
        let Composed { records, feeding, dispatch, seats, reader, form } = composed;
        let (node, endpoints) = match &form {
            Form::Embedded(_) => (None, None),
            Form::Cluster(cluster) => (Some(cluster.node.clone()), Some(Arc::clone(&cluster.endpoints))),
        };
        let api = Arc::new(Api {
            dispatch: dispatch.clone(),
            reader,
            presence: Arc::clone(&presence),
            endpoints,
            metrics: Arc::clone(&metrics),
            access: Arc::clone(&access),
            limits: config.limits.clone(),
            records,
            stopping: stop.clone(),
        });
        let links = Arc::new(Links::new(seats, dispatch, presence, metrics, stop.clone()));
        let (acceptor, accepted) = mpsc::channel(ACCEPTOR_MAX);
        let servers = vec![
            tokio::spawn(serve_http(listeners.http, Arc::clone(&api), stop.clone())),
            serve_grpc(
                listeners.grpc,
                api,
                (LinkService::new(Arc::clone(&links), listeners.link_tokens), node),
                stop.clone(),
            )?,
            serve_pipes(accepted, LinkService::new(links, None), stop),
        ];
        tracing::info!(http = %addrs.http, grpc = %addrs.grpc, "control is serving");
        Ok(Control { addrs, access, acceptor, stopping, servers, form, feeding })
    }

    pub fn addrs(&self) -> &Addrs {
        &self.addrs
    }

    /// Where a gateway of the same process hands in its end of a pipe.
    pub fn link_acceptor(&self) -> mpsc::Sender<DuplexStream> {
        self.acceptor.clone()
    }

    /// Tells development auth and the example page the gateway's real client port, if it was not known at the start.
    pub fn set_client_port(&self, port: u16) {
        self.access.set_client_port(port);
    }

    /// Takes nothing new in, finishes what is under way, ends the links, then the partition, whose queue is emptied first.
    pub async fn stop(self) {
        let _ = self.stopping.send(true);
        drop(self.acceptor);
        for mut server in self.servers {
            if tokio::time::timeout(STOP_TIMEOUT, &mut server).await.is_err() {
                tracing::warn!("calls were cut off after {STOP_TIMEOUT:?}");
                server.abort();
            }
        }
        if let Some(feeding) = self.feeding {
            feeding.stop(STOP_TIMEOUT).await;
        }
        match self.form {
            Form::Embedded(running) => {
                if tokio::task::spawn_blocking(move || running.stop()).await.is_err() {
                    tracing::error!("the partition's end could not be awaited");
                }
            }
            Form::Cluster(cluster) => cluster.end().await,
        }
    }
}

struct Listeners {
    http: TcpListener,
    grpc: TcpListener,
    link_tokens: Option<Arc<ServiceTokens>>,
}

fn end_process(error: &StoreError) {
    tracing::error!(%error, "ending the process; the next start recovers from the log");
    std::process::exit(EXIT_STORE_FAILED);
}

/// Development accepts tokens signed with the data folder's own key.
fn add_dev_key(config: &mut Config) -> io::Result<()> {
    let file = config.data_dir.join(KEY_FILE);
    dev_key(&config.data_dir)?;
    if config.auth.keys.iter().all(|key| key.file != file) {
        config.auth.keys.push(KeyConfig { algorithm: Algorithm::HS256, file, id: None });
    }
    Ok(())
}

async fn listen(addr: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Listen { addr, source };
    let listener = TcpListener::bind(addr).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // An error means that the whole process state is gone: stop as well.
    let _ = stop.wait_for(|stopping| *stopping).await;
}

async fn serve_http(listener: TcpListener, api: Arc<Api>, stop: watch::Receiver<bool>) {
    let room = Arc::new(Semaphore::new(api.limits.connections_max as usize));
    let service = TowerToHyperService::new(router(api));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(KEEPALIVE).max_concurrent_streams(STREAMS_MAX);
    let graceful = GracefulShutdown::new();
    let mut end = std::pin::pin!(stopped(stop));
    loop {
        // Beyond the bound connections wait in the kernel's queue.
        let next = async {
            let permit = Arc::clone(&room).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            next = next => next,
            () = &mut end => break,
        };
        let socket = match accepted {
            Ok((socket, _)) => socket,
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let _ = socket.set_nodelay(true);
        let connection = builder.serve_connection(TokioIo::new(socket), service.clone()).into_owned();
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "an HTTP connection ended");
            }
            drop(permit);
        });
    }
    drop(listener);
    graceful.shutdown().await;
}

fn grpc_server() -> Server {
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(STREAMS_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
}

fn serve_grpc(
    listener: TcpListener,
    api: Arc<Api>,
    (link, node): (LinkService, Option<NodeService>),
    stop: watch::Receiver<bool>,
) -> Result<JoinHandle<()>, StartError> {
    let node = node.map(|node| NodeLinkServer::new(node).max_decoding_message_size(LINK_MESSAGE_BYTES_MAX));
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(tidegate_proto::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let (health, health_service) = tonic_health::server::health_reporter();
    let body_bytes_max = api.limits.body_bytes_max;
    let push = PushServiceServer::new(PushApi(Arc::clone(&api))).max_decoding_message_size(body_bytes_max);
    let query = QueryServiceServer::new(QueryApi(api)).max_decoding_message_size(body_bytes_max);
    let routes = grpc_server()
        .add_service(push)
        .add_service(query)
        .add_service(GatewayLinkServer::new(link).max_decoding_message_size(LINK_MESSAGE_BYTES_MAX))
        .add_optional_service(node)
        .add_service(health_service)
        .add_service(reflection);
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    Ok(tokio::spawn(async move {
        health.set_serving::<PushServiceServer<PushApi>>().await;
        health.set_serving::<QueryServiceServer<QueryApi>>().await;
        health.set_serving::<GatewayLinkServer<LinkService>>().await;
        let end = async move {
            stopped(stop).await;
            health.set_not_serving::<PushServiceServer<PushApi>>().await;
        };
        if let Err(error) = routes.serve_with_incoming_shutdown(incoming, end).await {
            tracing::error!(%error, "the gRPC server ended");
        }
    }))
}

/// Links of gateways in this very process: no credential, nobody else can reach it.
fn serve_pipes(
    accepted: mpsc::Receiver<DuplexStream>,
    link: LinkService,
    stop: watch::Receiver<bool>,
) -> JoinHandle<()> {
    let routes =
        grpc_server().add_service(GatewayLinkServer::new(link).max_decoding_message_size(LINK_MESSAGE_BYTES_MAX));
    let incoming = ReceiverStream::new(accepted).map(Ok::<_, io::Error>);
    tokio::spawn(async move {
        if let Err(error) = routes.serve_with_incoming_shutdown(incoming, stopped(stop)).await {
            tracing::error!(%error, "the in-process link server ended");
        }
    })
}
