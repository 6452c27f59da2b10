//! A prefix as a table that is always current, for the many who want the state and not its changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

use crate::registry::Entry;
use crate::watch::{Watch, WatchEvent};

type Entries = Arc<BTreeMap<String, Entry>>;

/// Empty until the first snapshot came. While the registry is away it keeps what was known last. Clones share one watch, which
/// ends with the last of them.
#[derive(Clone, Debug)]
pub struct Table {
    entries: watch::Receiver<Entries>,
    ready: watch::Receiver<bool>,
}

impl Table {
    pub(crate) fn fed_by(mut watch: Watch) -> Table {
        let (sender, entries) = watch::channel(Entries::default());
        let (is_ready, ready) = watch::channel(false);
        tokio::spawn(async move {
            let mut known = BTreeMap::new();
            loop {
                let event = tokio::select! {
                    event = watch.next() => event,
                    () = sender.closed() => return,
                };
                match event {
                    WatchEvent::Snapshot(entries) => {
                        known = entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
                    }
                    WatchEvent::Put(entry) => {
                        known.insert(entry.key.clone(), entry);
                    }
                    WatchEvent::Gone { key } => {
                        known.remove(&key);
                    }
                }
                sender.send_replace(Arc::new(known.clone()));
                is_ready.send_replace(true);
            }
        });
        Table { entries, ready }
    }

    /// Resolves once the first snapshot is in. With a registry that does not answer this takes as long as that lasts.
    pub async fn ready(&mut self) {
        // The task lives as long as this table does, unless its runtime goes down.
        if self.ready.wait_for(|ready| *ready).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    pub fn current(&self) -> Arc<BTreeMap<String, Entry>> {
        Arc::clone(&self.entries.borrow())
    }

    /// Resolves when there is something that this clone has not seen yet, and returns all of it.
    pub async fn changed(&mut self) -> Arc<BTreeMap<String, Entry>> {
        if self.entries.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        Arc::clone(&self.entries.borrow_and_update())
    }

    /// For `select!`s and streams of one's own.
    pub fn receiver(&self) -> watch::Receiver<Arc<BTreeMap<String, Entry>>> {
        self.entries.clone()
    }
}
