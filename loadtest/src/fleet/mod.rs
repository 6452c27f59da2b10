//! The clients of a run: one thread, several rings, direct descriptors, so that one process holds 100,000s of sockets.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::clock::Clock;
use crate::judge::{Findings, Ledger};
use crate::latency::Latency;
use crate::population::{Population, StreamNo};

/// How sockets are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drain {
    /// A receive is armed on every socket: arrival times are exact, and the wake-ups of the clients cost the server.
    Armed,
    /// Every socket is read at this interval, whatever happened on it: what the server pays is only its own.
    Timer { every: Duration },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Connect, join, follow by the client rule, judge.
    Follow,
    /// Upgrade, then only read: for the bare loops of `floor`. Same sockets, same reads, frames are split but not judged.
    Bare,
}

#[derive(Clone, Debug)]
pub struct FleetConfig {
    /// The gateway's client listener.
    pub target: SocketAddr,
    pub mode: Mode,
    pub drain: Drain,
    /// New connections per second; open loop, but never more than a bounded number of handshakes under way.
    pub ramp_per_second: f64,
    /// These clients get a small `SO_RCVBUF` and keep their latencies to themselves: they will stop reading.
    pub slow: Range<u32>,
    /// Come back after a break, with cursors. Without: a closed connection stays closed.
    pub reconnect: bool,
    /// Loads of the scenario, each with its own latencies.
    pub loads: usize,
}

/// Counters of a running fleet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// Connections that stand: connected and every group joined.
    pub established: u32,
    /// Handshakes that were refused or timed out.
    pub failed: u32,
    /// Connections that the server or the network ended.
    pub closed: u64,
    pub reconnects: u64,
    /// Messages shown to clients.
    pub shown: u64,
    /// WebSocket frames with messages, and reads that returned bytes: messages per frame, frames per read.
    pub frames: u64,
    pub reads: u64,
    pub bytes: u64,
    /// Streams of clients with a hole or in a gap.
    pub behind: u32,
    pub gaps: u64,
    pub findings: u64,
}

/// How well the generator itself kept up.
#[derive(Clone, Debug)]
pub struct LoopHealth {
    /// How late each pass of the loop began (timer drain) or how long it took (armed), in µs.
    pub lag_us: Histogram<u64>,
    /// CPU time of the client thread, in µs.
    pub cpu_us: u64,
}

/// What the clients were shown, judged against the ledger.
#[derive(Debug)]
pub struct Judgement {
    pub expected: u64,
    pub received: u64,
    pub holes_healed: u64,
    pub gaps: u64,
    /// Seqs at or below the cursor because a live frame overlapped a pull's answer; the client rule passes them over.
    pub overlaps: u64,
    /// Slow clients that were told a gap.
    pub slow_with_gap: u32,
    pub findings: Findings,
    /// By load; the slow clients' apart.
    pub latency: Vec<Latency>,
    pub slow_latency: Vec<Latency>,
}

/// A running fleet. Dropping it closes every connection.
#[derive(Debug)]
pub struct Fleet {}

impl Fleet {
    /// Begins to connect at once, on a thread of its own.
    pub fn start(_config: FleetConfig, _population: Arc<Population>, _clock: Clock) -> io::Result<Fleet> {
        unreachable!("the engine")
    }

    pub fn progress(&self) -> Progress {
        unreachable!("the engine")
    }

    /// Stops or resumes reading on some clients.
    pub fn pause(&self, _clients: Range<u32>, _paused: bool) {}

    /// The bytes of the newest batch frame of a stream (WebSocket head included), for a floor with the same frames.
    pub fn sample_frame(&self, _stream: StreamNo) -> Option<Vec<u8>> {
        unreachable!("the engine")
    }

    pub fn health(&self) -> LoopHealth {
        unreachable!("the engine")
    }

    /// Ends all clients and judges them. Also after Ctrl-C: what was published up to then is judged.
    pub fn judge(self, _ledger: &Ledger) -> Judgement {
        unreachable!("the engine")
    }
}
