//! The `[records]` section: which index, where it is, and how long it keeps what.

use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;

use super::feeder::FeedOptions;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// No records, and no search.
    #[default]
    None,
    /// In this process, until it ends.
    Memory,
    Postgres,
    /// Elasticsearch too.
    OpenSearch,
}

#[derive(Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    pub kind: Kind,
    /// One `postgres://user@host:port/database`, or the `http(s)://host:port` of each OpenSearch node. Without secrets.
    pub urls: Vec<String>,
    /// For OpenSearch; PostgreSQL's stands in its URL.
    pub user: Option<String>,
    pub password_file: Option<PathBuf>,
    /// For OpenSearch, instead of user and password.
    pub api_key_file: Option<PathBuf>,
    /// Certificates (PEM) that vouch for the server; without it, those of the usual public authorities do.
    pub ca_file: Option<PathBuf>,
    /// Schema of the tables in PostgreSQL.
    pub schema: String,
    /// What names of indices in OpenSearch begin with.
    pub index_prefix: String,
    /// Copies of each index in OpenSearch, beside itself.
    pub replicas: u8,
    pub retention_days: u32,
    /// Records and texts that may wait; the oldest go when there are more.
    pub queue_max: usize,
    pub queue_bytes_max: usize,
    /// For one request.
    pub timeout_ms: u32,
}

impl Default for Settings {
    fn default() -> Settings {
        let feed = FeedOptions::default();
        Settings {
            kind: Kind::None,
            urls: Vec::new(),
            user: None,
            password_file: None,
            api_key_file: None,
            ca_file: None,
            schema: "tidegate".to_owned(),
            index_prefix: "tidegate".to_owned(),
            replicas: 1,
            retention_days: 30,
            queue_max: feed.queue_max,
            queue_bytes_max: feed.queue_bytes_max,
            timeout_ms: 5_000,
        }
    }
}

impl Settings {
    pub fn feed_options(&self) -> FeedOptions {
        let defaults = FeedOptions::default();
        FeedOptions { queue_max: self.queue_max, queue_bytes_max: self.queue_bytes_max, ..defaults }
    }

    /// What is wrong with the values together: the key, and what is wrong with it.
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        let mut say = |key: &'static str, text: &str| problems.push((key, text.to_owned()));
        let schemes: &[&str] = match self.kind {
            Kind::None | Kind::Memory => &[],
            Kind::Postgres => &["postgres://", "postgresql://"],
            Kind::OpenSearch => &["http://", "https://"],
        };
        match (schemes.is_empty(), self.urls.len()) {
            (true, 1..) => say("urls", "this kind has no server"),
            (false, 0) => say("urls", "says where the server is"),
            (false, 2..) if self.kind == Kind::Postgres => say("urls", "one is enough for PostgreSQL"),
            _ => {}
        }
        for url in &self.urls {
            if !schemes.iter().any(|scheme| url.starts_with(scheme)) && !schemes.is_empty() {
                say("urls", &format!("each begins with {}", schemes.join(" or ")));
            }
            if has_password(url) {
                say("urls", "passwords stand in a file: password_file");
            }
        }
        if self.kind == Kind::OpenSearch {
            if self.user.is_some() != self.password_file.is_some() {
                say("user", "and password_file go together");
            }
            if self.user.is_some() && self.api_key_file.is_some() {
                say("api_key_file", "excludes user and password_file");
            }
        } else if self.user.is_some() || self.api_key_file.is_some() {
            say("user", "and api_key_file are for OpenSearch");
        }
        let plain = |name: &str, more: &[u8]| {
            let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || more.contains(&b);
            name.starts_with(|c: char| c.is_ascii_lowercase()) && name.len() <= 40 && name.bytes().all(good)
        };
        if !plain(&self.schema, b"_") {
            say("schema", "is 1 to 40 of a-z 0-9 _ and begins with a letter");
        }
        if !plain(&self.index_prefix, b"_-") {
            say("index_prefix", "is 1 to 40 of a-z 0-9 _ - and begins with a letter");
        }
        let bounded = [
            ("retention_days", u64::from(self.retention_days), 1, 3_660),
            ("queue_max", self.queue_max as u64, 1, 10_000_000),
            ("queue_bytes_max", self.queue_bytes_max as u64, 1 << 20, 16 << 30),
            ("timeout_ms", u64::from(self.timeout_ms), 10, 60_000),
            ("replicas", u64::from(self.replicas), 0, 10),
        ];
        for (key, value, least, most) in bounded {
            if !(least..=most).contains(&value) {
                say(key, &format!("{value} is not in {least}..={most}"));
            }
        }
        problems
    }
}

