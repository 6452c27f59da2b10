//! What a shard counts. One thread writes, anybody may read: plain loads and stores, never a locked instruction.
//!
//! Accounting (F22): for each class, messages routed to members = `delivered` + `dropped.*` + what still waits.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::backlog::Kind;
use super::latency::Latency;
use crate::ws::Inflated;
use crate::ws::close::CloseCode;

/// A number that only its shard changes.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }

    pub(super) fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    pub(super) fn sub(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(n), Relaxed);
    }

    pub(super) fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }
}

/// The same count for frames of each kind. `direct` counts frames, the others messages.
#[derive(Debug, Default)]
pub struct ByKind {
    pub durable: Counter,
    pub ephemeral: Counter,
    pub direct: Counter,
}

impl ByKind {
    pub(super) fn add(&self, kind: Kind) {
        let (counter, n) = self.of(kind);
        counter.add(n);
    }

    pub(super) fn sub(&self, kind: Kind) {
        let (counter, n) = self.of(kind);
        counter.sub(n);
    }

    pub(super) fn of(&self, kind: Kind) -> (&Counter, u64) {
        match kind {
            Kind::Direct => (&self.direct, 1),
            Kind::Ephemeral { messages, .. } => (&self.ephemeral, u64::from(messages)),
            Kind::Durable { messages, .. } => (&self.durable, u64::from(messages)),
        }
    }
}

/// What did not reach a socket, by reason.
#[derive(Debug, Default)]
pub struct Dropped {
    /// Removed from, or not put into, the queue of a slow connection. Durable ones come by the pull that its `gap` asks for.
    pub slow: ByKind,
    /// Not sent because the stream is off until a pull reaches its head. Durable ones come by that pull.
    pub gapped: ByKind,
    /// Waited for a connection that ended; the cursor brings durable ones back.
    pub closed: ByKind,
}

/// One shard's counters.
#[derive(Debug, Default)]
pub struct ShardStats {
    /// Sockets in the slab, in whatever phase.
    pub connections: Counter,
    pub promoted: Counter,
    /// Sockets that were given up: slab or descriptor table full, or the shard stopped.
    pub refused: Counter,
    /// Wholly in the socket (or in a send that has not come back short).
    pub delivered: ByKind,
    /// From the push to the first socket, of a sample.
    pub latency: Latency,
    pub dropped: Dropped,
    pub sends: Sends,
    /// Streams of connections that were taken off.
    pub gaps: Counter,
    pub pings: Counter,
    pub requests: Counter,
    /// Bytes that wait for slow connections, with overhead.
    pub queue_bytes: Counter,
    pub closes: Closes,
    /// Connections that are still to be let go, of a drain or because their streams begin anew.
    pub parting: Counter,
    /// Connections that are still to be let go because their place is another gateway.
    pub moves_pending: Counter,
    /// Of the endpoint ring in use; 0: none yet.
    pub ring_version: Counter,
    /// A fan-out had no frame for a member's class: a defect of the hub.
    pub frames_missing: Counter,
    pub inflated: InflatedCounters,
}

/// Clients' compressed messages.
#[derive(Debug, Default)]
pub struct InflatedCounters {
    pub messages: Counter,
    pub packed_bytes: Counter,
    pub plain_bytes: Counter,
    pub cpu_ns: Counter,
}

impl InflatedCounters {
    pub(super) fn note(&self, inflated: &Inflated) {
        if inflated.messages != self.messages.value() {
            self.messages.set(inflated.messages);
            self.packed_bytes.set(inflated.packed_bytes);
            self.plain_bytes.set(inflated.plain_bytes);
            self.cpu_ns.set(inflated.cpu_ns);
        }
    }
}

#[derive(Debug, Default)]
pub struct Sends {
    /// Sends handed to the driver.
    pub made: Counter,
    pub bytes: Counter,
    /// Came back short.
    pub short: Counter,
    /// Carried more than one frame.
    pub gathered: Counter,
}

/// How connections ended.
#[derive(Debug, Default)]
pub struct Closes {
    ours: [Counter; OUR_CODES.len()],
    /// The peer began the closing handshake.
    pub by_peer: Counter,
    /// The peer went without one.
    pub eof: Counter,
    /// The socket broke.
    pub failed: Counter,
    /// The shard was stopped.
    pub stopped: Counter,
}

const OUR_CODES: [CloseCode; 22] = [
    CloseCode::Normal,
    CloseCode::GoingAway,
    CloseCode::Protocol,
    CloseCode::Unsupported,
    CloseCode::InvalidData,
    CloseCode::Policy,
    CloseCode::TooBig,
    CloseCode::Internal,
    CloseCode::Restart,
    CloseCode::Drain,
    CloseCode::Moved,
    CloseCode::Slow,
    CloseCode::Overload,
    CloseCode::HeartbeatLost,
    CloseCode::BadToken,
    CloseCode::TokenExpired,
    CloseCode::Replaced,
    CloseCode::Banned,
    CloseCode::BadRequest,
    CloseCode::Limit,
    CloseCode::Version,
    CloseCode::LoggedOut,
];

impl Closes {
    /// Closed by this side with each code.
    pub fn ours(&self) -> impl Iterator<Item = (CloseCode, u64)> + '_ {
        OUR_CODES.iter().copied().zip(self.ours.iter().map(Counter::value))
    }

    pub fn with(&self, code: CloseCode) -> u64 {
        self.ours().find(|(of, _)| *of == code).map_or(0, |(_, n)| n)
    }

    pub(super) fn count(&self, code: CloseCode) {
        if let Some(at) = OUR_CODES.iter().position(|of| *of == code) {
            self.ours[at].add(1);
        }
    }
}
