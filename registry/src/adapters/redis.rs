//! Redis 7 or newer, alone or as a cluster; an instance of its own, which must not evict.
//!
//! Everything stands under one hash tag, so that a script may see all of it:
//!
//! | key | type | what |
//! |---|---|---|
//! | `{tidegate:registry}:entries` | hash | key → `version session value`; no session: permanent |
//! | `{tidegate:registry}:order` | sorted set | the keys, for listing by prefix |
//! | `{tidegate:registry}:clock` | string | the last version |
//! | `{tidegate:registry}:session:ID` | string | there while the session lives: `SET … PX` |
//! | `{tidegate:registry}:changes` | channel | each change, as it is made |
//!
//! An entry whose session is gone counts as absent, and whoever meets it removes it. Redis tells nobody when a key expires, and
//! forgets messages: so a watch also lists its prefix each second.

mod connection;
mod scripts;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use redis::{FromRedisValue, RedisError, ServerErrorKind};
use tokio::sync::mpsc;

use self::connection::{Connection, Dialler};
use self::scripts::Scripts;
use super::line::Line;
use crate::backend::{Answer, Backend, Claim, LeaseId};
use crate::backoff::random;
use crate::error::RegistryError;
use crate::known::Listing;
use crate::registry::Entry;
use crate::settings::{Login, Tls};
use crate::watch::WatchEvent;

#[derive(Clone, Debug)]
pub struct RedisOptions {
    /// `redis://host:port` or `rediss://host:port`.
    pub endpoints: Vec<String>,
    /// The endpoints are nodes of a Redis Cluster. Otherwise there is one.
    pub cluster: bool,
    pub login: Option<Login>,
    /// What `rediss` trusts and shows; `None`: the machine's roots, and no certificate of ours.
    pub tls: Option<Tls>,
    /// Of each request.
    pub timeout: Duration,
    /// How long at most a watch does not see what no message told: keys of a session that ran out.
    pub relist: Duration,
}

impl RedisOptions {
    pub fn new(endpoint: impl Into<String>) -> RedisOptions {
        RedisOptions { cluster: false, ..RedisOptions::cluster([endpoint]) }
    }

    pub fn cluster(endpoints: impl IntoIterator<Item = impl Into<String>>) -> RedisOptions {
        let endpoints = endpoints.into_iter().map(Into::into).collect();
        let (timeout, relist) = (crate::settings::TIMEOUT_DEFAULT, Duration::from_secs(1));
        RedisOptions { endpoints, cluster: true, login: None, tls: None, timeout, relist }
    }
}

pub(crate) struct Redis {
    line: Line<Connection>,
    dialler: Dialler,
    scripts: Scripts,
    relist: Duration,
}

impl Redis {
    pub(crate) fn new(options: RedisOptions) -> Result<Redis, RegistryError> {
        let (line, relist) = (Line::new(options.timeout), options.relist);
        Ok(Redis { line, dialler: Dialler::new(options)?, scripts: Scripts::new(), relist })
    }

    async fn run<T: FromRedisValue>(&self, script: &redis::Script, arguments: &[&str]) -> Result<T, RegistryError> {
        let invocation = scripts::invocation(script, arguments);
        let ask =
            |mut connection: Connection| async move { invocation.invoke_async(&mut connection).await.map_err(refusal) };
        self.line.call(|_| self.dialler.dial(), ask).await
    }

    async fn listing(&self, prefix: &str) -> Result<Listing, RegistryError> {
        let (revision, found): (u64, Vec<(String, u64, String)>) = self.run(&self.scripts.list, &[prefix]).await?;
        let entries = found.into_iter().map(|(key, version, value)| Entry { key, value, version }).collect();
        Ok(Listing { revision, entries })
    }
}

/// As a session stands in names and entries.
fn text(lease: LeaseId) -> String {
    format!("{:016x}", lease.0)
}

impl Backend for Redis {
    fn fetch<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Entry>> {
        async move {
            let found: Option<(u64, String)> = self.run(&self.scripts.fetch, &[key]).await?;
            Ok(found.map(|(version, value)| Entry { key: key.to_owned(), value, version }))
        }
        .boxed()
    }

