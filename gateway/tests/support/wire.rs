//! The way from a test's client to the gateway: plain, or through TLS. With `TIDEGATE_TEST_TLS=1` every test that takes its
//! addresses from [`Node`](super::Node) speaks TLS.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex};
use std::task::{Context, Poll};

use rcgen::{CertifiedKey, KeyPair};
use tidegate_gateway::Addrs;
use tidegate_gateway::config::CertificateConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

static PAIR: LazyLock<CertifiedKey<KeyPair>> = LazyLock::new(make);
/// Listeners of this process that speak TLS.
static SECURE: Mutex<BTreeSet<SocketAddr>> = Mutex::new(BTreeSet::new());

/// A connection, with TLS where the listener speaks it.
pub enum Wire {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

pub fn make() -> CertifiedKey<KeyPair> {
    rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).expect("a certificate")
}

/// The certificate that every gateway of this process shows, in files.
pub fn certificate(folder: &Path) -> CertificateConfig {
    write(folder, &PAIR)
}

pub fn write(folder: &Path, pair: &CertifiedKey<KeyPair>) -> CertificateConfig {
    let files = CertificateConfig { certificate: folder.join("tls.crt"), key: folder.join("tls.key") };
    std::fs::write(&files.certificate, pair.cert.pem()).expect("written");
    std::fs::write(&files.key, pair.signing_key.serialize_pem()).expect("written");
    files
}

/// The addresses that tests speak to.
pub fn way(addrs: &Addrs) -> Addrs {
    let mut addrs = *addrs;
    SECURE.lock().expect("no panic before").extend([addrs.tls, addrs.tls_echo].into_iter().flatten());
    if is_tls() {
        addrs.client = addrs.tls.unwrap_or(addrs.client);
        addrs.echo = addrs.echo.and(addrs.tls_echo);
    }
    addrs
}

pub fn is_tls() -> bool {
    std::env::var("TIDEGATE_TEST_TLS").is_ok_and(|value| value == "1")
}

pub async fn connect(addr: SocketAddr) -> Wire {
    let stream = TcpStream::connect(addr).await.expect("connects");
    if !SECURE.lock().expect("no panic before").contains(&addr) {
        return Wire::Plain(stream);
    }
    Wire::Tls(Box::new(shake_hands(stream, PAIR.cert.der().clone()).await.expect("a TLS session")))
}

/// Trusts this certificate and no other.
pub async fn shake_hands(stream: TcpStream, trusted: CertificateDer<'static>) -> io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted).expect("a root");
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from("localhost").expect("a name");
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// The certificate of [`certificate`].
pub fn trusted() -> CertificateDer<'static> {
    PAIR.cert.der().clone()
}

impl Wire {
    pub fn set_nodelay(&self) {
        let stream = match self {
            Wire::Plain(stream) => stream,
            Wire::Tls(stream) => stream.get_ref().0,
        };
        stream.set_nodelay(true).expect("nodelay");
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Wire::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Wire::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Wire::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Wire::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Wire::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Wire::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Wire::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Wire::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
