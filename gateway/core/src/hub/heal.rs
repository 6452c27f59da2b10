//! Holes, and what cannot be healed: a gap for every member, or a new epoch.

use std::cmp::Reverse;
use std::time::Duration;

use super::ops::Asked;
use super::stream::{GapAll, Heal, HealStep};
use super::{HEAL_DISTANCE_MAX, HEAL_RETRY_MS, Hub, Timer, TimerKind, WINDOW_BYTES_MAX, WINDOW_MESSAGES_MAX};
use crate::client::errors::ErrorCode;
use crate::client::ops::{PAGE_BYTES_MAX, PULL_MESSAGES_MAX};
use crate::ids::{Epoch, Now, PartitionId, Seq, StreamIdx};
use crate::link::{Corr, LinkError, LinkOk, LinkOp, Pulled, ToLink};
use crate::messages::ToShard;

impl Hub {
    /// Seqs up to `upto` exist that have not arrived.
    pub(super) fn missing(&mut self, idx: StreamIdx, upto: Seq) {
        let Some(stream) = self.streams.at_mut(idx) else { return };
        let heal = stream.make_pending().heal.get_or_insert(Heal { target: upto, step: HealStep::WaitsForRoom });
        heal.target = heal.target.max(upto);
        self.resume_heal(idx);
    }

    /// R moved: perhaps nothing is missing any more.
    pub(super) fn healed(&mut self, idx: StreamIdx) {
        let Some(stream) = self.streams.at_mut(idx) else { return };
        let received = stream.received;
        let Some(pending) = stream.pending_mut() else { return };
        if pending.heal.is_some_and(|heal| heal.target <= received) {
            pending.heal = None;
            self.retries.extend(pending.blocked.drain(..));
        }
    }

    pub(super) fn resume_heal(&mut self, idx: StreamIdx) {
        let Some(stream) = self.streams.at_mut(idx) else { return };
        let serial = stream.serial;
        let Some(pending) = stream.pending_mut() else { return };
        let has_room = pending.durable_bytes + PAGE_BYTES_MAX <= WINDOW_BYTES_MAX
            && pending.durable.len() + PULL_MESSAGES_MAX as usize <= WINDOW_MESSAGES_MAX;
        if let Some(heal) = pending.heal.as_mut().filter(|heal| heal.step == HealStep::WaitsForRoom && has_room) {
            heal.step = HealStep::Queued;
            self.queue_heal(self.partition_at(idx), idx, serial);
        }
    }

    pub(super) fn queue_heal(&mut self, partition: PartitionId, idx: StreamIdx, serial: u32) {
        if let Some(link) = self.links.at_mut(partition) {
            link.heal_queue.push_back((idx, serial));
            self.links.stir(partition);
        }
    }

    pub(super) fn pump_heals(&mut self, now: Now, partition: PartitionId) {
        let asked_max = self.links.heals_asked_max();
        while let Some(link) = self.links.at_mut(partition).filter(|link| link.up && link.heals_asked < asked_max) {
            let Some((idx, serial)) = link.heal_queue.pop_front() else { return };
            let corr = self.next_corr;
            let Some(key) = self.streams.key(idx) else { continue };
            let Some(stream) = self.streams.current(idx, serial) else { continue };
            let (received, epoch, abandoned) = (stream.received, stream.epoch.clone(), !stream.has_members());
            let Some(heal) = stream.pending_mut().and_then(|pending| pending.heal.as_mut()) else { continue };
            if heal.step != HealStep::Queued {
                continue;
            }
            let target = heal.target;
            if abandoned || target.0.saturating_sub(received.0) > HEAL_DISTANCE_MAX {
                self.give_up(now, idx, target);
                continue;
            }
            heal.step = HealStep::Asked(corr);
            let op = LinkOp::Pull {
                stream: key,
                epoch: Some(epoch),
                after: received,
                since_ts: None,
                limit: PULL_MESSAGES_MAX,
            };
            let corr = self.corr();
            if let Some(link) = self.links.at_mut(partition) {
                link.heals_asked += 1;
            }
            self.stats.heals += 1;
            self.put_request(partition, corr, Asked::Heal { stream: idx, serial });
            self.to_link.push_back((partition, ToLink::Request { corr, uid: None, device: "".into(), op }));
        }
    }

    pub(super) fn heal_answered(
        &mut self,
        now: Now,
        corr: Corr,
        partition: PartitionId,
        (idx, serial): (StreamIdx, u32),
        result: Result<LinkOk, LinkError>,
    ) {
        if let Some(link) = self.links.at_mut(partition) {
            link.heals_asked = link.heals_asked.saturating_sub(1);
            self.links.stir(partition);
        }
        let Some(stream) = self.streams.current(idx, serial) else { return };
        let heal = stream.pending_mut().and_then(|pending| pending.heal.as_mut());
        let Some(heal) = heal.filter(|heal| heal.step == HealStep::Asked(corr)) else { return };
        // Nothing asks again while this answer is being worked on.
        heal.step = HealStep::Queued;
        let target = heal.target;
        match result {
            Ok(LinkOk::Pulled(pulled)) => self.heal_pulled(now, idx, pulled),
            Ok(_) => self.retry_heal_later(now, idx),
            Err(error) => match error.stands {
                Some(stands) if error.code == ErrorCode::Expired => {
                    if self.streams.at(idx).is_some_and(|stream| stream.epoch != stands.epoch) {
                        self.new_epoch(now, idx, stands.epoch, stands.first, stands.head);
                    } else {
                        self.give_up(now, idx, target.max(stands.head));
                    }
                }
                _ if error.code.retry() => self.retry_heal_later(now, idx),
                _ => self.give_up(now, idx, target),
            },
        }
    }

