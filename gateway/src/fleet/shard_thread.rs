//! One shard's thread: opens its driver, runs the worker loop until it is told to stop.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use tidegate_gateway_core::driver::Driver;
use tidegate_gateway_core::ids::ShardId;
use tidegate_gateway_core::shard::{Shard, ShardConfig, ShardStats};
use tidegate_gateway_epoll::{EpollConfig, EpollDriver};
use tidegate_gateway_ring::{Features, RingConfig, RingDriver, pin_thread};
use tidegate_gateway_threads::{Bound, Sleep};
use tidegate_gateway_tls::{Secured, TlsStats};
use tracing::{debug, warn};

use super::mailbox::QueueMailbox;
use super::seated::Seated;
use super::{FleetError, HubInbox, Incoming, PROMOTIONS_MAX, ShardHandle};
use crate::config::EngineSettings;
use crate::io::Backend;

/// What every shard is made from.
pub struct ShardPlan {
    pub sizes: EngineSettings,
    pub connections_max: u32,
    pub config: ShardConfig,
}

/// Wakes a shard's driver.
pub enum Doorbell {
    Uring(tidegate_gateway_ring::Doorbell),
    Epoll(tidegate_gateway_epoll::Doorbell),
}

impl Doorbell {
    pub fn ring(&self) {
        match self {
            Doorbell::Uring(bell) => bell.ring(),
            Doorbell::Epoll(bell) => bell.ring(),
        }
    }
}

/// What a shard's thread says once it runs.
type Started = Result<(Doorbell, Arc<ShardStats>, Arc<TlsStats>), FleetError>;

/// What the worker loop runs with, whatever its driver.
struct Work {
    id: ShardId,
    config: ShardConfig,
    seed: u64,
    mailbox: QueueMailbox<Incoming>,
    started: mpsc::SyncSender<Started>,
}

/// Starts one shard and waits until its driver is open.
pub fn start(id: ShardId, plan: &ShardPlan, hub: HubInbox) -> Result<(ShardHandle, JoinHandle<()>), FleetError> {
    let (queue, inbox) = crossbeam_channel::unbounded();
    let promotions = Arc::new(Bound::new(PROMOTIONS_MAX));
    let sleep = Arc::new(Sleep::default());
    let running = Arc::new(AtomicBool::new(true));
    let mailbox = QueueMailbox {
        queue: inbox,
        promotions: Arc::clone(&promotions),
        taken: 0,
        sleep: Arc::clone(&sleep),
        hub,
        stopping: false,
    };
    let alive = Alive(Arc::clone(&running));
    let (started, report) = mpsc::sync_channel(1);
    let seed = getrandom::u64().unwrap_or(u64::from(id.0));
    let work = Work { id, config: plan.config.clone(), seed, mailbox, started };
    let sizes = plan.sizes;
    let run = move || {
        let _alive = alive;
        if sizes.pin {
            pin_to_core(id);
        }
        // A driver belongs to the thread that opens it.
        match sizes.io.backend {
            Backend::Uring(features) => serve(open_rings(&sizes, features), work),
            Backend::Epoll => serve(open_epoll(&sizes), work),
        }
    };
    let thread = thread::Builder::new().name(format!("shard-{}", id.0)).spawn(run).map_err(FleetError::Thread)?;
    let (doorbell, stats, tls) = report.recv().map_err(|_| FleetError::Died)??;
    Ok((ShardHandle { queue, promotions, sleep, running, doorbell, stats, tls }, thread))
}

fn open_rings(sizes: &EngineSettings, features: Features) -> Result<(RingDriver, Doorbell), FleetError> {
    let rings = RingConfig { rings: sizes.rings_per_shard, slots_per_ring: sizes.slots, ..RingConfig::default() };
    let driver = RingDriver::open(&rings, features).map_err(FleetError::Rings)?;
    let doorbell = Doorbell::Uring(driver.doorbell());
    Ok((driver, doorbell))
}

fn open_epoll(sizes: &EngineSettings) -> Result<(EpollDriver, Doorbell), FleetError> {
    let config = EpollConfig { slots: sizes.slots, ..EpollConfig::default() };
    let driver = EpollDriver::open(&config).map_err(FleetError::Epoll)?;
    let doorbell = Doorbell::Epoll(driver.doorbell());
    Ok((driver, doorbell))
}

fn serve<D: Driver<Incoming = OwnedFd>>(opened: Result<(D, Doorbell), FleetError>, work: Work) {
    let Work { id, config, seed, mut mailbox, started } = work;
    let (driver, doorbell) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            // Nobody listens only if the starter is gone too.
            let _ = started.send(Err(error));
            return;
        }
    };
    let driver = Secured::new(driver);
    let tls = driver.stats();
    let mut shard = Shard::new(id, Seated::new(driver), config, seed);
    if started.send(Ok((doorbell, Arc::clone(shard.stats()), tls))).is_err() {
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
