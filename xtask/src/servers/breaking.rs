//! What fault runs do to servers of their own, and what tests tidy up in those that all share.

use std::process::Command;

use anyhow::{Context as _, bail};

use super::install::{self, output};
use super::state::Running;
use super::{Home, Place, Process, Server, Starting, ask, java, kafka, log, postgres};

/// `kill -9` of a server's processes, or of one of them. It stays dead until [`revive_in`].
pub fn kill_in(home: &Home, server: Server, node: Option<usize>) -> anyhow::Result<Vec<u32>> {
    let running = running(home, server)?;
    let victims: Vec<Process> = match node {
        Some(node) => running.processes.get(node).copied().into_iter().collect(),
        None => running.processes,
    };
    for victim in &victims {
        if !victim.is_alive() {
            bail!("process {} of {} had ended before it was killed", victim.pid, server.name());
        }
        victim.kill()?;
    }
    if victims.is_empty() {
        bail!("{} does not run", server.name());
    }
    Ok(victims.iter().map(|victim| victim.pid).collect())
}

/// A server's processes, as they were started.
pub fn processes_in(home: &Home, server: Server) -> anyhow::Result<Vec<Process>> {
    let running = running(home, server)?;
    if running.processes.is_empty() {
        bail!("{} does not run", server.name());
    }
    Ok(running.processes)
}

/// Starts those of a server's processes that have ended, with their data and ports; the others go on.
pub fn revive_in(home: &Home, server: Server) -> anyhow::Result<()> {
    let _lock = home.lock()?;
    let nodes = running(home, server)?.processes.len().max(1);
    let recipe = server.recipe(home, nodes)?;
    let starting = Starting { home, server, recipe: &*recipe };
    starting.revive().with_context(|| format!("{} could not be started again", server.name()))
}

impl Starting<'_> {
    fn revive(&self) -> anyhow::Result<()> {
        let mut state = self.home.load()?;
        let name = self.server.name();
        let mut running = state.servers.get(name).cloned().context("it was never started")?;
        let place = Place { data: running.data.clone(), ports: running.ports.clone() };
        for node in 0..running.processes.len() {
            if running.processes[node].is_alive() {
                continue;
            }
            let mut command = self.recipe.command(&place, node)?;
            running.processes[node] = Process::spawn(&mut command, &log(&place, node))?;
            state.servers.insert(name.to_owned(), running.clone());
            self.home.save(&state)?;
        }
        self.wait(&place, &running)?;
        self.recipe.settle(&place)
    }
}

/// Deletes the keys that begin so, of a server that others use as well. Returns how many there were.
pub fn redis_forget(url: &str, prefix: &str) -> anyhow::Result<u64> {
    const SCRIPT: &str = "local at, gone = '0', 0 repeat local page = redis.call('SCAN', at, 'MATCH', ARGV[1], 'COUNT', 10000) \
        at = page[1] for _, key in ipairs(page[2]) do redis.call('UNLINK', key) gone = gone + 1 end until at == '0' return gone";
    let port = url.rsplit(':').next().and_then(|port| port.parse().ok()).context("a URL without a port")?;
    Ok(ask::redis(port, &["EVAL", SCRIPT, "0", &format!("{prefix}*")])?.parse()?)
}

/// `FLUSHALL`.
pub fn redis_flush(home: &Home) -> anyhow::Result<()> {
    let port = running(home, Server::Redis)?.ports.first().copied().context("Redis has no port")?;
    match ask::redis(port, &["FLUSHALL"])?.as_str() {
        "OK" => Ok(()),
        said => bail!("Redis says {said:?} to FLUSHALL"),
    }
}

/// What PostgreSQL says to a statement, in the database that everything is in.
pub fn sql(home: &Home, statement: &str) -> anyhow::Result<String> {
    let running = running(home, Server::Postgres)?;
    let place = Place { data: running.data, ports: running.ports };
    postgres::Postgres::install(home)?.ask(&place, "tidegate", statement)
}

/// One of Kafka's own command-line programs, by the name of its class.
pub fn kafka_tool(class: &str) -> anyhow::Result<Command> {
    let jars = install::jars("kafka", &install::pins(kafka::PINS)?)?;
    let mut command = java::command(&java::find()?, "-Xmx256m", &format!("{}/*", jars.display()));
    command.arg(class);
    Ok(command)
}

/// Deletes the topics whose names begin so.
pub fn delete_topics(brokers: &str, prefix: &str) -> anyhow::Result<()> {
    let mut delete = kafka_tool("org.apache.kafka.tools.TopicCommand")?;
    delete.args(["--bootstrap-server", brokers, "--delete", "--topic", &format!("{prefix}.*")]);
    output(&mut delete).map(drop)
}

fn running(home: &Home, server: Server) -> anyhow::Result<Running> {
    let running = home.load()?.servers.get(server.name()).cloned();
    running.with_context(|| format!("{} does not run", server.name()))
}
