//! Scenario files: what a run does and what it must keep. Unknown keys and impossible numbers are refused, all at once,
//! each with its key. Every key is described in `docs/load-testing.md`.

mod checks;
mod parse;
mod reader;
mod thresholds;

#[cfg(test)]
mod tests;

use std::time::Duration;

pub use reader::Problem;
pub use thresholds::{Metric, Quantile, Rule, Threshold};

use crate::fleet::Drain;
use crate::payload::Filling;
use crate::population::{GroupClass, Population};

/// Most connections of one harness process.
pub const CONNECTIONS_MAX: u64 = 1_000_000;
/// Most streams of a run beside the inboxes.
pub const STREAMS_MAX: u64 = 1_000_000;
pub const LOADS_MAX: usize = 64;
pub const PHASES_MAX: usize = 256;
/// Longest name of a load, phase or group class.
pub const NAME_BYTES_MAX: usize = 24;

#[derive(Clone, Debug)]
pub struct Scenario {
    pub name: String,
    pub about: String,
    /// Of everything that looks random: the same seed gives the same targets in the same order.
    pub seed: u64,
    pub connections: Connections,
    pub groups: Vec<GroupClass>,
    pub loads: Vec<Load>,
    pub slow: Option<Slow>,
    /// When the gateway's certificate is replaced, after the first load's begin.
    pub swap_after: Option<Duration>,
    pub floor: Option<FloorPairs>,
    pub generator: GeneratorLimits,
    pub thresholds: Vec<Threshold>,
    /// The file, for the result.
    pub text: String,
}

#[derive(Clone, Debug)]
pub struct Connections {
    pub count: u32,
    /// Over TLS.
    pub tls: bool,
    /// Clients offer permessage-deflate.
    pub compression: bool,
    /// New connections per second.
    pub ramp_per_second: f64,
    pub drain: Drain,
    /// Idle time after all stand; memory is read at its end.
    pub hold: Duration,
    pub reconnect: bool,
}

/// One `[[publish]]`.
#[derive(Clone, Debug)]
pub struct Load {
    pub name: String,
    pub to: To,
    pub pick: Pick,
    pub via: Via,
    pub payload_bytes: usize,
    pub filling: Filling,
    /// Most unanswered messages.
    pub in_flight: usize,
    /// Index of the load whose end begins this one.
    pub after: Option<usize>,
    pub phases: Vec<Phase>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// The groups of a class, by its index.
    Groups(usize),
    /// The inboxes of the connections.
    Inboxes,
    /// So many streams that nobody follows.
    Streams(u32),
}

/// Which target a message goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick {
    /// One after the other.
    Turn,
    /// By the seed.
    Random,
}

/// How messages are published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// gRPC `PushStream`, pipelined.
    Stream,
    /// gRPC `Push`, several calls at once over one connection.
    Unary,
    /// `POST /api/v1/push`, one connection per call under way.
    Rest,
    /// A client of the gateways sends, pipelined; to groups.
    Clients,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Phase {
    pub name: String,
    /// 0: as fast as `in_flight` allows.
    pub per_second: f64,
    pub until: Until,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Until {
    Seconds(f64),
    Messages(u64),
    /// Until it is stopped from outside; not in scenario files.
    Stopped,
}

/// The first connections stop reading for a while.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slow {
    pub count: u32,
    /// After the first load's begin.
    pub after: Duration,
    pub for_time: Duration,
}

/// The bare loops beside the server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FloorPairs {
    pub pairs: u32,
    pub slice: Duration,
}

/// Beyond these the generator was the bottleneck.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GeneratorLimits {
    pub loop_lag_p99_ms_max: f64,
    pub publish_lag_p99_ms_max: f64,
    /// Of one core, the busiest thread.
    pub cpu_percent_max: f64,
}

impl Scenario {
    /// Parses and checks. Errors: every problem.
    pub fn parse(text: &str) -> Result<Scenario, Vec<Problem>> {
        parse::parse(text)
    }

    /// Who follows what. `run` makes the names of this run unique.
    pub fn population(&self, run: &str) -> Population {
        Population::new(run, self.connections.count, self.groups.clone(), self.unfollowed_before(self.loads.len()))
    }

    /// Streams that nobody follows and that belong to loads before this one.
    pub fn unfollowed_before(&self, load: usize) -> u32 {
        let streams = self.loads[..load].iter().map(|load| match load.to {
            To::Streams(count) => count,
            To::Groups(_) | To::Inboxes => 0,
        });
        streams.sum()
    }

    /// Whether anybody is shown what this load publishes.
    pub fn is_followed(&self, load: &Load) -> bool {
        self.connections.count > 0 && !matches!(load.to, To::Streams(_))
    }
}
