//! Owners of partitions: they begin, take turns, carry what they owe, and die.

use tidegate_control_core::domain::Refusal;
use tidegate_control_core::partition::{Command, GatewayId, Push, Reply, homes_of};
use tidegate_gateway_core::link::FromLink;

use super::World;
use crate::bus;
use crate::carrier::Attempt;
use crate::control::{Asker, Turned, Waiter, send};
use crate::gateway::{Down, Gateway};
use crate::planted::Seam;
use crate::script::MS;
use crate::upstream::{Told, late};

/// Most errands of one round.
const ROUND_MAX: u64 = 8;

/// What goes wrong with errands on their way, in cases of 1,000.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ErrandFaults {
    /// They do not arrive, or their answer does not.
    pub lost: u64,
    /// They arrive after they were asked again.
    pub late: u64,
}

/// Which owner of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    Present,
    Zombie,
}

impl World {
    pub(super) fn start(&mut self, partition: usize) -> Result<(), String> {
        let at = self.now + self.rng.below(5 * MS);
        let source = self.upstream.as_ref().map_or(0, |upstream| upstream.source_of(partition as u32));
        let seat = &mut self.seats[partition];
        seat.control.start(self.now, &seat.disk, (at, source))?;
        self.trace.note(self.now, || format!("control starts {partition}"));
        self.read_history()
    }

