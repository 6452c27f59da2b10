//! Following a prefix, for as long as anybody cares.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::backend::Backend;
use crate::backoff::{self, Backoff};
use crate::error::chain;
use crate::registry::Entry;
use crate::table::Table;

/// A reader that is this far behind makes its watch wait, not grow.
const EVENTS_MAX: usize = 256;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    /// Everything that is there, in the order of keys. What a reader knew before and does not find here is gone.
    Snapshot(Vec<Entry>),
    Put(Entry),
    Gone {
        key: String,
    },
}

/// First a snapshot, then every key's changes in their order; values in between may be skipped, the last one is not. After a
/// broken connection or a compaction it begins again by itself, with a fresh snapshot.
#[derive(Debug)]
pub struct Watch {
    events: mpsc::Receiver<WatchEvent>,
    task: JoinHandle<()>,
}

impl Watch {
    pub(crate) fn begin(backend: Arc<dyn Backend>, prefix: String) -> Watch {
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        Watch { events, task: tokio::spawn(follow(backend, prefix, sender)) }
    }

    /// Never ends. May be dropped while it waits: no event is lost.
    pub async fn next(&mut self) -> WatchEvent {
        match self.events.recv().await {
            Some(event) => event,
            // The runtime is going down, and this task with it.
            None => std::future::pending().await,
        }
    }

    /// The state instead of its changes.
    pub fn into_table(self) -> Table {
        Table::fed_by(self)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow(backend: Arc<dyn Backend>, prefix: String, events: mpsc::Sender<WatchEvent>) {
    let mut backoff = Backoff::new();
    loop {
        let began = Instant::now();
        match Arc::clone(&backend).watch(prefix.clone(), events.clone()).await {
            Ok(()) => return,
            Err(error) => tracing::warn!(prefix, error = chain(&error), "a watch broke and begins again"),
        }
        if began.elapsed() > backoff::LONGEST {
            backoff.reset();
        }
        backoff.wait().await;
    }
}
