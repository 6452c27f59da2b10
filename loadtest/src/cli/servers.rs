//! Where the server is, and which of this machine's processes it is.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use tidegate_load::cluster::Cluster;
use tidegate_load::measure::counters::Counters;
use tidegate_load::measure::discover::listener_pid;
use tidegate_load::measure::process::Watched;
use tidegate_load::publish::Endpoints;
use tidegate_load::run::{BOTH, CONTROL, GATEWAY, Options, Tls};
use tidegate_load::tls::{Connector, Trust};

/// The gateway's admin listener unless told otherwise, on the target's host.
const ADMIN_PORT: u16 = 8081;

#[derive(clap::Args)]
pub struct Servers {
    /// A gateway's client listener, over TLS if it begins with wss://; may be given more than once, then clients are spread
    /// over them [default: ws://127.0.0.1:8080, over TLS wss://127.0.0.1:8443].
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    target: Vec<String>,
    /// An authority of the gateway's certificate (PEM) [default: whom this machine trusts].
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Accepts any certificate: for tests.
    #[arg(long, conflicts_with = "ca")]
    insecure: bool,
    /// Control's REST listener; of several one is used until a connection to it is lost, then the next.
    #[arg(long, value_name = "URL", value_delimiter = ',', default_value = "http://127.0.0.1:8090")]
    api: Vec<String>,
    /// Control's gRPC listener; of several as with --api.
    #[arg(long, value_name = "URL", value_delimiter = ',', default_value = "http://127.0.0.1:9090")]
    grpc: Vec<String>,
    /// The admin listener of each gateway [default: the target's host with port 8081, if it answers].
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    admin: Vec<String>,
    /// A server process to measure: PID, or NAME=PID with the names gateway, control (of several gateway-1, control-1, …),
    /// or tidegate for both in one; may be given more than once [default: whoever listens on --target and --grpc on this
    /// machine].
    #[arg(long, value_name = "[NAME=]PID")]
    server_pid: Vec<String>,
    /// The cluster.json of `cargo xtask cluster up`, instead of all addresses and processes.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["target", "api", "grpc", "admin", "server_pid", "ca", "insecure"])]
    cluster: Option<PathBuf>,
}

impl Servers {
    /// `tls`: whether the scenario asks for it; a wss:// target does too.
    pub fn options(&self, run: String, binary: PathBuf, tls: bool) -> anyhow::Result<Options> {
        if let Some(file) = &self.cluster {
            if tls {
                bail!("--cluster: the local cluster speaks no TLS");
            }
            return Ok(Cluster::read(file)?.options(run, binary));
        }
        let usual = [if tls { "wss://127.0.0.1:8443" } else { "ws://127.0.0.1:8080" }.to_owned()];
        let targets = if self.target.is_empty() { &usual[..] } else { &self.target };
        if let Some(target) = targets.iter().find(|target| tls && target.starts_with("ws://")) {
            bail!("--target {target}: clients are to connect over TLS, to wss://…");
        }
        let tls = tls || targets.iter().any(|target| target.starts_with("wss://"));
        let scheme = if tls { "wss://" } else { "ws://" };
        let each = |flag: &str, urls: &[String], scheme: &str| -> anyhow::Result<Vec<SocketAddr>> {
            urls.iter().map(|url| address(url, scheme).with_context(|| format!("--{flag} {url}"))).collect()
        };
        let clients = each("target", targets, scheme)?;
        let hosts: Vec<&str> = targets.iter().map(|target| host(target, scheme)).collect();
        if tls && hosts.iter().any(|host| *host != hosts[0]) {
            bail!("--target: over TLS all gateways must have one host, for one certificate");
        }
        let tls = tls.then(|| self.tls(hosts[0])).transpose()?;
        let grpc = each("grpc", &self.grpc, "http://")?;
        each("api", &self.api, "http://")?;
        let admins = match self.admin.as_slice() {
            [] => {
                let usual = clients.iter().map(|client| SocketAddr::new(client.ip(), ADMIN_PORT));
                // Several gateways cannot all have the usual port of one host.
                usual.filter(|admin| clients.len() == 1 && Counters::scrape(*admin).is_ok()).collect()
            }
            given => {
                let admins = each("admin", given, "http://")?;
                admins.iter().try_for_each(|admin| Counters::scrape(*admin).map(drop)).context("--admin")?;
                admins
            }
        };
        Ok(Options {
            target: targets.join(","),
            tls,
            endpoints: Endpoints {
                grpc: self.grpc.clone(),
                api: self.api.clone(),
                clients: if scheme == "ws://" { clients.clone() } else { Vec::new() },
            },
            admins,
            watched: self.watched(&clients, &grpc)?,
            clients,
            run,
            binary,
        })
    }

