//! `cargo xtask servers`: the real servers that adapters are tested against, on loopback, without docker or systemd.
//!
//! `up` installs what is missing, starts what does not run, and returns when each server answers a real question. What runs
//! is written to a state file, from which `down` stops exactly these processes and tests take addresses ([`url`]).
//! Where each program comes from: [`install`]. What it does not do: production deployments.

pub mod ask;
mod breaking;
mod etcd;
pub mod install;
mod java;
mod kafka;
mod kafka_secure;
mod opensearch;
mod ports;
mod postgres;
mod process;
mod redis;
mod state;

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::{Subcommand, ValueEnum};

pub use self::breaking::{delete_topics, kafka_tool, kill_in, processes_in, redis_flush, redis_forget, revive_in, sql};
pub use self::kafka_secure::Access as KafkaAccess;
pub use self::process::{Farewell, Process};
pub use self::redis::redis_server;
pub use self::state::{Home, Running, State};

/// How long a server may take from its start to its first answer.
const START_TIMEOUT: Duration = Duration::from_secs(180);

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Starts servers (all, or those named), installs what is missing, and waits until each answers.
    Up {
        servers: Vec<Server>,
        /// Kafka brokers: 1 or 3.
        #[arg(long, default_value_t = 1)]
        brokers: usize,
    },
    /// Stops servers (all, or those named). Their data and ports stay for the next `up`.
    Down {
        servers: Vec<Server>,
        /// Their data too.
        #[arg(long)]
        wipe: bool,
    },
    /// What runs, and where.
    Status,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Server {
    Postgres,
    Redis,
    /// Three masters.
    RedisCluster,
    Etcd,
    Kafka,
    /// One broker over TLS, with users and rights.
    KafkaSecure,
    #[value(name = "opensearch")]
    OpenSearch,
}

impl Server {
    pub fn name(self) -> &'static str {
        match self {
            Server::Postgres => "postgres",
            Server::Redis => "redis",
            Server::RedisCluster => "redis-cluster",
            Server::Etcd => "etcd",
            Server::Kafka => "kafka",
            Server::KafkaSecure => "kafka-secure",
            Server::OpenSearch => "opensearch",
        }
    }

    /// Names the address of a server of one's own, for tests that are to use that one.
    pub fn variable(self) -> String {
        format!("TIDEGATE_TEST_{}", self.name().replace('-', "_").to_uppercase())
    }

    fn recipe(self, home: &Home, brokers: usize) -> anyhow::Result<Box<dyn Recipe>> {
        Ok(match self {
            Server::Postgres => Box::new(postgres::Postgres::install(home)?),
            Server::Redis => Box::new(redis::Redis::install(home, false)?),
            Server::RedisCluster => Box::new(redis::Redis::install(home, true)?),
            Server::Etcd => Box::new(etcd::Etcd::install(home)?),
            Server::Kafka => Box::new(kafka::Kafka::install(brokers)?),
            Server::KafkaSecure => Box::new(kafka::Kafka::install_secure()?),
            Server::OpenSearch => Box::new(opensearch::OpenSearch::install()?),
        })
    }
}

/// Data and ports of one server; those of node `n` are `ports[n * ports_per_node..]`.
struct Place {
    data: PathBuf,
    ports: Vec<u16>,
}

impl Place {
    fn node(&self, node: usize) -> PathBuf {
        self.data.join(format!("n{}", node + 1))
    }
}

/// How one kind of server is made to run.
trait Recipe {
    fn nodes(&self) -> usize {
        1
    }

    fn ports_per_node(&self) -> usize;

    /// With other ports than the last time, its data is of no use.
    fn data_belongs_to_ports(&self) -> bool {
        false
    }

    fn farewell(&self) -> Farewell {
        Farewell::Terminate
    }

    /// Before the start.
    fn prepare(&self, place: &Place) -> anyhow::Result<()> {
        (0..self.nodes()).try_for_each(|node| std::fs::create_dir_all(place.node(node)).map_err(Into::into))
    }

