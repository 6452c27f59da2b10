//! How connections end: by us, by the peer, by a broken socket, by a drain, by a stop.
//!
//! Whatever the way, the hub hears `Left` for the memberships and then `Disconnected`, each once, at the moment the end
//! begins; the slot comes back when the driver says `Closed`.

use smallvec::SmallVec;

use tidegate_proto::v1;

use super::backlog::{Kind, Queued};
use super::config::PARTED_PER_TURN_MAX;
use super::engine::Engine;
use super::moving::Hint;
use super::send_state::SendCause;
use super::slab::{Phase, Slot, flag};
use super::wheel::{Tick, ticks};
use crate::client;
use crate::driver::CloseHow;
use crate::ids::{ConnId, Now, StreamIdx};
use crate::messages::{Encoding, ToHub};
use crate::planted::{self, Bug};
use crate::ws::close::CloseCode;
use crate::ws::{Decoder, OpCode, close_frame, frame};

/// The shard's own way out.
#[derive(Default)]
pub(super) struct Leaving {
    /// From the first `Drain` on, nobody new is taken.
    pub draining: bool,
    pub stopped: bool,
    parting: Option<Parting>,
}

impl Leaving {
    /// This connection goes at once: what is said to it now is about streams that it does not know.
    pub fn silences(&self, conn: ConnId) -> bool {
        let parting = self.parting.as_ref().filter(|_| !planted::is(Bug::AnswersCrossReset));
        parting.is_some_and(|parting| parting.silences(conn))
    }
}

/// Connections in the order in which they are let go.
struct Parting {
    conns: Vec<ConnId>,
    next: usize,
    /// So many of them, in the order of their slots, go as fast as turns allow and hear nothing but their `bye`.
    at_once: usize,
    start: Now,
    over_ns: u64,
    code: CloseCode,
    reason: &'static str,
}

impl Parting {
    /// How many should be gone at `now`.
    fn due(&self, now: Now) -> usize {
        let elapsed = now.0.saturating_sub(self.start.0);
        if elapsed >= self.over_ns {
            return self.conns.len();
        }
        let paced = (u128::from(elapsed) * self.conns.len() as u128 / u128::from(self.over_ns)) as usize;
        paced.max(self.at_once)
    }

    /// Whether this connection goes at once, and is still here.
    fn silences(&self, conn: ConnId) -> bool {
        let rest = self.conns.get(self.next..self.at_once).unwrap_or_default();
        rest.binary_search_by_key(&conn.index, |of| of.index).is_ok_and(|at| rest[at] == conn)
    }

    /// When one more is due.
    fn next_at(&self) -> Now {
        let share = u128::from(self.over_ns) * (self.next as u128 + 1);
        Now(self.start.0 + share.div_ceil(self.conns.len().max(1) as u128) as u64)
    }
}

impl Engine {
    /// Ends the connection with our close frame, and a `bye` before it for codes of ours. What waits goes out first.
    pub(super) fn close(&mut self, slot: Slot, code: CloseCode, reason: &str) {
        let uid = self.slab.identity(slot).map(|identity| identity.uid);
        let endpoint = match (code, uid) {
            (CloseCode::Drain, Some(uid)) => self.place_after_us(uid),
            _ => Box::default(),
        };
        self.close_with(slot, code, reason, Hint { endpoint, after_ms: None });
    }

    /// The same, with more to say about coming back.
    pub(super) fn close_with(&mut self, slot: Slot, code: CloseCode, reason: &str, hint: Hint) {
        if self.slab.hot(slot).phase != Phase::Open {
            return;
        }
        self.stats.closes.count(code);
        self.detach(slot, code.name());
        self.begin_end(slot, Phase::CloseSent);
        let hot = self.slab.hot(slot);
        if code.number() >= 3000 && !hot.is(flag::ECHO) {
            let bye = self.bye(code, reason, hint);
            self.reply(slot, &bye);
        }
        self.enqueue(slot, Queued { frame: close_frame(code.number(), reason), kind: Kind::Direct });
    }

    /// The same, but nothing that waits is sent any more, except for a frame that has begun.
    pub(super) fn close_cut_off(&mut self, slot: Slot, code: CloseCode, reason: &str) {
        let stats = &self.stats;
        if let Some(backlog) = &mut self.slab.hot_mut(slot).backlog {
            backlog.cut_off(&mut |lost| {
                stats.queue_bytes.sub(lost.cost() as u64);
                stats.dropped.closed.add(lost.kind);
            });
        }
        self.close(slot, code, reason);
    }