    fn list<'a>(&'a self, prefix: &'a str) -> Answer<'a, Vec<Entry>> {
        async move { Ok(self.listing(prefix).await?.entries) }.boxed()
    }

    fn put<'a>(&'a self, key: &'a str, value: &'a str) -> Answer<'a, ()> {
        async move { self.run(&self.scripts.put, &[key, value]).await }.boxed()
    }

    fn create<'a>(&'a self, key: &'a str, value: &'a str) -> Answer<'a, bool> {
        async move { self.run(&self.scripts.create, &[key, value]).await }.boxed()
    }

    fn replace<'a>(&'a self, key: &'a str, expected: u64, value: &'a str) -> Answer<'a, bool> {
        async move { self.run(&self.scripts.replace, &[key, &expected.to_string(), value]).await }.boxed()
    }

    fn delete<'a>(&'a self, key: &'a str) -> Answer<'a, ()> {
        async move { self.run(&self.scripts.delete, &[key]).await }.boxed()
    }

    fn grant(&self, ttl: Duration) -> Answer<'_, LeaseId> {
        async move {
            let lease = LeaseId(random());
            let granted = self.run(&self.scripts.grant, &[&text(lease), &ttl.as_millis().to_string()]).await?;
            if granted { Ok(lease) } else { Err(RegistryError::unavailable("a session has this number already")) }
        }
        .boxed()
    }

    fn keep_alive(&self, lease: LeaseId, ttl: Duration) -> Answer<'_, bool> {
        async move { self.run(&self.scripts.keep_alive, &[&text(lease), &ttl.as_millis().to_string()]).await }.boxed()
    }

    fn revoke(&self, lease: LeaseId) -> Answer<'_, ()> {
        async move { self.run(&self.scripts.revoke, &[&text(lease)]).await }.boxed()
    }

    fn hold<'a>(&'a self, lease: LeaseId, key: &'a str, value: &'a str) -> Answer<'a, ()> {
        async move {
            let held = self.run(&self.scripts.hold, &[&text(lease), key, value]).await?;
            if held { Ok(()) } else { Err(RegistryError::SessionLost) }
        }
        .boxed()
    }

    fn claim<'a>(&'a self, lease: LeaseId, key: &'a str, value: &'a str) -> Answer<'a, Claim> {
        async move {
            let answer = self.run(&self.scripts.claim, &[&text(lease), key, value]).await?;
            let (whose, version, value): (String, u64, String) = answer;
            match whose.as_str() {
                "ours" => Ok(Claim::Ours { version }),
                "theirs" => Ok(Claim::Theirs(Entry { key: key.to_owned(), value, version })),
                _ => Err(RegistryError::SessionLost),
            }
        }
        .boxed()
    }

    fn release<'a>(&'a self, lease: LeaseId, key: &'a str) -> Answer<'a, ()> {
        async move { self.run(&self.scripts.release, &[&text(lease), key]).await }.boxed()
    }

    fn watch(self: Arc<Self>, prefix: String, events: mpsc::Sender<WatchEvent>) -> Answer<'static, ()> {
        async move { watch::follow(&self, &prefix, &events).await }.boxed()
    }

    /// It may be flushed, restarted without its data, or replaced by a replica that is behind.
    fn forgets(&self) -> bool {
        true
    }
}

fn refusal(error: RedisError) -> RegistryError {
    use redis::ErrorKind::{AuthenticationFailed, InvalidClientConfig, Server, UnexpectedReturnType};
    let refused = match error.kind() {
        Server(ServerErrorKind::NoPerm | ServerErrorKind::ResponseError | ServerErrorKind::CrossSlot) => true,
        AuthenticationFailed | InvalidClientConfig | UnexpectedReturnType => true,
        _ => matches!(error.code(), Some("NOAUTH" | "WRONGPASS" | "OOM" | "WRONGTYPE")),
    };
    if refused { RegistryError::rejected(error) } else { RegistryError::unavailable(error) }
}
