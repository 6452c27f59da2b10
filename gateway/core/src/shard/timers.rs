//! Heartbeats, token expiry, patience with closing connections, and the reports of `ack_mode=sent`: one timer a connection.

use tidegate_proto::v1;

use super::backlog::{Kind, Queued};
use super::config::{EXPIRING_NOTICE_MS, SENT_REPORT_MS, TIMERS_PER_TURN_MAX};
use super::engine::Engine;
use super::slab::{Phase, Slot, flag};
use super::wheel::{Tick, ticks};
use crate::messages::ToHub;
use crate::ws::close::CloseCode;

impl Engine {
    /// Looks at those whose tick has come. Returns true if the turn's budget ended it.
    pub(super) fn run_timers(&mut self) -> bool {
        for _ in 0..TIMERS_PER_TURN_MAX {
            let Some(slot) = self.wheel.due(&mut self.slab) else { return false };
            self.on_timer(slot);
        }
        true
    }

    fn on_timer(&mut self, slot: Slot) {
        match self.slab.hot(slot).phase {
            Phase::Open => self.on_open_timer(slot),
            Phase::CloseSent | Phase::Finishing => {
                let deadline = self.slab.cold(slot).deadline;
                if self.is_overdue(deadline) {
                    self.give_up(slot);
                }
                if matches!(self.slab.hot(slot).phase, Phase::CloseSent | Phase::Finishing) {
                    self.wheel.arm(&mut self.slab, slot, deadline);
                }
            }
            Phase::Free | Phase::Closing => {}
        }
    }

    fn on_open_timer(&mut self, slot: Slot) {
        let tick = self.clock.tick;
        let expires = self.slab.cold(slot).deadline;
        if expires != Tick::NEVER {
            if tick >= expires {
                return self.close(slot, CloseCode::TokenExpired, "token expired");
            }
            self.tell_expiring(slot, expires);
        }
        let hot = self.slab.hot(slot);
        let (silent, interval) = (tick.since(hot.heard), u32::from(hot.interval));
        if silent >= 2 * interval {
            return self.close(slot, CloseCode::HeartbeatLost, "heartbeat lost");
        }
        if silent >= interval && !hot.is(flag::PINGED) {
            self.slab.hot_mut(slot).set(flag::PINGED, true);
            self.stats.pings.add(1);
            let ping = self.kit.ping.clone();
            self.enqueue(slot, Queued { frame: ping, kind: Kind::Direct });
        }
        self.report_sent(slot);
        self.watch_silence(slot);
    }

    /// Arms the timer of an open connection for whatever comes first.
    pub(super) fn watch_silence(&mut self, slot: Slot) {
        let hot = self.slab.hot(slot);
        if hot.phase != Phase::Open {
            return;
        }
        let interval = u32::from(hot.interval);
        let mut at = if hot.is(flag::PINGED) {
            hot.heard.plus(2 * interval)
        } else {
            // Jitter, so that clients that came together do not stay together.
            hot.heard.plus(interval + self.kit.rng.up_to(interval / 4))
        };
        if hot.is(flag::ACK_DUE) {
            at = at.min(self.next_report(slot));
        }
        let expires = self.slab.cold(slot).deadline;
        if expires != Tick::NEVER {
            let told = self.slab.hot(slot).is(flag::EXPIRING_TOLD);
            let notice = if told { expires } else { Tick(expires.0.saturating_sub(ticks(EXPIRING_NOTICE_MS)).max(1)) };
            at = at.min(notice);
        }
        self.wheel.arm(&mut self.slab, slot, at);
    }

    /// Heartbeat interval in ticks.
    pub(super) fn interval(&self, asked_ms: u32) -> u16 {
        let clamped = self.config.clamp_interval(asked_ms);
        u16::try_from(ticks(u64::from(clamped))).unwrap_or(u16::MAX)
    }

    fn tell_expiring(&mut self, slot: Slot, expires: Tick) {
        let left = expires.since(self.clock.tick);
        if left > ticks(EXPIRING_NOTICE_MS) || self.slab.hot(slot).is(flag::EXPIRING_TOLD) {
            return;
        }
        self.slab.hot_mut(slot).set(flag::EXPIRING_TOLD, true);
        let in_ms = expires.end().0.saturating_sub(self.clock.now.0) / 1_000_000;
        let expiring = v1::Expiring { in_ms: u32::try_from(in_ms).unwrap_or(u32::MAX) };
        self.reply(slot, &v1::ServerFrame { id: 0, body: Some(v1::server_frame::Body::Expiring(expiring)) });
    }

    /// Something went to a connection with `ack_mode=sent`: it is reported within a second.
    pub(super) fn note_sent(&mut self, slot: Slot) {
        let hot = self.slab.hot_mut(slot);
        if hot.phase != Phase::Open || hot.is(flag::ACK_DUE) {
            return;
        }
        hot.set(flag::ACK_DUE, true);
        let at = self.next_report(slot);
        self.wheel.arm_by(&mut self.slab, slot, at);
    }

    fn next_report(&self, slot: Slot) -> Tick {
        let not_before = self.acks.get(&slot).map_or(Tick::NEVER, |acks| acks.not_before);
        not_before.max(self.clock.tick.plus(1))
    }

    /// A connection for which nothing waits has its whole inbox, up to what was flushed, in the socket; any other has to wait.
    fn report_sent(&mut self, slot: Slot) {
        let tick = self.clock.tick;
        let hot = self.slab.hot(slot);
        let Some(acks) = self.acks.get(&slot) else { return };
        if !hot.is(flag::ACK_DUE) || tick < acks.not_before {
            return;
        }
        let out = !hot.send.waits() && hot.sent_flight != self.flight.number;
        let off = |stream| hot.backlog.as_ref().is_some_and(|backlog| backlog.gap(stream).is_some());
        let settled = acks.inbox.is_none_or(|stream| out && !off(stream) && !self.is_fanning_out(stream));
        let upto = acks.inbox.filter(|_| settled).and_then(|stream| Some((stream, self.streams.flushed(stream)?)));
        let moved = upto.filter(|&(_, upto)| upto > acks.reported).zip(self.requester(slot));
        self.slab.hot_mut(slot).set(flag::ACK_DUE, !settled);
        let Some(acks) = self.acks.get_mut(&slot) else { return };
        acks.not_before = tick.plus(ticks(SENT_REPORT_MS));
        if let Some(((stream, upto), who)) = moved {
            acks.reported = upto;
            self.todo.to_hub.push(ToHub::Sent { who, stream, upto });
        }
    }
}
