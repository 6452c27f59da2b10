//! What the front door and the hub tell a shard to do.

use smallvec::SmallVec;

use super::backlog::Gap;
use super::engine::Engine;
use super::fanout::Run;
use super::memberships::Membership;
use super::moving::Hint;
use super::slab::{Acks, Phase, Slot, flag, token};
use super::wheel::{Tick, ticks};
use super::{Promoted, Promotion};
use crate::client::ops::AckMode;
use crate::driver::Driver;
use crate::ids::{ConnId, ConnRef, Seq, StreamIdx, Uid};
use crate::messages::{ConnClass, Direct, Encoding, FrameSet, Hello, PlatformId, ToHub, ToShard};
use crate::ws::close::CloseCode;
use crate::ws::{Decoder, DeflateParams, Inflater, WINDOW_BITS_MAX, WINDOW_BITS_MIN};

impl Engine {
    /// Takes a connection over. What cannot be taken is given up and counted: its socket closes unanswered.
    pub(super) fn promote<D: Driver>(
        &mut self,
        driver: &mut D,
        promotion: Promotion<D::Incoming>,
        inflater: &mut Inflater,
    ) {
        let Promotion { socket, mut early, session } = promotion;
        let free = if self.leaving.stopped { None } else { self.slab.insert() };
        let Some(slot) = free else { return self.stats.refused.add(1) };
        let socket = match driver.register(token(slot, self.slab.hot(slot)), socket) {
            Ok(socket) => socket,
            Err(_) => {
                self.slab.release(slot);
                return self.stats.refused.add(1);
            }
        };
        let interval = self.interval(0);
        let hot = self.slab.hot_mut(slot);
        (hot.socket, hot.phase, hot.heard, hot.interval) = (socket, Phase::Open, self.clock.tick, interval);
        self.stats.promoted.add(1);
        self.stats.connections.set(self.slab.live() as u64);
        let place = match &session {
            Promoted::Client { hello, .. } if self.leaving.draining => self.place_after_us(hello.uid.as_str()),
            _ => Box::default(),
        };
        match session {
            Promoted::Client { hello, params } => self.open_client(slot, hello, params),
            Promoted::Echo { params } => self.open_echo(slot, params),
        }
        if self.leaving.draining {
            let hint = Hint { endpoint: place, after_ms: None };
            return self.close_with(slot, CloseCode::Drain, "drain", hint);
        }
        self.watch_silence(slot);
        if !early.is_empty() {
            self.on_data(slot, &mut early, inflater);
        }
    }

    fn open_client(&mut self, slot: Slot, mut hello: Box<Hello>, params: Option<DeflateParams>) {
        hello.ping_interval_ms = self.config.clamp_interval(hello.ping_interval_ms);
        let interval = self.interval(hello.ping_interval_ms);
        let tick = self.clock.tick;
        if hello.ack_mode == AckMode::Sent {
            self.acks.insert(slot, Acks::default());
        }
        let (hot, cold) = self.slab.both_mut(slot);
        hot.class = hello.class;
        hot.interval = interval;
        hot.set(flag::AUTO_JOIN, hello.auto_join);
        hot.set(flag::ACK_SENT, hello.ack_mode == AckMode::Sent);
        cold.decoder = Decoder::new(params.is_some());
        cold.deadline = hello.expires_in_ms.map_or(Tick::NEVER, |ms| tick.plus(ticks(ms)));
        if self.leaving.draining {
            return;
        }
        self.slab.set_identity(slot, &hello.uid, &hello.device);
        self.users.insert(&self.slab, slot);
        self.settle_in(slot);
        let conn = self.conn_ref(slot);
        let connection_id = self.kit.connection_ids.of(conn);
        self.todo.to_hub.push(ToHub::Connected { conn, connection_id, hello });
    }

    fn open_echo(&mut self, slot: Slot, params: Option<DeflateParams>) {
        let (hot, cold) = self.slab.both_mut(slot);
        hot.class = ConnClass { encoding: Encoding::Json, deflate: false, platform: PlatformId::default() };
        hot.set(flag::ECHO, true);
        cold.decoder = Decoder::new(params.is_some());
        hot.deflate_window =
            params.map_or(0, |params| params.server_max_window_bits.clamp(WINDOW_BITS_MIN, WINDOW_BITS_MAX));
    }

    pub(super) fn on_command<D: Driver>(&mut self, driver: &mut D, command: ToShard) {
        match command {
            ToShard::Fanout(fanout) => {
                let flushed = fanout.range.map(|range| range.upto);
                self.begin_run(driver, Run::fanout(fanout), flushed);
            }
            ToShard::GapAll { stream, from, flushed, new_epoch } => {
                self.begin_run(driver, Run::gap_all(stream, from, new_epoch), Some(flushed));
            }
            ToShard::Dismiss { stream, frames } => self.begin_run(driver, Run::dismiss(stream, frames), None),
            ToShard::AddMember { conn, stream, flushed, gapped, class, inbox } => {
                match self.find_open(conn).filter(|&slot| !self.slab.is_member(slot, stream)) {
                    Some(slot) => self.add_member(slot, stream, flushed, gapped, inbox),
                    None => self.left(conn, stream, class),
                }
            }
            ToShard::RemoveMember { conn, stream } => {
                if let Some(slot) = self.find_open(conn) {
                    self.remove_member(slot, stream);
                }
            }
            ToShard::Invite { inbox, stream, flushed, frames } => self.invite(driver, inbox, stream, flushed, &frames),
            ToShard::Expel { uid, stream, frames } => self.expel(driver, &uid, stream, &frames),
            ToShard::Send(direct) => self.on_direct(driver, direct),
            ToShard::Gap { conn, stream, from, frame } => {
                let slot = self.find_open(conn).filter(|&slot| {
                    let backlog = &self.slab.hot(slot).backlog;
                    backlog
                        .as_ref()
                        .and_then(|backlog| backlog.gap(stream))
                        .is_some_and(|gap| gap.from == from && !gap.is_covered())
                });
                if let Some(slot) = slot {
                    self.send_direct(driver, slot, frame);
                }
            }
            ToShard::Close { conn, code, reason } => {
                if let Some(slot) = self.find_open(conn) {
                    self.close(slot, code, reason);
                }
            }
            ToShard::TellPresent { of, partitions, from } => self.tell_present(of, &partitions, from),
            ToShard::Reopen => self.reopen(),
        }
    }