    fn command(&self, place: &Place, node: usize) -> anyhow::Result<Command>;

    /// A real question, answered.
    fn answers(&self, place: &Place) -> anyhow::Result<()>;

    /// Once every node answers; may be called again.
    fn settle(&self, _place: &Place) -> anyhow::Result<()> {
        Ok(())
    }

    fn url(&self, place: &Place) -> String;
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    match &args.command {
        Verb::Up { servers, brokers } => {
            for server in all_if_none(servers) {
                let began = Instant::now();
                let url = up(server, *brokers)?;
                println!("{:14} {url}  ({:.1} s)", server.name(), began.elapsed().as_secs_f64());
            }
            Ok(())
        }
        Verb::Down { servers, wipe } => {
            let done: Vec<_> = all_if_none(servers).into_iter().map(|server| down(server, *wipe)).collect();
            done.into_iter().collect()
        }
        Verb::Status => status(),
    }
}

fn all_if_none(servers: &[Server]) -> Vec<Server> {
    if servers.is_empty() { Server::value_variants().to_vec() } else { servers.to_vec() }
}

/// So many ports of loopback that nobody listens on.
pub fn free_ports(count: usize) -> anyhow::Result<Vec<u16>> {
    let taken: Vec<u16> =
        Home::find()?.load()?.servers.values().flat_map(|running| running.ports.iter().copied()).collect();
    ports::choose(count, &[], &taken)
}

/// Where a test finds this server: what its variable names, otherwise the one that runs here, started if need be.
pub fn url(server: Server) -> anyhow::Result<String> {
    match std::env::var(server.variable()) {
        Ok(url) => Ok(url),
        Err(_) => {
            let running = Home::find()?.load()?.servers.get(server.name()).map_or(0, |running| running.processes.len());
            let brokers = if server == Server::Kafka { running.max(1) } else { 1 };
            up(server, brokers)
        }
    }
}

/// Starts a server if it does not run, and returns its address once it answers.
pub fn up(server: Server, brokers: usize) -> anyhow::Result<String> {
    up_in(&Home::find()?, server, brokers)
}

/// As [`up`], in a place of its own: for a test that does to a server what others must not feel.
pub fn up_in(home: &Home, server: Server, brokers: usize) -> anyhow::Result<String> {
    let _lock = home.lock()?;
    let up = Starting { home, server, recipe: &*server.recipe(home, brokers)? }.up();
    up.with_context(|| format!("{} could not be started", server.name()))
}

/// Stops a server's processes, and no others.
pub fn down(server: Server, wipe: bool) -> anyhow::Result<()> {
    down_in(&Home::find()?, server, wipe)
}

/// As [`down`], of what [`up_in`] started.
pub fn down_in(home: &Home, server: Server, wipe: bool) -> anyhow::Result<()> {
    let _lock = home.lock()?;
    let mut state = home.load()?;
    let Some(running) = state.servers.get_mut(server.name()) else { return Ok(()) };
    let farewell = if server == Server::Postgres { Farewell::Interrupt } else { Farewell::Terminate };
    stop(running, farewell).with_context(|| format!("{} could not be stopped", server.name()))?;
    if wipe {
        remove(&running.data)?;
        state.servers.remove(server.name());
    }
    home.save(&state)
}

/// Nodes of a cluster are asked all at once: the last one would wait in vain for a majority of the others.
fn stop(running: &mut Running, farewell: Farewell) -> anyhow::Result<()> {
    std::thread::scope(|scope| {
        let stops: Vec<_> =
            running.processes.iter().map(|process| scope.spawn(move || process.stop(farewell))).collect();
        stops.into_iter().try_for_each(|stop| stop.join().unwrap_or_else(|_| bail!("a thread panicked")))
    })?;
    running.processes.clear();
    Ok(())
}

