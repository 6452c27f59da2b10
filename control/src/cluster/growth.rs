//! Growing the upstream topic while everything runs, and how every node follows it.
//!
//! Which source holds a partition's messages is `partition mod sources`. Growing changes it for some partitions, in steps that
//! all nodes see in the registry:
//!
//! 1. The command holds the *drain* key. Nodes stop appending, wait until all that they appended is placed, and say so.
//! 2. When all have said so, the ends of the sources are the *barriers*; the topic grows; the new mapping is written.
//! 3. Nodes append by the new mapping. A partition that moved reads its old source up to the barrier, then the new one from
//!    its beginning.
//!
//! If the command dies, its drain key goes with its session, and everybody appends as before. What a node that slept through
//! all of it appends to an old source is put where it belongs by who reads it there.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidegate_bus::port::{Admin, BusError, Publisher};
use tidegate_registry::names::ControlNode;
use tidegate_registry::{Entry, Names, Registry, RegistryError};
use tokio::sync::watch;

use super::ingress::Mapping;

/// The mapping, as it stands in the registry.
const MAPPING: &str = "upstream";
const DRAIN: &str = "upstream-drain";
/// Begins the name under which a node says that it has drained.
const DRAINED: &str = "upstream-drained-";
const DRAIN_TTL: Duration = Duration::from_secs(10);
const FLUSH_WITHIN: Duration = Duration::from_secs(10);
const LEARN_WITHIN: Duration = Duration::from_secs(10);
/// How long all nodes together may take to drain.
const DRAINED_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(100);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Written {
    version: u64,
    sources: u32,
    #[serde(default)]
    barriers: Vec<u64>,
}

#[derive(Debug, thiserror::Error)]
pub enum GrowthError {
    #[error("the registry: {0}")]
    Registry(#[from] RegistryError),
    #[error("the bus: {0}")]
    Bus(#[from] BusError),
    #[error("{0}")]
    Refused(String),
}

/// The mapping that the cluster uses: written by the first node that comes, from what the topic has.
pub(crate) async fn mapping(registry: &Registry, names: &Names, sources: u32) -> Result<Mapping, RegistryError> {
    let key = names.config(MAPPING)?;
    let first = Written { version: 1, sources, barriers: Vec::new() };
    registry.create(&key, &serde_json::to_string(&first).unwrap_or_default()).await?;
    let written = match registry.get(&key).await? {
        Some(entry) => entry.parse::<Written>()?,
        None => first,
    };
    Ok(read(&written, false))
}

fn read(written: &Written, draining: bool) -> Mapping {
    let Written { version, sources, barriers } = written.clone();
    Mapping { version, sources, draining, barriers: barriers.into() }
}

/// Follows the mapping for as long as somebody looks at it, and drains when it is asked to.
pub(crate) async fn follow(
    registry: Registry,
    names: Names,
    node: String,
    (publisher, topic): (Arc<dyn Publisher>, String),
    mapping: watch::Sender<Mapping>,
) {
    let Ok(lock) = names.lock(DRAIN) else { return };
    let (Ok(key), Ok(said)) = (names.config(MAPPING), names.config(&format!("{DRAINED}{node}"))) else { return };
    let mut written = registry.watch(&key).into_table();
    let mut drain = registry.watch(&lock).into_table();
    loop {
        tokio::select! {
            _ = written.changed() => {}
            _ = drain.changed() => {}
            () = mapping.closed() => return,
        }
        let Some(Ok(now)) = written.current().get(&key).map(Entry::parse::<Written>) else { continue };
        let asked = drain.current().get(&lock).and_then(|entry| entry.value.parse::<u64>().ok());
        let draining = asked.is_some_and(|version| version > now.version);
        // Pushes wait a moment longer rather than being refused for a partition that the producer has not heard of.
        if now.sources > mapping.borrow().sources
            && let Err(error) = publisher.learn(&topic, now.sources as i32, LEARN_WITHIN).await
        {
            tracing::warn!(%error, "the topic has grown, but is not seen to be larger yet");
        }
        mapping.send_if_modified(|known| {
            let new = read(&now, draining);
            let changed = *known != new;
            *known = new;
            changed
        });
        if let (Some(version), true) = (asked, draining)
            && publisher.flush(FLUSH_WITHIN).await.is_ok()
            && let Err(error) = registry.put(&said, &version.to_string()).await
        {
            tracing::warn!(%error, "drained for the growth of the upstream topic, but cannot say so");
        }
    }
}

/// Grows the topic to `sources` partitions. Nothing is lost or reordered; pushes wait for about a second.
pub async fn grow(
    registry: &Registry,
    names: &Names,
    admin: &dyn Admin,
    topic: &str,
    sources: u32,
    partitions: u32,
) -> Result<(), GrowthError> {
    let key = names.config(MAPPING)?;
    let entry = registry.get(&key).await?;
    let entry = entry.ok_or_else(|| GrowthError::Refused("no control node has ever run here".to_owned()))?;
    let now: Written = entry.parse()?;
    if sources <= now.sources {
        let text = format!("the topic has {} partitions already, and cannot have fewer", now.sources);
        return Err(GrowthError::Refused(text));
    }
    if sources > partitions {
        let text = format!("more than the {partitions} partitions of the cluster would stay empty");
        return Err(GrowthError::Refused(text));
    }
    let version = now.version + 1;
    let session = registry.session(DRAIN_TTL).await?;
    session.hold(&names.lock(DRAIN)?, &version.to_string()).await?;
    let grown = grow_drained(registry, names, admin, topic, sources, &now, entry.version).await;
    // Whatever happened, nobody waits any longer.
    session.end().await?;
    grown
}

async fn grow_drained(
    registry: &Registry,
    names: &Names,
    admin: &dyn Admin,
    topic: &str,
    sources: u32,
    now: &Written,
    entry_version: u64,
) -> Result<(), GrowthError> {
    let version = now.version + 1;
    wait_for_all(registry, names, version).await?;
    let mut barriers = Vec::new();
    for source in 0..now.sources {
        barriers.push(admin.watermarks(topic, source as i32).await?.high as u64);
    }
    admin.grow(topic, sources as i32).await?;
    let next = Written { version, sources, barriers };
    let text = serde_json::to_string(&next).unwrap_or_default();
    match registry.replace(&names.config(MAPPING)?, entry_version, &text).await? {
        true => Ok(()),
        false => Err(GrowthError::Refused("somebody else changed the mapping meanwhile".to_owned())),
    }
}

async fn wait_for_all(registry: &Registry, names: &Names, version: u64) -> Result<(), GrowthError> {
    let deadline = tokio::time::Instant::now() + DRAINED_WITHIN;
    loop {
        let mut missing = Vec::new();
        for entry in registry.list(&names.control_prefix()).await? {
            let Ok(node) = entry.parse::<ControlNode>() else { continue };
            let said = registry.get(&names.config(&format!("{DRAINED}{}", node.node))?).await?;
            if said.is_none_or(|said| said.value != version.to_string()) {
                missing.push(node.node);
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        if tokio::time::Instant::now() >= deadline {
            return Err(GrowthError::Refused(format!("these nodes did not drain in time: {}", missing.join(", "))));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
