//! One gateway of the world: the production hub and shards, and the queues between them, each with its own latency.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use tidegate_control_core::partition::GatewayId;
use tidegate_gateway_core::hub::{Hub, HubConfig};
use tidegate_gateway_core::ids::{Now, ShardId, StreamIdx};
use tidegate_gateway_core::link::{FromLink, PartitionId, Partitions, ToLink};
use tidegate_gateway_core::messages::{ToHub, ToShard};
use tidegate_gateway_core::shard::{ByKind, Mailbox, Shard, ShardConfig, ShardInput};
use tidegate_gateway_tls::Secured;

use crate::net::{Arriving, Manners, Net, SimDriver};
use crate::planted::Seam;
use crate::rng::Rng;
use crate::script::MS;

/// Longest way between two threads of a gateway.
const HOP_NS: u64 = 150_000;
/// Within so long after its beginning an attachment is told what changed.
const CALM_NS: u64 = 200 * MS;
const ONLY: PartitionId = PartitionId(0);
/// Items that one turn of the hub takes.
const HUB_ITEMS_MAX: usize = 64;

pub struct Gateway {
    pub life: u32,
    pub hub: Hub,
    pub shards: Vec<ShardNode>,
    pub link: Link,
    pub hub_turn_at: Option<u64>,
    rng: Rng,
}

/// The gateway's end of its attachment, and what is under way on it.
#[derive(Default)]
pub struct Link {
    /// The attachment, as the network knows it.
    pub id: Option<GatewayId>,
    /// The attachment that the hub has heard of.
    heard: Option<GatewayId>,
    heard_at: u64,
    pub down: VecDeque<(u64, Down)>,
    pub up: VecDeque<(u64, Up)>,
}

pub enum Down {
    /// With the history that control speaks of.
    Up(GatewayId, u64),
    Item(FromLink),
    Broken,
}

pub enum Up {
    Hello(GatewayId),
    Value(GatewayId, ToLink),
    Gone(GatewayId),
}

pub struct ShardNode {
    pub shard: Shard<Secured<SimDriver>>,
    pub net: Rc<RefCell<Net>>,
    pub mail: Mail,
    pub turn_at: Option<u64>,
    /// Towards the hub.
    out: VecDeque<(u64, ToHub)>,
}

/// The shard's mailbox. A fan-out is handed over alone in its turn, so that it is known whom it reaches.
#[derive(Default)]
pub struct Mail {
    now: u64,
    inbox: VecDeque<(u64, ShardInput<Arriving>)>,
    said: Vec<ToHub>,
    taken: usize,
    fanned_out: bool,
    members: BTreeMap<StreamIdx, i64>,
    pub routed: Routed,
    seam: Option<Seam>,
    /// Present generations by slot.
    generations: BTreeMap<u32, u32>,
    coin: u64,
}

/// Messages × members of all fan-outs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Routed {
    pub durable: u64,
    pub ephemeral: u64,
}

impl Mailbox<Arriving> for Mail {
    fn next(&mut self) -> Option<ShardInput<Arriving>> {
        let (at, item) = self.inbox.front()?;
        let fanout = matches!(item, ShardInput::Hub(ToShard::Fanout(_)));
        if *at > self.now || self.fanned_out || (fanout && self.taken > 0) {
            return None;
        }
        let (_, mut item) = self.inbox.pop_front()?;
        if let (Some(seam), ShardInput::Hub(command)) = (self.seam, &mut item)
            && !self.distort(seam, command)
        {
            return self.next();
        }
        self.taken += 1;
        self.count(&item);
        Some(item)
    }

    fn to_hub(&mut self, item: ToHub) {
        match &item {
            ToHub::Left { streams, .. } => {
                for stream in streams {
                    *self.members.entry(*stream).or_default() -= 1;
                }
            }
            ToHub::Invited { stream, added, .. } => *self.members.entry(*stream).or_default() += i64::from(*added),
            ToHub::Connected { conn, .. } => drop(self.generations.insert(conn.conn.index, conn.conn.generation)),
            _ => {}
        }
        match (self.seam, &item) {
            (Some(Seam::LeftLost), ToHub::Left { .. }) => return,
            (Some(Seam::LeftTwice), ToHub::Left { conn, streams, class }) => {
                self.said.push(ToHub::Left { conn: *conn, streams: streams.clone(), class: *class });
            }
            (Some(Seam::FanoutDoneLost), ToHub::FanoutDone { .. }) => return,
            _ => {}
        }
        self.said.push(item);
    }

    fn may_sleep(&mut self) -> bool {
        self.inbox.front().is_none_or(|(at, _)| *at > self.now)
    }

    fn awake(&mut self) {}
}

