//! Everything of a shard but its driver and its mailbox: what the other files of this folder add methods to.

use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use foldhash::fast::FixedState;
use hashbrown::HashTable;
use smallvec::SmallVec;

use super::backlog::{Backlog, Kind};
use super::closing::Leaving;
use super::config::{FLIGHT_GATHER_BYTES_MAX, FLIGHT_SENDS_MAX, ShardConfig};
use super::fanout::Run;
use super::members::Streams;
use super::slab::{Slab, Slot};
use super::stats::ShardStats;
use super::wheel::{Tick, Wheel};
use crate::driver::{CloseHow, Event};
use crate::ids::{ConnRef, Now, ShardId};
use crate::messages::ToHub;
use crate::ws::{Deflater, Inflater, OpCode, WINDOW_BITS_MAX, WINDOW_BITS_MIN, frame};

pub(super) struct Engine {
    pub id: ShardId,
    pub config: ShardConfig,
    pub clock: Clock,
    pub slab: Slab,
    pub users: Users,
    pub streams: Streams,
    pub wheel: Wheel,
    pub fanouts: VecDeque<Run>,
    pub flight: Flight,
    pub todo: Todo,
    pub leaving: Leaving,
    pub kit: Kit,
    pub stats: Arc<ShardStats>,
}

/// The time of this turn. It may lag by the length of one sleep, which is never longer than a tick.
pub(super) struct Clock {
    pub now: Now,
    pub tick: Tick,
}

/// Sends since the last flush.
pub(super) struct Flight {
    pub number: u32,
    /// Frames that a send of this flight points to, so that a short one can be told from its index.
    pub frames: Vec<Shared>,
    pub sends: u32,
    pub scratch: BytesMut,
    pub gathered: usize,
    /// Connections whose backlog was offered.
    pub offered: Vec<Slot>,
}

pub(super) struct Shared {
    pub frame: Bytes,
    pub kind: Kind,
}

/// What event handlers leave for later, since the driver is not theirs to call.
#[derive(Default)]
pub(super) struct Todo {
    /// Backlogs that can be offered.
    pub ready: Vec<Slot>,
    /// Emptied list, kept for its capacity.
    pub ready_spare: Vec<Slot>,
    pub watch: Vec<Slot>,
    /// Connections with gaps to tell if nothing waits.
    pub tell: Vec<Slot>,
    pub close: Vec<(Slot, CloseHow)>,
    /// Connections with `ack_mode=sent` that got something.
    pub acks: Vec<Slot>,
    pub to_hub: Vec<ToHub>,
}

/// Tools that connections share.
pub(super) struct Kit {
    pub rng: Rng,
    pub ping: Bytes,
    /// By window bits.
    pub deflaters: [Option<Box<Deflater>>; (WINDOW_BITS_MAX - WINDOW_BITS_MIN) as usize + 1],
    /// In their boxes: they move between here and a hot line as they are.
    #[allow(clippy::vec_box)]
    pub spare_backlogs: Vec<Box<Backlog>>,
}

impl Engine {
    pub(super) fn new(id: ShardId, config: ShardConfig, seed: u64, now: Now) -> Self {
        let tick = Tick::of(now);
        Engine {
            id,
            clock: Clock { now, tick },
            slab: Slab::new(config.connections_max),
            users: Users::new(seed),
            streams: Streams::default(),
            wheel: Wheel::new(tick),
            fanouts: VecDeque::new(),
            flight: Flight::new(),
            todo: Todo::default(),
            leaving: Leaving::default(),
            kit: Kit {
                rng: Rng(seed),
                ping: frame(OpCode::Ping, b""),
                deflaters: Default::default(),
                spare_backlogs: Vec::new(),
            },
            stats: Arc::default(),
            config,
        }
    }

    pub(super) fn set_clock(&mut self, now: Now) {
        self.clock = Clock { now, tick: Tick::of(now) };
        self.wheel.advance(self.clock.tick);
    }

