//! How many bytes a route takes in a real Redis, and how fast routes of random users are found.
//!
//! ```text
//! cargo run --release -p tidegate-control --example routes_bench -- [--cluster] [--routes 10000000] [--buckets 262144]
//!     [--seconds 10] [--tasks 4] [--maxmemory-mb 3000] [--entries 512] [--value 1024] [--url URL[,URL…]]
//! ```
//!
//! Without `--url` it starts a server (or three masters) of its own, and ends it. With one, that server is flushed. Lookups are
//! made in batches of 64; every answer is checked.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use tidegate_control::adapters::redis::{BoundSettings, RedisCache, RedisSettings};
use tidegate_control_core::domain::{Timestamp, Uid};
use tidegate_control_core::ports::cache::{Cache, Connection, Fact, Incarnation, Live};
use xtask::servers::{Home, Server, down_in, up_in};

const BATCH: usize = 64;
const GATEWAYS: u64 = 20;
/// Facts that may wait at the cache's writer while routes are loaded.
const AHEAD_MAX: usize = 32_768;

struct Arguments {
    cluster: bool,
    routes: u64,
    buckets: u32,
    seconds: u64,
    tasks: usize,
    maxmemory_mb: u64,
    entries: u32,
    value: u32,
    url: Option<String>,
}

fn arguments() -> Result<Arguments> {
    let mut parsed = Arguments {
        cluster: false,
        routes: 10_000_000,
        buckets: 1 << 18,
        seconds: 10,
        tasks: 4,
        maxmemory_mb: 3_000,
        entries: 512,
        value: 1_024,
        url: None,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        if word == "--cluster" {
            parsed.cluster = true;
            continue;
        }
        let value = words.next().with_context(|| format!("{word}: a value must follow"))?;
        match word.as_str() {
            "--routes" => parsed.routes = value.parse()?,
            "--buckets" => parsed.buckets = value.parse()?,
            "--seconds" => parsed.seconds = value.parse()?,
            "--tasks" => parsed.tasks = value.parse()?,
            "--maxmemory-mb" => parsed.maxmemory_mb = value.parse()?,
            "--entries" => parsed.entries = value.parse()?,
            "--value" => parsed.value = value.parse()?,
            "--url" => parsed.url = Some(value),
            other => bail!("unknown option {other}"),
        }
    }
    Ok(parsed)
}

fn main() -> Result<()> {
    let arguments = arguments()?;
    if let Some(url) = &arguments.url {
        return measure(&arguments, url);
    }
    let folder = tempfile::Builder::new().tempdir_in("/var/tmp")?;
    let home = Home::at(folder.path().join("servers"))?;
    let server = if arguments.cluster { Server::RedisCluster } else { Server::Redis };
    let url = up_in(&home, server, 1)?;
    let measured = measure(&arguments, &url);
    down_in(&home, server, true)?;
    measured
}

fn measure(arguments: &Arguments, url: &str) -> Result<()> {
    let urls: Vec<String> = url.split(',').map(str::to_owned).collect();
    let mut servers = Servers::connect(&urls)?;
    let per_master = arguments.maxmemory_mb * 1_000_000 / urls.len() as u64;
    servers.each(&["FLUSHALL"])?;
    servers.each(&["CONFIG", "SET", "maxmemory", &per_master.to_string()])?;
    servers.each(&["CONFIG", "SET", "hash-max-listpack-entries", &arguments.entries.to_string()])?;
    servers.each(&["CONFIG", "SET", "hash-max-listpack-value", &arguments.value.to_string()])?;
    let settings = RedisSettings {
        urls,
        cluster: arguments.cluster,
        timeout_ms: 10_000,
        bounds: BoundSettings { route_buckets: arguments.buckets, ..BoundSettings::default() },
        ..RedisSettings::default()
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let cache = RedisCache::open(&settings)?;
        let empty = servers.memory()?;
        load(&cache, arguments.routes).await?;
        servers.report(&empty, arguments.routes)?;
        look_up(&cache, arguments).await
    })
}

fn incarnation(number: u64) -> Incarnation {
    Incarnation {
        gateway: format!("gateway-{}", number % GATEWAYS).into(),
        number: 1_790_000_000_000 + number % GATEWAYS,
    }
}

/// As a gateway tells it: its connections' ids are 32 hexadecimal digits, and an app's devices have names of some length.
fn route(number: u64) -> (Uid, Connection) {
    let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let connection = Connection {
        at: incarnation(number),
        id: format!("{spread:016x}{number:016x}").into(),
        device: format!("d{:011x}", spread & 0xfff_ffff_ffff).into(),
        platform: if number.is_multiple_of(2) { "mobile".into() } else { "web".into() },
        since: Timestamp(1_790_000_000_000 + number as i64),
    };
    (uid(number), connection)
}

