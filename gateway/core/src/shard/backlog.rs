//! What a connection that cannot take everything at once holds: the frames in order, how far the first one is, and which
//! streams are off.
//!
//! Invariants:
//! * A frame of which a byte is in the socket, or was offered to it, is never removed: it leaves whole or the connection ends.
//! * What is removed to keep the bound is first every ephemeral frame (oldest first), then all frames of one stream at a
//!   time (most bytes first); the stream's gap begins at the first seq that was removed.
//! * Direct frames (replies, notices, pages) are never removed.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

use super::config::{GATHER_BYTES_MAX, QUEUED_OVERHEAD_BYTES};
use crate::ids::{Seq, SeqRange, StreamIdx};

/// What a frame is, for the policy and for accounting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Direct,
    Ephemeral { stream: StreamIdx, messages: u32 },
    Durable { stream: StreamIdx, messages: u32, range: SeqRange },
}

#[derive(Clone, Debug)]
pub(super) struct Queued {
    pub frame: Bytes,
    pub kind: Kind,
}

impl Queued {
    pub(super) fn cost(&self) -> usize {
        self.frame.len() + QUEUED_OVERHEAD_BYTES
    }

    fn ephemeral(&self) -> bool {
        matches!(self.kind, Kind::Ephemeral { .. })
    }

    fn durable_of(&self) -> Option<(StreamIdx, SeqRange)> {
        match self.kind {
            Kind::Durable { stream, range, .. } => Some((stream, range)),
            Kind::Direct | Kind::Ephemeral { .. } => None,
        }
    }
}

/// A stream that is off for this connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    pub stream: StreamIdx,
    /// The first seq that did not come.
    pub from: Seq,
    /// The hub was asked for the `gap` frame, or has sent one itself.
    pub told: bool,
    /// A pull covered everything up to here, but a fan-out of the stream was under way: the gap ends with the first frame
    /// beyond it. 0: not pulled.
    pub covered: Seq,
}

impl Gap {
    pub(super) fn new(stream: StreamIdx, from: Seq, told: bool) -> Self {
        Gap { stream, from, told, covered: Seq::ZERO }
    }

    pub(super) fn is_covered(&self) -> bool {
        self.covered != Seq::ZERO
    }
}

#[derive(Debug, Default)]
pub(super) struct Backlog {
    queue: VecDeque<Queued>,
    /// Bytes of the first frame that are in the socket.
    begun: usize,
    /// Bytes of the send that has not been flushed yet; 0: none.
    offered: usize,
    /// Frames that these bytes touch.
    offered_frames: usize,
    cost: usize,
    /// The socket was full: nothing is offered before it is writable.
    pub blocked: bool,
    pub gaps: SmallVec<[Gap; 1]>,
}

