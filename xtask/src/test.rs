//! The test command, which CI calls too.

use crate::command::{self, cache, cargo};
use crate::sim;

/// Test files whose gateway or node takes its driver from TIDEGATE_IO, and that are about what a socket does.
const SPEAK_TO_A_GATEWAY: [&str; 10] = [
    "a_push_reaches_its_client",
    "client_operations",
    "close_codes_and_refusals",
    "delivery",
    "drain",
    "echo",
    "flood",
    "half_open_tls_handshakes",
    "handshake",
    "proxies",
];

/// Those of them that can speak TLS.
const SPEAK_TLS: [&str; 9] =
    ["credentials", "delivery", "drain", "echo", "flood", "handshake", "proxies", "tls", "tls_bad_input"];

/// Formatting, lints, every test.
pub fn run_all(cargo: &str) -> anyhow::Result<()> {
    command::run(cargo, &["fmt", "--all", "--check"])?;
    command::run(cargo, &["clippy", "--workspace", "--all-targets", "--locked", "--", "--deny", "warnings"])?;
    command::run(cargo, &["test", "--workspace", "--locked", "--no-fail-fast"])?;
    over_other_ways(cargo)?;
    smoke()?;
    loom(cargo)
}

/// Tests that speak to a gateway through sockets, over the ways that this host does not choose by itself: the other driver,
/// and both drivers beneath TLS.
fn over_other_ways(cargo: &str) -> anyhow::Result<()> {
    let epoll = ("TIDEGATE_IO", "epoll");
    let tls = ("TIDEGATE_TEST_TLS", "1");
    let ways = [(&SPEAK_TO_A_GATEWAY[..], vec![epoll]), (&SPEAK_TLS, vec![tls]), (&SPEAK_TLS, vec![epoll, tls])];
    for (tests, settings) in ways {
        let named: Vec<&str> = tests.iter().flat_map(|test| ["--test", test]).collect();
        let args = [&["test", "--workspace", "--locked", "--no-fail-fast"][..], &named].concat();
        command::run_with(cargo, &args, &settings)?;
    }
    Ok(())
}

/// The harness's smallest scenario over every way, with the binaries that the tests were built with.
fn smoke() -> anyhow::Result<()> {
    let folder = command::target().join("debug");
    let (load, served) = (folder.join("tidegate-load"), folder.join("tidegate"));
    let (load, served) = (load.to_string_lossy(), served.to_string_lossy());
    let run = ["run", "loadtest/scenarios/smoke.toml", "--plain", "--serve", &*served];
    for io in ["auto", "epoll"] {
        for tls in [&[][..], &["--tls"]] {
            command::run_with(&load, &[&run[..], tls].concat(), &[("TIDEGATE_IO", io)])?;
        }
    }
    Ok(())
}

/// Every order in which the gateway's threads can run, over the one crate that is compiled for it.
fn loom(cargo: &str) -> anyhow::Result<()> {
    let target = command::target().join("loom");
    let args = ["test", "--release", "--locked", "--package", "tidegate-gateway-threads", "--test", "loom"];
    let target = target.to_string_lossy();
    let args = [&args[..], &["--target-dir", &*target]].concat();
    command::run_with(cargo, &args, &[("RUSTFLAGS", "--cfg loom")])
}

pub fn run() -> anyhow::Result<()> {
    run_all(&cargo())?;
    sim::run_for_ci()
}

/// `cargo deny check bans licenses sources`; advisories too where their database can be fetched.
pub fn deny() -> anyhow::Result<()> {
    let folder = cache("cargo-deny")?;
    let tool = folder.join("bin").join("cargo-deny");
    if !tool.exists() {
        let root = folder.to_string_lossy();
        command::run(&cargo(), &["install", "--locked", "--root", &root, "cargo-deny"])?;
    }
    let tool = tool.to_string_lossy();
    command::run(&tool, &["check", "bans", "licenses", "sources"])?;
    if command::run(&tool, &["check", "advisories"]).is_err() {
        eprintln!("xtask: advisories were not checked: see above (their database may be out of reach)");
    }
    Ok(())
}