fn uid(number: u64) -> Uid {
    format!("u{number:08}").parse().unwrap_or_else(|_| unreachable!("a number is a name"))
}

async fn load(cache: &RedisCache, routes: u64) -> Result<()> {
    let began = Instant::now();
    for from in (0..routes).step_by(1_024) {
        while cache.health().queued > AHEAD_MAX {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let facts = (from..(from + 1_024).min(routes)).map(|number| {
            let (uid, connection) = route(number);
            Fact::Online { uid, connection }
        });
        cache.write(facts.collect());
    }
    cache.settled().await;
    let (health, seconds) = (cache.health(), began.elapsed().as_secs_f64());
    ensure!(health.writes_dropped + health.writes_refused == 0, "not everything was written: {health:?}");
    println!("loaded {routes} routes in {seconds:.1} s: {:.0}/s", routes as f64 / seconds);
    Ok(())
}

async fn look_up(cache: &RedisCache, arguments: &Arguments) -> Result<()> {
    let live: Live = (0..GATEWAYS).map(incarnation).collect();
    let until = Instant::now() + Duration::from_secs(arguments.seconds);
    let (found, slowest_us) = (AtomicU64::new(0), AtomicU64::new(0));
    let tasks = (0..arguments.tasks as u64).map(|task| {
        let (live, found, slowest_us) = (&live, &found, &slowest_us);
        async move {
            let mut random = task.wrapping_mul(0xd134_2543_de82_ef95) | 1;
            while Instant::now() < until {
                let users: Vec<Uid> = (0..BATCH)
                    .map(|_| {
                        // xorshift64
                        random ^= random << 13;
                        random ^= random >> 7;
                        random ^= random << 17;
                        uid(random % arguments.routes)
                    })
                    .collect();
                let began = Instant::now();
                let routes = cache.routes_of(&users, live).await;
                slowest_us.fetch_max(began.elapsed().as_micros() as u64, Ordering::Relaxed);
                let hits = routes.iter().flatten().filter(|list| list.len() == 1).count();
                ensure!(hits == BATCH, "{hits} of {BATCH} are found");
                found.fetch_add(hits as u64, Ordering::Relaxed);
            }
            Ok(())
        }
    });
    let began = Instant::now();
    for result in futures_util::future::join_all(tasks).await {
        result?;
    }
    println!(
        "looked up random users in batches of {BATCH}, {} at once: {:.0} users/s, slowest batch {:.1} ms",
        arguments.tasks,
        found.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64(),
        slowest_us.load(Ordering::Relaxed) as f64 / 1e3
    );
    Ok(())
}

/// For what the cache itself may not ask: configuration and memory.
struct Servers(Vec<redis::Connection>);

#[derive(Clone, Copy)]
struct Memory {
    used: u64,
    resident: u64,
}

impl Servers {
    fn connect(urls: &[String]) -> Result<Servers> {
        let connect = |url: &String| -> Result<_> { Ok(redis::Client::open(url.as_str())?.get_connection()?) };
        urls.iter().map(connect).collect::<Result<Vec<_>>>().map(Servers)
    }

    fn each(&mut self, words: &[&str]) -> Result<()> {
        for connection in &mut self.0 {
            let mut command = redis::cmd(words[0]);
            words[1..].iter().for_each(|word| {
                command.arg(word);
            });
            command.exec(connection)?;
        }
        Ok(())
    }

    fn memory(&mut self) -> Result<Vec<Memory>> {
        let of = |connection: &mut redis::Connection| -> Result<Memory> {
            let info: String = redis::cmd("INFO").arg("memory").query(connection)?;
            let field = |name: &str| -> Result<u64> {
                let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
                Ok(line.with_context(|| format!("no {name}"))?.trim().parse()?)
            };
            Ok(Memory { used: field("used_memory")?, resident: field("used_memory_rss")? })
        };
        self.0.iter_mut().map(of).collect()
    }

    fn report(&mut self, empty: &[Memory], routes: u64) -> Result<()> {
        let now = self.memory()?;
        let grown = |of: fn(&Memory) -> u64| {
            let sum = |all: &[Memory]| all.iter().map(of).sum::<u64>();
            sum(&now).saturating_sub(sum(empty))
        };
        for (node, memory) in now.iter().enumerate() {
            println!(
                "server {node}: used {:.1} MB, resident {:.1} MB",
                memory.used as f64 / 1e6,
                memory.resident as f64 / 1e6
            );
        }
        println!(
            "{:.1} bytes per route (used_memory), {:.1} resident",
            grown(|memory| memory.used) as f64 / routes as f64,
            grown(|memory| memory.resident) as f64 / routes as f64
        );
        Ok(())
    }
}
