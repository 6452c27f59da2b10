//! One shard's thread: opens its rings, runs the worker loop until it is told to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use tidegate_gateway_core::ids::ShardId;
use tidegate_gateway_core::shard::{Shard, ShardConfig, ShardStats};
use tidegate_gateway_ring::{Doorbell, Features, OpenError, RingConfig, RingDriver, pin_thread};
use tidegate_gateway_threads::{Bound, Sleep};
use tracing::{debug, warn};

use super::mailbox::QueueMailbox;
use super::{FleetError, HubInbox, PROMOTIONS_MAX, ShardHandle};
use crate::config::EngineSettings;

/// What every shard is made from.
pub struct ShardPlan {
    pub sizes: EngineSettings,
    pub connections_max: u32,
    pub config: ShardConfig,
    /// What the host's io_uring can do.
    pub features: Features,
}

/// What a shard's thread says once it runs.
type Started = Result<(Doorbell, Arc<ShardStats>), OpenError>;

/// Starts one shard and waits until its rings are open.
pub fn start(id: ShardId, plan: &ShardPlan, hub: HubInbox) -> Result<(ShardHandle, JoinHandle<()>), FleetError> {
    let (queue, inbox) = crossbeam_channel::unbounded();
    let promotions = Arc::new(Bound::new(PROMOTIONS_MAX));
    let sleep = Arc::new(Sleep::default());
    let running = Arc::new(AtomicBool::new(true));
    let mailbox = QueueMailbox {
        queue: inbox,
        promotions: Arc::clone(&promotions),
        sleep: Arc::clone(&sleep),
        hub,
        stopping: false,
    };
    let alive = Alive(Arc::clone(&running));
    let (started, report) = mpsc::sync_channel(1);
    let seed = getrandom::u64().unwrap_or(u64::from(id.0));
    let rings =
        RingConfig { rings: plan.sizes.rings_per_shard, slots_per_ring: plan.sizes.slots, ..RingConfig::default() };
    let (config, features, pin) = (plan.config.clone(), plan.features, plan.sizes.pin);
    let work = move || {
        let _alive = alive;
        if pin {
            pin_to_core(id);
        }
        run(id, &rings, features, config, seed, mailbox, started);
    };
    let thread = thread::Builder::new().name(format!("shard-{}", id.0)).spawn(work).map_err(FleetError::Thread)?;
    let (doorbell, stats) = report.recv().map_err(|_| FleetError::Died)?.map_err(FleetError::Rings)?;
    Ok((ShardHandle { queue, promotions, sleep, running, doorbell, stats }, thread))
}

fn run(
    id: ShardId,
    rings: &RingConfig,
    features: Features,
    config: ShardConfig,
    seed: u64,
    mut mailbox: QueueMailbox<super::Incoming>,
    started: mpsc::SyncSender<Started>,
) {
    // The rings belong to the thread that opens them.
    let driver = match RingDriver::open(rings, features) {
        Ok(driver) => driver,
        Err(error) => {
            // Nobody listens only if the starter is gone too.
            let _ = started.send(Err(error));
            return;
        }
    };
    let doorbell = driver.doorbell();
    let mut shard = Shard::new(id, driver, config, seed);
    if started.send(Ok((doorbell, Arc::clone(shard.stats())))).is_err() {
        return;
    }
    while shard.tick(&mut mailbox) {}
    debug!(shard = id.0, "shard ended");
}

/// Shards take cores from the second on; the first is left to the hub, the front door and the kernel.
fn pin_to_core(id: ShardId) {
    if let Err(error) = pin_thread(usize::from(id.0) + 1) {
        warn!(shard = id.0, %error, "not pinned");
    }
}

/// Says that the thread has ended, however it did.
struct Alive(Arc<AtomicBool>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}
