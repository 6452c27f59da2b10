//! The way out of one connection: at once if nothing waits, else behind what waits; what comes back short becomes a backlog.
//!
//! A *flight* is the sends between two flushes of the driver. A socket has at most one send in a flight, so that after the
//! flush each is known to be whole, short or failed, in order.

use bytes::Bytes;

use super::backlog::{Backlog, Gap, Kind, Queued};
use super::config::{ECHO_QUEUE_BYTES_MAX, SPARE_BACKLOGS_MAX};
use super::engine::Engine;
use super::send_state::{SendCause, SendState};
use super::slab::{Phase, Slot, flag, token};
use crate::driver::{CloseHow, Driver};
use crate::ids::{Seq, StreamIdx};
use crate::messages::ToHub;
use crate::planted::{self, Bug};
use crate::ws::close::CloseCode;

/// Queue entries of a spare backlog; more are given back.
const SPARE_QUEUE_MAX: usize = 64;

impl Engine {
    /// Sends a frame that is this connection's alone.
    pub(super) fn send_direct<D: Driver>(&mut self, driver: &mut D, slot: Slot, frame: Bytes) {
        if self.may_send(slot) {
            let shared = self.flight.share(frame, Kind::Direct);
            self.send_shared(driver, slot, shared);
        } else {
            self.enqueue(slot, Queued { frame, kind: Kind::Direct });
        }
    }

    /// The fan-out's way for whoever is not idle.
    pub(super) fn send_live<D: Driver>(&mut self, driver: &mut D, slot: Slot, shared: u32) {
        let kind = self.flight.frames[shared as usize].kind;
        let (Kind::Ephemeral { stream, .. } | Kind::Durable { stream, .. }) = kind else { return };
        if self.is_off(slot, stream, kind) {
            if planted::is(Bug::GapCountedTwice) {
                self.stats.dropped.gapped.add(kind);
            }
            self.stats.dropped.gapped.add(kind);
        } else if self.may_send(slot) {
            self.send_shared(driver, slot, shared);
        } else {
            let shared = &self.flight.frames[shared as usize];
            let queued = Queued { frame: shared.frame.clone(), kind: shared.kind };
            self.enqueue(slot, queued);
        }
    }

    /// Whether the connection gets nothing of the stream now. A gap that was pulled under a fan-out ends here.
    fn is_off(&mut self, slot: Slot, stream: StreamIdx, kind: Kind) -> bool {
        let backlog = self.slab.hot(slot).backlog.as_ref();
        let Some(gap) = backlog.and_then(|backlog| backlog.gap(stream)) else { return false };
        let covered = match kind {
            Kind::Durable { range, .. } => range.upto <= gap.covered,
            Kind::Ephemeral { .. } | Kind::Direct => false,
        };
        if !gap.is_covered() || covered {
            return true;
        }
        self.close_gap(slot, stream);
        false
    }

    fn may_send(&self, slot: Slot) -> bool {
        let hot = self.slab.hot(slot);
        hot.phase == Phase::Open && !hot.send.waits() && hot.sent_flight != self.flight.number
    }

    fn send_shared<D: Driver>(&mut self, driver: &mut D, slot: Slot, shared: u32) {
        let hot = self.slab.hot_mut(slot);
        let Some(of) = self.flight.frames.get(shared as usize) else { return };
        (hot.sent_flight, hot.sent_frame) = (self.flight.number, shared);
        driver.send(token(slot, hot), hot.socket, &of.frame, 0);
        self.flight.sends += 1;
        self.stats.sends.made.add(1);
        self.stats.sends.bytes.add(of.frame.len() as u64);
        self.stats.delivered.add(of.kind);
        if hot.is(flag::ACK_SENT) {
            self.todo.acks.push(slot);
        }
    }

