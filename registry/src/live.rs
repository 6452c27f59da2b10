//! Configuration of the whole cluster that changes while it runs.
//!
//! Each section is one key with JSON in it. A value that does not fit changes nothing: the last good one stays in force, and
//! both are told, in the log and in [`Section`].

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::error::{RegistryError, chain};
use crate::names::Names;
use crate::registry::{Entry, Registry};
use crate::table::Table;

/// All sections of a cluster, followed by one watch.
#[derive(Clone, Debug)]
pub struct LiveConfig {
    registry: Registry,
    names: Names,
    table: Table,
}

/// A section as it is now.
#[derive(Debug)]
pub struct Section<T> {
    /// In force.
    pub value: Arc<T>,
    /// Of the value in force; `None`: that of the process itself, since the registry has none.
    pub version: Option<u64>,
    /// What stands in the registry instead, and cannot be used.
    pub rejected: Option<Rejected>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    pub version: u64,
    pub reason: String,
}

/// One section, of one type. Clones see the same.
#[derive(Debug)]
pub struct Live<T>(watch::Receiver<Arc<Section<T>>>);

impl<T> Clone for Live<T> {
    fn clone(&self) -> Live<T> {
        Live(self.0.clone())
    }
}

impl LiveConfig {
    /// Must be called in a tokio runtime.
    pub fn new(registry: &Registry, names: &Names) -> LiveConfig {
        let table = registry.watch(&names.config_prefix()).into_table();
        LiveConfig { registry: registry.clone(), names: names.clone(), table }
    }

    /// Resolves once the registry has told what it has.
    pub async fn ready(&mut self) {
        self.table.ready().await;
    }

    /// The section's value, or `default` as long as the registry has none, and again once it is deleted.
    pub fn section<T>(&self, name: &str, default: T) -> Result<Live<T>, RegistryError>
    where
        T: DeserializeOwned + Send + Sync + 'static,
    {
        let key = self.names.config(name)?;
        let mut entries = self.table.receiver();
        let default = Arc::new(default);
        let none = || Section { value: Arc::clone(&default), version: None, rejected: None };
        let first = match next(&none(), entries.borrow_and_update().get(&key), &default) {
            Some(section) => {
                report(&key, &section);
                section
            }
            None => none(),
        };
        let (sender, receiver) = watch::channel(Arc::new(first));
        // Keeps the watch running for as long as the section is used, also without this `LiveConfig`.
        let table = self.table.clone();
        tokio::spawn(async move {
            let _table = table;
            loop {
                let found = entries.borrow_and_update().get(&key).cloned();
                let section = next(&sender.borrow(), found.as_ref(), &default);
                if let Some(section) = section {
                    report(&key, &section);
                    sender.send_replace(Arc::new(section));
                }
                tokio::select! {
                    changed = entries.changed() => if changed.is_err() { return },
                    () = sender.closed() => return,
                }
            }
        });
        Ok(Live(receiver))
    }

    /// Changes it for the whole cluster.
    pub async fn set<T: Serialize>(&self, name: &str, value: &T) -> Result<(), RegistryError> {
        let key = self.names.config(name)?;
        match serde_json::to_string(value) {
            Ok(json) => self.registry.put(&key, &json).await,
            Err(source) => Err(RegistryError::InvalidValue { key, source: source.into() }),
        }
    }
}

impl<T> Live<T> {
    /// The value in force.
    pub fn current(&self) -> Arc<T> {
        Arc::clone(&self.0.borrow().value)
    }

    pub fn section(&self) -> Arc<Section<T>> {
        Arc::clone(&self.0.borrow())
    }

    /// Resolves when the section is another than this clone has seen, or when a value was rejected.
    pub async fn changed(&mut self) -> Arc<Section<T>> {
        if self.0.changed().await.is_err() {
            // Its runtime is going down.
            std::future::pending::<()>().await;
        }
        Arc::clone(&self.0.borrow_and_update())
    }
}

/// What follows the present section, if it is another.
fn next<T: DeserializeOwned>(present: &Section<T>, found: Option<&Entry>, default: &Arc<T>) -> Option<Section<T>> {
    let Some(entry) = found else {
        let is_default = present.version.is_none() && present.rejected.is_none();
        return (!is_default).then(|| Section { value: Arc::clone(default), version: None, rejected: None });
    };
    let seen = present.rejected.as_ref().map_or(present.version, |rejected| Some(rejected.version));
    if seen == Some(entry.version) {
        return None;
    }
    Some(match entry.parse() {
        Ok(value) => Section { value: Arc::new(value), version: Some(entry.version), rejected: None },
        Err(error) => Section {
            value: Arc::clone(&present.value),
            version: present.version,
            rejected: Some(Rejected { version: entry.version, reason: chain(&error) }),
        },
    })
}

fn report<T>(key: &str, section: &Section<T>) {
    match &section.rejected {
        None => tracing::info!(key, version = section.version, "configuration changed"),
        Some(rejected) => tracing::error!(
            key,
            version = rejected.version,
            in_force = section.version,
            reason = rejected.reason,
            "configuration rejected: the last good one stays"
        ),
    }
}
