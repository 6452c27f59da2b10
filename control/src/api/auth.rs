//! Who calls: a backend with a service token, a user with a JWT, or somebody on this very machine in development.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use tidegate_auth::dev::{DevRules, NotLocal, RequestFacts};
use tidegate_auth::service::{self, bearer_token};
use tidegate_auth::{Key, KeyError, Verifier, VerifierConfig};
use tidegate_control_core::domain::{ErrorCode, Uid};
use tonic::Status;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::transport::server::TcpConnectInfo;

use super::error::ApiError;
use crate::config::{AuthConfig, KeyConfig};

/// Largest secret file that is read.
const SECRET_FILE_BYTES_MAX: u64 = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    #[error("cannot read {}", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Services(#[from] service::ServiceTokensError),
    #[error("{} is no good key", path.display())]
    BadKey {
        path: PathBuf,
        #[source]
        source: KeyError,
    },
    #[error("the keys cannot be used together")]
    Keys(#[from] KeyError),
}

/// Tokens that are compared, never shown: only their digests are kept.
pub struct ServiceTokens {
    accepted: service::ServiceTokens,
    /// What a node that dials another one with the same file shows; marked as sensitive.
    authorization: Option<MetadataValue<Ascii>>,
}

impl ServiceTokens {
    /// One token a line; empty lines and those that begin with `#` are left out.
    pub fn load(path: &Path) -> Result<ServiceTokens, AuthError> {
        let tokens = service::read(path)?;
        let authorization = tokens.first().and_then(|token| {
            let mut value: MetadataValue<Ascii> = format!("Bearer {token}").parse().ok()?;
            value.set_sensitive(true);
            Some(value)
        });
        Ok(ServiceTokens { accepted: service::ServiceTokens::of(&tokens), authorization })
    }

    /// With the first token of the file.
    pub fn authorization(&self) -> Option<MetadataValue<Ascii>> {
        self.authorization.clone()
    }

    fn contains(&self, token: &str) -> bool {
        self.accepted.contains(token)
    }

    /// For calls that need one of these tokens and nothing else.
    pub fn check_metadata(&self, metadata: &MetadataMap) -> Result<(), Status> {
        match bearer_of(metadata)? {
            Some(token) if self.contains(token) => Ok(()),
            _ => Err(Status::unauthenticated("a token is needed in `authorization: Bearer`")),
        }
    }
}

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// May push and read everything.
    Backend,
    User(Uid),
}

impl Caller {
    /// On whose behalf; `None`: nobody's, and nothing is asked.
    pub fn uid(&self) -> Option<Uid> {
        match self {
            Caller::Backend => None,
            Caller::User(uid) => Some(uid.clone()),
        }
    }
}

/// The doors' one guard.
pub struct Access {
    services: Option<ServiceTokens>,
    users: Verifier,
    dev: Option<DevAccess>,
}

struct DevAccess {
    http: SocketAddr,
    client_port: AtomicU16,
}

impl Access {
    /// Reads the secrets.
    pub fn load(auth: &AuthConfig, service_tokens_file: Option<&Path>) -> Result<Access, AuthError> {
        let services = service_tokens_file.map(ServiceTokens::load).transpose()?;
        let keys = auth.keys.iter().map(load_key).collect::<Result<Vec<_>, _>>()?;
        let config = VerifierConfig {
            audiences: auth.audiences.clone(),
            issuers: auth.issuers.clone(),
            leeway_s: auth.leeway_s,
        };
        Ok(Access { services, users: Verifier::new(keys, &config)?, dev: None })
    }

    /// Also accepts requests without a credential from this machine, at this HTTP listener.
    pub fn with_dev(self, http: SocketAddr, client_port: u16) -> Access {
        Access { dev: Some(DevAccess { http, client_port: AtomicU16::new(client_port) }), ..self }
    }

    pub fn is_dev(&self) -> bool {
        self.dev.is_some()
    }

    /// The gateway's client port, of which pages may talk to us in development.
    pub fn client_port(&self) -> Option<u16> {
        self.dev.as_ref().map(|dev| dev.client_port.load(Ordering::Relaxed))
    }

    pub fn set_client_port(&self, port: u16) {
        if let Some(dev) = &self.dev {
            dev.client_port.store(port, Ordering::Relaxed);
        }
    }

    /// Who sent this HTTP request. `asked`: the uid in the query, which a backend may act for and which a user must be.
    ///
    /// Errors: `UNAUTHENTICATED` without a good credential; `FORBIDDEN` if the uid is another's, or if development auth
    /// refuses the request because of where it comes from.
    pub fn caller(&self, request: &Parts, asked: Option<&str>) -> Result<Caller, ApiError> {
        let caller = match bearer(&request.headers)? {
            Some(token) => self.bearer_caller(token)?,
            None => {
                self.dev_caller(request)?;
                Caller::Backend
            }
        };
        let Some(asked) = asked else { return Ok(caller) };
        let asked: Uid = asked.parse().map_err(|_| ApiError::problem("uid", "is not a uid"))?;
        match caller {
            Caller::User(uid) if uid != asked => Err(ApiError::new(ErrorCode::Forbidden, "the uid is not yours")),
            _ => Ok(Caller::User(asked)),
        }
    }

