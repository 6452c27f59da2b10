//! What retention took from the store, read from the long history (`message-history`) as long as that keeps it: the third tier
//! of a pull, behind the cache and the store.
//!
//! Where a stream's message stands there is not known by its seq, but roughly by its time. So retention lays a trail in the
//! store: the seq and the time of a message now and then ([`Trail`]). A pull begins at the nearest one before what it wants, and
//! looks through what follows, of whichever streams.
//!
//! Invariants:
//! * Only what the reader may see: the owner answered the pull first, and the reader's floor is held against what is older.
//! * A page is joined to that of the store only if they meet, and if the store begins where it did when it was asked.
//! * A seq is left out only if its copy is in no place where it can be: before it stands the beginning of the topic, or records
//!   that were told after it. Whoever reaches a bound before is told so, and goes on from there when it asks again.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidegate_bus::history::{self, Begin, Scan};
use tidegate_bus::port::{Bus, BusError, Record};
use tidegate_bus::records::{Downstream, Form as _};
use tidegate_control_core::domain::names::EVERYBODY;
use tidegate_control_core::domain::{Body, Epoch, ErrorCode, MessageId, Refusal, Seq, StreamKey, Timestamp, Uid};
use tidegate_control_core::partition::{Command, GroupHistory, Reply, limits};
use tidegate_control_core::ports::{Head, Page, StoreError, StoreReader, Stored};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::forms;
use crate::api::auth::now_ms;
use crate::cache::bounded::Tally;
use crate::runtime::Answer;

/// By how much clocks of owners may differ, or a message be older than its record.
const CLOCKS_MS: i64 = 60_000;
/// So many records after a hole nothing can come that belongs into it: what was told again after a failure is less.
const HOLE_RECORDS: usize = 2_000;
/// Places that are remembered for those who ask again; past that all are forgotten, which costs time and nothing else.
const REACHED_MAX: usize = 4_096;
const RETRY_AFTER_MS: u32 = 200;

/// A store that knows the way to what it has no more.
pub(crate) trait Trail: StoreReader {
    /// A trimmed message that is not after this one, as near as is known, otherwise the nearest that is, with its time; `None`:
    /// nothing is known of it.
    fn trail(&self, stream: &StreamKey, epoch: Epoch, at: Seq) -> Result<Option<(Seq, Timestamp)>, StoreError>;
}

/// What one pull may cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Records, of any stream.
    pub records: usize,
    /// Records without one of the stream after which it is looked whether the trail leads further.
    pub quiet: usize,
    pub patience: Duration,
    /// Pulls at once; others wait for their turn, and no longer than their patience.
    pub at_once: usize,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds { records: 100_000, quiet: 5_000, patience: Duration::from_secs(3), at_once: 4 }
    }
}

pub(crate) struct Older {
    bus: Arc<dyn Bus>,
    topic: String,
    store: Arc<dyn Trail>,
    group_history: GroupHistory,
    bounds: Bounds,
    turns: Semaphore,
    /// Up to where nothing of a stream from this seq on was met, by the topic's partition.
    reached: Mutex<HashMap<(StreamKey, Epoch, Seq, i32), i64>>,
    /// Pulls that got something, and those for whom nothing was there.
    tally: Tally,
}

/// A pull that may lead beyond the store.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    uid: Option<Uid>,
    stream: StreamKey,
    after: Seq,
    limit: usize,
}

impl Asked {
    /// `None`: another command, or one that begins at a time, which the store says.
    pub fn of(command: &Command) -> Option<Asked> {
        let Command::Pull { uid, stream, after, since_ts: None, limit, .. } = command else { return None };
        let limit = if *limit == 0 { limits::PULL_MESSAGES_MAX } else { (*limit).min(limits::PULL_MESSAGES_MAX) };
        Some(Asked { uid: uid.clone(), stream: stream.clone(), after: *after, limit })
    }
}

/// A part of a stream that the store does not have: `(after, upto]`.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    epoch: Epoch,
    after: Seq,
    upto: Seq,
    limit: usize,
}

