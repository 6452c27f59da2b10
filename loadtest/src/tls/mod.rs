//! TLS of the clients: whom they trust, and one small session each. No sockets but that of [`Connector::shown`].
//!
//! All clients share one configuration. Sessions are not resumed: every handshake is a whole one, as that of a client that
//! comes for the first time, so that a ramp costs the server what it says.

mod certificate;
mod session;
mod trust;

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, ServerName, pem};
use rustls::{ClientConfig, ClientConnection};

pub use certificate::{Pair, PairFiles};
pub use session::{Received, Session, Stopped};
pub use trust::Trust;

/// For each step of a handshake by itself.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
    #[error("no TLS handshake")]
    Io(#[source] io::Error),
    #[error("no certificates can be read from {}", path.display())]
    File { path: PathBuf, source: pem::Error },
    #[error("this machine names no authorities that it trusts ({0})")]
    NoAuthorities(String),
    #[error("{0:?} is no name of a host")]
    Host(String),
    #[error("a certificate cannot be made")]
    Certificate(#[from] rcgen::Error),
    #[error("a TLS message of more than {} bytes", session::INCOMPLETE_BYTES_MAX)]
    TooLarge,
    #[error("the TLS session is over")]
    NotOpen,
    #[error("the keys of the TLS session are used up")]
    Exhausted,
}

/// Makes sessions with one server.
#[derive(Clone, Debug)]
pub struct Connector {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Connector {
    /// `host`: the name or address that the server's certificate must be for.
    pub fn new(trust: &Trust, host: &str) -> Result<Connector, TlsError> {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| TlsError::Host(host.to_owned()))?;
        let mut config = trust.client_config()?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Connector { config: Arc::new(config), name })
    }

    /// Its first words are ready to be sent.
    pub fn session(&self) -> Result<Session, TlsError> {
        Session::new(Arc::clone(&self.config), self.name.clone())
    }

    /// The certificate that the server shows a newcomer: one whole handshake over a socket of its own. Blocks.
    pub fn shown(&self, server: SocketAddr) -> Result<CertificateDer<'static>, TlsError> {
        let mut connection = ClientConnection::new(Arc::clone(&self.config), self.name.clone())?;
        let mut handshake = || -> io::Result<()> {
            let mut stream = TcpStream::connect_timeout(&server, STEP_TIMEOUT)?;
            stream.set_read_timeout(Some(STEP_TIMEOUT))?;
            stream.set_write_timeout(Some(STEP_TIMEOUT))?;
            while connection.is_handshaking() {
                connection.complete_io(&mut stream)?;
            }
            connection.send_close_notify();
            connection.complete_io(&mut stream).map(drop)
        };
        handshake().map_err(|error| match error.downcast::<rustls::Error>() {
            Ok(error) => TlsError::Rustls(error),
            Err(error) => TlsError::Io(error),
        })?;
        let shown = connection.peer_certificates().and_then(<[_]>::first).cloned();
        shown.ok_or(TlsError::Rustls(rustls::Error::NoCertificatesPresented))
    }
}

#[cfg(test)]
mod tests;
