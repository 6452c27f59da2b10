//! `cargo xtask lint-deploy`: every file of `deploy/` is read by the program that it is for, or by that program's schema.
//!
//! What is quick and needs no tool (names of metrics, files that others mention) stands in `xtask/tests/deploy.rs`. No container
//! is started here: that images pull and nodes find each other in them is not shown.

mod edge;

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::command::{self, cache};
use anyhow::{Context as _, bail, ensure};
use serde_json::Value;
use xtask::servers::install::{self, Program, output};
use xtask::servers::{Farewell, Home, Process};

/// Python's linters and the schemas that come with them: compose's and Kubernetes'.
const LINTERS: [&str; 3] = ["yamllint==1.38.0", "check-jsonschema==0.39.0", "kubernetes-validate==1.37.0"];
/// How long a server may take to answer.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// What Grafana puts in place of its variables, near enough to be parsed.
const VARIABLES: [(&str, &str); 4] =
    [("$__rate_interval", "5m"), ("$__range", "1h"), ("$gateway", ".*"), ("$control", ".*")];

type Check = fn(&Lint) -> anyhow::Result<()>;

struct Lint {
    home: Home,
    folder: PathBuf,
    linters: PathBuf,
    scratch: tempfile::TempDir,
}

pub fn run() -> anyhow::Result<()> {
    let lint = Lint {
        home: Home::find()?,
        folder: command::root().join("deploy"),
        linters: linters()?,
        scratch: tempfile::tempdir()?,
    };
    let checks: [(&str, Check); 7] = [
        ("YAML", Lint::yaml),
        ("compose", Lint::compose),
        ("Kubernetes", Lint::kubernetes),
        ("Prometheus", Lint::prometheus),
        ("Grafana", Lint::grafana),
        ("Redis", Lint::redis),
        ("nginx", |lint| edge::check(&lint.home, &lint.folder.join("nginx"), lint.scratch.path())),
    ];
    let mut failed = 0;
    for (name, check) in checks {
        match check(&lint) {
            Ok(()) => println!("{name:12} ok"),
            Err(error) => {
                println!("{name:12} FAILED: {error:#}");
                failed += 1;
            }
        }
    }
    ensure!(failed == 0, "{failed} of {} checks failed", checks.len());
    Ok(())
}

/// The folder of the linters' programs.
fn linters() -> anyhow::Result<PathBuf> {
    let folder = cache("deploy-lint")?;
    let (bin, done) = (folder.join("bin"), folder.join("installed"));
    let wanted = LINTERS.join("\n");
    if fs::read_to_string(&done).is_ok_and(|installed| installed == wanted) {
        return Ok(bin);
    }
    command::run("python3", &["-m", "venv", &folder.to_string_lossy()])?;
    let pip = bin.join("pip");
    command::run(&pip.to_string_lossy(), &[&["install", "--quiet"][..], &LINTERS].concat())?;
    fs::write(done, wanted)?;
    Ok(bin)
}

impl Lint {
    fn linter(&self, name: &str, args: &[&str]) -> anyhow::Result<()> {
        output(Command::new(self.linters.join(name)).args(args).current_dir(&self.folder)).map(drop)
    }

    fn yaml(&self) -> anyhow::Result<()> {
        self.linter("yamllint", &["--strict", "-c", ".yamllint", "."])
    }

    fn compose(&self) -> anyhow::Result<()> {
        self.linter("check-jsonschema", &["--builtin-schema", "vendor.compose-spec", "compose/docker-compose.yml"])
    }

    /// As `kubectl apply -k` would make it, against Kubernetes' own schema, in which unknown fields are errors.
    fn kubernetes(&self) -> anyhow::Result<()> {
        let kubectl = install::program(&self.home, "kubectl", &["kubernetes-client"])?;
        let built = output(kubectl.command().arg("kustomize").arg(self.folder.join("k8s")))?;
        let file = self.scratch.path().join("k8s.yaml");
        fs::write(&file, built)?;
        for manifest in [file.to_string_lossy().as_ref(), "k8s/secret.example.yaml"] {
            self.linter("kubernetes-validate", &["--strict", "--quiet", manifest])?;
        }
        Ok(())
    }

