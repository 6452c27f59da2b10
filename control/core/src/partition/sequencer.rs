//! The loop body: decide, commit once, then answer and route.
//!
//! Invariants:
//! * Nothing leaves before the commit of its batch returned, and a batch that failed for good answers nobody with OK.
//! * Decisions see all decisions before them, committed or of the same batch; no other decision is made while a commit is
//!   outstanding, so a batch can be committed again as it is.
//! * A command that is refused has changed nothing.

use super::access::Purpose;
use super::api::{Command, Input, Output, Push, Reply, Token};
use super::batch::{Batch, Effect};
use super::config::PartitionConfig;
use super::heads::Heads;
use super::ids::Clock;
use super::links::Links;
use super::stats::PartitionStats;
use crate::domain::{Epoch, ErrorCode, Lsn, PartitionId, Record, Refusal, Timestamp};
use crate::partition::api::Origin;
use crate::planted::{self, Bug};
use crate::ports::{MessageStore, Progress, StoreError};

/// Commits that may fail in a row before the batch is given up and its commands are refused with UNAVAILABLE.
pub const COMMIT_TRIES_MAX: u32 = 20;
/// The store's housekeeping runs once in so many milliseconds.
const MAINTAIN_EVERY_MS: i64 = 1_000;
/// Tokens of a group's epochs mix with these; see [`Partition::new_epoch`].
const EPOCH_MIX: [u64; 2] = [0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb];

/// The sequencer of one partition. It owns the store; readers have their own.
#[derive(Debug)]
pub struct Partition<S> {
    pub(super) store: S,
    pub(super) config: PartitionConfig,
    pub(super) origin: Origin,
    pub(super) clock: Clock,
    /// Wall-clock time of this call.
    pub(super) now: Timestamp,
    pub(super) heads: Heads,
    pub(super) batch: Batch,
    pub(super) links: Links,
    pub(super) stats: PartitionStats,
    /// Commits of the present batch that found the store unavailable.
    tries: u32,
    /// What the log owed to other partitions has arrived up to here; not committed yet.
    routed: Option<Lsn>,
    maintained: Timestamp,
}

/// Why a command cannot be carried out: its caller's affair, or the store's.
#[derive(Debug)]
pub(super) enum Denied {
    Refused(Refusal),
    Store(StoreError),
}

impl From<StoreError> for Denied {
    fn from(error: StoreError) -> Self {
        Denied::Store(error)
    }
}

impl From<Refusal> for Denied {
    fn from(refusal: Refusal) -> Self {
        Denied::Refused(refusal)
    }
}

impl Denied {
    /// A store that is away for a moment refuses the one command that needed it; worse ends the process.
    pub(super) fn into_refusal(self) -> Result<Refusal, StoreError> {
        match self {
            Denied::Refused(refusal) => Ok(refusal),
            Denied::Store(StoreError::Unavailable(_)) => Ok(unavailable()),
            Denied::Store(error) => Err(error),
        }
    }
}

pub(super) fn refused(code: ErrorCode, message: &'static str) -> Denied {
    Denied::Refused(Refusal::new(code, message))
}

pub(super) fn unavailable() -> Refusal {
    let mut refusal = Refusal::new(ErrorCode::Unavailable, "the store is unavailable");
    refusal.retry_after_ms = Some(500);
    refusal
}

impl<S: MessageStore> Partition<S> {
    /// `seed` is for hash tables alone: it changes no output.
    pub fn new(id: PartitionId, store: S, config: PartitionConfig, seed: u64) -> Result<Self, StoreError> {
        let origin = Origin { partition: id, history: store.base_epoch(), owner_epoch: store.owner_epoch() };
        let forgets = planted::is(Bug::ClockRunsBackwards);
        let last_timestamp = if forgets { Timestamp::default() } else { store.last_timestamp() };
        Ok(Partition {
            origin,
            clock: Clock::new(config.worker, last_timestamp),
            now: store.last_timestamp(),
            heads: Heads::new(config.heads_max, seed),
            batch: Batch::new(seed),
            links: Links::new(seed, config.interest_max),
            stats: PartitionStats::default(),
            tries: 0,
            routed: None,
            maintained: Timestamp::default(),
            store,
            config,
        })
    }