impl Backlog {
    /// Bytes that it holds, with overhead.
    pub(super) fn cost(&self) -> usize {
        self.cost
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn in_flight(&self) -> bool {
        self.offered > 0
    }

    /// Frames that the send under way touches.
    pub(super) fn offered_frames(&self) -> usize {
        self.offered_frames
    }

    pub(super) fn push(&mut self, queued: Queued) {
        self.cost += queued.cost();
        self.queue.push_back(queued);
    }

    /// Puts the frame before all others: its send was made while nothing waited, and came back short.
    pub(super) fn push_cut(&mut self, queued: Queued) {
        debug_assert!(self.begun == 0 && self.offered == 0, "a frame was begun before an earlier one ended");
        self.cost += queued.cost();
        self.queue.push_front(queued);
    }

    pub(super) fn gap(&self, stream: StreamIdx) -> Option<Gap> {
        self.gaps.iter().find(|gap| gap.stream == stream).copied()
    }

    pub(super) fn gap_mut(&mut self, stream: StreamIdx) -> Option<&mut Gap> {
        self.gaps.iter_mut().find(|gap| gap.stream == stream)
    }

    /// Returns whether the stream was live until now. If it was off, but its older frames were still here, the gap begins
    /// earlier from now on.
    pub(super) fn begin_gap(&mut self, stream: StreamIdx, from: Seq) -> bool {
        match self.gap_mut(stream) {
            None => {
                self.gaps.push(Gap::new(stream, from, false));
                true
            }
            Some(gap) => {
                *gap = Gap::new(stream, gap.from.min(from), false);
                false
            }
        }
    }

    /// Whether the stream was off.
    pub(super) fn heal(&mut self, stream: StreamIdx) -> bool {
        let before = self.gaps.len();
        self.gaps.retain(|gap| gap.stream != stream);
        self.gaps.len() < before
    }

    /// The next send: one frame as it is, or several gathered into `scratch`. Returns the bytes and where to begin in them.
    pub(super) fn offer(&mut self, scratch: &mut BytesMut) -> Option<(Bytes, usize)> {
        debug_assert!(!self.blocked && self.offered == 0, "offered while a send is under way");
        let first = self.queue.front()?;
        let rest = first.frame.len() - self.begun;
        let alone = self.queue.get(1).is_none_or(|second| rest + second.frame.len() > GATHER_BYTES_MAX);
        if alone {
            (self.offered, self.offered_frames) = (rest, 1);
            return Some((first.frame.clone(), self.begun));
        }
        let mut skip = self.begun;
        (self.offered, self.offered_frames) = (0, 0);
        for queued in &self.queue {
            let part = &queued.frame[skip..];
            if self.offered + part.len() > GATHER_BYTES_MAX {
                break;
            }
            scratch.extend_from_slice(part);
            self.offered += part.len();
            self.offered_frames += 1;
            skip = 0;
        }
        Some((scratch.split().freeze(), 0))
    }

    /// The offered send ended with `taken` bytes in the socket (`None`: all of it). `done` sees every frame that is out.
    pub(super) fn settle(&mut self, taken: Option<usize>, done: &mut dyn FnMut(Queued)) {
        let taken = taken.unwrap_or(self.offered);
        (self.offered, self.offered_frames) = (0, 0);
        self.consume(taken, done);
    }

    pub(super) fn consume(&mut self, taken: usize, done: &mut dyn FnMut(Queued)) {
        self.begun += taken;
        while let Some(first) = self.queue.front()
            && self.begun >= first.frame.len()
        {
            self.begun -= first.frame.len();
            self.cost -= first.cost();
            done(self.queue.pop_front().expect("the front was just seen"));
        }
    }

    /// Lets go of what may go until at most `limit` bytes are held. A lone frame stays whatever its size. `lost` sees what is
    /// removed; new gaps are added, untold.
    pub(super) fn shed(&mut self, limit: usize, lost: &mut dyn FnMut(Queued)) {
        if self.cost > limit && self.queue.len() > self.kept() {
            let mut over = self.cost - limit;
            self.remove(
                &mut |queued| {
                    let goes = over > 0 && queued.ephemeral();
                    if goes {
                        over = over.saturating_sub(queued.cost());
                    }
                    goes
                },
                lost,
            );
        }
        while self.cost > limit {
            let Some(stream) = self.heaviest_stream() else { return };
            if let Some(from) = self.remove_stream(stream, lost) {
                self.begin_gap(stream, from);
            }
        }
    }

    /// Removes what has not begun of the stream's durable frames, and tells the first seq that went.
    pub(super) fn remove_stream(&mut self, stream: StreamIdx, lost: &mut dyn FnMut(Queued)) -> Option<Seq> {
        let mut from: Option<Seq> = None;
        self.remove(
            &mut |queued| {
                let Some((of, range)) = queued.durable_of() else { return false };
                if of == stream {
                    let first = range.after.next();
                    from = Some(from.map_or(first, |seq| seq.min(first)));
                }
                of == stream
            },
            lost,
        );
        from
    }

    /// Everything that has not begun goes, whatever it is: the connection ends.
    pub(super) fn cut_off(&mut self, lost: &mut dyn FnMut(Queued)) {
        let kept = if self.begun > 0 { self.kept() } else { self.offered_frames };
        for queued in self.queue.drain(kept.min(self.queue.len())..) {
            self.cost -= queued.cost();
            lost(queued);
        }
    }

    /// Gives everything back, as new.
    pub(super) fn reset(&mut self, lost: &mut dyn FnMut(Queued)) {
        self.queue.drain(..).for_each(lost);
        (self.begun, self.offered, self.offered_frames, self.cost, self.blocked) = (0, 0, 0, 0, false);
        self.gaps.clear();
    }

    /// Bytes of queue that an empty backlog still holds.
    pub(super) fn capacity(&self) -> usize {
        self.queue.capacity()
    }

    /// Frames at the front that must stay.
    fn kept(&self) -> usize {
        self.offered_frames.max(1)
    }

    fn heaviest_stream(&self) -> Option<StreamIdx> {
        let mut sums: SmallVec<[(StreamIdx, usize); 8]> = SmallVec::new();
        for queued in self.queue.iter().skip(self.kept()) {
            let Some((stream, _)) = queued.durable_of() else { continue };
            match sums.iter_mut().find(|(of, _)| *of == stream) {
                Some((_, sum)) => *sum += queued.cost(),
                None => sums.push((stream, queued.cost())),
            }
        }
        sums.into_iter().max_by_key(|&(stream, sum)| (sum, std::cmp::Reverse(stream))).map(|(stream, _)| stream)
    }

    fn remove(&mut self, goes: &mut dyn FnMut(&Queued) -> bool, lost: &mut dyn FnMut(Queued)) {
        let kept = self.kept();
        let mut at = 0;
        let cost = &mut self.cost;
        self.queue.retain_mut(|queued| {
            at += 1;
            let goes = at > kept && goes(queued);
            if goes {
                *cost -= queued.cost();
                lost(Queued { frame: std::mem::take(&mut queued.frame), kind: queued.kind });
            }
            !goes
        });
    }
}

#[cfg(test)]
mod tests;
