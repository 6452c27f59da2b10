//! `tidegate-load run`.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use tidegate_load::report;
use tidegate_load::result::RunResult;
use tidegate_load::run::{self, Options, Stop};

use super::interrupt::Interrupt;
use super::serve::Served;
use super::servers::Servers;
use super::summary;

#[derive(clap::Args)]
pub struct RunArgs {
    /// A scenario file; docs/load-testing.md describes every key.
    scenario: PathBuf,
    #[command(flatten)]
    servers: Servers,
    /// Starts `tidegate control` and `tidegate gateway` from this binary for the run, on free ports with an empty data
    /// folder below TMPDIR, and ends them after it.
    #[arg(long, value_name = "BINARY", conflicts_with_all = ["target", "api", "grpc", "admin", "server_pid", "ca", "insecure", "cluster"])]
    serve: Option<PathBuf>,
    /// Clients connect over TLS, whatever the scenario says.
    #[arg(long)]
    tls: bool,
    /// Writes result.json and report.html into this folder, and with --serve the servers' logs.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Plain progress lines instead of one that is redrawn.
    #[arg(long)]
    plain: bool,
    /// Prints the result as JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(args: RunArgs) -> anyhow::Result<ExitCode> {
    let mut scenario = match super::scenario(&args.scenario) {
        Ok(scenario) => scenario,
        Err(status) => return Ok(status),
    };
    scenario.connections.tls |= args.tls;
    let stop = Stop::default();
    let interrupt = Interrupt::listen(stop.clone())?;
    let options = options(&args, scenario.connections.tls, &interrupt)?;
    let redraw = !args.plain && std::io::stdout().is_terminal() && std::io::stderr().is_terminal();
    summary::announce(&scenario, &options);
    let result = run::run(&scenario, &options, &stop, summary::progress(redraw))?;
    drop(interrupt.take());
    let page = summary::page(&result);
    if args.json {
        eprintln!("{page}");
        println!("{}", serde_json::to_string_pretty(&result)?);
    } else {
        println!("{page}");
    }
    if let Some(folder) = &args.out {
        write(&result, folder)?;
    }
    Ok(super::status(result.verdict))
}

fn options(args: &RunArgs, tls: bool, interrupt: &Interrupt) -> anyhow::Result<Options> {
    let millis = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_millis();
    let run = format!("lt{}", millis % 1_000_000_000);
    let binary = std::env::current_exe().context("this program's own file is unknown")?;
    let Some(tidegate) = &args.serve else { return args.servers.options(run, binary, tls) };
    let served = Served::start(tidegate, args.out.as_deref(), tls)?;
    let options = served.options(run, binary);
    interrupt.keep(served);
    Ok(options)
}

fn write(result: &RunResult, folder: &Path) -> anyhow::Result<()> {
    report::write(result, folder).with_context(|| format!("cannot write into {}", folder.display()))?;
    eprintln!("written: {0}/result.json {0}/report.html", folder.display());
    Ok(())
}
