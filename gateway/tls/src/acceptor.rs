//! Certificates and keys: loaded, checked, and replaced while the gateway runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ProducesTickets, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::session::{Session, TlsError};

const ALPN: &[u8] = b"http/1.1";
/// One ticket is what a browser or client that comes back uses.
const TICKETS: usize = 1;

/// Where certificates and keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// At least one. The first is also for clients that name no host, or one that no certificate has.
    pub pairs: Vec<PairFiles>,
    pub client_certificates: ClientCertificates,
}

/// A certificate chain and its key, as PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairFiles {
    /// The server's certificate first.
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Whether clients show a certificate. The file holds the authorities they must come from, as PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientCertificates {
    NotAsked,
    /// A client may have none; one that it shows must be good.
    Optional(PathBuf),
    Required(PathBuf),
}

/// Why certificates could not be used. What was in use before stays in use.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("no certificate is configured")]
    None,
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: pem::Error },
    #[error("{} holds no certificate", .0.display())]
    NoCertificate(PathBuf),
    #[error("{} is not an X.509 certificate", .0.display())]
    Malformed(PathBuf),
    #[error("the certificate of {} is not valid {what}", path.display())]
    OutOfTime { path: PathBuf, what: &'static str },
    #[error("the key {} cannot be used", path.display())]
    Key { path: PathBuf, source: rustls::Error },
    #[error("the key {} is not that of the certificate {}", key.display(), certificate.display())]
    Mismatch { key: PathBuf, certificate: PathBuf },
    #[error("{} holds no authority that client certificates could be checked with: {why}", path.display())]
    Authorities { path: PathBuf, why: String },
    #[error("TLS cannot be set up")]
    Setup(#[source] rustls::Error),
}

/// What a listener needs to shake hands.
#[derive(Debug)]
pub struct Acceptor {
    files: TlsFiles,
    config: ArcSwap<ServerConfig>,
    /// Kept over reloads, so that tickets stay good. Its keys rotate by themselves.
    tickets: Arc<dyn ProducesTickets>,
    expires: AtomicI64,
}

impl Acceptor {
    /// Loads everything and checks it.
    pub fn load(files: TlsFiles) -> Result<Acceptor, LoadError> {
        let tickets = rustls::crypto::ring::Ticketer::new().map_err(LoadError::Setup)?;
        let (config, expires) = build(&files, &tickets)?;
        Ok(Acceptor { files, config: ArcSwap::from(config), tickets, expires: AtomicI64::new(expires) })
    }

    /// Loads the files again, for connections from now on. On an error nothing changes.
    pub fn reload(&self) -> Result<(), LoadError> {
        let (config, expires) = build(&self.files, &self.tickets)?;
        self.config.store(config);
        self.expires.store(expires, Ordering::Relaxed);
        Ok(())
    }

    /// A new connection's TLS.
    pub fn session(&self) -> Result<Session, TlsError> {
        Session::new(self.config.load_full())
    }

    /// What sessions begin with from now on, for a listener that is not the shards'.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.config.load_full()
    }

    /// When the first certificate in use expires, in seconds since 1970.
    pub fn expires_at(&self) -> i64 {
        self.expires.load(Ordering::Relaxed)
    }

    /// Changes when one of the files does.
    pub fn stamp(&self) -> Vec<Option<(SystemTime, u64)>> {
        let stamp = |path: &Path| fs::metadata(path).ok().and_then(|file| Some((file.modified().ok()?, file.len())));
        let pairs = self.files.pairs.iter().flat_map(|pair| [&pair.certificate, &pair.key]);
        pairs.chain(self.files.client_certificates.authorities()).map(|path| stamp(path)).collect()
    }
}

impl ClientCertificates {
    fn authorities(&self) -> Option<&PathBuf> {
        match self {
            ClientCertificates::NotAsked => None,
            ClientCertificates::Optional(path) | ClientCertificates::Required(path) => Some(path),
        }
    }
}

