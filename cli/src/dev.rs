//! `tidegate dev`: gateway and control in one process. Nothing is special-cased: the link is the same gRPC stream, over a
//! pipe within the process.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context as _, bail};
use tidegate_auth::{Algorithm, dev};
use tidegate_control::Control;
use tidegate_gateway::{Gateway, LinkTarget};

use crate::node::{apply_to_control, apply_to_gateway, runtime, start_logging, terminated};
use crate::{DataDir, Engine, Listeners, dev_certificate};

/// Where `--tls` listens.
const TLS_ADDR: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8443);

#[derive(clap::Args)]
pub struct DevArgs {
    #[command(flatten)]
    data: DataDir,
    #[command(flatten)]
    listeners: Listeners,
    #[command(flatten)]
    engine: Engine,
    /// Echo WebSocket without auth for conformance suites, on loopback.
    #[arg(long, value_name = "ADDR")]
    dev_echo: Option<SocketAddr>,
    /// The same over TLS.
    #[arg(long, value_name = "ADDR", requires = "tls")]
    dev_echo_tls: Option<SocketAddr>,
    /// Serve wss:// too, with a self-signed certificate that is made in the data folder.
    #[arg(long)]
    tls: bool,
}

pub fn run(args: DevArgs) -> anyhow::Result<()> {
    start_logging();
    let (gateway, control) = configs(&args)?;
    let runtime = runtime()?;
    let control = runtime.block_on(Control::start(control))?;
    let gateway = Gateway::start(gateway, LinkTarget::InProcess(control.link_acceptor()))?;
    announce(&args, &gateway, &control);
    runtime.block_on(terminated(|| gateway.reload()))?;
    eprintln!("draining");
    gateway.drain();
    runtime.block_on(control.stop());
    Ok(())
}

fn configs(args: &DevArgs) -> anyhow::Result<(tidegate_gateway::Config, tidegate_control::Config)> {
    let mut gateway = tidegate_gateway::Config::dev();
    apply_to_gateway(&args.listeners, &args.engine, &mut gateway);
    gateway.echo_addr = args.dev_echo;
    let mut control = tidegate_control::Config::dev();
    apply_to_control(&args.listeners, &mut control);
    control.data_dir.clone_from(&args.data.data_dir);
    control.client_port = gateway.client_addr.port();
    gateway.auth.dev_page_ports = vec![control.http_addr.port()];
    if args.tls {
        gateway.tls.addr = gateway.tls.addr.or(Some(TLS_ADDR));
        gateway.tls.echo_addr = args.dev_echo_tls;
    }
    let addrs = [gateway.client_addr, gateway.admin_addr, control.http_addr, control.grpc_addr];
    if let Some(open) = addrs.iter().chain(&gateway.tls.addr).find(|addr| !dev::may_listen_on(addr.ip())) {
        bail!(
            "development auth works on loopback addresses only, not on {open}; use `tidegate gateway` and `tidegate control`"
        );
    }
    if gateway.tls.addr.is_some() {
        let pair = dev_certificate::ensure(&args.data.data_dir).context("cannot make the development certificate")?;
        gateway.tls.certificates = vec![pair];
    }
    dev::dev_key(&args.data.data_dir).context("cannot make the development key")?;
    let file = args.data.data_dir.join(dev::KEY_FILE);
    let key = |file| tidegate_gateway::config::KeyConfig { algorithm: Algorithm::HS256, id: None, file };
    gateway.auth.keys = vec![key(file.clone())];
    control.auth.keys = vec![tidegate_control::config::KeyConfig { algorithm: Algorithm::HS256, id: None, file }];
    Ok((gateway, control))
}

fn announce(args: &DevArgs, gateway: &Gateway, control: &Control) {
    let (client, admin) = (gateway.addrs().client, gateway.addrs().admin);
    let (http, grpc) = (control.addrs().http, control.addrs().grpc);
    eprintln!("warning: development auth is on: whoever is on this machine may connect and push as anybody");
    println!("Tidegate is running.");
    println!();
    println!("  page      http://{http}/");
    println!("  clients   ws://{client}/api/v1/ws?uid=alice");
    if let Some(tls) = gateway.addrs().tls {
        println!("            wss://{tls}/api/v1/ws?uid=alice");
        println!("            (self-signed: {})", args.data.data_dir.join(dev_certificate::CERTIFICATE_FILE).display());
    }
    println!("  push      curl http://{http}/api/v1/push -H 'content-type: application/json' \\");
    println!(r#"              -d '{{"to":["u:alice"],"message":{{"type":"text","content":"hi"}}}}'"#);
    println!("  gRPC      {grpc}");
    println!("  metrics   http://{http}/metrics  http://{admin}/metrics");
    if let Some(echo) = gateway.addrs().echo {
        println!("  echo      ws://{echo}/");
    }
    if let Some(echo) = gateway.addrs().tls_echo {
        println!("            wss://{echo}/");
    }
    println!();
    println!("Ctrl-C drains and ends it.");
}
