//! What a partition committed, on its way to the cache. The partition's thread leaves its records here and goes on; a task makes
//! facts of them.
//!
//! Invariants:
//! * Only what is committed comes here, in the order of its commits.
//! * What waits is bounded. Of what found no room the streams are remembered, and forgotten in the cache before anything newer
//!   of the partition is written: what stands there may be old, but never has a hole.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::metrics::counter::Counter;
use tidegate_control_core::domain::{Append, OwnerEpoch, Record, StreamKey, StreamKind};
use tidegate_control_core::partition::own_places;
use tidegate_control_core::ports::DedupHit;
use tidegate_control_core::ports::cache::{CursorKey, Fact, OwnedRun, SharedCache};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::{Caches, Change, form};
use crate::presence::Presence;

/// Bytes of records that may wait.
const WAITING_BYTES_MAX: usize = 32 << 20;
/// Streams that are remembered for what found no room; of more, the heads that stand in the cache are merely old.
const MISSED_MAX: usize = 1 << 16;

/// Where facts go, and who is asked who is there.
#[derive(Clone)]
pub struct Memory {
    pub cache: SharedCache,
    pub caches: Arc<Caches>,
    pub presence: Arc<Presence>,
    /// Records that found no room.
    pub dropped: Counter,
}

/// The partition's end. Its drop ends the task.
pub struct Committed {
    shared: Arc<Shared>,
    dropped: Counter,
}

#[derive(Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    news: Notify,
}

#[derive(Default)]
struct Waiting {
    batches: VecDeque<Vec<Record>>,
    bytes: usize,
    missed: BTreeSet<StreamKey>,
    closed: bool,
}

enum Next {
    Batch(Vec<Record>),
    Missed(BTreeSet<StreamKey>),
    Nothing,
    End,
}

/// Begins to tell what this owner commits, on the present runtime.
pub fn follow(owner: OwnerEpoch, memory: Memory) -> (Committed, JoinHandle<()>) {
    let shared = Arc::new(Shared::default());
    let committed = Committed { shared: Arc::clone(&shared), dropped: memory.dropped.clone() };
    (committed, tokio::spawn(run(owner, memory, shared)))
}

impl Committed {
    /// Never waits.
    pub fn tell(&self, records: &[Record]) {
        if records.is_empty() {
            return;
        }
        let bytes: usize = records.iter().map(Record::weight).sum();
        let mut waiting = self.shared.waiting();
        // Once something is missing, what follows waits until that is told.
        if waiting.missed.is_empty() && (waiting.bytes == 0 || waiting.bytes + bytes <= WAITING_BYTES_MAX) {
            waiting.bytes += bytes;
            waiting.batches.push_back(records.to_vec());
        } else {
            self.dropped.inc_by(records.len() as u64);
            for stream in records.iter().flat_map(streams_of) {
                if waiting.missed.len() < MISSED_MAX {
                    waiting.missed.insert(stream.clone());
                }
            }
        }
        drop(waiting);
        self.shared.news.notify_one();
    }
}

