//! What is known of streams, callers' keys and devices.

use std::collections::VecDeque;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use quick_cache::sync::Cache as Bounded;
use tidegate_control_core::domain::{Epoch, OwnerEpoch, Seq, StreamKey};
use tidegate_control_core::ports::DedupHit;
use tidegate_control_core::ports::cache::{CursorKey, Entry, Fact, HOT_MESSAGES_MAX, OwnedRun, Queued, RunQuery};

use super::MemoryOptions;

pub struct Streams {
    heads: Table<StreamKey, Place>,
    hot: Table<StreamKey, Run>,
    queues: Table<StreamKey, Run>,
    dedup: Table<[u8; 16], (OwnerEpoch, DedupHit)>,
    cursors: Table<CursorKey, Place>,
    options: MemoryOptions,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    owner: OwnerEpoch,
    epoch: Epoch,
    seq: Seq,
}

/// Always without a hole or a twin.
#[derive(Clone, Debug)]
struct Run {
    owner: OwnerEpoch,
    epoch: Epoch,
    entries: VecDeque<Entry>,
}

impl Streams {
    pub fn new(options: MemoryOptions) -> Streams {
        Streams {
            heads: Table::new(options.streams_max, options.ttl),
            hot: Table::new(options.streams_max, options.ttl),
            queues: Table::new(options.streams_max, options.queue_ttl),
            dedup: Table::new(options.dedup_keys_max, options.ttl),
            cursors: Table::new(options.cursors_max, options.ttl),
            options,
        }
    }

    pub fn put(&self, fact: Fact) {
        match fact {
            Fact::Head { stream, epoch, seq, owner } => {
                self.heads.change(stream, |held| Place { owner, epoch, seq }.after(held));
            }
            Fact::Cursor { key, epoch, seq, owner } => {
                self.cursors.change(key, |held| Place { owner, epoch, seq }.after(held));
            }
            Fact::Dedup { key, hit, owner } => self.dedup.change(key, |held| match held {
                Some((newer, _)) if newer > owner => None,
                _ => Some((owner, hit)),
            }),
            Fact::Hot(run) => self.put_run(&self.hot, run, HOT_MESSAGES_MAX),
            Fact::Queue(run) => self.put_run(&self.queues, run, self.options.queue_messages_max),
            Fact::Forget(stream) => {
                self.heads.remove(&stream);
                self.hot.remove(&stream);
                self.queues.remove(&stream);
            }
            Fact::Online { .. } | Fact::Offline(_) | Fact::Void(_) | Fact::Publish { .. } => {}
        }
    }

    fn put_run(&self, table: &Table<StreamKey, Run>, run: OwnedRun, keep: usize) {
        let entries = run.kept(keep, self.options.message_bytes_max);
        let Some(first) = entries.first().map(|entry| entry.seq) else { return table.remove(&run.stream) };
        table.change(run.stream.clone(), |held| {
            let mut all = match held {
                Some(held) if held.owner > run.owner => return None,
                Some(held) if held.epoch == run.epoch && held.reaches(first) => held.entries,
                _ => VecDeque::new(),
            };
            let newest = all.back().map_or(Seq::ZERO, |entry| entry.seq);
            all.extend(entries.iter().filter(|entry| entry.seq > newest).cloned());
            all.drain(..all.len().saturating_sub(keep));
            Some(Run { owner: run.owner, epoch: run.epoch, entries: all })
        });
    }

    pub fn head(&self, stream: &StreamKey) -> Option<(Epoch, Seq)> {
        self.heads.find(stream).map(|place| (place.epoch, place.seq))
    }

    pub fn cursor(&self, key: &CursorKey) -> Option<(Epoch, Seq)> {
        self.cursors.find(key).map(|place| (place.epoch, place.seq))
    }

    pub fn dedup(&self, key: &[u8; 16]) -> Option<DedupHit> {
        self.dedup.find(key).map(|(_, hit)| hit)
    }

    pub fn hot(&self, place: &RunQuery) -> Option<Vec<Entry>> {
        match self.hot.find(&place.stream)?.after(place) {
            Queued::Covers { entries, .. } => Some(entries),
            Queued::Trimmed { .. } | Queued::Unknown => None,
        }
    }

    pub fn queued(&self, place: &RunQuery) -> Queued {
        self.queues.find(&place.stream).map_or(Queued::Unknown, |run| run.after(place))
    }

    pub fn clear(&self) {
        self.heads.clear();
        self.hot.clear();
        self.queues.clear();
        self.dedup.clear();
        self.cursors.clear();
    }
}

impl Place {
    /// Forward only within an epoch, and never by an older owner.
    fn after(self, held: Option<Place>) -> Option<Place> {
        match held {
            Some(held) if held.owner > self.owner => None,
            Some(held) if held.epoch == self.epoch => Some(Place { seq: self.seq.max(held.seq), ..self }),
            _ => Some(self),
        }
    }
}

impl Run {
    fn reaches(&self, first: Seq) -> bool {
        self.entries.back().is_some_and(|newest| first <= newest.seq.next())
    }

    fn after(&self, place: &RunQuery) -> Queued {
        let (Some(oldest), Some(newest)) = (self.entries.front(), self.entries.back()) else { return Queued::Unknown };
        if self.epoch != place.epoch || newest.seq < place.after {
            return Queued::Unknown;
        }
        if oldest.seq > place.after.next() {
            return Queued::Trimmed { oldest: oldest.seq };
        }
        let newer = self.entries.iter().filter(|entry| entry.seq > place.after);
        let entries: Vec<Entry> = newer.take(place.limit).cloned().collect();
        Queued::Covers { upto: entries.last().map_or(place.after, |last| last.seq), entries }
    }
}

/// Values that end by themselves, and as many as there is room for.
struct Table<K, V> {
    values: Bounded<K, Arc<(Instant, V)>>,
    ttl: Duration,
    /// A change reads and writes; two at once would lose one of them.
    change: Mutex<()>,
}

impl<K: Eq + Hash + Clone, V: Clone> Table<K, V> {
    fn new(max: usize, ttl: Duration) -> Table<K, V> {
        Table { values: Bounded::new(max), ttl, change: Mutex::new(()) }
    }

    fn find(&self, key: &K) -> Option<V> {
        let held = self.values.get(key)?;
        (held.0 > Instant::now()).then(|| held.1.clone())
    }

    /// `None` of the change: what is held stays.
    fn change(&self, key: K, change: impl FnOnce(Option<V>) -> Option<V>) {
        let _one_at_a_time = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = change(self.find(&key)) {
            self.values.insert(key, Arc::new((Instant::now() + self.ttl, value)));
        }
    }

    fn remove(&self, key: &K) {
        let _one_at_a_time = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        self.values.remove(key);
    }

    fn clear(&self) {
        self.values.clear();
    }
}