impl Mail {
    /// What a bug would make of the hub's word. False: nothing at all.
    fn distort(&mut self, seam: Seam, command: &mut ToShard) -> bool {
        self.coin = self.coin.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let now_and_then = self.coin >> 62 == 0;
        match (seam, command) {
            (Seam::GapUntold, ToShard::Gap { .. }) | (Seam::ExpelIgnored, ToShard::Expel { .. }) => false,
            (Seam::LiveIntoGap, ToShard::AddMember { gapped, .. }) => {
                *gapped = false;
                true
            }
            (Seam::ResumeSkipsSeam, ToShard::Send(direct)) => direct.recovers.is_none() || !now_and_then,
            (Seam::ReorderingFanout, ToShard::Fanout(fanout)) if now_and_then => {
                let next = self.inbox.iter_mut().find_map(|(_, item)| match item {
                    ShardInput::Hub(ToShard::Fanout(next)) if next.stream == fanout.stream => Some(next),
                    _ => None,
                });
                if let Some(next) = next {
                    std::mem::swap(fanout, next);
                }
                true
            }
            (Seam::ReusedSlot, ToShard::Send(direct)) => {
                if let Some(generation) = self.generations.get(&direct.conn.index) {
                    direct.conn.generation = *generation;
                }
                true
            }
            _ => true,
        }
    }

    /// Changes places of a new member and of what follows.
    fn delay_members(&mut self) {
        let last = self.inbox.len().wrapping_sub(1);
        let member = |at: usize| matches!(self.inbox.get(at), Some((_, ShardInput::Hub(ToShard::AddMember { .. }))));
        if self.seam == Some(Seam::MemberTooLate)
            && last > 0
            && member(last - 1)
            && matches!(self.inbox[last].1, ShardInput::Hub(ToShard::Fanout(_)))
        {
            self.inbox.swap(last - 1, last);
            let at = self.inbox[last - 1].0;
            self.inbox[last].0 = at.max(self.inbox[last].0);
        }
    }

    fn count(&mut self, item: &ShardInput<Arriving>) {
        match item {
            ShardInput::Hub(ToShard::AddMember { stream, .. }) => *self.members.entry(*stream).or_default() += 1,
            ShardInput::Hub(ToShard::Fanout(fanout)) => {
                self.fanned_out = true;
                let members = self.members.get(&fanout.stream).copied().unwrap_or(0);
                assert!(members >= 0, "more memberships ended than began");
                let routed = u64::from(fanout.messages) * members as u64;
                match fanout.range {
                    Some(_) => self.routed.durable += routed,
                    None => self.routed.ephemeral += routed,
                }
            }
            _ => {}
        }
    }

    pub fn put(&mut self, at: u64, item: ShardInput<Arriving>) {
        let at = self.inbox.back().map_or(at, |(last, _)| at.max(*last));
        self.inbox.push_back((at, item));
        self.delay_members();
    }
}

impl Link {
    /// The hub has been attached long enough to have heard where it stands.
    pub fn is_calm(&self, now: u64) -> bool {
        self.id.is_some() && self.heard == self.id && now >= self.heard_at + CALM_NS
    }
}

impl ShardNode {
    fn new(id: u16, config: &ShardConfig, (manners, seam): (Manners, Option<Seam>), rng: &mut Rng) -> ShardNode {
        let net = Rc::new(RefCell::new(Net::new(manners, seam, Rng::new(rng.next(), 0))));
        let shard = Shard::new(ShardId(id), Secured::new(SimDriver(net.clone())), config.clone(), rng.next());
        let mail = Mail { seam, coin: rng.next(), ..Mail::default() };
        ShardNode { shard, net, mail, turn_at: None, out: VecDeque::new() }
    }

    /// One turn of the worker loop. Sets when the next one is.
    fn turn(&mut self, now: u64, rng: &mut Rng) -> bool {
        {
            let mut net = self.net.borrow_mut();
            (net.now, net.slept) = (now, None);
        }
        (self.mail.now, self.mail.taken, self.mail.fanned_out) = (now, 0, false);
        let goes_on = self.shard.tick(&mut self.mail);
        for item in self.mail.said.drain(..) {
            let at = now + rng.below(HOP_NS);
            let at = self.out.back().map_or(at, |(last, _)| at.max(*last));
            self.out.push_back((at, item));
        }
        let net = self.net.borrow();
        let by_itself = match net.slept {
            Some(deadline) => [deadline, net.wakes_at()].into_iter().flatten().min(),
            None => Some(now),
        };
        let mail = self.mail.inbox.front().map(|(at, _)| *at);
        let next = [by_itself, mail].into_iter().flatten().min();
        self.turn_at = next.filter(|_| goes_on).map(|at| at.max(now + 1_000));
        goes_on
    }

    /// Something arrives for this shard then.
    pub fn wake(&mut self, at: u64) {
        self.turn_at = Some(self.turn_at.map_or(at, |turn| turn.min(at)));
    }