impl Drop for Committed {
    fn drop(&mut self) {
        self.shared.waiting().closed = true;
        self.shared.news.notify_one();
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Nothing panics half-way through a change.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Next {
        let mut waiting = self.waiting();
        if let Some(batch) = waiting.batches.pop_front() {
            waiting.bytes -= batch.iter().map(Record::weight).sum::<usize>();
            return Next::Batch(batch);
        }
        match (waiting.missed.is_empty(), waiting.closed) {
            (false, _) => Next::Missed(std::mem::take(&mut waiting.missed)),
            (true, true) => Next::End,
            (true, false) => Next::Nothing,
        }
    }
}

async fn run(owner: OwnerEpoch, memory: Memory, shared: Arc<Shared>) {
    loop {
        match shared.next() {
            Next::Batch(records) => {
                let told = facts_of(&records, owner, &memory.presence);
                memory.cache.write(told.facts);
                memory.caches.changed(&told.changes, &*memory.cache);
                // A long queue must not keep this worker thread to itself.
                tokio::task::yield_now().await;
            }
            Next::Missed(streams) => memory.cache.write(streams.into_iter().map(Fact::Forget).collect()),
            Next::Nothing => shared.news.notified().await,
            Next::End => return,
        }
    }
}

/// Whose lists are affected.
fn streams_of(record: &Record) -> Vec<StreamKey> {
    match record {
        Record::Append(append) => append.places.iter().map(|place| place.stream.clone()).collect(),
        Record::Group(change) => vec![change.gid.stream()],
        Record::Mark(_) | Record::Read(_) | Record::Joined(_) => Vec::new(),
    }
}

/// What a batch of records means for the cache, in this order.
#[derive(Debug, Default, PartialEq)]
pub struct Told {
    pub facts: Vec<Fact>,
    pub changes: Vec<Change>,
}

/// Messages in runs by stream; the short queue only for users who are not here.
pub fn facts_of(records: &[Record], owner: OwnerEpoch, presence: &Presence) -> Told {
    let mut told = Told::default();
    let mut runs = Runs::default();
    for record in records {
        match record {
            Record::Append(append) => {
                runs.append(append, owner, &mut told.facts, presence);
                if let Some(change) = &append.membership {
                    told.changes.push(Change::Member(change.gid.clone(), change.uid.clone()));
                }
            }
            Record::Group(change) => {
                // What stands of an earlier life is void, and what follows belongs to the new one.
                runs.end(&mut told.facts, presence);
                told.facts.push(Fact::Forget(change.gid.stream()));
                told.changes.push(Change::Group(change.gid.clone()));
            }
            Record::Mark(mark) => {
                let (uid, device, stream) = (mark.uid.clone(), mark.device.clone(), mark.stream.clone());
                let key = CursorKey { uid, device, stream };
                told.facts.push(Fact::Cursor { key, epoch: mark.epoch, seq: mark.seq, owner });
            }
            Record::Read(_) | Record::Joined(_) => {}
        }
    }
    runs.end(&mut told.facts, presence);
    told
}

/// One for each stream, in the order of their first messages.
#[derive(Default)]
struct Runs {
    runs: Vec<OwnedRun>,
    by_stream: HashMap<StreamKey, usize>,
}

impl Runs {
    fn append(&mut self, append: &Append, owner: OwnerEpoch, facts: &mut Vec<Fact>, presence: &Presence) {
        let own = own_places(append);
        let Some(first) = append.places.first() else { return };
        // An inbox's entry has a key of ours, which nobody asks for.
        if own.first() == Some(first)
            && let Some(dedup) = &append.dedup
        {
            let (epoch, seq, id) = (first.epoch, first.seq, append.body.id);
            let hit = DedupHit { epoch, seq, id, fingerprint: dedup.fingerprint };
            facts.push(Fact::Dedup { key: dedup.key, hit, owner });
        }
        for place in own {
            let conversation = (first.stream != place.stream).then_some(first);
            let entry = form::encode(&append.body, place, conversation);
            let at = self.by_stream.get(&place.stream).copied();
            if at.is_some_and(|at| self.runs[at].epoch != place.epoch) {
                self.end(facts, presence);
            }
            let at = *self.by_stream.entry(place.stream.clone()).or_insert_with(|| {
                let (stream, epoch) = (place.stream.clone(), place.epoch);
                self.runs.push(OwnedRun { stream, epoch, owner, entries: Vec::new() });
                self.runs.len() - 1
            });
            self.runs[at].entries.push(entry);
        }
    }

    fn end(&mut self, facts: &mut Vec<Fact>, presence: &Presence) {
        self.by_stream.clear();
        if self.runs.is_empty() {
            return;
        }
        let view = presence.view();
        for run in self.runs.drain(..) {
            let Some(last) = run.entries.last() else { continue };
            let (stream, seq) = (run.stream.clone(), last.seq);
            facts.push(Fact::Head { stream, epoch: run.epoch, seq, owner: run.owner });
            match run.stream.kind() {
                // Who is here gets it live; the queue begins anew with the first message that finds nobody.
                StreamKind::Inbox if view.connections_of(run.stream.name()) > 0 => {}
                StreamKind::Inbox => facts.push(Fact::Queue(run)),
                StreamKind::Group | StreamKind::Conversation => facts.push(Fact::Hot(run)),
            }
        }
    }
}

#[cfg(test)]
mod tests;
