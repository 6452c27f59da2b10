//! [`Network`]: rings that are opened as they are needed, behind one bell.
//!
//! * INV-1 `targets` is boxed, never changed and outlives the rings: no CONNECT outlives its address.
//! * INV-2 The bytes of a SEND are `in_kernel` of its slot's boxed [`Outgoing`]: unchanged until its completion was reaped, and
//!   freed later than that or after the ring (fields drop in order: rings before slots).
//! * INV-3 A part of the scratch is read into at most once a batch, and all reads of a batch are reaped before the next.

use std::io;
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use socket2::SockAddr;

use super::bell::Bell;
use super::op;
use super::ring::{Completion, Ring};
use super::scratch::{PART_BYTES, PARTS, Scratch};
use super::slots::{Outgoing, Slot, Slots, Sock, State};
use super::socket;
use super::tag::{OpKind, Tag};
use super::thread::raise_nofile;

pub use super::slots::Reading;

/// Sockets of one ring: below the usual limit of descriptors, which also bounds a ring's file table.
const SLOTS_PER_RING: u64 = 16_000;
const RINGS_MAX: usize = 250;
/// Most connections of one network.
pub const CONNECTIONS_MAX: usize = RINGS_MAX * SLOTS_PER_RING as usize;
/// Connections from one loopback address. It has 28,000 ports for a destination, but the kernel looks for a free one by trying
/// one after the other, and with 16,000 taken that search was 95 % of the clients' CPU time.
const PER_SOURCE: u32 = 5_000;
/// Reads of one socket in one pass; a socket that always has more must not hold up the others.
const READS_MAX: u32 = 64;
/// Bytes waiting to be sent on one socket. Clients send little: a server that does not read that much is ended.
const OUTGOING_BYTES_MAX: usize = 1 << 20;

#[derive(Clone, Debug)]
pub struct NetConfig {
    /// Whom [`Network::connect`] may be told to connect to, by place.
    pub targets: Vec<SocketAddr>,
    /// Provided buffers of each ring, a power of two: what may arrive at once on armed sockets.
    pub buffers: u16,
}

/// `owner` is what [`Network::connect`] was given.
#[derive(Debug)]
pub enum Event<'a> {
    /// The events that follow had happened by now.
    Reaped,
    Connected {
        owner: u32,
        sock: Sock,
    },
    Bytes {
        owner: u32,
        sock: Sock,
        /// Theirs who are told; TLS is opened where it lies.
        bytes: &'a mut [u8],
    },
    /// It failed to connect, or has ended; `errno` 0: in order. It is to be closed.
    Ended {
        owner: u32,
        sock: Sock,
        errno: i32,
    },
}

/// Sockets of one thread.
#[derive(Debug)]
pub struct Network {
    rings: Vec<Ring>,
    slots: Vec<Slots>,
    targets: Box<[SockAddr]>,
    config: NetConfig,
    slots_per_ring: u16,
    scratch: Scratch,
    bell: Bell,
    /// Sockets whose receive is to be armed.
    to_arm: Vec<Sock>,
    /// Sockets whose last read filled its part.
    unfinished: Vec<u16>,
    reaped: Vec<Completion>,
    /// The kernel binds a ring to the thread that made it.
    not_send: PhantomData<*const ()>,
}

impl Network {
    /// To be opened in the thread that will use it.
    pub fn open(config: NetConfig) -> io::Result<Network> {
        let slots_per_ring = raise_nofile()?.min(SLOTS_PER_RING) as u16;
        Ok(Network {
            rings: Vec::new(),
            slots: Vec::new(),
            targets: config.targets.iter().map(|target| SockAddr::from(*target)).collect(),
            config,
            slots_per_ring,
            scratch: Scratch::new(),
            bell: Bell::new()?,
            to_arm: Vec::new(),
            unfinished: Vec::new(),
            reaped: Vec::new(),
            not_send: PhantomData,
        })
    }

    pub fn bell(&self) -> Bell {
        self.bell.clone()
    }

    /// Begins to connect to one of the targets. An event says how it ended.
    pub fn connect(&mut self, owner: u32, target: usize, receive_buffer: Option<u32>) -> io::Result<Sock> {
        let address = self.config.targets[target];
        let socket = socket::bound(address, source(address, owner), receive_buffer)?;
        let ring = match self.slots.iter().position(Slots::has_room) {
            Some(ring) => ring,
            None => self.open_ring()?,
        };
        let slot = self.slots[ring].take(owner).expect("there is room");
        if let Err(error) = self.rings[ring].place(slot.into(), &socket) {
            self.slots[ring].release(slot);
            return Err(error);
        }
        self.slots[ring].at(slot.into()).in_flight = 1;
        // SAFETY: INV-1.
        let connect = unsafe { op::connect::slot(slot.into(), &self.targets[target]) };
        self.rings[ring].push(&connect);
        Ok(Sock { ring: ring as u16, slot })
    }

