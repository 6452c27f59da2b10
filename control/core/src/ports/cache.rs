//! The cache: facts that are committed elsewhere, nearer to who asks.
//!
//! What holds for every adapter:
//! * A fact is written after its commit, and nothing is allocated or claimed here. A miss, a flush or an outage only means:
//!   ask the store.
//! * [`Cache::write`] never waits and never fails. When facts cannot be written in time they are dropped and counted; a stream whose
//!   facts were dropped is forgotten here before anything newer of it is written, so that what is old never looks new.
//! * Reads never fail: `None` says "not known here". They take batches, and answer in the order of what was asked.
//! * Facts of a partition's owner carry its [`OwnerEpoch`]; beside what a newer owner wrote, an older owner's are ignored.

mod facts;
mod live;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

pub use self::facts::{
    BadChannel, Bell, CHANNEL_BYTES_MAX, Channel, Connection, CursorKey, Entry, Fact, OwnedRun, Ring, RouteKey,
    RunQuery,
};
pub use self::live::{Incarnation, IncarnationTag, Live};
use super::store::DedupHit;
use crate::breaker::BreakerState;
use crate::domain::{Epoch, Seq, StreamKey, Uid};

#[cfg(doc)]
use crate::domain::OwnerEpoch;

/// Messages of a stream that are kept hot.
pub const HOT_MESSAGES_MAX: usize = 100;
/// Connections that are listed for one user; of more, the oldest are not.
pub const CONNECTIONS_PER_USER_MAX: usize = 64;

/// What a look-up gives at last. The core has no executor: who asks brings one.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

pub trait Cache: Send + Sync + 'static {
    /// Takes facts, in order. Returns at once.
    fn write(&self, facts: Vec<Fact>);

    /// Live connections of each user. An empty list means that none is known, which after a flush is not the same as
    /// "offline": see [`Cache::generation`].
    fn routes_of<'a>(&'a self, users: &'a [Uid], live: &'a Live) -> Pending<'a, Vec<Option<Vec<Connection>>>>;

    /// Connections that are listed for each incarnation.
    fn route_counts<'a>(&'a self, gateways: &'a [Incarnation]) -> Pending<'a, Vec<Option<u64>>>;

    /// Removes routes of void incarnations, a bounded number of users at a time; call it now and then. A gateway that is merely
    /// missing in `live` keeps its routes: only one that was voided, or that lives in another incarnation, loses them.
    fn sweep<'a>(&'a self, live: &'a Live) -> Pending<'a, Sweep>;

    fn heads<'a>(&'a self, streams: &'a [StreamKey]) -> Pending<'a, Vec<Option<(Epoch, Seq)>>>;

    fn dedup<'a>(&'a self, keys: &'a [[u8; 16]]) -> Pending<'a, Vec<Option<DedupHit>>>;

    /// Messages after each place, if the hot list reaches back to it without a hole.
    fn hot<'a>(&'a self, places: &'a [RunQuery]) -> Pending<'a, Vec<Option<Vec<Entry>>>>;

    /// Messages of inboxes after each place, from the short queue.
    fn queued<'a>(&'a self, places: &'a [RunQuery]) -> Pending<'a, Vec<Queued>>;

    fn cursors<'a>(&'a self, keys: &'a [CursorKey]) -> Pending<'a, Vec<Option<(Epoch, Seq)>>>;

    fn ring(&self) -> Pending<'_, Option<Ring>>;

    /// Publishes a ring, unless one of the same or a newer version is published. The one write that is waited for: its caller
    /// is the holder of the lock, once per change.
    fn publish_ring(&self, ring: Ring) -> Pending<'_, Published>;

    /// Begins at once, and survives outages: each one shows as a [`Notice::Gap`].
    fn subscribe(&self, channels: &[Channel]) -> Box<dyn Subscription>;

    /// Rises whenever facts may have been lost (a flush, a server that came back empty, drops beyond what is remembered): who
    /// holds routes or heads in memory writes them again.
    fn generation(&self) -> u64;

    fn health(&self) -> Health;

    /// Returns when everything that was written before is at the server, or was dropped and repaired. For tests and farewells: it
    /// waits for as long as the server is away.
    fn settled(&self) -> Pending<'_, ()>;
}

/// What the short queue knows of `(after, …]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Queued {
    /// All of `(after, upto]`, no hole, no twin. `upto` is the newest that was written, or the end of a page of `limit`: what
    /// is newer comes live, or with the next page.
    Covers { upto: Seq, entries: Vec<Entry> },
    /// It does not reach back that far: `(after, oldest)` must come from the store, or all of it.
    Trimmed { oldest: Seq },
    /// Nothing, or of another epoch, or it ends before `after`.
    Unknown,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sweep {
    /// Routes that were removed.
    pub removed: u64,
    /// The whole table was walked since it last said so.
    pub done: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Published {
    Done,
    /// This version is published already, and it is not older.
    Stands(u64),
    /// Not known whether it was: try again.
    Away,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    Message {
        channel: Channel,
        bytes: bytes::Bytes,
    },
    /// Notices may have been missed before this: what was cached because of them must be forgotten. Also the first one, once the
    /// subscription stands.
    Gap,
}

pub trait Subscription: Send {
    /// `None`: the cache is being closed.
    fn next(&mut self) -> Pending<'_, Option<Notice>>;
}

/// For metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    pub breaker: BreakerState,
    pub breaker_opened: u64,
    /// Reads that were answered "not known" because the server was away.
    pub reads_failed: u64,
    /// Facts that were dropped.
    pub writes_dropped: u64,
    /// Facts that the server refused, for want of memory or of rights.
    pub writes_refused: u64,
    pub writes_done: u64,
    /// Facts that wait.
    pub queued: usize,
    /// Streams and routes that must be repaired when the server is back.
    pub owed: usize,
}

/// A cache that somebody else may have too.
pub type SharedCache = Arc<dyn Cache>;