    /// Puts a frame behind what waits. Needs no driver: it is offered when the turn comes to its backlogs.
    pub(super) fn enqueue(&mut self, slot: Slot, queued: Queued) {
        if matches!(self.slab.hot(slot).phase, Phase::Closing | Phase::Free) {
            self.stats.dropped.closed.add(queued.kind);
            return;
        }
        self.stats.queue_bytes.add(queued.cost() as u64);
        self.backlog_mut(slot).push(queued);
        self.change(slot, SendCause::Waits);
        self.keep_bound(slot);
        self.make_ready(slot);
    }

    /// The connection's backlog, made if it has none.
    pub(super) fn backlog_mut(&mut self, slot: Slot) -> &mut Backlog {
        let spare = &mut self.kit.spare_backlogs;
        self.slab.hot_mut(slot).backlog.get_or_insert_with(|| spare.pop().unwrap_or_default())
    }

    pub(super) fn change(&mut self, slot: Slot, cause: SendCause) {
        let hot = self.slab.hot_mut(slot);
        hot.send = hot.send.after(cause);
    }

    fn make_ready(&mut self, slot: Slot) {
        let hot = self.slab.hot_mut(slot);
        let ready = hot.backlog.as_ref().is_some_and(|b| !b.blocked && !b.in_flight() && !b.is_empty());
        if ready && !hot.is(flag::READY) {
            hot.set(flag::READY, true);
            self.todo.ready.push(slot);
        }
    }

    /// The slow consumer's policy.
    fn keep_bound(&mut self, slot: Slot) {
        let (hot, memberships) = self.slab.hot_and_memberships(slot);
        let (Phase::Open, Some(backlog)) = (hot.phase, &mut hot.backlog) else { return };
        let echo = hot.flags & flag::ECHO != 0;
        let limit = if echo { ECHO_QUEUE_BYTES_MAX } else { self.config.queue_bytes_max };
        if backlog.cost() <= limit {
            return;
        }
        let stats = &self.stats;
        let gaps = backlog.gaps.len();
        backlog.shed(limit, &mut |lost| {
            stats.queue_bytes.sub(lost.cost() as u64);
            stats.dropped.slow.add(lost.kind);
        });
        let hard = if echo { limit } else { self.config.hard_queue_bytes() };
        let beyond = backlog.cost() > hard;
        // Frames from before a stream was left go without a trace.
        let is_member = |stream| memberships.iter().any(|membership| membership.stream == stream);
        backlog.gaps.retain(|gap| is_member(gap.stream));
        let gapped = backlog.gaps.len() - gaps;
        if gapped > 0 {
            stats.gaps.add(gapped as u64);
            self.change(slot, SendCause::Gapped);
        }
        if beyond {
            self.close_cut_off(slot, CloseCode::Slow, "too slow");
        }
    }

    /// Offers the backlogs that can go. Returns true if the flight is full and more are waiting: flush and come again.
    pub(super) fn pump<D: Driver>(&mut self, driver: &mut D) -> bool {
        let mut ready = std::mem::replace(&mut self.todo.ready, std::mem::take(&mut self.todo.ready_spare));
        while !self.flight.is_full()
            && let Some(slot) = ready.pop()
        {
            self.slab.hot_mut(slot).set(flag::READY, false);
            self.offer(driver, slot);
        }
        let more = !ready.is_empty();
        self.todo.ready.append(&mut ready);
        self.todo.ready_spare = ready;
        more
    }

    fn offer<D: Driver>(&mut self, driver: &mut D, slot: Slot) {
        let hot = self.slab.hot_mut(slot);
        let token = token(slot, hot);
        let Some(backlog) = &mut hot.backlog else { return };
        if hot.phase == Phase::Closing || backlog.blocked || backlog.in_flight() {
            return;
        }
        if hot.sent_flight == self.flight.number {
            // Its send of this flight is not confirmed: the next one takes it.
            return self.make_ready(slot);
        }
        let Some((bytes, from)) = backlog.offer(&mut self.flight.scratch) else { return };
        hot.sent_flight = self.flight.number;
        driver.send(token, hot.socket, &bytes, from);
        self.flight.sends += 1;
        self.flight.offered.push(slot);
        self.stats.sends.made.add(1);
        self.stats.sends.bytes.add((bytes.len() - from) as u64);
        if backlog.offered_frames() > 1 {
            self.flight.gathered += bytes.len();
            self.stats.sends.gathered.add(1);
        }
    }

