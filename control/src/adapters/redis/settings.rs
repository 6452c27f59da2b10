//! The `[control.cache]` section: where, with which names, for how long, and how much of it.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use tidegate_control_core::breaker::{BreakerConfig, PROBES_LIMIT_MAX};

use super::keys::Template;
use crate::config::Problem;

/// Most tags: each is a request of its own to a cluster, for one batch.
pub const TAGS_LIMIT_MAX: u16 = 1_024;
pub const BUCKETS_LIMIT_MAX: u32 = 1 << 24;

#[derive(Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RedisSettings {
    /// `redis://HOST:PORT/DB` or `rediss://…`; of a cluster, some of its nodes.
    pub urls: Vec<String>,
    pub cluster: bool,
    /// An ACL user; absent: `default`.
    pub username: Option<String>,
    pub password_file: Option<PathBuf>,
    /// PEM of the authority that signed the server's certificate; absent: whom the machine trusts.
    pub tls_ca_file: Option<PathBuf>,
    /// For one request, connecting included.
    pub timeout_ms: u32,
    /// Begins every key and channel. Clusters that share a server have one each.
    pub prefix: String,
    /// That of `[control.cluster]`.
    #[serde(skip)]
    pub cluster_name: String,
    pub keys: KeySettings,
    pub ttl: TtlSettings,
    pub bounds: BoundSettings,
    pub breaker: BreakerSettings,
}

impl Default for RedisSettings {
    fn default() -> Self {
        RedisSettings {
            urls: vec!["redis://127.0.0.1:6379".to_owned()],
            cluster: false,
            username: None,
            password_file: None,
            tls_ca_file: None,
            timeout_ms: 200,
            prefix: String::new(),
            cluster_name: "tidegate".to_owned(),
            keys: KeySettings::default(),
            ttl: TtlSettings::default(),
            bounds: BoundSettings::default(),
            breaker: BreakerSettings::default(),
        }
    }
}

/// Names of keys, see docs/redis.md. In a cluster a hash tag stands before each.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeySettings {
    /// With `{bucket}`: many users share a hash, which is small. With `{uid}`: one hash per user.
    pub routes: String,
    pub route_counts: String,
    /// The plain name of the gateway that a user was last seen at, for others to read; empty: not written.
    pub instance: String,
    pub group_head: String,
    pub stream_head: String,
    pub dedup: String,
    pub hot: String,
    pub queue: String,
    pub cursor: String,
    pub ring: String,
    /// Shows that nobody flushed the server.
    pub marker: String,
}