    /// The peer broke the protocol: nothing it sends can be read any more.
    pub(super) fn close_unreadable(&mut self, slot: Slot, code: CloseCode, reason: &str) {
        self.close(slot, code, reason);
        self.finish(slot);
    }

    /// The peer's close frame came.
    pub(super) fn on_peer_close(&mut self, slot: Slot, code: Option<u16>) {
        if self.slab.hot(slot).phase == Phase::Open {
            self.stats.closes.by_peer.add(1);
            self.detach(slot, "closed");
            self.begin_end(slot, Phase::Finishing);
            let answer = code.map_or_else(|| frame(OpCode::Close, b""), |code| close_frame(code, ""));
            self.enqueue(slot, Queued { frame: answer, kind: Kind::Direct });
        }
        self.finish(slot);
    }

    pub(super) fn on_eof(&mut self, slot: Slot) {
        if self.slab.hot(slot).phase == Phase::Open {
            self.stats.closes.eof.add(1);
            self.detach(slot, "eof");
            self.begin_end(slot, Phase::Finishing);
        }
        self.finish(slot);
    }

    pub(super) fn on_failed(&mut self, slot: Slot) {
        if self.slab.hot(slot).phase == Phase::Open {
            self.stats.closes.failed.add(1);
        }
        self.abort(slot, "failed");
    }

    pub(super) fn on_closed(&mut self, slot: Slot) {
        if planted::is(Bug::SendAfterClose) {
            self.leave_all(slot);
        }
        self.free_backlog(slot);
        self.wheel.disarm(&mut self.slab, slot);
        self.slab.release(slot);
        self.stats.connections.set(self.slab.live() as u64);
    }

    /// Patience with a closing connection has ended.
    pub(super) fn give_up(&mut self, slot: Slot) {
        if self.slab.hot(slot).phase == Phase::CloseSent && !self.slab.hot(slot).send.waits() {
            self.finish(slot);
        } else {
            self.abort(slot, "failed");
        }
    }

    /// FIN as soon as what waits is out.
    fn finish(&mut self, slot: Slot) {
        let hot = self.slab.hot_mut(slot);
        if matches!(hot.phase, Phase::CloseSent | Phase::Finishing) {
            hot.phase = Phase::Finishing;
            if !hot.send.waits() {
                self.todo.close.push((slot, CloseHow::Graceful));
            }
        }
    }

    fn abort(&mut self, slot: Slot, why: &'static str) {
        if matches!(self.slab.hot(slot).phase, Phase::Closing | Phase::Free) {
            return;
        }
        self.detach(slot, why);
        self.free_backlog(slot);
        let (hot, cold) = self.slab.both_mut(slot);
        hot.send = Default::default();
        hot.phase = Phase::Closing;
        cold.decoder = Decoder::new(false);
        self.wheel.disarm(&mut self.slab, slot);
        self.todo.close.push((slot, CloseHow::Abort));
    }

    fn begin_end(&mut self, slot: Slot, phase: Phase) {
        let deadline = self.clock.tick.plus(ticks(u64::from(self.config.close_timeout_ms)));
        let (hot, cold) = self.slab.both_mut(slot);
        hot.phase = phase;
        cold.deadline = deadline;
        self.wheel.arm(&mut self.slab, slot, deadline);
    }

    /// Takes the connection out of everything and tells the hub. Does nothing the second time.
    fn detach(&mut self, slot: Slot, why: &'static str) {
        self.acks.remove(&slot);
        let hot = self.slab.hot_mut(slot);
        hot.in_flight = None;
        let gaps = hot.backlog.as_mut().is_some_and(|backlog| !std::mem::take(&mut backlog.gaps).is_empty());
        if gaps {
            self.change(slot, SendCause::Healed);
            self.rest(slot);
        }
        self.leave_all(slot);
        self.disconnected(slot, why);
    }

    fn leave_all(&mut self, slot: Slot) {
        if planted::is(Bug::SendAfterClose) && self.slab.hot(slot).phase == Phase::Open {
            return;
        }
        let memberships = self.slab.take_memberships(slot);
        if memberships.is_empty() {
            return;
        }
        for membership in &memberships {
            self.take_out(membership.stream, membership.position);
        }
        let streams: SmallVec<[StreamIdx; 4]> = memberships.iter().map(|membership| membership.stream).collect();
        let left = ToHub::Left { conn: self.conn_ref(slot), streams, class: self.slab.hot(slot).class };
        self.todo.to_hub.push(left);
    }

