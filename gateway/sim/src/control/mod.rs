//! One partition's owner: the production partition over the simulated store, driven as its thread drives it.

mod give;
mod take;

use std::collections::{BTreeMap, VecDeque};

use tidegate_control_core::domain::{Lsn, PartitionId, Refusal, Timestamp};
use tidegate_control_core::partition::{
    Command, Errand, GatewayId, Input, Partition, PartitionConfig, Push, Reply, Token, errands_of,
};
use tidegate_control_core::ports::{Consumed, MessageStore as _, StoreError, StoreReader as _};

pub use self::give::send;
use crate::carrier::Carrier;
use crate::gateway::Gateway;
use crate::planted::Seam;
use crate::rng::Rng;
use crate::script::MS;
use crate::store::{Disk, SimStore};
use crate::upstream::Upstream;

/// Between two ticks.
const TICK_NS: u64 = 50 * MS;
/// Pause of a partition whose store is away.
const PAUSE_NS: u64 = 20 * MS;
/// Most inputs of one batch.
const BATCH_MAX: u64 = 48;
/// Most records that are read from the upstream log at once.
const FEED_MAX: u64 = 12;
/// Wall-clock time when the world begins.
pub const EPOCH_MS: i64 = 1_790_000_000_000;

/// Who waits for a command's answer.
#[derive(Clone, Copy, Debug)]
pub enum Waiter {
    /// A backend, with the number of its push.
    Push(usize),
    /// Nobody keeps the answer.
    Operator,
    /// Another partition, with the number of its attempt.
    Errand {
        from: usize,
        number: u64,
    },
    Link {
        gateway: GatewayId,
        corr: u64,
    },
    /// Whoever appended it, if they still wait.
    Appended {
        source: u32,
        offset: u64,
    },
    Dispatched(Asker),
}

/// A client behind a link, whose message another partition may have.
#[derive(Clone, Copy, Debug)]
pub struct Asker {
    pub via: usize,
    pub gateway: GatewayId,
    pub corr: u64,
}

/// Outlives the partition's crashes: callers, and the wall clock.
pub struct Control {
    /// Which partition, of how many.
    pub partition: usize,
    pub partitions: u32,
    pub life: Option<Life>,
    pub api: VecDeque<(u64, Command, Waiter)>,
    /// From other partitions, by when they arrive: one that is late does not hold others back.
    errands: BTreeMap<(u64, u64), (Command, Waiter)>,
    pub carrier: Carrier,
    /// What the wall clock is ahead of the world's.
    pub clock_ms: i64,
    pub turn_at: Option<u64>,
    pub starts_at: u64,
    pub credit: u64,
    pub twice: u64,
    /// How often an older owner is heard behind this one, in cases of 1,000.
    pub stale: u64,
    seam: Option<Seam>,
    rng: Rng,
}

/// One process, from its start to its crash.
pub struct Life {
    partition: Partition<SimStore>,
    waiters: BTreeMap<Token, Waiter>,
    inputs: Vec<Input>,
    next_token: u64,
    next_tick: u64,
    /// Where the upstream log is read on.
    place: Consumed,
    /// What was read from there and has no answer: then no more is read.
    fed: usize,
    /// A batch waits for the store.
    paused: bool,
}

/// What one turn brought.
#[derive(Default)]
pub struct Turned {
    /// What the partition owes to others from now on.
    pub errands: Vec<(Lsn, Errand)>,
    /// Answers to others' errands: whose, the number of the attempt.
    pub taken: Vec<(usize, u64, Result<Reply, Refusal>)>,
    pub answers: Vec<(usize, Result<Reply, Refusal>)>,
    /// What became of what was read from the upstream log, by its place there.
    pub sequenced: Vec<((u32, u64), Result<Reply, Refusal>)>,
    pub dispatched: Vec<(Asker, Result<Reply, Refusal>)>,
    /// Clients' messages, which go by way of the cluster.
    pub pushes: Vec<(Asker, Box<Push>)>,
    /// The process ended; who waited never hears.
    pub died: Option<String>,
    pub detached: Vec<GatewayId>,
}

impl Control {
    pub fn new(
        (partition, partitions): (usize, u32),
        credit: u64,
        twice: u64,
        seam: Option<Seam>,
        rng: Rng,
    ) -> Control {
        Control {
            partition,
            partitions,
            life: None,
            api: VecDeque::new(),
            errands: BTreeMap::new(),
            carrier: Carrier::default(),
            clock_ms: 0,
            turn_at: None,
            starts_at: 0,
            credit,
            twice,
            stale: 0,
            seam,
            rng,
        }
    }