    /// Sends all of `bytes`, after what is still on its way. False: too much is waiting, the connection is as good as dead.
    #[must_use]
    pub fn send(&mut self, sock: Sock, bytes: &[u8]) -> bool {
        let slot = self.slot(sock);
        if slot.state != State::Open {
            return true;
        }
        if let Some(outgoing) = &mut slot.outgoing {
            outgoing.next.extend_from_slice(bytes);
            return outgoing.next.len() <= OUTGOING_BYTES_MAX;
        }
        slot.outgoing = Some(Box::new(Outgoing { in_kernel: bytes.to_vec(), next: Vec::new() }));
        self.push_send(sock);
        true
    }

    /// How the socket is read from now on. What has been received before a pause may still come.
    pub fn set_reading(&mut self, sock: Sock, reading: Reading) {
        let slot = self.slot(sock);
        slot.reading = reading;
        if slot.wants_armed() {
            self.to_arm.push(sock);
        } else if slot.armed && matches!(reading, Reading::OnDemand | Reading::Paused) {
            self.cancel(sock, OpKind::Receive);
        }
    }

    /// Closes it in any state; no event comes of it any more.
    pub fn close(&mut self, sock: Sock) {
        let slot = self.slot(sock);
        let before = slot.state;
        if matches!(before, State::Free | State::Closing) {
            return;
        }
        let (armed, sending) = (slot.armed, slot.outgoing.is_some());
        slot.state = State::Closing;
        if before == State::Connecting {
            self.cancel(sock, OpKind::Connect);
        }
        if armed {
            self.cancel(sock, OpKind::Receive);
        }
        if sending {
            self.cancel(sock, OpKind::Send);
        }
        self.slot(sock).in_flight += 1;
        self.rings[usize::from(sock.ring)].push(&op::close::slot(sock.slot.into()));
    }