    /// Carries out one batch: all of `inputs`, in order, with at most one commit. The caller bounds the batch. `now` is
    /// wall-clock time; it may jump.
    ///
    /// * `Ok`: `inputs` is drained. Replies come in this call or, if the store was unavailable meanwhile, in a later one.
    /// * [`StoreError::Unavailable`]: the batch of this or an earlier call waits inside and is committed again, exactly as
    ///   decided, by the next call; nothing of it is answered yet and `inputs` of later calls stay where they are until
    ///   then. Or the store was away when an input had to be decided that cannot be refused: it and what follows it stay in
    ///   `inputs`. After [`COMMIT_TRIES_MAX`] failures all it changed in memory is undone and its commands are refused with
    ///   UNAVAILABLE; that call returns `Ok`.
    /// * Any other error: the process must end (or, if fenced, let go of the partition). `out` is as it was.
    pub fn handle(&mut self, now: Timestamp, inputs: &mut Vec<Input>, out: &mut Vec<Output>) -> Result<(), StoreError> {
        let before = out.len();
        self.now = now;
        let result = self.turn(inputs, out);
        if let Err(error) = &result
            && !matches!(error, StoreError::Unavailable(_))
        {
            out.truncate(before);
        }
        result
    }

    pub fn store(&self) -> &S {
        &self.store
    }

    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// There is work that needs no new input: a link that catches up. Call [`Partition::handle`] again soon.
    pub fn wants_turn(&self) -> bool {
        self.tries == 0 && self.links.want_turn()
    }

    pub fn stats(&self) -> PartitionStats {
        PartitionStats {
            links: self.links.len() as u64,
            interest: self.links.interest_len() as u64,
            heads: self.heads.len() as u64,
            ..self.stats
        }
    }

    fn turn(&mut self, inputs: &mut Vec<Input>, out: &mut Vec<Output>) -> Result<(), StoreError> {
        let waited = self.tries > 0;
        if waited {
            self.finish(out)?;
        }
        let decided = self.decide(inputs);
        if let Err(error @ (StoreError::Fatal(_) | StoreError::Fenced)) = decided {
            return Err(error);
        }
        let finished = self.finish(out);
        if let (Ok(()), Err(away)) = (&finished, decided) {
            // What was decided is out; the rest waits in `inputs`.
            return Err(away);
        }
        match finished {
            // What the earlier batch said has to get out; this one waits as that one did.
            Err(StoreError::Unavailable(_)) if waited => Ok(()),
            result => result,
        }
    }

    fn decide(&mut self, inputs: &mut Vec<Input>) -> Result<(), StoreError> {
        for (gateway, open) in self.links.take_deferred() {
            self.decide_open(gateway, open)?;
        }
        self.ask_ahead(inputs)?;
        let mut waiting = inputs.drain(..);
        while let Some(input) = waiting.next() {
            match input {
                Input::Appended { token, push, upto } => {
                    self.stats.commands += 1;
                    if let Err((error, push)) = self.decide_appended(token, push) {
                        let rest: Vec<Input> =
                            std::iter::once(Input::Appended { token, push, upto }).chain(waiting).collect();
                        inputs.extend(rest);
                        return Err(error);
                    }
                    self.batch.progress.advance(Progress { consumed: Some(upto), routed: None });
                }
                Input::Command { token, command } => {
                    self.stats.commands += 1;
                    let records = self.batch.records.len();
                    if let Err(denied) = self.decide_command(token, command) {
                        debug_assert_eq!(records, self.batch.records.len(), "a refused command left records");
                        self.batch.reply(token, Err(denied.into_refusal()?));
                    }
                }
                Input::Open { gateway, open } => {
                    self.stats.opens += 1;
                    self.decide_open(gateway, open)?;
                }
                Input::Tick => self.batch.tick = true,
                Input::Consumed(consumed) => {
                    self.batch.progress.advance(Progress { consumed: Some(consumed), routed: None });
                }
                Input::Routed(lsn) => self.routed = Some(lsn).max(self.routed),
                input => {
                    let before = self.batch.records.len() as u32;
                    self.batch.effects.push(Effect::Link { input, before });
                }
            }
        }
        Ok(())
    }

    /// An error hands the push back: nothing of it was decided.
    fn decide_appended(&mut self, token: Token, push: Box<Push>) -> Result<(), (StoreError, Box<Push>)> {
        // A look-up may fail half-way, and then the push is needed again.
        let again = push.clone();
        match self.decide_push(token, *push) {
            Ok(()) => Ok(()),
            Err(Denied::Refused(refusal)) => {
                self.batch.reply(token, Err(refusal));
                Ok(())
            }
            Err(Denied::Store(error)) => Err((error, again)),
        }
    }

