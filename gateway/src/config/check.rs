//! Finds every problem of a `[gateway]` section at once, before anything is bound.
//!
//! Each key is tried alone, so that one bad value does not hide the next; then the rules between values are checked on
//! what could be read.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use serde::Deserialize as _;
use tidegate_auth::dev::{is_name, may_listen_on};
use tidegate_auth::service::ServiceTokens;
use tidegate_auth::token::{KEYS_MAX, LEEWAY_S_MAX};
use tidegate_gateway_tls::Acceptor;
use tidegate_registry::Names;
use tidegate_ring::WEIGHT_MAX;
use tidegate_ring::mover::RATE_MAX;

use super::origins::normal;
use super::proxies::{TRUSTED_MAX, network};
use super::{Config, DeliverConfig, KeyConfig, ORIGINS_MAX, ProxyProtocol, TlsConfig};

/// Something wrong in a configuration, for people to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Dotted path of the key, `gateway.client_addr`.
    pub path: String,
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// Names of certificates that may deliver.
const CLIENTS_MAX: usize = 256;

/// The sections and their keys. A test keeps this in step with [`Config`].
const SECTIONS: [(&str, &[&str]); 11] = [
    (
        "",
        &[
            "name",
            "client_addr",
            "admin_addr",
            "cluster",
            "client_url",
            "weight",
            "registry",
            "echo_addr",
            "window_ms",
            "drain_ms",
            "origins",
            "proxies",
            "tls",
            "link",
            "ring",
            "deliver",
            "engine",
            "handshake",
            "auth",
            "compression",
            "limits",
        ],
    ),
    ("proxies", &["trusted", "proxy_protocol"]),
    ("tls", &["addr", "echo_addr", "certificates", "client_certificates", "client_authorities"]),
    ("link", &["addr", "token_file", "credit_bytes"]),
    ("ring", &["enabled", "moves_per_s"]),
    ("deliver", &["tokens_file", "tls_addr", "certificate", "key", "client_authorities", "clients"]),
    ("engine", &["shards", "rings_per_shard", "slots", "front_door_threads", "pin", "io"]),
    ("handshake", &["deadline_ms", "first_frame_ms", "half_open_max", "half_open_per_ip_max"]),
    ("auth", &["keys", "audiences", "issuers", "leeway_s", "dev", "dev_page_ports"]),
    ("compression", &["enabled", "bytes_min", "level"]),
    (
        "limits",
        &[
            "connections_max",
            "connections_per_ip_max",
            "queue_bytes_max",
            "send_buffer_bytes",
            "message_bytes_max",
            "ping_interval_ms",
        ],
    ),
];

/// Nodes of control that a gateway is told of by its configuration; more are for a registry.
const LINK_ADDRS_MAX: usize = 64;

/// A hint is given for a key that is at most so many edits away.
const HINT_EDITS_MAX: usize = 3;

/// Every problem of a file's `[gateway]` section, in the order of its keys; other sections are not looked at, and without
/// the section there is none. Reads the key and token files it names.
pub fn check(file: &toml::Table) -> Vec<Problem> {
    match file.get("gateway") {
        None => Vec::new(),
        Some(toml::Value::Table(section)) => check_section(section),
        Some(_) => vec![problem("gateway", "must be a section".to_owned())],
    }
}

fn check_section(section: &toml::Table) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut good = toml::Table::new();
    for (key, value) in section {
        let inner = SECTIONS.iter().find(|(name, _)| name == key);
        match (inner, value) {
            (Some((name, known)), toml::Value::Table(table)) => {
                let mut kept = toml::Table::new();
                for (key, value) in table {
                    let alone = |value| toml::Table::from_iter([((*name).to_owned(), single(key, value))]);
                    check_key(&format!("gateway.{name}.{key}"), key, known, value, alone, &mut kept, &mut problems);
                }
                good.insert(key.clone(), kept.into());
            }
            _ => {
                let alone = |value| toml::Table::from_iter([(key.clone(), value)]);
                let path = format!("gateway.{key}");
                check_key(&path, key, SECTIONS[0].1, value, alone, &mut good, &mut problems);
            }
        }
    }
    match Config::deserialize(toml::Value::Table(good)) {
        Ok(config) => problems.extend(rules(&config)),
        Err(error) => problems.push(problem("gateway", first_line(&error))),
    }
    problems
}

