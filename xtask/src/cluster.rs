//! `cargo xtask cluster`: control nodes and gateways as processes on this machine, over the real servers of `servers`.
//!
//! What runs is written to `cluster.json` in cargo's target folder, whose form docs/local-servers.md fixes. `down` and
//! `restart` stop these processes and no others. Logs and configuration files lie beside it, in `cluster/`.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Subcommand;
use serde::{Deserialize, Serialize};

use crate::command::{self, root, target};
use crate::servers::{self, Farewell, Process, Server, free_ports};

const NODES: usize = 3;
const FIRST_GATEWAY: &str = "gateway-1";
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long addresses of a node that has ended may stay taken.
const FREE_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Starts the servers, three control nodes and three gateways, and waits until all of them are ready.
    Up {
        #[command(flatten)]
        shape: Shape,
        /// Begin with empty servers: what Kafka, PostgreSQL, Redis and etcd hold is deleted.
        #[arg(long)]
        fresh: bool,
        /// A binary that was built elsewhere, instead of a release build of this tree.
        #[arg(long)]
        binary: Option<PathBuf>,
    },
    /// Stops its processes. The servers go on; what is stored stays.
    Down,
    /// What runs, and where.
    Status,
    /// Starts a node again that was killed, or stops and starts one that runs; it keeps its address and its data.
    Restart { name: String },
}

/// What a cluster consists of.
#[derive(clap::Args, Clone, Debug)]
pub struct Shape {
    /// Control nodes.
    #[arg(long, default_value_t = NODES)]
    pub controls: usize,
    #[arg(long, default_value_t = NODES)]
    pub gateways: usize,
    /// Kafka brokers: 1 or 3.
    #[arg(long, default_value_t = 1)]
    pub brokers: usize,
    /// Where nodes find each other.
    #[arg(long, default_value = "etcd", value_parser = ["etcd", "redis"])]
    pub registry: String,
    /// Everything works without Redis as well.
    #[arg(long)]
    pub without_redis: bool,
}

impl Default for Shape {
    fn default() -> Shape {
        Shape { controls: NODES, gateways: NODES, brokers: 1, registry: "etcd".to_owned(), without_redis: false }
    }
}

