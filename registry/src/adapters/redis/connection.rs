//! How Redis is reached: one connection for requests, and one for each watch's messages.

use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection, PubSub};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::{AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionInfo, IntoConnectionInfo as _};
use redis::{Pipeline, RedisFuture, TlsCertificates, Value};

use super::{RedisOptions, refusal};
use crate::backoff::random;
use crate::error::RegistryError;
use crate::settings::Tls;

#[derive(Clone)]
pub(super) enum Connection {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Connection::Single(connection) => connection.req_packed_command(command),
            Connection::Cluster(connection) => connection.req_packed_command(command),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Connection::Single(connection) => connection.req_packed_commands(pipeline, offset, count),
            Connection::Cluster(connection) => connection.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        0
    }
}

pub(super) struct Dialler {
    /// One for each endpoint.
    nodes: Vec<Client>,
    cluster: Option<ClusterClient>,
    timeout: Duration,
}

impl Dialler {
    pub(super) fn new(options: RedisOptions) -> Result<Dialler, RegistryError> {
        match options.endpoints.len() {
            0 => return Err(RegistryError::settings("no endpoints")),
            1 => {}
            _ if options.cluster => {}
            _ => return Err(RegistryError::settings("several endpoints are a Redis Cluster: say so")),
        }
        let certificates = options.tls.as_ref().map(certificates);
        let infos = options.endpoints.iter().map(|url| info(url, &options)).collect::<Result<Vec<_>, _>>()?;
        let invalid = |error| RegistryError::settings(format!("not a Redis client: {error}"));
        let client = |info: &ConnectionInfo| match &certificates {
            Some(certificates) => Client::build_with_tls(info.clone(), certificates.clone()),
            None => Client::open(info.clone()),
        };
        let nodes = infos.iter().map(client).collect::<Result<_, _>>().map_err(invalid)?;
        let cluster = if options.cluster { Some(cluster(infos, &options).map_err(invalid)?) } else { None };
        Ok(Dialler { nodes, cluster, timeout: options.timeout })
    }

    pub(super) async fn dial(&self) -> Result<Connection, RegistryError> {
        if let Some(cluster) = &self.cluster {
            return Ok(Connection::Cluster(cluster.get_async_connection().await.map_err(refusal)?));
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.timeout))
            .set_response_timeout(Some(self.timeout));
        let connection = self.nodes[0].get_multiplexed_async_connection_with_config(&config).await;
        Ok(Connection::Single(connection.map_err(refusal)?))
    }

    /// Any node will do: a cluster tells its messages to all of them.
    pub(super) async fn listen(&self, channel: &str) -> Result<PubSub, RegistryError> {
        let first = usize::try_from(random() % self.nodes.len() as u64).unwrap_or(0);
        let mut failure = RegistryError::unavailable("no node was asked");
        for at in 0..self.nodes.len() {
            let node = &self.nodes[(first + at) % self.nodes.len()];
            let subscribe = async {
                let mut messages = node.get_async_pubsub().await?;
                messages.subscribe(channel).await?;
                Ok(messages)
            };
            match tokio::time::timeout(self.timeout, subscribe).await {
                Ok(Ok(messages)) => return Ok(messages),
                Ok(Err(error)) => failure = refusal(error),
                Err(late) => failure = RegistryError::unavailable(late),
            }
        }
        Err(failure)
    }
}

fn cluster(infos: Vec<ConnectionInfo>, options: &RedisOptions) -> redis::RedisResult<ClusterClient> {
    let mut builder = ClusterClient::builder(infos)
        .connection_timeout(options.timeout)
        .response_timeout(options.timeout)
        .overall_response_timeout(Some(options.timeout));
    if let Some(login) = &options.login {
        builder = builder.username(&login.username).password(login.password.reveal());
    }
    if let Some(tls) = &options.tls {
        builder = builder.certs(certificates(tls));
    }
    builder.build()
}

fn info(url: &str, options: &RedisOptions) -> Result<ConnectionInfo, RegistryError> {
    let invalid = |why: &str| RegistryError::settings(format!("{url:?} is not an endpoint: {why}"));
    if !url.starts_with("redis://") && !url.starts_with("rediss://") {
        return Err(invalid("it begins with neither redis:// nor rediss://"));
    }
    let info = url.into_connection_info().map_err(|error| invalid(&error.to_string()))?;
    let Some(login) = &options.login else { return Ok(info) };
    let mut settings = info.redis_settings().clone().set_password(login.password.reveal());
    if !login.username.is_empty() {
        settings = settings.set_username(&login.username);
    }
    Ok(info.set_redis_settings(settings))
}

fn certificates(tls: &Tls) -> TlsCertificates {
    let client_tls = tls.identity.as_ref().map(|identity| ClientTlsConfig {
        client_cert: identity.certificate.clone().into_bytes(),
        client_key: identity.key.reveal().as_bytes().to_vec(),
    });
    TlsCertificates { client_tls, root_cert: tls.ca.clone().map(String::into_bytes) }
}