    /// As [`Access::caller`], for calls that only backends may make.
    pub fn backend(&self, request: &Parts) -> Result<(), ApiError> {
        match self.caller(request, None)? {
            Caller::Backend => Ok(()),
            Caller::User(_) => Err(ApiError::new(ErrorCode::Forbidden, "a service token is needed")),
        }
    }

    /// For gRPC: a service token, or in development a peer on this machine. (No web page can speak gRPC to us.)
    pub fn backend_call<T>(&self, request: &tonic::Request<T>) -> Result<(), Status> {
        match bearer_of(request.metadata())? {
            Some(token) if self.services.as_ref().is_some_and(|services| services.contains(token)) => Ok(()),
            Some(_) => Err(Status::unauthenticated("the service token is not accepted")),
            None => {
                let peer = request.extensions().get::<TcpConnectInfo>().and_then(TcpConnectInfo::remote_addr);
                if self.is_dev() && peer.is_some_and(|peer| peer.ip().is_loopback()) {
                    return Ok(());
                }
                Err(Status::unauthenticated("a service token is needed in `authorization: Bearer`"))
            }
        }
    }

    fn bearer_caller(&self, token: &str) -> Result<Caller, ApiError> {
        if self.services.as_ref().is_some_and(|services| services.contains(token)) {
            return Ok(Caller::Backend);
        }
        let refused = |why: String| ApiError::new(ErrorCode::Unauthenticated, why);
        let claims = self.users.verify(token, now_ms()).map_err(|error| refused(error.to_string()))?;
        let uid = claims.uid.parse().map_err(|_| refused("the token's subject is not a valid uid".to_owned()))?;
        Ok(Caller::User(uid))
    }

    fn dev_caller(&self, request: &Parts) -> Result<(), ApiError> {
        let Some(dev) = &self.dev else {
            return Err(ApiError::new(ErrorCode::Unauthenticated, "a token is needed in `Authorization: Bearer`"));
        };
        let own_ports = vec![dev.http.port(), dev.client_port.load(Ordering::Relaxed)];
        let rules = DevRules { listener: dev.http, tls_port: None, own_ports };
        let host = request.uri.authority().map(|authority| authority.as_str());
        let host = host.or_else(|| text(&request.headers, header::HOST.as_str()));
        // An Origin that is not text is somebody's, but not ours.
        let origin = request.headers.contains_key(header::ORIGIN);
        let origin = origin.then(|| text(&request.headers, header::ORIGIN.as_str()).unwrap_or("null"));
        let facts = RequestFacts { host, origin, forwarded: is_forwarded(&request.headers) };
        rules.check(facts).map_err(|why: NotLocal| ApiError::new(ErrorCode::Forbidden, why.to_string()))
    }
}

fn is_forwarded(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| matches!(name.as_str(), "forwarded" | "via") || name.as_str().starts_with("x-forwarded-"))
}

/// The one value of a header; `None` if it is absent, not text, or given more than once.
fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    if values.next().is_some() {
        return None;
    }
    first.to_str().ok()
}

/// The bearer token; `None` if there is no `Authorization` at all.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    if !headers.contains_key(header::AUTHORIZATION) {
        return Ok(None);
    }
    let token = text(headers, header::AUTHORIZATION.as_str()).and_then(bearer_token);
    let refused = || ApiError::new(ErrorCode::Unauthenticated, "`Authorization` is not `Bearer` with one token");
    token.map(Some).ok_or_else(refused)
}

fn bearer_of(metadata: &MetadataMap) -> Result<Option<&str>, Status> {
    let Some(value) = metadata.get("authorization") else { return Ok(None) };
    let token = value.to_str().ok().and_then(bearer_token);
    token.map(Some).ok_or_else(|| Status::unauthenticated("`authorization` is not `Bearer` with one token"))
}

fn load_key(config: &KeyConfig) -> Result<Key, AuthError> {
    let material = read_secret(&config.file)?;
    let bad = |source| AuthError::BadKey { path: config.file.clone(), source };
    Key::new(config.algorithm, config.id.clone(), &material).map_err(bad)
}

fn read_secret(path: &Path) -> Result<Vec<u8>, AuthError> {
    use io::Read as _;
    let mut bytes = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(SECRET_FILE_BYTES_MAX).read_to_end(&mut bytes));
    match read {
        Ok(_) => Ok(bytes),
        Err(source) => Err(AuthError::Unreadable { path: path.to_owned(), source }),
    }
}

pub(crate) fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as i64
}
