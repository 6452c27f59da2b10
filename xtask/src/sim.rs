//! The simulator's binary, built with the profile `sim`: fast, but with every assertion.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::command::{self, cargo};
use crate::coverage;

/// Seeds of each of CI's two ranges.
const CI_SEEDS: u64 = 5_000;
/// Over TLS a seed takes some ten times as long, for its handshakes.
const TLS_DIVISOR: u64 = 10;

#[derive(clap::Args)]
pub struct Args {
    /// Say which lines of the cores the seeds execute (needs the rustup component `llvm-tools`).
    #[arg(long)]
    coverage: bool,
    /// What the simulator is told, such as `--seeds 1000 --from 1`, `--seed 7 --trace`, `--planted all`; its own `--help`
    /// names the rest.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    rest: Vec<String>,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    let rest: Vec<&str> = args.rest.iter().map(String::as_str).collect();
    match args.coverage {
        true => coverage::run(&rest),
        false => simulate(&rest),
    }
}

/// What CI runs: a range that is always the same, one that never was before, and each planted bug at the seed that is known
/// to find it, or at any other.
pub fn run_for_ci() -> anyhow::Result<()> {
    let seeds = CI_SEEDS.to_string();
    simulate(&["--from", "1", "--seeds", &seeds])?;
    let fresh = fresh_seed().to_string();
    eprintln!("xtask: a fresh range; again with: cargo xtask sim --from {fresh} --seeds {seeds}");
    simulate(&["--from", &fresh, "--seeds", &seeds])?;
    simulate(&["--tls", "--from", "1", "--seeds", &(CI_SEEDS / TLS_DIVISOR).to_string()])?;
    simulate(&["--planted", "listed"])
}

/// Somewhere in the first 2^52 seeds.
fn fresh_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (now.as_nanos() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 12
}

fn simulate(args: &[&str]) -> anyhow::Result<()> {
    // One build for all: a bug that was not chosen is not there.
    let build = ["run", "--quiet", "--profile", "sim", "--package", "tidegate-sim", "--features", "planted", "--"];
    command::run(&cargo(), &[&build[..], args].concat())
}
