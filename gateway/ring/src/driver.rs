//! [`RingDriver`]: the rings of one shard behind the [`Driver`] contract.
//!
//! One ring is opened at the start, and another one whenever all that are open are full. With one ring the thread sleeps in
//! `io_uring_enter`, where the doorbell is one more poll. With several, all rings signal the doorbell's eventfd and the
//! thread sleeps on that; waiting on the rings' own descriptors would miss deferred work.
//!
//! It does not choose timers, order sends, or know frames: that is the core's.

use std::cell::Cell;
use std::io;
use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::time::Duration;

use bytes::Bytes;
use tidegate_gateway_core::driver::{CloseHow, Driver, Event, RegisterError, Socket, Token};
use tidegate_gateway_core::ids::Now;

use crate::clock::monotonic;
use crate::config::{ConfigError, RingConfig};
use crate::doorbell::Doorbell;
use crate::op;
use crate::probe::Features;
use crate::queue::Queue;
use crate::unit::Unit;

/// The io_uring driver. Made and used in one thread; other threads reach it through its [`Doorbell`].
#[derive(Debug)]
pub struct RingDriver {
    /// At least one.
    units: Vec<Unit>,
    config: RingConfig,
    features: Features,
    doorbell: Doorbell,
    /// The kernel binds a ring to the thread that made it.
    not_send: PhantomData<*const ()>,
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the ring's configuration is invalid")]
    Config(#[from] ConfigError),
    /// Setting up a ring failed, most often for want of descriptors or memory.
    #[error("setting up ring {ring} failed")]
    Ring { ring: u16, source: io::Error },
    #[error("making the doorbell failed")]
    Doorbell(#[source] io::Error),
}

/// Figures for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingStats {
    /// Sockets registered or being closed.
    pub sockets: u32,
    /// Sockets there is room for, in open rings and in those that can still be opened.
    pub slots: u32,
    /// Open rings.
    pub rings: u16,
    /// Calls of `io_uring_enter` so far.
    pub enters: u64,
}

impl RingDriver {
    /// Opens the first ring in the calling thread, which is the one to use the driver.
    pub fn open(config: &RingConfig, features: Features) -> Result<RingDriver, OpenError> {
        config.check()?;
        let config = RingConfig { slots_per_ring: config.slots_per_ring.min(features.slots_max), ..config.clone() };
        let doorbell = Doorbell::new().map_err(OpenError::Doorbell)?;
        let first = open_unit(&config, features).map_err(|source| OpenError::Ring { ring: 0, source })?;
        let mut driver = RingDriver { units: vec![first], config, features, doorbell, not_send: PhantomData };
        driver.watch_doorbell();
        Ok(driver)
    }

    pub fn doorbell(&self) -> Doorbell {
        self.doorbell.clone()
    }

    pub fn stats(&self) -> RingStats {
        let mut stats = RingStats::default();
        for unit in &self.units {
            stats.sockets += unit.used_slots();
            stats.enters += unit.enters();
        }
        stats.slots = u32::from(self.config.rings) * self.config.slots_per_ring;
        stats.rings = self.units.len() as u16;
        stats
    }

    /// The ring for one more socket: the one with the most free slots, or a new one.
    fn roomiest(&mut self) -> Result<usize, RegisterError> {
        let free = |ring: usize| self.units[ring].free_slots();
        let roomiest = (0..self.units.len()).max_by_key(|ring| (free(*ring), usize::MAX - ring));
        match roomiest.filter(|ring| free(*ring) > 0) {
            Some(ring) => Ok(ring),
            None if self.units.len() < usize::from(self.config.rings) => {
                self.open_another().map_err(|error| RegisterError::Os(error.raw_os_error().unwrap_or(libc::EIO)))
            }
            None => Err(RegisterError::Full),
        }
    }

    fn open_another(&mut self) -> io::Result<usize> {
        let config = RingConfig { buffers: self.config.further_buffers(), ..self.config.clone() };
        let unit = open_unit(&config, self.features)?;
        unit.signal(self.doorbell.fd())?;
        if let [only] = self.units.as_mut_slice() {
            // Its poll of the eventfd must have ended before it signals the eventfd itself: each would wake the other for ever.
            only.queue().push(&op::poll::forget_doorbell());
            only.queue().visit();
            only.signal(self.doorbell.fd())?;
        }
        self.units.push(unit);
        Ok(self.units.len() - 1)
    }

