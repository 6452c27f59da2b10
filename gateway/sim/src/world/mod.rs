//! The world: gateways, control, clients and callers on one clock. Whoever is due next has its turn; who is due at the same
//! moment is ordered by the seed.

mod acts;
mod callers;
mod clients;
mod judge;
mod owners;

use std::collections::BTreeMap;

use tidegate_control_core::domain::{Epoch, PartitionId};
use tidegate_control_core::partition::GatewayId;
use tidegate_gateway_core::hub::HubConfig;
use tidegate_gateway_core::shard::{ShardConfig, ShardInput};

use self::callers::Callers;
use self::owners::{ErrandFaults, Owner};
use crate::bus::PLATFORMS;
use crate::client::{Client, Habits};
use crate::control::{Control, send};
use crate::gateway::{Down, Gateway, Up};
use crate::net::Manners;
use crate::plan::{Feature, Plan};
use crate::planted::Seam;
use crate::rng::Rng;
use crate::script::{MS, SCRIPT_NS};
use crate::store::{Disk, JoinedGroups};
use crate::trace::Trace;
use crate::truth::Truth;
use crate::upstream::{Faults, Upstream};

/// When faults stop, everything must be where it belongs within this time.
const SETTLE_NS: u64 = 40_000 * MS;
/// How often it is looked whether everything is.
const LOOK_NS: u64 = 200 * MS;
/// Turns of one run; far above what any needs, so that a world that spins ends.
const TURNS_MAX: u64 = 2_000_000;

pub struct World {
    plan: Plan,
    seam: Option<Seam>,
    now: u64,
    rng: Rng,
    trace: Trace,
    gateways: Vec<Gateway>,
    /// Per gateway: when it accepts again, when it stops, when it dials control.
    ups: Vec<Upkeep>,
    /// Per partition.
    seats: Vec<Seat>,
    /// With several partitions.
    upstream: Option<Upstream>,
    errand_faults: ErrandFaults,
    /// Numbers of attempts to carry errands.
    attempts: u64,
    clients: Vec<Client>,
    /// Per client: when it reads.
    reads: Vec<Option<u64>>,
    callers: Callers,
    truth: Truth,
    script_at: usize,
    next_attachment: u64,
    phase: Phase,
    looks_at: u64,
    turns: u64,
}

/// One partition: its log, and who owns it.
struct Seat {
    control: Control,
    /// An owner that has a successor, and has not noticed.
    zombie: Option<Control>,
    disk: Disk,
    /// Records of the log that are true already.
    known: usize,
}

