//! The `[control]` section: parse, check everything at once, freeze.
//!
//! Units stand at the end of the names. Nothing here opens a port or makes a file; [`check`] and [`Config::problems`] only
//! read.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::Deserialize;
use tidegate_auth::Algorithm;
use tidegate_auth::dev::may_listen_on;
use tidegate_control_core::partition::limits::CONTENT_BYTES_MAX;

mod check;
mod cluster;

pub use crate::cluster::{PushSettings, TasksConfig};
pub use check::check;
pub use cluster::{ClusterConfig, ROLES, StoreConfig};

/// The annotated text of the section with every default.
pub const DEFAULT_CONFIG: &str = include_str!("config/default.toml");

/// Most targets that a configuration may allow in one push.
pub const TARGETS_LIMIT_MAX: usize = 1_000;
/// Largest segment of the log; no message is larger.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;
/// Largest request body that a configuration may allow.
pub const BODY_BYTES_LIMIT_MAX: usize = 16 << 20;

/// The `[control]` section.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// REST, health, metrics and the example page.
    pub http_addr: SocketAddr,
    /// PushService, QueryService and the link of gateways.
    pub grpc_addr: SocketAddr,
    pub data_dir: PathBuf,
    /// No credentials needed from this very machine (`tidegate_auth::dev`).
    pub dev_auth: bool,
    /// Joining or pushing to a group that does not exist creates an open one.
    pub auto_groups: bool,
    /// Client port of the gateway beside us: pages served from it count as ours in development auth.
    pub client_port: u16,
    pub service_tokens_file: Option<PathBuf>,
    pub link_token_file: Option<PathBuf>,
    pub auth: AuthConfig,
    pub retention: RetentionConfig,
    pub dedup: DedupConfig,
    pub limits: LimitsConfig,
    /// One node of several; absent: this process is all there is, and its store is embedded.
    pub cluster: Option<ClusterConfig>,
    pub registry: Option<tidegate_registry::Settings>,
    pub bus: Option<tidegate_bus::settings::Settings>,
    pub store: Option<StoreConfig>,
    /// Of a node of a cluster: what it does with the bus beside the upstream topic.
    pub tasks: TasksConfig,
    /// Redis for what is committed elsewhere; absent: everything works without.
    pub cache: Option<crate::adapters::redis::RedisSettings>,
    /// Where what was pushed can be searched; absent: nowhere.
    pub records: Option<crate::records::Settings>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            http_addr: (Ipv4Addr::LOCALHOST, 8090).into(),
            grpc_addr: (Ipv4Addr::LOCALHOST, 9090).into(),
            data_dir: "./tidegate-data".into(),
            dev_auth: false,
            auto_groups: false,
            client_port: 8080,
            service_tokens_file: None,
            link_token_file: None,
            auth: AuthConfig::default(),
            retention: RetentionConfig::default(),
            dedup: DedupConfig::default(),
            limits: LimitsConfig::default(),
            cluster: None,
            registry: None,
            bus: None,
            store: None,
            tasks: TasksConfig::default(),
            cache: None,
            records: None,
        }
    }
}

impl Config {
    /// What `tidegate dev` starts with: development auth and groups that make themselves.
    pub fn dev() -> Config {
        Config { dev_auth: true, auto_groups: true, ..Config::default() }
    }

    fn cluster_problems(&self, say: &mut impl FnMut(&str, String)) {
        let parts =
            [("registry", self.registry.is_some()), ("bus", self.bus.is_some()), ("store", self.store.is_some())];
        for (key, given) in parts {
            match (self.cluster.is_some(), given) {
                (true, false) => say(key, "a node of a cluster needs this section".to_owned()),
                (false, true) => say("cluster", format!("is needed beside [control.{key}]")),
                _ => {}
            }
        }
        if let Some(cache) = &self.cache {
            if self.cluster.is_none() {
                say("cluster", "is needed beside [control.cache]".to_owned());
            }
            // A key that is known for longer than in the store would answer for a message that the store takes as new.
            if u64::from(cache.ttl.dedup_s) > u64::from(self.dedup.hours) * 3_600 {
                say("cache.ttl.dedup_s", "is longer than dedup.hours".to_owned());
            }
            if self.cluster.as_ref().is_some_and(|cluster| cluster.name.contains(['{', '}'])) {
                say("cluster.name", "has braces, which mean something in names of keys".to_owned());
            }
            for problem in cache.problems() {
                say(&problem.key, problem.text);
            }
        }
        let cluster = self.cluster.iter().flat_map(ClusterConfig::problems);
        for (key, text) in self.records.iter().flat_map(crate::records::Settings::problems) {
            say(&format!("records.{key}"), text);
        }
        for (key, text) in self.tasks.problems() {
            say(&format!("tasks.{key}"), text);
        }
        for (key, text) in cluster.chain(self.store.iter().flat_map(StoreConfig::problems)) {
            say(key, text);
        }
    }

