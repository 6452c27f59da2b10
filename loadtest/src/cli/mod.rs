//! The command line.

mod floor;
mod interrupt;
mod report;
mod run;
mod serve;
mod servers;
mod summary;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use tidegate_load::floor::Loop;
use tidegate_load::result::Verdict;
use tidegate_load::scenario::Scenario;

/// Exit statuses beside 0.
const FAILED: u8 = 1;
const BAD_SCENARIO: u8 = 2;
const VOID: u8 = 3;

#[derive(Parser)]
#[command(name = "tidegate-load", version, about = "Loads a Tidegate and judges what its clients saw")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs a scenario.
    ///
    /// Exit status: 0 lost nothing and kept its thresholds, 1 not, 2 bad scenario, 3 void: the generator was the
    /// bottleneck.
    Run(Box<run::RunArgs>),
    /// What the scenario's broadcast costs at least on this machine: two bare servers, no Tidegate.
    Floor(floor::FloorArgs),
    /// Writes the HTML page of a result again.
    Report(report::ReportArgs),
    /// The child process of a floor.
    #[command(hide = true)]
    FloorServe { name: String, sockets: usize },
}

impl Args {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Run(args) => run::run(*args),
            Command::Floor(args) => floor::run(&args),
            Command::Report(args) => report::run(&args),
            Command::FloorServe { name, sockets } => {
                let which = Loop::named(&name).context("the loop is epoll or io_uring")?;
                tidegate_load::floor::serve(which, sockets)?;
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

/// The scenario of a file. `Err`: its problems have been printed.
fn scenario(file: &Path) -> Result<Scenario, ExitCode> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) => {
            eprintln!("{}: cannot be read: {error}", file.display());
            return Err(ExitCode::from(BAD_SCENARIO));
        }
    };
    Scenario::parse(&text).map_err(|problems| {
        problems.iter().for_each(|problem| eprintln!("{}: {problem}", file.display()));
        ExitCode::from(BAD_SCENARIO)
    })
}

fn status(verdict: Verdict) -> ExitCode {
    match verdict {
        Verdict::Pass => ExitCode::SUCCESS,
        Verdict::Fail => ExitCode::from(FAILED),
        Verdict::Void => ExitCode::from(VOID),
    }
}
