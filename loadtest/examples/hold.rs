//! Holds connections on a running gateway and says what that costs the clients' thread: `hold ADDR COUNT SECONDS [DRAIN_MS]`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate_load::clock::Clock;
use tidegate_load::fleet::{Drain, Fleet, FleetConfig, Mode};
use tidegate_load::judge::Ledger;
use tidegate_load::population::{GroupClass, Population};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| args[at].parse::<u32>().expect("a number");
    let drain = match args.get(3) {
        Some(ms) => Drain::Timer { every: Duration::from_millis(ms.parse().expect("milliseconds")) },
        None => Drain::Armed,
    };
    let config = FleetConfig {
        target: args[0].parse().expect("an address"),
        mode: Mode::Follow,
        drain,
        ramp_per_second: 20_000.0,
        slow: 0..0,
        reconnect: true,
        loads: 1,
    };
    let run = format!("hold{}", std::process::id());
    let classes = vec![GroupClass { name: "room".into(), count: number(1).div_ceil(100), members: 100 }];
    let population = Arc::new(Population::new(&run, number(1), classes, 0));
    let fleet = Fleet::start(config, population, Clock::start()).expect("started");
    let begin = Instant::now();
    while fleet.progress().established < number(1) && begin.elapsed() < Duration::from_secs(120) {
        std::thread::sleep(Duration::from_millis(20));
    }
    println!(
        "{:.2} s, cpu {:.2} s, {:?}",
        begin.elapsed().as_secs_f64(),
        fleet.health().cpu_us as f64 / 1e6,
        fleet.progress()
    );
    let before = fleet.health().cpu_us;
    std::thread::sleep(Duration::from_secs(number(2).into()));
    let health = fleet.health();
    println!(
        "holding: {:.1} ms CPU a second, lag P50 {} P99 {} µs",
        (health.cpu_us - before) as f64 / 1e3 / f64::from(number(2)),
        health.lag_us.value_at_quantile(0.5),
        health.lag_us.value_at_quantile(0.99)
    );
    println!("{:?}", fleet.progress());
    println!("{:?}", fleet.judge(&Ledger::default()).findings);
}
