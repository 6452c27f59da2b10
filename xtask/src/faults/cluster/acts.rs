//! The faults, done. Each returns what it did, and fails if it did not hit.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tidegate_load::publish;
use xtask::cluster::Cluster;
use xtask::servers::{self, Process, Server};

use super::fault::Fault;
use super::lab::Lab;
use super::load::Load;
use super::{network, watch};

/// Of the default configuration.
pub const UPSTREAM: &str = "im-upstream-topic";
const GROWN: u32 = 20;
/// Keys that are pushed through every node at once.
const SAME_KEYS: usize = 30;
/// How long a server takes that is killed and started at once.
const SHORT: Duration = Duration::from_secs(2);
/// How long clients may take to come back.
const COMEBACK: Duration = Duration::from_secs(90);

pub fn run(fault: Fault, lab: &mut Lab, load: &Load) -> anyhow::Result<String> {
    match fault {
        Fault::KillControl | Fault::UpstreamAudit => kill_control(lab),
        Fault::StopOwner => stop_owner(lab),
        Fault::KillGateway => kill_gateways(lab, 1),
        Fault::AllGateways => kill_gateways(lab, usize::MAX),
        Fault::RedisFlush => {
            servers::redis_flush(&lab.servers)?;
            Ok("FLUSHALL".to_owned())
        }
        Fault::RedisHang => hang(lab, Server::Redis, Duration::from_secs(15)),
        Fault::RedisKill => away(lab, Server::Redis, None, SHORT),
        Fault::KafkaKill if lab.shape.brokers > 1 => {
            let broker = lab.any(lab.shape.brokers);
            away(lab, Server::Kafka, Some(broker), Duration::from_secs(30))
        }
        Fault::KafkaKill => away(lab, Server::Kafka, None, Duration::from_secs(60)),
        Fault::PostgresKill => away(lab, Server::Postgres, None, Duration::from_secs(30)),
        Fault::EtcdKill => away(lab, Server::Etcd, None, Duration::from_secs(15)),
        Fault::Partition => network::cut_first_gateway(&lab.cluster()?, Duration::from_secs(30)),
        Fault::DrainEach => drain_each(lab),
        Fault::ResumeAfter60s => stay_away(lab, load, Duration::from_secs(60)),
        Fault::SameKeyOnThreeNodes => same_key(load),
        Fault::Lossy => network::lose(&lab.cluster()?, Duration::from_secs(30)),
        Fault::GrowTopic => grow(lab),
    }
}

fn kill_control(lab: &mut Lab) -> anyhow::Result<String> {
    let cluster = lab.cluster()?;
    let node = &cluster.controls[lab.any(cluster.controls.len())];
    kill(&node.name, node.process())?;
    thread::sleep(Duration::from_secs(5));
    lab.home.restart(&node.name)?;
    Ok(format!("{} (pid {})", node.name, node.pid))
}

/// One that is already dead would make a round that proves nothing.
fn kill(name: &str, process: Process) -> anyhow::Result<()> {
    if !process.is_alive() {
        bail!("{name} had ended before it was killed");
    }
    process.kill()
}

/// Runs again when dropped, whatever happens meanwhile.
struct Frozen(Process);

impl Drop for Frozen {
    fn drop(&mut self) {
        // The end of the round says so if it does not run.
        let _ = self.0.thaw();
    }
}

fn stop_owner(lab: &mut Lab) -> anyhow::Result<String> {
    let cluster = lab.cluster()?;
    let owners: Vec<_> = cluster.controls.iter().filter(|node| owned(&node.http) > 0).collect();
    let owner = *owners.get(lab.any(owners.len())).context("no node owns a partition")?;
    let before = owned(&owner.http);
    owner.process().freeze()?;
    let frozen = Frozen(owner.process());
    thread::sleep(Duration::from_secs(30));
    let others = || cluster.controls.iter().filter(|node| node.name != owner.name);
    let taken: u64 = others().map(|node| owned(&node.http)).sum();
    drop(frozen);
    lab.home.wait_ready(&cluster, &owner.name)?;
    Ok(format!("{} stood still with {before} partitions; the others had {taken} at the end", owner.name))
}

fn owned(http: &str) -> u64 {
    watch::metric(http, "tidegate_control_partitions_owned").map_or(0, |sum| sum as u64)
}

