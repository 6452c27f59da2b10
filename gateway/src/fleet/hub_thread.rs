//! The hub's thread: a current-thread tokio runtime that drives the sans-io hub and the link beside it.
//!
//! One turn takes what shards and link brought (within bounds), lets due timers run, then hands out everything the hub has
//! to say: commands to shards with one wake-up per shard, values to control in batches.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tidegate_gateway_core::hub::{Hub, HubConfig, HubStats};
use tidegate_gateway_core::ids::{Now, ShardId};
use tidegate_gateway_core::link::FromLink;
use tidegate_gateway_ring::monotonic;
use tokio::sync::{mpsc, watch};
use tracing::{debug, error, warn};

use super::{Fleet, HubOutlet};
use crate::link::{self, Attached, Flushed, LinkEvent, LinkSet, LinkStates, UpQueues};

/// Items from shards in one turn.
const SHARD_ITEMS_PER_TURN_MAX: usize = 1024;
/// Batches from the link in one turn.
const LINK_BATCHES_PER_TURN_MAX: usize = 4;
/// While a shard is behind, the hub looks again after this time.
const BEHIND_PAUSE: Duration = Duration::from_millis(1);
/// At the end, what is left for control gets so long to leave.
const FAREWELL: Duration = Duration::from_millis(500);

/// The running thread.
pub struct HubThread {
    stop: watch::Sender<bool>,
    thread: JoinHandle<()>,
}

/// What others may see of it.
#[derive(Debug, Default)]
pub struct HubStatus {
    stats: Mutex<(HubStats, usize)>,
}

impl HubStatus {
    pub fn stats(&self) -> HubStats {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    /// Items that wait to go up.
    pub fn up_queued(&self) -> usize {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner).1
    }

    fn publish(&self, stats: HubStats, up_queued: usize) {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner) = (stats, up_queued);
    }
}

impl HubThread {
    pub fn start(
        config: HubConfig,
        fleet: Arc<Fleet>,
        outlet: HubOutlet,
        links: LinkSet,
        status: Arc<HubStatus>,
    ) -> io::Result<HubThread> {
        let (stop, stopped) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let seed = getrandom::u64().unwrap_or(1);
        let work = move || {
            let hub = Hub::new(config, seed);
            let link_states = Arc::clone(&links.states);
            runtime.block_on(async move {
                let (to, events) = link::events();
                let links = tokio::spawn(links.run(to));
                let turns =
                    Turns { hub, fleet, outlet, up: UpQueues::default(), link_states, status, woken: Vec::new() };
                turns.run(events, stopped).await;
                // The events' end is gone, so the links end as soon as their attachments do.
                if tokio::time::timeout(FAREWELL, links).await.is_err() {
                    debug!("the links did not end by themselves");
                }
            });
            runtime.shutdown_background();
        };
        let thread = thread::Builder::new().name("hub".into()).spawn(work)?;
        Ok(HubThread { stop, thread })
    }

    /// Works off what shards have said, lets it leave, ends the attachment, joins the thread.
    pub fn stop(self) {
        self.stop.send_replace(true);
        if self.thread.join().is_err() {
            warn!("the hub thread panicked");
        }
    }
}

struct Turns {
    hub: Hub,
    fleet: Arc<Fleet>,
    outlet: HubOutlet,
    up: UpQueues,
    link_states: Arc<LinkStates>,
    status: Arc<HubStatus>,
    /// Shards that got something in this turn.
    woken: Vec<ShardId>,
}

impl Turns {
    async fn run(mut self, mut events: mpsc::Receiver<LinkEvent>, mut stopped: watch::Receiver<bool>) {
        let mut stopping = false;
        loop {
            let mut more = self.take_from_shards();
            let behind = self.fleet.behind();
            if !behind {
                more |= self.take_from_link(&mut events);
            }
            let now = monotonic();
            if self.hub.poll_timeout().is_some_and(|at| at <= now) {
                self.hub.handle_timeout(now);
            }
            let flushed = self.hand_out();
            if more {
                // The link's task needs its turn on this thread too.
                tokio::task::yield_now().await;
                continue;
            }
            if stopping {
                return self.farewell(flushed).await;
            }
            let timeout = sleep_until(self.hub.poll_timeout(), behind);
            tokio::select! {
                () = self.outlet.bell.notified() => {}
                event = events.recv(), if !behind => match event {
                    Some(event) => self.take_event(event),
                    None => return,
                },
                () = self.up.writable(), if flushed == Flushed::Behind => {}
                () = timeout => {}
                _ = stopped.wait_for(|stop| *stop) => stopping = true,
            }
        }
    }

    /// True if there is more.
    fn take_from_shards(&mut self) -> bool {
        let now = monotonic();
        for _ in 0..SHARD_ITEMS_PER_TURN_MAX {
            match self.outlet.queue.try_recv() {
                Ok(item) => self.hub.handle_shard(now, item),
                Err(_) => return false,
            }
        }
        true
    }

    fn take_from_link(&mut self, events: &mut mpsc::Receiver<LinkEvent>) -> bool {
        for _ in 0..LINK_BATCHES_PER_TURN_MAX {
            match events.try_recv() {
                Ok(event) => self.take_event(event),
                Err(_) => return false,
            }
        }
        true
    }

    fn take_event(&mut self, event: LinkEvent) {
        let now = monotonic();
        match event {
            LinkEvent::Up(Attached { partition, partitions, history, up }) => {
                if let Err(why) = self.hub.set_partitions(now, partitions) {
                    // The links agree on one number, so this cannot come to pass.
                    return error!(%why, "an attachment is not used");
                }
                // What the hub said before belongs to no attachment; it says again what still counts.
                self.gather();
                self.up.open(partition, up);
                if let Some(history) = history {
                    self.hub.handle_link(now, partition, FromLink::History { history });
                }
                self.hub.handle_link(now, partition, FromLink::Up);
            }
            LinkEvent::Items(partition, items) => {
                items.into_iter().for_each(|item| self.hub.handle_link(now, partition, item));
            }
            LinkEvent::Down(partition) => {
                self.up.close(partition);
                self.hub.handle_link(now, partition, FromLink::Down);
            }
        }
    }

    /// Everything the hub has to say, until it has no more.
    fn hand_out(&mut self) -> Flushed {
        while let Some((shard, command)) = self.hub.poll_shard() {
            self.fleet.post(shard, command);
            if !self.woken.contains(&shard) {
                self.woken.push(shard);
            }
        }
        for shard in self.woken.drain(..) {
            self.fleet.wake(shard);
        }
        self.gather();
        let flushed = self.up.flush(|partition| self.link_states.give_up(partition));
        self.status.publish(self.hub.stats(), self.up.len());
        flushed
    }

    fn gather(&mut self) {
        while let Some((partition, value)) = self.hub.poll_link() {
            self.up.push(partition, value);
        }
    }

    async fn farewell(mut self, mut flushed: Flushed) {
        let leaving = async {
            while flushed == Flushed::Behind {
                self.up.writable().await;
                flushed = self.up.flush(|_| {});
            }
        };
        if tokio::time::timeout(FAREWELL, leaving).await.is_err() {
            warn!("control did not take the last words");
        }
    }
}

async fn sleep_until(at: Option<Now>, behind: bool) {
    let wait = at.map(|at| at - monotonic());
    let pause = behind.then_some(BEHIND_PAUSE);
    match wait.into_iter().chain(pause).min() {
        Some(span) => tokio::time::sleep(span).await,
        None => std::future::pending().await,
    }
}
