//! What is counted while messages are shown; the rest is known at the end only.

use super::evidence::Seen;
use super::findings::{Findings, Kind};
use crate::latency::Latency;
use crate::payload::Stamp;
use crate::population::{ClientNo, StreamNo};

/// Messages kept that differ from what others were shown; more of them count as wrong without asking the ledger.
const ODD_MAX: usize = 100_000;

/// Something that one client was shown and others were shown differently: the ledger says at the end who was right.
#[derive(Clone, Copy, Debug)]
pub struct Odd {
    pub client: ClientNo,
    pub stream: StreamNo,
    pub seq: u64,
    pub seen: Seen,
}

#[derive(Debug, Default)]
pub struct Tally {
    pub findings: Findings,
    /// Number of findings so far.
    pub found: u64,
    /// Messages shown, each once for each client.
    pub received: u64,
    /// WebSocket frames with messages.
    pub frames: u64,
    pub overlaps: u64,
    pub holes_healed: u64,
    pub gaps: u64,
    /// Streams of clients in a gap or with a hole at this moment.
    pub behind: u32,
    latency: Vec<Latency>,
    slow_latency: Vec<Latency>,
    odd: Vec<Odd>,
}

impl Tally {
    pub fn new(loads: usize) -> Tally {
        let latency = vec![Latency::default(); loads];
        Tally { slow_latency: latency.clone(), latency, ..Tally::default() }
    }

    pub fn find(&mut self, kind: Kind, what: impl FnOnce() -> String) {
        self.found += 1;
        self.findings.add(kind, what);
    }

    /// `count` clients were shown the message at `now_us`.
    pub fn latency(&mut self, stamp: Stamp, now_us: u64, count: u64) {
        record(&mut self.latency, stamp, now_us, count);
    }

    /// A slow client was shown the message.
    pub fn slow_latency(&mut self, stamp: Stamp, now_us: u64) {
        record(&mut self.slow_latency, stamp, now_us, 1);
    }

    /// False: there are too many to ask the ledger about.
    #[must_use]
    pub fn keep_odd(&mut self, odd: Odd) -> bool {
        if self.odd.len() == ODD_MAX {
            return false;
        }
        self.odd.push(odd);
        true
    }

    pub(super) fn take_odd(&mut self) -> Vec<Odd> {
        std::mem::take(&mut self.odd)
    }

    pub(super) fn take_latencies(&mut self) -> (Vec<Latency>, Vec<Latency>) {
        (std::mem::take(&mut self.latency), std::mem::take(&mut self.slow_latency))
    }
}

fn record(loads: &mut [Latency], stamp: Stamp, now_us: u64, count: u64) {
    if let Some(latency) = loads.get_mut(usize::from(stamp.load)) {
        latency.record_many(stamp.intended_us, now_us.saturating_sub(stamp.intended_us), count);
    }
}
