//! `tidegate-load`: runs scenarios against a Tidegate and judges what its clients saw.

#![forbid(unsafe_code)]

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use tidegate_load::crowd_run::{self as run, Options};
use tidegate_load::crowd_scenario::Scenario;
use tidegate_load::floor::{self, Loop};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(name = "tidegate-load", version, about = "Loads a Tidegate and judges what its clients saw")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs a scenario. Exit status: 0 passed, 1 lost something or missed a threshold, 2 bad scenario.
    Run(RunArgs),
    /// The child process of a floor.
    #[command(hide = true)]
    FloorServe { name: String, sockets: usize },
}

#[derive(clap::Args)]
struct RunArgs {
    scenario: PathBuf,
    /// The gateway's client listener.
    #[arg(long, default_value = "ws://127.0.0.1:8080")]
    target: String,
    /// Control's gRPC listener.
    #[arg(long, default_value = "http://127.0.0.1:9090")]
    grpc: String,
    /// A server process to measure; may be given more than once.
    #[arg(long)]
    server_pid: Vec<u32>,
    /// Writes result.json into this folder.
    #[arg(long)]
    out: Option<PathBuf>,
}

fn main() -> anyhow::Result<ExitCode> {
    let args = match Args::parse().command {
        Command::Run(args) => args,
        Command::FloorServe { name, sockets } => {
            let which = Loop::named(&name).context("the loop is epoll or io_uring")?;
            floor::serve(which, sockets)?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    let text =
        std::fs::read_to_string(&args.scenario).with_context(|| format!("cannot read {}", args.scenario.display()))?;
    let scenario = match Scenario::parse(&text) {
        Ok(scenario) => scenario,
        Err(problems) => {
            for problem in problems {
                eprintln!("{}: {problem}", args.scenario.display());
            }
            return Ok(ExitCode::from(2));
        }
    };
    let millis = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_millis();
    let options = Options {
        client: address(&args.target)?,
        grpc: args.grpc,
        server_pids: args.server_pid,
        run: format!("lt{}", millis % 1_000_000_000),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(run::run(&scenario, &options))?;
    let json = serde_json::to_string_pretty(&report)?;
    println!("{json}");
    if let Some(folder) = args.out {
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join("result.json"), json)?;
    }
    Ok(if report.verdict == "pass" { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn address(target: &str) -> anyhow::Result<SocketAddr> {
    let authority = target.strip_prefix("ws://").context("--target must begin with ws://")?;
    let authority = authority.split('/').next().unwrap_or(authority);
    authority.to_socket_addrs()?.next().context("--target does not resolve")
}
