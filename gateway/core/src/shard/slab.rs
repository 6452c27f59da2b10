//! Connections of one shard: a generational slab of two parallel arrays.
//!
//! [`Hot`] is the one cache line that a fan-out touches; [`Cold`] is what its session needs. Everything rare is boxed, or stands
//! in a table of its own. Names stand in a table of texts, each once.
//! A slot is reused only after the driver has said `Closed`, under the next generation, so that neither a late completion
//! nor a late command can reach the connection that follows.

use smallvec::SmallVec;

use super::backlog::Backlog;
use super::memberships::{Long, Membership, Short};
use super::send_state::SendState;
use super::wheel::{Links, Tick};
use crate::driver::{Socket, Token};
use crate::ids::{ConnId, Seq, StreamIdx, Uid};
use crate::messages::{ConnClass, Encoding, PlatformId};
use crate::texts::{TextId, Texts};
use crate::ws::Decoder;

/// Tokens have 56 significant bits: 32 of index, 24 of generation.
const GENERATION_BITS: u32 = 24;

/// Index into the slab, without generation: for use inside one turn of the shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Slot(pub u32);

impl Slot {
    pub(super) const NONE: Slot = Slot(u32::MAX);
}

/// Where a connection stands between promotion and the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Free,
    Open,
    /// Our close frame is on its way; the peer's is awaited. It is a member of nothing and the hub knows that it left.
    CloseSent,
    /// Nothing more is read; what waits is sent, then FIN.
    Finishing,
    /// The driver was told to close; `Closed` is awaited.
    Closing,
}

/// Single facts of a connection, as bits of [`Hot::flags`].
pub(super) mod flag {
    /// A ping is out and nothing came since.
    pub(in crate::shard) const PINGED: u8 = 1;
    /// It stands in the list of those whose backlog can be offered.
    pub(in crate::shard) const READY: u8 = 1 << 1;
    pub(in crate::shard) const ECHO: u8 = 1 << 2;
    /// `ack_mode=sent`.
    pub(in crate::shard) const ACK_SENT: u8 = 1 << 3;
    /// Something was sent since the last report of an `ACK_SENT` connection.
    pub(in crate::shard) const ACK_DUE: u8 = 1 << 4;
    pub(in crate::shard) const AUTO_JOIN: u8 = 1 << 5;
    /// The client knows that its token ends.
    pub(in crate::shard) const EXPIRING_TOLD: u8 = 1 << 6;
    /// A recovery page went out whose `AddMember` follows.
    pub(in crate::shard) const RECOVERED: u8 = 1 << 7;
}

/// What a delivery needs.
#[repr(align(64))]
pub(super) struct Hot {
    pub socket: Socket,
    /// Some exactly if `send` is not `Idle`.
    pub backlog: Option<Box<Backlog>>,
    /// Requests that wait for their answer.
    pub in_flight: Option<Box<SmallVec<[u32; 14]>>>,
    pub generation: u32,
    /// The flight in which the last send was made; if it is the present one, another send must wait for its flush.
    pub sent_flight: u32,
    /// Which of that flight's frames it was.
    pub sent_frame: u32,
    /// When bytes last came.
    pub heard: Tick,
    pub links: Links,
    pub class: ConnClass,
    pub phase: Phase,
    pub send: SendState,
    pub flags: u8,
    /// Heartbeat interval in ticks.
    pub interval: u16,
    /// Echo: window of compressed replies; 0: none.
    pub deflate_window: u8,
}

/// What a session needs.
pub(super) struct Cold {
    pub decoder: Decoder,
    memberships: Short,
    /// `uid \n device`; none for those the hub does not know.
    identity: Option<TextId>,
    /// While open: when the token ends. While closing: when patience ends.
    pub deadline: Tick,
}

/// Who a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity<'a> {
    pub uid: &'a str,
    pub device: &'a str,
}

const _: () = assert!(size_of::<Hot>() == 64);
const _: () = assert!(size_of::<Cold>() <= 48);

/// What a quiet client costs here, with its inbox, the group of everybody and one group more: two lines, its name (19 bytes in a
/// block of 24), its place in the index of users (five bytes in a table that is at least 7/16 full), the inbox' entry and place
/// in the index of streams, and one place in each group (in a list at least half full).
const _: () = assert!(
    size_of::<Hot>() + size_of::<Cold>() + 24 + 12 + super::members::STREAM_BYTES + 12 + 2 * 2 * size_of::<Slot>()
        <= 192
);

impl Hot {
    pub(super) fn is(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    pub(super) fn set(&mut self, flag: u8, on: bool) {
        self.flags = if on { self.flags | flag } else { self.flags & !flag };
    }

    fn free() -> Self {
        Hot {
            socket: Socket { ring: 0, slot: 0 },
            backlog: None,
            in_flight: None,
            generation: 0,
            sent_flight: 0,
            sent_frame: 0,
            heard: Tick::NEVER,
            links: Links::default(),
            class: ConnClass { encoding: Encoding::Json, deflate: false, platform: PlatformId(0) },
            phase: Phase::Free,
            send: SendState::Idle,
            flags: 0,
            interval: 0,
            deflate_window: 0,
        }
    }
}

impl Cold {
    fn free() -> Self {
        Cold { decoder: Decoder::new(false), memberships: Short::EMPTY, identity: None, deadline: Tick::NEVER }
    }
}

impl Identity<'_> {
    pub(super) fn owned_uid(&self) -> Option<Uid> {
        self.uid.parse().ok()
    }
}

/// Of a connection with `ack_mode=sent`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Acks {
    pub inbox: Option<StreamIdx>,
    pub reported: Seq,
    pub not_before: Tick,
}

