//! `tidegate gateway` and `tidegate control`: one role in one process.

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use tidegate_control::Control;
use tidegate_gateway::{Gateway, LinkTarget};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::{Engine, Listeners, config};

#[derive(clap::Args)]
pub struct GatewayArgs {
    #[arg(long)]
    config: Option<PathBuf>,
    #[command(flatten)]
    listeners: Listeners,
    #[command(flatten)]
    engine: Engine,
    /// Echo WebSocket without auth for conformance suites, on loopback.
    #[arg(long, value_name = "ADDR")]
    dev_echo: Option<SocketAddr>,
}

#[derive(clap::Args)]
pub struct ControlArgs {
    #[arg(long)]
    config: Option<PathBuf>,
    #[command(flatten)]
    listeners: Listeners,
    /// The data folder [default: ./tidegate-data].
    #[arg(long, env = "TIDEGATE_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// What this node of a cluster does: api, logic, task [default: all].
    #[arg(long, value_delimiter = ',')]
    roles: Vec<String>,
}

pub fn run_gateway(args: GatewayArgs) -> anyhow::Result<()> {
    start_logging();
    let table = args.config.as_deref().map(config::load).transpose()?.unwrap_or_default();
    let mut settings: tidegate_gateway::Config = config::section(&table, "gateway")?;
    apply_to_gateway(&args.listeners, &args.engine, &mut settings);
    settings.echo_addr = args.dev_echo.or(settings.echo_addr);
    let gateway = Gateway::start(settings, LinkTarget::Configured)?;
    println!("clients   ws://{}/api/v1/ws", gateway.addrs().client);
    if let Some(tls) = gateway.addrs().tls {
        println!("          wss://{tls}/api/v1/ws");
    }
    println!("admin     http://{}/metrics", gateway.addrs().admin);
    runtime()?.block_on(terminated(|| gateway.reload()))?;
    gateway.drain();
    Ok(())
}

pub fn run_control(args: ControlArgs) -> anyhow::Result<()> {
    start_logging();
    let table = args.config.as_deref().map(config::load).transpose()?.unwrap_or_default();
    let mut settings: tidegate_control::Config = config::section(&table, "control")?;
    apply_to_control(&args.listeners, &mut settings);
    if let Some(folder) = args.data_dir {
        settings.data_dir = folder;
    }
    match &mut settings.cluster {
        Some(cluster) if !args.roles.is_empty() => cluster.roles = args.roles,
        None if !args.roles.is_empty() => {
            anyhow::bail!("--roles is for a node of a cluster: [control.cluster] is missing")
        }
        _ => {}
    }
    runtime()?.block_on(async {
        let control = Control::start(settings).await?;
        println!("REST      http://{}/api/v1/push", control.addrs().http);
        println!("gRPC      {}", control.addrs().grpc);
        terminated(|| {}).await?;
        control.stop().await;
        Ok(())
    })
}

pub fn apply_to_gateway(listeners: &Listeners, engine: &Engine, settings: &mut tidegate_gateway::Config) {
    settings.client_addr = listeners.client_addr.unwrap_or(settings.client_addr);
    settings.admin_addr = listeners.admin_addr.unwrap_or(settings.admin_addr);
    settings.engine.io = engine.io.unwrap_or(settings.engine.io);
    settings.tls.addr = listeners.tls_addr.or(settings.tls.addr);
}

pub fn apply_to_control(listeners: &Listeners, settings: &mut tidegate_control::Config) {
    settings.http_addr = listeners.http_addr.unwrap_or(settings.http_addr);
    settings.grpc_addr = listeners.grpc_addr.unwrap_or(settings.grpc_addr);
}

/// Logs go to standard error; `RUST_LOG` chooses, `TIDEGATE_LOG=json` makes them JSON lines.
pub fn start_logging() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,fjall=warn,lsm_tree=warn"));
    let colours = std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
    if std::env::var("TIDEGATE_LOG").is_ok_and(|form| form == "json") {
        lines.json().init();
    } else {
        lines.init();
    }
}

pub fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")
}

/// Returns at SIGTERM or SIGINT. SIGHUP, which would end the process else, asks to `reload`.
pub async fn terminated(reload: impl Fn()) -> anyhow::Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    loop {
        tokio::select! {
            _ = term.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = hangup.recv() => reload(),
        }
    }
}
