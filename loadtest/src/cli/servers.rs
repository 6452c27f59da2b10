//! Where the server is, and which of this machine's processes it is.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use tidegate_load::measure::counters::Counters;
use tidegate_load::measure::discover::listener_pid;
use tidegate_load::measure::process::Watched;
use tidegate_load::publish::Endpoints;
use tidegate_load::run::{BOTH, CONTROL, GATEWAY, Options};

/// The gateway's admin listener unless told otherwise, on the target's host.
const ADMIN_PORT: u16 = 8081;

#[derive(clap::Args)]
pub struct Servers {
    /// The gateway's client listener.
    #[arg(long, default_value = "ws://127.0.0.1:8080")]
    target: String,
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
    pub fn options(&self, run: String, binary: PathBuf) -> anyhow::Result<Options> {
        let client = address(&self.target, "ws://").with_context(|| format!("--target {}", self.target))?;
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
            target: self.target.clone(),
            client,
            endpoints: Endpoints { grpc: self.grpc.clone(), api: self.api.clone() },
            admin,
            watched: self.watched(client, grpc)?,
            run,
            binary,
        })
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
    let rest = url.strip_prefix(scheme).unwrap_or(url);
    if rest.contains("://") {
        bail!("must begin with {scheme}");
    }
    let authority = rest.split('/').next().unwrap_or(rest);
    authority.to_socket_addrs()?.next().context("does not resolve")
}