fn remove(data: &PathBuf) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(data) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", data.display()))
        }
        _ => Ok(()),
    }
}

fn status() -> anyhow::Result<()> {
    let home = Home::find()?;
    let state = home.load()?;
    println!("{:14} {:8} {:>9}  {:20} url", "server", "state", "memory", "processes");
    for (name, running) in &state.servers {
        let alive: Vec<_> = running.processes.iter().filter(|process| process.is_alive()).collect();
        let word = match alive.len() {
            0 => "stopped",
            n if n == running.processes.len() => "up",
            _ => "damaged",
        };
        let memory: u64 = alive.iter().filter_map(|process| process.resident()).sum();
        let pids: Vec<String> = alive.iter().map(|process| process.pid.to_string()).collect();
        println!("{name:14} {word:8} {:>5} MiB  {:20} {}", memory >> 20, pids.join(","), running.url);
    }
    println!("{}", home.state_file().display());
    Ok(())
}

struct Starting<'a> {
    home: &'a Home,
    server: Server,
    recipe: &'a dyn Recipe,
}

impl Starting<'_> {
    fn up(&self) -> anyhow::Result<String> {
        let name = self.server.name();
        let mut state = self.home.load()?;
        let known = state.servers.get(name).cloned();
        if let Some(mut running) = known.clone().filter(|running| !running.processes.is_empty()) {
            if running.is_up() && running.processes.len() != self.recipe.nodes() {
                bail!(
                    "it runs in another form ({} nodes): `cargo xtask servers down {name}` first",
                    running.processes.len()
                );
            }
            let place = Place { data: running.data.clone(), ports: running.ports.clone() };
            if running.is_up() && self.wait(&place, &running).is_ok() {
                // An `up` that was broken off may have left this undone.
                self.recipe.settle(&place)?;
                return Ok(running.url);
            }
            stop(&mut running, self.recipe.farewell())?;
        }
        let place = self.place(&state, known.as_ref())?;
        self.recipe.prepare(&place)?;
        let url = self.recipe.url(&place);
        let mut running = Running { url, ports: place.ports.clone(), processes: Vec::new(), data: place.data.clone() };
        for node in 0..self.recipe.nodes() {
            let mut command = self.recipe.command(&place, node)?;
            running.processes.push(Process::spawn(&mut command, &log(&place, node))?);
            // Written before it answers: whatever comes between, `down` finds it.
            state.servers.insert(name.to_owned(), running.clone());
            self.home.save(&state)?;
        }
        self.wait(&place, &running)?;
        self.recipe.settle(&place)?;
        Ok(running.url)
    }

    fn place(&self, state: &State, known: Option<&Running>) -> anyhow::Result<Place> {
        let nodes = self.recipe.nodes();
        let taken: Vec<u16> = state.servers.values().flat_map(|running| running.ports.iter().copied()).collect();
        let wanted = known.map_or(&[][..], |running| &running.ports);
        let ports = ports::choose(nodes * self.recipe.ports_per_node(), wanted, &taken)?;
        // Kafka with three brokers is another cluster than Kafka with one.
        let data = self.home.path().join(format!("{}-{nodes}", self.server.name()));
        if self.recipe.data_belongs_to_ports() && ports != wanted {
            remove(&data)?;
        }
        Ok(Place { data, ports })
    }

    fn wait(&self, place: &Place, running: &Running) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let Err(error) = self.recipe.answers(place) else { return Ok(()) };
            let log = log(place, 0);
            if let Some(node) = running.processes.iter().position(|process| !process.is_alive()) {
                bail!("it ended at its start; see {}", self::log(place, node).display());
            }
            if Instant::now() > deadline {
                return Err(error).context(format!("no answer within {START_TIMEOUT:?}; see {}", log.display()));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn log(place: &Place, node: usize) -> PathBuf {
    place.data.join(format!("n{}.log", node + 1))
}
