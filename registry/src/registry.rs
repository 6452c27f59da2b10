//! The handle that everybody has.

use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::task::JoinHandle;

use crate::adapters::etcd::{Etcd, EtcdOptions};
use crate::adapters::memory::Memory;
use crate::adapters::redis::{Redis, RedisOptions};
use crate::backend::Backend;
use crate::error::RegistryError;
use crate::keeping::Keeping;
use crate::session::Session;
use crate::settings::Settings;
use crate::watch::Watch;

pub const KEY_BYTES_MAX: usize = 1024;
pub const VALUE_BYTES_MAX: usize = 64 * 1024;
/// Less would be lost to one slow request. etcd counts in whole seconds and never less than two.
pub const TTL_MIN: Duration = Duration::from_millis(500);
pub const TTL_MAX: Duration = Duration::from_secs(3600);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: String,
    pub value: String,
    /// Of the last change. Grows with every change, over all keys of the registry.
    pub version: u64,
}

impl Entry {
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, RegistryError> {
        serde_json::from_str(&self.value)
            .map_err(|source| RegistryError::InvalidValue { key: self.key.clone(), source: source.into() })
    }
}

/// A registry, over one of its adapters. Cheap to clone; clones share their connections. Nothing is dialled before the first
/// request, so that a process may begin while its registry is away.
#[derive(Clone)]
pub struct Registry {
    backend: Arc<dyn Backend>,
    /// `None`: sessions are kept where they begin.
    keeping: Option<Arc<Keeping>>,
}

impl Registry {
    /// Lives in this process, for one node alone and for tests.
    pub fn memory() -> Registry {
        Registry { backend: Arc::new(Memory::new()), keeping: None }
    }

    pub fn etcd(options: EtcdOptions) -> Result<Registry, RegistryError> {
        Registry::over(Etcd::new(options.clone())?, Etcd::new(options)?)
    }

    pub fn redis(options: RedisOptions) -> Result<Registry, RegistryError> {
        Registry::over(Redis::new(options.clone())?, Redis::new(options)?)
    }

    fn over(backend: impl Backend, kept_by: impl Backend) -> Result<Registry, RegistryError> {
        Ok(Registry { backend: Arc::new(backend), keeping: Some(Arc::new(Keeping::new(kept_by)?)) })
    }

    /// Reads the files that the settings name; dials nothing.
    pub fn connect(settings: &Settings) -> Result<Registry, RegistryError> {
        settings.open()
    }

    /// A lease that is kept alive every third of `ttl`, over etcd and Redis by a thread and a connection that do nothing else.
    pub async fn session(&self, ttl: Duration) -> Result<Session, RegistryError> {
        if !(TTL_MIN..=TTL_MAX).contains(&ttl) {
            return Err(RegistryError::InvalidTtl(ttl));
        }
        Session::begin(self.clone(), ttl).await
    }

    pub async fn get(&self, key: &str) -> Result<Option<Entry>, RegistryError> {
        check_key(key)?;
        self.backend.fetch(key).await
    }

    /// In the order of keys.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Entry>, RegistryError> {
        check_prefix(prefix)?;
        self.backend.list(prefix).await
    }

    /// Stays until it is deleted.
    pub async fn put(&self, key: &str, value: &str) -> Result<(), RegistryError> {
        check_pair(key, value)?;
        self.backend.put(key, value).await
    }

    /// As [`Registry::put`], unless the key is there: then nothing is changed, and the answer is false.
    pub async fn create(&self, key: &str, value: &str) -> Result<bool, RegistryError> {
        check_pair(key, value)?;
        self.backend.create(key, value).await
    }

    /// Changes the value if its version is the expected one. A key that belongs to a session goes on belonging to it.
    pub async fn replace(&self, key: &str, expected_version: u64, value: &str) -> Result<bool, RegistryError> {
        check_pair(key, value)?;
        self.backend.replace(key, expected_version, value).await
    }

    pub async fn delete(&self, key: &str) -> Result<(), RegistryError> {
        check_key(key)?;
        self.backend.delete(key).await
    }

    /// Follows all keys with a prefix, see [`Watch`]. A prefix that no key could have is followed in vain. Must be called in a
    /// tokio runtime.
    pub fn watch(&self, prefix: &str) -> Watch {
        Watch::begin(Arc::clone(&self.backend), prefix.to_owned())
    }

    pub(crate) fn keep<F>(&self, keep: impl FnOnce(Arc<dyn Backend>) -> F) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        match &self.keeping {
            Some(keeping) => keeping.spawn(keep),
            None => tokio::spawn(keep(Arc::clone(&self.backend))),
        }
    }

    pub(crate) fn backend(&self) -> &dyn Backend {
        &*self.backend
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Registry")
    }
}

pub(crate) fn check_pair(key: &str, value: &str) -> Result<(), RegistryError> {
    check_key(key)?;
    if value.len() > VALUE_BYTES_MAX {
        let source = format!("it has {} bytes, and {VALUE_BYTES_MAX} are allowed", value.len()).into();
        return Err(RegistryError::InvalidValue { key: key.to_owned(), source });
    }
    Ok(())
}

pub(crate) fn check_key(key: &str) -> Result<(), RegistryError> {
    if key.is_empty() {
        return Err(RegistryError::InvalidKey { key: String::new(), reason: "it is empty" });
    }
    check_prefix(key)
}

fn check_prefix(key: &str) -> Result<(), RegistryError> {
    let refuse = |reason| Err(RegistryError::InvalidKey { key: key.to_owned(), reason });
    if key.len() > KEY_BYTES_MAX {
        return refuse("it is too long");
    }
    // Messages of the Redis adapter end their keys with a newline.
    if key.chars().any(char::is_control) {
        return refuse("it has a control character");
    }
    Ok(())
}
