//! The test command, which CI calls too.

mod runner;
mod suite;
mod times;

use anyhow::bail;

use crate::command::{self, cache, cargo};
use crate::sim;
use runner::Job;
use suite::{Env, Executable};
use times::Times;

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

/// Tests that wait for most of their time, share no server with others, and stand a busy machine: they run beside the rest.
const MOSTLY_WAIT: [&str; 4] = ["judges_faults", "judges_over_tls", "judges_publishing", "run_command"];

/// Formatting, lints, every test; then how long everything took.
pub fn run() -> anyhow::Result<()> {
    let mut times = Times::default();
    let done = run_all(&cargo(), &mut times);
    times.print();
    done
}

/// The first step that fails ends it, but all tests are run before their failures count.
fn run_all(cargo: &str, times: &mut Times) -> anyhow::Result<()> {
    let clippy = ["clippy", "--workspace", "--all-targets", "--locked", "--", "--deny", "warnings"];
    times.step("formatting", || command::run(cargo, &["fmt", "--all", "--check"]))?;
    times.step("clippy", || command::run(cargo, &clippy))?;
    let all = times.step("building the tests", || suite::build(cargo))?;
    let jobs = jobs(&all)?;
    let mostly_waits = |executable: &Executable| MOSTLY_WAIT.contains(&&*executable.target);
    let (failed, of_tests) = times.step("tests", || runner::run(&jobs, mostly_waits))?;
    times.append(of_tests);
    if !failed.is_empty() {
        bail!("these tests failed:\n  {}", failed.join("\n  "));
    }
    times.step("smoke scenarios", smoke)?;
    times.step("loom", || loom(cargo))?;
    times.step("simulator", sim::run_for_ci)
}

/// Every test once, then those that speak to a gateway through sockets over the ways that this host does not choose by itself:
/// the other driver, and both drivers beneath TLS.
fn jobs(all: &[Executable]) -> anyhow::Result<Vec<Job<'_>>> {
    const EPOLL: (&str, &str) = ("TIDEGATE_IO", "epoll");
    const TLS: (&str, &str) = ("TIDEGATE_TEST_TLS", "1");
    let ways: [(&[&str], Env<'_>); 3] =
        [(&SPEAK_TO_A_GATEWAY, &[EPOLL]), (&SPEAK_TLS, &[TLS]), (&SPEAK_TLS, &[EPOLL, TLS])];
    let mut jobs: Vec<Job<'_>> = all.iter().map(|executable| Job { executable, settings: &[] }).collect();
    for (tests, settings) in ways {
        jobs.extend(suite::named(all, tests)?.into_iter().map(|executable| Job { executable, settings }));
    }
    Ok(jobs)
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
