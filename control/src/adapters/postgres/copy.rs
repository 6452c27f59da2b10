//! Many rows of one table in PostgreSQL's own form of bulk writing: it fills pages at a time, where an insert goes through
//! every row, and costs about half.

use std::pin::pin;

use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Statement};

use super::changes::Changes;
use super::error::Failure;
use super::session::Session;
use super::sql;

/// From so many records on. It takes two more turns on the wire than an insert, which only pays where rows are many.
const RECORDS_MIN: usize = 16;

const RECORD: [Type; 4] = [Type::INT4, Type::INT8, Type::INT8, Type::BYTEA];
const PLACE: [Type; 7] = [Type::INT4, Type::TEXT, Type::INT8, Type::INT8, Type::INT8, Type::INT8, Type::INT4];

/// How the batch's records and places are written in this way; `None`: it does not pay.
pub(super) async fn statements(session: &mut Session, changes: &Changes) -> Result<Option<[Statement; 2]>, Failure> {
    if changes.records.len() < RECORDS_MIN {
        return Ok(None);
    }
    Ok(Some([session.prepare(sql::COPY_RECORDS).await?, session.prepare(sql::COPY_PLACES).await?]))
}

/// Writes both, one after the other.
pub(super) async fn write(
    client: &Client,
    [records, places]: &[Statement; 2],
    partition: i32,
    changes: &Changes,
) -> Result<(), tokio_postgres::Error> {
    let mut rows = pin!(BinaryCopyInWriter::new(client.copy_in(records).await?, &RECORD));
    for row in &changes.records {
        let values: [&(dyn ToSql + Sync); 4] = [&partition, &(row.lsn.0 as i64), &row.ts.0, &row.record];
        rows.as_mut().write(&values).await?;
    }
    rows.finish().await?;
    if changes.places.is_empty() {
        return Ok(());
    }
    let mut rows = pin!(BinaryCopyInWriter::new(client.copy_in(places).await?, &PLACE));
    for row in &changes.places {
        let numbers = [row.epoch.0 as i64, row.seq.0 as i64, row.lsn.0 as i64, row.ts.0];
        let (stream, size) = (row.stream.as_str(), row.size as i32);
        let [epoch, seq, lsn, ts] = &numbers;
        let values: [&(dyn ToSql + Sync); 7] = [&partition, &stream, epoch, seq, lsn, ts, &size];
        rows.as_mut().write(&values).await?;
    }
    rows.finish().await?;
    Ok(())
}
