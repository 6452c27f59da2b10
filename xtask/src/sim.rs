//! The simulator's binary, built with the profile `sim`: fast, but with every assertion.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::command::{self, cargo};

/// Seeds that CI runs again and again, and fresh ones.
const FIXED_SEEDS: u64 = 9_000;
const FRESH_SEEDS: u64 = 1_000;

#[derive(clap::Args)]
pub struct Args {
    /// What the simulator is told, such as `--seeds 1000 --from 1`, `--seed 7 --trace`, `--planted all`; its own `--help`
    /// names the rest.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    rest: Vec<String>,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    let rest: Vec<&str> = args.rest.iter().map(String::as_str).collect();
    simulate(&rest)
}

/// What CI runs: the same seeds as ever, and some that nobody has seen.
pub fn fixed_and_fresh() -> anyhow::Result<()> {
    simulate(&["--seeds", &FIXED_SEEDS.to_string(), "--from", "1"])?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let from = now.as_millis() as u64;
    simulate(&["--seeds", &FRESH_SEEDS.to_string(), "--from", &from.to_string()])
}

fn simulate(args: &[&str]) -> anyhow::Result<()> {
    let mut all = vec!["run", "--quiet", "--profile", "sim", "--package", "tidegate-sim"];
    if args.contains(&"--planted") {
        all.extend(["--features", "planted"]);
    }
    all.push("--");
    all.extend(args);
    command::run(&cargo(), &all)
}