    fn heal_pulled(&mut self, now: Now, idx: StreamIdx, pulled: Pulled) {
        let Some(stream) = self.streams.at_mut(idx) else { return };
        if stream.epoch != pulled.epoch {
            self.new_epoch(now, idx, pulled.epoch, pulled.first, pulled.head);
            return;
        }
        stream.first = stream.first.max(pulled.first);
        let before = stream.received;
        if pulled.range.after > before {
            self.give_up(now, idx, pulled.range.after);
        }
        self.take_durable(now, idx, pulled.range, pulled.messages);
        let Some(stream) = self.streams.at_mut(idx) else { return };
        let progressed = stream.received > before;
        let Some(heal) = stream.pending_mut().and_then(|pending| pending.heal.as_mut()) else { return };
        if progressed {
            heal.step = HealStep::WaitsForRoom;
            self.resume_heal(idx);
        } else {
            self.retry_heal_later(now, idx);
        }
    }

    /// An answer that brought nothing must not be asked for again at once, or it would never stop.
    fn retry_heal_later(&mut self, now: Now, idx: StreamIdx) {
        let Some(stream) = self.streams.at_mut(idx) else { return };
        let serial = stream.serial;
        if let Some(heal) = stream.pending_mut().and_then(|pending| pending.heal.as_mut()) {
            heal.step = HealStep::Queued;
            let at = now + Duration::from_millis(HEAL_RETRY_MS);
            self.timers.push(Reverse(Timer { at, stream: idx, serial, kind: TimerKind::Heal }));
        }
    }

    /// What lies between R and `upto` is not brought by this node: members pull it themselves.
    fn give_up(&mut self, now: Now, idx: StreamIdx, upto: Seq) {
        self.flush(now, idx);
        let Some(stream) = self.streams.at_mut(idx) else { return };
        if upto <= stream.received {
            return;
        }
        let from = stream.flushed.next();
        self.jump(idx, upto);
        self.gap_all(idx, GapAll { from, new_epoch: false });
    }

    /// The stream's history began anew: `(first − 1, base]` is what exists of it, and what follows `base` will arrive.
    pub(super) fn new_epoch(&mut self, now: Now, idx: StreamIdx, epoch: Epoch, first: Seq, base: Seq) {
        self.flush(now, idx);
        self.streams.set_epoch(idx, &epoch);
        let Some(stream) = self.streams.at_mut(idx) else { return };
        stream.first = first;
        self.stats.new_epochs += 1;
        self.jump(idx, base);
        self.gap_all(idx, GapAll { from: first, new_epoch: true });
    }

    /// R and F stand at `seq`, and nothing before it is known here.
    fn jump(&mut self, idx: StreamIdx, seq: Seq) {
        self.tails.remove(&mut self.streams, idx);
        let Some(stream) = self.streams.at_mut(idx) else { return };
        (stream.received, stream.flushed) = (seq, seq);
        if let Some(pending) = stream.pending_mut() {
            pending.durable.clear();
            pending.durable_bytes = 0;
            pending.heal = None;
            self.retries.extend(pending.blocked.drain(..));
        }
        stream.drop_empty_pending();
    }

    fn gap_all(&mut self, idx: StreamIdx, gap: GapAll) {
        let Some(stream) = self.streams.at_mut(idx) else { return };
        if !stream.has_members() {
            return;
        }
        let waiting = &mut stream.make_pending().gap_all;
        *waiting = Some(match *waiting {
            Some(earlier) if !gap.new_epoch => GapAll { from: earlier.from.min(gap.from), ..earlier },
            _ => gap,
        });
        self.stats.gap_alls += 1;
        self.send_gap_all(idx);
    }

    /// A gap for all takes its turn behind the running fan-out: a member that this has not reached yet stands lower.
    pub(super) fn send_gap_all(&mut self, idx: StreamIdx) {
        let Some(stream) = self.streams.at_mut(idx).filter(|stream| !stream.is_running()) else { return };
        let Some(gap) = stream.pending_mut().and_then(|pending| pending.gap_all.take()) else { return };
        let (flushed, new_epoch) = (stream.flushed, gap.new_epoch);
        stream.drop_empty_pending();
        self.command_members(idx, || ToShard::GapAll { stream: idx, from: gap.from, flushed, new_epoch });
    }
}
