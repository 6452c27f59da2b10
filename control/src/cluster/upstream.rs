//! From the upstream topic into the sequencers of this node.
//!
//! A partition of the topic (a *source*) holds the messages of several partitions. One reader for each source serves all of
//! them that are owned here; each has its own place, which its store keeps.
//!
//! Invariants:
//! * A partition gets its messages in the order of its source, and none twice: its place is committed with what came of them.
//! * A record that stands in another source than its stream's is put where it belongs, under a key by which a second copy is
//!   known, before the place moves past it.
//! * A record that is nobody's push goes to the dead letters before the place moves past it.
//! * A refusal that nobody waited for goes there as well, after the commit that moves the place: who dies between the two
//!   leaves a message that was not sequenced and of which nobody hears.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use tidegate_bus::port::{Bus, BusError, Outgoing, PartitionReader, Publisher, Record, Start};
use tidegate_bus::records::{DeadLetter, ErrorClass, Form as _, Format, VERSION};
use tidegate_bus::topics::LOGIC_GROUP;
use tidegate_control_core::domain::{PartitionId, Refusal, StreamKey};
use tidegate_control_core::partition::{Push, Reply, stream_of};
use tidegate_control_core::ports::Consumed;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::forms::{self, NoPush, REKEYED, ReplyTo};
use super::ingress::{Mapping, Results, wall_clock_ms};
use super::node::Peers;
use super::seats::Hosted;
use crate::presence::Presence;

/// Batches that wait for one partition; a partition that pauses holds back the others of its source, which have the same
/// store.
const FEED_BATCHES_MAX: usize = 2;
/// Reads that are joined into one batch while more is there at once.
const READS_PER_BATCH_MAX: usize = 16;
const WAIT: Duration = Duration::from_millis(200);
const RETRY: Duration = Duration::from_millis(200);
/// The place of a source is shown to Kafka's tools so often.
const SHOWN_EVERY: Duration = Duration::from_secs(2);

/// Everything that reading needs.
pub(crate) struct Upstream {
    pub bus: Arc<dyn Bus>,
    pub publisher: Arc<dyn Publisher>,
    pub topic: String,
    pub dead_letters: String,
    pub format: Format,
    /// Records of one read.
    pub batch: usize,
    pub pace: Duration,
    pub partitions: u32,
    pub mapping: watch::Receiver<Mapping>,
    pub results: Arc<Results>,
    pub peers: Arc<Peers>,
    pub presence: Arc<Presence>,
    pub node: String,
    pub incarnation: u64,
    pub lag: Arc<Lag>,
    sources: Mutex<HashMap<u32, mpsc::UnboundedSender<Subscribe>>>,
}

/// How far behind each source is, and what was given up, for metrics.
#[derive(Debug, Default)]
pub(crate) struct Lag {
    pub behind: Mutex<HashMap<u32, u64>>,
    /// In the order of [`ErrorClass::ALL`].
    pub dead_letters: [AtomicU64; 3],
    pub rekeyed: AtomicU64,
}

struct Subscribe {
    partition: PartitionId,
    from: u64,
    feed: mpsc::Sender<Batch>,
    /// Up to where it has been handled.
    done: Arc<AtomicU64>,
}

/// Records of one partition in the order of their source, and where the source went on.
struct Batch {
    records: Vec<Record>,
    upto: u64,
}

struct Subscriber {
    next: u64,
    feed: mpsc::Sender<Batch>,
    done: Arc<AtomicU64>,
}

/// The configured parts of an [`Upstream`].
pub(crate) struct Parts {
    pub bus: Arc<dyn Bus>,
    pub topic: String,
    pub dead_letters: String,
    pub format: Format,
    pub batch: usize,
    pub pace: Duration,
    pub partitions: u32,
    pub mapping: watch::Receiver<Mapping>,
    pub results: Arc<Results>,
    pub peers: Arc<Peers>,
    pub presence: Arc<Presence>,
    pub node: String,
    pub incarnation: u64,
}

