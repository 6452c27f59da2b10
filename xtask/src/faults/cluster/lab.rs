//! The cluster that is broken, and its end however the run ends.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use xtask::cluster::{Cluster, Home, Shape};
use xtask::servers::{self, Server};

use super::super::Args;
use super::network;
use crate::command;

/// Told apart from the others by the packet filter; no group of a system.
pub const GATEWAY_GROUP: u32 = 64_733;
const CLIENTS: u32 = 200;
const RATE: f64 = 1_000.0;
const SERVERS: [Server; 4] = [Server::Kafka, Server::Postgres, Server::Redis, Server::Etcd];
/// What a shell expects of a program that SIGINT ended.
const ABORTED: i32 = 130;

pub struct Lab {
    pub home: Arc<Home>,
    pub servers: servers::Home,
    pub shape: Shape,
    pub clients: u32,
    pub rate: f64,
    /// Seconds of load before and after each fault.
    pub between: f64,
    pub audit: bool,
    /// The upstream topic has grown: it cannot again.
    pub grown: bool,
    binary: PathBuf,
}

/// Of the cluster's files.
pub fn folder() -> PathBuf {
    command::target().join("faults")
}

impl Lab {
    pub fn build(args: &Args) -> anyhow::Result<Lab> {
        let binary = match &args.binary {
            Some(binary) => std::fs::canonicalize(binary).with_context(|| format!("no {}", binary.display()))?,
            None => command::build("tidegate")?,
        };
        let shape = Shape { brokers: args.brokers, registry: args.registry.clone(), ..Shape::default() };
        let place = servers::Home::find()?.path().join("faults");
        let servers = servers::Home::at(place)?;
        let mut home = Home::in_folder(&folder(), "faults").with_servers(servers.clone());
        if rustix::process::geteuid().is_root() {
            home = home.with_group_of_first_gateway(GATEWAY_GROUP);
        }
        let mut lab = Lab {
            home: Arc::new(home),
            servers,
            shape,
            clients: args.clients.unwrap_or(CLIENTS),
            rate: args.rate.unwrap_or(RATE),
            between: args.between,
            audit: args.audit,
            grown: false,
            binary,
        };
        lab.tidy_at_the_end()?;
        lab.begin_anew()?;
        Ok(lab)
    }

    /// A cluster without a past.
    pub fn begin_anew(&mut self) -> anyhow::Result<()> {
        if self.home.load().is_ok() {
            self.home.down()?;
        }
        self.home.up(&self.shape, true, &self.binary)?;
        self.grown = false;
        Ok(())
    }

    pub fn cluster(&self) -> anyhow::Result<Cluster> {
        self.home.load()
    }

    pub fn binary(&self) -> &PathBuf {
        &self.binary
    }

    /// A place in a list of so many. Rounds say what they did: nothing has to be drawn again.
    pub fn any(&self, count: usize) -> usize {
        RandomState::new().build_hasher().finish() as usize % count.max(1)
    }

    /// Whatever a fault left dead lives again.
    pub fn mend(&self) -> anyhow::Result<()> {
        network::clear();
        for server in SERVERS {
            servers::revive_in(&self.servers, server)?;
        }
        let cluster = self.cluster()?;
        for name in cluster.names() {
            let Some(process) = cluster.process(&name) else { continue };
            process.thaw()?;
            if !process.is_alive() {
                self.home.restart(&name)?;
            }
        }
        Ok(())
    }

    /// Nodes and servers end; what they stored goes too if it is not to be looked at.
    pub fn take_down(self, wipe: bool) -> anyhow::Result<()> {
        end(&self.home, &self.servers, wipe)
    }

    /// Ctrl-C and a panic leave no rule of the packet filter behind, and Ctrl-C no process.
    fn tidy_at_the_end(&self) -> anyhow::Result<()> {
        network::prepare(&self.servers);
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            network::clear();
            hook(panic);
        }));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (home, servers) = (Arc::clone(&self.home), self.servers.clone());
        let listen = move || {
            if runtime.block_on(tokio::signal::ctrl_c()).is_err() {
                return;
            }
            eprintln!("\ninterrupted");
            network::clear();
            if let Err(error) = end(&home, &servers, false) {
                eprintln!("xtask: {error:#}");
            }
            std::process::exit(ABORTED);
        };
        std::thread::Builder::new().name("signals".to_owned()).spawn(listen).context("no thread for signals")?;
        Ok(())
    }
}

fn end(home: &Home, servers: &servers::Home, wipe: bool) -> anyhow::Result<()> {
    if let Ok(cluster) = home.load() {
        for name in cluster.names() {
            // One that stands still would not hear that it is to end.
            cluster.process(&name).map_or(Ok(()), |process| process.thaw())?;
        }
        home.down()?;
    }
    SERVERS.into_iter().try_for_each(|server| servers::down_in(servers, server, wipe))
}