    fn decide_command(&mut self, token: Token, command: Command) -> Result<(), Denied> {
        match command {
            Command::Push(push) => self.decide_push(token, *push),
            Command::CreateGroup { gid, name, open, creator, members } => {
                self.decide_create_group(token, gid, name, open, creator, members)
            }
            Command::AddMember { gid, uid, by } => self.decide_add_member(token, gid, uid, by),
            Command::RemoveMember { gid, uid, by } => self.decide_remove_member(token, gid, uid, by),
            Command::DismissGroup { gid, by } => self.decide_dismiss_group(token, gid, by),
            Command::Ack { uid, device, stream, epoch, seq } => self.decide_ack(token, uid, device, stream, epoch, seq),
            Command::Read { uid, stream, epoch, seq } => self.decide_read(token, uid, stream, epoch, seq),
            Command::Pull { uid, stream, epoch, after, since_ts, limit } => {
                let view = self.view(uid.as_ref(), &stream, Purpose::Read)?;
                self.decide_pull(token, view, epoch, after, since_ts, limit);
                Ok(())
            }
            Command::Heads { uid, streams } => self.decide_heads(token, uid, streams),
            Command::Errand(errand) => self.decide_errand(token, errand),
        }
    }

    /// Commits the decided batch and does what follows from it.
    fn finish(&mut self, out: &mut Vec<Output>) -> Result<(), StoreError> {
        let records = self.batch.records.len() as u64;
        if records > 0 || (self.batch.tick && elapsed(self.maintained, self.now, MAINTAIN_EVERY_MS)) {
            // Not worth a commit of its own before the next tick: what it spares a successor is work, not errors.
            self.batch.progress.advance(Progress { consumed: None, routed: self.routed });
        }
        let last = match self.batch.records.is_empty() && self.batch.progress.is_empty() {
            true => self.store.last_lsn(),
            false => match self.store.commit_with(&self.batch.records, self.batch.progress) {
                Ok(last) => last,
                Err(StoreError::Unavailable(why)) => return self.put_off(why, out),
                Err(error) => return Err(error),
            },
        };
        if self.routed <= self.batch.progress.routed {
            self.routed = None;
        }
        self.tries = 0;
        self.heads.commit();
        if records > 0 {
            self.stats.records += records;
            self.stats.batches += 1;
            self.stats.batch_records_max = self.stats.batch_records_max.max(records);
        }
        self.links.begin_turn();
        let mut batch = std::mem::replace(&mut self.batch, Batch::new(0));
        let before = Lsn(last.0 - records);
        for effect in batch.effects.drain(..) {
            self.perform(effect, &batch.records, &batch.hashes, before, out)?;
        }
        self.finish_turn(batch, last, out)
    }

    fn put_off(&mut self, why: Box<str>, out: &mut Vec<Output>) -> Result<(), StoreError> {
        self.stats.commits_unavailable += 1;
        self.tries += 1;
        // What was read from the upstream topic cannot be refused: it is durable there, and what follows it must not overtake.
        if self.tries < COMMIT_TRIES_MAX || self.batch.progress.consumed.is_some() {
            return Err(StoreError::Unavailable(why));
        }
        self.tries = 0;
        if planted::is(Bug::AbandonedSeqBlock) {
            self.heads.commit();
        } else {
            self.heads.rollback();
        }
        self.links.begin_turn();
        let mut batch = std::mem::replace(&mut self.batch, Batch::new(0));
        let last = self.store.last_lsn();
        for effect in batch.effects.drain(..) {
            self.give_up(effect, last, out);
        }
        self.finish_turn(batch, last, out)
    }

    fn finish_turn(&mut self, mut batch: Batch, last: Lsn, out: &mut Vec<Output>) -> Result<(), StoreError> {
        let tick = batch.tick;
        batch.clear();
        self.batch = batch;
        self.catch_up(last, out)?;
        if tick {
            self.links.positions(self.now, last, out);
            self.maintain()?;
        }
        Ok(())
    }

