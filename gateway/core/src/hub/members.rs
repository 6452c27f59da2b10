//! Memberships: counts per shard, lingering, and users who come into groups or leave them.

use std::time::Duration;

use tidegate_proto::v1::{self, server_frame::Body};

use super::encode::notice;
use super::open::{Entry, Late, OpenKind, PendingOpen, remember_late};
use super::stream::Classes;
use super::{Hub, OPENS_MAX};
use crate::client::errors::ErrorCode;
use crate::client::gap_frame;
use crate::ids::{ConnRef, Now, Seq, ShardId, StreamIdx, StreamKey, Uid};
use crate::link::LinkError;
use crate::messages::{ConnClass, ToShard};

impl Hub {
    pub(super) fn member_left(&mut self, now: Now, shard: ShardId, idx: StreamIdx) {
        let Some(stream) = self.streams.at_mut(idx) else { return };
        if stream.remove_members(shard, 1) {
            self.stats.memberships = self.stats.memberships.saturating_sub(1);
        }
        self.linger_if_idle(now, idx);
    }

    pub(super) fn linger_if_idle(&mut self, now: Now, idx: StreamIdx) {
        let Some(stream) = self.streams.at_mut(idx) else { return };
        if !stream.has_members() && stream.holds == 0 {
            stream.classes = Classes::default();
            if stream.has_unsent() {
                self.flush(now, idx);
            }
        }
        let Some(stream) = self.streams.at_mut(idx) else { return };
        if stream.is_idle() && !stream.is_lingering() {
            stream.set_lingering(true);
            let until = now + Duration::from_millis(self.config.linger_ms.into());
            self.lingering.push_back((until, idx, stream.serial));
        }
    }

    pub(super) fn lingered(&mut self, now: Now, idx: StreamIdx, serial: u32) {
        let Some(stream) = self.streams.current(idx, serial) else { return };
        stream.set_lingering(false);
        let partition = self.partition_at(idx);
        let Some(stream) = self.streams.at(idx) else { return };
        if !stream.is_idle() || self.links.at(partition).is_some_and(|link| link.forgotten.is_full()) {
            self.linger_if_idle(now, idx);
            return;
        }
        self.tails.remove(&mut self.streams, idx);
        if let Some(stream) = self.streams.remove(idx) {
            self.forget(stream);
        }
    }

    /// A slow connection's socket drained.
    pub(super) fn gapped(&mut self, conn: ConnRef, idx: StreamIdx, from: Seq, class: ConnClass) {
        let jitter = self.config.gap_jitter_ms;
        let pull_after_ms = self.jitter_ms(jitter);
        let Some(stream) = self.streams.at(idx) else { return };
        let waiting = stream.pending().and_then(|pending| pending.gap_all);
        if waiting.is_some_and(|gap| gap.new_epoch) {
            // `from` is a place of the epoch that ended; the shard asks again when it hears of the new one.
            return;
        }
        let key = self.streams.key_text(idx);
        let gap = gap_frame(key, &stream.epoch, from, stream.flushed, stream.flushed, pull_after_ms);
        let frame = self.encoder.single(class, &gap);
        self.stats.gaps += 1;
        self.send(conn.shard, ToShard::Gap { conn: conn.conn, stream: idx, from, frame });
    }

    /// The user became a member of a group by a record of its log: its live connections join, from that record on.
    pub(super) fn membership_began(&mut self, uid: Uid, joined: Late) {
        for corr in self.opens_of.get(&uid).cloned().unwrap_or_default() {
            if let Some(open) = self.opens.get_mut(&corr) {
                remember_late(open, &joined);
            }
        }
        let Late { stream: key, epoch, seq, elsewhere } = joined;
        let has_inbox = self.live_inbox(&uid).is_some();
        if !has_inbox {
            return;
        }
        if self.opens.len() >= OPENS_MAX {
            self.stats.overloaded += 1;
            return;
        }
        let live = self.streams.find(&key);
        // Another partition's word may be older than what the group's own has said since, so that one is asked.
        let live = live.filter(|_| !elsewhere);
        let same_epoch = live.filter(|idx| self.streams.at(*idx).is_some_and(|stream| stream.epoch == epoch));
        let kind = OpenKind::Invite { stream: key };
        let Some(idx) = same_epoch else {
            self.begin_open(PendingOpen::new(uid, kind));
            return;
        };
        let start = Seq(seq.0.saturating_sub(1));
        if self.streams.at(idx).is_some_and(|stream| stream.received < start) {
            self.missing(idx, start);
        }
        let entry = Entry { head: start, start, listed: false, ..Entry::at(idx, epoch, start) };
        self.begin_local(PendingOpen::new(uid, kind), entry);
    }

    fn live_inbox(&self, uid: &Uid) -> Option<StreamIdx> {
        let idx = self.streams.find(&uid.inbox())?;
        self.streams.at(idx).filter(|stream| stream.has_members()).map(|_| idx)
    }

