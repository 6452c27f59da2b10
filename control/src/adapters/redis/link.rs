//! The connection to a server or a cluster: made when it is needed, given up when it failed, and asked for a bounded time.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use redis::aio::{ConnectionLike as _, MultiplexedConnection};
use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{Route, SingleNodeRoutingInfo, Slot, SlotAddr};
use redis::{
    AsyncConnectionConfig, Client, ConnectionInfo, IntoConnectionInfo as _, RedisError, TlsCertificates, Value,
};
use tokio::sync::Mutex;

use super::OpenError;
use super::calls::{Call, pipeline};
use super::settings::RedisSettings;

/// A pipeline is sent again so often when a slot has moved.
const CLUSTER_RETRIES: u32 = 2;

/// How to reach the servers. Holds the password, and shows nothing.
pub struct Endpoints {
    target: Target,
    /// For subscriptions, which any node of a cluster can serve.
    pub nodes: Vec<Client>,
    pub timeout: Duration,
}

enum Target {
    /// The only node.
    Single(Box<Client>),
    Cluster(Box<ClusterClient>),
}

impl Endpoints {
    /// Reads the files that the settings name; connects to nobody.
    pub fn new(settings: &RedisSettings) -> Result<Endpoints, OpenError> {
        let read =
            |path: &std::path::PathBuf| std::fs::read(path).map_err(|error| OpenError::File(path.clone(), error));
        let password = settings.password_file.as_ref().map(read).transpose()?;
        let password = password.map(|bytes| String::from_utf8_lossy(&bytes).trim_end().to_owned());
        let root_cert = settings.tls_ca_file.as_ref().map(read).transpose()?;
        let certificates = root_cert.map(|root| TlsCertificates { client_tls: None, root_cert: Some(root) });
        let mut nodes = Vec::new();
        let mut infos = Vec::new();
        for url in &settings.urls {
            let info = credentials(url.as_str().into_connection_info()?, settings, password.as_deref());
            infos.push(info.clone());
            nodes.push(match &certificates {
                Some(certificates) => Client::build_with_tls(info, certificates.clone())?,
                None => Client::open(info)?,
            });
        }
        let timeout = settings.timeout();
        let target = match settings.cluster {
            false => Target::Single(Box::new(nodes.first().ok_or(OpenError::NoUrl)?.clone())),
            true => {
                let mut builder = ClusterClientBuilder::new(infos)
                    .retries(CLUSTER_RETRIES)
                    .min_retry_wait(10)
                    .max_retry_wait(50)
                    .connection_timeout(timeout)
                    .response_timeout(timeout)
                    .overall_response_timeout(Some(timeout));
                if let Some(certificates) = certificates {
                    builder = builder.certs(certificates);
                }
                Target::Cluster(Box::new(builder.build()?))
            }
        };
        Ok(Endpoints { target, nodes, timeout })
    }

    async fn connect(&self) -> Result<Connection, RedisError> {
        match &self.target {
            Target::Single(client) => {
                // Ours is the time limit, for the whole request.
                let config =
                    AsyncConnectionConfig::new().set_connection_timeout(Some(self.timeout)).set_response_timeout(None);
                client.get_multiplexed_async_connection_with_config(&config).await.map(Connection::Single)
            }
            Target::Cluster(client) => client.get_async_connection().await.map(Connection::Cluster),
        }
    }
}

fn credentials(info: ConnectionInfo, settings: &RedisSettings, password: Option<&str>) -> ConnectionInfo {
    // One right less for the user: naming the library is CLIENT SETINFO.
    let mut redis = info.redis_settings().clone().set_skip_set_lib_name();
    if let Some(name) = &settings.username {
        redis = redis.set_username(name);
    }
    if let Some(password) = password {
        redis = redis.set_password(password);
    }
    info.set_redis_settings(redis)
}

