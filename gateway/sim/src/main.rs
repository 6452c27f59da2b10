//! `tidegate-sim`: runs seeds, says which fail, and makes what fails small. `cargo xtask sim` builds and calls it.

#![forbid(unsafe_code)]

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use clap::Parser;
use tidegate_sim::plan::Plan;
use tidegate_sim::planted::Planted;
use tidegate_sim::run;
use tidegate_sim::shrink::shrink;
use tidegate_sim::trace::Trace;

#[derive(Clone, Parser)]
#[command(name = "tidegate-sim", about = "Seeded simulation of gateways, control and clients")]
struct Args {
    /// So many seeds, from `--from` on.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// One seed only.
    #[arg(long)]
    seed: Option<u64>,
    /// Print every event of each seed to standard output.
    #[arg(long)]
    trace: bool,
    /// Threads; each runs whole seeds.
    #[arg(long, default_value_t = 2)]
    threads: u64,
    /// Go on after a violation, and list all seeds that fail.
    #[arg(long)]
    all: bool,
    /// Plant this bug, by its name; `list` names them, `all` looks for each in turn and says which seed finds it, `listed`
    /// tries each with the seed that docs/testing.md lists, and searches on from the first where that finds nothing.
    #[arg(long)]
    planted: Option<String>,
    /// All connections speak TLS: the same seeds, over production's TLS layer.
    #[arg(long)]
    tls: bool,
    /// All seeds over so many partitions, each with its own owner, log and links; otherwise each seed draws their number.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=64))]
    partitions: Option<u32>,
    /// Print the failing plan as it is, without making it smaller.
    #[arg(long)]
    no_shrink: bool,
}

/// Its table names each planted bug and the seed that finds it.
const LISTED: &str = include_str!("../../../docs/testing.md");
/// Letters of a violation in a row of that table.
const VIOLATION_MAX: usize = 90;
/// Seeds within which every planted bug must be found.
const SEARCHED_MAX: u64 = 10_000;

/// What the threads share.
struct Shared {
    next: AtomicU64,
    from: u64,
    end: u64,
    stop: AtomicBool,
    failed: Mutex<Vec<(u64, String)>>,
    virtual_ns: AtomicU64,
    turns: AtomicU64,
    shown: AtomicU64,
}

fn main() -> ExitCode {
    let args = Args::parse();
    // A violation says what panicked; the default hook would say it for every run of the shrinker.
    std::panic::set_hook(Box::new(|_| {}));
    match args.planted.as_deref() {
        None => simulate(&args, None),
        Some("list") => {
            Planted::all().into_iter().for_each(|planted| println!("{planted}"));
            ExitCode::SUCCESS
        }
        Some("all") => hunt(&args),
        Some("listed") => try_listed(&args),
        Some(name) => match Planted::all().into_iter().find(|planted| planted.to_string() == name) {
            Some(planted) => simulate(&args, Some(planted)),
            None => {
                eprintln!("no such planted bug: {name} (those of the partition need --features planted)");
                ExitCode::FAILURE
            }
        },
    }
}

