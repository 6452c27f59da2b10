//! Control as several nodes, over a bus, a store and a registry that they share.
//!
//! ```text
//!  push ─▶ spread ─▶ ingress ─▶ upstream topic ─▶ upstream ─▶ partition (its owner) ─▶ store, links
//!            │                                                    │ errands
//!            └─ other commands ─▶ node link ─▶ partition          └─▶ carrier ─▶ other partitions
//! ```
//!
//! [`ownership`] says which partitions are here, [`seats`] who has the others, [`spread`] sends each command where it belongs.
//! Beside that, [`outbox`] tells the bus what was committed, [`user_states`] who comes and goes, and [`tasks`] is the work of
//! nodes of that role, all three put together in [`beside`].
//! The code of a partition, of its links and of the API is that of the embedded form.

mod background;
#[cfg(test)]
mod bench;
mod beside;
mod carrier;
mod consumers;
mod forms;
pub mod growth;
mod ids;
pub(crate) mod ingress;
mod lookups;
mod memory;
pub(crate) mod node;
mod older;
mod opening;
mod outbox;
mod outlet;
mod ownership;
mod ring;
pub(crate) mod routes;
pub(crate) mod seats;
mod spread;
mod store;
mod tasks;
mod upstream;
pub(crate) mod user_states;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tidegate_bus::dead_letters::HandlingStats;
use tidegate_bus::kafka::KafkaBus;
use tidegate_bus::port::{Bus, BusError};
use tidegate_bus::topics::LOGIC_GROUP;
use tidegate_control_core::breaker::BreakerConfig;
use tidegate_control_core::domain::PartitionId;
use tidegate_control_core::partition::PartitionConfig;
use tidegate_control_core::ports::StoreReader;
use tidegate_control_core::ports::cache::SharedCache;
use tidegate_registry::names::ControlNode;
use tidegate_registry::{Names, Registry, RegistryError};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::metadata::{Ascii, MetadataValue};

use crate::adapters::postgres::{OpenError, Postgres, SpreadReader};
use crate::api::auth::ServiceTokens;
use crate::cache::routes::Routes;
use crate::config::ClusterConfig;
use crate::endpoints::Endpoints;
use crate::metrics::{GroupFigures, Metrics};
use crate::presence::Presence;
use crate::records::Feed;

use background::Background;
use beside::Beside;
use consumers::Consumer;
use ids::Ids;
use ingress::{Ingress, Results};
use lookups::Lookups;
use memory::Near;
use node::{NodeService, Peers};
use older::{Older, Trail};
use opening::Opener;
use ownership::Ownership;
use ring::RingKeeper;
use routes::{Here, PresenceRoutes};
use seats::Seats;
pub(crate) use spread::Spread;
pub use tasks::metrics::TaskMetrics;
pub use tasks::settings::{PushSettings, TasksConfig};
pub use tasks::webhook::WebhookError;
pub(crate) use upstream::Lag;
use upstream::{Parts, Upstream};
use user_states::UserStates;

const SWEEP: Duration = Duration::from_secs(5);
/// So long a consumer may take to finish what it has in hand and to leave its group.
const CONSUMER_PATIENCE: Duration = Duration::from_secs(3);

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
    #[error("tasks.offline_push: {0}")]
    Webhook(#[from] tasks::webhook::WebhookError),
}

/// What it takes to begin.
pub(crate) struct Beginning {
    pub config: ClusterConfig,
    pub registry: Registry,
    pub bus: tidegate_bus::settings::Settings,
    pub tasks: TasksConfig,
    pub postgres: Postgres,
    /// Where messages are told to that are to be found by their words.
    pub feed: Option<Feed>,
    /// What is committed elsewhere, nearer.
    pub cache: Option<SharedCache>,
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
    pub reader: Arc<Lookups<SpreadReader>>,
    pub node: NodeService,
    pub state: Arc<ClusterState>,
    pub endpoints: Arc<Endpoints>,
    pub states: UserStates,
    consumers: Vec<JoinHandle<()>>,
    ownership: JoinHandle<()>,
    tasks: Vec<JoinHandle<()>>,
}

