//! The one place that names concrete adapters.

use std::sync::Arc;

use tidegate_control_core::domain::PartitionId;
use tidegate_control_core::partition::{Origin, Partition, PartitionConfig};
use tidegate_control_core::ports::{StoreError, StoreReader};

use crate::adapters::embedded::{EmbeddedOptions, EmbeddedStore, OpenError};
use crate::config::Config;
use crate::metrics::Metrics;
use crate::runtime::{self, Hooks, OnFatal, Started};

/// The one partition of an embedded store.
const PARTITION: PartitionId = PartitionId(0);

#[derive(Debug, thiserror::Error)]
pub enum ComposeError {
    #[error("the store cannot be opened")]
    Open(#[from] OpenError),
    #[error("the partition cannot start")]
    Partition(#[from] StoreError),
    #[error("no thread or no randomness for the partition")]
    System(#[from] std::io::Error),
}

pub struct Composed {
    pub started: Started,
    pub reader: Arc<dyn StoreReader>,
    pub origin: Origin,
}

/// Opens the store and gives the partition its thread. Blocks; after a crash it may take a while.
pub fn compose(config: &Config, metrics: Arc<Metrics>, on_fatal: OnFatal) -> Result<Composed, ComposeError> {
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
    Ok(Composed { started, reader, origin })
}

/// Of the partition's hash maps: nobody outside can aim at their buckets.
fn seed() -> Result<u64, std::io::Error> {
    let mut bytes = [0u8; 8];
    getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
    Ok(u64::from_le_bytes(bytes))
}