    /// What was routed to members was delivered, dropped for a reason, or waits. `of_ephemeral`: none of it was for some
    /// platforms only, since of that a member may get nothing.
    pub fn conserves(&self, of_ephemeral: bool) -> Result<(), String> {
        let stats = self.shard.stats();
        if stats.queue_bytes.value() != 0 {
            return Err(format!("{} bytes wait for clients that read", stats.queue_bytes.value()));
        }
        if stats.frames_missing.value() != 0 {
            return Err("a member's class had no frame".to_owned());
        }
        let sum = |of: fn(&ByKind) -> u64| {
            let dropped = &stats.dropped;
            [&stats.delivered, &dropped.slow, &dropped.gapped, &dropped.closed]
                .into_iter()
                .fold(0u64, |sum, kind| sum.wrapping_add(of(kind)))
        };
        let durable = sum(|kind| kind.durable.value());
        let ephemeral = sum(|kind| kind.ephemeral.value());
        let routed = self.mail.routed;
        if durable != routed.durable || (of_ephemeral && ephemeral != routed.ephemeral) {
            return Err(format!("{:?} were routed, {durable} and {ephemeral} accounted for", self.mail.routed));
        }
        Ok(())
    }

    pub fn memberships(&self) -> i64 {
        self.mail.members.values().sum()
    }
}

impl Gateway {
    pub fn new(
        life: u32,
        hub: HubConfig,
        shards: usize,
        shard: &ShardConfig,
        (manners, seam): (Manners, Option<Seam>),
        mut rng: Rng,
    ) -> Gateway {
        let mut hub = Hub::new(hub, rng.next());
        hub.set_partitions(Now(0), Partitions::ONE).expect("told once");
        Gateway {
            life,
            hub,
            shards: (0..shards).map(|id| ShardNode::new(id as u16, shard, (manners, seam), &mut rng)).collect(),
            link: Link::default(),
            hub_turn_at: None,
            rng,
        }
    }

    /// False: the shard has stopped.
    pub fn shard_turn(&mut self, now: u64, shard: usize) -> bool {
        let Gateway { shards, rng, .. } = self;
        let goes_on = shards[shard].turn(now, rng);
        self.wake_hub(now);
        goes_on
    }

    /// One turn of the hub's thread.
    pub fn hub_turn(&mut self, now: u64) {
        for _ in 0..HUB_ITEMS_MAX {
            let sources = self.shards.len() + 1;
            let first = self.rng.index(sources);
            if !(0..sources).any(|at| self.take((first + at) % sources, now)) {
                break;
            }
        }
        if self.hub.poll_timeout().is_some_and(|at| at.0 <= now) {
            self.hub.handle_timeout(Now(now));
        }
        self.hand_out(now);
        self.hub_turn_at = None;
        self.wake_hub(now + 1_000);
    }

    /// From a shard, or from the link.
    fn take(&mut self, source: usize, now: u64) -> bool {
        let Some(shard) = self.shards.get_mut(source) else { return self.take_from_link(now) };
        if shard.out.front().is_none_or(|(at, _)| *at > now) {
            return false;
        }
        if let Some((_, item)) = shard.out.pop_front() {
            self.hub.handle_shard(Now(now), item);
        }
        true
    }

    fn take_from_link(&mut self, now: u64) -> bool {
        if self.link.down.front().is_none_or(|(at, _)| *at > now) {
            return false;
        }
        // What was said before belongs to the attachment of before.
        self.hand_out(now);
        match self.link.down.pop_front() {
            Some((_, Down::Up(id, history))) => {
                while self.hub.poll_link().is_some() {}
                (self.link.heard, self.link.heard_at) = (Some(id), now);
                self.hub.handle_link(Now(now), ONLY, FromLink::History { history });
                self.hub.handle_link(Now(now), ONLY, FromLink::Up);
            }
            Some((_, Down::Item(item))) => self.hub.handle_link(Now(now), ONLY, item),
            Some((_, Down::Broken)) => {
                self.link.heard = None;
                self.hub.handle_link(Now(now), ONLY, FromLink::Down);
            }
            None => {}
        }
        true
    }

    fn hand_out(&mut self, now: u64) {
        while let Some((shard, command)) = self.hub.poll_shard() {
            let at = now + self.rng.below(HOP_NS);
            let shard = &mut self.shards[usize::from(shard.0)];
            shard.mail.put(at, ShardInput::Hub(command));
            shard.wake(at);
        }
        while let Some((_, value)) = self.hub.poll_link() {
            // Values go to the attachment that the hub spoke to, if it still exists.
            if let Some(id) = self.link.heard.filter(|id| self.link.id == Some(*id)) {
                let at = now + self.rng.between(50_000, 2_000_000);
                let at = self.link.up.back().map_or(at, |(last, _)| at.max(*last));
                self.link.up.push_back((at, Up::Value(id, value)));
            }
        }
    }

    /// Sets the hub's next turn by what it waits for.
    pub fn wake_hub(&mut self, earliest: u64) {
        let shards = self.shards.iter().filter_map(|shard| shard.out.front().map(|(at, _)| *at)).min();
        let link = self.link.down.front().map(|(at, _)| *at);
        let timeout = self.hub.poll_timeout().map(|at| at.0);
        let at = [shards, link, timeout].into_iter().flatten().min().map(|at| at.max(earliest));
        self.hub_turn_at = match (self.hub_turn_at, at) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
    }
}