/// For readiness and metrics.
pub(crate) struct ClusterState {
    registered: watch::Receiver<bool>,
    failing: Arc<AtomicBool>,
    pub lag: Arc<Lag>,
    pub bus: Arc<dyn Bus>,
    upstream: String,
    consumers: Vec<Arc<Consumer>>,
    history: Arc<[AtomicU64; 2]>,
    pub cache: Option<SharedCache>,
    /// Users who are connected elsewhere.
    pub routes: Option<Arc<Routes>>,
    pub seats: Arc<Seats>,
}

impl ClusterState {
    /// The others know this node, and the bus takes what it is given.
    pub fn is_ready(&self) -> bool {
        *self.registered.borrow() && !self.failing.load(Ordering::Relaxed)
    }

    pub fn owned(&self) -> usize {
        self.seats.all_hosted().len()
    }

    /// The sequencers of this node first, then the groups that it is a member of.
    pub fn groups(&self) -> Vec<GroupFigures> {
        let dead_letters_by_class = self.lag.dead_letters.each_ref().map(|count| count.load(Ordering::Relaxed));
        let sequencers = GroupFigures {
            group: LOGIC_GROUP,
            topic: self.upstream.clone(),
            behind: self.lag.behind.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            handling: HandlingStats { dead_letters_by_class, ..HandlingStats::default() },
        };
        std::iter::once(sequencers).chain(self.consumers.iter().map(|consumer| consumer.figures())).collect()
    }

