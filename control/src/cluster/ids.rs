//! Ids of messages that this node takes in: Snowflake, with a worker number that the registry leases to the process.
//!
//! Partitions give ids too, each with its own number as worker; the leased ones lie above those.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tidegate_control_core::domain::{MessageId, PartitionId, Timestamp};
use tidegate_control_core::partition::{Clock, PartitionConfig};
use tidegate_registry::{Names, Registry, WorkerId, WorkerIds};

use super::ingress::wall_clock_ms;

const RETRY: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(crate) struct Ids(ArcSwapOption<Leased>);

struct Leased {
    worker: WorkerId,
    clock: Mutex<Clock>,
}

impl Ids {
    /// `None`: no number is leased now, or the clock runs ahead of what was agreed; name the message in another way.
    pub fn next(&self) -> Option<MessageId> {
        let leased = self.0.load();
        let leased = leased.as_ref()?;
        let now = wall_clock_ms();
        let mut clock = leased.clock.lock().unwrap_or_else(PoisonError::into_inner);
        let (id, ts) = clock.stamp(Timestamp(now));
        leased.worker.covers(ts.0 as u64).then_some(id)
    }

    /// Leases a number, and another one whenever it is lost.
    pub async fn keep(self: Arc<Self>, registry: Registry, names: Names, node: String, ttl: Duration) {
        let above = PartitionId::COUNT_MAX as u16;
        let ids = WorkerIds::new(&registry, &names).with_count(PartitionConfig::WORKER_MAX + 1 - above);
        loop {
            match ids.lease(&node, ttl).await {
                Ok(worker) => {
                    let clock = Clock::new(above + worker.id(), Timestamp(worker.not_before_ms() as i64));
                    let leased = Arc::new(Leased { worker, clock: Mutex::new(clock) });
                    self.0.store(Some(Arc::clone(&leased)));
                    leased.worker.lost().await;
                    self.0.store(None);
                }
                Err(error) => tracing::debug!(%error, "no worker number yet"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}
