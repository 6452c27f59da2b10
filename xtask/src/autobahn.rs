//! Autobahn's fuzzing cases against `--dev-echo`: by the original suite where a Python 2.7 is at hand, otherwise by its
//! Python 3 runner, which has the same cases.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use tidegate_load::node::{Addrs, Node};

use crate::command::{self, cache};
use crate::workspace::Workspace;

#[derive(clap::Args)]
pub struct Args {
    /// Cases, such as `1.*`; may be given more than once. All groups by default.
    #[arg(long, default_values_t = ["*".to_owned()])]
    cases: Vec<String>,
    /// A Python 2.7 with pip: runs the original `autobahntestsuite`.
    #[arg(long, value_name = "PYTHON")]
    python2: Option<PathBuf>,
    /// How the node serves its connections: auto, uring or epoll.
    #[arg(long, value_name = "DRIVER", default_value = "auto")]
    io: String,
}

/// Verdicts that count as passed. UNIMPLEMENTED is none: compression is part of what we promise.
const PASSED: &[&str] = &["OK", "NON-STRICT", "INFORMATIONAL"];

pub fn run(args: &Args) -> anyhow::Result<()> {
    let binary = command::build("tidegate")?;
    let suite = match &args.python2 {
        Some(python) => Suite::original(python)?,
        None => Suite::python3()?,
    };
    let workspace = Workspace::new()?;
    let addrs = Addrs::free()?;
    let echo = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let node =
        Node::dev(&binary, &workspace.data(), &addrs, &workspace.log(), &["--dev-echo", &echo, "--io", &args.io])?;
    let reports = workspace.folder.join("reports");
    suite.run(&echo, &args.cases, &reports)?;
    drop(node);
    let failed = judge(&reports.join("index.json"))?;
    if failed > 0 {
        bail!("{failed} cases failed; reports are in {}", reports.display());
    }
    workspace.remove();
    Ok(())
}

enum Suite {
    Original(PathBuf),
    Python3(PathBuf),
}

impl Suite {
    fn original(python: &Path) -> anyhow::Result<Suite> {
        let folder = cache("autobahn")?;
        let runner = folder.join("bin").join("wstest");
        if !runner.exists() {
            let python = python.to_string_lossy();
            command::run(&python, &["-m", "pip", "install", "--quiet", "--user", "virtualenv==20.15.1"])?;
            command::run(&python, &["-m", "virtualenv", "--quiet", &folder.to_string_lossy()])?;
            let pip = folder.join("bin").join("pip");
            command::run(&pip.to_string_lossy(), &["install", "--quiet", "autobahntestsuite==25.10.1"])?;
        }
        Ok(Suite::Original(runner))
    }

    fn python3() -> anyhow::Result<Suite> {
        let folder = cache("kosoku")?;
        let runner = folder.join("bin").join("kosoku");
        if !runner.exists() {
            command::run("python3", &["-m", "venv", &folder.to_string_lossy()])?;
            let pip = folder.join("bin").join("pip");
            command::run(&pip.to_string_lossy(), &["install", "--quiet", "kosoku==0.1"])?;
        }
        Ok(Suite::Python3(runner))
    }

    fn run(&self, echo: &str, cases: &[String], reports: &Path) -> anyhow::Result<()> {
        fs::create_dir_all(reports)?;
        let mut command = match self {
            Suite::Original(runner) => {
                let spec = reports.join("spec.json");
                let list = cases.iter().map(|case| format!("{case:?}")).collect::<Vec<_>>().join(",");
                let outdir = reports.display();
                let text = format!(
                    r#"{{"outdir":"{outdir}","servers":[{{"agent":"tidegate","url":"ws://{echo}/"}}],"cases":[{list}],"exclude-cases":[],"exclude-agent-cases":{{}}}}"#
                );
                fs::write(&spec, text)?;
                let mut command = Command::new(runner);
                command.args(["-m", "fuzzingclient", "-s"]).arg(spec);
                command
            }
            Suite::Python3(runner) => {
                let mut command = Command::new(runner);
                command.arg(echo).arg("--outdir").arg(reports);
                for case in cases {
                    command.args(["--include", case]);
                }
                command
            }
        };
        // The runner's own status is not the judge: the index of its reports is.
        command.status().context("cannot run the suite")?;
        Ok(())
    }
}

/// Prints the verdicts and returns how many cases failed.
fn judge(index: &Path) -> anyhow::Result<usize> {
    let text = fs::read_to_string(index).with_context(|| format!("the suite wrote no {}", index.display()))?;
    let agents: BTreeMap<String, BTreeMap<String, serde_json::Value>> = serde_json::from_str(&text)?;
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut failed = 0;
    for (case, verdict) in agents.values().flatten() {
        for key in ["behavior", "behaviorClose"] {
            let word = verdict[key].as_str().unwrap_or("MISSING");
            if key == "behavior" {
                *counts.entry(word.to_owned()).or_default() += 1;
            }
            if !PASSED.contains(&word) {
                failed += 1;
                println!("case {case}: {key} {word}");
            }
        }
    }
    let total: usize = counts.values().sum();
    if total == 0 {
        bail!("no case ran");
    }
    println!("{total} cases: {counts:?}");
    Ok(failed)
}