    pub(super) fn conn_ref(&self, slot: Slot) -> ConnRef {
        ConnRef { shard: self.id, conn: self.slab.id(slot) }
    }

    /// Called from inside the driver: changes state and leaves notes in [`Todo`].
    pub(super) fn on_event(&mut self, event: Event<'_>, inflater: &mut Inflater) {
        let token = match &event {
            Event::Doorbell => return,
            Event::Data { token, .. }
            | Event::Eof { token }
            | Event::Failed { token, .. }
            | Event::Sent { token, .. }
            | Event::Writable { token }
            | Event::Closed { token } => *token,
        };
        let Some(slot) = self.slab.find_token(token) else {
            debug_assert!(false, "an event for a connection that is over: {event:?}");
            return;
        };
        match event {
            Event::Data { bytes, .. } => self.on_data(slot, bytes, inflater),
            Event::Eof { .. } => self.on_eof(slot),
            Event::Failed { .. } => self.on_failed(slot),
            Event::Sent { result, .. } => self.on_sent(slot, result),
            Event::Writable { .. } => self.on_writable(slot),
            Event::Closed { .. } => self.on_closed(slot),
            Event::Doorbell => {}
        }
    }
}

impl Flight {
    fn new() -> Self {
        Flight {
            // Slots begin with flight 0, and have sent nothing in this one.
            number: 1,
            frames: Vec::new(),
            sends: 0,
            scratch: BytesMut::new(),
            gathered: 0,
            offered: Vec::new(),
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.sends >= FLIGHT_SENDS_MAX || self.gathered >= FLIGHT_GATHER_BYTES_MAX
    }

    pub(super) fn share(&mut self, frame: Bytes, kind: Kind) -> u32 {
        self.frames.push(Shared { frame, kind });
        self.frames.len() as u32 - 1
    }

    /// Everything of it is in the sockets, or in backlogs.
    pub(super) fn land(&mut self) {
        self.number = self.number.wrapping_add(1);
        self.frames.clear();
        (self.sends, self.gathered) = (0, 0);
    }
}

/// uid → connections of this shard. Eight bytes an entry: a hash and a slot; the uid itself stands in the cold line.
pub(super) struct Users {
    table: HashTable<(u32, Slot)>,
    state: FixedState,
}

impl Users {
    fn new(seed: u64) -> Self {
        Users { table: HashTable::new(), state: FixedState::with_seed(seed) }
    }

    pub(super) fn insert(&mut self, uid: &str, slot: Slot) {
        let (key, hash) = self.key(uid);
        self.table.insert_unique(hash, (key, slot), |&(key, _)| spread(key));
    }

    pub(super) fn remove(&mut self, uid: &str, slot: Slot) {
        let (_, hash) = self.key(uid);
        if let Ok(entry) = self.table.find_entry(hash, |&(_, at)| at == slot) {
            entry.remove();
        }
    }

    /// Connections of this user, and perhaps of another one with the same hash.
    pub(super) fn candidates(&self, uid: &str) -> SmallVec<[Slot; 8]> {
        let (key, hash) = self.key(uid);
        self.table.iter_hash(hash).filter(|(of, _)| *of == key).map(|&(_, slot)| slot).collect()
    }

    fn key(&self, uid: &str) -> (u32, u64) {
        let key = self.state.hash_one(uid) as u32;
        (key, spread(key))
    }
}

/// The table takes bucket bits from one end of a hash and tag bits from the other.
fn spread(key: u32) -> u64 {
    u64::from(key) << 32 | u64::from(key)
}

/// SplitMix64 (Steele, Lea, Flood 2014): jitter needs no more.
pub(super) struct Rng(u64);

impl Rng {
    /// Uniform enough in `0..=max`.
    pub(super) fn up_to(&mut self, max: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        ((u128::from(z) * (u128::from(max) + 1)) >> 64) as u32
    }
}
