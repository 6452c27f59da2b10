//! Control of the world: the production partition over the simulated store, driven as its thread drives it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tidegate_control_core::domain::{PartitionId, Refusal, Timestamp};
use tidegate_control_core::partition::{Command, GatewayId, Input, Output, Partition, PartitionConfig, Reply, Token};
use tidegate_control_core::ports::StoreError;
use tidegate_gateway_core::ids::SeqRange;
use tidegate_gateway_core::link::{Deliver, FromLink, Position};

use crate::bus;
use crate::gateway::{Down, Gateway, Up};
use crate::planted::Seam;
use crate::rng::Rng;
use crate::script::MS;
use crate::store::{Disk, SimStore};

/// Between two ticks.
const TICK_NS: u64 = 50 * MS;
/// Pause of a partition whose store is away.
const PAUSE_NS: u64 = 20 * MS;
/// Most inputs of one batch.
const BATCH_MAX: u64 = 48;
/// Wall-clock time when the world begins.
const EPOCH_MS: i64 = 1_790_000_000_000;

/// Who waits for a command's answer.
#[derive(Clone, Copy, Debug)]
pub enum Waiter {
    /// A backend, with the number of its push.
    Push(usize),
    /// Nobody keeps the answer.
    Operator,
    Link {
        gateway: GatewayId,
        corr: u64,
    },
}

/// Outlives the partition's crashes: callers, and the wall clock.
pub struct Control {
    pub life: Option<Life>,
    pub api: VecDeque<(u64, Command, Waiter)>,
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
    /// A batch waits for the store.
    paused: bool,
}

/// What one turn brought.
#[derive(Default)]
pub struct Turned {
    pub answers: Vec<(usize, Result<Reply, Refusal>)>,
    /// The process ended; who waited never hears.
    pub died: Option<String>,
    pub detached: Vec<GatewayId>,
}

impl Control {
    pub fn new(credit: u64, twice: u64, seam: Option<Seam>, rng: Rng) -> Control {
        let api = VecDeque::new();
        Control { life: None, api, clock_ms: 0, turn_at: None, starts_at: 0, credit, twice, stale: 0, seam, rng }
    }

    pub fn start(&mut self, now: u64, disk: &Disk) -> Result<(), String> {
        let config = PartitionConfig { heads_max: *self.rng.pick(&[2, 8, 1 << 20]), ..PartitionConfig::default() };
        let partition = Partition::new(PartitionId(0), disk.open(), config, self.rng.next());
        let partition = partition.map_err(|error| format!("control does not start: {error}"))?;
        self.life = Some(Life {
            partition,
            waiters: BTreeMap::new(),
            inputs: Vec::new(),
            next_token: 1,
            next_tick: now,
            paused: false,
        });
        self.turn_at = Some(now);
        Ok(())
    }

    /// The process is gone, and with it all who waited. Returns the pushes among them.
    pub fn crash(&mut self) -> Vec<usize> {
        let mut lost: Vec<usize> = Vec::new();
        let mut lose = |waiter: Waiter| {
            if let Waiter::Push(push) = waiter {
                lost.push(push);
            }
        };
        if let Some(life) = self.life.take() {
            life.waiters.into_values().for_each(&mut lose);
        }
        self.api.drain(..).for_each(|(_, _, waiter)| lose(waiter));
        self.turn_at = None;
        lost
    }

    pub fn call(&mut self, at: u64, command: Command, waiter: Waiter) {
        let at = self.api.back().map_or(at, |(last, ..)| at.max(*last));
        self.api.push_back((at, command, waiter));
        self.wake(at);
    }

    pub fn wake(&mut self, at: u64) {
        if self.life.is_some() {
            self.turn_at = Some(self.turn_at.map_or(at, |turn| turn.min(at)));
        }
    }

