//! Windows and fan-outs: how what arrives leaves.
//!
//! The first message after a quiet window leaves at once, what comes within the window leaves together at its end. While
//! a fan-out runs nothing leaves: the window stretches by itself.

use std::cmp::Reverse;

use super::encode::BatchHead;
use super::stream::{Pending, Stream, WindowEnd};
use super::tail::message_bytes;
use super::{FRAME_BYTES_MAX, Hub, Timer, TimerKind, WINDOW_BYTES_MAX, WINDOW_MESSAGES_MAX};
use crate::hub::EPHEMERAL_MAX;
use crate::ids::{Now, PartitionId, Seq, SeqRange, ShardId, StreamIdx};
use crate::link::{Deliver, Message};
use crate::messages::{Fanout, FrameSet, ToShard};

impl Hub {
    pub(super) fn deliver(&mut self, now: Now, partition: PartitionId, deliver: Deliver) {
        self.credit(partition, deliver.bytes);
        if !self.accept_position(partition, deliver.position) {
            self.stats.stale_owner_dropped += 1;
            return;
        }
        let Some(idx) = self.streams.find(&deliver.stream) else { return };
        match deliver.range {
            None => self.take_ephemeral(now, idx, deliver.messages),
            Some(range) => {
                if self.streams.at(idx).is_some_and(|stream| stream.epoch != deliver.epoch) {
                    // Nothing says what is still stored before `after`, so clients ask from the beginning.
                    self.new_epoch(now, idx, deliver.epoch, Seq(1), range.after);
                }
                self.take_durable(now, idx, range, deliver.messages);
            }
        }
    }

    /// Messages that cover `range` of the stream's present epoch, from a delivery or from a pull.
    pub(super) fn take_durable(&mut self, now: Now, idx: StreamIdx, range: SeqRange, mut messages: Vec<Message>) {
        let Some(stream) = self.streams.at_mut(idx) else { return };
        let after = stream.received;
        if range.upto <= after {
            return;
        }
        messages.retain(|message| message.seq > after && message.seq <= range.upto);
        if range.after > after || !has_room(stream, &messages) {
            self.missing(idx, range.upto);
            return;
        }
        stream.received = range.upto;
        self.stats.messages_received += messages.len() as u64;
        if !messages.is_empty() {
            self.tails.extend(&mut self.streams, idx, after, messages.iter());
        }
        self.healed(idx);
        let Some(stream) = self.streams.at_mut(idx) else { return };
        if !stream.has_members() {
            self.flush(now, idx);
            return;
        }
        if !messages.is_empty() {
            let pending = stream.make_pending();
            pending.durable_bytes += messages.iter().map(message_bytes).sum::<usize>();
            pending.durable.extend(messages);
        }
        self.leave_or_wait(now, idx);
    }

    fn take_ephemeral(&mut self, now: Now, idx: StreamIdx, messages: Vec<Message>) {
        self.stats.ephemeral_received += messages.len() as u64;
        let Some(stream) = self.streams.at_mut(idx) else { return };
        if !stream.has_members() || messages.is_empty() {
            return;
        }
        let waiting = &mut stream.make_pending().ephemeral;
        waiting.extend(messages);
        let excess = waiting.len().saturating_sub(EPHEMERAL_MAX);
        waiting.drain(..excess);
        self.stats.ephemeral_dropped += excess as u64;
        self.leave_or_wait(now, idx);
    }

    /// Leaves at once after a quiet window or when the window is full, otherwise at its end.
    fn leave_or_wait(&mut self, now: Now, idx: StreamIdx) {
        let Some(stream) = self.streams.at_mut(idx) else { return };
        if stream.is_running() {
            return;
        }
        let still = stream.window.still(now);
        let armed = stream.pending().is_some_and(|pending| pending.timer_armed);
        let full = stream.pending().is_some_and(|pending| pending.durable_bytes >= WINDOW_BYTES_MAX / 2);
        if full || (still.is_none() && !armed) {
            self.flush(now, idx);
        } else if let Some(at) = still.filter(|_| !armed) {
            stream.make_pending().timer_armed = true;
            let timer = Timer { at, stream: idx, serial: stream.serial, kind: TimerKind::Window };
            self.timers.push(Reverse(timer));
        }
    }

    pub(super) fn window_ended(&mut self, now: Now, idx: StreamIdx, serial: u32) {
        let Some(stream) = self.streams.current(idx, serial) else { return };
        if let Some(pending) = stream.pending_mut() {
            pending.timer_armed = false;
        }
        if stream.window.still(now).is_none() {
            self.flush(now, idx);
        } else if stream.has_unsent() {
            // The window was flushed early and a new one began.
            self.leave_or_wait(now, idx);
        }
        if let Some(stream) = self.streams.at_mut(idx) {
            stream.drop_empty_pending();
        }
    }

    pub(super) fn fanout_done(&mut self, now: Now, idx: StreamIdx) {
        let Some(stream) = self.streams.at_mut(idx) else { return };
        if !stream.end_on_shard() {
            return;
        }
        self.send_gap_all(idx);
        self.retry_blocked(idx);
        let Some(stream) = self.streams.at_mut(idx) else { return };
        let rest_of_split = stream.pending().is_some_and(|pending| pending.durable_bytes >= FRAME_BYTES_MAX);
        if rest_of_split || (stream.has_unsent() && stream.window.still(now).is_none()) {
            self.flush(now, idx);
        } else if stream.has_unsent() {
            self.leave_or_wait(now, idx);
        }
        self.resume_heal(idx);
        self.linger_if_idle(now, idx);
    }