    /// After every flush: what came back short is known by now, all else is out.
    pub(super) fn settle<D: Driver>(&mut self, driver: &mut D) {
        for at in 0..self.flight.offered.len() {
            let slot = self.flight.offered[at];
            self.confirm(slot, None);
        }
        self.flight.offered.clear();
        self.flight.land();
        for at in 0..self.todo.acks.len() {
            self.note_sent(self.todo.acks[at]);
        }
        self.todo.acks.clear();
        while let Some(slot) = self.todo.tell.pop() {
            if !self.slab.hot(slot).send.waits() {
                self.tell_gaps(slot);
            }
        }
        for slot in self.todo.watch.drain(..) {
            let hot = self.slab.hot(slot);
            if !matches!(hot.phase, Phase::Closing | Phase::Free) {
                driver.watch_writable(token(slot, hot), hot.socket);
            }
        }
        for (slot, how) in self.todo.close.drain(..) {
            let hot = self.slab.hot_mut(slot);
            let goes = match how {
                CloseHow::Abort => hot.phase == Phase::Closing,
                // A send of the last flight may have come back short: then it is closed once the rest is out.
                CloseHow::Graceful => hot.phase == Phase::Finishing && !hot.send.waits(),
            };
            if goes {
                hot.phase = Phase::Closing;
                driver.close(token(slot, hot), hot.socket, how);
            }
        }
    }

    /// A backlog's send ended with `taken` bytes in the socket, or all of them.
    fn confirm(&mut self, slot: Slot, taken: Option<usize>) {
        let hot = self.slab.hot_mut(slot);
        let Some(backlog) = hot.backlog.as_mut().filter(|backlog| backlog.in_flight()) else { return };
        let stats = &self.stats;
        backlog.settle(taken, &mut |done| {
            stats.queue_bytes.sub(done.cost() as u64);
            stats.delivered.add(done.kind);
        });
        let acks = hot.is(flag::ACK_SENT);
        if acks {
            self.todo.acks.push(slot);
        }
        self.after_progress(slot);
    }

    /// Some of the backlog is out: offers the rest when it can be, or goes back to normal.
    fn after_progress(&mut self, slot: Slot) {
        let Some(backlog) = &self.slab.hot(slot).backlog else { return };
        if !backlog.is_empty() {
            return self.make_ready(slot);
        }
        if backlog.blocked {
            return;
        }
        self.change(slot, SendCause::Emptied);
        self.tell_gaps(slot);
        self.rest(slot);
        if self.slab.hot(slot).phase == Phase::Finishing {
            self.todo.close.push((slot, CloseHow::Graceful));
        }
    }

    pub(super) fn on_sent(&mut self, slot: Slot, result: Result<usize, i32>) {
        if self.slab.hot(slot).phase == Phase::Closing {
            return;
        }
        let Ok(taken) = result else { return self.on_failed(slot) };
        self.stats.sends.short.add(1);
        let hot = self.slab.hot(slot);
        let (number, shared) = (hot.sent_flight, hot.sent_frame);
        if hot.backlog.as_ref().is_some_and(|backlog| backlog.in_flight()) {
            self.backlog_mut(slot).blocked = true;
            self.change(slot, SendCause::Cut);
            self.todo.watch.push(slot);
            return self.confirm(slot, Some(taken));
        }
        debug_assert_eq!(number, self.flight.number, "a short send of an earlier flight");
        let Some(of) = self.flight.frames.get(shared as usize) else { return };
        let queued = Queued { frame: of.frame.clone(), kind: of.kind };
        self.stats.delivered.sub(queued.kind);
        self.stats.queue_bytes.add(queued.cost() as u64);
        let backlog = self.backlog_mut(slot);
        backlog.push_cut(queued);
        backlog.blocked = true;
        let stats = self.stats.clone();
        self.backlog_mut(slot).consume(taken, &mut |done| {
            stats.queue_bytes.sub(done.cost() as u64);
            stats.delivered.add(done.kind);
        });
        self.change(slot, SendCause::Cut);
        self.todo.watch.push(slot);
        self.keep_bound(slot);
    }