    /// What the log still owes to other partitions is carried from `at` on; `source` is where its pushes are appended.
    pub fn start(&mut self, now: u64, disk: &Disk, (at, source): (u64, u32)) -> Result<(), String> {
        let config = PartitionConfig {
            heads_max: *self.rng.pick(&[2, 8, 1 << 20]),
            partitions: self.partitions,
            worker: self.partition as u16,
            ..PartitionConfig::default()
        };
        let (id, store) = (PartitionId(self.partition as u32), disk.open());
        let progress = store.progress();
        let routed = progress.routed.unwrap_or(Lsn(0));
        let partition = Partition::new(id, store, config, self.rng.next());
        let partition = partition.map_err(|error| format!("control does not start: {error}"))?;
        self.carrier = Carrier::default();
        if self.partitions > 1 {
            disk.news(0, |lsn, record| {
                if lsn > routed {
                    let errands = errands_of(record, id, self.partitions);
                    errands.into_iter().for_each(|errand| self.carrier.take(at, lsn, errand));
                }
            });
        }
        self.life = Some(Life {
            partition,
            waiters: BTreeMap::new(),
            inputs: Vec::new(),
            next_token: 1,
            next_tick: now,
            place: progress.consumed.unwrap_or(Consumed { source, next: 0 }),
            fed: 0,
            paused: false,
        });
        self.turn_at = Some(now);
        Ok(())
    }

    /// The process is gone. Returns all who waited.
    pub fn crash(&mut self) -> Vec<Waiter> {
        let mut lost: Vec<Waiter> = Vec::new();
        if let Some(life) = self.life.take() {
            lost.extend(life.waiters.into_values());
        }
        lost.extend(self.api.drain(..).map(|(_, _, waiter)| waiter));
        lost.extend(std::mem::take(&mut self.errands).into_values().map(|(_, waiter)| waiter));
        self.carrier = Carrier::default();
        self.turn_at = None;
        lost
    }

    /// What it owes to others has arrived up to here.
    pub fn routed(&mut self, now: u64, upto: Lsn) {
        if let Some(life) = &mut self.life {
            life.inputs.push(Input::Routed(upto));
        }
        self.wake(now);
    }

    pub fn call(&mut self, at: u64, command: Command, waiter: Waiter) {
        let at = self.api.back().map_or(at, |(last, ..)| at.max(*last));
        self.api.push_back((at, command, waiter));
        self.wake(at);
    }

    /// A run of errands of another partition arrives then, whatever else is on its way.
    pub fn hear(&mut self, at: u64, number: u64, command: Command, waiter: Waiter) {
        self.errands.insert((at, number), (command, waiter));
        self.wake(at);
    }

    /// It has read all of the upstream log, and nothing waits for an answer.
    pub fn is_idle(&self, upstream: Option<&Upstream>) -> bool {
        let fed = |life: &Life| life.fed > 0 || life.next_feed(upstream).is_some();
        let busy = self.life.as_ref().is_none_or(fed);
        !busy && self.api.is_empty() && self.errands.is_empty() && self.carrier.is_idle()
    }

    pub fn wake(&mut self, at: u64) {
        if self.life.is_some() {
            self.turn_at = Some(self.turn_at.map_or(at, |turn| turn.min(at)));
        }
    }

    /// One turn: take what has come, one batch, hand out.
    pub fn turn(&mut self, now: u64, gateways: &mut [Gateway], upstream: Option<&Upstream>) -> Turned {
        let mut turned = Turned::default();
        let Some(mut life) = self.life.take() else { return turned };
        if !life.paused {
            self.gather(now, &mut life, gateways, upstream, &mut turned);
        }
        let wall = Timestamp(EPOCH_MS + (now / MS) as i64 + self.clock_ms);
        let mut out = Vec::new();
        let result = life.partition.handle(wall, &mut life.inputs, &mut out);
        life.paused = matches!(result, Err(StoreError::Unavailable(_)));
        match result {
            Ok(()) | Err(StoreError::Unavailable(_)) => {}
            Err(error) if !out.is_empty() => {
                turned.died = Some(format!("{error}, and {} outputs of a batch that failed", out.len()));
            }
            Err(error) => turned.died = Some(error.to_string()),
        }
        self.dispatch(now, &mut life, out, gateways, &mut turned);
        let nothing_owed = self.partitions > 1 && self.carrier.is_idle() && turned.errands.is_empty();
        if nothing_owed && life.inputs.is_empty() && self.rng.chance(100) {
            life.inputs.push(Input::Routed(life.partition.store().last_lsn()));
        }
        let next = match life.paused {
            true => now + PAUSE_NS,
            false if life.partition.wants_turn() => now + self.rng.between(20_000, 200_000),
            false => {
                let up =
                    gateways.iter().filter_map(|gateway| gateway.links[self.partition].up.front().map(|(at, _)| *at));
                let api = self.api.front().map(|(at, ..)| *at);
                let errands = self.errands.first_key_value().map(|((at, _), _)| *at);
                let others = [api, errands, life.next_feed(upstream)].into_iter().flatten();
                up.chain(others).min().map_or(life.next_tick, |at| at.min(life.next_tick))
            }
        };
        self.turn_at = Some(next.max(now + 10_000));
        self.life = Some(life);
        turned
    }
}

impl Life {
    fn ask(&mut self, command: Command, waiter: Waiter) {
        let token = self.token(waiter);
        self.inputs.push(Input::Command { token, command });
    }

    /// When it reads on.
    fn next_feed(&self, upstream: Option<&Upstream>) -> Option<u64> {
        let Consumed { source, next } = self.place;
        upstream.filter(|_| self.fed == 0).and_then(|upstream| upstream.ready_at(source, next))
    }

    fn token(&mut self, waiter: Waiter) -> Token {
        let token = Token(self.next_token);
        self.next_token += 1;
        self.waiters.insert(token, waiter);
        token
    }
}
