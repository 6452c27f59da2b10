//! The one place that names concrete adapters.

mod records;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tidegate_control_core::domain::{Lsn, PartitionId};
use tidegate_control_core::partition::{Partition, PartitionConfig};
use tidegate_control_core::ports::cache::SharedCache;
use tidegate_control_core::ports::{StoreError, StoreReader};
use tidegate_registry::Registry;
use tokio::sync::watch;

use crate::adapters::embedded::{EmbeddedOptions, EmbeddedStore, OpenError};
use crate::adapters::postgres::{self, Postgres, PostgresOptions};
use crate::adapters::redis::{RedisCache, RedisSettings};
use crate::api::Records;
use crate::api::auth::ServiceTokens;
use crate::cluster::seats::{Hosted, Seats};
use crate::cluster::{Beginning, Cluster, ClusterError};
use crate::config::{Config, StoreConfig};
use crate::dispatch::Dispatch;
use crate::metrics::Metrics;
use crate::presence::Presence;
use crate::records::{Feed, Feeding, follow};
use crate::runtime::{self, Hooks, OnFatal, Running};

/// The one partition of an embedded store.
const PARTITION: PartitionId = PartitionId(0);
/// Between two tries to begin while a server is away.
const BEGIN_AGAIN: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum ComposeError {
    #[error("the store cannot be opened")]
    Open(#[from] OpenError),
    #[error("PostgreSQL cannot be used")]
    Postgres(#[from] postgres::OpenError),
    #[error("{file} cannot be read")]
    File {
        file: String,
        #[source]
        source: std::io::Error,
    },
    #[error("store.url: {0}")]
    Url(String),
    #[error("the cache's settings cannot be used")]
    Cache(#[from] crate::adapters::redis::OpenError),
    #[error("records: {0}")]
    Records(String),
    #[error("the cluster cannot be joined")]
    Cluster(#[from] ClusterError),
    #[error("the partition cannot start")]
    Partition(#[from] StoreError),
    #[error("no thread or no randomness for the partition")]
    System(#[from] std::io::Error),
    #[error("a start-up task was cancelled")]
    Cancelled,
}

pub(crate) struct Composed {
    pub records: Option<Records>,
    pub feeding: Option<Feeding>,
    pub dispatch: Dispatch,
    pub seats: Arc<Seats>,
    pub reader: Arc<dyn StoreReader>,
    pub form: Form,
}

/// What has to be ended.
pub(crate) enum Form {
    Embedded(Running),
    Cluster(Box<Cluster>),
}

/// What a process has before its partitions.
pub(crate) struct Surroundings {
    pub metrics: Arc<Metrics>,
    pub presence: Arc<Presence>,
    pub http: SocketAddr,
    pub grpc: SocketAddr,
    pub link_tokens: Option<Arc<ServiceTokens>>,
    pub stopping: watch::Receiver<bool>,
}

pub(crate) async fn compose(
    config: &Config,
    surroundings: Surroundings,
    on_fatal: OnFatal,
) -> Result<Composed, ComposeError> {
    let kept = match &config.records {
        Some(settings) => records::records(settings, &surroundings.metrics)?,
        None => None,
    };
    let (records, feeding) = kept.map_or((None, None), |(records, feeding)| (Some(records), Some(feeding)));
    let mut composed = if config.cluster.is_some() {
        compose_cluster(config, surroundings, records.clone()).await?
    } else {
        let (config, metrics) = (config.clone(), surroundings.metrics);
        let opened = tokio::task::spawn_blocking(move || compose_embedded(&config, metrics, on_fatal));
        let composed = opened.await.map_err(|_| ComposeError::Cancelled)??;
        if let Some(records) = &records {
            // Its end is the feed's.
            drop(follow(Arc::clone(&composed.reader), records.feed.clone(), Lsn(0)));
        }
        composed
    };
    (composed.records, composed.feeding) = (records, feeding);
    Ok(composed)
}

/// Opens the store and gives the partition its thread. Blocks; after a crash it may take a while.
fn compose_embedded(config: &Config, metrics: Arc<Metrics>, on_fatal: OnFatal) -> Result<Composed, ComposeError> {
    let options = EmbeddedOptions {
        segment_bytes: config.retention.segment_bytes,
        retention_age_s: u64::from(config.retention.hours) * 3_600,
        retention_bytes: config.retention.bytes_max.unwrap_or(u64::MAX),
        dedup_horizon_s: u64::from(config.dedup.hours) * 3_600,
        dedup_max_keys: config.dedup.keys_max,
        ..EmbeddedOptions::default()
    };
    let store = EmbeddedStore::open(&config.data_dir, options)?;
    let reader = Arc::new(store.reader());
    let partition_config = PartitionConfig { auto_groups: config.auto_groups, ..PartitionConfig::default() };
    let partition = Partition::new(PARTITION, store, partition_config, seed()?)?;
    let origin = partition.origin();
    let hooks = Hooks { partition: PARTITION, metrics, on_fatal, errands: None };
    let started = runtime::spawn(partition, hooks)?;
    let hosted = Hosted { sequencer: started.sequencer.clone(), origin };
    let (seats, dispatch) = (Arc::new(Seats::single(hosted)), Dispatch::one(started.sequencer));
    let form = Form::Embedded(started.running);
    Ok(Composed { records: None, feeding: None, dispatch, seats, reader, form })
}

/// Waits for servers that are away, so that nodes and servers may be started in any order.
async fn compose_cluster(
    config: &Config,
    surroundings: Surroundings,
    records: Option<Records>,
) -> Result<Composed, ComposeError> {
    let (Some(cluster), Some(registry), Some(bus), Some(store)) =
        (&config.cluster, &config.registry, &config.bus, &config.store)
    else {
        return Err(ComposeError::Cluster(ClusterError::Refused("a section is missing".to_owned())));
    };
    let options = postgres_options(config, store, cluster.partitions)?;
    let registry = Registry::connect(registry).map_err(ClusterError::from)?;
    let cache = config.cache.as_ref().map(|settings| redis(settings, &cluster.name)).transpose()?;
    let mut stopping = surroundings.stopping.clone();
    loop {
        let feed = records.as_ref().map(|records| records.feed.clone());
        let begun = begin(config, &surroundings, &options, (&registry, bus), (feed, cache.clone())).await;
        let error = match begun {
            Ok(cluster) => {
                let dispatch = Dispatch::many(Arc::clone(&cluster.spread), Arc::clone(&cluster.state));
                let (seats, reader) = (Arc::clone(&cluster.seats), Arc::clone(&cluster.reader));
                let form = Form::Cluster(Box::new(cluster));
                return Ok(Composed { records: None, feeding: None, dispatch, seats, reader, form });
            }
            Err(error) if is_passing(&error) => error,
            Err(error) => return Err(error),
        };
        tracing::warn!(why = chain(&error), "cannot begin yet");
        tokio::select! {
            () = tokio::time::sleep(BEGIN_AGAIN) => {}
            _ = stopping.wait_for(|stopping| *stopping) => return Err(ComposeError::Cancelled),
        }
    }
}

async fn begin(
    config: &Config,
    surroundings: &Surroundings,
    options: &PostgresOptions,
    (registry, bus): (&Registry, &tidegate_bus::settings::Settings),
    (feed, cache): (Option<Feed>, Option<SharedCache>),
) -> Result<Cluster, ComposeError> {
    let options = options.clone();
    let connected = tokio::task::spawn_blocking(move || Postgres::connect(options)).await;
    let postgres = connected.map_err(|_| ComposeError::Cancelled)??;
    let cluster = config.cluster.clone().unwrap_or_default();
    let beginning = Beginning {
        config: cluster,
        registry: registry.clone(),
        bus: bus.clone(),
        tasks: config.tasks.clone(),
        postgres,
        feed,
        cache,
        auto_groups: config.auto_groups,
        grpc: surroundings.grpc,
        http: surroundings.http,
        metrics: Arc::clone(&surroundings.metrics),
        presence: Arc::clone(&surroundings.presence),
        tokens: surroundings.link_tokens.clone(),
        authorization: surroundings.link_tokens.as_ref().and_then(|tokens| tokens.authorization()),
        stopping: surroundings.stopping.clone(),
    };
    Ok(Cluster::begin(beginning).await?)
}

/// Nobody is connected to yet: a server that is away is found by and by.
fn redis(settings: &RedisSettings, cluster: &str) -> Result<SharedCache, crate::adapters::redis::OpenError> {
    let settings = RedisSettings { cluster_name: cluster.to_owned(), ..settings.clone() };
    Ok(Arc::new(RedisCache::open(&settings)?))
}

/// An error with all its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |said, cause| format!("{said}: {cause}"))
}

/// A server that is away may come; a wrong answer stays wrong.
fn is_passing(error: &ComposeError) -> bool {
    match error {
        ComposeError::Postgres(postgres::OpenError::Failed(failure)) => failure.may_pass(),
        ComposeError::Cluster(ClusterError::Bus(tidegate_bus::port::BusError::Unavailable(_))) => true,
        ComposeError::Cluster(ClusterError::Registry(tidegate_registry::RegistryError::Unavailable { .. })) => true,
        _ => false,
    }
}

pub(crate) fn postgres_options(
    config: &Config,
    store: &StoreConfig,
    partitions: u32,
) -> Result<PostgresOptions, ComposeError> {
    let read = |file: &std::path::Path| {
        let text = std::fs::read_to_string(file);
        text.map_err(|source| ComposeError::File { file: file.display().to_string(), source })
    };
    let url = match (&store.url, &store.url_file) {
        (Some(url), _) => url.clone(),
        (None, Some(file)) => read(file)?.trim().to_owned(),
        (None, None) => return Err(ComposeError::Url("is needed".to_owned())),
    };
    // What is wrong with it is said without the URL, which may hold a password.
    let mut server: tokio_postgres::Config =
        url.parse().map_err(|_| ComposeError::Url("is no URL of PostgreSQL".into()))?;
    if let Some(file) = &store.password_file {
        server.password(read(file)?.trim());
    }
    let tls =
        store.tls_ca_file.as_deref().map(|file| postgres::tls(&read(file)?).map_err(ComposeError::Url)).transpose()?;
    Ok(PostgresOptions {
        schema: store.schema.clone(),
        tls,
        partitions,
        read_connections: store.read_connections,
        timeout: Duration::from_millis(store.timeout_ms.into()),
        retention_age_s: u64::from(config.retention.hours) * 3_600,
        dedup_horizon_s: u64::from(config.dedup.hours) * 3_600,
        trail_s: config.bus.as_ref().filter(|_| config.tasks.history).map_or(0, history_s),
        ..PostgresOptions::new(server)
    })
}

/// For how long the bus keeps the long history.
fn history_s(bus: &tidegate_bus::settings::Settings) -> u64 {
    u64::try_from(bus.topics.history.retention_ms / 1_000).unwrap_or(0)
}

/// Of the partition's hash maps: nobody outside can aim at their buckets.
pub(crate) fn seed() -> Result<u64, std::io::Error> {
    let mut bytes = [0u8; 8];
    getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
    Ok(u64::from_le_bytes(bytes))
}
