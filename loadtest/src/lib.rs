//! Tidegate's load-test harness: clients that follow the protocol's client rule, a judge that knows what each of them
//! should have seen, publishers that keep the ledger, and the runner that puts them together.
//!
//! The same pieces judge the fault runs (`cargo xtask faults`) and the behaviour tests of the `tidegate` binary.

#![deny(unsafe_code)]

pub mod client;
pub mod clock;
pub mod cluster;
pub mod fleet;
#[allow(unsafe_code)]
pub mod floor;
pub mod judge;
pub mod latency;
pub mod measure;
#[allow(unsafe_code)]
pub mod net;
pub mod node;
pub mod payload;
pub mod population;
pub mod publish;
pub mod report;
pub mod result;
pub mod run;
pub mod scenario;
pub mod schedule;
pub mod tls;
pub mod verdict;
pub mod ws;
