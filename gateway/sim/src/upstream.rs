//! The upstream log, which every durable push goes through where there are several partitions. Who takes a push in appends it;
//! the owner of its partition reads from the place that its store keeps; what became of it goes back to who waits, and who
//! waits too long is told that it is queued.

use std::collections::{BTreeMap, BTreeSet};

use tidegate_control_core::domain::{Content, ErrorCode, PartitionId, Refusal, Timestamp};
use tidegate_control_core::partition::{Clock, PartitionConfig, Push, Reply, stream_of};

use crate::control::{EPOCH_MS, Waiter};
use crate::planted::Seam;
use crate::rng::Rng;
use crate::script::MS;
use crate::truth::{Truth, text};

/// What goes wrong between who takes a push in and who sequences it, in cases of 1,000.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// The log takes nothing, and says so.
    pub refuses: u64,
    /// Nobody hears whether the log took it.
    pub times_out: u64,
    /// What became of it is lost on its way back.
    pub results_lost: u64,
    /// Who takes it in has no number to give ids with.
    pub nameless: u64,
    /// Longest patience of who waits, in milliseconds.
    pub patience_ms: u64,
}

pub struct Upstream {
    sources: Vec<Vec<Appended>>,
    waiting: BTreeMap<u64, Waiting>,
    /// What happens next, by time and number.
    due: BTreeMap<(u64, u64), Due>,
    numbers: u64,
    partitions: u32,
    ids: Clock,
    pub faults: Faults,
    seam: Option<Seam>,
    rng: Rng,
}

/// One push in the log.
pub struct Appended {
    pub push: Push,
    pub home: PartitionId,
    corr: u64,
    /// When a reader sees it.
    at: u64,
    /// What its sequencer said of it last, if that was heard.
    refused: Option<bool>,
}

enum Due {
    Append(u64, Box<Push>),
    Result(u64, Result<Reply, Refusal>),
    Impatient(u64),
}

struct Waiting {
    who: Waiter,
    placed: bool,
}

/// What who waits is told.
pub enum Told {
    Answer(Result<Reply, Refusal>),
    /// It may have been appended.
    Unknown,
}

/// Whoever has no place is told to ask again with the same key.
pub fn late() -> Refusal {
    Refusal::new(ErrorCode::Unavailable, "not stored yet; the outcome is unknown, ask again with the same key")
}

impl Upstream {
    pub fn new((partitions, sources): (u32, u32), faults: Faults, seam: Option<Seam>, rng: Rng) -> Upstream {
        Upstream {
            sources: (0..sources).map(|_| Vec::new()).collect(),
            waiting: BTreeMap::new(),
            due: BTreeMap::new(),
            numbers: 0,
            partitions,
            ids: Clock::new(PartitionConfig::WORKER_MAX, Timestamp(EPOCH_MS)),
            faults,
            seam,
            rng,
        }
    }

    pub fn source_of(&self, partition: u32) -> u32 {
        partition % self.sources.len().max(1) as u32
    }

    /// All that stands there is gone, and so is who waited.
    pub fn lose(&mut self) -> Vec<Waiter> {
        self.sources.iter_mut().for_each(Vec::clear);
        self.due.clear();
        std::mem::take(&mut self.waiting).into_values().map(|waiting| waiting.who).collect()
    }