    /// Handles what has completed; if nothing has, sleeps until something does, the bell rings, or `timeout` has passed.
    pub fn turn(&mut self, timeout: Duration, on_event: &mut dyn FnMut(Event<'_>)) {
        self.arm();
        if self.serve(on_event) {
            return;
        }
        self.bell.wait(timeout);
        // Only here: what was signalled before is looked for before the next sleep, what comes later ends it.
        self.bell.reset();
        self.serve(on_event);
    }

    /// Reads every socket that is read on demand, until it has no more.
    pub fn read_all(&mut self, on_event: &mut dyn FnMut(Event<'_>)) {
        for ring in 0..self.rings.len() {
            let mut part = 0;
            for slot in 0..self.slots[ring].used_to() {
                if self.slots[ring].at(slot).is_on_demand() {
                    self.push_read(ring, slot as u16, part);
                    part += 1;
                    if part == PARTS {
                        self.finish_reads(ring, on_event);
                        part = 0;
                    }
                }
            }
            self.finish_reads(ring, on_event);
            for _ in 1..READS_MAX {
                let unfinished = std::mem::take(&mut self.unfinished);
                for batch in unfinished.chunks(PARTS.into()) {
                    for (part, slot) in batch.iter().enumerate() {
                        if self.slots[ring].at(u32::from(*slot)).is_on_demand() {
                            self.push_read(ring, *slot, part as u16);
                        }
                    }
                    self.finish_reads(ring, on_event);
                }
                if self.unfinished.is_empty() {
                    break;
                }
            }
            self.unfinished.clear();
        }
    }

    fn slot(&mut self, sock: Sock) -> &mut Slot {
        self.slots[usize::from(sock.ring)].at(sock.slot.into())
    }

    fn open_ring(&mut self) -> io::Result<usize> {
        if self.rings.len() == RINGS_MAX {
            return Err(io::Error::other(format!("more than {CONNECTIONS_MAX} connections")));
        }
        self.rings.push(Ring::open(self.slots_per_ring.into(), self.config.buffers, self.bell.fd())?);
        self.slots.push(Slots::new(self.slots_per_ring));
        Ok(self.rings.len() - 1)
    }

    fn arm(&mut self) {
        for sock in std::mem::take(&mut self.to_arm) {
            let slot = self.slot(sock);
            if !slot.wants_armed() {
                continue;
            }
            slot.armed = true;
            slot.in_flight += 1;
            let receive = match slot.reading {
                Reading::Multishot => op::receive::multishot(sock.slot.into()),
                _ => op::receive::once(sock.slot.into()),
            };
            self.rings[usize::from(sock.ring)].push(&receive);
        }
    }

    fn push_send(&mut self, sock: Sock) {
        let slot = self.slots[usize::from(sock.ring)].at(sock.slot.into());
        let Some(outgoing) = &slot.outgoing else { return };
        slot.in_flight += 1;
        // SAFETY: INV-2.
        let send = unsafe { op::send::to_slot(sock.slot.into(), &outgoing.in_kernel) };
        self.rings[usize::from(sock.ring)].push(&send);
    }

    fn cancel(&mut self, sock: Sock, kind: OpKind) {
        self.slot(sock).in_flight += 1;
        self.rings[usize::from(sock.ring)].push(&op::cancel::of(Tag::new(kind, sock.slot.into())));
    }

    fn push_read(&mut self, ring: usize, slot: u16, part: u16) {
        self.slots[ring].at(slot.into()).in_flight += 1;
        // SAFETY: INV-3; `self` holds the scratch and is not dropped before the ring was entered.
        let read = unsafe { self.scratch.read(slot.into(), part) };
        self.rings[ring].push(&read);
    }

    fn finish_reads(&mut self, ring: usize, on_event: &mut dyn FnMut(Event<'_>)) {
        self.rings[ring].submit();
        self.reap(ring, on_event);
    }

    /// Whether anything had completed.
    fn serve(&mut self, on_event: &mut dyn FnMut(Event<'_>)) -> bool {
        let mut any = false;
        for ring in 0..self.rings.len() {
            if self.rings[ring].has_work() {
                self.rings[ring].visit();
                any |= self.reap(ring, on_event);
            }
        }
        any
    }

    fn reap(&mut self, ring: usize, on_event: &mut dyn FnMut(Event<'_>)) -> bool {
        let mut reaped = std::mem::take(&mut self.reaped);
        self.rings[ring].reap(&mut reaped);
        let any = !reaped.is_empty();
        if any {
            on_event(Event::Reaped);
        }
        for completion in reaped.drain(..) {
            self.completed(ring, completion, on_event);
        }
        self.reaped = reaped;
        any
    }

    fn completed(&mut self, ring: usize, completion: Completion, on_event: &mut dyn FnMut(Event<'_>)) {
        let Tag { kind, slot: number, part } = completion.tag();
        let sock = Sock { ring: ring as u16, slot: number as u16 };
        let slot = self.slots[ring].at(number);
        let (owner, result, is_more) = (slot.owner, completion.result, completion.is_more());
        if !is_more {
            slot.in_flight -= 1;
        }
        let mut ended = None;
        match kind {
            OpKind::Connect if slot.state == State::Connecting => {
                if result == 0 {
                    slot.state = State::Open;
                    on_event(Event::Connected { owner, sock });
                } else {
                    ended = Some(-result);
                }
            }
            OpKind::Send => ended = self.sent(sock, result),
            OpKind::Receive => {
                slot.armed = is_more;
                ended = self.received(sock, completion, on_event);
            }
            OpKind::Read if slot.state == State::Open => match result {
                0 => ended = Some(0),
                bytes if bytes > 0 => {
                    on_event(Event::Bytes { owner, sock, bytes: self.scratch.part(part, bytes as usize) });
                    if bytes as usize == PART_BYTES {
                        self.unfinished.push(sock.slot);
                    }
                }
                error if error == -libc::EAGAIN || error == -libc::EINTR => {}
                error => ended = Some(-error),
            },
            OpKind::Connect | OpKind::Read | OpKind::Cancel | OpKind::Close => {}
        }
        let slot = self.slots[ring].at(number);
        if let (Some(errno), State::Connecting | State::Open) = (ended, slot.state) {
            slot.state = State::Ended;
            on_event(Event::Ended { owner, sock, errno });
        }
        if slot.state == State::Closing && slot.in_flight == 0 {
            self.slots[ring].release(sock.slot);
        }
    }

    /// The errno that ended the connection, if one did.
    fn sent(&mut self, sock: Sock, result: i32) -> Option<i32> {
        let slot = self.slot(sock);
        let outgoing = slot.outgoing.take()?;
        if result < 0 {
            return Some(-result);
        }
        if !outgoing.next.is_empty() && slot.state == State::Open {
            slot.outgoing = Some(Box::new(Outgoing { in_kernel: outgoing.next, next: Vec::new() }));
            self.push_send(sock);
        }
        None
    }

    fn received(&mut self, sock: Sock, completion: Completion, on_event: &mut dyn FnMut(Event<'_>)) -> Option<i32> {
        let slot = self.slot(sock);
        let (owner, open, result) = (slot.owner, slot.state == State::Open, completion.result);
        if slot.wants_armed() {
            self.to_arm.push(sock);
        }
        if completion.has_buffer() {
            let hand_out = |bytes: &mut [u8]| {
                if open && !bytes.is_empty() {
                    on_event(Event::Bytes { owner, sock, bytes });
                }
            };
            self.rings[usize::from(sock.ring)].with_bytes(completion, hand_out);
        }
        match -result {
            0 => Some(0),
            // No buffer was left, or it was cancelled: it is armed again if it is to be.
            libc::ENOBUFS | libc::ECANCELED | libc::EINTR => None,
            errno => (errno > 0).then_some(errno),
        }
    }
}

/// Where a connection to a loopback address comes from.
fn source(target: SocketAddr, owner: u32) -> Option<IpAddr> {
    let SocketAddr::V4(target) = target else { return None };
    // Addresses end in 2 … 251, network after network.
    let number = owner / PER_SOURCE;
    let (network, host) = (number / 250 % 256, number % 250 + 2);
    target.ip().is_loopback().then(|| Ipv4Addr::new(127, 0, network as u8, host as u8).into())
}
