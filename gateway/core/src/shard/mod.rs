//! Connections: slab, sessions, fan-out, slow consumers, timers, and the worker loop.
//!
//! A shard is one thread's worth of connections after their promotion. It is driven by [`Shard::tick`] alone: what the front
//! door and the hub want comes through a [`Mailbox`], what sockets do comes from the [`Driver`].
//!
//! Invariants:
//! * A socket has at most one send between two flushes, and none after a short one before it is writable, so that each
//!   connection's bytes are whole frames in order.
//! * A healthy member of a stream stands at its flushed seq; any other has a gap on record (see [`backlog`]).
//! * A fan-out reaches exactly those who were members when it came and still are when it comes to them (see [`members`]).
//! * A delivery to a healthy connection allocates nothing and touches one cache line of it.
//! * Each `AddMember` ends in one `Left`, each `Connected` in one `Disconnected`.
//!
//! What it does not do: encode batches, know stream keys or cursors, talk to control.

mod backlog;
mod closing;
mod commands;
mod config;
mod connection_id;
mod engine;
mod fanout;
mod members;
mod memberships;
mod outbound;
mod present;
mod send_state;
mod session;
mod slab;
mod stats;
mod timers;
mod wheel;

use std::sync::Arc;

use self::config::{FANOUT_VISITS_PER_TURN, FLIGHT_SENDS_JOINED_MAX, INBOX_ITEMS_PER_TURN_MAX};
use self::engine::Engine;
use crate::driver::Driver;
use crate::ids::{Now, ShardId};
use crate::messages::{Hello, ToHub, ToShard};
use crate::ws::{DeflateParams, Inflater};

pub use self::config::ShardConfig;
pub use self::stats::{ByKind, Closes, Counter, Dropped, Sends, ShardStats};

/// The worker loop of one thread, over the driver `D`.
pub struct Shard<D: Driver> {
    driver: D,
    engine: Engine,
    inflater: Inflater,
}

/// The shard's ways in and out, and its doorbell.
pub trait Mailbox<I> {
    /// The next item, in the order they were put in by each sender.
    fn next(&mut self) -> Option<ShardInput<I>>;
    fn to_hub(&mut self, item: ToHub);
    /// Arms the doorbell: from now on an item wakes the driver. False if one has arrived meanwhile (then nothing is armed).
    fn may_sleep(&mut self) -> bool;
    /// The shard is awake again: no need to ring. Called after each `may_sleep` that returned true.
    fn awake(&mut self);
}

pub enum ShardInput<I> {
    Promote(Promotion<I>),
    Hub(ToShard),
    /// Let every connection go with 3001, evenly over so many milliseconds; who comes later is sent away at once.
    Drain {
        over_ms: u32,
    },
    /// Hard end: every socket is reset.
    Stop,
}

/// A connection whose handshake is over.
pub struct Promotion<I> {
    pub socket: I,
    /// Received after the handshake, not parsed.
    pub early: Vec<u8>,
    pub session: Promoted,
}

pub enum Promoted {
    Client {
        hello: Box<Hello>,
        /// permessage-deflate, if negotiated: what the client sends may be compressed.
        params: Option<DeflateParams>,
    },
    /// Gets back what it sends.
    Echo { params: Option<DeflateParams> },
}

impl<D: Driver> Shard<D> {
    pub fn new(id: ShardId, driver: D, config: ShardConfig, seed: u64) -> Self {
        let engine = Engine::new(id, config, seed, driver.now());
        let inflater = Inflater::timed(engine.config.cpu_clock);
        Shard { driver, engine, inflater }
    }

    pub fn stats(&self) -> &Arc<ShardStats> {
        &self.engine.stats
    }

    pub fn driver(&mut self) -> &mut D {
        &mut self.driver
    }

    /// One turn of the worker loop: inbox, replies, fan-out slices, timers, and then whatever the sockets have to say. Sleeps
    /// only if there is nothing to do, at most until the next deadline. False: stopped, and every socket is closed.
    pub fn tick(&mut self, mailbox: &mut dyn Mailbox<D::Incoming>) -> bool {
        self.engine.set_clock(self.driver.now());
        let inbox_left = self.take_inbox(mailbox);
        self.pump();
        self.run_fanouts();
        let timers_left = self.engine.run_timers();
        let parts_at = self.engine.run_parting();
        self.pump();
        self.report(mailbox);
        let engine = &self.engine;
        let busy = inbox_left
            || timers_left
            || parts_at.is_some_and(|at| at <= engine.clock.now)
            || !engine.fanouts.is_empty()
            || engine.is_finished()
            || !engine.todo.ready.is_empty();
        if busy || !mailbox.may_sleep() {
            self.flush();
        } else {
            let deadline = self.deadline(parts_at);
            let Shard { driver, engine, inflater } = self;
            driver.turn(deadline, &mut |event| engine.on_event(event, inflater));
            engine.settle(driver);
            mailbox.awake();
        }
        self.report(mailbox);
        !self.engine.is_finished()
    }

    /// Returns true if the turn's budget ended it.
    fn take_inbox(&mut self, mailbox: &mut dyn Mailbox<D::Incoming>) -> bool {
        for _ in 0..INBOX_ITEMS_PER_TURN_MAX {
            let Some(item) = mailbox.next() else { return false };
            let Shard { driver, engine, inflater } = self;
            match item {
                ShardInput::Hub(command) => engine.on_command(driver, command),
                ShardInput::Promote(promotion) => engine.promote(driver, promotion, inflater),
                ShardInput::Drain { over_ms } => engine.drain(over_ms),
                ShardInput::Stop => engine.stop(),
            }
            if self.engine.flight.is_full() {
                self.flush();
            }
        }
        true
    }

    fn pump(&mut self) {
        while self.engine.pump(&mut self.driver) {
            self.flush();
        }
    }

    fn run_fanouts(&mut self) {
        let mut visits = 0;
        while visits < FANOUT_VISITS_PER_TURN {
            if self.engine.flight.sends >= FLIGHT_SENDS_JOINED_MAX && !self.engine.fanouts.is_empty() {
                self.flush();
            }
            match self.engine.run_slice(&mut self.driver) {
                Some(visited) => visits += visited,
                None => break,
            }
        }
    }

    fn flush(&mut self) {
        let Shard { driver, engine, inflater } = self;
        driver.flush(&mut |event| engine.on_event(event, inflater));
        engine.settle(driver);
    }

    /// Never later than the end of this tick while there are connections, so that the clock that events are stamped with is
    /// at most a tick old.
    fn deadline(&self, parts_at: Option<Now>) -> Option<Now> {
        let tick_ends = (self.engine.slab.live() > 0).then(|| self.engine.clock.tick.end());
        [tick_ends, parts_at].into_iter().flatten().min()
    }

    fn report(&mut self, mailbox: &mut dyn Mailbox<D::Incoming>) {
        for item in self.engine.todo.to_hub.drain(..) {
            mailbox.to_hub(item);
        }
    }
}