    pub(super) fn on_writable(&mut self, slot: Slot) {
        let Some(backlog) = &mut self.slab.hot_mut(slot).backlog else { return };
        backlog.blocked = false;
        self.after_progress(slot);
    }

    /// Takes a stream off for the connection.
    pub(super) fn open_gap(&mut self, slot: Slot, gap: Gap) {
        self.backlog_mut(slot).gaps.push(gap);
        self.stats.gaps.add(1);
        self.change(slot, SendCause::Gapped);
        self.tell_soon(slot);
    }

    /// Nothing waits, as far as is known: the next flush tells whether a send of this flight was short.
    pub(super) fn tell_soon(&mut self, slot: Slot) {
        if !self.slab.hot(slot).send.waits() {
            self.todo.tell.push(slot);
        }
    }

    /// The stream is live again for the connection, or of no interest any more.
    pub(super) fn close_gap(&mut self, slot: Slot, stream: StreamIdx) {
        let Some(backlog) = &mut self.slab.hot_mut(slot).backlog else { return };
        if backlog.heal(stream) && backlog.gaps.is_empty() {
            self.change(slot, SendCause::Healed);
            self.rest(slot);
        }
    }

    /// A pull brought the connection to `upto`: a gap ends there if nothing more was flushed meanwhile.
    pub(super) fn reached(&mut self, slot: Slot, stream: StreamIdx, upto: Seq) {
        if self.streams.flushed(stream).is_none_or(|flushed| upto < flushed) {
            return;
        }
        if !self.streams.is_running(stream) {
            return self.close_gap(slot, stream);
        }
        if let Some(gap) = self.slab.hot_mut(slot).backlog.as_mut().and_then(|backlog| backlog.gap_mut(stream)) {
            gap.covered = upto;
        }
    }

    /// Asks the hub for the `gap` frames that are due, now that nothing waits.
    fn tell_gaps(&mut self, slot: Slot) {
        let conn = self.conn_ref(slot);
        let hot = self.slab.hot_mut(slot);
        let (Phase::Open, Some(backlog)) = (hot.phase, &mut hot.backlog) else { return };
        for gap in backlog.gaps.iter_mut().filter(|gap| !gap.told && !gap.is_covered()) {
            gap.told = true;
            self.todo.to_hub.push(ToHub::Gapped { conn, stream: gap.stream, from: gap.from, class: hot.class });
        }
    }

    /// Gives the backlog back if the connection has become idle.
    pub(super) fn rest(&mut self, slot: Slot) {
        if self.slab.hot(slot).send == SendState::Idle {
            self.free_backlog(slot);
        }
    }

    pub(super) fn free_backlog(&mut self, slot: Slot) {
        let Some(mut backlog) = self.slab.hot_mut(slot).backlog.take() else { return };
        let stats = &self.stats;
        backlog.reset(&mut |lost| {
            stats.queue_bytes.sub(lost.cost() as u64);
            stats.dropped.closed.add(lost.kind);
        });
        let spare = &mut self.kit.spare_backlogs;
        if spare.len() < SPARE_BACKLOGS_MAX && backlog.capacity() <= SPARE_QUEUE_MAX {
            spare.push(backlog);
        }
    }
}
