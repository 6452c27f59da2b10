//! Autobahn's fuzzing cases against `--dev-echo`: by the original suite where a Python 2.7 is at hand, otherwise by its
//! Python 3 runner, which has the same cases.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use tidegate_load::node::{Addrs, Node};

use crate::command::{self, cache};
use crate::tls_pipe::TlsPipe;
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
    /// The node's side of every connection is TLS.
    #[arg(long)]
    tls: bool,
    /// One run after the other over {uring, epoll} × {plain, TLS}.
    #[arg(long, conflicts_with_all = ["io", "tls"])]
    all_ways: bool,
}

/// Verdicts that count as passed. UNIMPLEMENTED is none: compression is part of what we promise.
const PASSED: &[&str] = &["OK", "NON-STRICT", "INFORMATIONAL"];

pub fn run(args: &Args) -> anyhow::Result<()> {
    let binary = command::build("tidegate")?;
    let suite = match &args.python2 {
        Some(python) => Suite::original(python)?,
        None => Suite::python3()?,
    };
    let ways = if args.all_ways {
        ["uring", "epoll"].into_iter().flat_map(|io| [false, true].map(|tls| Way { io, tls })).collect()
    } else {
        vec![Way { io: &args.io, tls: args.tls }]
    };
    let mut lines = Vec::new();
    let mut failed = 0;
    for way in ways {
        let verdicts = way.run(&binary, &suite, &args.cases)?;
        failed += verdicts.failed;
        lines.push(format!("{way}: {verdicts}"));
    }
    lines.iter().for_each(|line| println!("{line}"));
    if failed > 0 {
        bail!("{failed} verdicts are failures; the reports named above are kept");
    }
    Ok(())
}

/// How the node is spoken to.
struct Way<'a> {
    io: &'a str,
    tls: bool,
}

impl fmt::Display for Way<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.io, if self.tls { "TLS" } else { "plain" })
    }
}

impl Way<'_> {
    fn run(&self, binary: &Path, suite: &Suite, cases: &[String]) -> anyhow::Result<Verdicts> {
        let workspace = Workspace::new()?;
        let addrs = Addrs::free()?;
        let [echo, tls] = free_addrs()?;
        let (echo_at, tls_at) = (echo.to_string(), tls.to_string());
        let listeners = match self.tls {
            true => vec!["--tls", "--tls-addr", &tls_at, "--dev-echo-tls", &echo_at],
            false => vec!["--dev-echo", &echo_at],
        };
        let more = [&["--io", self.io][..], &listeners].concat();
        let node = Node::dev(binary, &workspace.data(), &addrs, &workspace.log(), &more)?;
        let reports = workspace.folder.join("reports");
        let mut verdicts = if self.tls {
            let pipe = TlsPipe::start(echo, &workspace.data().join("dev-tls.crt"))?;
            suite.run(pipe.addr(), cases, &reports)?;
            Verdicts { tls_sessions: Some(pipe.sessions()), ..Verdicts::read(&reports)? }
        } else {
            suite.run(echo, cases, &reports)?;
            Verdicts::read(&reports)?
        };
        drop(node);
        if verdicts.tls_sessions.is_some_and(|sessions| sessions < verdicts.cases) {
            println!("{self}: fewer TLS sessions than cases");
            verdicts.failed += 1;
        }
        match verdicts.failed {
            0 => workspace.remove(),
            _ => println!("{self}: reports are in {}", reports.display()),
        }
        Ok(verdicts)
    }
}

/// Free loopback ports. Another process could take one before the node does; then its start fails loudly.
fn free_addrs() -> anyhow::Result<[SocketAddr; 2]> {
    let listeners = [TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?];
    Ok([listeners[0].local_addr()?, listeners[1].local_addr()?])
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

    fn run(&self, echo: SocketAddr, cases: &[String], reports: &Path) -> anyhow::Result<()> {
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
                command.arg(echo.to_string()).arg("--outdir").arg(reports);
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

/// What became of the cases of one way.
#[derive(Default)]
struct Verdicts {
    cases: usize,
    failed: usize,
    /// Cases by the suite's word.
    counts: BTreeMap<String, usize>,
    /// Completed TLS handshakes with the node, where that is what was spoken.
    tls_sessions: Option<usize>,
}

impl Verdicts {
    /// From the suite's index; prints what failed.
    fn read(reports: &Path) -> anyhow::Result<Verdicts> {
        let index = reports.join("index.json");
        let text = fs::read_to_string(&index).with_context(|| format!("the suite wrote no {}", index.display()))?;
        let agents: BTreeMap<String, BTreeMap<String, serde_json::Value>> = serde_json::from_str(&text)?;
        let mut verdicts = Verdicts::default();
        for (case, verdict) in agents.values().flatten() {
            verdicts.cases += 1;
            for key in ["behavior", "behaviorClose"] {
                let word = verdict[key].as_str().unwrap_or("MISSING");
                if key == "behavior" {
                    *verdicts.counts.entry(word.to_owned()).or_default() += 1;
                }
                if !PASSED.contains(&word) {
                    verdicts.failed += 1;
                    println!("case {case}: {key} {word}");
                }
            }
        }
        if verdicts.cases == 0 {
            bail!("no case ran");
        }
        Ok(verdicts)
    }
}

impl fmt::Display for Verdicts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} cases, {} failed: {:?}", self.cases, self.failed, self.counts)?;
        self.tls_sessions.map_or(Ok(()), |sessions| write!(f, ", {sessions} TLS sessions"))
    }
}
