//! What one run does: drawn from its seed, and made smaller by the shrinker.
//!
//! Swarm testing (Groce et al. 2012): each seed switches a random subset of features and faults on, since a run with all of
//! them at once rarely lets any one of them go far.

use std::fmt;

use crate::rng::Rng;
use crate::script::{self, Action};

macro_rules! features {
    ($($name:ident = $text:literal),* $(,)?) => {
        /// Something that a run may contain. Each can be switched off by itself.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Feature { $($name),* }

        impl Feature {
            pub const ALL: &[Feature] = &[$(Feature::$name),*];

            pub fn name(self) -> &'static str {
                match self { $(Feature::$name => $text),* }
            }
        }
    };
}

features! {
    ShortSends = "short-sends",
    SlowReaders = "slow-readers",
    TinyQueues = "tiny-queues",
    SmallSockets = "small-sockets",
    LateCompletions = "late-completions",
    SplitReceives = "split-receives",
    Resets = "resets",
    HalfOpen = "half-open",
    FewSlots = "few-slots",
    GatewayCrash = "gateway-crash",
    Drain = "drain",
    ControlCrash = "control-crash",
    StoreDies = "store-dies",
    StoreAway = "store-away",
    ReadsFail = "reads-fail",
    Trim = "trim",
    LostDisk = "lost-disk",
    ZombieOwner = "zombie-owner",
    StaleOwner = "stale-owner",
    LinkBreak = "link-break",
    LinkTwice = "link-twice",
    ChangedMode = "changed-mode",
    ClockJump = "clock-jump",
    OldCursor = "old-cursor",
    FutureCursor = "future-cursor",
    ForeignCursor = "foreign-cursor",
    Expiry = "expiry",
    Platforms = "platforms",
    Ephemeral = "ephemeral",
    BigMessages = "big-messages",
    Bursts = "bursts",
    OpenGroups = "open-groups",
    MemberGroups = "member-groups",
    Dismissals = "dismissals",
    Sends = "sends",
    SentAcks = "sent-acks",
    Acks = "acks",
    Queries = "queries",
    Json = "json",
    Deflate = "deflate",
    SlicedFanouts = "sliced-fanouts",
    ShortTails = "short-tails",
    ShortLinger = "short-linger",
    SmallCredit = "small-credit",
    Retries = "retries",
    LogAway = "log-away",
    ResultsLost = "results-lost",
    Impatience = "impatience",
    ErrandsLost = "errands-lost",
    ErrandsLate = "errands-late",
}

impl Feature {
    /// The first one of those that several partitions have between them.
    const FIRST_SCATTERED: usize = Feature::LogAway as usize;
    const ALONE: &[Feature] = Feature::ALL.split_at(Feature::FIRST_SCATTERED).0;
    const SCATTERED: &[Feature] = Feature::ALL.split_at(Feature::FIRST_SCATTERED).1;
}

/// A set of features.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features(u64);

const _: () = assert!(Feature::ALL.len() <= 64);

impl Features {
    pub const NONE: Features = Features(0);

    fn swarm(rng: &mut Rng) -> Features {
        // Some runs are nearly bare, some hold nearly everything.
        let share = *rng.pick(&[150, 300, 500, 700]);
        Feature::ALONE.iter().filter(|_| rng.chance(share)).fold(Features::NONE, |set, feature| set.with(*feature))
    }

    /// And what only several partitions have, drawn apart: so a seed means the same over any number of them.
    fn scattered(self, rng: &mut Rng) -> Features {
        Feature::SCATTERED.iter().filter(|_| rng.chance(400)).fold(self, |set, feature| set.with(*feature))
    }

    pub fn has(self, feature: Feature) -> bool {
        self.0 & (1 << feature as u32) != 0
    }

    pub fn with(self, feature: Feature) -> Features {
        Features(self.0 | 1 << feature as u32)
    }

    pub fn without(self, feature: Feature) -> Features {
        Features(self.0 & !(1 << feature as u32))
    }

    pub fn iter(self) -> impl Iterator<Item = Feature> {
        Feature::ALL.iter().copied().filter(move |feature| self.has(*feature))
    }
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, feature) in self.iter().enumerate() {
            write!(f, "{}{}", if at > 0 { " " } else { "" }, feature.name())?;
        }
        Ok(())
    }
}

/// How large the world is.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub gateways: usize,
    pub shards: usize,
    pub users: usize,
    pub clients: usize,
    pub groups: usize,
    pub window_ms: u32,
}

/// One run, whole: the same plan gives the same trace.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub features: Features,
    pub shape: Shape,
    /// Ordered by time.
    pub script: Vec<(u64, Action)>,
    /// All connections speak TLS. Asked for, not drawn, so that a seed means the same with it and without.
    pub tls: bool,
    /// Over how many partitions streams are spread, each with an owner, a log and links of its own.
    pub partitions: u32,
    /// Partitions of the upstream log.
    pub sources: u32,
}

impl Plan {
    pub fn of(seed: u64) -> Plan {
        Plan::over(seed, None)
    }

    /// Over so many partitions, if the seed is not to choose.
    pub fn over(seed: u64, partitions: Option<u32>) -> Plan {
        let mut rng = Rng::new(seed, 1);
        let features = Features::swarm(&mut rng);
        let users = rng.between(2, 4) as usize;
        let shape = Shape {
            gateways: rng.between(1, 3) as usize,
            shards: rng.between(1, 2) as usize,
            users,
            clients: users + rng.index(4),
            groups: rng.between(1, 3) as usize,
            window_ms: *rng.pick(&[0, 1, 20, 50, 200]),
        };
        let script = script::write(&mut rng, features, shape);
        let mut rng = Rng::new(seed, 8);
        let drawn = *rng.pick(&[1, 1, 1, 1, 1, 1, 1, 2, 2, 3]);
        let partitions = partitions.unwrap_or(drawn);
        let sources = rng.between(1, u64::from(partitions)) as u32;
        let features = if partitions > 1 { features.scattered(&mut rng) } else { features };
        Plan { seed, features, shape, script, tls: false, partitions, sources }
    }

    pub fn has(&self, feature: Feature) -> bool {
        self.features.has(feature)
    }
}