impl Older {
    pub fn new(
        bus: Arc<dyn Bus>,
        topic: String,
        store: Arc<dyn Trail>,
        group_history: GroupHistory,
        tally: Tally,
    ) -> Older {
        let bounds = Bounds::default();
        Older {
            bus,
            topic,
            store,
            group_history,
            bounds,
            turns: Semaphore::new(bounds.at_once),
            reached: Mutex::default(),
            tally,
        }
    }

    #[cfg(test)]
    fn bounded(self, bounds: Bounds) -> Older {
        Older { bounds, turns: Semaphore::new(bounds.at_once), ..self }
    }

    /// The answer to a pull with what is before it, if the store has lost the beginning. Errors: UNAVAILABLE if the store or the
    /// bus is, or if the bounds were reached before anything was found: asked again, it goes on from there.
    pub async fn complete(&self, asked: &Asked, answer: Answer) -> Answer {
        match answer {
            Ok(Reply::Page { stream, page, head }) if asked.after.next() < head.first => {
                let page = self.before(asked, head, page).await?;
                Ok(Reply::Page { stream, page, head })
            }
            answer => answer,
        }
    }

    async fn before(&self, asked: &Asked, head: Head, page: Page) -> Result<Page, Refusal> {
        let upto = Seq(head.first.0 - 1);
        let after = asked.after.max(self.floor(asked, head).await?);
        if after >= upto {
            return Ok(page);
        }
        let wanted = Wanted { epoch: head.epoch, after, upto, limit: asked.limit };
        let turn = tokio::time::timeout(self.bounds.patience, self.turns.acquire()).await;
        let Ok(Ok(_turn)) = turn else { return Err(later("too many read the long history now")) };
        let found = self.find(&asked.stream, wanted).await?;
        if found.messages.is_empty() {
            self.tally.misses.inc();
        } else {
            self.tally.hits.inc();
        }
        let mut older = Page { after: asked.after, upto: found.upto(), messages: found.into_messages() };
        // Retention may have gone on meanwhile: then what follows is asked for next.
        if older.upto == upto && self.head(&asked.stream).await?.is_some_and(|now| now.first <= head.first) {
            join(&mut older, page, asked.limit);
        }
        Ok(older)
    }

    /// What is up to here is not for this reader, whatever was kept of it.
    async fn floor(&self, asked: &Asked, head: Head) -> Result<Seq, Refusal> {
        let (Some(uid), Some(gid)) = (&asked.uid, asked.stream.gid()) else { return Ok(Seq::ZERO) };
        if self.group_history == GroupHistory::All || asked.stream.as_str() == EVERYBODY {
            return Ok(Seq::ZERO);
        }
        let uid = uid.clone();
        let (group, member) = self
            .ask(move |store| match store.group(&gid)? {
                Some(group) if !group.open => Ok((Some(group), store.member(&gid, &uid)?)),
                group => Ok((group, None)),
            })
            .await?;
        Ok(match (group, member) {
            (Some(group), None) if group.open && group.epoch == head.epoch => Seq::ZERO,
            (Some(group), Some(member)) if group.epoch == head.epoch => Seq(member.joined.0.saturating_sub(1)),
            // The group has changed since its owner answered.
            _ => head.first,
        })
    }