    fn promtool(&self) -> anyhow::Result<Program> {
        install::program(&self.home, "promtool", &["prometheus"])
    }

    fn prometheus(&self) -> anyhow::Result<()> {
        let promtool = self.promtool()?;
        let run =
            |args: &[&str]| output(promtool.command().args(args).current_dir(self.folder.join("prometheus"))).map(drop);
        run(&["check", "rules", "rules.yml"])?;
        run(&["test", "rules", "rules_test.yml"])?;
        run(&["check", "config", "--syntax-only", "prometheus.yml", "kubernetes.yml"])?;
        let amtool = install::program(&self.home, "amtool", &["prometheus-alertmanager"])?;
        output(amtool.command().arg("check-config").arg(self.folder.join("prometheus/alertmanager.yml"))).map(drop)
    }

    /// Every expression of the dashboard is one that Prometheus can parse.
    fn grafana(&self) -> anyhow::Result<()> {
        let dashboard = fs::read_to_string(self.folder.join("grafana/tidegate.json"))?;
        let expressions = expressions(&serde_json::from_str(&dashboard)?);
        ensure!(!expressions.is_empty(), "the dashboard asks for nothing");
        let mut rules = "groups:\n- name: dashboard\n  rules:\n".to_owned();
        for (at, expression) in expressions.iter().enumerate() {
            let parsed = VARIABLES.iter().fold(expression.clone(), |text, (name, value)| text.replace(name, value));
            // A string of JSON is one of YAML, too.
            writeln!(rules, "  - record: dashboard:{at}\n    expr: {}", Value::from(parsed))?;
        }
        let file = self.scratch.path().join("dashboard.yml");
        fs::write(&file, rules)?;
        output(self.promtool()?.command().args(["check", "rules"]).arg(&file)).map(drop)
    }

    /// A server takes the file, and keeps what was written through a kill.
    fn redis(&self) -> anyhow::Result<()> {
        let server = install::program(&self.home, "redis-server", &["redis-server", "redis-tools"])?;
        let (port, data) = (free_port()?.to_string(), self.scratch.path().join("redis"));
        fs::create_dir_all(&data)?;
        let start = || {
            let mut command = server.command();
            command.arg(self.folder.join("redis/redis.conf")).args(["--bind", "127.0.0.1", "--port", &port, "--dir"]);
            Process::spawn(command.arg(&data), &data.join("log"))
        };
        let ask = |args: &[&str]| output(server.beside("redis-cli").command().args(["-p", &port]).args(args));
        let first = start()?;
        let written = until(|| ask(&["set", "key", "kept"])).and_then(|_| {
            ask(&["waitaof", "1", "0", "0"]).or_else(|_| {
                // Before Redis 7.2 there is no such question; `everysec` has written after two.
                std::thread::sleep(Duration::from_secs(2));
                Ok(String::new())
            })
        });
        first.kill()?;
        written?;
        let second = start()?;
        let kept = until(|| ask(&["get", "key"]));
        second.stop(Farewell::Terminate)?;
        ensure!(kept?.trim() == "kept", "what was written is gone after a kill");
        Ok(())
    }
}

/// Each query of each panel.
fn expressions(dashboard: &Value) -> Vec<String> {
    let panels = dashboard["panels"].as_array().into_iter().flatten();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    targets.filter_map(|target| target["expr"].as_str()).map(str::to_owned).collect()
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Asks until there is an answer.
fn until<T>(ask: impl Fn() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        match ask() {
            Ok(answer) => return Ok(answer),
            Err(error) if Instant::now() > deadline => return Err(error).context("no answer"),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// A copy of a flat folder, for files to be changed in.
fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            bail!("{} is a folder", entry.path().display());
        }
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}