fn build(files: &TlsFiles, tickets: &Arc<dyn ProducesTickets>) -> Result<(Arc<ServerConfig>, i64), LoadError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let loaded = files.pairs.iter().map(|pair| Named::load(pair, &provider)).collect::<Result<Vec<_>, _>>()?;
    let expires = loaded.iter().map(|named| named.expires).min().ok_or(LoadError::None)?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(LoadError::Setup)?;
    let builder = match files.client_certificates.authorities() {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let optional = matches!(files.client_certificates, ClientCertificates::Optional(_));
            let roots = WebPkiClientVerifier::builder_with_provider(authorities(path)?.into(), provider);
            let roots = if optional { roots.allow_unauthenticated() } else { roots };
            let failed = |error| LoadError::Authorities { path: path.clone(), why: format!("{error}") };
            builder.with_client_cert_verifier(roots.build().map_err(failed)?)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(ByName(loaded)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.ticketer = Arc::clone(tickets);
    config.send_tls13_tickets = TICKETS;
    Ok((Arc::new(config), expires))
}

fn authorities(path: &Path) -> Result<RootCertStore, LoadError> {
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(path)? {
        let failed = |error: rustls::Error| LoadError::Authorities { path: path.into(), why: error.to_string() };
        roots.add(certificate).map_err(failed)?;
    }
    Ok(roots)
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, LoadError> {
    let failed = |source| LoadError::Read { path: path.into(), source };
    let certificates: Vec<_> =
        CertificateDer::pem_file_iter(path).map_err(failed)?.collect::<Result<_, _>>().map_err(failed)?;
    if certificates.is_empty() { Err(LoadError::NoCertificate(path.into())) } else { Ok(certificates) }
}

/// A certificate with what decides for whom it is.
#[derive(Debug)]
struct Named {
    certified: Arc<CertifiedKey>,
    /// Host names, in lower case; `*.` stands for one label.
    names: Vec<String>,
    expires: i64,
}

impl Named {
    fn load(pair: &PairFiles, provider: &CryptoProvider) -> Result<Named, LoadError> {
        let chain = read_certificates(&pair.certificate)?;
        let (names, expires) = describe(&chain[0], &pair.certificate)?;
        let key = PrivateKeyDer::from_pem_file(&pair.key)
            .map_err(|source| LoadError::Read { path: pair.key.clone(), source })?;
        let certified = CertifiedKey::from_der(chain, key, provider).map_err(|source| match source {
            rustls::Error::InconsistentKeys(_) => {
                LoadError::Mismatch { key: pair.key.clone(), certificate: pair.certificate.clone() }
            }
            source => LoadError::Key { path: pair.key.clone(), source },
        })?;
        Ok(Named { certified: Arc::new(certified), names, expires })
    }

    fn is_for(&self, host: &str) -> bool {
        self.names.iter().any(|name| match name.strip_prefix("*.") {
            Some(parent) => host.split_once('.').is_some_and(|(_, rest)| rest == parent),
            None => name == host,
        })
    }
}

/// Host names of a certificate and the second it expires in. An error if it is not valid now.
fn describe(certificate: &CertificateDer<'_>, path: &Path) -> Result<(Vec<String>, i64), LoadError> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| LoadError::Malformed(path.into()))?;
    let validity = parsed.validity();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
    let (begins, expires) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    let out_of_time = |what| Err(LoadError::OutOfTime { path: path.into(), what });
    if now < begins {
        return out_of_time("yet");
    }
    if now > expires {
        return out_of_time("any more: it has expired");
    }
    let alternatives = parsed.subject_alternative_name().map_err(|_| LoadError::Malformed(path.into()))?;
    let names = alternatives.into_iter().flat_map(|names| &names.value.general_names);
    let hosts = names.filter_map(|name| match name {
        GeneralName::DNSName(host) => Some(host.to_ascii_lowercase()),
        _ => None,
    });
    Ok((hosts.collect(), expires))
}

/// By what a client's certificate may be known: alternative names of kind DNS (in lower case) and URI, then the common name.
pub fn names_of(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return Vec::new() };
    let alternatives = parsed.subject_alternative_name().ok().flatten();
    let names = alternatives.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
        GeneralName::DNSName(host) => Some(host.to_ascii_lowercase()),
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    });
    let common = parsed.subject().iter_common_name().filter_map(|name| name.as_str().ok()).map(str::to_owned);
    names.chain(common).collect()
}

/// Picks by the host that a client names (SNI).
#[derive(Debug)]
struct ByName(Vec<Named>);

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let host = hello.server_name().map(str::to_ascii_lowercase);
        let named = host.and_then(|host| self.0.iter().find(|named| named.is_for(&host)));
        named.or(self.0.first()).map(|named| Arc::clone(&named.certified))
    }
}

#[cfg(test)]
#[path = "acceptor_tests.rs"]
mod tests;