    fn tls(&self, host: &str) -> anyhow::Result<Tls> {
        let trust = match &self.ca {
            Some(file) => Trust::File(file.clone()),
            None if self.insecure => Trust::Anyone,
            None => Trust::System,
        };
        Ok(Tls { connector: Connector::new(&trust, host)?, successor: None })
    }

    fn watched(&self, clients: &[SocketAddr], grpc: &[SocketAddr]) -> anyhow::Result<Vec<Watched>> {
        let pids = |addresses: &[SocketAddr]| -> Vec<u32> {
            addresses.iter().filter_map(|address| listener_pid(*address)).collect()
        };
        let (gateways, controls) = (pids(clients), pids(grpc));
        if self.server_pid.is_empty() {
            return Ok(match (gateways.as_slice(), controls.as_slice()) {
                ([gateway], [control]) if gateway == control => vec![watched(BOTH, *gateway)],
                _ => {
                    let mut all = numbered(GATEWAY, &gateways);
                    all.extend(numbered(CONTROL, &controls));
                    all
                }
            });
        }
        let named = self.server_pid.iter().enumerate().map(|(nth, given)| {
            let (name, pid) = match given.split_once('=') {
                Some((name, pid)) => (Some(name.to_owned()), pid),
                None => (None, given.as_str()),
            };
            let Ok(pid) = pid.parse() else { bail!("--server-pid {given}: not a process number") };
            let by_listener = match (gateways.contains(&pid), controls.contains(&pid)) {
                (true, true) => BOTH.to_owned(),
                (true, false) => GATEWAY.to_owned(),
                (false, true) => CONTROL.to_owned(),
                (false, false) => format!("server-{}", nth + 1),
            };
            Ok(watched(&name.unwrap_or(by_listener), pid))
        });
        named.collect()
    }
}

/// One keeps the plain name, which results of single servers have.
fn numbered(name: &str, pids: &[u32]) -> Vec<Watched> {
    match pids {
        [pid] => vec![watched(name, *pid)],
        _ => pids.iter().enumerate().map(|(nth, pid)| watched(&format!("{name}-{}", nth + 1), *pid)).collect(),
    }
}

fn watched(name: &str, pid: u32) -> Watched {
    Watched { name: name.to_owned(), pid }
}

/// The address of `scheme://host:port/…`; the scheme may be left out.
fn address(url: &str, scheme: &str) -> anyhow::Result<SocketAddr> {
    if url.strip_prefix(scheme).unwrap_or(url).contains("://") {
        bail!("must begin with {scheme}");
    }
    authority(url, scheme).to_socket_addrs()?.next().context("does not resolve")
}

fn authority<'a>(url: &'a str, scheme: &str) -> &'a str {
    let rest = url.strip_prefix(scheme).unwrap_or(url);
    rest.split('/').next().unwrap_or(rest)
}

/// The name or address that a certificate must be for.
fn host<'a>(url: &'a str, scheme: &str) -> &'a str {
    let authority = authority(url, scheme);
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}
