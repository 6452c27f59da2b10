//! A batch of records as one transaction, and its texts.

use hashbrown::HashSet;

use super::sessions::is_open;
use super::{PostgresRecords, rows, sql};
use crate::adapters::postgres::error::Failure;
use crate::adapters::postgres::reader::column;
use crate::adapters::postgres::session::Session;
use crate::records::{Batch, Folded, PushRecord, RecordPosition, Written};

impl PostgresRecords {
    pub(super) async fn write_folded(&self, folded: Folded) -> Result<Written, Failure> {
        let Folded { records, texts, refused } = folded;
        if records.is_empty() && texts.is_empty() {
            return Ok(Written { refused, ..Written::default() });
        }
        let mut writer = self.sessions.writer.lock().await;
        let done = self.sessions.within(async {
            let mut session = match writer.take().filter(is_open) {
                Some(session) => session,
                None => self.sessions.connect().await?,
            };
            let times = records.keys().map(|position| position.ts).chain(texts.keys().map(|key| key.0));
            self.parts.make(&session, self.sessions.schema(), times).await?;
            let mut changed = 0;
            if !records.is_empty() {
                let records: Vec<PushRecord> = records.into_values().collect();
                session.client().batch_execute("begin").await?;
                // An error leaves the connection, and with it the transaction, behind.
                changed += write_records(&mut session, records).await?;
                session.client().batch_execute("commit").await?;
            }
            if !texts.is_empty() {
                let columns = rows::TextColumns::of(texts.values());
                changed += session.execute(sql::INSERT_TEXTS, &columns.params()).await? as usize;
            }
            Ok((session, changed))
        });
        match done.await {
            Ok((session, changed)) => {
                *writer = Some(session);
                Ok(Written { changed, again: Batch::default(), refused })
            }
            Err(failure) => {
                self.parts.forget();
                self.sessions.forget().await;
                Err(failure)
            }
        }
    }
}

/// Inserts what is new; what is there is locked and merged. Both in the order of their keys.
async fn write_records(session: &mut Session, mut records: Vec<PushRecord>) -> Result<usize, Failure> {
    let columns = rows::RecordColumns::of(records.iter());
    let inserted = session.query(sql::INSERT, &columns.params()).await?;
    if inserted.len() == records.len() {
        return Ok(inserted.len());
    }
    let mut new = HashSet::with_capacity(inserted.len());
    for row in &inserted {
        new.insert((column::<String>(row, 0)?, Box::<str>::from(column::<&str>(row, 1)?)));
    }
    records.retain(|record| !new.contains(&(record.id.to_string(), record.to.clone())));
    let columns = rows::RecordColumns::of(records.iter());
    let known = session.query(sql::LOCK, &columns.keys()).await?;
    let mut changed = Vec::new();
    let mut known = known.iter().map(rows::record).collect::<Result<Vec<_>, _>>()?;
    known.sort_by_cached_key(RecordPosition::of);
    for record in records {
        let position = RecordPosition::of(&record);
        // A row that is gone since the insert met it is gone for its age.
        let Ok(at) = known.binary_search_by_key(&position, RecordPosition::of) else { continue };
        let mut merged = known[at].clone();
        merged.merge(record);
        if merged != known[at] {
            changed.push(merged);
        }
    }
    if !changed.is_empty() {
        let columns = rows::RecordColumns::of(changed.iter());
        session.execute(sql::UPDATE, &columns.params()).await?;
    }
    Ok(inserted.len() + changed.len())
}