/// The rules between values, for a configuration that parsed.
pub(super) fn rules(config: &Config) -> Vec<Problem> {
    let mut found = Vec::new();
    let mut rule = |holds: bool, path: &str, message: &str| {
        if !holds {
            found.push(problem(path, message.to_owned()));
        }
    };
    rule(is_name(&config.name), "gateway.name", "use 1 to 64 letters, digits and _ . @ -");
    rule(config.window_ms <= 1000, "gateway.window_ms", "the batch window is 0 to 1000");
    rule(config.drain_ms <= 600_000, "gateway.drain_ms", "a drain takes at most 600000");
    rule(config.origins.len() <= ORIGINS_MAX, "gateway.origins", "at most 256 origins");
    for origin in config.origins.iter().filter(|text| *text != "*" && normal(text).is_none()) {
        let message = format!("{origin:?} is not \"*\", \"null\" or scheme://host[:port] without a path or pattern");
        rule(false, "gateway.origins", &message);
    }
    let trusted = &config.proxies.trusted;
    rule(trusted.len() <= TRUSTED_MAX, "gateway.proxies.trusted", "at most 256 addresses and networks");
    for text in trusted.iter().filter(|text| network(text).is_none()) {
        let message = format!("{text:?} is not an address or a network such as \"10.0.0.0/8\" or \"::1\"");
        rule(false, "gateway.proxies.trusted", &message);
    }
    rule(
        config.proxies.proxy_protocol == ProxyProtocol::Off || !trusted.is_empty(),
        "gateway.proxies.proxy_protocol",
        "nobody is trusted to send a PROXY header: name the balancers in proxies.trusted",
    );
    let loopback = |addr: Option<SocketAddr>| addr.is_none_or(|addr| may_listen_on(addr.ip()));
    for (addr, path) in [(config.echo_addr, "gateway.echo_addr"), (config.tls.echo_addr, "gateway.tls.echo_addr")] {
        rule(loopback(addr), path, "the echo listener has no auth: give it a loopback address");
    }
    rule(
        !config.auth.dev || loopback(Some(config.client_addr)) && loopback(config.tls.addr),
        "gateway.auth.dev",
        "development auth needs a loopback client_addr and tls.addr",
    );
    let tls = [config.tls.addr, config.tls.echo_addr, config.deliver.tls_addr];
    let addrs = [Some(config.client_addr), Some(config.admin_addr), config.echo_addr].into_iter().chain(tls);
    let fixed: Vec<SocketAddr> = addrs.flatten().filter(|addr| addr.port() != 0).collect();
    let distinct: BTreeSet<&SocketAddr> = fixed.iter().collect();
    rule(distinct.len() == fixed.len(), "gateway.client_addr", "two listeners have the same address");
    let in_registry = config.registry.is_some();
    rule(
        !in_registry || config.link.addr.is_none(),
        "gateway.link.addr",
        "the owners of partitions are found in gateway.registry: leave one of the two out",
    );
    rule(
        !in_registry || config.client_url.is_some(),
        "gateway.client_url",
        "with gateway.registry, the URL that clients are sent to must be given",
    );
    let client_url = config.client_url.as_deref().is_none_or(is_websocket_url);
    rule(client_url, "gateway.client_url", "use ws://host:port or wss://host:port, with a path if there is one");
    rule((1..=u32::from(WEIGHT_MAX)).contains(&config.weight), "gateway.weight", "1 to 100");
    rule((1..=RATE_MAX).contains(&config.ring.moves_per_s), "gateway.ring.moves_per_s", "1 to 10000");
    let addrs = config.link.addr.as_ref().map_or(&[][..], |addr| addr.as_slice());
    rule(addrs.iter().all(|addr| is_http_url(addr)), "gateway.link.addr", "use http://host:port");
    let some = config.link.addr.is_none() || !addrs.is_empty();
    rule(some && addrs.len() <= LINK_ADDRS_MAX, "gateway.link.addr", "1 to 64 addresses");
    rule((64 << 10..=1 << 30).contains(&config.link.credit_bytes), "gateway.link.credit_bytes", "64 KiB to 1 GiB");
    rule(config.engine.shards <= 1024, "gateway.engine.shards", "at most 1024 shards");
    rule(config.engine.rings_per_shard <= 256, "gateway.engine.rings_per_shard", "at most 256");
    rule(config.engine.slots <= 1 << 20, "gateway.engine.slots", "at most 1048576 per ring");
    rule((1..=64).contains(&config.engine.front_door_threads), "gateway.engine.front_door_threads", "1 to 64");
    rule((100..=60_000).contains(&config.handshake.deadline_ms), "gateway.handshake.deadline_ms", "100 to 60000");
    rule((100..=60_000).contains(&config.handshake.first_frame_ms), "gateway.handshake.first_frame_ms", "100 to 60000");
    rule((64..=65_536).contains(&config.compression.bytes_min), "gateway.compression.bytes_min", "64 to 65536");
    rule((1..=9).contains(&config.compression.level), "gateway.compression.level", "1 to 9");
    rule(config.auth.leeway_s <= LEEWAY_S_MAX, "gateway.auth.leeway_s", "at most 60");
    rule(config.auth.keys.len() <= KEYS_MAX, "gateway.auth.keys", "at most 32 keys");
    let limits = &config.limits;
    rule((1..=16 << 20).contains(&limits.connections_max), "gateway.limits.connections_max", "1 to 16777216");
    rule((16 << 10..=64 << 20).contains(&limits.queue_bytes_max), "gateway.limits.queue_bytes_max", "16 KiB to 64 MiB");
    rule(
        limits.send_buffer_bytes == 0 || (4 << 10..=16 << 20).contains(&limits.send_buffer_bytes),
        "gateway.limits.send_buffer_bytes",
        "0, or 4 KiB to 16 MiB",
    );
    rule(
        (1 << 10..=16 << 20).contains(&limits.message_bytes_max),
        "gateway.limits.message_bytes_max",
        "1 KiB to 16 MiB",
    );
    rule((100..=3_600_000).contains(&limits.ping_interval_ms), "gateway.limits.ping_interval_ms", "100 to 3600000");
    found.extend(config.auth.keys.iter().filter_map(key_problem));
    found.extend(tls_problem(&config.tls));
    if let Some(registry) = &config.registry {
        found.extend(registry.problems().into_iter().map(|why| problem("gateway.registry", why)));
    }
    found.extend(Names::new(&config.cluster).err().map(|error| problem("gateway.cluster", error.to_string())));
    if let Some(file) = &config.link.token_file {
        found.extend(readable(file).map(|why| problem("gateway.link.token_file", why)));
    }
    if let Some(file) = &config.deliver.tokens_file {
        let why = ServiceTokens::load(file).err();
        found.extend(why.map(|why| problem("gateway.deliver.tokens_file", with_source(&why))));
    }
    found.extend(deliver_problem(&config.deliver));
    found
}

