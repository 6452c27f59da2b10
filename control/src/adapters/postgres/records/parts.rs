//! The parts of the tables, one for each week: made ahead, dropped when all in them is too old.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use tidegate_control_core::domain::Timestamp;

use super::PostgresRecords;
use super::migrations::LOCK;
use crate::adapters::postgres::error::Failure;
use crate::adapters::postgres::session::Session;

const WEEK_MS: i64 = 7 * 86_400_000;
/// Weeks that have their part before they begin.
const AHEAD_WEEKS: i64 = 2;
const TABLES: [&str; 2] = ["push_records", "message_texts"];

/// Parts that this program has seen. Somebody else may have dropped one since; then a write fails once and looks again.
#[derive(Debug, Default)]
pub(super) struct Parts(Mutex<BTreeSet<i64>>);

impl Parts {
    fn with<T>(&self, act: impl FnOnce(&mut BTreeSet<i64>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn forget(&self) {
        self.with(BTreeSet::clear);
    }

    /// Makes the parts that rows of these times go into.
    pub async fn make(
        &self,
        session: &Session,
        schema: &str,
        times: impl Iterator<Item = Timestamp>,
    ) -> Result<(), Failure> {
        let wanted: BTreeSet<i64> = times.map(week).collect();
        let missing: Vec<i64> = self.with(|known| wanted.difference(known).copied().collect());
        if missing.is_empty() {
            return Ok(());
        }
        for week in &missing {
            for table in TABLES {
                make_part(session, schema, table, *week).await?;
            }
        }
        self.with(|known| known.extend(missing));
        Ok(())
    }
}

pub(super) fn week(ts: Timestamp) -> i64 {
    ts.0.div_euclid(WEEK_MS)
}

/// Attaching a part waits for all who read or write, so it is looked first whether it is there.
async fn make_part(session: &Session, schema: &str, table: &str, week: i64) -> Result<(), Failure> {
    let (client, part) = (session.client(), format!("{table}_w{week}"));
    let there = client.query_one("select to_regclass($1) is not null", &[&part]).await?;
    if there.try_get::<_, bool>(0)? {
        return Ok(());
    }
    let (from, to) = (week * WEEK_MS, (week + 1) * WEEK_MS);
    client.batch_execute("begin").await?;
    let made = async {
        client.execute("select pg_advisory_xact_lock($1, hashtext($2))", &[&LOCK, &schema]).await?;
        let create =
            format!("create table if not exists {part} partition of {table} for values from ({from}) to ({to})");
        client.batch_execute(&create).await
    };
    let made = made.await;
    client.batch_execute(if made.is_ok() { "commit" } else { "rollback" }).await?;
    Ok(made?)
}

impl PostgresRecords {
    pub(super) async fn maintain_parts(&self, now: Timestamp) -> Result<(), Failure> {
        let session = self.sessions.within(self.sessions.connect()).await?;
        let ahead = (0..=AHEAD_WEEKS).map(|weeks| Timestamp(now.0 + weeks * WEEK_MS));
        self.sessions.within(self.parts.make(&session, self.sessions.schema(), ahead)).await?;
        let oldest = week(Timestamp(now.0 - i64::from(self.keep_days) * 86_400_000));
        for table in TABLES {
            for part in self.sessions.within(parts_of(&session, table)).await? {
                let Some(week) = part.rsplit_once("_w").and_then(|(_, week)| week.parse::<i64>().ok()) else {
                    continue;
                };
                if week < oldest {
                    let drop = format!("drop table if exists {table}_w{week}");
                    self.sessions.within(async { Ok(session.client().batch_execute(&drop).await?) }).await?;
                    self.parts.with(|known| known.remove(&week));
                    tracing::info!(part, "push records were dropped: too old");
                }
            }
        }
        Ok(())
    }
}

async fn parts_of(session: &Session, table: &str) -> Result<Vec<String>, Failure> {
    let sql = "select c.relname::text from pg_inherits i join pg_class c on c.oid = i.inhrelid
         where i.inhparent = to_regclass($1) order by 1";
    let rows = session.client().query(sql, &[&table]).await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}
