//! Push records and the words of messages in PostgreSQL, beside the store or in a database of their own.
//!
//! Invariants:
//! * A batch of records is one transaction: what is new is inserted, what is there is locked, merged in this program and
//!   written back. So the rules of merging stand in one place, and two nodes that write the same record lose nothing.
//! * Rows stand in parts of a week ([`parts`]), made before they are needed and dropped whole.
//! * A text is never part of a statement: words are parameters, and words have no punctuation in them.
//!
//! The first call makes the tables, so a server that is away holds nothing up. Nothing here blocks.

mod migrations;
mod parts;
mod reading;
mod rows;
mod sessions;
mod sql;
mod writing;

use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tidegate_control_core::domain::Timestamp;
use tidegate_control_core::ports::StoreError;

use super::error::{Failure, OpenError};
use super::is_plain_name;
use crate::records::{Batch, IndexError, RecordIndex, RecordPage, RecordQuery, TextPage, TextQuery, Written};
use sessions::Sessions;

#[derive(Clone, Debug)]
pub struct PostgresRecordsOptions {
    /// Where, and as whom. Does not show its password.
    pub server: tokio_postgres::Config,
    /// Holds the tables; made if it is missing. May be the store's.
    pub schema: String,
    /// Connections for queries; one more writes.
    pub read_connections: usize,
    /// For one request; the server gives up after it too.
    pub timeout: Duration,
    pub keep_days: u32,
}

impl PostgresRecordsOptions {
    pub fn new(server: tokio_postgres::Config) -> PostgresRecordsOptions {
        PostgresRecordsOptions {
            server,
            schema: "tidegate".to_owned(),
            read_connections: 2,
            timeout: Duration::from_secs(5),
            keep_days: 30,
        }
    }
}

#[derive(Debug)]
pub struct PostgresRecords {
    sessions: Sessions,
    keep_days: u32,
    parts: parts::Parts,
}

impl PostgresRecords {
    /// Asks nothing of the server yet.
    pub fn new(options: PostgresRecordsOptions) -> Result<PostgresRecords, OpenError> {
        if !is_plain_name(&options.schema) {
            return Err(OpenError::Schema(options.schema));
        }
        let keep_days = options.keep_days;
        Ok(PostgresRecords { sessions: Sessions::new(options)?, keep_days, parts: parts::Parts::default() })
    }

    /// How the server would answer this query, for those who wonder why it is slow.
    pub async fn explain(&self, query: &RecordQuery) -> Result<String, IndexError> {
        Ok(self.plan(sql::records(query)).await?)
    }

    /// As [`PostgresRecords::explain`].
    pub async fn explain_search(&self, query: &TextQuery) -> Result<String, IndexError> {
        Ok(self.plan(sql::search(query)).await?)
    }
}

impl RecordIndex for PostgresRecords {
    fn write<'a>(&'a self, batch: &'a Batch, now: Timestamp) -> BoxFuture<'a, Result<Written, IndexError>> {
        async move { Ok(self.write_folded(batch.fold(now, self.keep_days)).await?) }.boxed()
    }

    fn records<'a>(&'a self, query: &'a RecordQuery) -> BoxFuture<'a, Result<RecordPage, IndexError>> {
        async move { Ok(self.read_records(query).await?) }.boxed()
    }

    fn search<'a>(&'a self, query: &'a TextQuery) -> BoxFuture<'a, Result<TextPage, IndexError>> {
        async move { Ok(self.read_texts(query).await?) }.boxed()
    }

    fn maintain(&self, now: Timestamp) -> BoxFuture<'_, Result<(), IndexError>> {
        async move { Ok(self.maintain_parts(now).await?) }.boxed()
    }
}

/// What may pass is worth another try here as it is for the store.
impl From<Failure> for IndexError {
    fn from(failure: Failure) -> IndexError {
        match StoreError::from(failure) {
            StoreError::Unavailable(why) => IndexError::Unavailable(why),
            failed => IndexError::Failed(failed.to_string().into()),
        }
    }
}
