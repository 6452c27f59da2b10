//! The listener for deliveries whose callers show a certificate instead of a token. It serves this one endpoint.
//!
//! Connections are bounded, and so is the time of a handshake and of a request's head: who holds one without asking for
//! anything holds up nobody for long. Nothing is served before the certificate is known to come from one of the authorities.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::DefaultBodyLimit;
use axum::routing::post;
use axum::{Extension, Router};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tidegate_gateway_tls::{Acceptor, names_of};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, error};

use super::{BODY_BYTES_MAX, Deliverer, deliver_certified};

/// More wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 64;
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// For the head of a request, and the longest pause before the next one.
const HEAD_MAX: Duration = Duration::from_secs(30);
/// After an accept that failed, for want of descriptors as a rule.
const PAUSE: Duration = Duration::from_millis(100);

/// Who may come in.
#[derive(Clone, Debug)]
pub struct Door {
    pub acceptor: Arc<Acceptor>,
    /// Names of certificates; empty: all that come from the authorities.
    pub clients: Arc<[String]>,
}

/// Whose certificate it is.
#[derive(Clone, Debug)]
pub struct Certified {
    pub name: Arc<str>,
    pub peer: SocketAddr,
    pub may_deliver: bool,
}

impl Door {
    /// Until the future is dropped.
    pub async fn serve(self, listener: std::net::TcpListener, deliverer: Deliverer) {
        let listener = match TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => return error!(%error, "the listener for deliveries cannot be used"),
        };
        let router = Router::new()
            .route("/internal/v1/deliver", post(deliver_certified).layer(DefaultBodyLimit::max(BODY_BYTES_MAX)))
            .with_state(deliverer);
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let (door, router) = (self.clone(), router.clone());
                    tokio::spawn(async move {
                        door.connection(stream, peer, router).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    debug!(%error, "no connection");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn connection(self, stream: TcpStream, peer: SocketAddr, router: Router) {
        let shaking = TlsAcceptor::from(self.acceptor.config()).accept(stream);
        let stream = match tokio::time::timeout(HANDSHAKE_MAX, shaking).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return debug!(%peer, %error, "no session of TLS"),
            Err(_) => return debug!(%peer, "no session of TLS in time"),
        };
        let names = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).map(names_of);
        let caller = self.caller(names.unwrap_or_default(), peer);
        let service = TowerToHyperService::new(router.layer(Extension(caller)));
        let mut builder = Builder::new(TokioExecutor::new()).http1_only();
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_MAX);
        if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
            debug!(%peer, %error, "a connection for deliveries ended");
        }
    }

    fn caller(&self, names: Vec<String>, peer: SocketAddr) -> Certified {
        let known = names.iter().find(|name| self.clients.contains(name)).cloned();
        let may_deliver = known.is_some() || self.clients.is_empty();
        let name = known.or_else(|| names.into_iter().next()).unwrap_or_default();
        Certified { name: name.into(), peer, may_deliver }
    }
}