    /// Records that were told to the history, and those that it does not take.
    pub fn history(&self) -> (u64, u64) {
        let [told, left_out] = &*self.history;
        (told.load(Ordering::Relaxed), left_out.load(Ordering::Relaxed))
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
        let (results, ids) = (Arc::new(Results::of(incarnation)), Arc::new(Ids::default()));
        let failing = Arc::new(AtomicBool::new(false));
        let [store_guard, bus_guard] = ["store", "bus"].map(|name| metrics.guard(name, BreakerConfig::default()));
        let near = beginning.cache.map(|cache| Near::new(cache, &metrics, &presence));
        let seats = Arc::new(Seats::new(partitions));
        let peers = Arc::new(Peers::new(beginning.authorization));
        let ingress = Arc::new(Ingress {
            publisher: Arc::clone(&publisher),
            topic: topic.clone(),
            format: settings.format,
            partitions,
            mapping: mapping.clone(),
            reply_to: format!("{}#{incarnation}", config.node),
            results: Arc::clone(&results),
            ids: Arc::clone(&ids),
            failing: Arc::clone(&failing),
            guard: bus_guard,
        });
        let reader = Arc::new(Lookups {
            store: SpreadReader::new(&postgres),
            seconds: metrics.store_seconds(),
            guard: Arc::clone(&store_guard),
            caches: near.as_ref().map(|near| Arc::clone(&near.memory.caches)),
        });
        let core = PartitionConfig { partitions, auto_groups: beginning.auto_groups, ..PartitionConfig::default() };
        let recent = near.as_ref().map(|near| near.recent.clone());
        let older = beginning.tasks.history.then(|| {
            let (topic, store) = (settings.topics.history.name.clone(), Arc::clone(&reader) as Arc<dyn Trail>);
            Older::new(Arc::clone(&bus), topic, store, core.group_history, metrics.tally("history"))
        });
        let spread = Arc::new(Spread::new(Arc::clone(&seats), Arc::clone(&peers), ingress, recent, older));
        let upstream = Arc::new(Upstream::new(Parts {
            bus: Arc::clone(&bus),
            topic,
            dead_letters: settings.topics.dead_letter.name.clone(),
            format: settings.format,
            batch: settings.consumer.upstream_batch,
            pace: Duration::from_millis(settings.consumer.upstream_pace_ms),
            partitions,
            mapping,
            results: Arc::clone(&results),
            peers: Arc::clone(&peers),
            presence: Arc::clone(&presence),
            node: config.node.clone(),
            incarnation,
        }));
        let here = Arc::new(Here::new(Arc::clone(&seats), presence, routes::SETTLE));
        let beside = Beside::begin(beside::Parts {
            bus: Arc::clone(&bus),
            settings: settings.clone(),
            tasks: beginning.tasks,
            partitions,
            works: config.has_role("task"),
            routes: Arc::new(PresenceRoutes { here: Arc::clone(&here), peers: Arc::clone(&peers) }),
            reader: Arc::clone(&reader) as Arc<dyn StoreReader>,
            spread: Arc::clone(&spread),
            metrics: Arc::clone(&metrics),
            stopping: beginning.stopping.clone(),
        })?;
        let (registered_sender, registered) = watch::channel(false);
        let state = Arc::new(ClusterState {
            registered,
            failing,
            lag: Arc::clone(&upstream.lag),
            bus: Arc::clone(&bus),
            cache: near.as_ref().map(|near| Arc::clone(&near.memory.cache)),
            routes: near.as_ref().map(|near| Arc::clone(&near.routes)),
            seats: Arc::clone(&seats),
            upstream: settings.topics.upstream.name.clone(),
            consumers: beside.consumers,
            history: beside.history,
        });
        let me = ControlNode {
            node: config.node.clone(),
            incarnation,
            grpc: config.advertise_grpc.clone().unwrap_or_else(|| beginning.grpc.to_string()),
            http: config.advertise_http.clone().unwrap_or_else(|| beginning.http.to_string()),
            roles: config.roles.clone(),
            waits: true,
        };
        let opener = Opener {
            postgres: postgres.clone(),
            config: core,
            spread: Arc::clone(&spread),
            upstream,
            metrics: Arc::clone(&metrics),
            feed: beginning.feed,
            tellers: beside.tellers,
            memory: near.as_ref().map(|near| near.memory.clone()),
            store_guard,
            background: Background::new(config.sequencing_nice)?,
        };
        let ttl = Duration::from_millis(config.lease_ttl_ms.into());
        let endpoints = Arc::new(Endpoints::default());
        let keeper = RingKeeper {
            registry: registry.clone(),
            names: names.clone(),
            cluster: config.name.clone(),
            node: config.node.clone(),
            endpoints: Arc::clone(&endpoints),
            cache: state.cache.clone(),
        };
        let mut tasks = beside.tasks;
        tasks.extend([
            tokio::spawn(growth::follow(
                registry.clone(),
                names.clone(),
                config.node.clone(),
                (publisher, settings.topics.upstream.name.clone()),
                mapping_sender,
            )),
            tokio::spawn(Arc::clone(&ids).keep(registry.clone(), names.clone(), config.node.clone(), ttl)),
            tokio::spawn(sweep(Arc::clone(&results))),
            tokio::spawn(keeper.run()),
            tokio::spawn(Arc::clone(&here).note()),
        ]);
        tasks.extend(near.into_iter().flat_map(|near| near.keep(&registry, &names)));
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
        let (tokens, stopping) = (beginning.tokens, beginning.stopping);
        let node = NodeService { seats: Arc::clone(&seats), results, here, tokens, stopping };
        let (states, consumers) = (beside.states, beside.handling);
        let ownership = ownership.spawn();
        Ok(Cluster { seats, spread, reader, node, state, endpoints, states, consumers, ownership, tasks })
    }

    /// Once `stopping` was said: waits until all partitions are let go.
    pub async fn end(self) {
        for mut consumer in self.consumers {
            // What it is at work at comes again elsewhere.
            if tokio::time::timeout(CONSUMER_PATIENCE, &mut consumer).await.is_err() {
                consumer.abort();
            }
        }
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
