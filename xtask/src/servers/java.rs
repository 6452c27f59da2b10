//! The Java that Kafka and OpenSearch run on.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, bail};

use super::install::{in_path, output};

/// Kafka 4 needs it for brokers.
const OLDEST: u32 = 17;

pub fn find() -> anyhow::Result<PathBuf> {
    let home = std::env::var_os("JAVA_HOME").map(|home| PathBuf::from(home).join("bin/java"));
    let java = home.filter(|java| java.is_file()).or_else(|| in_path("java"));
    let java = java.with_context(|| format!("needs a JDK, {OLDEST} or newer: none in JAVA_HOME or PATH"))?;
    let said = output(Command::new(&java).arg("--version"))?;
    match version(&said) {
        Some(version) if version >= OLDEST => Ok(java),
        _ => {
            bail!("needs a JDK, {OLDEST} or newer; {} says {}", java.display(), said.lines().next().unwrap_or_default())
        }
    }
}

/// A JVM that does not take more than it needs: these servers share a small machine with what they are there for. The
/// optimising compiler would take a core for its first minutes, and most runs are shorter.
pub fn command(java: &PathBuf, heap: &str, class_path: &str) -> Command {
    let mut command = Command::new(java);
    command.args(["-Xms64m", heap, "-XX:+UseSerialGC", "-XX:MaxMetaspaceSize=192m", "-XX:MaxDirectMemorySize=128m"]);
    command.args(["-XX:TieredStopAtLevel=1", "-Xshare:auto", "-Djava.awt.headless=true", "-cp", class_path]);
    command
}

/// The first number of `openjdk 17.0.15 2025-04-15`.
fn version(said: &str) -> Option<u32> {
    let word = said.split_ascii_whitespace().nth(1)?;
    word.split(['.', '-', '+']).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(version("openjdk 17.0.15 2025-04-15\nOpenJDK Runtime"), Some(17));
        assert_eq!(version("java 21 2023-09-19 LTS"), Some(21));
        assert_eq!(version("openjdk 25-ea 2025-09-16"), Some(25));
        assert_eq!(version(""), None);
    }
}