/// `scheme://user:password@host`, whether or not the rest is a URL.
fn has_password(url: &str) -> bool {
    let after = url.split_once("://").map_or(url, |(_, after)| after);
    let authority = after.split(['/', '?', '#']).next().unwrap_or_default();
    let in_front = authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'));
    in_front || after.split_once('?').is_some_and(|(_, query)| query.contains("password="))
}

/// A URL should hold no password. If it does all the same, it is not shown.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |url: &String| if has_password(url) { "(has a password)".to_owned() } else { url.clone() };
        f.debug_struct("Settings")
            .field("kind", &self.kind)
            .field("urls", &self.urls.iter().map(shown).collect::<Vec<_>>())
            .field("user", &self.user)
            .field("password_file", &self.password_file)
            .field("api_key_file", &self.api_key_file)
            .field("ca_file", &self.ca_file)
            .field("schema", &self.schema)
            .field("index_prefix", &self.index_prefix)
            .field("replicas", &self.replicas)
            .field("retention_days", &self.retention_days)
            .field("queue_max", &self.queue_max)
            .field("queue_bytes_max", &self.queue_bytes_max)
            .field("timeout_ms", &self.timeout_ms)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Settings {
        toml::from_str(text).expect("settings")
    }

    fn keys(text: &str) -> Vec<&'static str> {
        settings(text).problems().into_iter().map(|(key, _)| key).collect()
    }

    #[test]
    fn good_settings_have_no_problems() {
        for good in [
            "",
            "kind = \"memory\"",
            "kind = \"postgres\"\nurls = [\"postgres://tidegate@db/tidegate\"]\npassword_file = \"/run/pw\"",
            "kind = \"opensearch\"\nurls = [\"https://a:9200\", \"https://b:9200\"]\napi_key_file = \"/run/key\"",
            "kind = \"opensearch\"\nurls = [\"http://[::1]:9200\"]\nuser = \"u\"\npassword_file = \"/run/pw\"",
        ] {
            assert_eq!(keys(good), Vec::<&str>::new(), "{good}");
        }
    }

    #[test]
    fn every_problem_is_told() {
        assert_eq!(keys("kind = \"postgres\""), ["urls"]);
        assert_eq!(keys("urls = [\"http://a\"]"), ["urls"]);
        assert_eq!(keys("kind = \"opensearch\"\nurls = [\"ftp://a\"]\nuser = \"u\""), ["urls", "user"]);
        assert_eq!(
            keys("schema = \"a;b\"\nindex_prefix = \"-a\"\nretention_days = 0"),
            ["schema", "index_prefix", "retention_days"]
        );
        assert!(toml::from_str::<Settings>("kin = \"none\"").is_err());
    }

    #[test]
    fn a_password_in_a_url_is_refused_and_not_shown() {
        for url in ["https://u:s3cret@a:9200", "https://a:9200/?password=s3cret"] {
            let text = format!("kind = \"opensearch\"\nurls = [\"{url}\"]");
            assert_eq!(keys(&text), ["urls"], "{url}");
            assert!(!format!("{:?}", settings(&text)).contains("s3cret"));
        }
    }
}