    /// Makes the user's connections members at F. Until a shard says how many it added, as many count as its members that
    /// could be meant, so that fan-outs go there and are not taken for small.
    pub(super) fn invite(&mut self, uid: &Uid, idx: StreamIdx) {
        let Some(inbox) = self.live_inbox(uid) else { return };
        let Some((classes, shards)) = self.streams.at(inbox).map(|inbox| {
            let shards: smallvec::SmallVec<[(ShardId, u32); 8]> = inbox.members().collect();
            (inbox.classes, shards)
        }) else {
            return;
        };
        let key = self.streams.key_text(idx).to_owned();
        let Some(stream) = self.streams.at_mut(idx) else { return };
        stream.classes.merge(classes);
        let flushed = stream.flushed;
        let joined = v1::Joined { stream: key, epoch: stream.epoch.to_string(), head: flushed.0 };
        let frames = self.encoder.shared(classes, &notice(Body::Joined(joined)));
        for (shard, candidates) in shards {
            stream.add_members(shard, candidates);
            stream.make_pending().invites.push_back((shard, candidates));
            self.stats.memberships += u64::from(candidates);
            let frames = frames.clone();
            self.to_shard.push_back((shard, ToShard::Invite { inbox, stream: idx, flushed, frames }));
        }
    }

    pub(super) fn invited(&mut self, now: Now, shard: ShardId, idx: StreamIdx, added: u32) {
        let Some(stream) = self.streams.at_mut(idx) else { return };
        let invites = &mut stream.make_pending().invites;
        let Some(at) = invites.iter().position(|(invited, _)| *invited == shard) else { return };
        let counted = invites.remove(at).map_or(0, |(_, candidates)| candidates);
        stream.add_members(shard, added);
        stream.remove_members(shard, counted);
        stream.drop_empty_pending();
        self.stats.memberships = (self.stats.memberships + u64::from(added)).saturating_sub(counted.into());
        self.linger_if_idle(now, idx);
    }

    /// The stream is no more. What arrived before that still leaves for everybody; who comes later asks control.
    pub(super) fn dismissed(&mut self, now: Now, idx: StreamIdx) {
        self.refuse_dismissed(now, idx);
        self.flush(now, idx);
        let Some(stream) = self.streams.at_mut(idx) else { return };
        stream.set_open_group(false);
        let (classes, received) = (stream.classes, stream.received);
        let key = self.streams.key_text(idx).to_owned();
        let left = v1::Left { stream: key, seq: received.0, reason: "dismissed".to_owned() };
        let frames = self.encoder.shared(classes, &notice(Body::Left(left)));
        self.command_members(idx, || ToShard::Dismiss { stream: idx, frames: frames.clone() });
    }

    /// Opens that were granted the stream before it ended must not bring anybody into what may begin under its name.
    fn refuse_dismissed(&mut self, now: Now, idx: StreamIdx) {
        if self.streams.at(idx).is_none_or(|stream| stream.holds == 0) {
            return;
        }
        let Some(key) = self.streams.key(idx) else { return };
        let holds = |open: &PendingOpen| open.entries.iter().any(|entry| entry.idx == idx);
        let mut corrs: Vec<_> = self.opens.iter().filter(|(_, open)| holds(open)).map(|(corr, _)| *corr).collect();
        corrs.sort_unstable();
        for corr in corrs {
            let Some(open) = self.opens.get_mut(&corr) else { continue };
            let message = "the group was dismissed".into();
            let error = LinkError { code: ErrorCode::NotFound, message, retry_after_ms: None, stands: None };
            let dropped_by = open.entries.iter().find(|entry| entry.idx == idx).map_or(0, |entry| entry.part);
            open.errors.push((dropped_by, key.clone(), error));
            let (dropped, kept) = std::mem::take(&mut open.entries).into_iter().partition(|entry| entry.idx == idx);
            open.entries = kept;
            self.retries.push_back(corr);
            self.release(now, dropped);
        }
    }

    /// The user ceased to be a member by the record at `seq`. What arrived before it still leaves for everybody; nothing
    /// that follows reaches the user, whatever runs.
    pub(super) fn membership_ended(&mut self, now: Now, uid: Uid, key: StreamKey, seq: Seq, reason: &str) {
        let live = self.streams.find(&key);
        for corr in self.opens_of.get(&uid).cloned().unwrap_or_default() {
            let Some(open) = self.opens.get_mut(&corr) else { continue };
            open.late.retain(|late| late.stream != key);
            let (dropped, kept) = std::mem::take(&mut open.entries).into_iter().partition(|e| Some(e.idx) == live);
            open.entries = kept;
            self.retries.push_back(corr);
            self.release(now, dropped);
        }
        let Some(idx) = live else { return };
        if self.streams.find(&uid.inbox()).is_some() {
            self.flush(now, idx);
        }
        let Some(stream) = self.streams.at(idx) else { return };
        let left = v1::Left { stream: key.to_string(), seq: seq.0, reason: reason.to_owned() };
        let frames = self.encoder.shared(stream.classes, &notice(Body::Left(left)));
        self.command_members(idx, || ToShard::Expel { uid: uid.clone(), stream: idx, frames: frames.clone() });
    }
}
