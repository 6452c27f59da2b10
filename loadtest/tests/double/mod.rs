//! A test double: an in-process server that speaks as much of Tidegate's protocol as the harness does, with one planted fault.
//!
//! It listens as a gateway (WebSocket, `tidegate.v1.proto`) and as control (gRPC `PushService`, REST `/api/v1/push`), keeps
//! every stream in memory, and writes down what it did wrong, so that a test can hold the harness's words against it.

#![allow(dead_code, unused_imports, reason = "each test binary uses a part of it")]

mod fault;
mod grpc;
mod hub;
mod rest;
mod sequencer;
mod socket;
mod wrongs;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tidegate_load::tls::{Pair, PairFiles};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;

pub use fault::{Fault, How, Pulls};
pub use sequencer::Planted;

use hub::Hub;

/// A running double. Dropping it closes everything.
pub struct Double {
    pub client: SocketAddr,
    pub http: SocketAddr,
    pub grpc: SocketAddr,
    /// A file with its certificate, if it speaks TLS.
    pub authority: Option<PathBuf>,
    folder: Option<TempDir>,
    hub: Hub,
    runtime: Option<Runtime>,
}

impl Double {
    pub fn start(fault: Fault) -> Double {
        Double::listen(fault, None, None)
    }

    /// Its gateway side speaks TLS, with a certificate of its own.
    pub fn over_tls(fault: Fault) -> Double {
        let folder = tempfile::tempdir().expect("a folder");
        let files = PairFiles { certificate: folder.path().join("tls.crt"), key: folder.path().join("tls.key") };
        let pair = Pair::self_signed(IpAddr::from([127, 0, 0, 1])).expect("a pair");
        pair.write(&files).expect("written");
        let key = PrivateKeyDer::from_pem_file(&files.key).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![pair.certificate().clone()], key)
            .expect("a pair that fits");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let mut double = Double::listen(fault, Some(acceptor), Some(files.certificate));
        double.folder = Some(folder);
        double
    }

    fn listen(fault: Fault, tls: Option<TlsAcceptor>, authority: Option<PathBuf>) -> Double {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("double")
            .enable_all()
            .build()
            .expect("a runtime");
        let hub = Hub::new(fault);
        let (client, http, grpc) = runtime.block_on(async {
            let mut listeners = Vec::new();
            for _ in 0..3 {
                listeners.push(TcpListener::bind("127.0.0.1:0").await.expect("a free port"));
            }
            let addrs: Vec<SocketAddr> = listeners.iter().map(|l| l.local_addr().expect("bound")).collect();
            let mut listeners = listeners.into_iter();
            let mut listener = || listeners.next().expect("three listeners");
            tokio::spawn(socket::serve(listener(), tls, hub.clone()));
            tokio::spawn(rest::serve(listener(), hub.clone()));
            tokio::spawn(grpc::serve(listener(), hub.clone()));
            (addrs[0], addrs[1], addrs[2])
        });
        Double { client, http, grpc, authority, folder: None, hub, runtime: Some(runtime) }
    }

    /// What was done wrong so far, in order.
    pub fn planted(&self) -> Vec<Planted> {
        self.hub.lock().planted.clone()
    }

    /// Messages that were given a seq and answered OK.
    pub fn accepted(&self) -> u64 {
        self.hub.lock().number()
    }

    pub fn pongs(&self) -> u64 {
        self.hub.lock().pongs
    }

    /// Connections that stand.
    pub fn connections(&self) -> usize {
        self.hub.lock().connections()
    }

    /// Waits until the double has sequenced so many messages.
    pub fn wait_accepted(&self, messages: u64) {
        let begun = std::time::Instant::now();
        while self.accepted() < messages {
            assert!(begun.elapsed() < Duration::from_secs(60), "only {} of {messages} came", self.accepted());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Double {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
