//! The script's actions.

use tidegate_control_core::domain::{Epoch, Gid, Uid};
use tidegate_control_core::partition::Command;
use tidegate_control_core::ports::memory::Fault;
use tidegate_gateway_core::shard::ShardInput;

use super::callers::Said;
use super::{World, group, user};
use crate::bus::PLATFORMS;
use crate::control::{Control, Waiter};
use crate::planted::Seam;
use crate::rng::Rng;
use crate::script::{Action, MS, Target};
use crate::store::{Disk, JoinedGroups};

/// How long a drain takes.
const DRAIN_MS: u32 = 200;

impl World {
    pub(super) fn act(&mut self, action: Action) {
        match action {
            Action::Push { to, count, bytes, keyed, ephemeral, platform, ttl_s } => {
                let platform = platform.map(|number| PLATFORMS[usize::from(number) % PLATFORMS.len()]);
                let platform = platform.filter(|name| !name.is_empty());
                for _ in 0..count {
                    let to = self.target(to);
                    let said = Said { to, keyed, ephemeral, platform, ttl_s, bytes };
                    let push = self.callers.say(said);
                    self.call(push);
                }
            }
            Action::CreateGroup { group: number, open, members } => {
                let users = self.plan.shape.users;
                let members = if open { 0 } else { members };
                let members = (0..users).filter(|at| members & 1 << at != 0).map(uid).collect();
                let gid = gid(number);
                self.operate(number, Command::CreateGroup { gid, name: "team".into(), open, creator: None, members });
            }
            Action::AddMember { group, user } => {
                self.operate(group, Command::AddMember { gid: gid(group), uid: uid(user), by: None });
            }
            Action::RemoveMember { group, user } => {
                self.operate(group, Command::RemoveMember { gid: gid(group), uid: uid(user), by: None });
            }
            Action::Dismiss { group } => self.operate(group, Command::DismissGroup { gid: gid(group), by: None }),
            Action::Client { client, does } => self.client_does(client, does),
            Action::CrashGateway { gateway } => {
                self.trace.note(self.now, || format!("gateway {gateway} crashes"));
                self.replace_gateway(gateway);
            }
            Action::DrainGateway { gateway } => self.drain(gateway),
            Action::CrashControl => {
                let partition = self.some_partition();
                if self.seats[partition].control.life.is_some() {
                    self.crash_control(partition);
                }
            }
            Action::StoreDies { after, kept } => {
                let partition = self.some_partition();
                let disk = &self.seats[partition].disk;
                (0..after).for_each(|_| disk.plant(Fault::None));
                // What several partitions share commits whole or not at all.
                disk.plant(match (self.seats.len(), kept % 2) {
                    (1, _) => Fault::DiesWithin { kept: kept as usize },
                    (_, 0) => Fault::DiesBefore,
                    _ => Fault::DiesAfter,
                });
            }
            Action::StoreAway { commits } => {
                let partition = self.some_partition();
                (0..commits).for_each(|_| self.seats[partition].disk.plant(Fault::Unavailable));
            }
            Action::Trim { keep } => {
                let partition = self.some_partition();
                self.seats[partition].disk.trim(keep);
            }
            Action::LoseDisk => self.lose_disk(),
            Action::TakeOver => self.take_over(),
            Action::BreakLink { gateway } => {
                let partition = self.some_partition();
                match self.rng.chance(500) {
                    true => self.break_link(gateway, partition),
                    false => self.ups[gateway].doomed = Some(partition),
                }
            }
            Action::JumpClock { ms } => {
                let partition = self.some_partition();
                self.seats[partition].control.clock_ms += ms;
            }
        }
    }

    fn operate(&mut self, group: usize, command: Command) {
        let at = self.now + self.rng.between(50_000, 3 * MS);
        let partition = self.partition_of(&format!("g:{}", self::group(group)));
        let control = &mut self.seats[partition].control;
        if control.life.is_some() {
            control.call(at, command, Waiter::Operator);
        }
    }

    pub(super) fn target(&self, target: Target) -> String {
        match target {
            Target::User(number) => format!("u:{}", user(number % self.plan.shape.users)),
            Target::Group(number) => format!("g:{}", group(number % self.plan.shape.groups)),
            Target::Everybody => "g:_all".to_owned(),
        }
    }

    fn drain(&mut self, gateway: usize) {
        let up = &mut self.ups[gateway];
        if up.draining || self.now < up.accepts_at {
            return;
        }
        up.draining = true;
        up.stops_at = Some(self.now + u64::from(DRAIN_MS) * MS + self.rng.below(300 * MS));
        for shard in &mut self.gateways[gateway].shards {
            shard.mail.put(self.now, ShardInput::Drain { over_ms: DRAIN_MS });
            shard.wake(self.now);
        }
    }

    /// Control's data, of all partitions, is gone; it begins anew, as an operator would.
    fn lose_disk(&mut self) {
        let joined = (self.seats.len() > 1).then(JoinedGroups::default);
        for partition in 0..self.seats.len() {
            if self.seats[partition].control.life.is_some() {
                self.crash_control(partition);
            }
            self.end_zombie(partition);
            let base = Epoch(self.rng.next() >> 24 | 1);
            let seat = &mut self.seats[partition];
            let base = if self.seam == Some(Seam::EpochUnchangedAfterLoss) { seat.disk.base_epoch() } else { base };
            seat.disk = Disk::new(base, Rng::new(self.rng.next(), 5), joined.clone());
            seat.known = 0;
        }
        self.truth.lose_disk();
        let lost = self.upstream.as_mut().map(|upstream| upstream.lose()).unwrap_or_default();
        self.nobody_answers(lost);
    }

    /// Another process has become the owner. The old one does not know it: it still has its callers, and takes new ones.
    fn take_over(&mut self) {
        let partition = self.some_partition();
        if self.seats[partition].control.life.is_none() {
            return;
        }
        self.end_zombie(partition);
        let seat = &mut self.seats[partition];
        let (old, of) = (&seat.control, (partition, self.plan.partitions));
        let mut young = Control::new(of, old.credit, old.twice, self.seam, Rng::new(self.rng.next(), 6));
        (young.clock_ms, young.stale) = (old.clock_ms, old.stale);
        seat.zombie = Some(std::mem::replace(&mut seat.control, young));
        seat.control.starts_at = self.now + self.rng.below(20 * MS);
        self.break_links(partition);
    }

    /// A backend calls whom it takes for the owner, or anybody where that appends.
    pub(super) fn call(&mut self, push: usize) {
        if self.upstream.is_some() && !self.callers.sayings[push].said.ephemeral {
            return self.ask_owner(push);
        }
        let partition = self.partition_of_push(push);
        let seat = &mut self.seats[partition];
        let of_old = seat.zombie.is_some() && self.rng.chance(500);
        let control = seat.zombie.as_mut().filter(|_| of_old).unwrap_or(&mut seat.control);
        self.callers.call(self.now, push, control);
    }
}

impl World {
    /// One partition is called itself; durable pushes to several are appended to the upstream log.
    pub(super) fn ask_owner(&mut self, number: usize) {
        match &mut self.upstream {
            Some(upstream) if !self.callers.sayings[number].said.ephemeral => {
                let push = self.callers.push(number);
                upstream.take(self.now, push, Waiter::Push(number));
            }
            _ => {
                let partition = self.partition_of_push(number);
                self.callers.call(self.now, number, &mut self.seats[partition].control);
            }
        }
    }
}

fn gid(number: usize) -> Gid {
    group(number).parse().expect("a gid")
}

fn uid(number: usize) -> Uid {
    user(number).parse().expect("a uid")
}
