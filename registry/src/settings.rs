//! The section of a configuration file that says where the registry is.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::adapters::etcd::EtcdOptions;
use crate::adapters::redis::RedisOptions;
use crate::error::RegistryError;
use crate::registry::Registry;

pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(2);
/// A request that may take longer than this would outlast the sessions that depend on it.
const TIMEOUT_MS: std::ops::RangeInclusive<u64> = 50..=30_000;
const ENDPOINTS_MAX: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    Etcd,
    /// One endpoint: a Redis of its own. Several: nodes of a Redis Cluster.
    Redis,
}

/// Holds no secret: the password stands in a file of its own.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub kind: Kind,
    /// `http(s)://host:port` for etcd, `redis(s)://host:port` for Redis.
    pub endpoints: Vec<String>,
    pub username: Option<String>,
    /// White space at its end does not belong to the password.
    pub password_file: Option<PathBuf>,
    #[serde(default)]
    pub tls: TlsFiles,
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u64,
}

/// For logs: an endpoint that holds a password against the rules is not shown.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoints = self.endpoints.iter().map(|url| if url.contains('@') { "***" } else { url.as_str() });
        f.debug_struct("Settings")
            .field("kind", &self.kind)
            .field("endpoints", &endpoints.collect::<Vec<_>>())
            .field("username", &self.username)
            .field("password_file", &self.password_file)
            .field("tls", &self.tls)
            .field("timeout_ms", &self.timeout_ms)
            .finish()
    }
}

/// PEM files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// Whom to trust instead of the machine's roots.
    pub ca_file: Option<PathBuf>,
    /// Shown to the server, together with `key_file`.
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
}

fn default_timeout_ms() -> u64 {
    u64::try_from(TIMEOUT_DEFAULT.as_millis()).unwrap_or(u64::MAX)
}

/// Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(secret: impl Into<String>) -> Secret {
        Secret(secret.into())
    }

    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// Empty for a Redis that knows a password only.
    pub username: String,
    pub password: Secret,
}

/// PEM texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    pub ca: Option<String>,
    pub identity: Option<Identity>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub certificate: String,
    pub key: Secret,
}

impl Settings {
    /// Everything that is wrong with them, without reading a file.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.endpoints.is_empty() || self.endpoints.len() > ENDPOINTS_MAX {
            problems.push(format!("endpoints: between 1 and {ENDPOINTS_MAX}"));
        }
        let schemes = match self.kind {
            Kind::Etcd => ["http://", "https://"],
            Kind::Redis => ["redis://", "rediss://"],
        };
        for (at, url) in self.endpoints.iter().enumerate() {
            // Not printed before it is known to hold no password.
            if url.contains('@') {
                problems.push(format!("endpoints[{at}]: credentials belong in username and password_file"));
            } else if !schemes.iter().any(|scheme| url.starts_with(scheme)) {
                problems
                    .push(format!("endpoints[{at}]: {url:?} begins with neither {} nor {}", schemes[0], schemes[1]));
            }
        }
        if self.username.is_some() && self.password_file.is_none() {
            problems.push("username: needs a password_file".into());
        }
        if self.kind == Kind::Etcd && self.password_file.is_some() && self.username.is_none() {
            problems.push("password_file: etcd needs a username too".into());
        }
        if self.tls.cert_file.is_some() != self.tls.key_file.is_some() {
            problems.push("tls: cert_file and key_file belong together".into());
        }
        if !TIMEOUT_MS.contains(&self.timeout_ms) {
            problems.push(format!("timeout_ms: between {} and {}", TIMEOUT_MS.start(), TIMEOUT_MS.end()));
        }
        problems
    }

    pub(crate) fn open(&self) -> Result<Registry, RegistryError> {
        let problems = self.problems();
        if !problems.is_empty() {
            return Err(RegistryError::settings(problems.join("; ")));
        }
        let endpoints = self.endpoints.clone();
        let (login, tls) = (self.login()?, self.tls.read()?);
        let timeout = Duration::from_millis(self.timeout_ms);
        match self.kind {
            Kind::Etcd => Registry::etcd(EtcdOptions { endpoints, login, tls, timeout }),
            Kind::Redis => {
                let cluster = endpoints.len() > 1;
                let options = RedisOptions::cluster(endpoints);
                Registry::redis(RedisOptions { cluster, login, tls, timeout, ..options })
            }
        }
    }

    fn login(&self) -> Result<Option<Login>, RegistryError> {
        let Some(file) = &self.password_file else { return Ok(None) };
        let password = Secret::new(read(file)?.trim_end());
        Ok(Some(Login { username: self.username.clone().unwrap_or_default(), password }))
    }
}

impl TlsFiles {
    fn read(&self) -> Result<Option<Tls>, RegistryError> {
        let ca = self.ca_file.as_deref().map(read).transpose()?;
        let identity = match (&self.cert_file, &self.key_file) {
            (Some(certificate), Some(key)) => {
                Some(Identity { certificate: read(certificate)?, key: Secret::new(read(key)?) })
            }
            _ => None,
        };
        Ok((ca.is_some() || identity.is_some()).then_some(Tls { ca, identity }))
    }
}

fn read(file: &Path) -> Result<String, RegistryError> {
    std::fs::read_to_string(file)
        .map_err(|error| RegistryError::settings(format!("cannot read {}: {error}", file.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(json: &str) -> Settings {
        serde_json::from_str(json).expect("settings")
    }

    #[test]
    fn the_shortest_settings_are_kind_and_endpoints() {
        let settings = settings(r#"{"kind":"etcd","endpoints":["http://localhost:2379"]}"#);
        assert_eq!(settings.problems(), [""; 0]);
        assert_eq!(settings.timeout_ms, 2000);
        Registry::connect(&settings).expect("nothing is dialled");
    }

    #[test]
    fn what_is_unknown_is_refused() {
        let unknown = r#"{"kind":"etcd","endpoints":[],"tmeout_ms":1}"#;
        assert!(serde_json::from_str::<Settings>(unknown).is_err());
        assert!(serde_json::from_str::<Settings>(r#"{"kind":"zookeeper","endpoints":[]}"#).is_err());
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let settings = settings(
            r#"{"kind":"redis","endpoints":["http://a","redis://u:hunter2@b"],"username":"u","tls":{"key_file":"k"},"timeout_ms":0}"#,
        );
        let problems = settings.problems();
        assert_eq!(problems.len(), 5, "{problems:?}");
        let error = Registry::connect(&settings).expect_err("they are wrong").to_string();
        assert!(!error.contains("hunter2") && !format!("{settings:?}").contains("hunter2"), "{error}");
    }

    #[test]
    fn a_password_is_never_printed() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("password");
        std::fs::write(&file, "hunter2\n").expect("write");
        let mut settings = settings(r#"{"kind":"redis","endpoints":["redis://a"],"username":"u"}"#);
        settings.password_file = Some(file);
        let login = settings.login().expect("read").expect("there is one");
        assert_eq!(login.password.reveal(), "hunter2");
        let options = RedisOptions { login: Some(login), ..RedisOptions::new("redis://a") };
        assert!(!format!("{settings:?} {options:?}").contains("hunter2"));
    }
}