    fn disconnected(&mut self, slot: Slot, reason: &'static str) {
        self.users.remove(&self.slab, slot);
        let uid = self.slab.identity(slot).and_then(|identity| identity.owned_uid());
        self.slab.forget_identity(slot);
        let Some(uid) = uid else { return };
        let conn = self.conn_ref(slot);
        let connection_id = self.kit.connection_ids.of(conn);
        self.todo.to_hub.push(ToHub::Disconnected { conn, uid, connection_id, reason });
    }

    fn bye(&mut self, code: CloseCode, reason: &str, hint: Hint) -> v1::ServerFrame {
        let spread_ms = self.config.reconnect_spread_ms;
        let after = hint.after_ms.or_else(|| code.reconnect().then(|| self.kit.rng.up_to(spread_ms)));
        client::bye_frame(code, reason, after, &hint.endpoint)
    }

    /// Encodes a frame of the shard's own for this connection and queues it.
    pub(super) fn reply(&mut self, slot: Slot, value: &v1::ServerFrame) {
        let encoding = self.slab.hot(slot).class.encoding;
        let op = match encoding {
            Encoding::Json => OpCode::Text,
            Encoding::Proto => OpCode::Binary,
        };
        let frame = frame(op, &client::encode(encoding, value));
        self.enqueue(slot, Queued { frame, kind: Kind::Direct });
    }

    /// Begins to let every connection go, evenly over so many milliseconds. A second call changes nothing.
    pub(super) fn drain(&mut self, over_ms: u32) {
        if std::mem::replace(&mut self.leaving.draining, true) {
            return;
        }
        let silenced = |conn: &ConnId| self.leaving.silences(*conn);
        let (mut conns, paced): (Vec<ConnId>, Vec<ConnId>) = self.open_conns().partition(silenced);
        let at_once = conns.len();
        conns.extend(paced);
        self.part(Parting {
            conns,
            next: 0,
            at_once,
            start: self.clock.now,
            over_ns: u64::from(over_ms) * 1_000_000,
            code: CloseCode::Drain,
            reason: "drain",
        });
    }

    /// Lets those go who are here now, while others come. What the hub says to them from now on speaks of streams that they
    /// do not know yet: it is not sent ([`Engine::find_open`]).
    pub(super) fn reopen(&mut self) {
        let (code, reason) = match self.leaving.draining {
            true => (CloseCode::Drain, "drain"),
            false => (CloseCode::Restart, "streams begin anew"),
        };
        let conns: Vec<ConnId> = self.open_conns().collect();
        self.part(Parting { next: 0, at_once: conns.len(), start: self.clock.now, over_ns: 0, code, reason, conns });
    }

    fn open_conns(&self) -> impl Iterator<Item = ConnId> + '_ {
        let open = self.slab.slots().filter(|&slot| self.slab.hot(slot).phase == Phase::Open);
        open.map(|slot| self.slab.id(slot))
    }

    fn part(&mut self, parting: Parting) {
        self.stats.parting.set(parting.conns.len() as u64);
        self.leaving.parting = Some(parting);
    }

    /// Lets go those whose turn it is. Returns when to call again: at once, if the turn's budget ended it.
    pub(super) fn run_parting(&mut self) -> Option<Now> {
        let mut parting = self.leaving.parting.take()?;
        let until = parting.due(self.clock.now).min(parting.next + PARTED_PER_TURN_MAX);
        for &conn in &parting.conns[parting.next..until] {
            if let Some(slot) = self.slab.find(conn) {
                self.close(slot, parting.code, parting.reason);
            }
        }
        parting.next = until;
        self.stats.parting.set((parting.conns.len() - until) as u64);
        if parting.next == parting.conns.len() {
            return None;
        }
        let at = parting.next_at();
        self.leaving.parting = Some(parting);
        Some(at)
    }

    /// Ends everything now.
    pub(super) fn stop(&mut self) {
        self.leaving.stopped = true;
        self.leaving.parting = None;
        self.stats.parting.set(0);
        let slots: Vec<Slot> = self.slab.slots().collect();
        for slot in slots {
            if self.slab.hot(slot).phase == Phase::Open {
                self.stats.closes.stopped.add(1);
            }
            self.abort(slot, "stopped");
        }
    }

    /// Stopped, and every socket is closed: nothing will ever wake this shard again.
    pub(super) fn is_finished(&self) -> bool {
        self.leaving.stopped && self.slab.live() == 0
    }

    /// Whether the time until which a closing connection is borne has come.
    pub(super) fn is_overdue(&self, deadline: Tick) -> bool {
        self.clock.tick >= deadline
    }
}
