//! A lock that is given in the order in which it was asked for.
//!
//! Whoever wants it claims a ticket of its own below the lock's key; the oldest ticket has the lock. A ticket's version is its fencing
//! number, since versions grow from ticket to ticket. A ticket goes with its session, so nobody waits for the dead for longer
//! than their term.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::backend::Claim;
use crate::error::{RegistryError, chain};
use crate::session::{Lease, Session};
use crate::watch::{Watch, WatchEvent};

impl Session {
    /// Waits for its turn. Dropping the future gives up the place in the queue.
    pub async fn lock(&self, key: &str) -> Result<Lock, RegistryError> {
        let ticket = format!("{key}/{}", self.lease().unique());
        // Made before the ticket is claimed: whatever happens from here on, the ticket is given back.
        let mut lock = Lock { lease: Arc::clone(self.lease()), ticket, fencing: 0 };
        lock.fencing = match lock.lease.claim(&lock.ticket, "").await? {
            Claim::Ours { version } => version,
            Claim::Theirs(_) => return Err(RegistryError::unavailable(Removed)),
        };
        let watch = self.lease().registry.watch(&format!("{key}/"));
        tokio::select! {
            turn = lock.turn(watch) => turn.map(|()| lock),
            () = self.lost() => Err(RegistryError::SessionLost),
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("somebody removed a lock's ticket")]
struct Removed;

/// Held until it is released or dropped, or its session ends.
#[derive(Debug)]
pub struct Lock {
    lease: Arc<Lease>,
    ticket: String,
    fencing: u64,
}

impl Lock {
    /// Larger than that of whoever had the lock before. What is written under the lock carries it, and what is written to refuses
    /// smaller ones: a holder that stopped for a while may not know yet that it lost the lock.
    pub fn fencing(&self) -> u64 {
        self.fencing
    }

    pub fn is_held(&self) -> bool {
        self.lease.is_alive()
    }

    /// Resolves when [`Lock::is_held`] turns false.
    pub async fn lost(&self) {
        self.lease.lost().await;
    }

    /// The next one in the queue has its turn when this returns `Ok`.
    pub async fn release(mut self) -> Result<(), RegistryError> {
        let ticket = std::mem::take(&mut self.ticket);
        self.lease.release(&ticket).await
    }

    async fn turn(&self, mut watch: Watch) -> Result<(), RegistryError> {
        let mut tickets = BTreeMap::new();
        loop {
            match watch.next().await {
                WatchEvent::Snapshot(entries) => {
                    tickets = entries.into_iter().map(|entry| (entry.key, entry.version)).collect();
                }
                WatchEvent::Put(entry) => {
                    tickets.insert(entry.key, entry.version);
                }
                WatchEvent::Gone { key } => {
                    tickets.remove(&key);
                }
            }
            if !tickets.contains_key(&self.ticket) {
                return Err(RegistryError::unavailable(Removed));
            }
            // A picture that is old does no harm: older tickets only ever go.
            if tickets.values().all(|version| *version >= self.fencing) {
                return Ok(());
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let ticket = std::mem::take(&mut self.ticket);
        // Released already, or it goes with the session.
        if ticket.is_empty() || !self.lease.is_alive() {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let lease = Arc::clone(&self.lease);
        runtime.spawn(async move {
            if let Err(error) = lease.release(&ticket).await {
                tracing::warn!(ticket, error = chain(&error), "a lock goes with its session only");
            }
        });
    }
}
