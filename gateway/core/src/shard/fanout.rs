//! Fan-outs: one frame set and all members that the stream had when it came, in slices, round robin.
//!
//! The loop over members is the hottest of the gateway. It touches one cache line of the connection, clones nothing and
//! allocates nothing; whoever cannot take a frame at once leaves it for `send_live`.

use smallvec::SmallVec;

use super::backlog::{Gap, Kind};
use super::config::FANOUT_VISITS_PER_TURN;
use super::engine::Engine;
use super::members::{Begun, Place};
use super::send_state::SendState;
use super::slab::{Slot, flag, token};
use crate::driver::Driver;
use crate::ids::{Seq, StreamIdx};
use crate::messages::{ConnClass, FANOUT_SLICE_MAX, Fanout, FrameSet, ToHub};
use crate::planted::{self, Bug};

/// Members copied at a time out of their list, which may change under the loop.
const BLOCK: usize = 32;

/// A fan-out under way.
pub(super) struct Run {
    pub stream: StreamIdx,
    /// Where the stream's members are; from the run's beginning on.
    place: Place,
    /// Members before this one have been visited.
    next: u32,
    end: u32,
    work: Work,
    pushed_at_ms: Option<i64>,
}

enum Work {
    Send { kind: Kind, frames: FrameSet, report_done: bool },
    Gap { from: Seq, new_epoch: bool },
    Dismiss { frames: FrameSet },
}

/// What a class gets, found once per slice.
#[derive(Clone, Copy)]
enum Pick {
    /// Index into the flight's frames, and the frame's length.
    Frame(u32, u32),
    Nothing,
}

impl Run {
    pub(super) fn fanout(fanout: Fanout) -> Self {
        let Fanout { stream, range, frames, report_done, messages, pushed_at_ms } = fanout;
        let kind = match range {
            Some(range) => Kind::Durable { stream, messages, range },
            None => Kind::Ephemeral { stream, messages },
        };
        Run { pushed_at_ms, ..Run::new(stream, Work::Send { kind, frames, report_done }) }
    }

    pub(super) fn gap_all(stream: StreamIdx, from: Seq, new_epoch: bool) -> Self {
        Run::new(stream, Work::Gap { from, new_epoch })
    }

    /// Ends every membership of the stream.
    pub(super) fn dismiss(stream: StreamIdx, frames: FrameSet) -> Self {
        Run::new(stream, Work::Dismiss { frames })
    }

    fn new(stream: StreamIdx, work: Work) -> Self {
        Run { stream, place: Place::NONE, next: 0, end: 0, work, pushed_at_ms: None }
    }
}

impl Engine {
    /// Takes the fan-out in: it covers those who are members now. It runs when the turn comes to fan-outs.
    /// `flushed`: the seq that the members stand at after it.
    pub(super) fn begin_run<D: Driver>(&mut self, driver: &mut D, mut run: Run, flushed: Option<Seq>) {
        loop {
            match self.streams.begin(run.stream, flushed) {
                Begun::Members(place, end) => {
                    (run.place, run.end) = (place, end);
                    return self.fanouts.push_back(run);
                }
                Begun::Nobody => return self.report_done(&run),
                Begun::Running => {}
            }
            // The hub sends another one of the stream only if it is small, or ours is: order needs no more than this.
            let Some(at) = self.fanouts.iter().position(|other| other.stream == run.stream) else { return };
            let Some(mut earlier) = self.fanouts.remove(at) else { return };
            while earlier.next < earlier.end {
                self.slice(driver, &mut earlier);
            }
            self.end_run(earlier);
        }
    }

    /// One slice of the fan-out that waits longest. Returns how much it cost, or `None` if there is nothing to do.
    pub(super) fn run_slice<D: Driver>(&mut self, driver: &mut D) -> Option<u32> {
        let mut run = self.fanouts.pop_front()?;
        let visited = self.slice(driver, &mut run);
        if run.next < run.end {
            self.fanouts.push_back(run);
        } else {
            self.end_run(run);
        }
        Some(visited.max(1))
    }

    fn slice<D: Driver>(&mut self, driver: &mut D, run: &mut Run) -> u32 {
        let until = run.end.min(run.next.saturating_add(FANOUT_SLICE_MAX));
        let visited = until - run.next;
        match &run.work {
            Work::Send { kind, frames, .. } => self.slice_of_sends(driver, (*kind, frames), run.place, run.next..until),
            &Work::Gap { from, new_epoch } => {
                for at in run.next..until {
                    let slot = self.streams.members_at(run.place)[at as usize];
                    if slot != Slot::NONE {
                        self.gap_member(slot, run.stream, from, new_epoch);
                    }
                }
            }
            Work::Dismiss { frames } => {
                for at in run.next..until {
                    let slot = self.streams.members_at(run.place)[at as usize];
                    if slot != Slot::NONE && self.remove_member(slot, run.stream) && !frames.is_empty() {
                        self.send_of(driver, slot, frames);
                    }
                }
            }
        }
        run.next = until;
        if let Some(pushed_at_ms) = run.pushed_at_ms.take() {
            let now_ms = (self.config.wall_clock_ms)();
            if now_ms > 0 {
                self.stats.latency.note(pushed_at_ms, now_ms);
            }
        }
        visited
    }