    /// Whom the hub still speaks to.
    fn find_open(&self, conn: ConnId) -> Option<Slot> {
        let open = self.slab.find(conn).filter(|&slot| self.slab.hot(slot).phase == Phase::Open);
        open.filter(|_| !self.leaving.silences(conn))
    }

    fn on_direct<D: Driver>(&mut self, driver: &mut D, direct: Direct) {
        let Some(slot) = self.find_open(direct.conn) else { return };
        if let Some(id) = direct.finishes {
            self.answered(slot, id);
        }
        if let Some(stream) = direct.recovers {
            if self.slab.is_member(slot, stream) {
                return;
            }
            self.slab.hot_mut(slot).set(flag::RECOVERED, true);
        }
        self.send_direct(driver, slot, direct.frame);
        if let Some((stream, upto)) = direct.reached {
            self.reached(slot, stream, upto);
        }
    }

    fn add_member(&mut self, slot: Slot, stream: StreamIdx, flushed: Seq, gapped: bool, inbox: bool) {
        let position = self.streams.add(stream, slot, flushed);
        self.slab.add_membership(slot, Membership { stream, position });
        let hot = self.slab.hot_mut(slot);
        let recovered = hot.is(flag::RECOVERED);
        hot.set(flag::RECOVERED, false);
        if inbox && let Some(acks) = self.acks.get_mut(&slot) {
            *acks = Acks { inbox: Some(stream), reported: if recovered { Seq::ZERO } else { flushed }, ..*acks };
            if recovered {
                self.todo.acks.push(slot);
            }
        }
        if gapped {
            self.open_gap(slot, Gap::new(stream, flushed.next(), true));
        }
    }

    /// Returns whether it was a member. The hub hears it.
    pub(super) fn remove_member(&mut self, slot: Slot, stream: StreamIdx) -> bool {
        let Some(Membership { position, .. }) = self.slab.remove_membership(slot, stream) else { return false };
        self.take_out(stream, position);
        self.close_gap(slot, stream);
        self.left(self.slab.id(slot), stream, self.slab.hot(slot).class);
        true
    }

    /// Takes a member out of the stream's list and tells whoever moved where it stands now.
    pub(super) fn take_out(&mut self, stream: StreamIdx, position: u32) {
        if let Some(moved) = self.streams.remove(stream, position) {
            self.slab.set_position(moved, stream, position);
        }
    }

    fn left(&mut self, conn: ConnId, stream: StreamIdx, class: ConnClass) {
        let conn = ConnRef { shard: self.id, conn };
        self.todo.to_hub.push(ToHub::Left { conn, streams: SmallVec::from_slice(&[stream]), class });
    }

    fn invite<D: Driver>(
        &mut self,
        driver: &mut D,
        inbox: StreamIdx,
        stream: StreamIdx,
        flushed: Seq,
        frames: &FrameSet,
    ) {
        let invited: SmallVec<[Slot; 8]> = self.streams.members(inbox).iter().copied().collect();
        let joins = |engine: &Engine, slot: Slot| {
            slot != Slot::NONE
                && !engine.leaving.silences(engine.slab.id(slot))
                && engine.slab.hot(slot).is(flag::AUTO_JOIN)
                && !engine.slab.is_member(slot, stream)
        };
        let invited: SmallVec<[Slot; 8]> = invited.into_iter().filter(|&slot| joins(self, slot)).collect();
        for &slot in &invited {
            self.add_member(slot, stream, flushed, false, false);
        }
        // Said before the frames are sent: one of them may be the end of a slow connection, which says `Left`.
        self.todo.to_hub.push(ToHub::Invited { shard: self.id, stream, added: invited.len() as u32 });
        for slot in invited {
            self.send_of(driver, slot, frames);
        }
    }

    fn expel<D: Driver>(&mut self, driver: &mut D, uid: &Uid, stream: StreamIdx, frames: &FrameSet) {
        for slot in self.users.of(&self.slab, uid.as_str()) {
            if self.remove_member(slot, stream) {
                self.send_of(driver, slot, frames);
            }
        }
    }

    /// Sends the connection its frame of the set, if there is one for its class.
    pub(super) fn send_of<D: Driver>(&mut self, driver: &mut D, slot: Slot, frames: &FrameSet) {
        match frames.select(self.slab.hot(slot).class) {
            Some(frame) if frame.is_empty() => {}
            Some(frame) => self.send_direct(driver, slot, frame.clone()),
            None => self.stats.frames_missing.add(1),
        }
    }
}