impl Upstream {
    pub fn new(parts: Parts) -> Upstream {
        Upstream {
            publisher: parts.bus.publisher(),
            bus: parts.bus,
            topic: parts.topic,
            dead_letters: parts.dead_letters,
            format: parts.format,
            batch: parts.batch.max(1),
            pace: parts.pace,
            partitions: parts.partitions,
            mapping: parts.mapping,
            results: parts.results,
            peers: parts.peers,
            presence: parts.presence,
            node: parts.node,
            incarnation: parts.incarnation,
            lag: Arc::default(),
            sources: Mutex::default(),
        }
    }

    /// Where a partition's messages stand.
    pub fn source_of(&self, partition: PartitionId) -> u32 {
        self.mapping.borrow().source_of(partition)
    }

    /// Feeds a partition from its place on, until the task is aborted or the partition's thread ends.
    pub fn feed(self: &Arc<Self>, hosted: Hosted, from: Option<Consumed>) -> JoinHandle<()> {
        let upstream = Arc::clone(self);
        tokio::spawn(async move {
            let mut place = from;
            while let Some(next) = upstream.follow(&hosted, place).await {
                place = Some(next);
            }
        })
    }

    /// Feeds from one source. Returns where to go on after the topic has grown; `None`: the partition's thread has ended.
    async fn follow(self: &Arc<Self>, hosted: &Hosted, place: Option<Consumed>) -> Option<Consumed> {
        let partition = hosted.origin.partition;
        let mut mapping = self.mapping.clone();
        let home = mapping.borrow_and_update().source_of(partition);
        let mut place = place.unwrap_or(Consumed { source: home, next: 0 });
        let (feed, mut batches) = mpsc::channel(FEED_BATCHES_MAX);
        let done = Arc::new(AtomicU64::new(place.next));
        self.subscribe(place.source, Subscribe { partition, from: place.next, feed, done: Arc::clone(&done) });
        loop {
            // The topic grew, and this partition's messages stand in another source from the barrier on.
            let home = mapping.borrow().source_of(partition);
            let barrier = mapping.borrow().barrier(place.source);
            if home != place.source && barrier.is_some_and(|barrier| place.next >= barrier) {
                let moved = Consumed { source: home, next: 0 };
                let pending = hosted.sequencer.append(Vec::new(), moved).await.ok()?;
                pending.await.ok()?;
                return Some(moved);
            }
            let batch = tokio::select! {
                batch = batches.recv() => batch?,
                changed = mapping.changed() => {
                    changed.ok()?;
                    continue;
                }
            };
            let upto = batch.upto;
            self.handle(hosted, place.source, batch).await?;
            place.next = upto;
            done.store(upto, Ordering::Release);
        }
    }

    /// `None`: the partition's thread has ended.
    async fn handle(&self, hosted: &Hosted, source: u32, batch: Batch) -> Option<()> {
        let mut pushes: Vec<(Box<Push>, Consumed)> = Vec::with_capacity(batch.records.len());
        let mut askers: Vec<(Option<ReplyTo>, Record)> = Vec::with_capacity(batch.records.len());
        for record in batch.records {
            match forms::decode(&record) {
                Ok(push) => {
                    let home = PartitionId::of(&stream_of(&push), self.partitions);
                    if home != hosted.origin.partition {
                        self.move_home(&record, &push, home).await;
                        continue;
                    }
                    let upto = Consumed { source, next: record.offset as u64 + 1 };
                    pushes.push((Box::new(push), upto));
                    askers.push((forms::reply_to(&record), record));
                }
                Err(bad) => self.bury(&record, &bad).await,
            }
        }
        let targets: Vec<StreamKey> = pushes.iter().map(|(push, _)| push.to.clone()).collect();
        let upto = Consumed { source, next: batch.upto };
        let pending = hosted.sequencer.append(pushes, upto).await.ok()?;
        let answers = pending.await.ok()?;
        let mut refused = Vec::new();
        for ((answer, (asker, record)), to) in answers.into_iter().zip(askers).zip(targets) {
            match (asker, answer) {
                (Some(asker), Ok(reply)) => self.tell(&asker, &to, reply),
                (None, Ok(_)) => {}
                (asker, Err(refusal)) => refused.push((asker, record, refusal)),
            }
        }
        let heard = refused.iter().map(|(asker, _, refusal)| self.is_heard(asker.as_ref(), refusal));
        let heard = join_all(heard).await;
        for ((_, record, refusal), _) in refused.iter().zip(heard).filter(|(_, heard)| !heard) {
            // It must not vanish without a trace.
            self.dead_letter(record, ErrorClass::Refused, &refusal.to_string()).await;
        }
        Some(())
    }