    pub(super) fn control_turn(&mut self, partition: usize) -> Result<(), String> {
        let turned = self.seats[partition].control.turn(self.now, &mut self.gateways, self.upstream.as_ref());
        self.read_history()?;
        let (detached, died) = self.hand_on(partition, Owner::Present, turned)?;
        for id in detached {
            let of = |gateway: &Gateway| gateway.links[partition].id == Some(id);
            if let Some(gateway) = self.gateways.iter().position(of) {
                self.break_link(gateway, partition);
            }
        }
        for gateway in 0..self.gateways.len() {
            let doomed = self.ups[gateway].doomed.filter(|doomed| *doomed == partition);
            if doomed.is_some() && self.gateways[gateway].links[partition].down.len() > 1 {
                self.ups[gateway].doomed = None;
                self.break_link(gateway, partition);
            }
        }
        match died {
            Some(why) if why.contains("outputs of a batch") || why.contains("second answer") => Err(why),
            Some(why) => {
                self.trace.note(self.now, || format!("control {partition} dies: {why}"));
                self.crash_control(partition);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// It has callers, but no links: its gateways have dialled its successor. It reads the upstream log, and carries what it
    /// owes, as its successor does.
    pub(super) fn zombie_turn(&mut self, partition: usize) -> Result<(), String> {
        let upstream = self.upstream.as_ref();
        let Some(zombie) = &mut self.seats[partition].zombie else { return Ok(()) };
        let turned = zombie.turn(self.now, &mut [], upstream);
        self.read_history()?;
        let (_, died) = self.hand_on(partition, Owner::Zombie, turned)?;
        if let Some(why) = died {
            self.trace.note(self.now, || format!("the old owner of {partition} dies: {why}"));
            self.end_zombie(partition);
        }
        Ok(())
    }

    /// What came of a turn goes to whoever it is for. Returns what becomes of the owner.
    fn hand_on(
        &mut self,
        partition: usize,
        owner: Owner,
        turned: Turned,
    ) -> Result<(Vec<GatewayId>, Option<String>), String> {
        for (push, result) in turned.answers {
            self.callers.answered(self.now, push, result, &self.truth)?;
        }
        for (place, result) in turned.sequenced {
            if let Some(upstream) = &mut self.upstream {
                upstream.sequenced(self.now, place, result);
            }
        }
        for (asker, result) in turned.dispatched {
            self.answer_link(asker, result);
        }
        for (asker, push) in turned.pushes {
            self.dispatch(asker, push);
        }
        self.carried(turned.taken)?;
        if !turned.errands.is_empty() {
            let at = self.now + self.rng.between(50_000, 2 * MS);
            if let Some(control) = self.seats[partition].owner(owner) {
                turned.errands.into_iter().for_each(|(lsn, errand)| control.carrier.take(at, lsn, errand));
            }
        }
        Ok((turned.detached, turned.died))
    }

    /// A client's message, by way of the cluster.
    fn dispatch(&mut self, asker: Asker, push: Box<Push>) {
        let waiter = Waiter::Dispatched(asker);
        match &mut self.upstream {
            Some(upstream) if !push.ephemeral => upstream.take(self.now, push, waiter),
            _ => {
                let command = Command::Push(push);
                let home = homes_of(&command).first().map_or(0, |stream| self.partition_of(stream.as_str()));
                let at = self.now + self.rng.between(50_000, 3 * MS);
                let control = &mut self.seats[home].control;
                match control.life.is_some() {
                    true => control.call(at, command, waiter),
                    false => self.answer_link(asker, Err(late())),
                }
            }
        }
    }

    fn answer_link(&mut self, asker: Asker, result: Result<Reply, Refusal>) {
        let Asker { via, gateway: id, corr } = asker;
        let at = self.now + self.rng.between(50_000, 2 * MS);
        if let Some(gateway) = self.gateways.iter_mut().find(|gateway| gateway.links[via].id == Some(id)) {
            let item: FromLink = bus::reply(corr, result);
            send(gateway, via, id, at, Down::Item(item));
        }
    }

    /// The upstream log takes what is due, and tells who waits.
    pub(super) fn upstream_turn(&mut self) -> Result<(), String> {
        let Some(upstream) = &mut self.upstream else { return Ok(()) };
        let (told, fresh) = upstream.turn(self.now);
        for (partition, seat) in self.seats.iter_mut().enumerate() {
            if fresh.contains(&upstream.source_of(partition as u32)) {
                let at = self.now + 100_000;
                seat.control.wake(at);
                seat.zombie.iter_mut().for_each(|zombie| zombie.wake(at));
            }
        }
        for (who, told) in told {
            match (who, told) {
                (Waiter::Push(push), Told::Answer(result)) => {
                    self.callers.answered(self.now, push, result, &self.truth)?;
                }
                (Waiter::Dispatched(asker), Told::Answer(result)) => self.answer_link(asker, result),
                (who, Told::Unknown) => self.nobody_answers(vec![who]),
                _ => {}
            }
        }
        Ok(())
    }

    /// What is owed goes on its way.
    pub(super) fn carry(&mut self, partition: usize, owner: Owner) {
        let size = (self.rng.between(1, ROUND_MAX) as usize, self.plan.partitions);
        let mut numbers = self.attempts;
        let Some(control) = self.seats[partition].owner(owner) else { return };
        let attempts = control.carrier.attempts(self.now, size, self.seam, &mut numbers);
        if self.seam == Some(Seam::RoutedTooEarly) {
            let upto = control.carrier.promises();
            control.routed(self.now + 10_000, upto);
        }
        self.attempts = numbers;
        for attempt in attempts {
            self.attempt(partition, attempt);
        }
    }

    fn attempt(&mut self, from: usize, attempt: Attempt) {
        let Attempt { number, to, errands } = attempt;
        let (at, again) = (self.now + self.rng.between(50_000, 3 * MS), self.now + self.rng.between(5 * MS, 100 * MS));
        let late = self.rng.chance(self.errand_faults.late);
        let lost = self.rng.chance(self.errand_faults.lost);
        let target = &mut self.seats[to.0 as usize].control;
        let arrives = target.life.is_some() && !lost;
        if arrives {
            let at = if late { again + self.rng.below(300 * MS) } else { at };
            target.hear(at, number, Command::Errands(errands), Waiter::Errand { from, number });
        }
        if !arrives || late {
            self.missed(from, number, again);
        }
    }

    fn missed(&mut self, from: usize, number: u64, again: u64) {
        for owner in [Owner::Present, Owner::Zombie] {
            if let Some(control) = self.seats[from].owner(owner) {
                control.carrier.missed(number, again);
            }
        }
    }

    fn carried(&mut self, taken: Vec<(usize, u64, Result<Reply, Refusal>)>) -> Result<(), String> {
        for (from, number, result) in taken {
            let (at, again) = (self.now + self.rng.below(MS), self.now + self.rng.between(5 * MS, 100 * MS));
            if self.rng.chance(self.errand_faults.lost) {
                self.missed(from, number, again);
                continue;
            }
            let seat = &mut self.seats[from];
            let owners = [Some(&mut seat.control), seat.zombie.as_mut()];
            let asker = owners.into_iter().flatten().find(|control| control.carrier.has_asked(number));
            let Some(control) = asker else { continue };
            if let Some(upto) = control.carrier.answered(number, result, at, again)? {
                control.routed(self.now + 10_000, upto);
            }
        }
        Ok(())
    }

    pub(super) fn end_zombie(&mut self, partition: usize) {
        if let Some(mut zombie) = self.seats[partition].zombie.take() {
            let lost = zombie.crash();
            self.nobody_answers(lost);
        }
    }

    pub(super) fn crash_control(&mut self, partition: usize) {
        let lost = self.seats[partition].control.crash();
        self.nobody_answers(lost);
        self.break_links(partition);
        self.seats[partition].control.starts_at = self.now + self.rng.between(5 * MS, 400 * MS);
    }

    pub(super) fn nobody_answers(&mut self, waiters: Vec<Waiter>) {
        let mut pushes = Vec::new();
        for waiter in waiters {
            match waiter {
                Waiter::Push(push) => pushes.push(push),
                Waiter::Errand { from, number } => {
                    let again = self.now + self.rng.between(5 * MS, 100 * MS);
                    self.missed(from, number, again);
                }
                Waiter::Dispatched(asker) => self.answer_link(asker, Err(late())),
                Waiter::Operator | Waiter::Link { .. } | Waiter::Appended { .. } => {}
            }
        }
        self.callers.lost(self.now, pushes);
    }

    pub(super) fn break_links(&mut self, partition: usize) {
        for gateway in 0..self.gateways.len() {
            self.break_link(gateway, partition);
            // Nobody is left to hear.
            self.gateways[gateway].links[partition].up.clear();
        }
    }
}
