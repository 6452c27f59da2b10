//! Which I/O backend shards and front door run on, and why.
//!
//! io_uring where it works, because it keeps a connection without a descriptor of the process; epoll otherwise. With epoll
//! no io_uring call is made at all, also not by the front door.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tidegate_gateway_ring::{Features, Unsupported};
use tracing::{info, warn};

/// `gateway.engine.io` and `--io`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IoChoice {
    /// io_uring if the host allows it and has what is needed.
    #[default]
    Auto,
    /// io_uring, or no start.
    Uring,
    Epoll,
}

/// Not one of the three words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("use auto, uring or epoll")]
pub struct UnknownIo;

impl FromStr for IoChoice {
    type Err = UnknownIo;

    fn from_str(word: &str) -> Result<IoChoice, UnknownIo> {
        match word {
            "auto" => Ok(IoChoice::Auto),
            "uring" => Ok(IoChoice::Uring),
            "epoll" => Ok(IoChoice::Epoll),
            _ => Err(UnknownIo),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// With what the host's io_uring can do.
    Uring(Features),
    Epoll,
}

/// Why a backend was chosen; the metric's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It was asked for.
    Configured,
    /// io_uring works.
    Available,
    /// io_uring is refused.
    Forbidden,
    /// The kernel has no io_uring.
    Missing,
    /// io_uring lacks something.
    TooOld,
    /// io_uring could not be set up, as for want of locked memory.
    Failed,
}

/// The decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Io {
    pub backend: Backend,
    pub reason: Reason,
}

impl Backend {
    pub fn label(self) -> &'static str {
        match self {
            Backend::Uring(_) => "uring",
            Backend::Epoll => "epoll",
        }
    }
}

impl Reason {
    pub fn label(self) -> &'static str {
        match self {
            Reason::Configured => "configured",
            Reason::Available => "available",
            Reason::Forbidden => "forbidden",
            Reason::Missing => "missing",
            Reason::TooOld => "too_old",
            Reason::Failed => "failed",
        }
    }

    fn of(refusal: &Unsupported) -> Reason {
        match refusal {
            Unsupported::Forbidden => Reason::Forbidden,
            Unsupported::Missing => Reason::Missing,
            Unsupported::TooOld(_) => Reason::TooOld,
            Unsupported::Failed(_) => Reason::Failed,
        }
    }
}

/// Decides, and says so in one line of the log. An error only if io_uring was demanded and does not work.
pub fn choose(asked: IoChoice) -> Result<Io, Unsupported> {
    decide(asked, tidegate_gateway_ring::probe)
}

fn decide(asked: IoChoice, probe: impl FnOnce() -> Result<Features, Unsupported>) -> Result<Io, Unsupported> {
    let (io, why): (Io, &dyn fmt::Display) = match asked {
        IoChoice::Epoll => (Io { backend: Backend::Epoll, reason: Reason::Configured }, &"it was asked for"),
        IoChoice::Uring => {
            (Io { backend: Backend::Uring(probe()?), reason: Reason::Configured }, &"it was asked for, and works")
        }
        IoChoice::Auto => match probe() {
            Ok(features) => (Io { backend: Backend::Uring(features), reason: Reason::Available }, &"it works here"),
            Err(refusal) => return Ok(fall_back(&refusal)),
        },
    };
    let (driver, reason) = (io.backend.label(), io.reason.label());
    info!(driver, reason, "connections are served by {driver}: {why}");
    Ok(io)
}

fn fall_back(refusal: &Unsupported) -> Io {
    let io = Io { backend: Backend::Epoll, reason: Reason::of(refusal) };
    let (driver, reason) = (io.backend.label(), io.reason.label());
    match refusal {
        // Only this one is likely to be an oversight.
        Unsupported::Failed(error) => warn!(driver, reason, "connections are served by {driver}: {refusal}: {error}"),
        _ => info!(driver, reason, "connections are served by {driver}: {refusal}"),
    }
    io
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKS: Features = Features { can_reset: true, slots_max: 1000 };

    #[test]
    fn io_uring_is_taken_where_it_works() {
        let io = decide(IoChoice::Auto, || Ok(WORKS)).expect("chosen");
        assert_eq!(io, Io { backend: Backend::Uring(WORKS), reason: Reason::Available });
    }

    #[test]
    fn each_refusal_leads_to_epoll_with_its_reason() {
        for (refusal, reason) in [
            (Unsupported::Forbidden, "forbidden"),
            (Unsupported::Missing, "missing"),
            (Unsupported::TooOld("SEND"), "too_old"),
            (Unsupported::Failed(std::io::ErrorKind::OutOfMemory.into()), "failed"),
        ] {
            let io = decide(IoChoice::Auto, || Err(refusal)).expect("chosen");
            assert_eq!((io.backend, io.reason.label()), (Backend::Epoll, reason));
        }
    }

    #[test]
    fn io_uring_on_demand_or_not_at_all() {
        let refused = decide(IoChoice::Uring, || Err(Unsupported::Forbidden));
        assert!(matches!(refused, Err(Unsupported::Forbidden)));
        let io = decide(IoChoice::Epoll, || panic!("io_uring is not even tried")).expect("chosen");
        assert_eq!(io, Io { backend: Backend::Epoll, reason: Reason::Configured });
    }

    #[test]
    fn the_words_of_file_and_option_are_the_same() {
        for choice in [IoChoice::Auto, IoChoice::Uring, IoChoice::Epoll] {
            let word = toml::Value::try_from(choice).expect("serialises");
            assert_eq!(word.as_str().expect("a word").parse(), Ok(choice));
        }
        assert_eq!("io_uring".parse::<IoChoice>(), Err(UnknownIo));
    }
}
