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
    Timeout,
    /// The peer went away by itself.
    Gone,
}

impl Outcome {
    pub const ALL: [Outcome; 9] = [
        Outcome::Accepted,
        Outcome::BadRequest,
        Outcome::Unauthenticated,
        Outcome::Forbidden,
        Outcome::NotFound,
        Outcome::NotWebSocket,
        Outcome::Overload,
        Outcome::Timeout,
        Outcome::Gone,
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
            Outcome::Timeout => "timeout",
            Outcome::Gone => "gone",
        }
    }

    pub fn of_status(status: u16) -> Outcome {
        match status {
            401 => Outcome::Unauthenticated,
            403 => Outcome::Forbidden,
            404 => Outcome::NotFound,
            405 | 426 => Outcome::NotWebSocket,
            408 => Outcome::Timeout,
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

/// Shared by the threads of a front door.
#[derive(Debug, Default)]
pub struct DoorMetrics {
    handshakes: [AtomicU64; Outcome::ALL.len()],
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
