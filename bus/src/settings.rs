//! `[bus]`: settings of Kafka as the bus. Everything has a default; units stand in the names.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::records::Format;
use crate::topics::Topics;

pub const BUFFER_RECORDS_MAX: usize = 10_000_000;
pub const BUFFER_BYTES_MAX: usize = 2 << 30;
/// Larger records need other settings of the brokers as well.
pub const RECORD_BYTES_MAX: usize = 1_000_000;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// `host:port`, with commas between several.
    pub brokers: String,
    pub topics: Topics,
    /// Lowers the replicas of topics to the number of brokers, with a warning. Without it, topics cannot be created in a
    /// cluster that is too small.
    pub replicas_auto: bool,
    /// The form of records that are written; both are read.
    pub format: Format,
    pub producer: Producer,
    pub consumer: Consumer,
    pub dead_letters: DeadLetters,
    pub security: Security,
    /// What administrative questions may take.
    pub request_timeout_ms: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            brokers: "127.0.0.1:9092".to_owned(),
            topics: Topics::default(),
            replicas_auto: true,
            format: Format::Json,
            producer: Producer::default(),
            consumer: Consumer::default(),
            dead_letters: DeadLetters::default(),
            security: Security::default(),
            request_timeout_ms: 15_000,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Producer {
    /// How long a record waits for others to share its request.
    pub linger_ms: u64,
    /// Bytes of one batch of a partition.
    pub batch_bytes: usize,
    /// Values longer than this are compressed with lz4.
    pub compress_above_bytes: usize,
    /// The buffer: what is published and not yet acknowledged. What is more is refused.
    pub buffer_records_max: usize,
    pub buffer_bytes_max: usize,
    /// After this a record without acknowledgement has failed. A record that waits for its lane (`docs/kafka.md`) can take
    /// twice as long.
    pub delivery_timeout_ms: u64,
}

