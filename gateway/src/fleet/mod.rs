//! The shard threads, the queues that lead to them, and the hub thread.
//!
//! Ways between threads and what bounds them:
//!
//! * front door → shard: promotions. A [`Place`] is reserved first; a shard takes at most [`PROMOTIONS_MAX`] reservations, and
//!   past that (or past the node's connection limit) newcomers are refused.
//! * hub → shard: never blocks, so that the two cannot wait for each other. What feeds it is bounded instead: requests by
//!   the 64 in flight per connection, deliveries by the hub thread, which stops reading the link while a shard is behind.
//! * shard → hub: bounded by [`HUB_QUEUE_MAX`]; a shard that finds it full waits, and the hub never waits for a shard.

mod hub_thread;
mod mailbox;
mod seated;
mod shard_thread;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender};
use tidegate_gateway_core::ids::ShardId;
use tidegate_gateway_core::messages::{ToHub, ToShard};
use tidegate_gateway_core::shard::{Promotion, ShardInput, ShardStats};
use tidegate_gateway_threads::{Bound, Sleep};
use tidegate_gateway_tls::TlsStats;
use tidegate_ring::{Loads, Ring};
use tokio::sync::Notify;

pub use hub_thread::{HubStatus, HubThread};
pub use seated::Arriving;
pub use shard_thread::ShardPlan;

use shard_thread::Doorbell;

/// What a shard's driver takes over.
pub type Incoming = Arriving<tidegate_gateway_tls::Incoming<std::os::fd::OwnedFd>>;

/// Promotions on their way to one shard.
pub const PROMOTIONS_MAX: usize = 1024;
/// Items on their way to the hub from all shards.
pub const HUB_QUEUE_MAX: usize = 64 * 1024;
/// While this many items wait for some shard, the hub thread reads nothing from the link.
pub const SHARD_QUEUE_MAX: usize = 16 * 1024;

