//! What makes a node one of several: `[control.cluster]`, `[control.registry]`, `[control.bus]`, `[control.store]`.

use std::path::PathBuf;

use serde::Deserialize;

use crate::cluster::PARTITIONS_MAX;

/// What a node may be.
pub const ROLES: [&str; 3] = ["api", "logic", "task"];

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClusterConfig {
    /// Nodes of the same name, in the same registry, are one cluster.
    pub name: String,
    /// Of this node; no two that live have the same.
    pub node: String,
    /// Where other nodes and gateways reach our gRPC and HTTP, `host:port`; absent: where we listen.
    pub advertise_grpc: Option<String>,
    pub advertise_http: Option<String>,
    /// Streams are spread over so many partitions; said once for the life of the cluster.
    pub partitions: u32,
    /// A node that is silent for longer loses what it owns to others.
    pub lease_ttl_ms: u32,
    /// `api` takes calls in, `logic` sequences, `task` works off tasks.
    pub roles: Vec<String>,
    /// Niceness, 0 to 19, of the threads that sequence: where cores are short, calls are taken in first.
    pub sequencing_nice: u8,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        ClusterConfig {
            name: "tidegate".to_owned(),
            node: String::new(),
            advertise_grpc: None,
            advertise_http: None,
            partitions: 20,
            lease_ttl_ms: 3_000,
            roles: ROLES.map(str::to_owned).to_vec(),
            sequencing_nice: 19,
        }
    }
}

impl ClusterConfig {
    pub fn has_role(&self, role: &str) -> bool {
        self.roles.iter().any(|own| own == role)
    }

    /// Keys with what is wrong about them.
    pub(super) fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        for (key, name) in [("cluster.name", &self.name), ("cluster.node", &self.node)] {
            if name.is_empty() || name.len() > 128 || name.contains(['/', '#']) || name.contains(char::is_control) {
                problems.push((key, "is needed, without `/` and `#`, of at most 128 bytes".to_owned()));
            }
        }
        if !(1..=PARTITIONS_MAX).contains(&self.partitions) {
            problems.push(("cluster.partitions", format!("{} is not in 1..={PARTITIONS_MAX}", self.partitions)));
        }
        if !(500..=60_000).contains(&self.lease_ttl_ms) {
            problems.push(("cluster.lease_ttl_ms", format!("{} is not in 500..=60000", self.lease_ttl_ms)));
        }
        if self.sequencing_nice > 19 {
            problems.push(("cluster.sequencing_nice", format!("{} is not in 0..=19", self.sequencing_nice)));
        }
        if self.roles.is_empty() {
            problems.push(("cluster.roles", "names none".to_owned()));
        }
        for role in self.roles.iter().filter(|role| !ROLES.contains(&role.as_str())) {
            problems.push(("cluster.roles", format!("`{role}` is none of {}", ROLES.join(", "))));
        }
        problems
    }
}

/// PostgreSQL. Does not hold the password, unless the URL does.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// `postgres://user@host:port/database`.
    pub url: Option<String>,
    /// A file with the URL, password included.
    pub url_file: Option<PathBuf>,
    pub password_file: Option<PathBuf>,
    pub schema: String,
    /// Connections of this node for look-ups; each partition that it owns has one more.
    pub read_connections: usize,
    pub timeout_ms: u32,
    /// Encrypts the connection and trusts this certificate authority.
    pub tls_ca_file: Option<PathBuf>,
}

impl Default for StoreConfig {
    fn default() -> Self {
        StoreConfig {
            url: None,
            url_file: None,
            password_file: None,
            schema: "tidegate".to_owned(),
            read_connections: 8,
            timeout_ms: 5_000,
            tls_ca_file: None,
        }
    }
}

impl std::fmt::Debug for StoreConfig {
    /// The URL may hold a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreConfig")
            .field("schema", &self.schema)
            .field("url_file", &self.url_file)
            .finish_non_exhaustive()
    }
}

impl StoreConfig {
    pub(super) fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        if self.url.is_some() == self.url_file.is_some() {
            problems.push(("store.url", "give either `url` or `url_file`".to_owned()));
        }
        if !(1..=256).contains(&self.read_connections) {
            problems.push(("store.read_connections", format!("{} is not in 1..=256", self.read_connections)));
        }
        if !(100..=60_000).contains(&self.timeout_ms) {
            problems.push(("store.timeout_ms", format!("{} is not in 100..=60000", self.timeout_ms)));
        }
        problems
    }
}