    fn slice_of_sends<D: Driver>(
        &mut self,
        driver: &mut D,
        (kind, frames): (Kind, &FrameSet),
        place: Place,
        members: std::ops::Range<u32>,
    ) {
        let mut classes: SmallVec<[(ConnClass, Pick); 4]> = SmallVec::new();
        let mut last: Option<(ConnClass, Pick)> = None;
        let (mut sent, mut bytes) = (0u32, 0u64);
        let number = self.flight.number;
        let mut block = [Slot::NONE; BLOCK];
        let mut at = members.start;
        while at < members.end {
            let n = (members.end - at).min(BLOCK as u32) as usize;
            let block = &mut block[..n];
            block.copy_from_slice(&self.streams.members_at(place)[at as usize..at as usize + n]);
            at += n as u32;
            self.warm(block);
            for &slot in &*block {
                if slot == Slot::NONE {
                    continue;
                }
                let class = self.slab.hot(slot).class;
                let pick = match last {
                    Some((of, pick)) if of == class => pick,
                    _ => self.pick(&mut classes, class, kind, frames),
                };
                last = Some((class, pick));
                let Pick::Frame(shared, len) = pick else { continue };
                let hot = self.slab.hot_mut(slot);
                if hot.send == SendState::Idle && hot.sent_flight != number {
                    (hot.sent_flight, hot.sent_frame) = (number, shared);
                    driver.send(token(slot, hot), hot.socket, &self.flight.frames[shared as usize].frame, 0);
                    sent += 1;
                    bytes += u64::from(len);
                    if hot.flags & (flag::ACK_SENT | flag::ACK_DUE) == flag::ACK_SENT {
                        self.todo.acks.push(slot);
                    }
                } else {
                    self.send_live(driver, slot, shared);
                    if planted::is(Bug::FullClientAbortsList) {
                        at = members.end;
                        break;
                    }
                }
            }
        }
        self.flight.sends += sent;
        self.stats.sends.made.add(u64::from(sent));
        self.stats.sends.bytes.add(bytes);
        let (delivered, each) = self.stats.delivered.of(kind);
        delivered.add(u64::from(sent) * each);
    }

    /// Touches the lines of a block so that their cache misses overlap.
    fn warm(&self, block: &[Slot]) {
        let mut sum = 0u32;
        for &slot in block {
            if slot != Slot::NONE {
                sum = sum.wrapping_add(self.slab.hot(slot).generation);
            }
        }
        std::hint::black_box(sum);
    }

    fn pick(
        &mut self,
        classes: &mut SmallVec<[(ConnClass, Pick); 4]>,
        class: ConnClass,
        kind: Kind,
        frames: &FrameSet,
    ) -> Pick {
        if let Some((_, pick)) = classes.iter().find(|(of, _)| *of == class) {
            return *pick;
        }
        let pick = match frames.select(class) {
            Some(frame) if frame.is_empty() => Pick::Nothing,
            Some(frame) => Pick::Frame(self.flight.share(frame.clone(), kind), frame.len() as u32),
            None => {
                self.stats.frames_missing.add(1);
                Pick::Nothing
            }
        };
        classes.push((class, pick));
        pick
    }

    fn gap_member(&mut self, slot: Slot, stream: StreamIdx, from: Seq, new_epoch: bool) {
        let stats = self.stats.clone();
        let flushed = self.streams.flushed(stream).unwrap_or_default();
        let backlog = self.backlog_mut(slot);
        let Some(gap) = backlog.gap(stream) else {
            return self.open_gap(slot, Gap::new(stream, from, false));
        };
        let pulled_before = gap.is_covered() && gap.covered < flushed;
        if !new_epoch && !pulled_before {
            return;
        }
        if new_epoch {
            backlog.remove_stream(stream, &mut |lost| {
                stats.queue_bytes.sub(lost.cost() as u64);
                stats.dropped.slow.add(lost.kind);
            });
        }
        if let Some(gap) = backlog.gap_mut(stream) {
            *gap = Gap::new(stream, from, false);
        }
        self.tell_soon(slot);
    }

    fn end_run(&mut self, run: Run) {
        let mut moves: SmallVec<[(Slot, u32); 16]> = SmallVec::new();
        self.streams.end(run.place, &mut |slot, position| moves.push((slot, position)));
        for (slot, position) in moves {
            self.slab.set_position(slot, run.stream, position);
        }
        self.report_done(&run);
    }

    fn report_done(&mut self, run: &Run) {
        if matches!(run.work, Work::Send { report_done: true, .. }) {
            self.todo.to_hub.push(ToHub::FanoutDone { shard: self.id, stream: run.stream });
        }
    }

    /// Whether a fan-out of the stream has members left to visit.
    pub(super) fn is_fanning_out(&self, stream: StreamIdx) -> bool {
        self.streams.is_running(stream)
    }
}

const _: () = assert!(FANOUT_VISITS_PER_TURN >= BLOCK as u32);