fn key_problem(key: &KeyConfig) -> Option<Problem> {
    let path = "gateway.auth.keys";
    if let Some(why) = readable(&key.file) {
        return Some(problem(path, why));
    }
    let material = fs::read(&key.file).ok()?;
    let error = tidegate_auth::Key::new(key.algorithm, key.id.clone(), &material).err()?;
    Some(problem(path, format!("{}: {error}", key.file.display())))
}

fn deliver_problem(config: &DeliverConfig) -> Option<Problem> {
    let path = |key: &str| format!("gateway.deliver.{key}");
    let files = [&config.certificate, &config.key, &config.client_authorities];
    if config.tls_addr.is_none() && (files.iter().any(|file| file.is_some()) || !config.clients.is_empty()) {
        return Some(problem(
            &path("tls_addr"),
            "is needed with certificate, key, client_authorities and clients".into(),
        ));
    }
    if config.clients.len() > CLIENTS_MAX || config.clients.iter().any(String::is_empty) {
        return Some(problem(&path("clients"), "at most 256 names, none of them empty".to_owned()));
    }
    match config.files() {
        Ok(None) => None,
        Ok(Some(files)) => Acceptor::load(files).err().map(|error| problem(&path("certificate"), with_source(&error))),
        Err(missing) => Some(problem(&path(missing), "is needed with tls_addr".to_owned())),
    }
}

fn tls_problem(config: &TlsConfig) -> Option<Problem> {
    let path = "gateway.tls.certificates";
    match config.files() {
        Ok(None) => None,
        Ok(Some(files)) => Acceptor::load(files).err().map(|error| problem(path, with_source(&error))),
        Err(missing) => Some(problem("gateway.tls.client_authorities", missing.to_owned())),
    }
}

/// An error and its cause in one line.
pub(super) fn with_source(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

fn readable(file: &Path) -> Option<String> {
    let error = fs::File::open(file).err()?;
    Some(format!("cannot read {}: {error}", file.display()))
}

fn is_websocket_url(text: &str) -> bool {
    let uri = text.parse::<axum::http::Uri>();
    uri.is_ok_and(|uri| matches!(uri.scheme_str(), Some("ws" | "wss")) && uri.host().is_some())
}

fn is_http_url(text: &str) -> bool {
    text.parse::<axum::http::Uri>().is_ok_and(|uri| uri.scheme_str() == Some("http") && uri.host().is_some())
}

/// Tries one key by itself; keeps it in `kept` if it is good.
fn check_key(
    path: &str,
    key: &str,
    known: &[&str],
    value: &toml::Value,
    alone: impl Fn(toml::Value) -> toml::Table,
    kept: &mut toml::Table,
    problems: &mut Vec<Problem>,
) {
    if !known.contains(&key) {
        let hint = nearest(key, known).map(|near| format!("; did you mean {near}?"));
        problems.push(problem(path, format!("unknown key{}", hint.unwrap_or_default())));
        return;
    }
    match Config::deserialize(toml::Value::Table(alone(value.clone()))) {
        Ok(_) => {
            kept.insert(key.to_owned(), value.clone());
        }
        Err(error) => problems.push(problem(path, first_line(&error))),
    }
}

fn single(key: &str, value: toml::Value) -> toml::Value {
    toml::Value::Table(toml::Table::from_iter([(key.to_owned(), value)]))
}

fn problem(path: &str, message: String) -> Problem {
    Problem { path: path.to_owned(), message }
}

fn first_line(error: &toml::de::Error) -> String {
    error.message().lines().next().unwrap_or_default().to_owned()
}

fn nearest<'a>(key: &str, known: &[&'a str]) -> Option<&'a str> {
    let scored = known.iter().map(|candidate| (edits(key, candidate), *candidate));
    scored.min().filter(|(distance, _)| *distance <= HINT_EDITS_MAX).map(|(_, candidate)| candidate)
}

/// Levenshtein distance of two short keys.
fn edits(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in other.iter().enumerate() {
            let substituted = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
