//! The cache in memory: for one node without Redis, and for tests. Bounded: past its bounds it forgets, which is a miss.

mod routes;
mod streams;

use std::future::ready;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tidegate_control_core::breaker::BreakerState;
use tidegate_control_core::domain::{Epoch, Seq, StreamKey, Uid};
use tidegate_control_core::ports::DedupHit;
use tidegate_control_core::ports::cache::{
    Cache, Channel, Connection, CursorKey, Entry, Fact, Health, Incarnation, Live, Notice, Pending, Published, Queued,
    Ring, RunQuery, Subscription, Sweep,
};
use tokio::sync::broadcast;

use routes::Routes;
use streams::Streams;

/// Notices that a listener may be behind; past that it is told a gap.
const WAITING_MAX: usize = 4_096;

#[derive(Clone, Debug)]
pub struct MemoryOptions {
    pub connections_max: usize,
    /// Streams whose head, hot list and short queue are kept, each.
    pub streams_max: usize,
    pub dedup_keys_max: usize,
    pub cursors_max: usize,
    pub queue_messages_max: usize,
    pub message_bytes_max: usize,
    pub routes_ttl: Option<Duration>,
    /// Of heads, dedup keys, hot lists and cursors.
    pub ttl: Duration,
    pub queue_ttl: Duration,
}

impl Default for MemoryOptions {
    fn default() -> Self {
        MemoryOptions {
            connections_max: 16 << 20,
            streams_max: 100_000,
            dedup_keys_max: 1_000_000,
            cursors_max: 1_000_000,
            queue_messages_max: 200,
            message_bytes_max: 16 << 10,
            routes_ttl: None,
            ttl: Duration::from_secs(3_600),
            queue_ttl: Duration::from_secs(600),
        }
    }
}

/// Clones are the same cache.
#[derive(Clone)]
pub struct MemoryCache(Arc<Inner>);

struct Inner {
    routes: Mutex<Routes>,
    streams: Streams,
    ring: Mutex<Option<Ring>>,
    notices: broadcast::Sender<Notice>,
    generation: AtomicU64,
    done: AtomicU64,
    dropped: AtomicU64,
}

impl MemoryCache {
    pub fn new(options: MemoryOptions) -> MemoryCache {
        MemoryCache(Arc::new(Inner {
            routes: Mutex::new(Routes::new(options.connections_max, options.routes_ttl)),
            streams: Streams::new(options),
            ring: Mutex::new(None),
            notices: broadcast::Sender::new(WAITING_MAX),
            generation: AtomicU64::new(0),
            done: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        }))
    }

    /// Forgets everything, as a flushed server does.
    pub fn flush(&self) {
        lock(&self.0.routes).clear();
        self.0.streams.clear();
        *lock(&self.0.ring) = None;
        self.0.generation.fetch_add(1, Ordering::AcqRel);
    }

    fn take(&self, fact: Fact) -> bool {
        let inner = &*self.0;
        match fact {
            Fact::Online { uid, connection } => return lock(&inner.routes).put(uid, connection, Instant::now()),
            Fact::Offline(key) => lock(&inner.routes).remove(&key),
            Fact::Void(incarnation) => lock(&inner.routes).void(&incarnation),
            Fact::Publish { channel, bytes } => {
                // Nobody listens: nobody is told.
                let _ = inner.notices.send(Notice::Message { channel, bytes });
            }
            other => inner.streams.put(other),
        }
        true
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn at_once<'a, T: Send + 'a>(value: T) -> Pending<'a, T> {
    Box::pin(ready(value))
}

impl Cache for MemoryCache {
    fn write(&self, facts: Vec<Fact>) {
        for fact in facts {
            let counter = if self.take(fact) { &self.0.done } else { &self.0.dropped };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn routes_of<'a>(&'a self, users: &'a [Uid], live: &'a Live) -> Pending<'a, Vec<Option<Vec<Connection>>>> {
        let (routes, now) = (lock(&self.0.routes), Instant::now());
        at_once(users.iter().map(|uid| Some(routes.of(uid, live, now))).collect())
    }

    fn route_counts<'a>(&'a self, gateways: &'a [Incarnation]) -> Pending<'a, Vec<Option<u64>>> {
        let routes = lock(&self.0.routes);
        at_once(gateways.iter().map(|at| Some(routes.count(at))).collect())
    }

    fn sweep<'a>(&'a self, live: &'a Live) -> Pending<'a, Sweep> {
        at_once(lock(&self.0.routes).sweep(live, Instant::now()))
    }

    fn heads<'a>(&'a self, streams: &'a [StreamKey]) -> Pending<'a, Vec<Option<(Epoch, Seq)>>> {
        at_once(streams.iter().map(|stream| self.0.streams.head(stream)).collect())
    }

    fn dedup<'a>(&'a self, keys: &'a [[u8; 16]]) -> Pending<'a, Vec<Option<DedupHit>>> {
        at_once(keys.iter().map(|key| self.0.streams.dedup(key)).collect())
    }

    fn hot<'a>(&'a self, places: &'a [RunQuery]) -> Pending<'a, Vec<Option<Vec<Entry>>>> {
        at_once(places.iter().map(|place| self.0.streams.hot(place)).collect())
    }

    fn queued<'a>(&'a self, places: &'a [RunQuery]) -> Pending<'a, Vec<Queued>> {
        at_once(places.iter().map(|place| self.0.streams.queued(place)).collect())
    }

    fn cursors<'a>(&'a self, keys: &'a [CursorKey]) -> Pending<'a, Vec<Option<(Epoch, Seq)>>> {
        at_once(keys.iter().map(|key| self.0.streams.cursor(key)).collect())
    }

    fn ring(&self) -> Pending<'_, Option<Ring>> {
        at_once(lock(&self.0.ring).clone())
    }

    fn publish_ring(&self, ring: Ring) -> Pending<'_, Published> {
        let mut held = lock(&self.0.ring);
        at_once(match &*held {
            Some(held) if held.version >= ring.version => Published::Stands(held.version),
            _ => {
                *held = Some(ring);
                Published::Done
            }
        })
    }

    fn subscribe(&self, channels: &[Channel]) -> Box<dyn Subscription> {
        let receiver = self.0.notices.subscribe();
        Box::new(Listener { receiver, channels: channels.to_vec(), began: false })
    }

    fn generation(&self) -> u64 {
        self.0.generation.load(Ordering::Acquire)
    }

    fn health(&self) -> Health {
        Health {
            breaker: BreakerState::Closed,
            breaker_opened: 0,
            reads_failed: 0,
            writes_dropped: self.0.dropped.load(Ordering::Relaxed),
            writes_refused: 0,
            writes_done: self.0.done.load(Ordering::Relaxed),
            queued: 0,
            owed: 0,
        }
    }

    fn settled(&self) -> Pending<'_, ()> {
        at_once(())
    }
}

struct Listener {
    receiver: broadcast::Receiver<Notice>,
    channels: Vec<Channel>,
    began: bool,
}

impl Subscription for Listener {
    fn next(&mut self) -> Pending<'_, Option<Notice>> {
        Box::pin(async move {
            if !std::mem::replace(&mut self.began, true) {
                return Some(Notice::Gap);
            }
            loop {
                match self.receiver.recv().await {
                    Ok(Notice::Message { channel, .. }) if !self.channels.contains(&channel) => {}
                    Ok(notice) => return Some(notice),
                    Err(broadcast::error::RecvError::Lagged(_)) => return Some(Notice::Gap),
                    Err(broadcast::error::RecvError::Closed) => return None,
                }
            }
        })
    }
}
