//! The upstream topic, read by Kafka's own consumer, held against what publishers were told: a reader that shares nothing with
//! the product but the bytes.

use std::collections::HashMap;
use std::process::Stdio;

use anyhow::{Context as _, bail};
use serde_json::Value;
use tidegate_load::payload::{self, Stamp};
use tidegate_load::population::StreamNo;
use xtask::servers;

use super::load::Ended;

const CONSUMER: &str = "org.apache.kafka.tools.consumer.ConsoleConsumer";
/// Nothing more for so long: the end of the topic.
const QUIET_MS: &str = "10000";
const PROBLEMS_MAX: usize = 12;
/// Fields that consumers of the topic know; docs/kafka.md has the table.
const TEXTS: [&str; 8] = [
    "message_id",
    "from_user_id",
    "to_user_id",
    "conversation_id",
    "content",
    "message_type",
    "metadata",
    "gateway_id",
];
const NUMBERS: [&str; 2] = ["timestamp", "version"];
/// The load that clients send: its records have ids of Tidegate's.
const CLIENTS_LOAD: u16 = 2;

pub struct Found {
    /// Of this round.
    pub records: u64,
    pub problems: Vec<String>,
}

pub fn compare(brokers: &str, topic: &str, ended: &Ended) -> anyhow::Result<Found> {
    let mut audit = Audit { ended, seen: HashMap::new(), records: 0, problems: Vec::new(), wrong: 0 };
    read(brokers, topic)?.lines().for_each(|line| audit.record(line));
    Ok(audit.conclude())
}

/// Every record as `key`, a tab, and the value.
fn read(brokers: &str, topic: &str) -> anyhow::Result<String> {
    let mut consumer = servers::kafka_tool(CONSUMER)?;
    consumer.args(["--bootstrap-server", brokers, "--topic", topic, "--from-beginning"]);
    consumer.args(["--timeout-ms", QUIET_MS, "--property", "print.key=true"]);
    let output = consumer.stdin(Stdio::null()).output().context("cannot run Kafka's console consumer")?;
    let said = String::from_utf8_lossy(&output.stderr);
    // It ends by its time-out, whatever status that has in this version, and says how many there were.
    if !said.contains("Processed a total of") {
        bail!("Kafka's console consumer: {}", said.trim());
    }
    String::from_utf8(output.stdout).context("the topic holds what is no text")
}

struct Audit<'a> {
    ended: &'a Ended,
    /// Streams of the messages that were read, by load and number.
    seen: HashMap<(u16, u64), String>,
    records: u64,
    problems: Vec<String>,
    wrong: u64,
}

impl Audit<'_> {
    fn record(&mut self, line: &str) {
        let Some((key, value)) = line.split_once('\t') else { return };
        let run = format!("{}-", self.ended.population.run());
        // Other rounds', and what was pushed beside the loads.
        let is_ours = key.split_once(':').is_some_and(|(_, id)| id.starts_with(&run));
        if !is_ours || self.ended.population.find(key).is_none() {
            return;
        }
        self.records += 1;
        match self.check(key, value) {
            Ok(stamp) => drop(self.seen.insert((stamp.load, stamp.number), key.to_owned())),
            Err(what) => self.problem(|| format!("upstream, key {key}: {what}: {value}")),
        }
    }

    fn check(&self, key: &str, value: &str) -> Result<Stamp, String> {
        let record: Value = serde_json::from_str(value).map_err(|error| format!("no JSON ({error})"))?;
        if let Some(field) = TEXTS.iter().find(|field| !record[**field].is_string() && **field != "metadata") {
            return Err(format!("{field} is no text"));
        }
        if let Some(field) = NUMBERS.iter().find(|field| !record[**field].is_number()) {
            return Err(format!("{field} is no number"));
        }
        let content = record["content"].as_str().unwrap_or_default();
        let stamp = payload::verify(content).ok_or("the content is not what was pushed")?;
        let wanted = format!("{}-{}-{}", self.ended.population.run(), stamp.load, stamp.number);
        let name = if stamp.load == CLIENTS_LOAD { "client_msg_id" } else { "message_id" };
        if record[name] != wanted.as_str() {
            return Err(format!("{name} is not {wanted}"));
        }
        if record["message_type"] != payload::TYPE {
            return Err(format!("message_type is not {}", payload::TYPE));
        }
        let to = record["to_user_id"].as_str().unwrap_or_default();
        if key.strip_prefix("u:").is_some_and(|uid| uid != to) {
            return Err("to_user_id is not that of the key".to_owned());
        }
        if key.strip_prefix("g:").is_some_and(|gid| record["conversation_id"] != gid) {
            return Err("conversation_id is not that of the key".to_owned());
        }
        Ok(stamp)
    }

    fn conclude(mut self) -> Found {
        let (population, ledger) = (&self.ended.population, &self.ended.published.ledger);
        let mut accepted = HashMap::new();
        for stream in (0..population.streams()).map(StreamNo) {
            let name = population.name(stream);
            for answered in ledger.of(stream) {
                accepted.insert((answered.stamp.load, answered.stamp.number), name.clone());
            }
        }
        for (message, stream) in &accepted {
            match self.seen.get(message).cloned() {
                None => self.problem(|| format!("{message:?} to {stream} was accepted and is not upstream")),
                Some(key) if key != *stream => {
                    self.problem(|| format!("{message:?} to {stream} is upstream under the key {key}"));
                }
                Some(_) => {}
            }
        }
        let seen: Vec<(u16, u64)> = self.seen.keys().copied().collect();
        for (load, number) in seen {
            let stamp = Stamp { load, number, intended_us: 0 };
            if !accepted.contains_key(&(load, number)) && !ledger.is_open(stamp) {
                self.problem(|| format!("message {number} of load {load} is upstream and was never accepted"));
            }
        }
        if self.wrong > self.problems.len() as u64 {
            self.problems.push(format!("upstream: {} problems in all", self.wrong));
        }
        Found { records: self.records, problems: self.problems }
    }

    fn problem(&mut self, text: impl FnOnce() -> String) {
        self.wrong += 1;
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(text());
        }
    }
}
