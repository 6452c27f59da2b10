//! The tables, brought to this program's version when a store is opened. Several programs may open it at once.

use tokio_postgres::error::SqlState;

use super::error::{Failure, OpenError};
use super::session::Session;

/// In order; one that was released is never changed, only followed by another.
const MIGRATIONS: &[(i32, &str)] = &[
    (1, include_str!("migrations/0001_store.sql")),
    (2, include_str!("migrations/0002_cluster.sql")),
    (3, include_str!("migrations/0003_places.sql")),
    (4, include_str!("migrations/0004_trail.sql")),
];

const VERSIONS: &str = "create table if not exists migrations
     (version integer primary key, at timestamptz not null default now())";

/// `tide`, as a number; the other half of the key is the schema's name.
const LOCK: i32 = 0x7469_6465;

pub(super) async fn migrate(session: &Session, schema: &str) -> Result<(), OpenError> {
    // Checked to be a plain name. It is asked for first, since to create what exists takes a right that a user may not have.
    let known = session.client().query_opt("select 1 from pg_namespace where nspname = $1", &[&schema]).await;
    if known.map_err(Failure::from)?.is_none() {
        let create = format!("create schema if not exists {schema}");
        match session.client().batch_execute(&create).await {
            // Even so, of two who create it at the same moment one is told that it is there.
            Err(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => {}
            created => created.map_err(Failure::from)?,
        }
    }
    session.client().batch_execute("begin").await.map_err(Failure::from)?;
    let done = migrate_locked(session, schema).await;
    let end = if done.is_ok() { "commit" } else { "rollback" };
    session.client().batch_execute(end).await.map_err(Failure::from)?;
    done
}

async fn migrate_locked(session: &Session, schema: &str) -> Result<(), OpenError> {
    let client = session.client();
    let version = async {
        client.execute("select pg_advisory_xact_lock($1, hashtext($2))", &[&LOCK, &schema]).await?;
        client.batch_execute(VERSIONS).await?;
        let row = client.query_one("select coalesce(max(version), 0) from migrations", &[]).await?;
        row.try_get::<_, i32>(0)
    };
    let found = version.await.map_err(Failure::from)?;
    let known = MIGRATIONS.last().map_or(0, |(version, _)| *version);
    if found > known {
        return Err(OpenError::Newer { found, known });
    }
    for (version, sql) in MIGRATIONS.iter().filter(|(version, _)| *version > found) {
        client.batch_execute(sql).await.map_err(Failure::from)?;
        client.execute("insert into migrations (version) values ($1)", &[version]).await.map_err(Failure::from)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_rise_by_one() {
        let versions: Vec<i32> = MIGRATIONS.iter().map(|(version, _)| *version).collect();
        assert_eq!(versions, (1..=versions.len() as i32).collect::<Vec<_>>());
    }
}
