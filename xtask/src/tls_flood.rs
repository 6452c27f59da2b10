//! What strangers who begin TLS handshakes as fast as they can do to those who are inside (F14): the same scenario twice, with
//! the flood and without it, over one node.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::Value;
use tidegate_load::node::{Addrs, Node};

use crate::command;
use crate::workspace::Workspace;

#[derive(clap::Args)]
pub struct Args {
    /// Connections inside, all of them in one group.
    #[arg(long, default_value_t = 500)]
    connections: u32,
    /// Messages to that group per second.
    #[arg(long, default_value_t = 20.0)]
    rate: f64,
    /// Length of each of the two runs.
    #[arg(long, default_value_t = 15)]
    seconds: u32,
    /// Threads that flood; each waits for the server's answer before it begins again.
    #[arg(long, default_value_t = 8)]
    strangers: usize,
    /// How much the flood may lengthen the P99 of those inside.
    #[arg(long, default_value_t = 3.0)]
    times_max: f64,
    /// How the node serves its connections: auto, uring or epoll.
    #[arg(long, value_name = "DRIVER", default_value = "auto")]
    io: String,
}

/// A stranger who hears nothing for so long goes.
const PATIENCE: Duration = Duration::from_secs(10);

pub fn run(args: &Args) -> anyhow::Result<()> {
    let (binary, harness) = (command::build("tidegate")?, command::build("tidegate-load")?);
    let (workspace, addrs) = (Workspace::new()?, Addrs::free()?);
    let tls = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let more = ["--tls", "--tls-addr", &tls.to_string(), "--io", &args.io];
    let node = Node::dev(&binary, &workspace.data(), &addrs, &workspace.log(), &more)?;
    let scenario = workspace.folder.join("scenario.toml");
    std::fs::write(&scenario, scenario_text(args))?;
    let quiet = p99_ms(&harness, &scenario, &addrs)?;
    let flood = Flood::default();
    let (flooded, seconds) = thread::scope(|scope| {
        for _ in 0..args.strangers {
            scope.spawn(|| flood.run(tls));
        }
        let begun = Instant::now();
        let flooded = p99_ms(&harness, &scenario, &addrs);
        flood.stop.store(true, Ordering::Relaxed);
        (flooded, begun.elapsed().as_secs_f64())
    });
    let flooded = flooded?;
    drop(node);
    let (answered, failed) = (flood.answered.load(Ordering::Relaxed), flood.failed.load(Ordering::Relaxed));
    let times = flooded / quiet;
    println!("P99 of {} connections: {quiet:.1} ms, in a flood {flooded:.1} ms: {times:.2} times", args.connections);
    println!("flood: {:.0} handshakes a second answered, {failed} not", answered as f64 / seconds);
    if answered == 0 {
        bail!("no handshake was answered: that was no flood");
    }
    if times > args.times_max {
        bail!("more than {} times; data and log are kept in {}", args.times_max, workspace.folder.display());
    }
    workspace.remove();
    Ok(())
}

fn scenario_text(args: &Args) -> String {
    let Args { connections, rate, seconds, .. } = args;
    format!(
        r#"
        name = "tls-flood"
        [connections]
        count = {connections}
        [[groups]]
        name = "room"
        count = 1
        [[publish]]
        name = "steady"
        to = "room"
        phases = [{{ name = "steady", per_second = {rate:?}, for_s = {seconds} }}]
        "#
    )
}

/// Runs the scenario; a run that was not passed is an error.
fn p99_ms(harness: &Path, scenario: &Path, addrs: &Addrs) -> anyhow::Result<f64> {
    let output = Command::new(harness)
        .args(["run", "--plain", "--json"])
        .arg(scenario)
        .args(["--target", &format!("ws://{}", addrs.client), "--admin", &addrs.admin.to_string()])
        .args(["--api", &format!("http://{}", addrs.http), "--grpc", &addrs.grpc_url()])
        .output()
        .with_context(|| format!("cannot run {}", harness.display()))?;
    if !output.status.success() {
        bail!("the run ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    let result: Value = serde_json::from_slice(&output.stdout)?;
    result["latency_ms"]["p99"].as_f64().context("the result has no P99")
}

/// Shared by its threads.
#[derive(Default)]
struct Flood {
    stop: AtomicBool,
    answered: AtomicU64,
    failed: AtomicU64,
}

impl Flood {
    fn run(&self, tls: SocketAddr) {
        let hello = client_hello();
        while !self.stop.load(Ordering::Relaxed) {
            let count = if begin(tls, &hello).is_ok() { &self.answered } else { &self.failed };
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Makes the server agree on keys and sign, and leaves.
fn begin(tls: SocketAddr, hello: &[u8]) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&tls, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(hello)?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer)?;
    // A handshake record; anything else is no answer.
    if answer[0] == 22 { Ok(()) } else { Err(std::io::ErrorKind::InvalidData.into()) }
}

/// The shortest first message of TLS 1.3 (RFC 8446 §4.1.2) that a server with an ECDSA certificate answers in full. It costs
/// its sender nothing: the key share is no more than 32 bytes, since nobody wants to know the secret.
fn client_hello() -> Vec<u8> {
    let extension =
        |kind: u16, body: &[u8]| [&kind.to_be_bytes()[..], &(body.len() as u16).to_be_bytes(), body].concat();
    let share = [&[0, 36, 0, 0x1d, 0, 32][..], &[9; 32]].concat();
    let extensions = [
        extension(43, &[2, 3, 4]),
        extension(10, &[0, 2, 0, 0x1d]),
        extension(13, &[0, 2, 4, 3]),
        extension(51, &share),
    ]
    .concat();
    let session = [&[32][..], &[7; 32]].concat();
    let body = [
        &[3, 3][..],
        &[5; 32],
        &session,
        &[0, 2, 0x13, 0x01, 1, 0],
        &(extensions.len() as u16).to_be_bytes(),
        &extensions,
    ]
    .concat();
    let message = [&[1, 0][..], &(body.len() as u16).to_be_bytes(), &body].concat();
    [&[22, 3, 1][..], &(message.len() as u16).to_be_bytes(), &message].concat()
}