pub(super) struct Slab {
    hot: Vec<Hot>,
    cold: Vec<Cold>,
    long: Long,
    texts: Texts,
    free: Vec<Slot>,
    max: usize,
}

impl Slab {
    /// Reserves address space for `max` connections: neither array is ever copied while it grows.
    pub(super) fn new(max: usize) -> Self {
        Slab {
            hot: Vec::with_capacity(max),
            cold: Vec::with_capacity(max),
            long: Long::default(),
            texts: Texts::default(),
            free: Vec::new(),
            max,
        }
    }

    /// Slots in use, in whatever phase.
    pub(super) fn live(&self) -> usize {
        self.hot.len() - self.free.len()
    }

    /// Slots that have ever been in use.
    pub(super) fn len(&self) -> u32 {
        self.hot.len() as u32
    }

    /// `None`: as many connections as there may be.
    pub(super) fn insert(&mut self) -> Option<Slot> {
        if let Some(slot) = self.free.pop() {
            return Some(slot);
        }
        if self.hot.len() == self.max {
            return None;
        }
        self.hot.push(Hot::free());
        self.cold.push(Cold::free());
        Some(Slot(self.hot.len() as u32 - 1))
    }

    /// The caller has disarmed the timer and taken it out of every stream.
    pub(super) fn release(&mut self, slot: Slot) {
        self.forget_identity(slot);
        let generation = (self.hot(slot).generation + 1) & ((1 << GENERATION_BITS) - 1);
        *self.hot_mut(slot) = Hot { generation, ..Hot::free() };
        *self.cold_mut(slot) = Cold::free();
        self.free.push(slot);
    }

    pub(super) fn hot(&self, slot: Slot) -> &Hot {
        &self.hot[slot.0 as usize]
    }

    pub(super) fn hot_mut(&mut self, slot: Slot) -> &mut Hot {
        &mut self.hot[slot.0 as usize]
    }

    pub(super) fn cold(&self, slot: Slot) -> &Cold {
        &self.cold[slot.0 as usize]
    }

    pub(super) fn cold_mut(&mut self, slot: Slot) -> &mut Cold {
        &mut self.cold[slot.0 as usize]
    }

    pub(super) fn both_mut(&mut self, slot: Slot) -> (&mut Hot, &mut Cold) {
        (&mut self.hot[slot.0 as usize], &mut self.cold[slot.0 as usize])
    }

    pub(super) fn memberships(&self, slot: Slot) -> &[Membership] {
        self.cold(slot).memberships.as_slice(&self.long)
    }

    pub(super) fn is_member(&self, slot: Slot, stream: StreamIdx) -> bool {
        self.cold(slot).memberships.find(&self.long, stream).is_ok()
    }

    pub(super) fn add_membership(&mut self, slot: Slot, membership: Membership) {
        self.cold[slot.0 as usize].memberships.add(&mut self.long, membership);
    }

    pub(super) fn remove_membership(&mut self, slot: Slot, stream: StreamIdx) -> Option<Membership> {
        self.cold[slot.0 as usize].memberships.remove(&mut self.long, stream)
    }

    pub(super) fn take_memberships(&mut self, slot: Slot) -> Vec<Membership> {
        self.cold[slot.0 as usize].memberships.take(&mut self.long)
    }

    /// The member stands elsewhere among the stream's members now.
    pub(super) fn set_position(&mut self, slot: Slot, stream: StreamIdx, position: u32) {
        self.cold[slot.0 as usize].memberships.set_position(&mut self.long, stream, position);
    }

    pub(super) fn hot_and_memberships(&mut self, slot: Slot) -> (&mut Hot, &[Membership]) {
        let memberships = self.cold[slot.0 as usize].memberships.as_slice(&self.long);
        (&mut self.hot[slot.0 as usize], memberships)
    }

    /// `None`: the hub does not know it, or it has left.
    pub(super) fn identity(&self, slot: Slot) -> Option<Identity<'_>> {
        let text = self.texts.text(self.cold(slot).identity?);
        let (uid, device) = text.split_once('\n').unwrap_or((text, ""));
        Some(Identity { uid, device })
    }

    pub(super) fn set_identity(&mut self, slot: Slot, uid: &Uid, device: &str) {
        self.forget_identity(slot);
        self.cold[slot.0 as usize].identity = Some(self.texts.insert(&[uid.as_str(), "\n", device]));
    }

    pub(super) fn forget_identity(&mut self, slot: Slot) {
        if let Some(text) = self.cold[slot.0 as usize].identity.take() {
            self.texts.remove(text);
        }
    }

    pub(super) fn id(&self, slot: Slot) -> ConnId {
        ConnId { index: slot.0, generation: self.hot(slot).generation }
    }

    /// `None`: that connection is over, and its slot free or another's.
    pub(super) fn find(&self, id: ConnId) -> Option<Slot> {
        let hot = self.hot.get(id.index as usize)?;
        (hot.generation == id.generation && hot.phase != Phase::Free).then_some(Slot(id.index))
    }

    pub(super) fn find_token(&self, token: Token) -> Option<Slot> {
        self.find(ConnId { index: token.0 as u32, generation: (token.0 >> 32) as u32 })
    }

    /// Every slot in use.
    pub(super) fn slots(&self) -> impl Iterator<Item = Slot> + '_ {
        (0..self.hot.len() as u32).map(Slot).filter(|&slot| self.hot(slot).phase != Phase::Free)
    }
}

pub(super) fn token(slot: Slot, hot: &Hot) -> Token {
    Token(u64::from(slot.0) | u64::from(hot.generation) << 32)
}