    fn perform(
        &mut self,
        effect: Effect,
        records: &[Record],
        hashes: &[u64],
        before: Lsn,
        out: &mut Vec<Output>,
    ) -> Result<(), StoreError> {
        let lsn_of = |record: u32| Lsn(before.0 + u64::from(record) + 1);
        match effect {
            Effect::Reply { token, result } => self.answer(token, result, out),
            Effect::Route { record, hashes: at } => {
                if let Record::Append(append) = &records[record as usize] {
                    let hashes = &hashes[at as usize..at as usize + append.places.len()];
                    self.links.route(lsn_of(record), append, hashes, &mut self.stats, out);
                }
            }
            Effect::Ephemeral { stream, hash, epoch, body } => {
                self.links.route_ephemeral(&stream, hash, epoch, &body, &mut self.stats, out);
            }
            Effect::Dismissed { record, seq, hash, members } => {
                if let Record::Group(change) = &records[record as usize] {
                    let lsn = lsn_of(record);
                    self.links.route_dismissal(lsn, change, seq, hash, &members, &mut self.stats, out);
                }
            }
            Effect::Pull { token, pull } => {
                let result = refuse_unavailable(self.pull(*pull))?;
                self.answer(token, result, out);
            }
            Effect::Heads { token, views } => {
                let result = refuse_unavailable(self.heads_of(views))?;
                self.answer(token, result, out);
            }
            Effect::Open(opening) => self.open(*opening, out)?,
            Effect::Errands { record } => self.perform_errands(lsn_of(record), &records[record as usize], out),
            Effect::Joined { record } => {
                if let Record::Joined(joined) = &records[record as usize] {
                    self.links.route_joined(lsn_of(record), joined, &mut self.stats, out);
                }
            }
            Effect::Link { input, before: records } => {
                let at = Lsn(before.0 + u64::from(records));
                self.links.input(input, self.origin.owner_epoch, at, &mut self.stats, out);
            }
        }
        Ok(())
    }

    /// The effect of a batch that never became durable.
    fn give_up(&mut self, effect: Effect, last: Lsn, out: &mut Vec<Output>) {
        match effect {
            Effect::Reply { token, result } => {
                let result = match planted::is(Bug::OkWithoutCommit) {
                    true => result,
                    false => result.and_then(|_| Err(unavailable())),
                };
                self.answer(token, result, out);
            }
            Effect::Pull { token, .. } | Effect::Heads { token, .. } => self.answer(token, Err(unavailable()), out),
            Effect::Open(opening) => {
                if let Some(slot) = self.links.slot(opening.gateway) {
                    self.defer_open(slot, opening.open, out);
                }
            }
            Effect::Link { input, .. } => {
                self.links.input(input, self.origin.owner_epoch, last, &mut self.stats, out);
            }
            Effect::Route { .. }
            | Effect::Ephemeral { .. }
            | Effect::Dismissed { .. }
            | Effect::Errands { .. }
            | Effect::Joined { .. } => {}
        }
    }

    fn answer(&mut self, token: Token, result: Result<Reply, Refusal>, out: &mut Vec<Output>) {
        match &result {
            Ok(Reply::Pushed { duplicate: true, .. }) => self.stats.duplicates += 1,
            Ok(Reply::Pushed { seq: Some(_), .. }) => self.stats.pushes += 1,
            Ok(Reply::Pushed { seq: None, .. }) => self.stats.ephemerals += 1,
            Ok(_) => {}
            Err(refusal) => self.stats.refused(refusal.code),
        }
        out.push(Output::Reply { token, result });
    }

    fn maintain(&mut self) -> Result<(), StoreError> {
        if !elapsed(self.maintained, self.now, MAINTAIN_EVERY_MS) {
            return Ok(());
        }
        self.maintained = self.now;
        match self.store.maintain(self.now) {
            // Housekeeping can wait for the next time.
            Err(StoreError::Unavailable(_)) => Ok(()),
            result => result,
        }
    }

    /// The epoch of a group that begins: a bijection of a fresh message id, so it was never used by this store before.
    pub(super) fn new_epoch(&mut self) -> Epoch {
        loop {
            if planted::is(Bug::GroupKeepsItsEpoch) {
                return Epoch(self.origin.history.0 ^ 1);
            }
            let (id, _) = self.clock.stamp(self.now);
            let mut mixed = self.origin.history.0 ^ id.0;
            mixed = (mixed ^ mixed >> 30).wrapping_mul(EPOCH_MIX[0]);
            mixed = (mixed ^ mixed >> 27).wrapping_mul(EPOCH_MIX[1]);
            let epoch = Epoch(mixed ^ mixed >> 31);
            if epoch != self.origin.history && epoch != Epoch(0) {
                return epoch;
            }
        }
    }
}

/// Whether `every_ms` passed; a clock that jumped back counts as passed.
pub(super) fn elapsed(since: Timestamp, now: Timestamp, every_ms: i64) -> bool {
    now < since || now.0.saturating_sub(since.0) >= every_ms
}

fn refuse_unavailable(result: Result<Reply, Denied>) -> Result<Result<Reply, Refusal>, StoreError> {
    match result {
        Ok(reply) => Ok(Ok(reply)),
        Err(denied) => denied.into_refusal().map(Err),
    }
}
