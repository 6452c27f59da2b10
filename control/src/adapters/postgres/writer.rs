//! The connection of a partition's owner, which writes batches.
//!
//! * A batch is one transaction. It begins with the partition's row, changed under the condition that owner, writer and
//!   last lsn are what we know: then nobody else writes, and nobody has written.
//! * Each new connection raises the row's `writer`. So once it stands, nothing of an earlier connection of ours, however
//!   late it arrives, can be committed any more, and the row says for good what was.

use futures_util::future::{join, join_all};
use tidegate_control_core::domain::{Lsn, OwnerEpoch, PartitionId};
use tokio_postgres::types::ToSql;

use super::changes::Changes;
use super::copy;
use super::error::Failure;
use super::session::{Engine, Params, Session};
use super::{rows, sql};

#[derive(Debug)]
pub(super) struct Writer {
    session: Session,
    partition: i32,
    owner: i64,
    /// Number of this connection.
    number: i64,
}

impl Writer {
    /// A new connection of this owner, and the lsn that the partition's log ends with: nothing of an older connection can
    /// move it any more.
    pub async fn connect(engine: &Engine, partition: PartitionId, owner: OwnerEpoch) -> Result<(Writer, Lsn), Failure> {
        let mut session = engine.connect().await?;
        let (partition, owner) = (partition.0 as i32, owner.0 as i64);
        let rows = session.query(sql::NEXT_WRITER, &[&partition, &owner]).await?;
        let row = rows.first().ok_or(Failure::Fenced)?;
        let number = row.try_get(0)?;
        let last = Lsn(row.try_get::<_, i64>(1)? as u64);
        for statement in sql::WRITES {
            session.prepare(statement).await?;
        }
        Ok((Writer { session, partition, owner, number }, last))
    }

    /// Writes a batch that follows `last`. Requests leave together and are answered together; only then it is committed.
    pub async fn write(&mut self, last: Lsn, changes: &Changes) -> Result<(), Failure> {
        let copies = copy::statements(&mut self.session, changes).await?;
        let mut requests = Vec::new();
        for (sql, columns) in rows::statements(changes, copies.is_some()) {
            requests.push((self.session.prepare(sql).await?, columns));
        }
        let fence = self.session.prepare(sql::ADVANCE).await?;
        let (from, upto, newest) = (last.0 as i64, (last.0 as usize + changes.records.len()) as i64, changes.newest.0);
        let source = changes.progress.consumed.map(|consumed| consumed.source as i32);
        let next = changes.progress.consumed.map(|consumed| consumed.next as i64);
        let routed = changes.progress.routed.map(|lsn| lsn.0 as i64);
        let client = self.session.client();
        let fence_params: Params<'_> =
            &[&self.partition, &self.owner, &self.number, &from, &upto, &newest, &source, &next, &routed];
        let fenced = async {
            let (begun, fenced) = join(client.batch_execute("begin"), client.execute(&fence, fence_params)).await;
            begun.and(fenced)
        };
        let writes = requests.iter().map(async |(statement, columns)| {
            let columns = columns.iter().map(|column| &**column as &(dyn ToSql + Sync));
            let params: Vec<_> = std::iter::once(&self.partition as &(dyn ToSql + Sync)).chain(columns).collect();
            client.query(statement, &params).await
        });
        let copying = async {
            match &copies {
                Some(statements) => copy::write(client, statements, self.partition, changes).await,
                None => Ok(()),
            }
        };
        let (fenced, (written, copied)) = join(fenced, join(join_all(writes), copying)).await;
        if fenced? != 1 {
            client.batch_execute("rollback").await?;
            return Err(self.why_fenced(last).await);
        }
        copied?;
        let mut answers = Vec::with_capacity(written.len());
        for answer in written {
            answers.push(answer?);
        }
        self.bound_marks(changes, &answers).await?;
        Ok(self.session.client().batch_execute("commit").await?)
    }

    /// Devices that are new to their stream may be one too many.
    async fn bound_marks(&mut self, changes: &Changes, answers: &[Vec<tokio_postgres::Row>]) -> Result<(), Failure> {
        if changes.marks.is_empty() {
            return Ok(());
        }
        let mut keys = (Vec::new(), Vec::new());
        for row in answers.iter().flatten().filter(|row| row.len() == 3) {
            if row.try_get(2)? {
                keys.0.push(row.try_get::<_, String>(0)?);
                keys.1.push(row.try_get::<_, String>(1)?);
            }
        }
        if !keys.0.is_empty() {
            let max = tidegate_control_core::ports::DEVICE_MARKS_MAX as i64;
            self.session.execute(sql::BOUND_MARKS, &[&self.partition, &keys.0, &keys.1, &max]).await?;
        }
        Ok(())
    }

    async fn why_fenced(&mut self, last: Lsn) -> Failure {
        let row = match self.session.query(sql::OWNER, &[&self.partition]).await {
            Ok(rows) => {
                rows.first().and_then(|row| Some((row.try_get::<_, i64>(0).ok()?, row.try_get::<_, i64>(1).ok()?)))
            }
            Err(failure) => return failure,
        };
        match row {
            Some((owner, found)) if owner == self.owner => {
                Failure::damaged(format_args!("the log ends at {found}, though its owner left it at {last}"))
            }
            _ => Failure::Fenced,
        }
    }
}
