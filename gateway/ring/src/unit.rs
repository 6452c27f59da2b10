//! One ring of the driver and the life of its sockets: what each completion means for a slot, and which event it becomes.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use bytes::Bytes;
use tidegate_gateway_core::driver::{CloseHow, Event, RegisterError, Token};
use tidegate_gateway_core::ids::Now;

use crate::clock::monotonic;
use crate::config::RingConfig;
use crate::op::{self, poll::FINAL_EVENTS};
use crate::queue::{Completion, Queue};
use crate::slots::{Mark, Phase, Slots};
use crate::tag::{OpKind, SlotUse, Tag};

pub(crate) type Emit<'a> = &'a mut dyn FnMut(Event<'_>);

/// Visits to the kernel for completions in a row before the caller gets its turn; each does 20 pieces of deferred work.
const VISITS_MAX: u32 = 64;

#[derive(Debug)]
pub(crate) struct Unit {
    queue: Queue,
    slots: Slots,
    /// Sockets with input to read, in order; each at most once, so it is bounded by the slots.
    wanted: VecDeque<SlotUse>,
    /// Gracefully closed sockets and until when they may wait for the peer's FIN, earliest first. Those that ended before their
    /// time are swept out when there are more than slots, so it is bounded by twice the slots.
    lingering: VecDeque<(Now, SlotUse)>,
    batch: Vec<Completion>,
    linger: Duration,
    reads_per_socket: u16,
    reads_per_turn: u32,
    can_reset: bool,
    /// The doorbell's poll fired and was not armed again.
    bell_ended: bool,
}

impl Unit {
    pub fn new(queue: Queue, slots: u32, config: &RingConfig, can_reset: bool) -> Unit {
        Unit {
            queue,
            slots: Slots::new(slots),
            wanted: VecDeque::new(),
            lingering: VecDeque::new(),
            batch: Vec::new(),
            linger: Duration::from_millis(config.linger_ms.into()),
            reads_per_socket: config.reads_per_socket,
            reads_per_turn: config.reads_per_turn,
            can_reset,
            bell_ended: false,
        }
    }

    pub fn free_slots(&self) -> u32 {
        self.slots.free()
    }

    pub fn used_slots(&self) -> u32 {
        self.slots.used()
    }

    pub fn enters(&self) -> u64 {
        self.queue.enters()
    }

    /// The eventfd is signalled from now on.
    pub fn signal(&self, eventfd: i32) -> io::Result<()> {
        self.queue.signal(eventfd)
    }

    pub fn queue(&mut self) -> &mut Queue {
        &mut self.queue
    }

    pub fn register(&mut self, token: Token, socket: OwnedFd) -> Result<u32, (RegisterError, OwnedFd)> {
        let Some(of) = self.slots.take(token) else {
            return Err((RegisterError::Full, socket));
        };
        if let Err(error) = self.queue.place(of.slot, &socket) {
            self.slots.release(of.slot);
            return Err((RegisterError::Os(error.raw_os_error().unwrap_or(libc::EIO)), socket));
        }
        drop(socket);
        self.watch(of);
        Ok(of.slot)
    }

    pub fn send(&mut self, token: Token, slot: u32, frame: &Bytes, from: usize) {
        if from >= frame.len() {
            return;
        }
        if let Some((of, _)) = self.slots.open(slot, token) {
            self.queue.push_send(of, frame, from);
        } else {
            debug_assert!(false, "{token:?} sends to slot {slot}, which is not its own");
        }
    }

    pub fn watch_writable(&mut self, token: Token, slot: u32) {
        let Some((of, entry)) = self.slots.open(slot, token) else {
            debug_assert!(false, "{token:?} watches slot {slot}, which is not its own");
            return;
        };
        if !entry.has(Mark::WRITING) {
            entry.set(Mark::WRITING);
            entry.begun();
            self.queue.push(&op::poll::writable(of));
        }
    }

    pub fn close(&mut self, token: Token, slot: u32, how: CloseHow) {
        let Some((of, entry)) = self.slots.open(slot, token) else {
            debug_assert!(false, "{token:?} closes slot {slot}, which is not its own");
            return;
        };
        if how == CloseHow::Graceful && !entry.has(Mark::ENDED) && !self.linger.is_zero() {
            entry.enter_phase(Phase::Shutting);
            entry.begun();
            self.queue.push(&op::shutdown::sending(of));
        } else {
            self.finish(of, how);
        }
    }

    /// Whether [`Unit::service`] would do something now.
    pub fn has_work(&mut self) -> bool {
        !self.wanted.is_empty() || self.queue.has_completions() || self.queue.needs_visit()
    }

    /// When the next gracefully closed socket stops waiting for its peer.
    pub fn deadline(&mut self) -> Option<Now> {
        while let Some((until, of)) = self.lingering.front().copied() {
            if self.is_lingering(of) {
                return Some(until);
            }
            self.lingering.pop_front();
        }
        None
    }

    /// Submits, hands out what has completed, and reads what is there within the turn's bounds; does not sleep.
    pub fn service(&mut self, emit: Emit<'_>) {
        self.expire();
        self.complete(emit);
        let mut reads = 0;
        for _ in 0..self.reads_per_socket {
            let mut round = self.wanted.len();
            while round > 0 && reads < self.reads_per_turn {
                let batch = round.min(self.queue.buffers().into());
                self.read(batch);
                round -= batch;
                reads += batch as u32;
                self.complete(emit);
            }
        }
    }

    /// Takes the doorbell's poll off its end; `true` if it must be armed again.
    pub fn take_bell_ended(&mut self) -> bool {
        std::mem::take(&mut self.bell_ended)
    }

    /// Hands out completions until no more come or the caller has waited long enough. All SENDs queued before have been
    /// entered and their completions handed out when it returns: they are posted by the enter that submits them.
    fn complete(&mut self, emit: Emit<'_>) {
        let mut batch = std::mem::take(&mut self.batch);
        let mut visits = 0;
        loop {
            if !self.queue.has_completions() {
                // Deferred work may complete nothing and leave more behind.
                let may_visit = visits < VISITS_MAX || self.queue.is_overflown();
                if !may_visit || !self.queue.needs_visit() {
                    break;
                }
                visits += 1;
                self.queue.visit();
            }
            self.queue.reap(&mut batch);
            for completion in batch.drain(..) {
                self.on_completion(completion, emit);
            }
        }
        self.batch = batch;
    }

    /// Queues one RECV each for the first `count` sockets that want one.
    fn read(&mut self, count: usize) {
        for of in self.wanted.drain(..count) {
            if let Some(entry) = self.slots.current(of).filter(|entry| entry.phase() != Phase::Closing) {
                entry.clear(Mark::AGAIN);
                entry.begun();
                self.queue.push(&op::recv::from_slot(of));
            }
        }
    }

    fn watch(&mut self, of: SlotUse) {
        let entry = self.slots.current(of).expect("only a slot in use is watched");
        entry.set(Mark::POLLING);
        entry.begun();
        self.queue.push(&op::poll::input(of));
    }

    fn on_completion(&mut self, completion: Completion, emit: Emit<'_>) {
        let Tag { kind, of } = completion.tag();
        match kind {
            OpKind::Send => return self.on_sent(of, completion.result, emit),
            OpKind::Bell => {
                self.bell_ended |= !completion.is_more();
                return;
            }
            OpKind::Poll => self.on_poll(of, &completion, emit),
            OpKind::Recv => self.on_received(of, completion, emit),
            OpKind::Writable => self.on_writable(of, emit),
            OpKind::Shutdown => self.on_shut(of),
            OpKind::Cancel | OpKind::Linger | OpKind::Close => self.current_completed(of),
        }
        self.settle(of, emit);
    }

    fn on_sent(&mut self, of: SlotUse, result: i32, emit: Emit<'_>) {
        if let Some(entry) = self.slots.current(of).filter(|entry| entry.phase() == Phase::Open) {
            let result = match result {
                0.. => Ok(result as usize),
                // No room now, in this socket or in the whole machine: Writable tells when to go on.
                _ if matches!(-result, libc::EAGAIN | libc::EINTR | libc::ENOBUFS | libc::ENOMEM) => Ok(0),
                _ => Err(-result),
            };
            emit(Event::Sent { token: entry.token(), result });
        }
    }

    fn on_poll(&mut self, of: SlotUse, completion: &Completion, emit: Emit<'_>) {
        let Some(entry) = self.slots.current(of) else { return };
        if !completion.is_more() {
            entry.clear(Mark::POLLING);
            entry.completed();
        }
        if entry.phase() == Phase::Closing || entry.has(Mark::ENDED) {
            return;
        }
        if completion.result < 0 {
            return self.on_ended(of, Some(-completion.result), emit);
        }
        if completion.result & FINAL_EVENTS != 0 {
            entry.set(Mark::FINAL);
        }
        if entry.has(Mark::READING) {
            entry.set(Mark::AGAIN);
        } else {
            entry.set(Mark::READING);
            self.wanted.push_back(of);
        }
        if !completion.is_more() {
            self.watch(of);
        }
    }

    fn on_received(&mut self, of: SlotUse, completion: Completion, emit: Emit<'_>) {
        let result = completion.result;
        let open = self.slots.current(of).and_then(|entry| {
            entry.completed();
            (entry.phase() == Phase::Open && !entry.has(Mark::ENDED)).then(|| entry.token())
        });
        self.queue.with_bytes(completion, |bytes| {
            if let Some(token) = open
                && !bytes.is_empty()
            {
                emit(Event::Data { token, bytes });
            }
        });
        let whole = self.queue.buffer_bytes() as i32;
        let Some(entry) = self.slots.current(of) else { return };
        let more = match result {
            0 => return self.on_ended(of, None, emit),
            1.. => result >= whole || entry.has(Mark::AGAIN) || entry.has(Mark::FINAL),
            // All buffers are lent or filled: it goes to the end of the line. EINTR: nothing was read.
            _ if matches!(-result, libc::ENOBUFS | libc::EINTR | libc::ENOMEM) => true,
            _ if -result == libc::EAGAIN => {
                entry.clear(Mark::FINAL);
                entry.has(Mark::AGAIN)
            }
            _ => return self.on_ended(of, Some(-result), emit),
        };
        if more {
            self.wanted.push_back(of);
        } else {
            entry.clear(Mark::READING);
        }
    }

    fn on_writable(&mut self, of: SlotUse, emit: Emit<'_>) {
        let Some(entry) = self.slots.current(of) else { return };
        entry.clear(Mark::WRITING);
        entry.completed();
        if entry.phase() == Phase::Open {
            emit(Event::Writable { token: entry.token() });
        }
    }

    fn on_shut(&mut self, of: SlotUse) {
        let Some(entry) = self.slots.current(of) else { return };
        entry.completed();
        if entry.phase() == Phase::Shutting {
            if entry.has(Mark::ENDED) {
                self.finish(of, CloseHow::Graceful);
            } else {
                entry.enter_phase(Phase::Lingering);
                self.linger(of);
            }
        }
    }

    /// Input is over: by the peer's FIN (`None`) or an error.
    fn on_ended(&mut self, of: SlotUse, errno: Option<i32>, emit: Emit<'_>) {
        let Some(entry) = self.slots.current(of) else { return };
        entry.clear(Mark::READING);
        if entry.has(Mark::ENDED) {
            return;
        }
        entry.set(Mark::ENDED);
        let token = entry.token();
        match (entry.phase(), errno) {
            (Phase::Open, None) => emit(Event::Eof { token }),
            (Phase::Open, Some(errno)) => emit(Event::Failed { token, errno }),
            (Phase::Lingering, _) => self.finish(of, CloseHow::Graceful),
            // Shutting goes on when SHUTDOWN completes, Closing by itself.
            (Phase::Shutting | Phase::Closing | Phase::Free, _) => {}
        }
    }

    fn current_completed(&mut self, of: SlotUse) {
        if let Some(entry) = self.slots.current(of) {
            entry.completed();
        }
    }

    /// Frees a closed slot of which nothing is in flight any more.
    fn settle(&mut self, of: SlotUse, emit: Emit<'_>) {
        if let Some(entry) = self.slots.current(of)
            && entry.phase() == Phase::Closing
            && entry.is_quiet()
        {
            let token = entry.token();
            self.slots.release(of.slot);
            emit(Event::Closed { token });
        }
    }

    /// Cancels what is armed and closes the slot. The socket ends when the cancelled polls have let go of it, in the same visit.
    fn finish(&mut self, of: SlotUse, how: CloseHow) {
        let reset = how == CloseHow::Abort && self.can_reset;
        let entry = self.slots.current(of).expect("only a slot in use is closed");
        entry.enter_phase(Phase::Closing);
        for (mark, kind) in [(Mark::POLLING, OpKind::Poll), (Mark::WRITING, OpKind::Writable)] {
            if entry.has(mark) {
                entry.begun();
                self.queue.push(&op::cancel::of(Tag::new(kind, of)));
            }
        }
        entry.begun();
        if reset {
            entry.begun();
            self.queue.push_linked(&[op::linger::reset_then(of), op::close::slot(of)]);
        } else {
            self.queue.push(&op::close::slot(of));
        }
    }

    /// Closes gracefully closed sockets whose peers did not finish in time.
    fn expire(&mut self) {
        if self.lingering.is_empty() {
            return;
        }
        let now = monotonic();
        while let Some((_, of)) = self.lingering.pop_front_if(|(until, _)| *until <= now) {
            if self.is_lingering(of) {
                self.finish(of, CloseHow::Graceful);
            }
        }
    }

    fn linger(&mut self, of: SlotUse) {
        if self.lingering.len() >= 2 * self.slots.capacity() as usize {
            let mut lingering = std::mem::take(&mut self.lingering);
            lingering.retain(|(_, of)| self.is_lingering(*of));
            self.lingering = lingering;
        }
        self.lingering.push_back((monotonic() + self.linger, of));
    }

    fn is_lingering(&mut self, of: SlotUse) -> bool {
        self.slots.current(of).is_some_and(|entry| entry.phase() == Phase::Lingering)
    }
}