    /// What is wrong with the values together; empty: nothing.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut say = |key: &str, text: String| problems.push(Problem { key: key.to_owned(), text, hint: None });
        for (key, addr) in [("http_addr", self.http_addr), ("grpc_addr", self.grpc_addr)] {
            if may_listen_on(addr.ip()) {
                continue;
            }
            for (name, on) in [("dev_auth", self.dev_auth), ("auto_groups", self.auto_groups)] {
                if on {
                    say(name, format!("refused while {key} is {addr}, which is not a loopback address"));
                }
            }
        }
        if !may_listen_on(self.grpc_addr.ip()) && self.link_token_file.is_none() {
            say("link_token_file", "needed while grpc_addr is not a loopback address".to_owned());
        }
        if self.http_addr == self.grpc_addr && self.http_addr.port() != 0 {
            say("grpc_addr", "the same as http_addr".to_owned());
        }
        self.cluster_problems(&mut say);
        if self.auth.keys.len() >= tidegate_auth::token::KEYS_MAX {
            say("auth.keys", format!("at most {} keys", tidegate_auth::token::KEYS_MAX - 1));
        }
        let limits = &self.limits;
        let bounded = [
            ("auth.leeway_s", self.auth.leeway_s, 0, tidegate_auth::token::LEEWAY_S_MAX),
            ("retention.hours", u64::from(self.retention.hours), 1, 24 * 3_660),
            ("retention.segment_bytes", self.retention.segment_bytes, 1 << 20, SEGMENT_BYTES_MAX),
            ("retention.bytes_max", self.retention.bytes_max.unwrap_or(u64::MAX), 1 << 20, u64::MAX),
            ("dedup.hours", u64::from(self.dedup.hours), 1, 24 * 30),
            ("dedup.keys_max", self.dedup.keys_max, 1, 10_000_000_000),
            ("limits.body_bytes_max", limits.body_bytes_max as u64, 1024, BODY_BYTES_LIMIT_MAX as u64),
            ("limits.content_bytes_max", limits.content_bytes_max as u64, 1, CONTENT_BYTES_MAX as u64),
            ("limits.targets_max", limits.targets_max as u64, 1, TARGETS_LIMIT_MAX as u64),
            ("limits.answer_timeout_ms", u64::from(limits.answer_timeout_ms), 1, 60_000),
            ("limits.connections_max", u64::from(limits.connections_max), 1, 1_000_000),
        ];
        for (key, value, least, most) in bounded {
            if !(least..=most).contains(&value) {
                say(key, format!("{value} is not in {least}..={most}"));
            }
        }
        problems
    }
}

/// Who may call as a user.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuthConfig {
    pub keys: Vec<KeyConfig>,
    pub audiences: Vec<String>,
    pub issuers: Vec<String>,
    pub leeway_s: u64,
}

/// One key that signs user tokens.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyConfig {
    pub algorithm: Algorithm,
    /// The secret's bytes (HS256) or a PEM public key.
    pub file: PathBuf,
    /// Compared with a token's `kid`.
    #[serde(default)]
    pub id: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetentionConfig {
    /// Messages older than this may be unlinked with their segment.
    pub hours: u32,
    /// The oldest segments are unlinked while the log is larger than this; absent: no bound but the disk.
    pub bytes_max: Option<u64>,
    /// A segment of the log is closed at this size.
    pub segment_bytes: u64,
}

impl Default for RetentionConfig {
    fn default() -> Self {
        RetentionConfig { hours: 7 * 24, bytes_max: None, segment_bytes: 64 << 20 }
    }
}

/// How long a caller's key is remembered: the shorter of the two.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DedupConfig {
    pub hours: u32,
    pub keys_max: u64,
}

impl Default for DedupConfig {
    fn default() -> Self {
        DedupConfig { hours: 24, keys_max: 100_000_000 }
    }
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    pub body_bytes_max: usize,
    pub content_bytes_max: usize,
    pub targets_max: usize,
    pub answer_timeout_ms: u32,
    /// Open HTTP connections.
    pub connections_max: u32,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        LimitsConfig {
            body_bytes_max: 1 << 20,
            content_bytes_max: 64 << 10,
            targets_max: 1_000,
            answer_timeout_ms: 2_000,
            connections_max: 4_096,
        }
    }
}

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Dotted path inside the section.
    pub key: String,
    pub text: String,
    /// What was probably meant.
    pub hint: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dot = if self.key.is_empty() { "" } else { "." };
        write!(f, "control{dot}{}: {}", self.key, self.text)?;
        match &self.hint {
            Some(hint) => write!(f, " (did you mean `{hint}`?)"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