    async fn find(&self, stream: &StreamKey, wanted: Wanted) -> Result<Found, Refusal> {
        let deadline = Instant::now() + self.bounds.patience;
        let mut found = Found::new(wanted);
        let (mut left, mut position) = (self.bounds.records, None);
        let key = stream.as_str().as_bytes();
        let mut partition = None;
        while !found.is_done() {
            let next = found.next;
            let (of, epoch) = (stream.clone(), wanted.epoch);
            let Some((mark, time)) = self.ask(move |store| store.trail(&of, epoch, next)).await? else {
                found.end();
                break;
            };
            if mark > found.next {
                // Of what is before nothing is known: the topic does not have it any more, or never had.
                found.pass_to(mark);
                continue;
            }
            let home = match partition {
                Some(home) => home,
                None => history::home(&*self.bus, &self.topic, key).await.map_err(|error| self.away(&error))?,
            };
            partition = Some(home);
            let begin = match (position, self.reached(stream, epoch, next, home)) {
                (None, Some(reached)) => Begin::Offset(reached),
                (None, None) => Begin::Time(time.0 - CLOCKS_MS),
                (Some(position), _) => self.further(home, time, position).await.map_err(|error| self.away(&error))?,
            };
            let mut quiet = 0;
            let way = Scan { topic: &self.topic, partition: home, begin, scan_max: left };
            let scan = history::scan(&*self.bus, &way, |record| {
                (left, position) = (left - 1, Some(record.offset + 1));
                let ours = (record.key.as_deref() == Some(key)).then(|| stored(stream, epoch, &record)).flatten();
                quiet = if ours.is_some() { 0 } else { quiet + 1 };
                found.look(ours, record.offset);
                let elsewhere = quiet >= self.bounds.quiet && found.next > next;
                if found.is_done() || elsewhere { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            let scanned = tokio::time::timeout_at(deadline, scan).await;
            match scanned {
                Ok(Ok(None)) => found.end(),
                Ok(Ok(Some(_))) if left > 0 || found.is_done() => {}
                Ok(Ok(Some(_))) | Err(_) => {
                    self.reach(stream, &found, home);
                    return if found.messages.is_empty() { Err(self.far(found.next)) } else { Ok(found) };
                }
                Ok(Err(error)) => return Err(self.away(&error)),
            }
        }
        if let Some(home) = partition {
            self.reach(stream, &found, home);
        }
        Ok(found)
    }

    /// Where to go on: where the trail leads, if that is later.
    async fn further(&self, partition: i32, time: Timestamp, position: i64) -> Result<Begin, BusError> {
        let offsets = self.bus.admin().offsets_at(&self.topic, time.0 - CLOCKS_MS).await?;
        let at = offsets.iter().find(|(known, _)| *known == partition).map_or(position, |(_, offset)| *offset);
        Ok(Begin::Offset(at.max(position)))
    }

    async fn head(&self, stream: &StreamKey) -> Result<Option<Head>, Refusal> {
        let stream = stream.clone();
        self.ask(move |store| store.head(&stream)).await
    }

    async fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&dyn Trail) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Refusal> {
        let store = Arc::clone(&self.store);
        match tokio::task::spawn_blocking(move || ask(&*store)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                tracing::warn!(%error, "the way to the long history cannot be asked for");
                Err(later("the store does not answer"))
            }
            Err(_) => Err(crate::runtime::stopped()),
        }
    }

    fn reached(&self, stream: &StreamKey, epoch: Epoch, next: Seq, partition: i32) -> Option<i64> {
        self.places().get(&(stream.clone(), epoch, next, partition)).copied()
    }

    /// Remembers where the next pull goes on.
    fn reach(&self, stream: &StreamKey, found: &Found, partition: i32) {
        let Some(offset) = found.resume.filter(|_| found.next <= found.wanted.upto) else { return };
        let mut reached = self.places();
        if reached.len() >= REACHED_MAX {
            reached.clear();
        }
        reached.insert((stream.clone(), found.wanted.epoch, found.next, partition), offset);
    }

    fn places(&self) -> std::sync::MutexGuard<'_, HashMap<(StreamKey, Epoch, Seq, i32), i64>> {
        // Nothing panics half-way through a change.
        self.reached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn away(&self, error: &BusError) -> Refusal {
        tracing::warn!(%error, topic = self.topic, "the long history cannot be read");
        later("the long history cannot be read now")
    }

    fn far(&self, next: Seq) -> Refusal {
        later(&format!("message {} is looked for in the long history: ask again to go on", next.0))
    }
}

fn later(why: &str) -> Refusal {
    let mut refusal = Refusal::new(ErrorCode::Unavailable, why);
    refusal.retry_after_ms = Some(RETRY_AFTER_MS);
    refusal
}

/// Puts a page of the store behind one that ends where it begins, as far as there is room.
fn join(older: &mut Page, page: Page, limit: usize) {
    let mut bytes: usize = older.messages.iter().map(size).sum();
    for message in page.messages {
        bytes += size(&message);
        if older.messages.len() >= limit || (bytes > limits::PULL_BYTES_MAX && !older.messages.is_empty()) {
            return;
        }
        older.upto = message.seq;
        older.messages.push(message);
    }
    older.upto = older.upto.max(page.upto);
}

fn size(stored: &Stored) -> usize {
    stored.body.content.len() + stored.body.metadata.len()
}

/// What was found of a range so far.
struct Found {
    /// Everything before it is in `messages`, or is nowhere.
    next: Seq,
    wanted: Wanted,
    messages: Vec<Stored>,
    bytes: usize,
    /// Met before what comes before them.
    ahead: BTreeMap<Seq, Stored>,
    /// Records since something was met that comes after what is missing.
    hole: Option<usize>,
    /// From this offset on stands all that is not in `messages`.
    resume: Option<i64>,
    full: bool,
}

impl Found {
    fn new(wanted: Wanted) -> Found {
        let (next, messages, ahead) = (wanted.after.next(), Vec::new(), BTreeMap::new());
        Found { next, wanted, messages, bytes: 0, ahead, hole: None, resume: None, full: false }
    }