fn kill_gateways(lab: &mut Lab, at_most: usize) -> anyhow::Result<String> {
    let cluster = lab.cluster()?;
    let first = lab.any(cluster.gateways.len());
    let victims: Vec<_> =
        cluster.gateways.iter().cycle().skip(first).take(at_most.min(cluster.gateways.len())).collect();
    for victim in &victims {
        kill(&victim.name, victim.process())?;
    }
    thread::sleep(Duration::from_secs(1));
    // One after the other: each restart writes the cluster's file.
    victims.iter().try_for_each(|victim| lab.home.restart(&victim.name))?;
    Ok(victims.iter().map(|victim| victim.name.clone()).collect::<Vec<_>>().join(", "))
}

fn away(lab: &mut Lab, server: Server, node: Option<usize>, time: Duration) -> anyhow::Result<String> {
    let pids = servers::kill_in(&lab.servers, server, node)?;
    thread::sleep(time);
    servers::revive_in(&lab.servers, server)?;
    Ok(format!("{} (pids {pids:?}) for {} s", server.name(), time.as_secs()))
}

/// Nothing is refused, and nothing is answered.
fn hang(lab: &Lab, server: Server, time: Duration) -> anyhow::Result<String> {
    let mut frozen = Vec::new();
    for process in servers::processes_in(&lab.servers, server)? {
        process.freeze()?;
        frozen.push(Frozen(process));
    }
    thread::sleep(time);
    Ok(format!("{} stood still for {} s", server.name(), time.as_secs()))
}

fn drain_each(lab: &mut Lab) -> anyhow::Result<String> {
    let names = lab.cluster()?.names();
    for name in &names {
        let process = lab.cluster()?.process(name).with_context(|| format!("no node {name}"))?;
        lab.home.restart(name)?;
        if lab.cluster()?.process(name) == Some(process) {
            bail!("{name} was not started anew");
        }
    }
    Ok(format!("{} nodes", names.len()))
}

fn stay_away(lab: &Lab, load: &Load, time: Duration) -> anyhow::Result<String> {
    let some = 0..(lab.clients / 4).max(1);
    let before = load.mark().reconnects;
    load.fleet.away(some.clone(), time);
    thread::sleep(time);
    let deadline = Instant::now() + COMEBACK;
    while load.mark().reconnects < before + u64::from(some.end) || load.fleet.progress().established < lab.clients {
        if Instant::now() > deadline {
            bail!("not everybody who stayed away came back: {:?}", load.fleet.progress());
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(format!("{} clients for {} s", some.end, time.as_secs()))
}

fn same_key(load: &Load) -> anyhow::Result<String> {
    let run = load.population.run();
    let keys: Vec<String> = (0..SAME_KEYS).map(|number| format!("{run}-same-{number}")).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let to = format!("g:{run}-same");
    let calls = publish::at_once(load.grpc(), &to, &keys);
    let results = runtime.block_on(calls).context("the keys could not be pushed")?;
    let mut seqs = Vec::new();
    for (key, results) in keys.iter().zip(&results) {
        let places: Vec<_> = results.iter().map(|result| (result.seq, &result.message_id, &result.epoch)).collect();
        if places[0].0.is_none() || places.iter().any(|place| *place != places[0]) {
            bail!("{key} has not one place: {results:?}");
        }
        if results.iter().filter(|result| !result.duplicate).count() > 1 {
            bail!("{key} was new more than once: {results:?}");
        }
        seqs.extend(places[0].0);
    }
    seqs.sort_unstable();
    if seqs != (1..=SAME_KEYS as u64).collect::<Vec<_>>() {
        bail!("the seqs are not 1 to {SAME_KEYS}, each once: {seqs:?}");
    }
    Ok(format!("{SAME_KEYS} keys through {} nodes", load.grpc().len()))
}

fn grow(lab: &mut Lab) -> anyhow::Result<String> {
    let config = lab.home.config(&first_control(&lab.cluster()?)?);
    lab.grown = true;
    let mut grow = std::process::Command::new(lab.binary());
    grow.args(["topics", "grow", UPSTREAM, &GROWN.to_string(), "--config"]).arg(config);
    let said = servers::install::output(&mut grow)?;
    Ok(said.trim().to_owned())
}

fn first_control(cluster: &Cluster) -> anyhow::Result<String> {
    cluster.controls.first().map(|node| node.name.clone()).context("no control node")
}
