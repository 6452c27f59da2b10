//! Queries.

use super::sql::Asked;
use super::{PostgresRecords, rows, sql};
use crate::adapters::postgres::error::Failure;
use crate::adapters::postgres::reader::column;
use crate::records::{RecordPage, RecordQuery, TextPage, TextQuery};

impl PostgresRecords {
    pub(super) async fn read_records(&self, query: &RecordQuery) -> Result<RecordPage, Failure> {
        let rows = self.sessions.read(&sql::records(query)).await?;
        let records = rows.iter().map(rows::record).collect::<Result<_, _>>()?;
        Ok(RecordPage::of(records, query.limit()))
    }

    pub(super) async fn read_texts(&self, query: &TextQuery) -> Result<TextPage, Failure> {
        if query.scope.is_empty() {
            return Ok(TextPage::default());
        }
        let rows = self.sessions.read(&sql::search(query)).await?;
        let hits = rows.iter().map(rows::hit).collect::<Result<_, _>>()?;
        Ok(TextPage::of(hits, query.limit()))
    }

    pub(super) async fn plan(&self, mut asked: Asked) -> Result<String, Failure> {
        asked.text.insert_str(0, "explain ");
        let rows = self.sessions.read(&asked).await?;
        let lines = rows.iter().map(|row| column::<String>(row, 0)).collect::<Result<Vec<_>, _>>()?;
        Ok(lines.join("\n"))
    }
}