/// Why a shard could not be started.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    #[error("a shard could not set up its rings")]
    Rings(#[source] tidegate_gateway_ring::OpenError),
    #[error("a shard could not set up epoll")]
    Epoll(#[source] tidegate_gateway_epoll::OpenError),
    #[error("a thread could not be started")]
    Thread(#[source] io::Error),
    #[error("a shard thread died while it started")]
    Died,
}

/// The shards, as other threads see them.
pub struct Fleet {
    shards: Vec<ShardHandle>,
    connections_max: u64,
    next: AtomicUsize,
}

/// One shard, as other threads see it.
pub struct ShardHandle {
    queue: Sender<ShardInput<Incoming>>,
    /// Reservations and promotions that the shard has not taken yet.
    promotions: Arc<Bound>,
    sleep: Arc<Sleep>,
    running: Arc<AtomicBool>,
    doorbell: Doorbell,
    stats: Arc<ShardStats>,
    tls: Arc<TlsStats>,
}

/// A reserved place on a shard. Given back if dropped unused.
pub struct Place {
    fleet: Arc<Fleet>,
    shard: usize,
    used: bool,
}

/// The shards' way to the hub.
#[derive(Clone)]
pub struct HubInbox {
    queue: Sender<ToHub>,
    bell: Arc<Notify>,
}

/// The hub's end of it.
pub struct HubOutlet {
    pub queue: Receiver<ToHub>,
    pub bell: Arc<Notify>,
}

/// A bounded queue to the hub.
pub fn hub_queue() -> (HubInbox, HubOutlet) {
    let (to, from) = crossbeam_channel::bounded(HUB_QUEUE_MAX);
    let bell = Arc::new(Notify::new());
    (HubInbox { queue: to, bell: Arc::clone(&bell) }, HubOutlet { queue: from, bell })
}

impl HubInbox {
    /// Waits while the hub is [`HUB_QUEUE_MAX`] items behind. Without a hub (the process is ending) the item is dropped.
    pub fn send(&self, item: ToHub) {
        if self.queue.send(item).is_ok() {
            self.bell.notify_one();
        }
    }
}

impl Fleet {
    /// Starts the shard threads and waits until each has its driver.
    pub fn start(plan: &ShardPlan, hub: &HubInbox) -> Result<(Arc<Fleet>, Vec<JoinHandle<()>>), FleetError> {
        let mut shards = Vec::new();
        let mut threads = Vec::new();
        for index in 0..plan.sizes.shards {
            let (handle, thread) = shard_thread::start(ShardId(index), plan, hub.clone())?;
            shards.push(handle);
            threads.push(thread);
        }
        let connections_max = u64::from(plan.connections_max);
        Ok((Arc::new(Fleet { shards, connections_max, next: AtomicUsize::new(0) }), threads))
    }

    /// A place for one more connection, round robin among the shards that keep up. `None`: the node is full or behind.
    pub fn reserve(self: &Arc<Fleet>) -> Option<Place> {
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let count = self.shards.len();
        let shard = (0..count).map(|step| (first + step) % count).find(|shard| self.shards[*shard].reserve())?;
        let place = Place { fleet: Arc::clone(self), shard, used: false };
        // Counted with this one, so that of two threads that find the last place one at most is given it.
        (self.connections() <= self.connections_max).then_some(place)
    }

    /// Established connections and those on their way to a shard.
    pub fn connections(&self) -> u64 {
        // In this order: a promotion is counted as established before it stops being counted as on its way.
        let each = self.shards.iter().map(|shard| {
            let on_their_way = shard.promotions() as u64;
            on_their_way + shard.stats.connections.value()
        });
        each.sum()
    }

    pub fn shards(&self) -> &[ShardHandle] {
        &self.shards
    }

    /// Queues a command without waking the shard; [`Fleet::wake`] follows once per batch.
    pub fn post(&self, shard: ShardId, command: ToShard) {
        if let Some(handle) = self.shards.get(usize::from(shard.0)) {
            handle.post(ShardInput::Hub(command));
        }
    }

    pub fn wake(&self, shard: ShardId) {
        if let Some(handle) = self.shards.get(usize::from(shard.0)) {
            handle.wake();
        }
    }

    /// Whether some shard is too far behind to be given more deliveries.
    pub fn behind(&self) -> bool {
        self.shards.iter().any(|shard| shard.queued() > SHARD_QUEUE_MAX)
    }

    /// Tells every shard to let its connections go, spread over the time.
    pub fn drain(&self, over_ms: u32) {
        self.tell_all(|| ShardInput::Drain { over_ms });
    }

    /// Tells every shard who is whose place.
    pub fn ring(&self, ring: &Arc<Ring>) {
        self.tell_all(|| ShardInput::Ring(Arc::clone(ring)));
    }

    /// Tells every shard how many connections the gateways have.
    pub fn loads(&self, loads: &Loads) {
        self.tell_all(|| ShardInput::Loads(loads.clone()));
    }

    /// Tells every shard to close what is left and end.
    pub fn stop(&self) {
        self.tell_all(|| ShardInput::Stop);
    }

    fn tell_all(&self, input: impl Fn() -> ShardInput<Incoming>) {
        for shard in &self.shards {
            shard.post(input());
            shard.wake();
        }
    }
}

impl ShardHandle {
    pub fn stats(&self) -> &ShardStats {
        &self.stats
    }

    pub fn tls(&self) -> &TlsStats {
        &self.tls
    }

    /// Items that wait for the shard.
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// False once its thread has ended.
    pub fn is_running(&self) -> bool {
        self.running.load(Ordering::Relaxed)
    }

    fn promotions(&self) -> usize {
        self.promotions.held()
    }

    fn reserve(&self) -> bool {
        self.is_running() && self.promotions.take(1)
    }

    fn post(&self, input: ShardInput<Incoming>) {
        // A shard that has ended takes nothing any more, and what was for it ends with it.
        let _ = self.queue.send(input);
    }

    /// Rings only if the shard sleeps.
    fn wake(&self) {
        if self.sleep.interrupt() {
            self.doorbell.ring();
        }
    }
}

impl Place {
    /// Hands the connection to the shard.
    pub fn promote(mut self, promotion: Promotion<Incoming>) {
        self.used = true;
        let shard = &self.fleet.shards[self.shard];
        shard.post(ShardInput::Promote(promotion));
        shard.wake();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.used {
            self.fleet.shards[self.shard].promotions.give_back(1);
        }
    }
}
