//! The loop that owns the partition: take what waits, one `handle`, hand out what came of it.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use tidegate_control_core::domain::{Lsn, PartitionId, Timestamp};
use tidegate_control_core::partition::{Errand, GatewayId, Input, Output, Partition, PartitionStats};
use tidegate_control_core::ports::{MessageStore, StoreError};

use super::waiters::Waiters;
use super::{LinkOut, LinkWork, Outbox, SLOTS_MAX, Sequencer, Work};
use crate::metrics::Metrics;

/// Inputs of one commit: enough to share an fsync, few enough to keep its latency low. A submission is never cut.
const BATCH_INPUTS_MAX: usize = 8_192;
/// Between two ticks; the partition asks for at least ten a second.
const TICK: Duration = Duration::from_millis(50);
/// How long a paused partition waits before it tries again; doubled up to the second figure.
const PAUSE: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// Turns without new work before a stop gives up on answers that a store which was away still owes. (The partition itself
/// gives up on a store after some attempts, and refuses what waits.)
const LAST_TURNS_MAX: usize = 100;

/// What the loop needs of a partition: [`Partition`] over any store, so that the loop's own tests can make a store fail.
pub trait Partitioned: Send + 'static {
    fn handle(&mut self, now: Timestamp, inputs: &mut Vec<Input>, out: &mut Vec<Output>) -> Result<(), StoreError>;

    /// There is work that needs no new input.
    fn wants_turn(&self) -> bool;

    fn stats(&self) -> PartitionStats;

    /// The newest committed record.
    fn last_lsn(&self) -> Lsn;
}

impl<S: MessageStore> Partitioned for Partition<S> {
    fn handle(&mut self, now: Timestamp, inputs: &mut Vec<Input>, out: &mut Vec<Output>) -> Result<(), StoreError> {
        Partition::handle(self, now, inputs, out)
    }

    fn wants_turn(&self) -> bool {
        Partition::wants_turn(self)
    }

    fn stats(&self) -> PartitionStats {
        Partition::stats(self)
    }

    fn last_lsn(&self) -> Lsn {
        self.store().last_lsn()
    }
}

/// A partition's thread that has begun.
pub struct Started {
    pub sequencer: Sequencer,
    pub running: Running,
}

/// To stop the thread and wait for its end.
pub struct Running {
    sequencer: Sequencer,
    thread: Option<JoinHandle<()>>,
}

/// Called at most once, in the partition's thread, when the store has failed for good. It must not return in production: the
/// process ends and recovers from the log.
pub type OnFatal = Box<dyn FnOnce(&StoreError) + Send>;

/// What a partition's thread tells others.
pub struct Hooks {
    pub partition: PartitionId,
    pub metrics: Arc<Metrics>,
    pub on_fatal: OnFatal,
    /// What its records owe to other partitions. Never waited for: what finds no room is in the log.
    pub errands: Option<ErrandSender>,
}

/// The way of errands to who carries them.
#[derive(Clone)]
pub struct ErrandSender {
    pub queue: tokio::sync::mpsc::Sender<(Lsn, Errand)>,
    /// Some found no room: they are to be read from the log.
    pub overflowed: Arc<AtomicBool>,
}

/// Gives the partition its thread.
pub fn spawn(partition: impl Partitioned, hooks: Hooks) -> io::Result<Started> {
    // One place more than slots, for Stop.
    let (queue, waiting) = bounded(SLOTS_MAX + 1);
    let sequencer = Sequencer::new(queue);
    let mut body = Loop {
        partition,
        waiting,
        sequencer: sequencer.clone(),
        id: hooks.partition,
        metrics: hooks.metrics,
        errands: hooks.errands,
        waiters: Waiters::default(),
        outboxes: HashMap::new(),
        inputs: Vec::new(),
        slots: 0,
        next_tick: Instant::now(),
        stopping: false,
    };
    let thread = std::thread::Builder::new().name(format!("partition-{}", hooks.partition.0)).spawn(move || {
        if let Err(error) = body.run() {
            tracing::error!(%error, "the store failed; nothing more is answered");
            body.sequencer.state.ended.store(true, Ordering::Relaxed);
            (hooks.on_fatal)(&error);
        }
        body.sequencer.state.ended.store(true, Ordering::Relaxed);
        body.sequencer.slots.close();
    })?;
    Ok(Started { sequencer: sequencer.clone(), running: Running { sequencer, thread: Some(thread) } })
}