impl Default for KeySettings {
    fn default() -> Self {
        let text = str::to_owned;
        KeySettings {
            routes: text("User:Connect:{bucket}"),
            route_counts: text("User:Connect:count"),
            instance: String::new(),
            group_head: text("Group:{gid}:Seq"),
            stream_head: text("Stream:{stream}:Seq"),
            dedup: text("Dedup:{key}"),
            hot: text("Hot:{stream}"),
            queue: text("Offline:{uid}"),
            cursor: text("Cursor:{uid}:{device}"),
            ring: text("ring:{cluster}"),
            marker: text("Marker"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TtlSettings {
    /// 0: a route stands until its connection or its gateway's incarnation ends.
    pub routes_s: u32,
    pub heads_s: u32,
    pub dedup_s: u32,
    pub hot_s: u32,
    pub queue_s: u32,
    pub cursors_s: u32,
}

impl Default for TtlSettings {
    fn default() -> Self {
        TtlSettings { routes_s: 0, heads_s: 86_400, dedup_s: 3_600, hot_s: 3_600, queue_s: 600, cursors_s: 30 * 86_400 }
    }
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BoundSettings {
    /// Hashes that share the users' routes: about one for every 40 users is small and fast.
    pub route_buckets: u32,
    /// Hash tags over which a cluster spreads everything: several for each master, but a batch is one request for each.
    pub tags: u16,
    pub queue_messages_max: u32,
    pub cursor_streams_max: u32,
    /// Larger messages are not cached.
    pub message_bytes_max: u32,
    /// Facts that wait to be written; the oldest are dropped past either.
    pub writes_max: u32,
    pub write_bytes_max: u32,
}

impl Default for BoundSettings {
    fn default() -> Self {
        BoundSettings {
            route_buckets: 1 << 18,
            tags: 24,
            queue_messages_max: 200,
            cursor_streams_max: 1_000,
            message_bytes_max: 16 << 10,
            writes_max: 1 << 16,
            write_bytes_max: 64 << 20,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BreakerSettings {
    pub failure_percent: u32,
    pub requests_min: u32,
    pub window_ms: u32,
    pub cool_down_ms: u32,
    pub probes: u32,
}

impl Default for BreakerSettings {
    fn default() -> Self {
        BreakerSettings { failure_percent: 50, requests_min: 5, window_ms: 5_000, cool_down_ms: 500, probes: 2 }
    }
}

impl BreakerSettings {
    pub fn config(&self) -> BreakerConfig {
        BreakerConfig {
            failure_percent: self.failure_percent,
            requests_min: self.requests_min,
            window: Duration::from_millis(self.window_ms.into()),
            cool_down: Duration::from_millis(self.cool_down_ms.into()),
            cool_down_max: Duration::from_millis(self.cool_down_ms.into()),
            probes: self.probes,
        }
    }
}

impl RedisSettings {
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms.into())
    }

    /// What is wrong with the values; empty: nothing. Reads no file.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut say = |key: &str, text: String| {
            problems.push(Problem { key: format!("cache.{key}"), text, hint: None });
        };
        if self.urls.is_empty() {
            say("urls", "at least one".to_owned());
        }
        if self.urls.iter().any(|url| redis::parse_redis_url(url).is_none()) {
            say("urls", "each begins with redis:// or rediss:// and names a host".to_owned());
        }
        if self.tls_ca_file.is_some() && !self.urls.iter().all(|url| url.starts_with("rediss://")) {
            say("tls_ca_file", "only with rediss:// URLs".to_owned());
        }
        if !self.cluster && self.urls.len() > 1 {
            say("urls", "several only with cluster = true".to_owned());
        }
        for (key, text) in [("prefix", &self.prefix), ("cluster_name", &self.cluster_name)] {
            if text.len() > 64 || !text.bytes().all(|b| b.is_ascii_graphic() && !b"{}".contains(&b)) {
                say(key, "at most 64 visible ASCII characters, without braces".to_owned());
            }
        }
        for (key, text, wanted) in self.keys.templates() {
            if let Err(why) = Template::parse(text, wanted) {
                say(&format!("keys.{key}"), why.to_string());
            }
        }
        let (bounds, ttl, breaker) = (&self.bounds, &self.ttl, &self.breaker);
        let year = 366 * 86_400;
        let bounded = [
            ("timeout_ms", self.timeout_ms, 1, 60_000),
            ("ttl.routes_s", ttl.routes_s, 0, year),
            ("ttl.heads_s", ttl.heads_s, 1, year),
            ("ttl.dedup_s", ttl.dedup_s, 1, year),
            ("ttl.hot_s", ttl.hot_s, 1, year),
            ("ttl.queue_s", ttl.queue_s, 60, year),
            ("ttl.cursors_s", ttl.cursors_s, 1, year),
            ("bounds.route_buckets", bounds.route_buckets, 1, BUCKETS_LIMIT_MAX),
            ("bounds.tags", bounds.tags.into(), 1, TAGS_LIMIT_MAX.into()),
            ("bounds.queue_messages_max", bounds.queue_messages_max, 1, 10_000),
            ("bounds.cursor_streams_max", bounds.cursor_streams_max, 1, 100_000),
            ("bounds.message_bytes_max", bounds.message_bytes_max, 1, 1 << 20),
            ("bounds.writes_max", bounds.writes_max, 1, 1 << 24),
            ("bounds.write_bytes_max", bounds.write_bytes_max, 1 << 16, 1 << 31),
            ("breaker.failure_percent", breaker.failure_percent, 1, 100),
            ("breaker.requests_min", breaker.requests_min, 1, 1_000_000),
            ("breaker.window_ms", breaker.window_ms, 10, 600_000),
            ("breaker.cool_down_ms", breaker.cool_down_ms, 1, 600_000),
            ("breaker.probes", breaker.probes, 1, PROBES_LIMIT_MAX),
        ];
        for (key, value, least, most) in bounded {
            if !(least..=most).contains(&value) {
                say(key, format!("{value} is not in {least}..={most}"));
            }
        }
        problems
    }
}

impl KeySettings {
    /// Each with what it must tell apart.
    fn templates(&self) -> [(&'static str, &str, &'static [&'static str]); 11] {
        [
            ("routes", &self.routes, if self.routes.contains("{uid}") { &["uid"] } else { &["bucket"] }),
            ("route_counts", &self.route_counts, &[]),
            ("instance", &self.instance, if self.instance.is_empty() { &[] } else { &["uid"] }),
            ("group_head", &self.group_head, &["gid"]),
            ("stream_head", &self.stream_head, &["stream"]),
            ("dedup", &self.dedup, &["key"]),
            ("hot", &self.hot, &["stream"]),
            ("queue", &self.queue, &["uid"]),
            ("cursor", &self.cursor, &["uid", "device"]),
            ("ring", &self.ring, &["cluster"]),
            ("marker", &self.marker, &[]),
        ]
    }
}

/// Neither a URL's password nor its user is shown.
impl fmt::Debug for RedisSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts: Vec<&str> = self.urls.iter().map(|url| url.rsplit('@').next().unwrap_or_default()).collect();
        f.debug_struct("RedisSettings")
            .field("hosts", &hosts)
            .field("cluster", &self.cluster)
            .field("password_file", &self.password_file)
            .field("prefix", &self.prefix)
            .field("cluster_name", &self.cluster_name)
            .field("keys", &self.keys)
            .field("ttl", &self.ttl)
            .field("bounds", &self.bounds)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_unknown_keys_are_refused() {
        assert_eq!(RedisSettings::default().problems(), Vec::new());
        assert!(toml::from_str::<RedisSettings>("cluster = true\nttl.queue_s = 700").is_ok());
        assert!(toml::from_str::<RedisSettings>("clusters = true").is_err());
        assert!(toml::from_str::<RedisSettings>("ttl.queue = 700").is_err());
    }

    #[test]
    fn what_is_wrong_is_said_all_at_once() {
        let text = r#"
            urls = ["http://a", "redis://b"]
            tls_ca_file = "ca.pem"
            prefix = "a b"
            timeout_ms = 0
            ttl.queue_s = 59
            keys = { queue = "Offline", hot = "Hot:{stream}\r\n", cursor = "C:{uid}" }
        "#;
        let settings: RedisSettings = toml::from_str(text).expect("TOML");
        let keys: Vec<String> = settings.problems().into_iter().map(|problem| problem.key).collect();
        let wanted = [
            "urls",
            "tls_ca_file",
            "urls",
            "prefix",
            "keys.hot",
            "keys.queue",
            "keys.cursor",
            "timeout_ms",
            "ttl.queue_s",
        ];
        assert_eq!(keys, wanted.map(|key| format!("cache.{key}")));
    }

    #[test]
    fn secrets_are_not_shown() {
        let urls = vec!["redis://someone:hunter2@cache.example:6379".to_owned()];
        let shown = format!("{:?}", RedisSettings { urls, ..RedisSettings::default() });
        assert!(!shown.contains("hunter2") && !shown.contains("someone") && shown.contains("cache.example"), "{shown}");
    }
}
