//! Kafka in KRaft mode: brokers that are their own controllers, from the jars of Maven Central.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::bail;

use super::install::{self, output};
use super::kafka_secure::{self, Access};
use super::{Place, Recipe, ask, java};

pub(super) const PINS: &str = include_str!("kafka.sha256");
const CONFIG: &str = include_str!("../../../deploy/local/kafka.properties");
const LOGGING: &str = include_str!("../../../deploy/local/log4j2.properties");
/// The same for every broker of ours; base 64 of sixteen bytes.
const CLUSTER_ID: &str = "dGlkZWdhdGUtbG9jYWwtMQ";

pub struct Kafka {
    java: PathBuf,
    jars: PathBuf,
    brokers: usize,
    /// One broker, with a listener that asks who comes, and rights.
    secure: bool,
}

impl Kafka {
    pub fn install(brokers: usize) -> anyhow::Result<Kafka> {
        if !matches!(brokers, 1 | 3) {
            bail!("Kafka runs with 1 broker or with 3, not with {brokers}");
        }
        let jars = install::jars("kafka", &install::pins(PINS)?)?;
        Ok(Kafka { java: java::find()?, jars, brokers, secure: false })
    }

    pub fn install_secure() -> anyhow::Result<Kafka> {
        Ok(Kafka { secure: true, ..Kafka::install(1)? })
    }

    fn jvm(&self, place: &Place, heap: &str) -> Command {
        let mut command = java::command(&self.java, heap, &format!("{}/*", self.jars.display()));
        command.arg(format!("-Dlog4j2.configurationFile={}/log4j2.properties", place.data.display()));
        command
    }

    fn properties(&self, place: &Place, node: usize) -> anyhow::Result<String> {
        let [client, controller] = [place.ports[node * 2], place.ports[node * 2 + 1]];
        let voters: Vec<String> =
            (0..self.brokers).map(|node| format!("{}@127.0.0.1:{}", node + 1, place.ports[node * 2 + 1])).collect();
        // What three brokers keep must outlive one of them, and what one broker keeps has no second place.
        let (replicas, in_sync) = if self.brokers == 1 { (1, 1) } else { (3, 2) };
        let mut text = CONFIG.to_owned();
        for (key, value) in [
            ("node.id", (node + 1).to_string()),
            ("controller.quorum.voters", voters.join(",")),
            ("listeners", format!("PLAINTEXT://127.0.0.1:{client},CONTROLLER://127.0.0.1:{controller}")),
            ("advertised.listeners", format!("PLAINTEXT://127.0.0.1:{client}")),
            ("log.dirs", place.node(node).join("data").display().to_string()),
            ("default.replication.factor", replicas.to_string()),
            ("min.insync.replicas", in_sync.to_string()),
            ("offsets.topic.replication.factor", replicas.to_string()),
            ("transaction.state.log.replication.factor", replicas.to_string()),
            ("transaction.state.log.min.isr", in_sync.to_string()),
            ("share.coordinator.state.topic.replication.factor", replicas.to_string()),
            ("share.coordinator.state.topic.min.isr", in_sync.to_string()),
        ] {
            text += &format!("{key}={value}\n");
        }
        if self.secure {
            text += &kafka_secure::properties(&Access::of(place), client, controller, place.ports[2])?;
        }
        Ok(text)
    }
}

impl Recipe for Kafka {
    fn nodes(&self) -> usize {
        self.brokers
    }

    /// Clients and controllers, and those who say who they are.
    fn ports_per_node(&self) -> usize {
        if self.secure { 3 } else { 2 }
    }

    fn prepare(&self, place: &Place) -> anyhow::Result<()> {
        fs::create_dir_all(&place.data)?;
        fs::write(place.data.join("log4j2.properties"), LOGGING)?;
        if self.secure {
            let tool = self.jvm(place, "-Xmx128m");
            kafka_secure::prepare(&Access::of(place), &tool, place.ports[2])?;
        }
        for node in 0..self.brokers {
            let folder = place.node(node);
            fs::create_dir_all(&folder)?;
            let properties = folder.join("server.properties");
            fs::write(&properties, self.properties(place, node)?)?;
            if !folder.join("data/meta.properties").exists() {
                let mut format = self.jvm(place, "-Xmx128m");
                format.args(["kafka.tools.StorageTool", "format", "--cluster-id", CLUSTER_ID, "--config"]);
                format.arg(&properties);
                if self.secure {
                    format.args(kafka_secure::scram(&Access::of(place))?);
                }
                output(&mut format)?;
            }
        }
        Ok(())
    }

    fn command(&self, place: &Place, node: usize) -> anyhow::Result<Command> {
        let mut command = self.jvm(place, "-Xmx384m");
        command.arg("kafka.Kafka").arg(place.node(node).join("server.properties"));
        Ok(command)
    }

    fn answers(&self, place: &Place) -> anyhow::Result<()> {
        for node in 0..self.brokers {
            let known = ask::kafka_brokers(place.ports[node * 2])?;
            if known != self.brokers {
                bail!("broker {} knows of {known} brokers, not {}", node + 1, self.brokers);
            }
        }
        Ok(())
    }

    fn url(&self, place: &Place) -> String {
        if self.secure {
            return kafka_secure::url(&Access::of(place), place.ports[2]);
        }
        let nodes = (0..self.brokers).map(|node| format!("127.0.0.1:{}", place.ports[node * 2]));
        nodes.collect::<Vec<_>>().join(",")
    }
}
