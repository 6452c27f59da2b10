//! The port: what an adapter must do. Its promises are the suite in `tests/`.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

use crate::error::RegistryError;
use crate::registry::Entry;
use crate::watch::WatchEvent;

pub(crate) type Answer<'a, T> = BoxFuture<'a, Result<T, RegistryError>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct LeaseId(pub u64);

/// What became of a claim, with the version by which it can be told from every other claim of the key.
#[derive(Debug)]
pub(crate) enum Claim {
    Ours { version: u64 },
    Theirs(Entry),
}

/// Versions grow with every change, over all keys. Keys and values were checked by the caller. Every method but
/// [`Backend::watch`] returns within the adapter's timeout.
pub(crate) trait Backend: Send + Sync + 'static {
    fn fetch<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Entry>>;

    /// In the order of keys.
    fn list<'a>(&'a self, prefix: &'a str) -> Answer<'a, Vec<Entry>>;

    fn put<'a>(&'a self, key: &'a str, value: &'a str) -> Answer<'a, ()>;

    fn create<'a>(&'a self, key: &'a str, value: &'a str) -> Answer<'a, bool>;

    /// A key that belongs to a lease goes on belonging to it.
    fn replace<'a>(&'a self, key: &'a str, expected: u64, value: &'a str) -> Answer<'a, bool>;

    fn delete<'a>(&'a self, key: &'a str) -> Answer<'a, ()>;

    /// The lease lasts at least `ttl` from the moment this is called.
    fn grant(&self, ttl: Duration) -> Answer<'_, LeaseId>;

    /// False: the lease is over. Otherwise it lasts at least `ttl` from the moment this is called.
    fn keep_alive(&self, lease: LeaseId, ttl: Duration) -> Answer<'_, bool>;

    /// Its keys go with it.
    fn revoke(&self, lease: LeaseId) -> Answer<'_, ()>;

    /// [`RegistryError::SessionLost`]: the lease is over.
    fn hold<'a>(&'a self, lease: LeaseId, key: &'a str, value: &'a str) -> Answer<'a, ()>;

    /// [`RegistryError::SessionLost`]: the lease is over. Ours already: nothing is written, unless the value differs.
    fn claim<'a>(&'a self, lease: LeaseId, key: &'a str, value: &'a str) -> Answer<'a, Claim>;

    fn release<'a>(&'a self, lease: LeaseId, key: &'a str) -> Answer<'a, ()>;

    /// Follows a prefix until something breaks: first a snapshot, then changes. Values in between may be skipped, the last
    /// one is not. Returns `Ok` when nobody listens any more.
    fn watch(self: Arc<Self>, prefix: String, events: mpsc::Sender<WatchEvent>) -> Answer<'static, ()>;

    /// Whether the server can lose everything while those who wrote it live on.
    fn forgets(&self) -> bool;
}
