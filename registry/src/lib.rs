//! The registry of a cluster: who is there, who owns what, and configuration that changes while everything runs.
//!
//! A [`Registry`] is a map of keys to values that all nodes see, over etcd, Redis or this process's memory; what each promises is
//! the suite in `tests/`. A [`Session`] is a node's word that it lives: what it holds and claims vanishes with it. A [`Watch`] or a
//! [`Table`] follows a prefix for as long as anybody cares. On top stand [`Lock`], [`WorkerId`] and [`LiveConfig`];
//! [`names`] says which key means what.
//!
//! What it does not do: fence what its users write elsewhere. A session that was lost is known here before others may begin,
//! but a write that is under way is not called back: stores compare an owner's epoch or a lock's fencing number.

#![forbid(unsafe_code)]

mod adapters;
mod backend;
mod backoff;
mod error;
mod keeping;
mod known;
mod live;
mod lock;
pub mod names;
mod registry;
mod session;
mod settings;
mod table;
mod watch;
mod worker_id;

pub use adapters::etcd::EtcdOptions;
pub use adapters::redis::RedisOptions;
pub use error::RegistryError;
pub use live::{Live, LiveConfig, Rejected, Section};
pub use lock::Lock;
pub use names::Names;
pub use registry::{Entry, KEY_BYTES_MAX, Registry, TTL_MAX, TTL_MIN, VALUE_BYTES_MAX};
pub use session::{Claimed, Session};
pub use settings::{Identity, Kind, Login, Secret, Settings, TIMEOUT_DEFAULT, Tls, TlsFiles};
pub use table::Table;
pub use watch::{Watch, WatchEvent};
pub use worker_id::{WORKER_IDS_MAX, WorkerId, WorkerIds};
