//! Fault runs on a real node: `kill -9` under load, judged by what 200 following clients saw and what the publisher was told.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::bail;
use tidegate_load::crowd::{Fleet, SETTLE};
use tidegate_load::crowd_judge::{Ledger, Verdict};
use tidegate_load::crowd_publish::{self as publish, Outcome, Plan};
use tidegate_load::follower::Follower;
use tidegate_load::node::{Addrs, Node};
use tidegate_load::session::Target;

use crate::command;
use crate::workspace::Workspace;

#[derive(clap::Args)]
pub struct Args {
    /// How many times the node is killed.
    #[arg(long, default_value_t = 20)]
    rounds: u32,
    #[arg(long, default_value_t = 200)]
    clients: usize,
    /// Pushes per second.
    #[arg(long, default_value_t = 2_000.0)]
    rate: f64,
    /// Seconds of load before each kill.
    #[arg(long, default_value_t = 3.0)]
    between: f64,
}

/// Groups that the clients are spread over; every client's inbox gets messages as well.
const GROUPS: usize = 4;
/// Nothing new for so long: the clients have shown what they will show.
const QUIET: Duration = Duration::from_secs(5);

pub fn run(args: &Args) -> anyhow::Result<()> {
    let binary = command::build("tidegate")?;
    let workspace = Workspace::new()?;
    let addrs = Addrs::free()?;
    let start = || Node::dev(&binary, &workspace.data(), &addrs, &workspace.log(), &[]);
    let mut node = start()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(async {
        let fleet = follow(args, &addrs).await?;
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let publisher = tokio::spawn(publish::publish(plan(args, &addrs, stop.clone()), ledger.clone()));
        let mut before = (0, 0);
        for round in 1..=args.rounds {
            tokio::time::sleep(Duration::from_secs_f64(args.between)).await;
            let answered = ledger.lock().expect("no holder panics").answered;
            let shown = fleet.shown();
            let least = (args.rate * args.between / 2.0) as u64;
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
        tokio::time::sleep(Duration::from_secs_f64(args.between)).await;
        stop.store(true, Ordering::Relaxed);
        let outcome = publisher.await?;
        let ledger = Arc::try_unwrap(ledger).map_err(|_| anyhow::anyhow!("the ledger is still shared"))?;
        let ledger = ledger.into_inner().expect("no holder panics");
        fleet.settle(&ledger, QUIET).await;
        let moved = publish::send_again(&addrs.grpc_url(), &outcome.samples).await?;
        let verdict = fleet.judge(&ledger, |_, _| ()).await;
        anyhow::Ok((outcome, ledger, verdict, moved))
    })?;
    let (outcome, ledger, verdict, moved) = report;
    print_report(&outcome, &ledger, &verdict, moved.len());
    moved.iter().take(10).for_each(|finding| eprintln!("  {finding}"));
    if !verdict.clean()
        || !moved.is_empty()
        || ledger.seqs_used_twice > 0
        || outcome.unanswered > 0
        || outcome.answered == 0
    {
        verdict.findings.iter().for_each(|finding| eprintln!("  {finding}"));
        bail!("the promise does not hold; data and log are kept in {}", workspace.folder.display());
    }
    drop(node);
    workspace.remove();
    Ok(())
}

fn group(number: usize) -> String {
    format!("g:faults-{number}")
}

fn uid(number: usize) -> String {
    format!("faults-{number}")
}

fn plan(args: &Args, addrs: &Addrs, stop: Arc<AtomicBool>) -> Plan {
    let groups = (0..GROUPS).map(group);
    let inboxes = (0..args.clients).map(|n| format!("u:{}", uid(n)));
    Plan {
        grpc: addrs.grpc_url(),
        rate: Some(args.rate),
        messages: u64::MAX,
        stop,
        targets: groups.chain(inboxes).collect(),
        payload_bytes: 200,
        key_prefix: "faults".into(),
        in_flight_max: 20_000,
        origin: Instant::now(),
    }
}

async fn follow(args: &Args, addrs: &Addrs) -> anyhow::Result<Fleet> {
    let mut fleet = Fleet::default();
    for number in 0..args.clients {
        let name = uid(number);
        let target = Target::dev(addrs.client, &name);
        fleet.follow(Follower::new(name, target, vec![group(number % GROUPS)]));
    }
    if fleet.gather().await < args.clients {
        bail!("not every client was established within {SETTLE:?}");
    }
    Ok(fleet)
}

fn print_report(outcome: &Outcome, ledger: &Ledger, verdict: &Verdict, moved: usize) {
    println!(
        "pushes: sent {} answered {} duplicates answered {} sent again {} connections lost {} unanswered {} refused {:?}",
        outcome.sent,
        outcome.answered,
        outcome.duplicates,
        outcome.retried,
        outcome.reconnects,
        outcome.unanswered,
        outcome.refused
    );
    println!("seqs used twice: {}", ledger.seqs_used_twice);
    println!(
        "sent again after the last restart: {}, of which {moved} did not get their old place",
        outcome.samples.len()
    );
    println!("clients: {verdict}");
}
