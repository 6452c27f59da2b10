//! Everything of a shard but its driver and its mailbox: what the other files of this folder add methods to.

use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use foldhash::fast::FixedState;
use hashbrown::HashMap;
use smallvec::SmallVec;

use super::backlog::{Backlog, Kind};
use super::closing::Leaving;
use super::config::{FLIGHT_GATHER_BYTES_MAX, FLIGHT_SENDS_MAX, ShardConfig};
use super::connection_id::ConnectionIds;
use super::fanout::Run;
use super::members::Streams;
use super::moving::Moving;
use super::slab::{Acks, Slab, Slot};
use super::stats::ShardStats;
use super::wheel::{Tick, Wheel};
use crate::driver::{CloseHow, Event};
use crate::ids::{ConnRef, Now, ShardId};
use crate::index::Index;
use crate::messages::ToHub;
use crate::ws::{Deflater, Inflater, OpCode, WINDOW_BITS_MAX, WINDOW_BITS_MIN, frame};

pub(super) struct Engine {
    pub id: ShardId,
    pub config: ShardConfig,
    pub clock: Clock,
    pub slab: Slab,
    pub users: Users,
    pub acks: HashMap<Slot, Acks, FixedState>,
    pub streams: Streams,
    pub wheel: Wheel,
    pub fanouts: VecDeque<Run>,
    pub flight: Flight,
    pub todo: Todo,
    pub leaving: Leaving,
    pub moving: Moving,
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
    pub connection_ids: ConnectionIds,
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
            acks: HashMap::with_hasher(FixedState::with_seed(seed)),
            streams: Streams::default(),
            wheel: Wheel::new(tick),
            fanouts: VecDeque::new(),
            flight: Flight::new(),
            todo: Todo::default(),
            leaving: Leaving::default(),
            moving: Moving::new(id, &config, seed),
            kit: Kit {
                rng: Rng(seed),
                connection_ids: ConnectionIds::new(config.connection_id_secret),
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

/// uid → connections of this shard; the uid itself stands in the slab.
pub(super) struct Users {
    index: Index,
    state: FixedState,
}

impl Users {
    fn new(seed: u64) -> Self {
        Users { index: Index::default(), state: FixedState::with_seed(seed) }
    }

    /// The slab knows whose connection it is.
    pub(super) fn insert(&mut self, slab: &Slab, slot: Slot) {
        let hash_of = |at| self.state.hash_one(slab.identity(Slot(at)).map_or("", |identity| identity.uid));
        self.index.insert(hash_of(slot.0), slot.0, hash_of);
    }

    /// Before the slab forgets whose connection it is.
    pub(super) fn remove(&mut self, slab: &Slab, slot: Slot) {
        if let Some(identity) = slab.identity(slot) {
            self.index.remove(self.state.hash_one(identity.uid), slot.0);
        }
    }

    /// Connections of this user.
    pub(super) fn of(&self, slab: &Slab, uid: &str) -> SmallVec<[Slot; 8]> {
        let candidates = self.index.candidates(self.state.hash_one(uid)).map(Slot);
        candidates.filter(|slot| slab.identity(*slot).is_some_and(|identity| identity.uid == uid)).collect()
    }
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
