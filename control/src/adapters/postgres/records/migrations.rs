//! The tables of records, brought to this program's version. They have versions of their own, since they may stand in
//! another database than the store's.

use crate::adapters::postgres::error::Failure;
use crate::adapters::postgres::session::Session;

/// In order; one that was released is never changed, only followed by another.
const MIGRATIONS: &[(i32, &str)] = &[(1, include_str!("migrations/0001_records.sql"))];

const VERSIONS: &str = "create table if not exists records_migrations
     (version integer primary key, at timestamptz not null default now())";

/// `reco`, as a number; the other half of the key is the schema's name.
pub(super) const LOCK: i32 = 0x7265_636f;

pub(super) async fn migrate(session: &Session, schema: &str) -> Result<(), Failure> {
    // To create what exists takes a right that a user may not have. The name was checked to be a plain one.
    let known = session.client().query_opt("select 1 from pg_namespace where nspname = $1", &[&schema]).await?;
    if known.is_none() {
        session.client().batch_execute(&format!("create schema if not exists {schema}")).await?;
    }
    session.client().batch_execute("begin").await?;
    let done = migrate_locked(session, schema).await;
    session.client().batch_execute(if done.is_ok() { "commit" } else { "rollback" }).await?;
    done
}

async fn migrate_locked(session: &Session, schema: &str) -> Result<(), Failure> {
    let client = session.client();
    client.execute("select pg_advisory_xact_lock($1, hashtext($2))", &[&LOCK, &schema]).await?;
    client.batch_execute(VERSIONS).await?;
    let found: i32 =
        client.query_one("select coalesce(max(version), 0) from records_migrations", &[]).await?.try_get(0)?;
    let known = MIGRATIONS.last().map_or(0, |(version, _)| *version);
    if found > known {
        return Err(Failure::damaged(format_args!(
            "the tables of records are of version {found}, newer than {known}: this program is too old for them"
        )));
    }
    for (version, sql) in MIGRATIONS.iter().filter(|(version, _)| *version > found) {
        client.batch_execute(sql).await?;
        client.execute("insert into records_migrations (version) values ($1)", &[version]).await?;
    }
    Ok(())
}