impl Default for Producer {
    fn default() -> Producer {
        Producer {
            linger_ms: 5,
            batch_bytes: 128 * 1024,
            compress_above_bytes: 1024,
            buffer_records_max: 200_000,
            buffer_bytes_max: 64 << 20,
            delivery_timeout_ms: 30_000,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Consumer {
    /// Records of one batch, for each kind of reader.
    pub upstream_batch: usize,
    /// A busy partition of the upstream topic is read so often: what came meanwhile is one commit of its owner, where each
    /// message alone would cost almost as much. One that was idle for so long is read at once.
    pub upstream_pace_ms: u64,
    pub downstream_batch: usize,
    pub task_batch: usize,
    pub session_timeout_ms: u64,
    pub heartbeat_ms: u64,
    /// What is fetched ahead, for each partition.
    pub prefetch_records: usize,
    /// And for all partitions of one client together.
    pub prefetch_bytes: usize,
    /// How long a broker holds an answer back while there is nothing new. A partition that was just opened may wait as long.
    pub fetch_wait_ms: u64,
}

impl Default for Consumer {
    fn default() -> Consumer {
        Consumer {
            upstream_batch: 100,
            upstream_pace_ms: 15,
            downstream_batch: 50,
            task_batch: 200,
            session_timeout_ms: 30_000,
            heartbeat_ms: 10_000,
            prefetch_records: 10_000,
            prefetch_bytes: 16 << 20,
            fetch_wait_ms: 100,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeadLetters {
    /// How often a record that fails by itself is tried again before it is given up.
    pub retries: u32,
    /// The first wait; each next one is twice as long.
    pub backoff_ms: u64,
    pub backoff_max_ms: u64,
}

impl Default for DeadLetters {
    fn default() -> DeadLetters {
        DeadLetters { retries: 3, backoff_ms: 200, backoff_max_ms: 30_000 }
    }
}

/// With a mechanism the connection is SASL over TLS; with `ca_file` alone it is TLS; SASL without TLS needs
/// `plaintext = true`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Security {
    pub mechanism: Option<Mechanism>,
    pub username: String,
    /// The password stands in a file, so that it is in no configuration and no list of processes.
    pub password_file: Option<PathBuf>,
    /// Whom to trust; absent: the system's certificates.
    pub ca_file: Option<PathBuf>,
    /// Our own certificate and key, where brokers ask for them.
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    /// TLS without SASL, trusting the system's certificates.
    pub tls: bool,
    /// SASL without TLS: the password crosses the network readable. For development.
    pub plaintext: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mechanism {
    #[serde(rename = "PLAIN")]
    Plain,
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
}

impl Mechanism {
    pub fn as_str(self) -> &'static str {
        match self {
            Mechanism::Plain => "PLAIN",
            Mechanism::ScramSha256 => "SCRAM-SHA-256",
            Mechanism::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

impl Settings {
    pub fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.request_timeout_ms)
    }

    /// All that is wrong, at once.
    pub fn check(&self) -> Result<(), Vec<String>> {
        let mut problems = Vec::new();
        self.topics.check(&mut problems);
        let mut range = |name: &str, value: usize, low: usize, high: usize| {
            if !(low..=high).contains(&value) {
                problems.push(format!("{name} is {value}, not {low} to {high}"));
            }
        };
        let Producer { buffer_records_max, buffer_bytes_max, batch_bytes, .. } = self.producer;
        range("producer.buffer_records_max", buffer_records_max, 1, BUFFER_RECORDS_MAX);
        range("producer.buffer_bytes_max", buffer_bytes_max, RECORD_BYTES_MAX, BUFFER_BYTES_MAX);
        range("producer.batch_bytes", batch_bytes, 1024, RECORD_BYTES_MAX);
        range("producer.linger_ms", self.producer.linger_ms as usize, 0, 1000);
        range("producer.delivery_timeout_ms", self.producer.delivery_timeout_ms as usize, 100, 600_000);
        for (name, batch) in [
            ("consumer.upstream_batch", self.consumer.upstream_batch),
            ("consumer.downstream_batch", self.consumer.downstream_batch),
            ("consumer.task_batch", self.consumer.task_batch),
        ] {
            range(name, batch, 1, 100_000);
        }
        range("consumer.upstream_pace_ms", self.consumer.upstream_pace_ms as usize, 0, 1000);
        range("consumer.session_timeout_ms", self.consumer.session_timeout_ms as usize, 6000, 1_800_000);
        range("consumer.prefetch_records", self.consumer.prefetch_records, 1, 1_000_000);
        range("consumer.fetch_wait_ms", self.consumer.fetch_wait_ms as usize, 1, 1000);
        range("request_timeout_ms", self.request_timeout_ms as usize, 100, 600_000);
        if self.consumer.heartbeat_ms * 3 > self.consumer.session_timeout_ms {
            problems.push("consumer.heartbeat_ms is more than a third of session_timeout_ms".to_owned());
        }
        if self.producer.linger_ms >= self.producer.delivery_timeout_ms {
            problems.push("producer.linger_ms is not below delivery_timeout_ms".to_owned());
        }
        if self.brokers.trim().is_empty() {
            problems.push("brokers is empty".to_owned());
        }
        self.security.check(&mut problems);
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }
}

impl Security {
    fn check(&self, problems: &mut Vec<String>) {
        if self.mechanism.is_some() && (self.username.is_empty() || self.password_file.is_none()) {
            problems.push("security.mechanism needs username and password_file".to_owned());
        }
        if self.mechanism.is_none() && !self.username.is_empty() {
            problems.push("security.username needs a mechanism".to_owned());
        }
        if self.cert_file.is_some() != self.key_file.is_some() {
            problems.push("security.cert_file and key_file go together".to_owned());
        }
        if self.plaintext && (self.mechanism.is_none() || self.tls || self.ca_file.is_some()) {
            problems.push("security.plaintext is for SASL without TLS".to_owned());
        }
    }

    /// Kafka's word for it.
    pub fn protocol(&self) -> &'static str {
        let tls = self.tls || self.ca_file.is_some() || self.cert_file.is_some();
        match (self.mechanism.is_some(), self.plaintext, tls) {
            (true, true, _) => "sasl_plaintext",
            (true, false, _) => "sasl_ssl",
            (false, _, true) => "ssl",
            (false, _, false) => "plaintext",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(Settings::default().check(), Ok(()));
    }

    #[test]
    fn an_unknown_key_is_refused() {
        assert!(serde_json::from_str::<Settings>(r#"{"linger_ms": 5}"#).is_err());
        assert!(serde_json::from_str::<Settings>(r#"{"producer": {"linger_ms": 7}}"#).is_ok());
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let mut settings = Settings { brokers: String::new(), ..Settings::default() };
        settings.producer.buffer_records_max = 0;
        settings.security.mechanism = Some(Mechanism::ScramSha512);
        settings.consumer.heartbeat_ms = 20_000;
        assert_eq!(settings.check().expect_err("problems").len(), 4);
    }

    #[test]
    fn a_password_goes_over_tls_unless_it_is_said_otherwise() {
        let mut security = Security { mechanism: Some(Mechanism::Plain), ..Security::default() };
        assert_eq!(security.protocol(), "sasl_ssl");
        security.plaintext = true;
        assert_eq!(security.protocol(), "sasl_plaintext");
        assert_eq!(Security::default().protocol(), "plaintext");
    }
}