#[derive(Clone)]
enum Connection {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

/// What a group of requests came to.
#[derive(Debug)]
pub enum Answer {
    /// May be an error of this request alone.
    Value(Value),
    /// The server could not be asked, or it is not known whether it was.
    Away,
}

pub struct Link {
    endpoints: std::sync::Arc<Endpoints>,
    connection: Mutex<Option<(u64, Connection)>>,
    made: AtomicU64,
}

impl Link {
    pub fn new(endpoints: std::sync::Arc<Endpoints>) -> Link {
        Link { endpoints, connection: Mutex::new(None), made: AtomicU64::new(0) }
    }

    /// One answer for each call, in order. Calls of one slot leave together and in order.
    pub async fn ask(&self, calls: &[Call<'_>]) -> Vec<Answer> {
        let mut groups: BTreeMap<u16, Vec<usize>> = BTreeMap::new();
        calls.iter().enumerate().for_each(|(at, call)| groups.entry(call.slot).or_default().push(at));
        let mut answers: Vec<Answer> = calls.iter().map(|_| Answer::Away).collect();
        // A request that is given up while a connection is being made must not leave the others waiting for longer.
        let Ok(Ok((number, connection))) = tokio::time::timeout(self.endpoints.timeout, self.connection()).await else {
            return answers;
        };
        let requests = groups.iter().map(|(slot, members)| {
            let calls: Vec<&Call<'_>> = members.iter().map(|at| &calls[*at]).collect();
            let mut connection = connection.clone();
            let timeout = self.endpoints.timeout;
            async move {
                let pipeline = pipeline(&calls);
                tokio::time::timeout(timeout, connection.ask(*slot, pipeline, calls.len())).await
            }
        });
        let mut answered = false;
        for (members, result) in groups.values().zip(join_all(requests).await) {
            match result {
                Ok(Ok(values)) if values.len() == members.len() => {
                    answered = true;
                    for (at, value) in members.iter().zip(values) {
                        if !is_away(&value) {
                            answers[*at] = Answer::Value(value);
                        }
                    }
                }
                Ok(Ok(_)) | Err(_) => {}
                Ok(Err(error)) => tracing::debug!(%error, "Redis could not be asked"),
            }
        }
        if !answered && !groups.is_empty() {
            self.give_up(number).await;
        }
        answers
    }

    async fn connection(&self) -> Result<(u64, Connection), RedisError> {
        let mut held = self.connection.lock().await;
        if let Some((number, connection)) = &*held {
            return Ok((*number, connection.clone()));
        }
        let connection = self.endpoints.connect().await?;
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        *held = Some((number, connection.clone()));
        Ok((number, connection))
    }

    /// A connection that failed is made anew: it may wait for an answer that never comes, or know a cluster that is no more.
    async fn give_up(&self, number: u64) {
        let mut held = self.connection.lock().await;
        if held.as_ref().is_some_and(|(of, _)| *of == number) {
            *held = None;
        }
    }
}

/// The server answered, but as one that is not there for us yet, or not any more.
fn is_away(value: &Value) -> bool {
    use redis::ServerErrorKind::{Ask, BusyLoading, ClusterDown, MasterDown, Moved, ReadOnly, TryAgain};
    let Value::ServerError(error) = value else { return false };
    matches!(error.kind(), Some(BusyLoading | ClusterDown | MasterDown | ReadOnly | TryAgain | Moved | Ask))
        || error.code() == "NOAUTH"
}

impl Connection {
    async fn ask(&mut self, slot: u16, pipeline: redis::Pipeline, count: usize) -> Result<Vec<Value>, RedisError> {
        match self {
            Connection::Single(connection) => connection.req_packed_commands(&pipeline, 0, count).await,
            Connection::Cluster(connection) => {
                let slot = Slot::new(slot).ok_or((redis::ErrorKind::Client, "no such slot"))?;
                let route = SingleNodeRoutingInfo::SpecificNode(Route::with_slot(slot, SlotAddr::Master));
                connection.route_pipeline(pipeline, 0, count, route).await
            }
        }
    }
}