    fn tell(&self, asker: &ReplyTo, to: &StreamKey, mut reply: Reply) {
        if let (Reply::Pushed { online, .. }, Some(uid)) = (&mut reply, to.uid()) {
            *online = u32::try_from(self.presence.view().connections_of(uid.as_str())).ok();
        }
        if asker.node != self.node {
            self.peers.result(&asker.node, asker.incarnation, asker.corr, Ok(reply));
        } else if asker.incarnation == self.incarnation {
            self.results.take(asker.corr, Ok(reply));
        }
    }

    /// Whether somebody waited for this refusal, and has it now.
    async fn is_heard(&self, asker: Option<&ReplyTo>, refusal: &Refusal) -> bool {
        let Some(asker) = asker else { return false };
        if asker.node != self.node {
            return self.peers.refused(&asker.node, asker.incarnation, asker.corr, refusal.clone()).await;
        }
        asker.incarnation == self.incarnation && self.results.take(asker.corr, Err(refusal.clone()))
    }

    /// Until the bus has it: who would go on without would lose it.
    async fn move_home(&self, record: &Record, push: &Push, home: PartitionId) {
        let stood = format!("{}/{}/{}", record.topic, record.partition, record.offset);
        // Without a key of its caller a second copy could not be told from a second message.
        let keyed = push.id.is_some() || push.message_id.is_some() || !push.client_msg_id.is_empty();
        let push = match (keyed, push.sender.is_some()) {
            (true, _) => push.clone(),
            (false, true) => Push { client_msg_id: stood.clone().into(), ..push.clone() },
            (false, false) => Push { message_id: Some(stood.clone().into()), ..push.clone() },
        };
        let mut headers: Vec<(std::borrow::Cow<'static, str>, Bytes)> =
            record.headers.iter().map(|(name, value)| (name.clone().into(), Bytes::copy_from_slice(value))).collect();
        headers.push((REKEYED.into(), stood.into_bytes().into()));
        let stream = stream_of(&push);
        self.publish(|| Outgoing {
            topic: self.topic.clone().into(),
            partition: Some(self.mapping.borrow().source_of(home) as i32),
            key: Some(Bytes::copy_from_slice(stream.as_str().as_bytes())),
            headers: headers.clone(),
            value: forms::encode(&push, wall_clock_ms(), self.format).into(),
        })
        .await;
        self.lag.rekeyed.fetch_add(1, Ordering::Relaxed);
    }

    async fn bury(&self, record: &Record, bad: &NoPush) {
        let class = match bad {
            NoPush::Undecodable(_) => ErrorClass::Undecodable,
            NoPush::Invalid(_) => ErrorClass::Invalid,
        };
        self.dead_letter(record, class, &bad.to_string()).await;
    }

    async fn dead_letter(&self, record: &Record, class: ErrorClass, reason: &str) {
        let letter = DeadLetter {
            topic: record.topic.to_string(),
            partition: record.partition,
            offset: record.offset,
            key: record.key.clone(),
            headers: record.headers.clone(),
            value: record.value.to_vec(),
            group: LOGIC_GROUP.to_owned(),
            reason: reason.to_owned(),
            class,
            attempts: 1,
            produced_at: record.timestamp,
            failed_at: wall_clock_ms(),
            version: VERSION,
        };
        let (topic, partition, offset) = (&*record.topic, record.partition, record.offset);
        tracing::warn!(topic, partition, offset, class = class.as_str(), reason, "dead letter");
        self.publish(|| Outgoing {
            topic: self.dead_letters.clone().into(),
            partition: None,
            key: record.key.clone().map(Bytes::from),
            headers: Vec::new(),
            value: letter.encode(self.format).into(),
        })
        .await;
        self.lag.dead_letters[class as usize].fetch_add(1, Ordering::Relaxed);
    }

    async fn publish(&self, outgoing: impl Fn() -> Outgoing) {
        loop {
            let placed = match self.publisher.publish(outgoing()) {
                Ok(placing) => placing.await.map(drop),
                Err(error) => Err(error),
            };
            match placed {
                Ok(()) => return,
                Err(error) => tracing::warn!(%error, "a record waits for the bus"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    fn subscribe(self: &Arc<Self>, source: u32, subscribe: Subscribe) {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = sources.entry(source).or_insert_with(|| {
            let (sender, receiver) = mpsc::unbounded_channel();
            tokio::spawn(Source::new(Arc::clone(self), source).run(receiver));
            sender
        });
        // The reading task lives as long as we do.
        let _ = sender.send(subscribe);
    }
}

/// The reader of one source.
struct Source {
    upstream: Arc<Upstream>,
    source: u32,
    subscribers: HashMap<PartitionId, Subscriber>,
    reader: Option<Box<dyn PartitionReader>>,
    /// What the reader gives next.
    position: u64,
    shown: tokio::time::Instant,
    next_read: tokio::time::Instant,
}

impl Source {
    fn new(upstream: Arc<Upstream>, source: u32) -> Source {
        let now = tokio::time::Instant::now();
        Source { upstream, source, subscribers: HashMap::new(), reader: None, position: 0, shown: now, next_read: now }
    }

    async fn run(mut self, mut subscriptions: mpsc::UnboundedReceiver<Subscribe>) {
        loop {
            while let Ok(subscribe) = subscriptions.try_recv() {
                self.add(subscribe);
            }
            self.subscribers.retain(|_, subscriber| !subscriber.feed.is_closed());
            if self.subscribers.is_empty() {
                self.reader = None;
                self.upstream.lag.behind.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.source);
                match subscriptions.recv().await {
                    Some(subscribe) => self.add(subscribe),
                    None => return,
                }
                continue;
            }
            if let Err(error) = self.turn().await {
                tracing::warn!(%error, source = self.source, "the upstream topic cannot be read");
                self.reader = None;
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    fn add(&mut self, subscribe: Subscribe) {
        let Subscribe { partition, from, feed, done } = subscribe;
        if from < self.position {
            // It has to be read again from there; the others pass over what they have.
            self.reader = None;
        }
        self.subscribers.insert(partition, Subscriber { next: from, feed, done });
    }

    async fn turn(&mut self) -> Result<(), BusError> {
        if self.reader.is_none() {
            self.open().await?;
        }
        let Some(reader) = &mut self.reader else { return Ok(()) };
        tokio::time::sleep_until(self.next_read).await;
        let mut records = reader.next(self.upstream.batch, WAIT).await?;
        let read = tokio::time::Instant::now();
        for _ in 1..READS_PER_BATCH_MAX {
            if records.len() % self.upstream.batch != 0 || records.is_empty() {
                break;
            }
            records.extend(reader.next(self.upstream.batch, Duration::ZERO).await?);
        }
        let behind = records.len() == self.upstream.batch * READS_PER_BATCH_MAX;
        self.next_read = if behind { read } else { read + self.upstream.pace };
        if let Some(last) = records.last() {
            self.position = last.offset as u64 + 1;
            self.distribute(records).await;
        }
        self.tell_movers().await;
        if self.shown.elapsed() >= SHOWN_EVERY {
            self.show().await;
        }
        Ok(())
    }

    async fn open(&mut self) -> Result<(), BusError> {
        let from = self.subscribers.values().map(|subscriber| subscriber.next).min().unwrap_or(0);
        let (topic, source) = (self.upstream.topic.clone(), self.source as i32);
        let marks = self.upstream.bus.admin().watermarks(&topic, source).await?;
        if (marks.low as u64) > from && from > 0 {
            // Retention is far longer than any outage that was planned for; say it as loudly as can be.
            tracing::error!(
                source,
                from,
                low = marks.low,
                "messages were deleted from the upstream topic before they were sequenced"
            );
        }
        let mut from = from.max(marks.low as u64);
        if from > marks.high as u64 {
            tracing::error!(
                source,
                from,
                high = marks.high,
                "the upstream topic was made anew: it is read from its beginning"
            );
            from = marks.low as u64;
            self.subscribers.values_mut().for_each(|subscriber| subscriber.next = from);
        }
        self.reader = Some(self.upstream.bus.open(&topic, source, Start::Offset(from as i64))?);
        self.position = from;
        Ok(())
    }

    async fn distribute(&mut self, records: Vec<Record>) {
        let mut parts: HashMap<PartitionId, Vec<Record>> = HashMap::new();
        for record in records {
            let partition = self.partition_of(&record);
            if self.subscribers.get(&partition).is_some_and(|subscriber| record.offset as u64 >= subscriber.next) {
                parts.entry(partition).or_default().push(record);
            }
        }
        for (partition, records) in parts {
            let Some(subscriber) = self.subscribers.get_mut(&partition) else { continue };
            subscriber.next = self.position;
            // Waits while it pauses; fails when it is gone.
            let _ = subscriber.feed.send(Batch { records, upto: self.position }).await;
        }
    }

    /// A partition whose messages stand elsewhere now leaves this source at its barrier, and must hear that the source came
    /// so far even if no record of its own is the last one before it.
    async fn tell_movers(&mut self) {
        let mapping = self.upstream.mapping.borrow().clone();
        for (partition, subscriber) in &mut self.subscribers {
            if mapping.source_of(*partition) != self.source && subscriber.next < self.position {
                subscriber.next = self.position;
                let _ = subscriber.feed.send(Batch { records: Vec::new(), upto: self.position }).await;
            }
        }
    }

    /// Whose record it is. What belongs into another source is the affair of the partition that is numbered like this one.
    fn partition_of(&self, record: &Record) -> PartitionId {
        let keyed = || std::str::from_utf8(record.key.as_deref()?).ok()?.parse::<StreamKey>().ok();
        let stream =
            if forms::is_keyed(record) { keyed() } else { forms::decode(record).ok().map(|push| stream_of(&push)) };
        let home = stream.map(|stream| PartitionId::of(&stream, self.upstream.partitions));
        match home {
            Some(home) if self.upstream.mapping.borrow().source_of(home) == self.source => home,
            Some(home) if self.upstream.mapping.borrow().comes_from(home, self.source, record.offset as u64) => home,
            _ => PartitionId(self.source),
        }
    }

    /// Where this source stands, for Kafka's tools and our metrics. Only shown: the truth is in the store.
    async fn show(&mut self) {
        self.shown = tokio::time::Instant::now();
        let place = |subscriber: &Subscriber| {
            let done = subscriber.done.load(Ordering::Acquire);
            if done >= subscriber.next { self.position } else { done }
        };
        let Some(next) = self.subscribers.values().map(place).min() else { return };
        let admin = self.upstream.bus.admin();
        let topic = &self.upstream.topic;
        if let Ok(marks) = admin.watermarks(topic, self.source as i32).await {
            let behind = (marks.high as u64).saturating_sub(next);
            let mut all = self.upstream.lag.behind.lock().unwrap_or_else(PoisonError::into_inner);
            all.insert(self.source, behind);
        }
        if self.subscribers.contains_key(&PartitionId(self.source))
            && let Err(error) = admin.set_committed(LOGIC_GROUP, topic, vec![(self.source as i32, next as i64)]).await
        {
            tracing::debug!(%error, "the place in the upstream topic is not shown");
        }
    }
}
