//! One node: `kill -9` under load, judged by what 200 following clients saw and what the publisher was told.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tidegate_load::clock::Clock;
use tidegate_load::fleet::{Fleet, FleetConfig, Judgement};
use tidegate_load::judge::Kind;
use tidegate_load::node::{Addrs, Node};
use tidegate_load::payload::Filling;
use tidegate_load::population::{GroupClass, Population};
use tidegate_load::publish::{self, Endpoints, LoadPlan, PATIENCE, Published, Publishers};
use tidegate_load::scenario::{Phase, Pick, Until, Via};
use tidegate_load::schedule::Schedule;

use super::Args;
use crate::command;
use crate::workspace::Workspace;

const ROUNDS: u32 = 20;
const CLIENTS: u32 = 200;
const RATE: f64 = 2_000.0;
/// Groups that the clients are spread over; every client's inbox gets messages as well.
const GROUPS: u32 = 4;
/// How long clients may take to be established.
const SETTLE: Duration = Duration::from_secs(60);
/// Nothing new for so long: the clients have shown what they will show.
const QUIET: Duration = Duration::from_secs(10);

pub fn run(args: &Args) -> anyhow::Result<()> {
    let binary = command::build("tidegate")?;
    let (rounds, clients, rate) =
        (args.rounds.unwrap_or(ROUNDS), args.clients.unwrap_or(CLIENTS), args.rate.unwrap_or(RATE));
    let workspace = Workspace::new()?;
    let addrs = Addrs::free()?;
    let start = || Node::dev(&binary, &workspace.data(), &addrs, &workspace.log(), &[]);
    let mut node = start()?;
    let population = Arc::new(population(clients));
    let clock = Clock::start();
    let fleet = follow(&addrs, &population, clock)?;
    let endpoints = Endpoints::of(&addrs);
    let publishers = Publishers::start(vec![plan(rate, &population)], endpoints, population.clone(), clock)?;
    publishers.begin(0, 0..1, clock.now_us());
    let mut before = (0, 0);
    for round in 1..=rounds {
        thread::sleep(Duration::from_secs_f64(args.between));
        let (answered, shown) = (publishers.meter().answered(), fleet.progress().shown);
        let least = (rate * args.between / 2.0) as u64;
        if answered < before.0 + least || shown < before.1 + least {
            bail!("round {round}: too little load flowed before the kill: {answered} answered, {shown} shown");
        }
        before = (answered, shown);
        node.kill()?;
        let down = Instant::now();
        node = start()?;
        eprintln!(
            "round {round}: killed at {answered} answered, {shown} shown; ready again after {:?}",
            down.elapsed()
        );
    }
    thread::sleep(Duration::from_secs_f64(args.between));
    publishers.stop();
    let published = publishers.finish();
    fleet.settle(published.ledger.deliveries(&population), QUIET);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let moved = runtime.block_on(publish::send_again(&addrs.grpc_url(), &published.loads[0].samples))?;
    let reconnects = fleet.progress().reconnects;
    let judgement = fleet.judge(&published.ledger);
    print_report(&published, &judgement, reconnects, moved.len());
    let load = &published.loads[0];
    let problems = [&moved[..], &load.wrong.texts[..], judgement.findings.texts()].concat();
    if !judgement.findings.is_clean()
        || !moved.is_empty()
        || load.wrong.count > 0
        || published.ledger.seqs_used_twice() > 0
        || load.unanswered > 0
        || load.answered == 0
        || reconnects < u64::from(rounds) * u64::from(clients)
    {
        problems.iter().for_each(|problem| eprintln!("  {problem}"));
        bail!("the promise does not hold; data and log are kept in {}", workspace.folder.display());
    }
    drop(node);
    workspace.remove();
    Ok(())
}

fn population(clients: u32) -> Population {
    let class = GroupClass { name: "room".to_owned(), count: GROUPS, members: clients.div_ceil(GROUPS) };
    Population::new("faults", clients, vec![class], 0)
}

fn plan(rate: f64, population: &Population) -> LoadPlan {
    let steady = Phase { name: "steady".to_owned(), per_second: rate, until: Until::Stopped };
    let targets = 0..population.inbox_range().end;
    let schedule = Schedule { load: 0, seed: 1, pick: Pick::Turn, targets, phases: vec![steady] };
    LoadPlan {
        schedule,
        via: Via::Stream,
        payload_bytes: 200,
        filling: Filling::Letters,
        in_flight: 20_000,
        patience: PATIENCE,
    }
}

fn follow(addrs: &Addrs, population: &Arc<Population>, clock: Clock) -> anyhow::Result<Fleet> {
    let config = FleetConfig::following(vec![addrs.client], 10_000.0, 1);
    let fleet = Fleet::start(config, population.clone(), clock).context("the clients could not be started")?;
    if !fleet.gather(SETTLE) {
        bail!("not every client was established within {SETTLE:?}: {:?}", fleet.progress());
    }
    Ok(fleet)
}

fn print_report(published: &Published, judgement: &Judgement, reconnects: u64, moved: usize) {
    let load = &published.loads[0];
    println!(
        "pushes: sent {} answered {} duplicates answered {} sent again {} connections lost {} unanswered {} wrong {} \
         refused {:?}",
        load.sent,
        load.answered,
        load.repeats.duplicates,
        load.repeats.sent,
        load.repeats.reconnects,
        load.unanswered,
        load.wrong.count,
        load.refused
    );
    println!("seqs used twice: {}", published.ledger.seqs_used_twice());
    println!("sent again after the last restart: {}, of which {moved} did not get their old place", load.samples.len());
    println!(
        "clients: came back {reconnects} times, expected {} received {} overlaps {} holes healed {} gaps {}",
        judgement.expected, judgement.received, judgement.overlaps, judgement.holes_healed, judgement.gaps
    );
    let counts: Vec<String> =
        Kind::ALL.iter().map(|kind| format!("{kind} {}", judgement.findings.count(*kind))).collect();
    println!("found: {}", counts.join(", "));
}
