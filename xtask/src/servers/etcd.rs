//! etcd.

use std::process::Command;

use anyhow::bail;

use super::install::{self, Program};
use super::state::Home;
use super::{Place, Recipe, ask};

pub struct Etcd {
    server: Program,
}

impl Etcd {
    pub fn install(home: &Home) -> anyhow::Result<Etcd> {
        Ok(Etcd { server: install::program(home, "etcd", &["etcd-server"])? })
    }
}

impl Recipe for Etcd {
    /// Clients and peers.
    fn ports_per_node(&self) -> usize {
        2
    }

    /// The member's peer address is part of its data.
    fn data_belongs_to_ports(&self) -> bool {
        true
    }

    fn command(&self, place: &Place, node: usize) -> anyhow::Result<Command> {
        let [client, peer] = [0, 1].map(|at| format!("http://127.0.0.1:{}", place.ports[at]));
        let mut command = self.server.command();
        command.arg("--data-dir").arg(place.node(node).join("data"));
        command.args(["--name", "n1", "--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &format!("n1={peer}"), "--logger", "zap"]);
        command.args(["--quota-backend-bytes", "268435456", "--auto-compaction-retention", "1h"]);
        Ok(command)
    }

    fn answers(&self, place: &Place) -> anyhow::Result<()> {
        let health = ask::http(place.ports[0], "/health")?;
        let health: serde_json::Value = serde_json::from_str(&health)?;
        if health["health"] != "true" {
            bail!("etcd says {health}");
        }
        Ok(())
    }

    fn url(&self, place: &Place) -> String {
        format!("http://127.0.0.1:{}", place.ports[0])
    }
}