impl Running {
    /// Ends the thread where it stands: what waits is not answered. For an owner that may have a successor already.
    pub fn abandon(self) {
        self.sequencer.state.abandoned.store(true, Ordering::Relaxed);
        self.sequencer.state.ended.store(true, Ordering::Relaxed);
    }

    /// Finishes what is queued and ends the thread. Blocks.
    pub fn stop(mut self) {
        self.tell();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the partition's thread panicked");
        }
    }

    fn tell(&self) {
        // Fails only if the thread has ended already.
        let _ = self.sequencer.queue.send(Work::Stop);
    }
}

impl Drop for Running {
    /// Not waited for: the thread ends by itself once the queue is empty.
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.tell();
        }
    }
}

struct Loop<P> {
    partition: P,
    waiting: Receiver<Work>,
    /// For its counters only: the loop never waits for itself.
    sequencer: Sequencer,
    id: PartitionId,
    metrics: Arc<Metrics>,
    errands: Option<ErrandSender>,
    waiters: Waiters,
    outboxes: HashMap<GatewayId, Line>,
    inputs: Vec<Input>,
    /// Of what `inputs` holds, given back once it is handled.
    slots: usize,
    next_tick: Instant,
    stopping: bool,
}

/// One attachment's queue and what this batch adds to it.
struct Line {
    outbox: Outbox,
    gathered: Vec<LinkOut>,
}

impl<P: Partitioned> Loop<P> {
    fn run(&mut self) -> Result<(), StoreError> {
        let mut out = Vec::new();
        let mut last_turns = 0;
        // What a store that was away has kept is answered in later turns.
        while !self.stopping || !self.waiting.is_empty() || !self.waiters.is_empty() {
            if self.sequencer.state.abandoned.load(Ordering::Relaxed) {
                break;
            }
            self.gather();
            let size = self.inputs.len();
            let began = Instant::now();
            self.handle(&mut out)?;
            if !out.is_empty() {
                self.metrics.batch_inputs.observe(size as f64);
                self.metrics.commit_seconds.observe(began.elapsed().as_secs_f64());
            }
            self.dispatch(&mut out);
            self.sequencer.state.settled.store(self.partition.last_lsn().0, Ordering::Release);
            self.sequencer.slots.add_permits(std::mem::take(&mut self.slots));
            last_turns += usize::from(self.stopping && self.waiting.is_empty());
            if last_turns > LAST_TURNS_MAX {
                tracing::error!("stopped while the store was unavailable: what still waited is not answered");
                break;
            }
        }
        self.metrics.partition(self.id, &self.partition.stats());
        Ok(())
    }

    /// Waits for the first work until the next tick, then takes what else is there.
    fn gather(&mut self) {
        let until_tick = self.next_tick.saturating_duration_since(Instant::now());
        let patience = if self.partition.wants_turn() { Duration::ZERO } else { until_tick };
        match self.waiting.recv_timeout(patience) {
            Ok(work) => self.take(work),
            Err(RecvTimeoutError::Timeout) => {}
            // The loop holds a sender itself, so this cannot come before Stop.
            Err(RecvTimeoutError::Disconnected) => self.stopping = true,
        }
        while self.inputs.len() < BATCH_INPUTS_MAX {
            match self.waiting.try_recv() {
                Ok(work) => self.take(work),
                Err(_) => break,
            }
        }
        let now = Instant::now();
        if now >= self.next_tick {
            self.inputs.push(Input::Tick);
            self.next_tick = now + TICK;
            self.metrics.partition(self.id, &self.partition.stats());
        }
    }

