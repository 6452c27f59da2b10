//! Control as several nodes, over a bus, a store and a registry that they share.
//!
//! ```text
//!  push ─▶ spread ─▶ ingress ─▶ upstream topic ─▶ upstream ─▶ partition (its owner) ─▶ store, links
//!            │                                                    │ errands
//!            └─ other commands ─▶ node link ─▶ partition          └─▶ carrier ─▶ other partitions
//! ```
//!
//! [`ownership`] says which partitions are here, [`seats`] who has the others, [`spread`] sends each command where it belongs.
//! The code of a partition, of its links and of the API is that of the embedded form.

mod carrier;
mod forms;
pub mod growth;
mod ids;
pub(crate) mod ingress;
pub(crate) mod node;
mod opening;
mod ownership;
mod ring;
pub(crate) mod seats;
mod spread;
mod upstream;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tidegate_bus::kafka::KafkaBus;
use tidegate_bus::port::{Bus, BusError};
use tidegate_control_core::domain::PartitionId;
use tidegate_control_core::partition::PartitionConfig;
use tidegate_registry::names::ControlNode;
use tidegate_registry::{Names, Registry, RegistryError};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::metadata::{Ascii, MetadataValue};

use crate::adapters::postgres::{OpenError, Postgres, SpreadReader};
use crate::api::auth::ServiceTokens;
use crate::config::ClusterConfig;
use crate::endpoints::Endpoints;
use crate::metrics::Metrics;
use crate::presence::Presence;
use crate::records::Feed;

use ids::Ids;
use ingress::{Ingress, Results};
use node::{NodeService, Peers};
use opening::Opener;
use ownership::Ownership;
use ring::RingKeeper;
use seats::Seats;
pub(crate) use spread::Spread;
pub(crate) use upstream::Lag;
use upstream::{Parts, Upstream};