    /// Everything that waits leaves, as far as no fan-out has to end first.
    pub(super) fn flush(&mut self, now: Now, idx: StreamIdx) {
        let window = self.window();
        let Some(stream) = self.streams.at_mut(idx) else { return };
        let flushed = stream.flushed;
        if !stream.has_members() {
            skip_to_received(stream);
        }
        if stream.has_unsent() && !stream.is_running() {
            stream.window = WindowEnd::after(now, window);
        }
        while let Some(stream) = self.streams.at_mut(idx)
            && !stream.is_running()
            && stream.has_unsent()
        {
            self.send_next_frame(idx);
        }
        if let Some(stream) = self.streams.at_mut(idx) {
            if stream.flushed > flushed
                && let Some(pending) = stream.pending_mut()
            {
                self.retries.extend(pending.blocked.drain(..));
            }
            stream.drop_empty_pending();
        }
        self.resume_heal(idx);
    }

    fn send_next_frame(&mut self, idx: StreamIdx) {
        let Some(stream) = self.streams.at_mut(idx) else { return };
        let (range, messages) = next_frame(stream);
        if let Some(range) = range {
            stream.flushed = range.upto;
        }
        let (classes, epoch) = (stream.classes, stream.epoch.clone());
        let head = BatchHead { stream: self.streams.key_text(idx), epoch: &epoch, range };
        let frames = self.encoder.batch(classes, head, &messages);
        self.stats.batches += 1;
        self.stats.batch_messages += messages.len() as u64;
        self.fan_out(idx, range, frames, messages.len() as u32);
    }

    fn fan_out(&mut self, idx: StreamIdx, range: Option<SeqRange>, frames: FrameSet, messages: u32) {
        let slice = self.config.fanout_slice;
        let Some(stream) = self.streams.at_mut(idx) else { return };
        let report_done = stream.members().any(|(_, members)| members > slice);
        let mut shards = 0;
        for (shard, _) in stream.members() {
            let fanout = Fanout { stream: idx, range, frames: frames.clone(), report_done, messages };
            self.to_shard.push_back((shard, ToShard::Fanout(fanout)));
            shards += 1;
        }
        if report_done {
            (0..shards).for_each(|_| stream.begin_on_shard());
        }
    }

    /// The stream moved: opens that wait for it look again.
    pub(super) fn retry_blocked(&mut self, idx: StreamIdx) {
        if let Some(pending) = self.streams.at_mut(idx).and_then(|stream| stream.pending_mut()) {
            self.retries.extend(pending.blocked.drain(..));
        }
    }

    pub(super) fn command_members(&mut self, idx: StreamIdx, command: impl Fn() -> ToShard) {
        let Some(stream) = self.streams.at(idx) else { return };
        let shards: smallvec::SmallVec<[ShardId; 8]> = stream.members().map(|(shard, _)| shard).collect();
        for shard in shards {
            self.send(shard, command());
        }
    }
}

/// Nobody is here to get it: F follows R, and what is ephemeral is gone.
fn skip_to_received(stream: &mut Stream) {
    stream.flushed = stream.received;
    if let Some(pending) = stream.pending_mut() {
        pending.durable.clear();
        pending.durable_bytes = 0;
        pending.ephemeral.clear();
    }
}

/// A single delivery always fits an empty window, however large it is.
fn has_room(stream: &Stream, messages: &[Message]) -> bool {
    let Some(pending) = stream.pending().filter(|pending| !pending.durable.is_empty()) else { return true };
    let bytes = messages.iter().map(message_bytes).sum::<usize>();
    pending.durable_bytes + bytes <= WINDOW_BYTES_MAX && pending.durable.len() + messages.len() <= WINDOW_MESSAGES_MAX
}

/// The messages of the next frame and the range that they cover. Durable ones go first.
fn next_frame(stream: &mut Stream) -> (Option<SeqRange>, Vec<Message>) {
    let (after, received) = (stream.flushed, stream.received);
    let mut nothing = Pending::default();
    let pending = stream.pending_mut().unwrap_or(&mut nothing);
    if after < received {
        let messages = take_bytes(&mut pending.durable);
        let taken: usize = messages.iter().map(message_bytes).sum();
        pending.durable_bytes = pending.durable_bytes.saturating_sub(taken);
        let upto = match messages.last() {
            Some(last) if !pending.durable.is_empty() => last.seq,
            _ => received,
        };
        return (Some(SeqRange { after, upto }), messages);
    }
    (None, take_bytes(&mut pending.ephemeral))
}

/// As many messages as fit a frame, at least one if there is any.
fn take_bytes(waiting: &mut std::collections::VecDeque<Message>) -> Vec<Message> {
    let mut bytes = 0;
    let fits = waiting.iter().take_while(|message| {
        bytes += message_bytes(message);
        bytes <= FRAME_BYTES_MAX
    });
    let count = fits.count().max(1).min(waiting.len());
    waiting.drain(..count).collect()
}
