//! [`EpollDriver`]: the sockets of one shard behind the [`Driver`] contract.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use bytes::Bytes;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{self, RecvFlags, SendFlags, Shutdown, sockopt};
use tidegate_gateway_core::driver::{CloseHow, Driver, Event, RegisterError, Socket, Token};
use tidegate_gateway_core::ids::Now;

use crate::clock::monotonic;
use crate::config::{ConfigError, EpollConfig};
use crate::doorbell::Doorbell;
use crate::outbox::Outbox;
use crate::table::{Connection, Mark, Phase, SlotUse, Table};

type Emit<'a> = &'a mut dyn FnMut(Event<'_>);

/// Events taken from the kernel at once; the others are there at the next look.
const EVENTS_MAX: usize = 256;
/// The doorbell's name in epoll; no slot has this number.
const BELL: u64 = u64::MAX;

const INPUT: epoll::EventFlags = epoll::EventFlags::IN.union(epoll::EventFlags::RDHUP).union(epoll::EventFlags::ET);
const BROKEN: epoll::EventFlags = epoll::EventFlags::ERR.union(epoll::EventFlags::HUP);
/// After these the input ends or has failed, and epoll says nothing more.
const FINAL: epoll::EventFlags = BROKEN.union(epoll::EventFlags::RDHUP);

/// The epoll driver. Used in one thread; others reach it through its [`Doorbell`].
pub struct EpollDriver {
    epoll: OwnedFd,
    doorbell: Doorbell,
    table: Table,
    outbox: Outbox,
    /// Short and failed sends that were not told yet; one for each socket at most.
    told: Vec<(SlotUse, Result<usize, i32>)>,
    /// Closes to carry out; one for each socket at most.
    ends: Vec<(SlotUse, CloseHow)>,
    /// Sockets with input to read, in order; each at most once.
    wanted: VecDeque<SlotUse>,
    /// Gracefully closed sockets and until when they may wait for the peer's FIN, earliest first. Those that ended before their
    /// time are swept out when there are more than twice the slots.
    lingering: VecDeque<(Now, SlotUse)>,
    events: Vec<epoll::Event>,
    buffer: Box<[u8]>,
    config: EpollConfig,
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the driver's configuration is invalid")]
    Config(#[from] ConfigError),
    /// Most often for want of descriptors.
    #[error("making the epoll instance and its doorbell failed")]
    Os(#[source] io::Error),
}

impl EpollDriver {
    pub fn open(config: &EpollConfig) -> Result<EpollDriver, OpenError> {
        config.check()?;
        let failed = |errno: Errno| OpenError::Os(errno.into());
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed)?;
        let doorbell = Doorbell::new().map_err(failed)?;
        let name = epoll::EventData::new_u64(BELL);
        epoll::add(&epoll, doorbell.descriptor(), name, INPUT).map_err(failed)?;
        Ok(EpollDriver {
            epoll,
            doorbell,
            table: Table::new(config.slots),
            outbox: Outbox::default(),
            told: Vec::new(),
            ends: Vec::new(),
            wanted: VecDeque::new(),
            lingering: VecDeque::new(),
            events: Vec::with_capacity(EVENTS_MAX),
            buffer: vec![0; config.buffer_bytes as usize].into(),
            config: config.clone(),
        })
    }

    pub fn doorbell(&self) -> Doorbell {
        self.doorbell.clone()
    }

    /// Sockets registered or being closed.
    pub fn sockets(&self) -> u32 {
        self.table.len()
    }

    /// Makes the queued sends.
    fn send_queued(&mut self) {
        let EpollDriver { outbox, table, told, .. } = self;
        outbox.empty(|of, bytes| {
            let Some(connection) = table.current(of) else { return };
            let result = match net::send(&connection.socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(taken) if taken == bytes.len() => return,
                Ok(taken) => Ok(taken),
                // No room now, in this socket or in the whole machine: Writable tells when to go on.
                Err(Errno::AGAIN | Errno::INTR | Errno::NOBUFS | Errno::NOMEM) => Ok(0),
                Err(errno) => Err(errno.raw_os_error()),
            };
            told.push((of, result));
        });
    }

    /// Everything that was asked for: sends, then the closes that follow them, then lingering that is over.
    fn carry_out(&mut self, emit: Emit<'_>) {
        self.send_queued();
        for (of, result) in self.told.drain(..) {
            if let Some(connection) = self.table.current(of).filter(|connection| connection.phase == Phase::Open) {
                emit(Event::Sent { token: connection.token(), result });
            }
        }
        let mut ends = std::mem::take(&mut self.ends);
        for (of, how) in ends.drain(..) {
            self.end(of, how, emit);
        }
        self.ends = ends;
        self.expire(emit);
    }

    fn end(&mut self, of: SlotUse, how: CloseHow, emit: Emit<'_>) {
        let Some(connection) = self.table.current(of) else { return };
        if how == CloseHow::Abort || connection.has(Mark::ENDED) || self.config.linger_ms == 0 {
            return self.finish(of, how, emit);
        }
        connection.phase = Phase::Lingering;
        // A socket that is broken already cannot be shut down; reading it ends it.
        let _ = net::shutdown(&connection.socket, Shutdown::Write);
        if self.lingering.len() >= 2 * self.config.slots as usize {
            let table = &mut self.table;
            self.lingering.retain(|(_, of)| table.current(*of).is_some());
        }
        self.lingering.push_back((monotonic() + Duration::from_millis(self.config.linger_ms.into()), of));
    }

    /// Closes the descriptor, which takes it out of epoll.
    fn finish(&mut self, of: SlotUse, how: CloseHow, emit: Emit<'_>) {
        let Some(connection) = self.table.remove(of) else { return };
        if how == CloseHow::Abort {
            // What is no TCP socket knows no reset and ends like any other.
            let _ = sockopt::set_socket_linger(&connection.socket, Some(Duration::ZERO));
        }
        let token = connection.token();
        drop(connection);
        emit(Event::Closed { token });
    }

    /// Closes gracefully closed sockets whose peers did not finish in time.
    fn expire(&mut self, emit: Emit<'_>) {
        if self.lingering.is_empty() {
            return;
        }
        let now = monotonic();
        while let Some((_, of)) = self.lingering.pop_front_if(|(until, _)| *until <= now) {
            self.finish(of, CloseHow::Graceful, emit);
        }
    }

    /// When the next gracefully closed socket stops waiting for its peer.
    fn linger_deadline(&mut self) -> Option<Now> {
        while let Some((until, of)) = self.lingering.front().copied() {
            if self.table.current(of).is_some() {
                return Some(until);
            }
            self.lingering.pop_front();
        }
        None
    }

    /// Takes events from the kernel, waiting so long for the first (`None`: without end).
    fn wait(&mut self, timeout: Option<Duration>) {
        let timeout = timeout
            .map(|timeout| Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: timeout.subsec_nanos().into() });
        // An interrupted wait has no events.
        let waited = epoll::wait(&self.epoll, spare_capacity(&mut self.events), timeout.as_ref());
        debug_assert!(matches!(waited, Ok(_) | Err(Errno::INTR)), "{waited:?}");
    }

    /// Hands out what the events mean, then reads a share of what there is to read.
    fn serve(&mut self, emit: Emit<'_>) {
        let mut events = std::mem::take(&mut self.events);
        for event in events.drain(..) {
            let (name, flags) = (event.data.u64(), event.flags);
            if name != BELL {
                self.on_event(SlotUse::unpack(name), flags, emit);
            }
        }
        self.events = events;
        if self.doorbell.answer() {
            emit(Event::Doorbell);
        }
        for _ in 0..self.wanted.len().min(self.config.reads_per_turn as usize) {
            if let Some(of) = self.wanted.pop_front() {
                self.read(of, emit);
            }
        }
    }

    fn on_event(&mut self, of: SlotUse, flags: epoll::EventFlags, emit: Emit<'_>) {
        // An old use: what was told of a socket that is closed by now.
        let Some(connection) = self.table.current(of) else { return };
        let writable = flags.intersects(BROKEN.union(epoll::EventFlags::OUT));
        if writable && connection.clear(Mark::WRITING) && connection.phase == Phase::Open {
            emit(Event::Writable { token: connection.token() });
        }
        if connection.has(Mark::ENDED) || !flags.intersects(FINAL.union(epoll::EventFlags::IN)) {
            return;
        }
        if flags.intersects(FINAL) {
            connection.set(Mark::FINAL);
        }
        if connection.set(Mark::READING) {
            self.wanted.push_back(of);
        }
    }

    /// One buffer of one socket.
    fn read(&mut self, of: SlotUse, emit: Emit<'_>) {
        let Some(connection) = self.table.current(of) else { return };
        let more = match net::recv(&connection.socket, &mut *self.buffer, RecvFlags::DONTWAIT) {
            Ok((0, _)) => return self.on_ended(of, None, emit),
            Ok((len, _)) => {
                let bytes = &mut self.buffer[..len];
                if connection.phase == Phase::Open {
                    emit(Event::Data { token: connection.token(), bytes });
                }
                len == self.buffer.len() || connection.has(Mark::FINAL)
            }
            // Nothing was read, and something is there.
            Err(Errno::INTR | Errno::NOBUFS | Errno::NOMEM) => true,
            Err(Errno::AGAIN) => {
                connection.clear(Mark::FINAL);
                false
            }
            Err(errno) => return self.on_ended(of, Some(errno.raw_os_error()), emit),
        };
        if more {
            self.wanted.push_back(of);
        } else {
            connection.clear(Mark::READING);
        }
    }

    /// Input is over: by the peer's FIN (`None`) or an error.
    fn on_ended(&mut self, of: SlotUse, errno: Option<i32>, emit: Emit<'_>) {
        let Some(connection) = self.table.current(of) else { return };
        if connection.phase == Phase::Lingering {
            return self.finish(of, CloseHow::Graceful, emit);
        }
        connection.clear(Mark::READING);
        connection.set(Mark::ENDED);
        let token = connection.token();
        match errno {
            None => emit(Event::Eof { token }),
            Some(errno) => emit(Event::Failed { token, errno }),
        }
    }
}

impl Driver for EpollDriver {
    type Incoming = OwnedFd;

    fn register(&mut self, token: Token, socket: OwnedFd) -> Result<Socket, (RegisterError, OwnedFd)> {
        let (of, connection) = match self.table.insert(token, socket) {
            Ok(inserted) => inserted,
            Err(socket) => return Err((RegisterError::Full, socket)),
        };
        let name = epoll::EventData::new_u64(of.pack());
        if let Err(errno) = epoll::add(&self.epoll, &connection.socket, name, INPUT) {
            let connection = self.table.remove(of).expect("it was inserted above");
            return Err((RegisterError::Os(errno.raw_os_error()), connection.socket));
        }
        Ok(Socket { ring: 0, slot: of.slot })
    }

    fn send(&mut self, token: Token, socket: Socket, frame: &Bytes, from: usize) {
        if from >= frame.len() {
            return;
        }
        let Some((of, _)) = named(&mut self.table, token, socket) else { return };
        if !self.outbox.has_room_for(frame) {
            self.send_queued();
        }
        self.outbox.push(of, frame, from);
    }

    fn watch_writable(&mut self, token: Token, socket: Socket) {
        let Some((of, connection)) = named(&mut self.table, token, socket) else { return };
        if connection.set(Mark::WRITING) {
            let name = epoll::EventData::new_u64(of.pack());
            // Looks at the socket anew, so room that came before the question is told, too.
            let changed = epoll::modify(&self.epoll, &connection.socket, name, INPUT.union(epoll::EventFlags::OUT));
            debug_assert_eq!(changed, Ok(()));
        }
    }

    fn close(&mut self, token: Token, socket: Socket, how: CloseHow) {
        let Some((of, connection)) = named(&mut self.table, token, socket) else { return };
        connection.phase = Phase::Ending;
        self.ends.push((of, how));
    }

    fn flush(&mut self, on_event: &mut dyn FnMut(Event<'_>)) {
        self.carry_out(on_event);
        self.wait(Some(Duration::ZERO));
        self.serve(on_event);
    }

    fn turn(&mut self, deadline: Option<Now>, on_event: &mut dyn FnMut(Event<'_>)) {
        let handed = Cell::new(false);
        let mut emit = |event: Event<'_>| {
            handed.set(true);
            on_event(event);
        };
        loop {
            self.carry_out(&mut emit);
            let now = monotonic();
            let over = handed.get() || deadline.is_some_and(|deadline| deadline <= now);
            let timeout = if over || !self.wanted.is_empty() {
                Some(Duration::ZERO)
            } else {
                let until = self.linger_deadline().into_iter().chain(deadline).min();
                until.map(|until| until - now)
            };
            self.wait(timeout);
            self.serve(&mut emit);
            if over || handed.get() {
                return;
            }
        }
    }

    fn now(&self) -> Now {
        monotonic()
    }
}

/// The socket that the caller names. It never names one that is not its own.
fn named(table: &mut Table, token: Token, socket: Socket) -> Option<(SlotUse, &mut Connection)> {
    let found = table.open(socket.slot, token);
    debug_assert!(found.is_some(), "{token:?} names {socket:?}, which is not its own");
    found
}