    fn is_done(&self) -> bool {
        self.full || self.next > self.wanted.upto
    }

    /// Covered up to here.
    fn upto(&self) -> Seq {
        Seq(self.next.0 - 1)
    }

    fn into_messages(self) -> Vec<Stored> {
        let now = now_ms();
        let lives = |message: &Stored| message.body.expires.is_none_or(|expires| expires.0 > now);
        self.messages.into_iter().filter(lives).collect()
    }

    /// Takes the next record in; `None`: somebody else's.
    fn look(&mut self, ours: Option<Stored>, offset: i64) {
        self.resume.get_or_insert(offset);
        if let Some(stored) = ours
            && stored.seq >= self.next
        {
            // Also what is after the range says that what is missing should have come.
            self.hole.get_or_insert(0);
            if stored.seq <= self.wanted.upto {
                self.ahead.entry(stored.seq).or_insert(stored);
            }
        }
        self.drain();
        if let Some(since) = &mut self.hole {
            *since += 1;
            if *since > HOLE_RECORDS {
                self.pass_over();
            }
        }
        if self.hole.is_none() && self.ahead.is_empty() {
            self.resume = Some(offset + 1);
        }
    }

    /// What is next, as long as it is there.
    fn drain(&mut self) {
        while !self.full
            && let Some(stored) = self.ahead.remove(&self.next)
        {
            self.bytes += size(&stored);
            if self.bytes > limits::PULL_BYTES_MAX && !self.messages.is_empty() {
                self.ahead.insert(stored.seq, stored);
                self.full = true;
                return;
            }
            self.next = self.next.next();
            self.messages.push(stored);
            self.full = self.messages.len() >= self.wanted.limit;
            self.hole = (!self.ahead.is_empty()).then_some(0);
        }
    }

    /// What is missing does not come.
    fn pass_over(&mut self) {
        self.next = self.ahead.keys().next().copied().unwrap_or(self.wanted.upto.next());
        self.hole = None;
        self.drain();
    }

    /// Nothing is known of what is before this one.
    fn pass_to(&mut self, seq: Seq) {
        self.next = seq.min(self.wanted.upto.next()).max(self.next);
    }

    /// Nothing more comes.
    fn end(&mut self) {
        while !self.is_done() {
            self.pass_over();
        }
    }
}

/// A record of this stream in this epoch; `None`: another one, or something that is no message.
fn stored(stream: &StreamKey, epoch: Epoch, record: &Record) -> Option<Stored> {
    let told = Downstream::decode(&record.value).ok()?;
    if told.stream != stream.as_str() || told.epoch.parse().ok() != Some(epoch) || told.seq == 0 {
        return None;
    }
    let conversation = match told.conv_seq {
        0 => None,
        seq => Some((told.conversation_id.parse().ok()?, Seq(seq))),
    };
    let body = Body {
        id: MessageId(told.message_id.parse().ok()?),
        from: told.from_user_id.into(),
        to: told.to_user_id.into(),
        client_msg_id: told.client_msg_id.into(),
        kind: told.message_type.into(),
        title: told.title.into(),
        content: forms::content_of(told.content, told.content_bytes),
        metadata: told.metadata.into(),
        ts: Timestamp(told.timestamp),
        priority: forms::priority_of(told.priority),
        expires: (told.expires != 0).then_some(Timestamp(told.expires)),
        platforms: told.platforms.into_iter().map(Into::into).collect(),
    };
    Some(Stored { seq: Seq(told.seq), body: Arc::new(body), conversation })
}

#[cfg(test)]
mod tests;
