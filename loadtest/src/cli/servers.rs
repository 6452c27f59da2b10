//! Where the server is, and which of this machine's processes it is.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;

use anyhow::{Context as _, bail};
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
    /// The gateway's client listener, over TLS if it begins with wss:// [default: ws://127.0.0.1:8080, over TLS
    /// wss://127.0.0.1:8443].
    #[arg(long, value_name = "URL")]
    target: Option<String>,
    /// An authority of the gateway's certificate (PEM) [default: whom this machine trusts].
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Accepts any certificate: for tests.
    #[arg(long, conflicts_with = "ca")]
    insecure: bool,
    /// Control's REST listener.
    #[arg(long, default_value = "http://127.0.0.1:8090")]
    api: String,
    /// Control's gRPC listener.
    #[arg(long, default_value = "http://127.0.0.1:9090")]
    grpc: String,
    /// The gateway's admin listener [default: the target's host with port 8081, if it answers].
    #[arg(long, value_name = "HOST:PORT")]
    admin: Option<String>,
    /// A server process to measure: PID, or NAME=PID with the names gateway, control, or tidegate for both in one; may be
    /// given more than once [default: whoever listens on --target and --grpc on this machine].
    #[arg(long, value_name = "[NAME=]PID")]
    server_pid: Vec<String>,
}

impl Servers {
    /// `tls`: whether the scenario asks for it; a wss:// target does too.
    pub fn options(&self, run: String, binary: PathBuf, tls: bool) -> anyhow::Result<Options> {
        let usual = if tls { "wss://127.0.0.1:8443" } else { "ws://127.0.0.1:8080" };
        let target = self.target.as_deref().unwrap_or(usual);
        if tls && target.starts_with("ws://") {
            bail!("--target {target}: clients are to connect over TLS, to wss://…");
        }
        let tls = tls || target.starts_with("wss://");
        let scheme = if tls { "wss://" } else { "ws://" };
        let client = address(target, scheme).with_context(|| format!("--target {target}"))?;
        let tls = tls.then(|| self.tls(host(target, scheme))).transpose()?;
        let grpc = address(&self.grpc, "http://").with_context(|| format!("--grpc {}", self.grpc))?;
        address(&self.api, "http://").with_context(|| format!("--api {}", self.api))?;
        let admin = match &self.admin {
            Some(admin) => {
                let admin = address(admin, "http://").with_context(|| format!("--admin {admin}"))?;
                Counters::scrape(admin).context("--admin")?;
                Some(admin)
            }
            None => Some(SocketAddr::new(client.ip(), ADMIN_PORT)).filter(|admin| Counters::scrape(*admin).is_ok()),
        };
        Ok(Options {
            target: target.to_owned(),
            client,
            tls,
            endpoints: Endpoints { grpc: self.grpc.clone(), api: self.api.clone() },
            admin,
            watched: self.watched(client, grpc)?,
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

    fn watched(&self, client: SocketAddr, grpc: SocketAddr) -> anyhow::Result<Vec<Watched>> {
        let (gateway, control) = (listener_pid(client), listener_pid(grpc));
        if self.server_pid.is_empty() {
            return Ok(match (gateway, control) {
                (Some(gateway), Some(control)) if gateway == control => vec![watched(BOTH, gateway)],
                (gateway, control) => {
                    let gateway = gateway.map(|pid| watched(GATEWAY, pid));
                    gateway.into_iter().chain(control.map(|pid| watched(CONTROL, pid))).collect()
                }
            });
        }
        let named = self.server_pid.iter().enumerate().map(|(nth, given)| {
            let (name, pid) = match given.split_once('=') {
                Some((name, pid)) => (Some(name.to_owned()), pid),
                None => (None, given.as_str()),
            };
            let Ok(pid) = pid.parse() else { bail!("--server-pid {given}: not a process number") };
            let by_listener = match (gateway == Some(pid), control == Some(pid)) {
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
