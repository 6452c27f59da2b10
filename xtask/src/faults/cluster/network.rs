//! What the packet filter does to packets on loopback. Its rules carry a mark of ours, by which all of them are removed: after
//! a fault, at a panic, at Ctrl-C, and before a run, in case the last one was killed.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tidegate_load::measure::discover::connections_to;
use xtask::cluster::Cluster;
use xtask::servers::{self, install};

use super::lab::GATEWAY_GROUP;

const MARK: &str = "tidegate-faults";
const LOSS: &str = "0.05";
const CHAINS: [&str; 2] = ["INPUT", "OUTPUT"];

static FILTER: OnceLock<Filter> = OnceLock::new();

struct Filter {
    program: install::Program,
    /// Of a package that was unpacked aside.
    extensions: Option<PathBuf>,
}

impl Filter {
    fn find(home: &servers::Home) -> anyhow::Result<Filter> {
        if let Some(path) = install::in_path("iptables") {
            return Ok(Filter { program: install::Program::installed(path), extensions: None });
        }
        let program = install::program(home, "iptables-legacy", &["iptables"])?;
        let folder = program.path.parent().and_then(|bin| bin.parent()).context("the program has no folder")?;
        let machine = std::fs::read_dir(folder.join("lib"))?.flatten().map(|entry| entry.path().join("xtables"));
        let extensions = machine.into_iter().find(|path| path.is_dir());
        Ok(Filter { program, extensions })
    }

    fn command(&self) -> Command {
        let mut command = self.program.command();
        if let Some(extensions) = &self.extensions {
            command.env("XTABLES_LIBDIR", extensions);
        }
        // Waits for other programs that change rules.
        command.arg("-w");
        command
    }

    fn run(&self, args: &[&str]) -> anyhow::Result<String> {
        let mut command = self.command();
        install::output(command.args(args))
    }

    /// Rules with our mark, as they would be added.
    fn ours(&self) -> Vec<Vec<String>> {
        let listed = CHAINS.iter().filter_map(|chain| self.run(&["-S", chain]).ok());
        let lines: Vec<String> = listed.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
        let marked = lines.iter().filter(|line| line.contains(MARK));
        marked
            .map(|line| line.split_ascii_whitespace().map(|word| word.trim_matches('"').to_owned()).collect())
            .collect()
    }

    /// Packets that our rules have matched.
    fn hits(&self) -> u64 {
        let listed = CHAINS.iter().filter_map(|chain| self.run(&["-nvxL", chain]).ok());
        let count = |text: String| -> u64 {
            let ours = text.lines().filter(|line| line.contains(MARK));
            ours.filter_map(|line| line.split_ascii_whitespace().next()?.parse::<u64>().ok()).sum()
        };
        listed.map(count).sum()
    }
}

/// Finds the packet filter, if this machine has one, and removes what an earlier run left.
pub fn prepare(home: &servers::Home) {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    match Filter::find(home) {
        Ok(filter) => {
            let _ = FILTER.set(filter);
            clear();
        }
        Err(error) => eprintln!("xtask: no packet filter, so `partition` and `lossy` cannot be done: {error:#}"),
    }
}

/// Removes every rule of ours.
pub fn clear() {
    let Some(filter) = FILTER.get() else { return };
    for mut rule in filter.ours() {
        rule[0] = "-D".to_owned();
        let words: Vec<&str> = rule.iter().map(String::as_str).collect();
        if let Err(error) = filter.run(&words) {
            eprintln!("xtask: a rule of the packet filter stays: iptables {}: {error:#}", words.join(" "));
        }
    }
}

/// Rules that go when this is dropped.
struct Rules(&'static Filter);

impl Rules {
    fn begin() -> anyhow::Result<Rules> {
        let filter = FILTER.get().context("needs root and iptables")?;
        Ok(Rules(filter))
    }

    fn drop_packets(&self, chain: &str, matching: &[&str]) -> anyhow::Result<()> {
        let side = if chain == "INPUT" { "-i" } else { "-o" };
        let head = ["-I", chain, side, "lo", "-p", "tcp"];
        let tail = ["-m", "comment", "--comment", MARK, "-j", "DROP"];
        self.0.run(&[&head[..], matching, &tail[..]].concat()).map(drop)
    }
}

impl Drop for Rules {
    fn drop(&mut self) {
        clear();
    }
}

/// Nothing passes between the first gateway and the control nodes for so long, either way.
pub fn cut_first_gateway(cluster: &Cluster, time: Duration) -> anyhow::Result<String> {
    let gateway = cluster.gateways.first().context("no gateway")?;
    let ports: Vec<u16> = cluster.controls.iter().filter_map(|node| port(&node.grpc)).collect();
    let rules = Rules::begin()?;
    let open = connections_to(gateway.pid, &ports);
    if open.is_empty() {
        bail!("{} has no connection to control that could be cut", gateway.name);
    }
    let group = GATEWAY_GROUP.to_string();
    for port in &ports {
        let port = port.to_string();
        rules.drop_packets("OUTPUT", &["--dport", &port, "-m", "owner", "--gid-owner", &group])?;
    }
    for (local, remote) in &open {
        let (local, remote) = (local.to_string(), remote.to_string());
        rules.drop_packets("INPUT", &["--sport", &remote, "--dport", &local])?;
    }
    thread::sleep(time);
    let hits = rules.0.hits();
    drop(rules);
    if hits == 0 {
        bail!("no packet was dropped between {} and control", gateway.name);
    }
    Ok(format!("{}: {} links cut, {hits} packets dropped in {} s", gateway.name, open.len(), time.as_secs()))
}

/// One packet of twenty is lost between clients, gateways and control nodes.
pub fn lose(cluster: &Cluster, time: Duration) -> anyhow::Result<String> {
    let clients = cluster.gateways.iter().filter_map(|node| port(&node.client));
    let ports: Vec<u16> = clients.chain(cluster.controls.iter().filter_map(|node| port(&node.grpc))).collect();
    let rules = Rules::begin()?;
    for port in ports {
        let port = port.to_string();
        for side in ["--dport", "--sport"] {
            let random = ["-m", "statistic", "--mode", "random", "--probability", LOSS];
            rules.drop_packets("INPUT", &[&[side, &port][..], &random[..]].concat())?;
        }
    }
    thread::sleep(time);
    let hits = rules.0.hits();
    drop(rules);
    if hits == 0 {
        bail!("no packet was lost");
    }
    Ok(format!("{hits} packets lost in {} s", time.as_secs()))
}

fn port(address: &str) -> Option<u16> {
    address.rsplit_once(':')?.1.parse().ok()
}
