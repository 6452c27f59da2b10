//! The one configuration file: `[gateway]` and `[control]` sections, checked whole before anything starts.

use std::fmt::Display;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use serde::de::DeserializeOwned;

/// Reads the file and refuses it with every problem at once.
pub fn load(file: &Path) -> anyhow::Result<toml::Table> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let table: toml::Table = text.parse().with_context(|| format!("{} is not TOML", file.display()))?;
    let problems = problems(&table);
    if !problems.is_empty() {
        bail!("{} has problems:\n  {}", file.display(), problems.join("\n  "));
    }
    Ok(table)
}

/// A section of a checked file; its defaults if the section is absent.
pub fn section<T: DeserializeOwned + Default>(table: &toml::Table, name: &str) -> anyhow::Result<T> {
    match table.get(name) {
        None => Ok(T::default()),
        Some(value) => value.clone().try_into().with_context(|| format!("section [{name}]")),
    }
}

fn problems(table: &toml::Table) -> Vec<String> {
    let known = ["gateway", "control"];
    let unknown = table.keys().filter(|key| !known.contains(&key.as_str()));
    let mut problems: Vec<String> =
        unknown.map(|key| format!("{key}: unknown section; sections are [gateway] and [control]")).collect();
    problems.extend(texts(tidegate_gateway::config::check(table)));
    problems.extend(texts(tidegate_control::config::check(table)));
    problems
}

fn texts(problems: Vec<impl Display>) -> impl Iterator<Item = String> {
    problems.into_iter().map(|problem| problem.to_string())
}

/// `tidegate check-config F`.
pub fn check(file: &Path) -> ExitCode {
    match load(file) {
        Ok(_) => {
            println!("{}: ok", file.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::from(2)
        }
    }
}

/// `tidegate default-config`.
pub fn default_text() -> String {
    format!("{}\n{}", tidegate_gateway::config::DEFAULT_CONFIG, tidegate_control::config::DEFAULT_CONFIG)
}

/// `tidegate verify-log`.
pub fn verify_log(data_dir: &Path) -> anyhow::Result<()> {
    let report = tidegate_control::adapters::embedded::verify(data_dir)?;
    println!(
        "{} records in {} segments, {} bytes, lsn {} to {}",
        report.records, report.segments, report.bytes, report.first, report.last
    );
    if let Some(torn) = &report.torn {
        println!(
            "the next start cuts a torn tail of {} bytes at offset {} of {}",
            torn.bytes,
            torn.offset,
            torn.file.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_text_is_a_valid_file() {
        let table: toml::Table = default_text().parse().expect("TOML");
        assert_eq!(problems(&table), Vec::<String>::new());
    }

    #[test]
    fn every_problem_of_a_file_is_named() {
        let text = "[gateway]\nclient_adr = \"127.0.0.1:1\"\n[control]\nhttp_addr = 7\n[colour]\n";
        let problems = problems(&text.parse().expect("TOML"));
        for part in ["client_addr", "http_addr", "colour"] {
            assert!(problems.iter().any(|p| p.contains(part)), "{part}: {problems:?}");
        }
    }
}