const SWEEP: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error("the registry refuses or does not answer")]
    Registry(#[from] RegistryError),
    #[error("the bus refuses or does not answer")]
    Bus(#[from] BusError),
    #[error("the store cannot be used")]
    Store(#[from] OpenError),
    #[error("{0}")]
    Refused(String),
    #[error("no randomness")]
    System(#[from] std::io::Error),
    #[error("the node is stopping")]
    Stopping,
}

/// What it takes to begin.
pub(crate) struct Beginning {
    pub config: ClusterConfig,
    pub registry: Registry,
    pub bus: tidegate_bus::settings::Settings,
    pub postgres: Postgres,
    /// Where messages are told to that are to be found by their words.
    pub feed: Option<Feed>,
    pub auto_groups: bool,
    pub grpc: SocketAddr,
    pub http: SocketAddr,
    pub metrics: Arc<Metrics>,
    pub presence: Arc<Presence>,
    pub tokens: Option<Arc<ServiceTokens>>,
    pub authorization: Option<MetadataValue<Ascii>>,
    pub stopping: watch::Receiver<bool>,
}

/// A node of a cluster.
pub(crate) struct Cluster {
    pub seats: Arc<Seats>,
    pub spread: Arc<Spread>,
    pub reader: Arc<SpreadReader>,
    pub node: NodeService,
    pub state: Arc<ClusterState>,
    pub endpoints: Arc<Endpoints>,
    ownership: JoinHandle<()>,
    tasks: Vec<JoinHandle<()>>,
}

/// For readiness and metrics.
pub(crate) struct ClusterState {
    registered: watch::Receiver<bool>,
    failing: Arc<AtomicBool>,
    pub lag: Arc<Lag>,
    pub bus: Arc<dyn Bus>,
    seats: Arc<Seats>,
}

impl ClusterState {
    /// The others know this node, and the bus takes what it is given.
    pub fn is_ready(&self) -> bool {
        *self.registered.borrow() && !self.failing.load(Ordering::Relaxed)
    }

    pub fn owned(&self) -> usize {
        self.seats.all_hosted().len()
    }
}

impl Cluster {
    /// Meets bus, store and registry. Errors: one of them is away or refuses; the caller may try again.
    pub async fn begin(beginning: Beginning) -> Result<Cluster, ClusterError> {
        let Beginning { config, registry, bus: settings, postgres, metrics, presence, .. } = beginning;
        let names = Names::new(&config.name)?;
        let partitions = config.partitions;
        agree_on_partitions(&registry, &names, partitions).await?;
        let bus: Arc<dyn Bus> = Arc::new(KafkaBus::new(settings.clone())?);
        let admin = bus.admin();
        let created = admin.create_missing(&settings.topics.specs()).await?;
        if !created.is_empty() {
            tracing::info!(?created, "topics were created");
        }
        let topic = settings.topics.upstream.name.clone();
        let described = admin.describe(&topic).await?;
        let has =
            described.ok_or_else(|| ClusterError::Refused(format!("the topic {topic} cannot be seen")))?.partitions;
        if has as u32 > partitions {
            let text =
                format!("{topic} has {has} partitions, and the cluster only {partitions}: some would never be read");
            return Err(ClusterError::Refused(text));
        }
        let (mapping_sender, mapping) = watch::channel(growth::mapping(&registry, &names, has as u32).await?);
        let incarnation = random()?;
        let publisher = bus.publisher();
        let (results, ids) = (Arc::new(Results::default()), Arc::new(Ids::default()));
        let failing = Arc::new(AtomicBool::new(false));
        let seats = Arc::new(Seats::new(partitions));
        let peers = Arc::new(Peers::new(beginning.authorization));
        let ingress = Arc::new(Ingress {
            publisher: Arc::clone(&publisher),
            topic: topic.clone(),
            format: settings.format,
            partitions,
            mapping: mapping.clone(),
            reply_to: format!("{}#{incarnation}", config.node).into_bytes().into(),
            results: Arc::clone(&results),
            ids: Arc::clone(&ids),
            failing: Arc::clone(&failing),
        });
        let spread = Arc::new(Spread::new(Arc::clone(&seats), Arc::clone(&peers), ingress));
        let upstream = Arc::new(Upstream::new(Parts {
            bus: Arc::clone(&bus),
            topic,
            dead_letters: settings.topics.dead_letter.name.clone(),
            format: settings.format,
            batch: settings.consumer.upstream_batch,
            partitions,
            mapping,
            results: Arc::clone(&results),
            peers: Arc::clone(&peers),
            presence,
            node: config.node.clone(),
            incarnation,
        }));
        let (registered_sender, registered) = watch::channel(false);
        let state = Arc::new(ClusterState {
            registered,
            failing,
            lag: Arc::clone(&upstream.lag),
            bus: Arc::clone(&bus),
            seats: Arc::clone(&seats),
        });
        let me = ControlNode {
            node: config.node.clone(),
            incarnation,
            grpc: config.advertise_grpc.clone().unwrap_or_else(|| beginning.grpc.to_string()),
            http: config.advertise_http.clone().unwrap_or_else(|| beginning.http.to_string()),
            roles: config.roles.clone(),
            waits: true,
        };
        let core = PartitionConfig { partitions, auto_groups: beginning.auto_groups, ..PartitionConfig::default() };
        let opener = Opener {
            postgres: postgres.clone(),
            config: core,
            spread: Arc::clone(&spread),
            upstream,
            metrics,
            feed: beginning.feed,
        };
        let ttl = Duration::from_millis(config.lease_ttl_ms.into());
        let endpoints = Arc::new(Endpoints::default());
        let keeper = RingKeeper {
            registry: registry.clone(),
            names: names.clone(),
            cluster: config.name.clone(),
            node: config.node.clone(),
            endpoints: Arc::clone(&endpoints),
        };
        let tasks = vec![
            tokio::spawn(growth::follow(
                registry.clone(),
                names.clone(),
                config.node.clone(),
                publisher,
                mapping_sender,
            )),
            tokio::spawn(Arc::clone(&ids).keep(registry.clone(), names.clone(), config.node.clone(), ttl)),
            tokio::spawn(sweep(Arc::clone(&results))),
            tokio::spawn(keeper.run()),
        ];
        let ownership = Ownership {
            registry,
            names,
            me,
            ttl,
            logic: config.has_role("logic"),
            seats: Arc::clone(&seats),
            peers,
            opener: Arc::new(opener),
            stopping: beginning.stopping.clone(),
            registered: registered_sender,
        };
        let node =
            NodeService { seats: Arc::clone(&seats), results, tokens: beginning.tokens, stopping: beginning.stopping };
        let reader = Arc::new(SpreadReader::new(&postgres));
        Ok(Cluster { seats, spread, reader, node, state, endpoints, ownership: ownership.spawn(), tasks })
    }

    /// Once `stopping` was said: waits until all partitions are let go.
    pub async fn end(self) {
        if self.ownership.await.is_err() {
            tracing::error!("the end of what is owned could not be awaited");
        }
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Said once for the cluster; a node that means another number must not begin.
async fn agree_on_partitions(registry: &Registry, names: &Names, partitions: u32) -> Result<(), ClusterError> {
    let key = names.partitions();
    registry.create(&key, &partitions.to_string()).await?;
    match registry.get(&key).await? {
        Some(entry) if entry.value != partitions.to_string() => {
            let text = format!("the cluster has {} partitions, not {partitions}: this is decided once", entry.value);
            Err(ClusterError::Refused(text))
        }
        _ => Ok(()),
    }
}

async fn sweep(results: Arc<Results>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        results.sweep();
    }
}

/// Partitions that a configuration may ask for.
pub const PARTITIONS_MAX: u32 = PartitionId::COUNT_MAX;

fn random() -> Result<u64, std::io::Error> {
    let mut bytes = [0u8; 8];
    getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
    // Below 2^53, so that every JSON reader keeps it.
    Ok(u64::from_le_bytes(bytes) >> 11)
}
