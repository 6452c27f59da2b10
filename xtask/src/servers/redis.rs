//! Redis, alone or as a cluster of three masters.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use super::install::{self, Program};
use super::state::Home;
use super::{Place, Recipe, ask};

const CONFIG: &str = include_str!("../../../deploy/local/redis.conf");
const CLUSTER_CONFIG: &str = include_str!("../../../deploy/local/redis-cluster.conf");
const MASTERS: usize = 3;
const SLOTS: usize = 16_384;
const CLUSTER_TIMEOUT: Duration = Duration::from_secs(60);

/// The program alone, for a test that has settings of its own.
pub fn redis_server(home: &Home) -> anyhow::Result<Command> {
    Ok(Redis::install(home, false)?.server.command())
}

pub struct Redis {
    server: Program,
    cluster: bool,
}

impl Redis {
    pub fn install(home: &Home, cluster: bool) -> anyhow::Result<Redis> {
        Ok(Redis { server: install::program(home, "redis-server", &["redis-server", "redis-tools"])?, cluster })
    }

    fn client_port(&self, place: &Place, node: usize) -> u16 {
        place.ports[node * self.ports_per_node()]
    }

    /// Gives each node a third of the slots and lets them meet.
    fn meet(&self, place: &Place) -> anyhow::Result<()> {
        for node in 0..MASTERS {
            let (first, last) = (SLOTS * node / MASTERS, SLOTS * (node + 1) / MASTERS - 1);
            let port = self.client_port(place, node);
            ask::redis(port, &["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()])?;
            // Two nodes that both begin with config epoch 0 would have to settle it among themselves, which takes a while.
            ask::redis(port, &["CLUSTER", "SET-CONFIG-EPOCH", &(node + 1).to_string()])?;
        }
        let (port, bus) = (self.client_port(place, 0).to_string(), place.ports[1].to_string());
        for node in 1..MASTERS {
            ask::redis(self.client_port(place, node), &["CLUSTER", "MEET", "127.0.0.1", &port, &bus])?;
        }
        Ok(())
    }

    fn is_formed(&self, place: &Place) -> anyhow::Result<bool> {
        for node in 0..MASTERS {
            let info = ask::redis(self.client_port(place, node), &["CLUSTER", "INFO"])?;
            let says = |line: &str| info.lines().any(|said| said.trim() == line);
            if !says("cluster_state:ok") || !says("cluster_known_nodes:3") || !says("cluster_slots_ok:16384") {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Recipe for Redis {
    fn nodes(&self) -> usize {
        if self.cluster { MASTERS } else { 1 }
    }

    /// A node of a cluster speaks to the others on a port of its own.
    fn ports_per_node(&self) -> usize {
        if self.cluster { 2 } else { 1 }
    }

    /// The nodes of a cluster find each other by the ports that they wrote down.
    fn data_belongs_to_ports(&self) -> bool {
        self.cluster
    }

    fn prepare(&self, place: &Place) -> anyhow::Result<()> {
        for node in 0..self.nodes() {
            let mut config = format!("{CONFIG}port {}\n", self.client_port(place, node));
            if self.cluster {
                config += CLUSTER_CONFIG;
                config += &format!("cluster-port {}\n", place.ports[node * 2 + 1]);
            }
            fs::create_dir_all(place.node(node))?;
            fs::write(place.node(node).join("redis.conf"), config)?;
        }
        Ok(())
    }

    fn command(&self, place: &Place, node: usize) -> anyhow::Result<Command> {
        let mut command = self.server.command();
        command.arg(place.node(node).join("redis.conf")).current_dir(place.node(node));
        Ok(command)
    }

    fn answers(&self, place: &Place) -> anyhow::Result<()> {
        for node in 0..self.nodes() {
            let answer = ask::redis(self.client_port(place, node), &["PING"])?;
            if answer != "PONG" {
                bail!("Redis answers {answer:?}");
            }
        }
        Ok(())
    }

    fn settle(&self, place: &Place) -> anyhow::Result<()> {
        if !self.cluster {
            return Ok(());
        }
        let info = ask::redis(self.client_port(place, 0), &["CLUSTER", "INFO"])?;
        let slots = info.lines().find_map(|line| line.trim().strip_prefix("cluster_slots_assigned:"));
        if slots.context("no cluster")? == "0" {
            self.meet(place)?;
        }
        let deadline = Instant::now() + CLUSTER_TIMEOUT;
        while !self.is_formed(place)? {
            if Instant::now() > deadline {
                bail!("the nodes do not become a cluster within {CLUSTER_TIMEOUT:?}; see {}", place.data.display());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn url(&self, place: &Place) -> String {
        let nodes = (0..self.nodes()).map(|node| format!("redis://127.0.0.1:{}", self.client_port(place, node)));
        nodes.collect::<Vec<_>>().join(",")
    }
}