    fn watch_doorbell(&mut self) {
        if let [only] = self.units.as_mut_slice() {
            only.queue().push(&op::poll::doorbell(self.doorbell.fd()));
        }
    }

    fn serve(&mut self, emit: &mut dyn FnMut(Event<'_>)) {
        for unit in &mut self.units {
            if unit.has_work() || unit.deadline().is_some() {
                unit.service(emit);
            }
        }
        if self.units[0].take_bell_ended() {
            // A poll armed while the counter is up would fire at once.
            self.doorbell.reset();
            self.watch_doorbell();
        }
        // After the completions: one of the doorbell that was consumed above does not end the sleep that may follow.
        if self.doorbell.answer() {
            emit(Event::Doorbell);
        }
    }

    fn sleep(&mut self, timeout: Option<Duration>) {
        match self.units.as_mut_slice() {
            [only] => only.queue().visit_and_wait(timeout),
            several => self.doorbell.sleep(timeout, || several.iter_mut().any(Unit::has_work)),
        }
    }
}

impl Driver for RingDriver {
    type Incoming = OwnedFd;

    /// The socket goes to a ring's table and its descriptor is closed.
    fn register(&mut self, token: Token, socket: OwnedFd) -> Result<Socket, (RegisterError, OwnedFd)> {
        let ring = match self.roomiest() {
            Ok(ring) => ring,
            Err(error) => return Err((error, socket)),
        };
        let slot = self.units[ring].register(token, socket)?;
        Ok(Socket { ring: ring as u16, slot })
    }

    fn send(&mut self, token: Token, socket: Socket, frame: &Bytes, from: usize) {
        self.units[usize::from(socket.ring)].send(token, socket.slot, frame, from);
    }

    fn watch_writable(&mut self, token: Token, socket: Socket) {
        self.units[usize::from(socket.ring)].watch_writable(token, socket.slot);
    }

    fn close(&mut self, token: Token, socket: Socket, how: CloseHow) {
        self.units[usize::from(socket.ring)].close(token, socket.slot, how);
    }

    fn flush(&mut self, on_event: &mut dyn FnMut(Event<'_>)) {
        self.serve(on_event);
    }

    fn turn(&mut self, deadline: Option<Now>, on_event: &mut dyn FnMut(Event<'_>)) {
        let handed = Cell::new(false);
        let mut emit = |event: Event<'_>| {
            handed.set(true);
            on_event(event);
        };
        loop {
            self.serve(&mut emit);
            if handed.get() {
                return;
            }
            let now = monotonic();
            if deadline.is_some_and(|deadline| deadline <= now) {
                return;
            }
            let lingering = self.units.iter_mut().filter_map(Unit::deadline);
            let until = lingering.chain(deadline).min();
            self.sleep(until.map(|until| until - now));
        }
    }

    fn now(&self) -> Now {
        monotonic()
    }
}

fn open_unit(config: &RingConfig, features: Features) -> io::Result<Unit> {
    let queue = Queue::open(config, config.slots_per_ring)?;
    queue.limit_workers()?;
    Ok(Unit::new(queue, config.slots_per_ring, config, features.can_reset))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;
    use crate::probe::probe;

    /// The worst moment: the driver has looked at everything and goes to sleep without a deadline.
    #[test]
    fn a_ring_between_the_last_look_and_the_sleep_ends_the_sleep() {
        for rings in [1, 3] {
            let (awake, woken) = mpsc::channel();
            thread::spawn(move || {
                let config = RingConfig { rings, slots_per_ring: 4, ..RingConfig::default() };
                let mut driver = RingDriver::open(&config, probe().unwrap()).unwrap();
                for _ in 1..rings {
                    driver.open_another().unwrap();
                }
                driver.serve(&mut |event| panic!("{event:?}"));
                driver.doorbell().ring();
                driver.sleep(None);
                let mut answered = 0;
                driver.serve(&mut |event| answered += u32::from(matches!(event, Event::Doorbell)));
                awake.send(answered).unwrap();
            });
            let patience = Duration::from_secs(60);
            assert_eq!(woken.recv_timeout(patience), Ok(1), "with {rings} rings");
        }
    }
}