/// The file that programs read.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Cluster {
    pub gateways: Vec<GatewayNode>,
    pub controls: Vec<ControlNode>,
    pub kafka: String,
    #[serde(default)]
    pub redis: String,
    pub postgres: String,
    pub etcd: String,
    #[serde(default)]
    pub opensearch: String,
    pub binary: PathBuf,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GatewayNode {
    pub name: String,
    pub client: String,
    pub admin: String,
    pub pid: u32,
    pub started: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ControlNode {
    pub name: String,
    pub http: String,
    pub grpc: String,
    pub pid: u32,
    pub started: u64,
}

impl GatewayNode {
    pub fn process(&self) -> Process {
        Process { pid: self.pid, started: self.started }
    }
}

impl ControlNode {
    pub fn process(&self) -> Process {
        Process { pid: self.pid, started: self.started }
    }
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    let home = Home::in_target();
    match &args.command {
        Verb::Up { shape, fresh, binary } => {
            let binary = match binary {
                Some(binary) => fs::canonicalize(binary).with_context(|| format!("no {}", binary.display()))?,
                None => command::build("tidegate")?,
            };
            let cluster = home.up(shape, *fresh, &binary)?;
            home.show(&cluster);
            Ok(())
        }
        Verb::Down => home.down(),
        Verb::Status => {
            let cluster = home.load()?;
            home.show(&cluster);
            Ok(())
        }
        Verb::Restart { name } => home.restart(name),
    }
}

/// Where one cluster has its files.
pub struct Home {
    folder: PathBuf,
    json: PathBuf,
    /// Of the registry and the store, so that clusters of several homes do not meet.
    name: String,
    /// `None`: the servers that everything on this machine shares.
    servers: Option<servers::Home>,
    own_topics: bool,
    /// Nodes keep the history in Kafka and make tasks for users who are away.
    with_tasks: bool,
    /// The first gateway runs in this group, so that a packet filter can tell its traffic from the others'.
    group_of_first_gateway: Option<u32>,
}

impl Home {
    pub fn in_target() -> Home {
        Home::new(target().join("cluster"), target().join("cluster.json"), "local")
    }

    /// For a test that does to nodes what others must not feel.
    pub fn in_folder(folder: &Path, name: &str) -> Home {
        Home::new(folder.to_owned(), folder.join("cluster.json"), name)
    }

    fn new(folder: PathBuf, json: PathBuf, name: &str) -> Home {
        let name = name.to_owned();
        Home { folder, json, name, servers: None, own_topics: false, with_tasks: false, group_of_first_gateway: None }
    }

    /// On servers of its own, for runs that break them.
    pub fn with_servers(self, servers: servers::Home) -> Home {
        Home { servers: Some(servers), ..self }
    }

    /// With topics whose names begin with the cluster's, beside other clusters on the same Kafka.
    pub fn with_topics_of_its_own(self) -> Home {
        Home { own_topics: true, ..self }
    }

    /// With all that nodes tell the bus beside the upstream topic, which costs as much again as the messages.
    pub fn with_tasks(self) -> Home {
        Home { with_tasks: true, ..self }
    }

    pub fn with_group_of_first_gateway(self, group: u32) -> Home {
        Home { group_of_first_gateway: Some(group), ..self }
    }

    /// The file that programs read.
    pub fn json(&self) -> &Path {
        &self.json
    }

    pub fn servers(&self) -> anyhow::Result<servers::Home> {
        self.servers.clone().map_or_else(servers::Home::find, Ok)
    }

    /// What a FLUSHALL does, to this cluster alone.
    pub fn forget_cache(&self, cluster: &Cluster) -> anyhow::Result<()> {
        if !cluster.redis.is_empty() {
            // As in deploy/local/control.toml.
            servers::redis_forget(&cluster.redis, &format!("{}:", self.name))?;
        }
        Ok(())
    }

    /// Removes what a cluster that does not run any more has left in servers that others use.
    pub fn erase(&self, cluster: &Cluster) -> anyhow::Result<()> {
        servers::sql(&self.servers()?, &format!("drop schema if exists {:?} cascade", self.name))?;
        self.forget_cache(cluster)?;
        if self.own_topics { servers::delete_topics(&cluster.kafka, &self.name) } else { Ok(()) }
    }

    pub fn up(&self, shape: &Shape, fresh: bool, binary: &Path) -> anyhow::Result<Cluster> {
        if let Ok(before) = self.load()
            && before.is_alive()
        {
            bail!("a cluster runs here already: `cargo xtask cluster down` first, or `restart` one of its nodes");
        }
        let folder = &self.folder;
        fs::create_dir_all(folder.join("data")).with_context(|| format!("cannot make {}", folder.display()))?;
        let place = self.servers()?;
        if fresh {
            for server in [Server::Kafka, Server::Postgres, Server::Redis, Server::Etcd] {
                servers::down_in(&place, server, true)?;
            }
        }
        let etcd = servers::up_in(&place, Server::Etcd, 1)?;
        let mut cluster = Cluster {
            kafka: servers::up_in(&place, Server::Kafka, shape.brokers)?,
            postgres: servers::up_in(&place, Server::Postgres, 1)?,
            redis: if shape.without_redis { String::new() } else { servers::up_in(&place, Server::Redis, 1)? },
            etcd,
            binary: binary.to_owned(),
            ..Cluster::default()
        };
        let ports = free_ports(2 * (shape.controls + shape.gateways))?;
        let (control_ports, gateway_ports) = ports.split_at(2 * shape.controls);
        let at = |port: u16| format!("127.0.0.1:{port}");
        for (index, ports) in control_ports.chunks(2).enumerate() {
            let (name, http, grpc) = (format!("control-{}", index + 1), at(ports[0]), at(ports[1]));
            cluster.controls.push(ControlNode { name, http, grpc, pid: 0, started: 0 });
        }
        for (index, ports) in gateway_ports.chunks(2).enumerate() {
            let (name, client, admin) = (format!("gateway-{}", index + 1), at(ports[0]), at(ports[1]));
            cluster.gateways.push(GatewayNode { name, client, admin, pid: 0, started: 0 });
        }
        self.configure(&cluster, shape)?;
        // Gateways read the development key, which the first control node makes.
        let controls: Vec<String> = cluster.controls.iter().map(|node| node.name.clone()).collect();
        let gateways: Vec<String> = cluster.gateways.iter().map(|node| node.name.clone()).collect();
        for names in [controls, gateways] {
            for name in &names {
                self.start(&mut cluster, name)?;
                // Whoever fails later leaves behind what `down` can stop.
                self.save(&cluster)?;
            }
            for name in &names {
                self.wait_ready(&cluster, name)?;
            }
        }
        Ok(cluster)
    }

    pub fn down(&self) -> anyhow::Result<()> {
        let Ok(cluster) = self.load() else {
            println!("no cluster");
            return Ok(());
        };
        // Gateways first: their clients are told while control still serves them.
        let gateways: Vec<Process> = cluster.gateways.iter().map(GatewayNode::process).collect();
        let controls: Vec<Process> = cluster.controls.iter().map(ControlNode::process).collect();
        for processes in [gateways, controls] {
            std::thread::scope(|scope| {
                let stops: Vec<_> =
                    processes.iter().map(|process| scope.spawn(|| process.stop(Farewell::Terminate))).collect();
                stops.into_iter().try_for_each(|stop| stop.join().unwrap_or_else(|_| bail!("a thread panicked")))
            })?;
        }
        fs::remove_file(&self.json).with_context(|| format!("cannot remove {}", self.json.display()))
    }

    pub fn restart(&self, name: &str) -> anyhow::Result<()> {
        let mut cluster = self.load()?;
        let Some(process) = cluster.process(name) else {
            bail!("no node `{name}`; there are {}", cluster.names().join(", "));
        };
        process.stop(Farewell::Terminate)?;
        // The kernel closes what a ring held after its process has gone.
        cluster.addresses(name).iter().for_each(|address| wait_free(address));
        self.start(&mut cluster, name)?;
        self.save(&cluster)?;
        self.wait_ready(&cluster, name)
    }

    pub fn load(&self) -> anyhow::Result<Cluster> {
        let text = fs::read_to_string(&self.json).context("no cluster runs: `cargo xtask cluster up` starts one")?;
        serde_json::from_str(&text).with_context(|| format!("{} is damaged", self.json.display()))
    }

    fn save(&self, cluster: &Cluster) -> anyhow::Result<()> {
        let new = self.json.with_extension("json.new");
        fs::write(&new, serde_json::to_string_pretty(cluster)?)?;
        fs::rename(&new, &self.json).with_context(|| format!("cannot write {}", self.json.display()))
    }

    /// Configuration files of all nodes, from those in `deploy/local/`.
    fn configure(&self, cluster: &Cluster, shape: &Shape) -> anyhow::Result<()> {
        let registry = match shape.registry.as_str() {
            "redis" => cluster.redis.clone(),
            _ => cluster.etcd.clone(),
        };
        let quoted = |names: Vec<String>| names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
        let pages: Vec<&str> = cluster.controls.iter().filter_map(|node| node.http.split(':').nth(1)).collect();
        let common = [
            ("@CLUSTER@", self.name.clone()),
            ("@DATA@", self.folder.join("data").display().to_string()),
            ("@REGISTRY_KIND@", shape.registry.clone()),
            ("@REGISTRY@", registry),
            ("@KAFKA@", cluster.kafka.clone()),
            ("@POSTGRES@", cluster.postgres.clone()),
            ("@REDIS@", cluster.redis.clone()),
            ("@TASKS@", self.with_tasks.to_string()),
            ("@ROLES@", r#""api", "logic", "task""#.to_owned()),
            ("@PAGE_PORTS@", pages.join(", ")),
            ("@CONTROLS@", quoted(cluster.controls.iter().map(|node| format!("http://{}", node.grpc)).collect())),
        ];
        let port = |address: &str| address.split(':').nth(1).unwrap_or_default().to_owned();
        for (index, node) in cluster.controls.iter().enumerate() {
            let gateway = cluster.gateways.get(index % cluster.gateways.len().max(1));
            let own = [
                ("@NODE@", node.name.clone()),
                ("@HTTP@", node.http.clone()),
                ("@GRPC@", node.grpc.clone()),
                ("@CLIENT_PORT@", gateway.map_or_else(|| "8080".to_owned(), |gateway| port(&gateway.client))),
            ];
            self.fill("control.toml", &node.name, common.iter().chain(&own), shape)?;
        }
        for node in &cluster.gateways {
            let own =
                [("@NODE@", node.name.clone()), ("@CLIENT@", node.client.clone()), ("@ADMIN@", node.admin.clone())];
            self.fill("gateway.toml", &node.name, common.iter().chain(&own), shape)?;
        }
        Ok(())
    }

    fn fill<'a>(
        &self,
        template: &str,
        name: &str,
        values: impl Iterator<Item = &'a (&'a str, String)>,
        shape: &Shape,
    ) -> anyhow::Result<()> {
        let mut text = fs::read_to_string(root().join("deploy/local").join(template))?;
        if shape.without_redis {
            text = without_section(&text, "[control.cache]");
        }
        for (placeholder, value) in values {
            text = text.replace(placeholder, value);
        }
        if self.own_topics && template == "control.toml" {
            text += &topics(&self.name);
        }
        Ok(fs::write(self.config(name), text)?)
    }

    pub fn config(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.toml"))
    }

    fn log(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.log"))
    }

    fn start(&self, cluster: &mut Cluster, name: &str) -> anyhow::Result<()> {
        let role = if cluster.controls.iter().any(|node| node.name == name) { "control" } else { "gateway" };
        let mut command = Command::new(&cluster.binary);
        command.arg(role).arg("--config").arg(self.config(name)).current_dir(&self.folder);
        if let Some(group) = self.group_of_first_gateway.filter(|_| name == FIRST_GATEWAY) {
            use std::os::unix::process::CommandExt as _;
            command.gid(group);
        }
        let process = Process::spawn(&mut command, &self.log(name))?;
        for node in cluster.controls.iter_mut().filter(|node| node.name == name) {
            (node.pid, node.started) = (process.pid, process.started);
        }
        for node in cluster.gateways.iter_mut().filter(|node| node.name == name) {
            (node.pid, node.started) = (process.pid, process.started);
        }
        Ok(())
    }

    pub fn wait_ready(&self, cluster: &Cluster, name: &str) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_TIMEOUT;
        let Some((address, process)) = cluster.admin(name).zip(cluster.process(name)) else { bail!("no node {name}") };
        while !answers_ready(&address) {
            if !process.is_alive() || Instant::now() > deadline {
                let why = if process.is_alive() { "is not ready" } else { "ended" };
                bail!("{name} {why}; see {}", self.log(name).display());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn show(&self, cluster: &Cluster) {
        for node in &cluster.controls {
            let state = if node.process().is_alive() { "runs" } else { "ended" };
            println!("{:12} {state:6} http://{}  grpc {}  pid {}", node.name, node.http, node.grpc, node.pid);
        }
        for node in &cluster.gateways {
            let state = if node.process().is_alive() { "runs" } else { "ended" };
            println!(
                "{:12} {state:6} ws://{}/api/v1/ws  admin {}  pid {}",
                node.name, node.client, node.admin, node.pid
            );
        }
        println!("{:12} {}", "cluster.json", self.json.display());
        println!("{:12} {}", "logs", self.folder.display());
    }
}

impl Cluster {
    pub fn names(&self) -> Vec<String> {
        let controls = self.controls.iter().map(|node| node.name.clone());
        controls.chain(self.gateways.iter().map(|node| node.name.clone())).collect()
    }

    pub fn process(&self, name: &str) -> Option<Process> {
        let control = self.controls.iter().find(|node| node.name == name).map(ControlNode::process);
        control.or_else(|| self.gateways.iter().find(|node| node.name == name).map(GatewayNode::process))
    }

    /// Where a node listens.
    fn addresses(&self, name: &str) -> Vec<String> {
        let controls = self.controls.iter().filter(|node| node.name == name);
        let gateways = self.gateways.iter().filter(|node| node.name == name);
        let of_controls = controls.flat_map(|node| [node.http.clone(), node.grpc.clone()]);
        of_controls.chain(gateways.flat_map(|node| [node.client.clone(), node.admin.clone()])).collect()
    }

    fn admin(&self, name: &str) -> Option<String> {
        let control = self.controls.iter().find(|node| node.name == name).map(|node| node.http.clone());
        control.or_else(|| self.gateways.iter().find(|node| node.name == name).map(|node| node.admin.clone()))
    }

    fn is_alive(&self) -> bool {
        self.names().iter().any(|name| self.process(name).is_some_and(|process| process.is_alive()))
    }
}

/// Names of topics that begin with a cluster's name.
fn topics(cluster: &str) -> String {
    let names = [
        ("upstream", "upstream"),
        ("downstream", "downstream-{gateway_id}"),
        ("task", "task"),
        ("user_state", "user-state"),
        ("dead_letter", "dead-letter"),
        ("history", "history"),
    ];
    let section = |(topic, name)| format!("\n[control.bus.topics.{topic}]\nname = \"{cluster}-{name}\"\n");
    names.into_iter().map(section).collect()
}

/// A text without one of its sections.
fn without_section(text: &str, section: &str) -> String {
    let mut inside = false;
    let kept = text.lines().filter(|line| {
        if line.starts_with('[') {
            inside = line.starts_with(section);
        }
        !inside
    });
    kept.map(|line| format!("{line}\n")).collect()
}

/// Returns early when nobody listens there any more; the node itself says so if somebody still does later.
fn wait_free(address: &str) {
    let deadline = Instant::now() + FREE_TIMEOUT;
    while TcpListener::bind(address).is_err() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether `/readyz` says 200.
fn answers_ready(address: &str) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut socket = TcpStream::connect(address)?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        write!(socket, "GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut head = [0; 12];
        socket.read_exact(&mut head)?;
        Ok(&head == b"HTTP/1.1 200")
    };
    ask().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_left_out_with_all_its_lines() {
        let text = "[a]\nx = 1\n[b]\ny = 2\nz = 3\n[c]\n";
        assert_eq!(without_section(text, "[b]"), "[a]\nx = 1\n[c]\n");
    }
}
