//! `cargo xtask faults`: real processes are broken under load, and judged by what following clients saw and what publishers
//! were told.

mod cluster;
mod node;

use std::path::PathBuf;

pub use cluster::Fault;

#[derive(clap::Args)]
pub struct Args {
    /// How many times the node is killed, or each fault is done [default: 20; with --cluster 10].
    #[arg(long)]
    rounds: Option<u32>,
    /// [default: 200]
    #[arg(long)]
    clients: Option<u32>,
    /// Pushes per second [default: 2000; with --cluster 1000].
    #[arg(long)]
    rate: Option<f64>,
    /// Seconds of load before each fault, and after it.
    #[arg(long, default_value_t = 3.0)]
    between: f64,
    /// Three control nodes and three gateways on real servers of the run's own, instead of one node.
    #[arg(long)]
    cluster: bool,
    /// One of the cluster's faults; may be given more than once [default: all].
    #[arg(long, value_name = "NAME", requires = "cluster")]
    fault: Vec<Fault>,
    /// Kafka brokers: 1 or 3. Of three, kafka-kill kills one; of one, it is away for a minute.
    #[arg(long, default_value_t = 1, requires = "cluster")]
    brokers: usize,
    /// Where nodes find each other.
    #[arg(long, default_value = "etcd", value_parser = ["etcd", "redis"], requires = "cluster")]
    registry: String,
    /// Compares the upstream topic with what was answered after every round, not only after upstream-audit.
    #[arg(long, requires = "cluster")]
    audit: bool,
    /// A `tidegate` that was built elsewhere, instead of a release build of this tree.
    #[arg(long, value_name = "FILE", requires = "cluster")]
    binary: Option<PathBuf>,
    /// Writes the rounds as JSON lines into this folder.
    #[arg(long, value_name = "DIR", requires = "cluster")]
    out: Option<PathBuf>,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    if args.cluster { cluster::run(args) } else { node::run(args) }
}
