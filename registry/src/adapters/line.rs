//! One connection for everybody, dialled when somebody asks and dialled anew after a request on it failed.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::error::RegistryError;

pub(crate) struct Line<C> {
    timeout: Duration,
    slot: Mutex<Slot<C>>,
    /// Held by whoever dials; the others wait for what comes of it.
    dialling: tokio::sync::Mutex<()>,
}

struct Slot<C> {
    connection: Option<C>,
    dialled: u64,
}

/// From the first step of a request to its answer.
#[derive(Debug, thiserror::Error)]
#[error("no answer within {0:?}")]
struct Timeout(Duration);

impl<C: Clone> Line<C> {
    pub(crate) fn new(timeout: Duration) -> Line<C> {
        let slot = Mutex::new(Slot { connection: None, dialled: 0 });
        Line { timeout, slot, dialling: tokio::sync::Mutex::new(()) }
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Asks over the connection, or over a new one. `dial` is given the number of this attempt.
    pub(crate) async fn call<T, D, A>(
        &self,
        dial: impl FnOnce(u64) -> D,
        ask: impl FnOnce(C) -> A,
    ) -> Result<T, RegistryError>
    where
        D: Future<Output = Result<C, RegistryError>>,
        A: Future<Output = Result<T, RegistryError>>,
    {
        let deadline = Instant::now() + self.timeout;
        let late = || RegistryError::unavailable(Timeout(self.timeout));
        let (connection, number) = timeout_at(deadline, self.open(dial)).await.map_err(|_| late())??;
        let answer = timeout_at(deadline, ask(connection)).await.unwrap_or_else(|_| Err(late()));
        if matches!(answer, Err(RegistryError::Unavailable(_))) {
            self.close(number);
        }
        answer
    }

    async fn open<D>(&self, dial: impl FnOnce(u64) -> D) -> Result<(C, u64), RegistryError>
    where
        D: Future<Output = Result<C, RegistryError>>,
    {
        if let Some(open) = self.current() {
            return Ok(open);
        }
        let _alone = self.dialling.lock().await;
        if let Some(open) = self.current() {
            return Ok(open);
        }
        let number = {
            let mut slot = self.slot();
            slot.dialled += 1;
            slot.dialled
        };
        let connection = dial(number).await?;
        self.slot().connection = Some(connection.clone());
        Ok((connection, number))
    }

    fn current(&self) -> Option<(C, u64)> {
        let slot = self.slot();
        slot.connection.clone().map(|connection| (connection, slot.dialled))
    }

    /// Unless somebody has dialled anew since.
    fn close(&self, number: u64) {
        let mut slot = self.slot();
        if slot.dialled == number {
            slot.connection = None;
        }
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Slot<C>> {
        self.slot.lock().expect("nothing panics while it is held")
    }
}