/// Looks for each planted bug. One that no seed of the range finds is a failure.
fn hunt(args: &Args) -> ExitCode {
    let mut missed = 0;
    for planted in Planted::all() {
        let shared = search(args, Some(planted));
        let found = shared.failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).into_iter().min();
        match found {
            Some((seed, violation)) => {
                let plan = plan(seed, args);
                let plan = if args.no_shrink { plan } else { shrink(&plan, Some(planted)) };
                let events = run(&plan, Some(planted), Trace::on()).1.lines().len();
                let steps = plan.script.len();
                let shown: String =
                    violation.replace('|', "/").replace('\n', " ").chars().take(VIOLATION_MAX).collect();
                println!("| `{planted}` | {seed} | {steps} | {events} | {shown} |");
            }
            None => {
                missed += 1;
                println!("| `{planted}` | not found | | | |");
            }
        }
    }
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Each planted bug at the seed that is listed for it. Where that finds nothing, plans may only be drawn otherwise than when it
/// was listed, so other seeds are tried too; if none finds it, the simulator has become blind, and that is a failure.
fn try_listed(args: &Args) -> ExitCode {
    let listed: Vec<(&str, u64)> = LISTED.lines().filter_map(listed_seed).collect();
    let anywhere = Args { seeds: SEARCHED_MAX, from: 1, seed: None, trace: false, all: false, ..args.clone() };
    let (mut moved, mut missed) = (0, 0);
    for planted in Planted::all() {
        let name = planted.to_string();
        let seed = listed.iter().find(|(of, _)| *of == name).map(|(_, seed)| *seed);
        if seed.is_some_and(|seed| run(&plan(seed, args), Some(planted), Trace::default()).0.violation.is_some()) {
            continue;
        }
        let listed = seed.map_or("nowhere".to_owned(), |seed| format!("at {seed}"));
        let found = search(&anywhere, Some(planted)).failed;
        match found.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).iter().min() {
            Some((seed, _)) => {
                moved += 1;
                println!("{name}: listed {listed}, found by seed {seed}");
            }
            None => {
                missed += 1;
                println!("{name}: listed {listed}, not found by any of {SEARCHED_MAX} seeds");
            }
        }
    }
    if moved > 0 {
        println!(
            "the table of planted bugs in docs/testing.md is out of date: make it anew with --planted all --seeds 10000"
        );
    }
    eprintln!("{} planted bugs, {moved} elsewhere than listed, {missed} not found", Planted::all().len());
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A row such as [`hunt`] prints it.
fn listed_seed(line: &str) -> Option<(&str, u64)> {
    let (name, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
    Some((name, rest.split(' ').next()?.parse().ok()?))
}

fn simulate(args: &Args, planted: Option<Planted>) -> ExitCode {
    let began = Instant::now();
    let shared = search(args, planted);
    let seconds = began.elapsed().as_secs_f64();
    let runs = shared.next.load(Ordering::Relaxed).min(shared.end) - shared.from;
    eprintln!(
        "{runs} seeds in {seconds:.1} s: {:.0} seeds/s, {:.0} simulated seconds per second, {:.0} turns/s, {} messages shown",
        runs as f64 / seconds,
        shared.virtual_ns.load(Ordering::Relaxed) as f64 / 1e9 / seconds,
        shared.turns.load(Ordering::Relaxed) as f64 / seconds,
        shared.shown.load(Ordering::Relaxed),
    );
    let mut failed = shared.failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    failed.sort();
    for (seed, violation) in &failed {
        println!("seed {seed}: {violation}");
    }
    match failed.first() {
        None => ExitCode::SUCCESS,
        Some((seed, _)) => {
            if !args.all && !args.trace {
                explain(*seed, planted, args);
            }
            ExitCode::FAILURE
        }
    }
}

/// Runs the seeds of the range, until one fails unless all are asked for.
fn search(args: &Args, planted: Option<Planted>) -> Shared {
    let (from, end) = match args.seed {
        Some(seed) => (seed, seed + 1),
        None => (args.from, args.from.saturating_add(args.seeds)),
    };
    let shared = Shared {
        next: AtomicU64::new(from),
        from,
        end,
        stop: AtomicBool::new(false),
        failed: Mutex::default(),
        virtual_ns: AtomicU64::new(0),
        turns: AtomicU64::new(0),
        shown: AtomicU64::new(0),
    };
    // Traces of several threads would mix.
    let threads = if args.trace { 1 } else { args.threads.max(1) };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| work(&shared, args, planted));
        }
    });
    shared
}

fn work(shared: &Shared, args: &Args, planted: Option<Planted>) {
    while !shared.stop.load(Ordering::Relaxed) {
        let seed = shared.next.fetch_add(1, Ordering::Relaxed);
        if seed >= shared.end {
            return;
        }
        let trace = if args.trace { Trace::on() } else { Trace::default() };
        let (outcome, trace) = run(&plan(seed, args), planted, trace);
        if args.trace {
            print(&trace.lines());
        }
        shared.virtual_ns.fetch_add(outcome.lasted, Ordering::Relaxed);
        shared.turns.fetch_add(outcome.turns, Ordering::Relaxed);
        shared.shown.fetch_add(outcome.shown as u64, Ordering::Relaxed);
        if let Some(violation) = outcome.violation {
            shared.failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((seed, violation));
            if !args.all {
                shared.stop.store(true, Ordering::Relaxed);
            }
        }
    }
}

fn plan(seed: u64, args: &Args) -> Plan {
    Plan { tls: args.tls, ..Plan::over(seed, args.partitions) }
}

/// The failing seed, small, and what happens in it.
fn explain(seed: u64, planted: Option<Planted>, args: &Args) {
    let plan = plan(seed, args);
    let plan = if args.no_shrink { plan } else { shrink(&plan, planted) };
    let (outcome, trace) = run(&plan, planted, Trace::on());
    println!("features: {}", plan.features);
    println!("shape: {:?}, {} partitions, {} sources", plan.shape, plan.partitions, plan.sources);
    for (at, action) in &plan.script {
        println!("{:>12.6} ms  {action:?}", *at as f64 / 1e6);
    }
    println!("trace ({} events):", trace.lines().len());
    print(&trace.lines());
    println!("violation: {}", outcome.violation.unwrap_or_else(|| "none in the smaller plan".to_owned()));
    let tls = if args.tls { " --tls" } else { "" };
    let partitions = args.partitions.map(|count| format!(" --partitions {count}")).unwrap_or_default();
    println!("replay: cargo xtask sim --seed {seed} --trace{tls}{partitions}");
}

fn print(lines: &[String]) {
    let mut out = std::io::stdout().lock();
    for line in lines {
        // A reader that went away wants no more.
        if writeln!(out, "{line}").is_err() {
            return;
        }
    }
}
