//! What an operator does to a cluster from outside: grow a topic, look at dead letters and replay them, move a group's place.

use tidegate_bus::dead_letters::{self, Filter};
use tidegate_bus::kafka::KafkaBus;
use tidegate_bus::offsets;
use tidegate_bus::port::{Bus as _, BusError};
use tidegate_registry::{Names, Registry, RegistryError};

use crate::cluster::growth::{self, GrowthError};
use crate::config::Config;

pub use tidegate_bus::dead_letters::{Letter, Replayed};
pub use tidegate_bus::offsets::{Reset, To};
pub use tidegate_bus::port::Placed;

/// Records of each partition that a listing looks at, from its end.
const SCAN_MAX: usize = 100_000;

#[derive(Debug, thiserror::Error)]
pub enum OperationError {
    #[error("[control.{0}] is missing: these commands are for a cluster")]
    Section(&'static str),
    #[error("the bus: {0}")]
    Bus(#[from] BusError),
    #[error("the registry: {0}")]
    Registry(#[from] RegistryError),
    #[error("{0}")]
    Growth(#[from] GrowthError),
    #[error("{0}")]
    Topic(String),
}

fn bus(config: &Config) -> Result<KafkaBus, OperationError> {
    let settings = config.bus.clone().ok_or(OperationError::Section("bus"))?;
    Ok(KafkaBus::new(settings)?)
}

/// Gives a topic more partitions. The upstream topic grows while messages flow, and no order is lost; of the others, keys
/// move to other partitions at once, which their readers bear.
pub async fn grow_topic(config: &Config, topic: &str, partitions: u32) -> Result<(), OperationError> {
    let bus = bus(config)?;
    let admin = bus.admin();
    if topic != bus.settings().topics.upstream.name {
        if !bus.settings().topics.specs().iter().any(|spec| spec.name == topic) {
            return Err(OperationError::Topic(format!("`{topic}` is none of this cluster's topics")));
        }
        return Ok(admin.grow(topic, partitions as i32).await?);
    }
    let cluster = config.cluster.as_ref().ok_or(OperationError::Section("cluster"))?;
    let registry = Registry::connect(config.registry.as_ref().ok_or(OperationError::Section("registry"))?)?;
    let names = Names::new(&cluster.name)?;
    growth::grow(&registry, &names, &*admin, topic, partitions, cluster.partitions).await?;
    Ok(())
}

/// The newest dead letters, newest first, of records that came from `topic` if it is given, with `reason` in their reason.
pub async fn list_dead_letters(
    config: &Config,
    topic: Option<String>,
    reason: Option<String>,
    newest: usize,
) -> Result<Vec<Letter>, OperationError> {
    let bus = bus(config)?;
    let letters = bus.settings().topics.dead_letter.name.clone();
    let filter = Filter { topic, reason, ..Filter::default() };
    Ok(dead_letters::list(&bus, &letters, &filter, newest, SCAN_MAX).await?)
}

/// Puts the records of these letters into their topics again, each as a new message that keeps its `message_id`.
pub async fn replay_dead_letters(config: &Config, places: &[Placed]) -> Result<Vec<Replayed>, OperationError> {
    let bus = bus(config)?;
    let letters = bus.settings().topics.dead_letter.name.clone();
    Ok(dead_letters::replay(&bus, &letters, places).await)
}

/// Moves the place from which a group reads a topic. Sequencers keep theirs in the store: for their group this changes only
/// what Kafka's tools show.
pub async fn reset_offsets(
    config: &Config,
    group: &str,
    topic: &str,
    to: To,
    forced: bool,
) -> Result<Vec<Reset>, OperationError> {
    let bus = bus(config)?;
    Ok(offsets::reset(&*bus.admin(), group, topic, to, forced).await?)
}
