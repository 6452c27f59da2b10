//! Connections to control's nodes. Attachments to one node share them, a bounded number each, since servers bound the
//! streams of a connection.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tidegate_gateway_core::link::PartitionId;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tonic::transport::{Channel, Endpoint, Error, Uri};

use super::topology::Topology;

/// Attachments on one connection; HTTP/2 servers often allow 100 streams.
const ATTACHMENTS_MAX: u32 = 64;
/// Bytes under way in an in-process link.
const DUPLEX_BYTES: usize = 256 * 1024;
/// HTTP/2 flow-control window: enough for a batch of deliveries to be under way while one is read.
const WINDOW_BYTES: u32 = 4 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A silent peer is asked after this time and given up after as much again.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// The connections that exist. One whose peer failed is forgotten, so that the next attempt dials anew.
#[derive(Debug)]
pub(super) struct Channels {
    in_process: Option<mpsc::Sender<DuplexStream>>,
    open: Mutex<HashMap<Key, Arc<Slot>>>,
}

/// Where, and which of several connections there.
type Key = (String, u32);
/// Held while one of those who need the connection dials it.
type Slot = tokio::sync::Mutex<Option<Channel>>;

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum DialError {
    Address(Error),
    Connect(Error),
}

/// One connection, and which one it is.
pub(super) struct Dialled {
    pub channel: Channel,
    key: Key,
    slot: Arc<Slot>,
}

impl Channels {
    pub fn new(topology: &Topology) -> Channels {
        let in_process = match topology {
            Topology::InProcess(acceptor) => Some(acceptor.clone()),
            Topology::Fixed(_) | Topology::Registry(_) => None,
        };
        Channels { in_process, open: Mutex::default() }
    }

    pub async fn to(&self, address: String, partition: PartitionId) -> Result<Dialled, DialError> {
        let key = (address, partition.0 / ATTACHMENTS_MAX);
        let slot = {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(open.entry(key.clone()).or_default())
        };
        let mut held = slot.lock().await;
        let channel = match &*held {
            Some(channel) => channel.clone(),
            None => held.insert(self.dial(&key.0).await?).clone(),
        };
        drop(held);
        Ok(Dialled { channel, key, slot })
    }

    /// Nobody is given this connection any more.
    pub fn forget(&self, dialled: &Dialled) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.get(&dialled.key).is_some_and(|slot| Arc::ptr_eq(slot, &dialled.slot)) {
            open.remove(&dialled.key);
        }
    }

    async fn dial(&self, address: &str) -> Result<Channel, DialError> {
        let endpoint = Endpoint::from_shared(address.to_owned())
            .map_err(DialError::Address)?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES);
        let dialled = match &self.in_process {
            None => endpoint.connect().await,
            Some(acceptor) => {
                let acceptor = acceptor.clone();
                let connector = tower::service_fn(move |_: Uri| duplex(acceptor.clone()));
                endpoint.connect_with_connector(connector).await
            }
        };
        dialled.map_err(DialError::Connect)
    }
}

async fn duplex(acceptor: mpsc::Sender<DuplexStream>) -> std::io::Result<TokioIo<DuplexStream>> {
    let (ours, theirs) = tokio::io::duplex(DUPLEX_BYTES);
    acceptor.send(theirs).await.map_err(|_| std::io::Error::from(std::io::ErrorKind::ConnectionRefused))?;
    Ok(TokioIo::new(ours))
}
