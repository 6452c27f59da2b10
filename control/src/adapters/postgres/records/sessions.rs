//! Connections: one that writes, a few that read, each made when it is needed and left after a failure.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_postgres::Row;

use super::sql::Asked;
use super::{PostgresRecordsOptions, migrations};
use crate::adapters::postgres::error::{Failure, OpenError};
use crate::adapters::postgres::session::{Engine, Session};

#[derive(Debug)]
pub(super) struct Sessions {
    engine: Engine,
    schema: String,
    timeout: Duration,
    migrated: tokio::sync::Mutex<bool>,
    pub writer: tokio::sync::Mutex<Option<Session>>,
    readers: Mutex<Vec<Session>>,
    reading: Semaphore,
}

impl Sessions {
    pub fn new(options: PostgresRecordsOptions) -> Result<Sessions, OpenError> {
        let engine = Engine::new(options.server, &options.schema, None, options.timeout)?;
        Ok(Sessions {
            engine,
            schema: options.schema,
            timeout: options.timeout,
            migrated: tokio::sync::Mutex::new(false),
            writer: tokio::sync::Mutex::new(None),
            readers: Mutex::default(),
            reading: Semaphore::new(options.read_connections.max(1)),
        })
    }

    pub fn schema(&self) -> &str {
        &self.schema
    }

    /// A new connection to tables that are up to date.
    pub async fn connect(&self) -> Result<Session, Failure> {
        let session = self.engine.connect().await?;
        let mut migrated = self.migrated.lock().await;
        if !*migrated {
            migrations::migrate(&session, &self.schema).await?;
            *migrated = true;
        }
        Ok(session)
    }

    /// After a failure the tables may be gone: the next connection looks again.
    pub async fn forget(&self) {
        *self.migrated.lock().await = false;
    }

    pub async fn within<T>(&self, request: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        tokio::time::timeout(self.timeout, request).await.unwrap_or(Err(Failure::Late(self.timeout)))
    }

    /// Asks by one of the connections that read. One that was left for a while may be dead: then a new one is asked.
    pub async fn read(&self, asked: &Asked) -> Result<Vec<Row>, Failure> {
        let permit = self.within(async { Ok(self.reading.acquire().await) }).await;
        let _permit = permit.map_err(|_| Failure::Busy(self.timeout))?;
        let old = self.readers().pop().filter(is_open);
        if let Some(session) = old {
            match self.within(ask(&session, asked)).await {
                Err(_) if !is_open(&session) => {}
                Err(failure) => return Err(failure),
                Ok(rows) => {
                    self.readers().push(session);
                    return Ok(rows);
                }
            }
        }
        let new = async {
            let session = self.connect().await?;
            let rows = ask(&session, asked).await?;
            Ok((session, rows))
        };
        let (session, rows) = self.within(new).await?;
        self.readers().push(session);
        Ok(rows)
    }

    fn readers(&self) -> std::sync::MutexGuard<'_, Vec<Session>> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn ask(session: &Session, asked: &Asked) -> Result<Vec<Row>, Failure> {
    Ok(session.client().query_typed(&asked.text, &asked.params()).await?)
}

pub(super) fn is_open(session: &Session) -> bool {
    !session.client().is_closed()
}
