//! OpenSearch. Maven Central holds its jars, but no distribution that can be started, so a class of ours starts the node.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::bail;

use super::install;
use super::{Place, Recipe, ask, java};

const PINS: &str = include_str!("opensearch.sha256");
const STARTER: &str = include_str!("../../../deploy/local/OpenSearchNode.java");
const LOGGING: &str = include_str!("../../../deploy/local/log4j2.properties");

pub struct OpenSearch {
    java: PathBuf,
    jars: PathBuf,
}

impl OpenSearch {
    pub fn install() -> anyhow::Result<OpenSearch> {
        Ok(OpenSearch { java: java::find()?, jars: install::jars("opensearch", &install::pins(PINS)?)? })
    }
}

impl Recipe for OpenSearch {
    /// HTTP and transport.
    fn ports_per_node(&self) -> usize {
        2
    }

    fn prepare(&self, place: &Place) -> anyhow::Result<()> {
        let home = place.node(0);
        for folder in ["config", "data", "logs", "modules", "plugins"] {
            fs::create_dir_all(home.join(folder))?;
        }
        fs::write(home.join("config/log4j2.properties"), LOGGING)?;
        fs::write(home.join("OpenSearchNode.java"), STARTER)?;
        Ok(())
    }

    fn command(&self, place: &Place, node: usize) -> anyhow::Result<Command> {
        let home = place.node(node);
        let mut command = java::command(&self.java, "-Xmx512m", &format!("{}/*", self.jars.display()));
        command.arg(format!("-Dlog4j2.configurationFile={}", home.join("config/log4j2.properties").display()));
        command.arg(home.join("OpenSearchNode.java")).arg(&home);
        command.args(place.ports.iter().map(u16::to_string)).current_dir(&home);
        Ok(command)
    }

    fn answers(&self, place: &Place) -> anyhow::Result<()> {
        let health = ask::http(place.ports[0], "/_cluster/health")?;
        let health: serde_json::Value = serde_json::from_str(&health)?;
        match health["status"].as_str() {
            Some("green" | "yellow") => Ok(()),
            _ => bail!("OpenSearch says {health}"),
        }
    }

    fn url(&self, place: &Place) -> String {
        format!("http://127.0.0.1:{}", place.ports[0])
    }
}