    fn take(&mut self, work: Work) {
        match work {
            Work::Commands { commands, answers, slots } => {
                self.slots += slots;
                let tokens = self.waiters.submission(commands.len(), answers);
                let inputs = commands.into_iter().zip(tokens);
                self.inputs.extend(inputs.map(|(command, token)| Input::Command { token, command }));
            }
            Work::Appended { pushes, upto, answers, slots } => {
                self.slots += slots;
                if pushes.is_empty() {
                    let _ = answers.send(Vec::new());
                } else {
                    let tokens = self.waiters.submission(pushes.len(), answers);
                    let inputs = pushes.into_iter().zip(tokens);
                    self.inputs.extend(inputs.map(|((push, upto), token)| Input::Appended { token, push, upto }));
                }
                self.inputs.push(Input::Consumed(upto));
            }
            Work::Routed(lsn) => {
                self.slots += 1;
                self.inputs.push(Input::Routed(lsn));
            }
            Work::Link { gateway, items, slots } => {
                self.slots += slots;
                for item in items {
                    let input = match item {
                        LinkWork::Input(input) => input,
                        LinkWork::Request { corr, command } => {
                            Input::Command { token: self.waiters.link(gateway, corr), command }
                        }
                    };
                    self.inputs.push(input);
                }
            }
            Work::Attach { gateway, credit_bytes, outbox } => {
                self.slots += 1;
                self.outboxes.insert(gateway, Line { outbox, gathered: Vec::new() });
                self.inputs.push(Input::LinkUp { gateway, credit_bytes });
            }
            Work::Detach { gateway } => {
                self.slots += 1;
                self.outboxes.remove(&gateway);
                self.inputs.push(Input::LinkDown { gateway });
            }
            Work::Stop => self.stopping = true,
        }
    }

    /// One batch. While the store is unavailable the partition keeps it, and nothing more is taken from the queue.
    fn handle(&mut self, out: &mut Vec<Output>) -> Result<(), StoreError> {
        let mut pause = PAUSE;
        loop {
            let error = match self.partition.handle(wall_clock(), &mut self.inputs, out) {
                Ok(()) => {
                    self.sequencer.state.paused.store(false, Ordering::Relaxed);
                    return Ok(());
                }
                Err(error @ StoreError::Unavailable(_)) => error,
                Err(error) => return Err(error),
            };
            self.sequencer.state.paused.store(true, Ordering::Relaxed);
            tracing::warn!(%error, partition = self.id.0, "the partition is paused");
            self.dispatch(out);
            if self.sequencer.state.abandoned.load(Ordering::Relaxed) {
                return Err(error);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn dispatch(&mut self, out: &mut Vec<Output>) {
        let mut touched = Vec::new();
        for output in out.drain(..) {
            let (gateway, item) = match output {
                Output::Reply { token, result } => match self.waiters.answer(token, result) {
                    Some(link) => (link.gateway, LinkOut::Reply { corr: link.corr, answer: link.answer }),
                    None => continue,
                },
                Output::Link { gateway, item } => (gateway, LinkOut::Item(item)),
                Output::Detach { gateway, why } => (gateway, LinkOut::End(why)),
                Output::Errand { lsn, errand } => {
                    if let Some(errands) = &self.errands
                        && errands.queue.try_send((lsn, errand)).is_err()
                    {
                        errands.overflowed.store(true, Ordering::Release);
                    }
                    continue;
                }
            };
            // What is meant for a link that broke meanwhile goes nowhere.
            let Some(line) = self.outboxes.get_mut(&gateway) else { continue };
            if line.gathered.is_empty() {
                touched.push(gateway);
            }
            line.gathered.push(item);
        }
        for gateway in touched {
            let Some(line) = self.outboxes.get_mut(&gateway) else { continue };
            if !line.outbox.send(std::mem::take(&mut line.gathered)) {
                // Dropping the sender ends the attachment's task, which says LinkDown.
                tracing::warn!(gateway = gateway.0, "the attachment is gone or too far behind");
                self.outboxes.remove(&gateway);
            }
        }
    }
}

fn wall_clock() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(since.as_millis() as i64)
}
