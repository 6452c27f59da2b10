//! `--serve`: a gateway and a control of our own for one run.

use std::fmt::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use tidegate_load::measure::process::Watched;
use tidegate_load::node::{Addrs, Node};
use tidegate_load::publish::Endpoints;
use tidegate_load::run::{CONTROL, GATEWAY, Options, Successor, Tls};
use tidegate_load::tls::{Connector, Pair, PairFiles, Trust};

const LOG_LINES: usize = 20;

/// The gateway's listener for TLS. Its certificate is ours, and so is the one that may take its place: clients trust both,
/// and nothing else.
#[derive(Debug)]
struct ServedTls {
    addr: SocketAddr,
    files: PairFiles,
    connector: Connector,
    successor: Pair,
}

/// Both processes and their folder; ended and removed when dropped.
#[derive(Debug)]
pub struct Served {
    gateway: Node,
    control: Node,
    addrs: Addrs,
    tls: Option<ServedTls>,
    _folder: tempfile::TempDir,
}

impl Served {
    /// Logs go into `logs`, or into the folder that is removed after the run.
    pub fn start(binary: &Path, logs: Option<&Path>, tls: bool) -> anyhow::Result<Served> {
        let folder = tempfile::Builder::new().prefix("tidegate-load-").tempdir().context("no temporary folder")?;
        let addrs = Addrs::free().context("no free ports")?;
        let tls = tls.then(|| ServedTls::make(folder.path())).transpose().context("no certificate")?;
        let config = folder.path().join("tidegate.toml");
        std::fs::write(&config, settings(&addrs, tls.as_ref(), folder.path())?)
            .context("cannot write the configuration")?;
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
        Ok(Served { gateway, control, addrs, tls, _folder: folder })
    }

    pub fn options(&self, run: String, binary: PathBuf) -> Options {
        let Addrs { client, admin, .. } = self.addrs;
        let (target, client, tls) = match &self.tls {
            Some(tls) => (format!("wss://{}", tls.addr), tls.addr, Some(tls.options())),
            None => (format!("ws://{client}"), client, None),
        };
        Options {
            target,
            clients: vec![client],
            tls,
            endpoints: Endpoints::of(&self.addrs),
            admins: vec![admin],
            watched: vec![
                Watched { name: GATEWAY.to_owned(), pid: self.gateway.pid() },
                Watched { name: CONTROL.to_owned(), pid: self.control.pid() },
            ],
            run,
            binary,
        }
    }
}

impl ServedTls {
    fn make(folder: &Path) -> anyhow::Result<ServedTls> {
        let addr = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let files = PairFiles { certificate: folder.join("tls.crt"), key: folder.join("tls.key") };
        let (first, successor) = (Pair::self_signed(addr.ip())?, Pair::self_signed(addr.ip())?);
        first.write(&files)?;
        let trust = Trust::Certificates(vec![first.certificate().clone(), successor.certificate().clone()]);
        Ok(ServedTls { addr, files, connector: Connector::new(&trust, &addr.ip().to_string())?, successor })
    }

    fn options(&self) -> Tls {
        let successor = Successor { pair: self.successor.clone(), files: self.files.clone() };
        Tls { connector: self.connector.clone(), successor: Some(successor) }
    }
}

/// Development auth and groups that come to be when they are joined; else what a configuration has by default.
fn settings(addrs: &Addrs, tls: Option<&ServedTls>, folder: &Path) -> anyhow::Result<String> {
    let Addrs { client, http, grpc, admin } = addrs;
    let mut text = String::new();
    writeln!(text, "[gateway]\nname = \"gateway-1\"\nclient_addr = \"{client}\"\nadmin_addr = \"{admin}\"")?;
    if let Some(ServedTls { addr, files, .. }) = tls {
        writeln!(text, "[gateway.tls]\naddr = \"{addr}\"\n[[gateway.tls.certificates]]")?;
        writeln!(text, "certificate = {:?}\nkey = {:?}", files.certificate, files.key)?;
    }
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
