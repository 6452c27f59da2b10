//! The simulator's binary, built with the profile `sim`: fast, but with every assertion.

use crate::command::{self, cargo};

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

fn simulate(args: &[&str]) -> anyhow::Result<()> {
    let mut all = vec!["run", "--quiet", "--profile", "sim", "--package", "tidegate-sim"];
    if args.contains(&"--planted") {
        all.extend(["--features", "planted"]);
    }
    all.push("--");
    all.extend(args);
    command::run(&cargo(), &all)
}
