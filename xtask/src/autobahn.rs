//! Autobahn's fuzzing cases against `--dev-echo`, by the suite's Python 3 runner.

use std::process::Command;

use anyhow::{Context as _, bail};

use tidegate_load::node::{Addrs, Node};

use crate::command::{self, cache};
use crate::workspace::Workspace;

#[derive(clap::Args)]
pub struct Args {
    /// Echo port on loopback.
    #[arg(long, default_value_t = 9001)]
    port: u16,
    /// More arguments for the runner, after `--`.
    #[arg(last = true)]
    more: Vec<String>,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    let binary = command::build("tidegate")?;
    let venv = cache("kosoku")?;
    let runner = venv.join("bin").join("kosoku");
    if !runner.exists() {
        let folder = venv.to_string_lossy();
        command::run("python3", &["-m", "venv", &folder])?;
        command::run(&venv.join("bin").join("pip").to_string_lossy(), &["install", "--quiet", "kosoku==0.1"])?;
    }
    let workspace = Workspace::new()?;
    let addrs = Addrs::free()?;
    let echo = format!("127.0.0.1:{}", args.port);
    let node = Node::dev(&binary, &workspace.data(), &addrs, &workspace.log(), &["--dev-echo", &echo])?;
    let status = Command::new(&runner).arg(&echo).args(&args.more).status().context("cannot run the suite")?;
    drop(node);
    if !status.success() {
        bail!("some cases failed: {status}");
    }
    workspace.remove();
    Ok(())
}
