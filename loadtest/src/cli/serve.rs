//! `--serve`: a gateway and a control of our own for one run.

use std::fmt::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use tidegate_load::measure::process::Watched;
use tidegate_load::node::{Addrs, Node};
use tidegate_load::publish::Endpoints;
use tidegate_load::run::{CONTROL, GATEWAY, Options};

const LOG_LINES: usize = 20;

/// Both processes and their folder; ended and removed when dropped.
#[derive(Debug)]
pub struct Served {
    gateway: Node,
    control: Node,
    addrs: Addrs,
    _folder: tempfile::TempDir,
}

impl Served {
    /// Logs go into `logs`, or into the folder that is removed after the run.
    pub fn start(binary: &Path, logs: Option<&Path>) -> anyhow::Result<Served> {
        let folder = tempfile::Builder::new().prefix("tidegate-load-").tempdir().context("no temporary folder")?;
        let addrs = Addrs::free().context("no free ports")?;
        let config = folder.path().join("tidegate.toml");
        std::fs::write(&config, settings(&addrs, folder.path())?).context("cannot write the configuration")?;
        let logs = logs.unwrap_or(folder.path());
        std::fs::create_dir_all(logs).with_context(|| format!("cannot make {}", logs.display()))?;
        let start = |role: &str, probe| {
            let mut command = Command::new(binary);
            // A group of its own: Ctrl-C is for us, and they are needed until everything was shown.
            command.arg(role).arg("--config").arg(&config).process_group(0);
            let log = logs.join(format!("{role}.log"));
            Node::start(command, &addrs, &[probe], &log)
                .with_context(|| format!("{} {role} did not start\n{}", binary.display(), last_lines(&log)))
        };
        let control = start("control", addrs.http)?;
        let gateway = start("gateway", addrs.admin)?;
        Ok(Served { gateway, control, addrs, _folder: folder })
    }

    pub fn options(&self, run: String, binary: PathBuf) -> Options {
        let Addrs { client, http, grpc, admin } = self.addrs;
        Options {
            target: format!("ws://{client}"),
            client,
            endpoints: Endpoints { grpc: format!("http://{grpc}"), api: format!("http://{http}") },
            admin: Some(admin),
            watched: vec![
                Watched { name: GATEWAY.to_owned(), pid: self.gateway.pid() },
                Watched { name: CONTROL.to_owned(), pid: self.control.pid() },
            ],
            run,
            binary,
        }
    }
}

/// Development auth and groups that come to be when they are joined; else what a configuration has by default.
fn settings(addrs: &Addrs, folder: &Path) -> anyhow::Result<String> {
    let Addrs { client, http, grpc, admin } = addrs;
    let mut text = String::new();
    writeln!(text, "[gateway]\nname = \"gateway-1\"\nclient_addr = \"{client}\"\nadmin_addr = \"{admin}\"")?;
    writeln!(text, "[gateway.link]\naddr = \"http://{grpc}\"")?;
    writeln!(text, "[gateway.auth]\ndev = true\ndev_page_ports = [{}]", http.port())?;
    writeln!(text, "[control]\nhttp_addr = \"{http}\"\ngrpc_addr = \"{grpc}\"\nclient_port = {}", client.port())?;
    writeln!(text, "data_dir = {:?}\ndev_auth = true\nauto_groups = true", folder.join("data"))?;
    Ok(text)
}

fn last_lines(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}
