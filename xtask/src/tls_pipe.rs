//! For a program that cannot speak TLS: plain connections in, TLS connections out.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context as _;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// A running pipe; its connections end when it is dropped.
pub struct TlsPipe {
    addr: SocketAddr,
    sessions: Arc<AtomicUsize>,
    _runtime: Runtime,
}

impl TlsPipe {
    /// To `target`, which must show a certificate of `authority` (PEM) for its address.
    pub fn start(target: SocketAddr, authority: &Path) -> anyhow::Result<TlsPipe> {
        let mut roots = RootCertStore::empty();
        let certificate = CertificateDer::from_pem_file(authority);
        let certificate = certificate.with_context(|| format!("no certificate in {}", authority.display()))?;
        roots.add(certificate)?;
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let connector = TlsConnector::from(Arc::new(config));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let addr = listener.local_addr()?;
        let sessions = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&sessions);
        runtime.spawn(async move {
            while let Ok((plain, _)) = listener.accept().await {
                let (connector, counted) = (connector.clone(), Arc::clone(&counted));
                // Cases break connections on purpose; the suite judges how.
                tokio::spawn(async move { join(plain, target, connector, &counted).await.ok() });
            }
        });
        Ok(TlsPipe { addr, sessions, _runtime: runtime })
    }

    /// Where it takes plain connections.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// TLS handshakes that were completed.
    pub fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }
}

async fn join(
    mut plain: TcpStream,
    target: SocketAddr,
    connector: TlsConnector,
    sessions: &AtomicUsize,
) -> std::io::Result<()> {
    plain.set_nodelay(true)?;
    let stream = TcpStream::connect(target).await?;
    stream.set_nodelay(true)?;
    let mut sealed = connector.connect(ServerName::from(target.ip()), stream).await?;
    sessions.fetch_add(1, Ordering::Relaxed);
    copy_bidirectional(&mut plain, &mut sealed).await.map(drop)
}
