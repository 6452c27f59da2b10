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
use crate::store::Disk;

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
                self.operate(Command::CreateGroup { gid, name: "team".into(), open, creator: None, members });
            }
            Action::AddMember { group, user } => {
                self.operate(Command::AddMember { gid: gid(group), uid: uid(user), by: None });
            }
            Action::RemoveMember { group, user } => {
                self.operate(Command::RemoveMember { gid: gid(group), uid: uid(user), by: None });
            }
            Action::Dismiss { group } => self.operate(Command::DismissGroup { gid: gid(group), by: None }),
            Action::Client { client, does } => self.client_does(client, does),
            Action::CrashGateway { gateway } => {
                self.trace.note(self.now, || format!("gateway {gateway} crashes"));
                self.replace_gateway(gateway);
            }
            Action::DrainGateway { gateway } => self.drain(gateway),
            Action::CrashControl => {
                if self.control.life.is_some() {
                    self.crash_control();
                }
            }
            Action::StoreDies { after, kept } => {
                (0..after).for_each(|_| self.disk.plant(Fault::None));
                self.disk.plant(Fault::DiesWithin { kept: kept as usize });
            }
            Action::StoreAway { commits } => (0..commits).for_each(|_| self.disk.plant(Fault::Unavailable)),
            Action::Trim { keep } => self.disk.trim(keep),
            Action::LoseDisk => self.lose_disk(),
            Action::TakeOver => self.take_over(),
            Action::BreakLink { gateway } if self.rng.chance(500) => self.break_link(gateway),
            Action::BreakLink { gateway } => self.ups[gateway].doomed = true,
            Action::JumpClock { ms } => self.control.clock_ms += ms,
        }
    }

    fn operate(&mut self, command: Command) {
        let at = self.now + self.rng.between(50_000, 3 * MS);
        if self.control.life.is_some() {
            self.control.call(at, command, Waiter::Operator);
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

    /// Control's data folder is gone; a new one is made, as an operator would.
    fn lose_disk(&mut self) {
        if self.control.life.is_some() {
            self.crash_control();
        }
        self.end_zombie();
        let base = Epoch(self.rng.next() >> 24 | 1);
        let base = if self.seam == Some(Seam::EpochUnchangedAfterLoss) { self.disk.base_epoch() } else { base };
        self.disk = Disk::new(base, Rng::new(self.rng.next(), 5));
        self.known = 0;
        self.truth.lose_disk();
    }

    /// Another process has become the owner. The old one does not know it: it still has its callers, and takes new ones.
    fn take_over(&mut self) {
        if self.control.life.is_none() {
            return;
        }
        self.end_zombie();
        let old = &self.control;
        let mut young = Control::new(old.credit, old.twice, self.seam, Rng::new(self.rng.next(), 6));
        (young.clock_ms, young.stale) = (old.clock_ms, old.stale);
        self.zombie = Some(std::mem::replace(&mut self.control, young));
        self.control.starts_at = self.now + self.rng.below(20 * MS);
        self.break_links();
    }

    /// A backend calls whom it takes for the owner.
    pub(super) fn call(&mut self, push: usize) {
        let of_old = self.zombie.is_some() && self.rng.chance(500);
        let control = self.zombie.as_mut().filter(|_| of_old).unwrap_or(&mut self.control);
        self.callers.call(self.now, push, control);
    }
}

fn gid(number: usize) -> Gid {
    group(number).parse().expect("a gid")
}

fn uid(number: usize) -> Uid {
    user(number).parse().expect("a uid")
}
