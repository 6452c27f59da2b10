//! The simulator: the production shard loop, hub and partition in one seeded, single-threaded world with a virtual clock.
//!
//! A run is a [`plan::Plan`], drawn from a seed: which features and faults it has, how large it is, and a script of what
//! happens when. The [`world::World`] carries it out over simulated sockets, links and disk, with clients that follow the
//! protocol, and judges what they saw by what became durable. The same plan gives the same trace, byte for byte; what
//! violates an oracle is made smaller by [`shrink`].
//!
//! What it does not cover: the io_uring driver (its own tests and fault runs on real processes do), the front door's
//! handshakes, the embedded store's files, gRPC.

#![forbid(unsafe_code)]

mod bus;
mod carrier;
pub mod client;
mod control;
mod frames;
mod gateway;
mod net;
pub mod plan;
pub mod planted;
pub mod rng;
pub mod script;
pub mod shrink;
mod store;
pub mod trace;
pub mod truth;
mod upstream;
mod wire;
pub mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use plan::Plan;
use planted::Planted;
use trace::Trace;
use world::{Outcome, World};

/// Carries a plan out. A panic of the code under test is a violation.
pub fn run(plan: &Plan, planted: Option<Planted>, trace: Trace) -> (Outcome, Trace) {
    let plan = plan.clone();
    Planted::choose(planted);
    let seam = planted.and_then(Planted::seam);
    let kept = trace.clone();
    let world = AssertUnwindSafe(|| World::new(plan, seam, trace).run());
    match catch_unwind(world) {
        Ok(done) => done,
        Err(panic) => {
            let why = panic.downcast_ref::<String>().cloned();
            let why = why.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            let violation = Some(format!("panic: {}", why.unwrap_or_default()));
            (Outcome { violation, ..Outcome::default() }, kept)
        }
    }
}