impl Seat {
    fn owner(&mut self, owner: Owner) -> Option<&mut Control> {
        match owner {
            Owner::Present => Some(&mut self.control),
            Owner::Zombie => self.zombie.as_mut(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Script,
    /// No more faults: everybody comes back and catches up.
    Settling,
    /// One more message everywhere: it must come to everyone who is to get it.
    Final,
    Over,
}

#[derive(Clone, Debug, Default)]
struct Upkeep {
    accepts_at: u64,
    draining: bool,
    stops_at: Option<u64>,
    /// Per partition.
    dials_at: Vec<Option<u64>>,
    /// The link to this partition breaks as soon as several items are under way.
    doomed: Option<usize>,
}

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Actor {
    Script,
    Look,
    Hub(usize),
    Shard(usize, usize),
    Stop(usize),
    Dial(usize, usize),
    Control(usize),
    Zombie(usize),
    Start(usize),
    Carrier(usize, Owner),
    Upstream,
    Client(usize),
    Callers,
}

/// What a run came to.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub violation: Option<String>,
    /// Virtual nanoseconds.
    pub lasted: u64,
    pub turns: u64,
    /// Messages shown to clients.
    pub shown: usize,
}

impl World {
    pub fn new(plan: Plan, seam: Option<Seam>, trace: Trace) -> World {
        let mut rng = Rng::new(plan.seed, 2);
        let manners = manners(&plan, &mut rng);
        let gateways: Vec<Gateway> = (0..plan.shape.gateways)
            .map(|at| gateway(&plan, at, 0, (manners, seam), Rng::new(rng.next(), 3)))
            .collect();
        let count = plan.partitions;
        let ups = vec![Upkeep { dials_at: vec![Some(0); count as usize], ..Upkeep::default() }; gateways.len()];
        let clients: Vec<Client> = (0..plan.shape.clients)
            .map(|at| {
                let habits = habits(&plan, at, &mut rng);
                let uid = user(at % plan.shape.users);
                Client::new(at, uid, habits, Rng::new(rng.next(), 4))
            })
            .collect();
        let credit = if plan.has(Feature::SmallCredit) { 64 << 10 } else { 8 << 20 };
        let twice = if plan.has(Feature::LinkTwice) { 150 } else { 0 };
        let joined = (count > 1).then(JoinedGroups::default);
        let seats = (0..count as usize).map(|partition| {
            let disk = Disk::new(Epoch(rng.next() >> 24 | 1), Rng::new(rng.next(), 5), joined.clone());
            if plan.has(Feature::ReadsFail) {
                disk.reads_fail(30);
            }
            let mut control = Control::new((partition, count), credit, twice, seam, Rng::new(rng.next(), 6));
            control.stale = if plan.has(Feature::StaleOwner) { 100 } else { 0 };
            Seat { control, zombie: None, disk, known: 0 }
        });
        let seats = seats.collect();
        let upstream = (count > 1).then(|| {
            let faults = faults(&plan);
            Upstream::new((count, plan.sources), faults, seam, Rng::new(rng.next(), 10))
        });
        World {
            seam,
            now: 0,
            trace,
            gateways,
            ups,
            seats,
            upstream,
            errand_faults: errand_faults(&plan),
            attempts: 0,
            reads: vec![None; clients.len()],
            clients,
            callers: Callers::new(Rng::new(rng.next(), 7), plan.has(Feature::Retries)),
            truth: Truth::new(count),
            script_at: 0,
            next_attachment: 1,
            phase: Phase::Script,
            looks_at: SCRIPT_NS,
            turns: 0,
            rng,
            plan,
        }
    }

    /// Runs to the end, or to the first violation.
    pub fn run(mut self) -> (Outcome, Trace) {
        let violation = self.go_on().err();
        if let Some(violation) = &violation {
            self.trace.note(self.now, || format!("VIOLATION {violation}"));
        }
        let shown = self.clients.iter().map(|client| client.log.shown).sum();
        (Outcome { violation, lasted: self.now, turns: self.turns, shown }, self.trace)
    }

    fn go_on(&mut self) -> Result<(), String> {
        while self.phase != Phase::Over {
            let (at, actor) = self.next();
            self.now = self.now.max(at);
            self.turns += 1;
            if self.turns > TURNS_MAX {
                return Err(format!("{TURNS_MAX} turns are not enough"));
            }
            self.turn(actor)?;
        }
        Ok(())
    }

    /// Who is due first. Those of one moment have their turns in an order of the seed's.
    fn next(&mut self) -> (u64, Actor) {
        let tie = self.rng.next();
        let mut best = (self.looks_at, 0, Actor::Look);
        let mut number = 0u64;
        let mut offer = |at: Option<u64>, actor: Actor| {
            let Some(at) = at else { return };
            number += 1;
            let rank = (tie ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15)) >> 1;
            if (at, rank) < (best.0, best.1) {
                best = (at, rank, actor);
            }
        };
        offer(self.plan.script.get(self.script_at).map(|(at, _)| *at), Actor::Script);
        for (number, gateway) in self.gateways.iter().enumerate() {
            offer(gateway.hub_turn_at, Actor::Hub(number));
            for (shard, node) in gateway.shards.iter().enumerate() {
                offer(node.turn_at, Actor::Shard(number, shard));
            }
            offer(self.ups[number].stops_at, Actor::Stop(number));
            for (partition, at) in self.ups[number].dials_at.iter().enumerate() {
                offer(*at, Actor::Dial(number, partition));
            }
        }
        for (partition, seat) in self.seats.iter().enumerate() {
            offer(seat.control.turn_at, Actor::Control(partition));
            offer(seat.zombie.as_ref().and_then(|zombie| zombie.turn_at), Actor::Zombie(partition));
            offer(seat.control.life.is_none().then_some(seat.control.starts_at), Actor::Start(partition));
            offer(seat.control.carrier.acts_at, Actor::Carrier(partition, Owner::Present));
            let zombie = seat.zombie.as_ref().and_then(|zombie| zombie.carrier.acts_at);
            offer(zombie, Actor::Carrier(partition, Owner::Zombie));
        }
        for (number, client) in self.clients.iter().enumerate() {
            let read = self.reads[number].map(|at| at.max(client.pace.stalled_until));
            offer([client.wakes_at(), read].into_iter().flatten().min(), Actor::Client(number));
        }
        offer(self.callers.wakes_at(), Actor::Callers);
        offer(self.upstream.as_ref().and_then(Upstream::wakes_at), Actor::Upstream);
        (best.0, best.2)
    }

    fn turn(&mut self, actor: Actor) -> Result<(), String> {
        match actor {
            Actor::Script => {
                let (_, action) = self.plan.script[self.script_at].clone();
                self.script_at += 1;
                self.trace.note(self.now, || format!("script {action:?}"));
                self.act(action);
                Ok(())
            }
            Actor::Look => self.look(),
            Actor::Hub(gateway) => {
                let now = self.now;
                for link in &self.gateways[gateway].links {
                    if let Some((_, item)) = link.down.front().filter(|(at, _)| *at <= now) {
                        self.trace.note(now, || format!("gateway {gateway} hears {}", brief(item)));
                    }
                }
                self.gateways[gateway].hub_turn(now);
                self.seats.iter_mut().for_each(|seat| seat.control.wake(now + 50_000));
                Ok(())
            }
            Actor::Shard(gateway, shard) => {
                self.shard_turn(gateway, shard);
                Ok(())
            }
            Actor::Stop(gateway) => {
                self.ups[gateway].stops_at = None;
                for shard in &mut self.gateways[gateway].shards {
                    shard.mail.put(self.now, ShardInput::Stop);
                    shard.wake(self.now);
                }
                self.replace_gateway(gateway);
                Ok(())
            }
            Actor::Dial(gateway, partition) => {
                self.dial(gateway, partition);
                Ok(())
            }
            Actor::Control(partition) => self.control_turn(partition),
            Actor::Zombie(partition) => self.zombie_turn(partition),
            Actor::Start(partition) => self.start(partition),
            Actor::Carrier(partition, owner) => {
                self.carry(partition, owner);
                Ok(())
            }
            Actor::Upstream => self.upstream_turn(),
            Actor::Client(client) => self.client_turn(client),
            Actor::Callers => {
                for push in self.callers.due(self.now) {
                    self.ask_owner(push);
                }
                Ok(())
            }
        }
    }

    fn shard_turn(&mut self, gateway: usize, shard: usize) {
        let now = self.now;
        self.gateways[gateway].shard_turn(now, shard);
        let node = &self.gateways[gateway].shards[shard];
        let net = node.net.borrow();
        for (number, client) in self.clients.iter().enumerate() {
            let Some(conn) = client.conn.as_ref().filter(|conn| (conn.gateway, conn.shard) == (gateway, shard)) else {
                continue;
            };
            if self.reads[number].is_none() && net.readable(conn.sock) {
                self.reads[number] = Some(now + 20_000 + self.rng.below(2 * MS));
            }
        }
    }

    fn dial(&mut self, gateway: usize, partition: usize) {
        let up = &mut self.ups[gateway];
        if self.seats[partition].control.life.is_none() || self.now < up.accepts_at {
            up.dials_at[partition] = Some(self.now.max(up.accepts_at) + self.rng.between(10 * MS, 150 * MS));
            return;
        }
        up.dials_at[partition] = None;
        let id = GatewayId(self.next_attachment);
        self.next_attachment += 1;
        let at = self.now + self.rng.between(100_000, 3 * MS);
        let link = &mut self.gateways[gateway].links[partition];
        link.id = Some(id);
        let at = link.up.back().map_or(at, |(last, _)| at.max(*last));
        link.up.push_back((at, Up::Hello(id)));
        self.seats[partition].control.wake(at);
        self.trace.note(self.now, || format!("gateway {gateway} attaches to {partition} as {}", id.0));
    }

    /// The attachment breaks: of what is under way, some arrives on either side.
    fn break_link(&mut self, gateway: usize, partition: usize) {
        let Some(id) = self.gateways[gateway].links[partition].id else { return };
        let link = &mut self.gateways[gateway].links[partition];
        link.down.truncate(self.rng.index(link.down.len() + 1));
        link.up.truncate(self.rng.index(link.up.len() + 1));
        let at = self.now + self.rng.below(20 * MS);
        let seen = link.up.back().map_or(at, |(last, _)| at.max(*last));
        link.up.push_back((seen, Up::Gone(id)));
        send(&mut self.gateways[gateway], partition, id, at, Down::Broken);
        self.gateways[gateway].links[partition].id = None;
        let away = if self.phase == Phase::Script && self.rng.chance(250) { 1_500 * MS } else { 200 * MS };
        self.ups[gateway].dials_at[partition] = Some(self.now + self.rng.between(5 * MS, away));
        self.seats[partition].control.wake(seen);
        self.trace.note(self.now, || format!("link {gateway} to {partition} breaks"));
    }

    /// What became durable is true from now on.
    fn read_history(&mut self) -> Result<(), String> {
        let mut result = Ok(());
        let (truth, trace, now) = (&mut self.truth, &self.trace, self.now);
        for (seat, partition) in self.seats.iter_mut().zip(0..) {
            seat.known = seat.disk.news(seat.known, |lsn, record| {
                trace.note(now, || format!("durable {lsn} {}", cut(format!("{record:?}"))));
                if result.is_ok() {
                    result = truth.add(partition, lsn, record);
                }
            });
            truth.trim(partition, seat.disk.trimmed());
        }
        result
    }

    fn partition_of(&self, stream: &str) -> usize {
        let stream = stream.parse().expect("a stream");
        PartitionId::of(&stream, self.plan.partitions).0 as usize
    }

    fn partition_of_push(&self, push: usize) -> usize {
        self.partition_of(&self.callers.sayings[push].said.to)
    }

    /// Any of them.
    fn some_partition(&mut self) -> usize {
        match self.seats.len() {
            1 => 0,
            count => self.rng.index(count),
        }
    }

    /// A new process in the place of an old one, which is gone.
    fn replace_gateway(&mut self, number: usize) {
        for partition in 0..self.seats.len() {
            self.break_link(number, partition);
        }
        let manners = match self.phase {
            Phase::Script => manners(&self.plan, &mut self.rng.clone()),
            _ => quiet(manners(&self.plan, &mut self.rng.clone())),
        };
        let life = self.gateways[number].life + 1;
        let new = gateway(&self.plan, number, life, (manners, self.seam), Rng::new(self.rng.next(), 3));
        let old = std::mem::replace(&mut self.gateways[number], new);
        for (link, old) in self.gateways[number].links.iter_mut().zip(old.links) {
            link.up = old.up;
        }
        let accepts_at = self.now + self.rng.between(5 * MS, 300 * MS);
        self.ups[number] =
            Upkeep { accepts_at, dials_at: vec![Some(accepts_at); self.seats.len()], ..Upkeep::default() };
        for client in 0..self.clients.len() {
            if self.clients[client].conn.as_ref().is_some_and(|conn| conn.gateway == number) {
                self.reads[client] = Some(self.now + self.rng.below(10 * MS));
            }
        }
    }
}

pub fn user(number: usize) -> String {
    format!("user{number}")
}

pub fn group(number: usize) -> String {
    format!("team{number}")
}

fn gateway(plan: &Plan, number: usize, life: u32, (manners, seam): (Manners, Option<Seam>), rng: Rng) -> Gateway {
    let has = |feature| plan.has(feature);
    let hub = HubConfig {
        gateway: format!("gateway{number}").into(),
        window_ms: plan.shape.window_ms,
        linger_ms: if has(Feature::ShortLinger) { 20 } else { 60_000 },
        hot_tail_messages: if has(Feature::ShortTails) { (plan.seed % 4) as u32 } else { 100 },
        fanout_slice: if has(Feature::SlicedFanouts) { 1 } else { 512 },
        gap_jitter_ms: 50,
        ..HubConfig::default()
    };
    let shard = ShardConfig {
        connections_max: 256,
        queue_bytes_max: if has(Feature::TinyQueues) { 400 + (plan.seed % 7) as usize * 300 } else { 256 << 10 },
        ping_interval_min_ms: 500,
        ping_interval_max_ms: 5_000,
        ping_interval_ms: if has(Feature::HalfOpen) { 750 } else { 5_000 },
        close_timeout_ms: 500,
        reconnect_spread_ms: 100,
        ..ShardConfig::default()
    };
    Gateway::new(life, hub, (plan.shape.shards, plan.partitions), &shard, (manners, seam), rng)
}

fn manners(plan: &Plan, rng: &mut Rng) -> Manners {
    let when = |feature, value| if plan.has(feature) { value } else { 0 };
    Manners {
        short_sends: when(Feature::ShortSends, 120),
        late_completions: when(Feature::LateCompletions, 400),
        split_receives: when(Feature::SplitReceives, 300),
        tls: plan.tls,
        slots: if plan.has(Feature::FewSlots) { plan.shape.clients + 1 } else { 4_096 },
        capacity: if plan.has(Feature::SmallSockets) { rng.between(200, 1_500) as usize } else { 64 << 10 },
    }
}

/// Without what is a fault.
fn quiet(manners: Manners) -> Manners {
    Manners { short_sends: 0, late_completions: 0, split_receives: 0, slots: 4_096, ..manners }
}

fn faults(plan: &Plan) -> Faults {
    let when = |feature, value| if plan.has(feature) { value } else { 0 };
    Faults {
        refuses: when(Feature::LogAway, 60),
        times_out: when(Feature::LogAway, 60),
        results_lost: when(Feature::ResultsLost, 150),
        nameless: when(Feature::ResultsLost, 300),
        patience_ms: if plan.has(Feature::Impatience) { 60 } else { 2_000 },
    }
}

fn errand_faults(plan: &Plan) -> ErrandFaults {
    let when = |feature, value| if plan.has(feature) { value } else { 0 };
    ErrandFaults { lost: when(Feature::ErrandsLost, 150), late: when(Feature::ErrandsLate, 150) }
}

fn habits(plan: &Plan, number: usize, rng: &mut Rng) -> Habits {
    let read = match plan.has(Feature::SlowReaders) && rng.chance(400) {
        true => (rng.between(20, 800) as usize, rng.between(MS, 40 * MS)),
        false => (1 << 20, MS),
    };
    Habits {
        device: format!("device{number}"),
        json: plan.has(Feature::Json) && rng.chance(500),
        deflate: plan.has(Feature::Deflate) && rng.chance(500),
        platform: if plan.has(Feature::Platforms) { rng.below(PLATFORMS.len() as u64) as u8 } else { 0 },
        sent_acks: plan.has(Feature::SentAcks) && rng.chance(500),
        read,
    }
}

fn brief(item: &Down) -> String {
    match item {
        Down::Up(id, _) => format!("attached {}", id.0),
        Down::Item(item) => cut(format!("{item:?}")),
        Down::Broken => "broken".to_owned(),
    }
}

fn cut(mut text: String) -> String {
    if text.len() > 400 {
        let end = (0..=400).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

/// Names that exist, for the last round.
fn streams(plan: &Plan) -> BTreeMap<String, ()> {
    let users = (0..plan.shape.users).map(|number| format!("u:{}", user(number)));
    let groups = (0..plan.shape.groups).map(|number| format!("g:{}", group(number)));
    users.chain(groups).chain(["g:_all".to_owned()]).map(|name| (name, ())).collect()
}
