//! `cargo xtask`: everything about the project that is more than one cargo command.

#![forbid(unsafe_code)]

mod autobahn;
mod coverage;
mod deploy;
mod faults;
mod sim;
mod test;
mod tls_flood;
mod tls_pipe;
mod tls_scan;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use xtask::{cluster, command, no_uring, servers};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Tidegate's own commands")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Formatting, lints, every test, and 10,000 seeds of the simulator: what CI runs.
    Test,
    /// Licences, bans and sources of all dependencies (installs cargo-deny if it is missing).
    Deny,
    /// Breaks a real node under load and judges what its clients saw.
    Faults(faults::Args),
    /// Simulates seeds: gateways, control and clients in one virtual world, judged by oracles.
    Sim(sim::Args),
    /// Runs Autobahn's WebSocket cases against the echo listener (needs Python 3 with venv).
    Autobahn(autobahn::Args),
    /// Real Kafka, Redis, PostgreSQL, etcd and OpenSearch on loopback, for tests of adapters: `up`, `down`, `status`.
    Servers(servers::Args),
    /// Three control nodes and three gateways on these servers: `up`, `down`, `status`, `restart NAME`.
    Cluster(cluster::Args),
    /// What a flood of TLS handshakes does to the latency of those who are connected.
    TlsFlood(tls_flood::Args),
    /// Scans a TLS listener with sslyze: nothing but TLS 1.2 and 1.3 with AEAD suites may be found (needs Python 3 with venv).
    TlsScan(tls_scan::Args),
    /// Reads every file of deploy/ with the program that it is for (needs Python 3 with venv, openssl).
    LintDeploy,
    /// Runs a command where io_uring is forbidden, as in most containers: `cargo xtask no-uring -- COMMAND…`.
    NoUring(no_uring::Args),
}

fn main() -> ExitCode {
    if let Some(done) = coverage::wrap_rustc() {
        return done;
    }
    let done = match Args::parse().command {
        Command::Test => test::run(),
        Command::Deny => test::deny(),
        Command::Faults(args) => faults::run(&args),
        Command::Sim(args) => sim::run(&args),
        Command::Autobahn(args) => autobahn::run(&args),
        Command::Servers(args) => servers::run(&args),
        Command::Cluster(args) => cluster::run(&args),
        Command::TlsFlood(args) => tls_flood::run(&args),
        Command::TlsScan(args) => tls_scan::run(&args),
        Command::LintDeploy => deploy::run(),
        Command::NoUring(args) => no_uring::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