    /// Takes a push in.
    pub fn take(&mut self, now: u64, mut push: Box<Push>, who: Waiter) {
        let corr = self.number();
        if push.message_id.is_none() {
            let named = !self.rng.chance(self.faults.nameless);
            push.id = named.then(|| self.ids.stamp(Timestamp(EPOCH_MS + (now / MS) as i64)).0);
            if !named && push.sender.is_none() {
                push.message_id = Some(format!("front#{corr}").into());
            }
        }
        let placed = self.seam == Some(Seam::QueuedUnplaced);
        self.waiting.insert(corr, Waiting { who, placed });
        let (at, patience) = (self.rng.between(50_000, 2 * MS), self.rng.between(5, self.faults.patience_ms.max(5)));
        self.put(now + at, Due::Append(corr, push));
        self.put(now + patience * MS, Due::Impatient(corr));
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn put(&mut self, at: u64, due: Due) {
        let number = self.number();
        self.due.insert((at, number), due);
    }

    pub fn wakes_at(&self) -> Option<u64> {
        self.due.first_key_value().map(|((at, _), _)| *at)
    }

    /// Whatever is due. Returns who is told what, and the sources that have something new.
    pub fn turn(&mut self, now: u64) -> (Vec<(Waiter, Told)>, BTreeSet<u32>) {
        let (mut told, mut fresh) = (Vec::new(), BTreeSet::new());
        while let Some(entry) = self.due.first_entry().filter(|entry| entry.key().0 <= now) {
            match entry.remove() {
                Due::Append(corr, push) => self.append(now, corr, push, &mut told, &mut fresh),
                Due::Result(corr, result) => {
                    let waiting = self.waiting.remove(&corr);
                    told.extend(waiting.map(|waiting| (waiting.who, Told::Answer(result))));
                }
                Due::Impatient(corr) => {
                    if let Some(Waiting { who, placed }) = self.waiting.remove(&corr) {
                        let queued = Told::Answer(Ok(Reply::Queued { id: None }));
                        told.push((who, if placed { queued } else { Told::Unknown }));
                    }
                }
            }
        }
        (told, fresh)
    }

    fn append(
        &mut self,
        now: u64,
        corr: u64,
        push: Box<Push>,
        told: &mut Vec<(Waiter, Told)>,
        fresh: &mut BTreeSet<u32>,
    ) {
        let lies = self.waiting.get(&corr).is_some_and(|waiting| waiting.placed);
        if self.rng.chance(self.faults.refuses) {
            if !lies && let Some(waiting) = self.waiting.remove(&corr) {
                let refusal = Refusal::new(ErrorCode::Unavailable, "the message bus takes nothing now");
                told.push((waiting.who, Told::Answer(Err(refusal))));
            }
            return;
        }
        let heard = !self.rng.chance(self.faults.times_out);
        match self.waiting.get_mut(&corr) {
            Some(waiting) if heard => waiting.placed = true,
            _ => told.extend(self.waiting.remove(&corr).map(|waiting| (waiting.who, Told::Unknown))),
        }
        if !heard && self.rng.chance(500) {
            return;
        }
        let home = PartitionId::of(&stream_of(&push), self.partitions);
        let source = self.source_of(home.0);
        let at = now + self.rng.between(50_000, 2 * MS);
        let log = &mut self.sources[source as usize];
        let at = log.last().map_or(at, |last| at.max(last.at));
        log.push(Appended { push: *push, home, corr, at, refused: None });
        fresh.insert(source);
    }

    /// What a reader sees from there on, at most so much.
    pub fn read(&self, now: u64, source: u32, next: u64, most: usize) -> &[Appended] {
        let rest = self.sources[source as usize].get(next as usize..).unwrap_or_default();
        let seen = rest.iter().take(most).take_while(|appended| appended.at <= now).count();
        &rest[..seen]
    }

    /// When there is something to read from there on.
    pub fn ready_at(&self, source: u32, next: u64) -> Option<u64> {
        self.sources[source as usize].get(next as usize).map(|appended| appended.at)
    }

    /// A sequencer says what became of what stands there.
    pub fn sequenced(&mut self, now: u64, (source, offset): (u32, u64), result: Result<Reply, Refusal>) {
        let Some(appended) = self.sources[source as usize].get_mut(offset as usize) else { return };
        appended.refused = Some(result.is_err());
        let corr = appended.corr;
        if !self.rng.chance(self.faults.results_lost) {
            let at = now + self.rng.between(50_000, 2 * MS);
            self.put(at, Due::Result(corr, result));
        }
    }

    pub fn is_idle(&self) -> bool {
        self.due.is_empty()
    }

    /// What somebody was told is queued stands in the log.
    pub fn has(&self, said: &str) -> bool {
        self.sources.iter().flatten().any(|appended| content(&appended.push) == said)
    }

    /// Each was sequenced once, in the order in which they stand here.
    pub fn judge(&self, truth: &Truth) -> Result<(), String> {
        let mut places: BTreeMap<(String, &str), Vec<usize>> = BTreeMap::new();
        for (offset, appended) in self.sources.iter().flat_map(|log| log.iter().enumerate()) {
            places.entry((stream_of(&appended.push).to_string(), content(&appended.push))).or_default().push(offset);
        }
        let mut standing: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for ((stream, _), history) in truth.lives.iter().filter(|(_, history)| history.disk == truth.disk()) {
            let mut last = None;
            for (_, body) in &history.messages {
                let Some(offsets) = places.get(&(stream.clone(), text(body))) else { continue };
                *standing.entry((stream, text(body))).or_default() += 1;
                last = offsets.iter().copied().find(|offset| last.is_none_or(|last| *offset > last));
                if last.is_none() {
                    return Err(format!("{stream}: {} stands out of the order of the upstream log", text(body)));
                }
            }
        }
        for appended in self.sources.iter().flatten() {
            let (to, said) = (stream_of(&appended.push).to_string(), content(&appended.push));
            let stands = standing.get(&(to.as_str(), said)).copied().unwrap_or(0);
            // Whoever wrote to a group that ended may have been refused by an owner that died before it could say so.
            let excused = appended.refused == Some(true) || (appended.refused.is_none() && to.starts_with("g:team"));
            if stands == 0 && !excused {
                return Err(format!("{said}: stands in the upstream log, and was never sequenced"));
            }
            if stands > places.get(&(to, said)).map_or(0, Vec::len) {
                return Err(format!("{said}: sequenced more often than it was appended"));
            }
        }
        Ok(())
    }
}

fn content(push: &Push) -> &str {
    match &push.content {
        Content::Text(text) => text,
        Content::Binary(_) => "",
    }
}
