//! How etcd is reached: one member at a time, the next one after it failed.

use std::time::Duration;

use tonic::Status;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use super::EtcdOptions;
use super::proto::AuthenticateRequest;
use super::proto::auth_client::AuthClient;
use super::proto::kv_client::KvClient;
use super::proto::lease_client::LeaseClient;
use super::proto::watch_client::WatchClient;
use crate::backoff::random;
use crate::error::RegistryError;
use crate::settings::{Login, Tls};

type Service = InterceptedService<Channel, Headers>;

#[derive(Clone)]
pub(crate) struct Connection(Service);

impl Connection {
    pub(crate) fn kv(&self) -> KvClient<Service> {
        // A listing is bounded by what etcd lets a request hold, not by the 4 MiB of the transport.
        KvClient::new(self.0.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub(crate) fn lease(&self) -> LeaseClient<Service> {
        LeaseClient::new(self.0.clone())
    }

    pub(crate) fn watch(&self) -> WatchClient<Service> {
        WatchClient::new(self.0.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }
}

const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// What goes with every request.
#[derive(Clone)]
pub(super) struct Headers {
    token: Option<MetadataValue<Ascii>>,
}

impl Interceptor for Headers {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, Status> {
        // A member that lost sight of its leader refuses, instead of leaving a watch silent.
        request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
        if let Some(token) = &self.token {
            request.metadata_mut().insert("token", token.clone());
        }
        Ok(request)
    }
}

pub(crate) struct Dialler {
    endpoints: Vec<Endpoint>,
    login: Option<Login>,
    /// Where the first of them is looked for, so that not all nodes ask the same member.
    offset: u64,
}

impl Dialler {
    pub(crate) fn new(options: EtcdOptions) -> Result<Dialler, RegistryError> {
        let EtcdOptions { endpoints, login, tls, timeout } = options;
        if endpoints.is_empty() {
            return Err(RegistryError::settings("no endpoints"));
        }
        let tls = tls_config(tls);
        let endpoints = endpoints.iter().map(|url| endpoint(url, &tls, timeout)).collect::<Result<_, _>>()?;
        Ok(Dialler { endpoints, login, offset: random() })
    }

    pub(crate) async fn dial(&self, attempt: u64) -> Result<Connection, RegistryError> {
        let count = self.endpoints.len() as u64;
        let at = usize::try_from(self.offset.wrapping_add(attempt) % count).unwrap_or(0);
        let channel = self.endpoints[at].connect().await.map_err(RegistryError::unavailable)?;
        let token = match &self.login {
            None => None,
            Some(login) => Some(authenticate(channel.clone(), login).await?),
        };
        Ok(Connection(InterceptedService::new(channel, Headers { token })))
    }
}

async fn authenticate(channel: Channel, login: &Login) -> Result<MetadataValue<Ascii>, RegistryError> {
    let request = AuthenticateRequest { name: login.username.clone(), password: login.password.reveal().to_owned() };
    let answer = AuthClient::new(channel).authenticate(request).await.map_err(super::refusal)?;
    answer.into_inner().token.parse().map_err(RegistryError::unavailable)
}

fn tls_config(tls: Option<Tls>) -> ClientTlsConfig {
    let Some(tls) = tls else { return ClientTlsConfig::new().with_native_roots() };
    let config = match tls.ca {
        Some(ca) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)),
        None => ClientTlsConfig::new().with_native_roots(),
    };
    match tls.identity {
        Some(identity) => config.identity(Identity::from_pem(identity.certificate, identity.key.reveal())),
        None => config,
    }
}

fn endpoint(url: &str, tls: &ClientTlsConfig, timeout: Duration) -> Result<Endpoint, RegistryError> {
    let invalid = |error: tonic::transport::Error| {
        RegistryError::settings(format!("{url:?} is not an endpoint: {}", crate::error::chain(&error)))
    };
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(invalid)?;
    let endpoint = endpoint.connect_timeout(timeout).tcp_nodelay(true);
    match url.split_once("://") {
        Some(("http", _)) => Ok(endpoint),
        Some(("https", _)) => endpoint.tls_config(tls.clone()).map_err(invalid),
        _ => Err(RegistryError::settings(format!("{url:?} begins with neither http:// nor https://"))),
    }
}