    /// One turn: take what has come, one batch, hand out.
    pub fn turn(&mut self, now: u64, gateways: &mut [Gateway]) -> Turned {
        let mut turned = Turned::default();
        let Some(mut life) = self.life.take() else { return turned };
        if !life.paused {
            self.gather(now, &mut life, gateways);
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
        let next = match life.paused {
            true => now + PAUSE_NS,
            false if life.partition.wants_turn() => now + self.rng.between(20_000, 200_000),
            false => {
                let up = gateways.iter().filter_map(|gateway| gateway.link.up.front().map(|(at, _)| *at));
                let api = self.api.front().map(|(at, ..)| *at);
                up.chain(api).min().map_or(life.next_tick, |at| at.min(life.next_tick))
            }
        };
        self.turn_at = Some(next.max(now + 10_000));
        self.life = Some(life);
        turned
    }

    fn gather(&mut self, now: u64, life: &mut Life, gateways: &mut [Gateway]) {
        let origin = life.partition.origin();
        for _ in 0..self.rng.between(1, BATCH_MAX) {
            let sources = gateways.len() + 1;
            let first = self.rng.index(sources);
            let ready = |at: usize| match gateways.get(at) {
                Some(gateway) => gateway.link.up.front().is_some_and(|(at, _)| *at <= now),
                None => self.api.front().is_some_and(|(at, ..)| *at <= now),
            };
            let Some(at) = (0..sources).map(|at| (first + at) % sources).find(|at| ready(*at)) else { break };
            let Some(gateway) = gateways.get_mut(at) else {
                if let Some((_, command, waiter)) = self.api.pop_front() {
                    let token = life.token(waiter);
                    life.inputs.push(Input::Command { token, command });
                }
                continue;
            };
            match gateway.link.up.pop_front() {
                Some((_, Up::Hello(id))) => {
                    life.inputs.push(Input::LinkUp { gateway: id, credit_bytes: self.credit });
                    let at = now + self.rng.between(50_000, 2_000_000);
                    send(gateway, id, at, Down::Up(id, origin.history.0));
                }
                Some((_, Up::Gone(id))) => life.inputs.push(Input::LinkDown { gateway: id }),
                Some((_, Up::Value(id, value))) => match bus::up(id, origin, value) {
                    bus::Up::Inputs(inputs) => life.inputs.extend(inputs),
                    bus::Up::Request { corr, command } => {
                        let token = life.token(Waiter::Link { gateway: id, corr });
                        life.inputs.push(Input::Command { token, command });
                    }
                    bus::Up::Presence => {}
                },
                None => {}
            }
        }
        if now >= life.next_tick {
            life.inputs.push(Input::Tick);
            life.next_tick = now + TICK_NS;
        }
    }

    fn dispatch(&mut self, now: u64, life: &mut Life, out: Vec<Output>, gateways: &mut [Gateway], turned: &mut Turned) {
        let origin = life.partition.origin();
        for output in out {
            let (to, item) = match output {
                Output::Reply { token, result } => match life.waiters.remove(&token) {
                    Some(Waiter::Push(push)) => {
                        turned.answers.push((push, result));
                        continue;
                    }
                    Some(Waiter::Link { gateway, corr }) => (gateway, bus::reply(corr, result)),
                    Some(Waiter::Operator) => continue,
                    None => {
                        turned.died = Some("a second answer to one command".to_owned());
                        continue;
                    }
                },
                Output::Link { gateway, item } => (gateway, bus::down(origin, item)),
                // There is one partition: it owes nothing to others.
                Output::Errand { .. } => {
                    turned.died = Some("an errand to nowhere".to_owned());
                    continue;
                }
                Output::Detach { gateway, .. } => {
                    turned.detached.push(gateway);
                    continue;
                }
            };
            let Some(gateway) = gateways.iter_mut().find(|gateway| gateway.link.id == Some(to)) else { continue };
            if self.seam == Some(Seam::LostTail) && matches!(item, FromLink::Deliver(_)) && self.rng.chance(30) {
                continue;
            }
            let at = now + self.rng.between(50_000, 2_000_000);
            let again = match (&item, self.rng.chance(self.twice)) {
                (FromLink::Deliver(deliver), true) => Some(copy(deliver)),
                _ => None,
            };
            let stale = match &item {
                FromLink::Deliver(deliver) if self.rng.chance(self.stale) => of_older_owner(deliver),
                _ => None,
            };
            send(gateway, to, at, Down::Item(item));
            if let Some(stale) = stale {
                send(gateway, to, at, Down::Item(FromLink::Deliver(stale)));
            }
            if let Some(again) = again {
                send(gateway, to, at, Down::Item(FromLink::Deliver(again)));
            }
        }
    }
}

impl Life {
    fn token(&mut self, waiter: Waiter) -> Token {
        let token = Token(self.next_token);
        self.next_token += 1;
        self.waiters.insert(token, waiter);
        token
    }
}

/// Puts an item on the way to the hub, unless the attachment has ended.
pub fn send(gateway: &mut Gateway, id: GatewayId, at: u64, item: Down) {
    if gateway.link.id != Some(id) {
        return;
    }
    let at = gateway.link.down.back().map_or(at, |(last, _)| at.max(*last));
    gateway.link.down.push_back((at, item));
    gateway.wake_hub(at);
}

/// The same delivery once more.
pub fn copy(deliver: &Deliver) -> Deliver {
    Deliver {
        position: deliver.position,
        stream: deliver.stream.clone(),
        epoch: deliver.epoch.clone(),
        range: deliver.range,
        messages: deliver.messages.clone(),
        bytes: 0,
    }
}

/// What an older owner would say next of the stream, of a message that never became durable.
fn of_older_owner(deliver: &Deliver) -> Option<Deliver> {
    let owner_epoch = deliver.position.owner_epoch.checked_sub(1).filter(|older| *older > 0)?;
    let after = deliver.range?.upto;
    let (range, position) = (SeqRange { after, upto: after.next() }, Position { owner_epoch, ..deliver.position });
    let mut message = deliver.messages.last()?.clone();
    message.seq = range.upto;
    let body = Arc::make_mut(&mut message.body);
    body.seq = range.upto.0;
    body.content.push_str(" of an older owner");
    Some(Deliver { position, range: Some(range), messages: vec![message], ..copy(deliver) })
}
