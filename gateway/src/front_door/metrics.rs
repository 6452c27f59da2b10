//! Counters of the front door.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tidegate_gateway_core::ws::close::CloseCode;

/// How a connection's visit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Accepted,
    BadRequest,
    Unauthenticated,
    Forbidden,
    NotFound,
    /// Not a WebSocket of our version.
    NotWebSocket,
    /// Over a bound: half-open, connections, or a shard's queue.
    Overload,
    /// Over a bound of one client address.
    RateLimited,
    Timeout,
    /// The peer went away by itself.
    Gone,
    /// No TLS session came to be: garbage, another protocol, or nothing in common.
    Tls,
    /// A PROXY header that is malformed, missing, or from somebody who is not trusted.
    Proxy,
}

impl Outcome {
    pub const ALL: [Outcome; 12] = [
        Outcome::Accepted,
        Outcome::BadRequest,
        Outcome::Unauthenticated,
        Outcome::Forbidden,
        Outcome::NotFound,
        Outcome::NotWebSocket,
        Outcome::Overload,
        Outcome::RateLimited,
        Outcome::Timeout,
        Outcome::Gone,
        Outcome::Tls,
        Outcome::Proxy,
    ];

    pub fn label(self) -> &'static str {
        match self {
            Outcome::Accepted => "accepted",
            Outcome::BadRequest => "bad_request",
            Outcome::Unauthenticated => "unauthenticated",
            Outcome::Forbidden => "forbidden",
            Outcome::NotFound => "not_found",
            Outcome::NotWebSocket => "not_websocket",
            Outcome::Overload => "overload",
            Outcome::RateLimited => "rate_limited",
            Outcome::Timeout => "timeout",
            Outcome::Gone => "gone",
            Outcome::Tls => "tls",
            Outcome::Proxy => "proxy",
        }
    }

    pub fn of_status(status: u16) -> Outcome {
        match status {
            401 => Outcome::Unauthenticated,
            403 => Outcome::Forbidden,
            404 => Outcome::NotFound,
            405 | 426 => Outcome::NotWebSocket,
            408 => Outcome::Timeout,
            429 => Outcome::RateLimited,
            503 => Outcome::Overload,
            _ => Outcome::BadRequest,
        }
    }

    pub fn of_close(code: CloseCode) -> Outcome {
        match code {
            CloseCode::BadToken | CloseCode::TokenExpired => Outcome::Unauthenticated,
            CloseCode::Overload => Outcome::Overload,
            CloseCode::HeartbeatLost => Outcome::Timeout,
            CloseCode::Normal => Outcome::Gone,
            _ => Outcome::BadRequest,
        }
    }
}

/// What a client and the front door agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsKind {
    Tls12,
    Tls12Resumed,
    Tls13,
    Tls13Resumed,
}

impl TlsKind {
    pub const ALL: [TlsKind; 4] = [TlsKind::Tls12, TlsKind::Tls12Resumed, TlsKind::Tls13, TlsKind::Tls13Resumed];

    pub fn of(is_tls13: bool, is_resumed: bool) -> TlsKind {
        match (is_tls13, is_resumed) {
            (false, false) => TlsKind::Tls12,
            (false, true) => TlsKind::Tls12Resumed,
            (true, false) => TlsKind::Tls13,
            (true, true) => TlsKind::Tls13Resumed,
        }
    }

    /// Version, and whether a ticket spared a whole handshake.
    pub fn labels(self) -> [(&'static str, &'static str); 2] {
        let (version, resumed) = match self {
            TlsKind::Tls12 => ("1.2", "no"),
            TlsKind::Tls12Resumed => ("1.2", "yes"),
            TlsKind::Tls13 => ("1.3", "no"),
            TlsKind::Tls13Resumed => ("1.3", "yes"),
        };
        [("version", version), ("resumed", resumed)]
    }
}

/// Shared by the threads of a front door.
#[derive(Debug, Default)]
pub struct DoorMetrics {
    handshakes: [AtomicU64; Outcome::ALL.len()],
    secured: [AtomicU64; TlsKind::ALL.len()],
    /// Gauge: connections in their handshake.
    half_open: AtomicUsize,
    /// Failed accepts, such as for want of descriptors.
    accept_errors: AtomicU64,
}

impl DoorMetrics {
    pub fn handshake(&self, outcome: Outcome) {
        self.handshakes[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub fn handshakes(&self, outcome: Outcome) -> u64 {
        self.handshakes[outcome as usize].load(Ordering::Relaxed)
    }

    pub fn secured(&self, kind: TlsKind) {
        self.secured[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub fn secured_total(&self, kind: TlsKind) -> u64 {
        self.secured[kind as usize].load(Ordering::Relaxed)
    }

    pub fn accept_failed(&self) {
        self.accept_errors.fetch_add(1, Ordering::Relaxed);
    }

    pub fn accept_errors(&self) -> u64 {
        self.accept_errors.load(Ordering::Relaxed)
    }

    pub fn half_open(&self) -> usize {
        self.half_open.load(Ordering::Relaxed)
    }

    /// Counts one more half-open connection, unless `max` are.
    pub fn enter(&self, max: usize) -> bool {
        if self.half_open.fetch_add(1, Ordering::Relaxed) >= max {
            self.leave();
            return false;
        }
        true
    }

    pub fn leave(&self) {
        self.half_open.fetch_sub(1, Ordering::Relaxed);
    }
}
