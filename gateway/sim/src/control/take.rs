//! What the next turn of the partition takes: from its links, from callers, from other partitions, from the upstream log.

use tidegate_control_core::partition::{Command, Input, Reply};
use tidegate_control_core::ports::Consumed;

use super::{Asker, BATCH_MAX, Control, FEED_MAX, Life, TICK_NS, Turned, Waiter, send};
use crate::bus;
use crate::gateway::{Down, Gateway, Up};
use crate::planted::Seam;
use crate::upstream::Upstream;

impl Control {
    pub(super) fn gather(
        &mut self,
        now: u64,
        life: &mut Life,
        gateways: &mut [Gateway],
        upstream: Option<&Upstream>,
        turned: &mut Turned,
    ) {
        for _ in 0..self.rng.between(1, BATCH_MAX) {
            // With several partitions also what other partitions and the upstream log bring.
            let sources = gateways.len() + if upstream.is_some() { 3 } else { 1 };
            let first = self.rng.index(sources);
            let ready = |at: usize| match (gateways.get(at), at - at.min(gateways.len())) {
                (Some(gateway), _) => gateway.links[self.partition].up.front().is_some_and(|(at, _)| *at <= now),
                (None, 0) => self.api.front().is_some_and(|(at, ..)| *at <= now),
                (None, 1) => self.errands.first_key_value().is_some_and(|((at, _), _)| *at <= now),
                (None, _) => life.next_feed(upstream).is_some_and(|at| at <= now),
            };
            let Some(at) = (0..sources).map(|at| (first + at) % sources).find(|at| ready(*at)) else { break };
            match (at.checked_sub(gateways.len()), upstream) {
                (None, _) => self.take_from_link(now, life, &mut gateways[at], turned),
                (Some(0), _) => {
                    if let Some((_, command, waiter)) = self.api.pop_front() {
                        life.ask(command, waiter);
                    }
                }
                (Some(1), _) => self.take_errands(life, turned),
                (Some(_), Some(upstream)) => self.take_from_log(now, life, upstream),
                (Some(_), None) => {}
            }
        }
        if now >= life.next_tick {
            life.inputs.push(Input::Tick);
            life.next_tick = now + TICK_NS;
        }
    }

    fn take_from_link(&mut self, now: u64, life: &mut Life, gateway: &mut Gateway, turned: &mut Turned) {
        let origin = life.partition.origin();
        match gateway.links[self.partition].up.pop_front() {
            Some((_, Up::Hello(id))) => {
                life.inputs.push(Input::LinkUp { gateway: id, credit_bytes: self.credit });
                let at = now + self.rng.between(50_000, 2_000_000);
                send(gateway, self.partition, id, at, Down::Up(id, origin.history.0));
            }
            Some((_, Up::Gone(id))) => life.inputs.push(Input::LinkDown { gateway: id }),
            Some((_, Up::Value(id, value))) => match bus::up(id, origin, value) {
                bus::Up::Inputs(inputs) => life.inputs.extend(inputs),
                // A client's message goes by way of the cluster.
                bus::Up::Request { corr, command: Command::Push(push) } if self.partitions > 1 => {
                    turned.pushes.push((Asker { via: self.partition, gateway: id, corr }, push));
                }
                bus::Up::Request { corr, command } => life.ask(command, Waiter::Link { gateway: id, corr }),
                bus::Up::Presence => {}
            },
            None => {}
        }
    }

    fn take_errands(&mut self, life: &mut Life, turned: &mut Turned) {
        let Some((_, (command, waiter))) = self.errands.pop_first() else { return };
        match (self.seam, waiter) {
            (Some(Seam::ErrandTakenUncommitted), Waiter::Errand { from, number }) => {
                turned.taken.push((from, number, Ok(Reply::Done { seq: None })));
                life.ask(command, Waiter::Operator);
            }
            _ => life.ask(command, waiter),
        }
    }

    /// One batch: what stands there for this partition, and how far it was read.
    fn take_from_log(&mut self, now: u64, life: &mut Life, upstream: &Upstream) {
        let Consumed { source, next } = life.place;
        let most = self.rng.between(1, FEED_MAX) as usize;
        let mut upto = next;
        for appended in upstream.read(now, source, next, most) {
            let offset = upto;
            upto += 1;
            if appended.home == life.partition.origin().partition {
                life.fed += 1;
                let token = life.token(Waiter::Appended { source, offset });
                let (push, upto) = (Box::new(appended.push.clone()), Consumed { source, next: upto });
                life.inputs.push(Input::Appended { token, push, upto });
            }
        }
        life.place.next = upto;
        life.inputs.push(Input::Consumed(life.place));
    }
}
