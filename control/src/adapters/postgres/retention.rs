//! What is too old goes, some records at a time, on a connection of its own: commits do not wait for it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tidegate_control_core::domain::{Epoch, Lsn, OwnerEpoch, Record, StreamKey, Timestamp};

use super::changes::places_of;
use super::error::Failure;
use super::reader::{Shared, column, record};
use super::session::{Params, Session};
use super::sql;

/// Records, and keys of callers, that one transaction deletes.
const TRIM_RECORDS_MAX: i64 = 2_000;

/// Between two rows of a stream's trail lie at most about so many messages, and so much time if there are any.
const TRAIL_MESSAGES: i64 = 100;
const TRAIL_MS: i64 = 60_000;

/// What may go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Horizon {
    /// Records older than this.
    pub records: Timestamp,
    /// Callers' keys older than this.
    pub dedup: Timestamp,
    /// Whatever their age, only records up to here.
    pub upto: Lsn,
    /// A longer history has what is not older than this, and is found by a trail; `None`: there is no such history.
    pub trail: Option<Timestamp>,
}

#[derive(Debug, Default)]
pub(super) struct Retention {
    running: Arc<AtomicBool>,
}

impl Retention {
    /// Begins, unless it is still at work.
    pub fn begin(&self, shared: &Arc<Shared>, owner: OwnerEpoch, horizon: Horizon) {
        if self.running.swap(true, Ordering::AcqRel) {
            return;
        }
        let (running, weak) = (Arc::clone(&self.running), Arc::downgrade(shared));
        shared.engine.spawn(async move {
            // Only for its limits: the store may be dropped meanwhile, and this ends with its thread.
            if let Some(shared) = weak.upgrade() {
                let engine = &shared.engine;
                let done = async {
                    let mut session = engine.connect().await?;
                    trim(&mut session, &shared, owner, horizon).await
                };
                match done.await {
                    Ok(0) => {}
                    Ok(records) => tracing::info!(records, "retention"),
                    Err(failure) => tracing::warn!(%failure, "retention did not finish"),
                }
            }
            running.store(false, Ordering::Release);
        });
    }
}

/// Returns how many records went.
pub(super) async fn trim(
    session: &mut Session,
    shared: &Shared,
    owner: OwnerEpoch,
    horizon: Horizon,
) -> Result<u64, Failure> {
    let partition = shared.partition.0 as i32;
    let mut total = 0;
    loop {
        session.client().batch_execute("begin").await?;
        let trimmed = match still_owns(session, partition, owner).await {
            Ok(()) => trim_some(session, partition, horizon).await,
            Err(failure) => Err(failure),
        };
        let end = if trimmed.is_ok() { "commit" } else { "rollback" };
        session.client().batch_execute(end).await?;
        let Some((trimmed, last)) = trimmed? else { break };
        shared.tail.trim(last);
        total += trimmed;
        if trimmed < TRIM_RECORDS_MAX as u64 {
            break;
        }
    }
    drop_older(session, sql::TRIM_DEDUP, partition, horizon.dedup).await?;
    if let Some(trail) = horizon.trail {
        drop_older(session, sql::TRIM_TRAIL, partition, trail).await?;
    }
    Ok(total)
}

/// By a statement that deletes so many rows at most.
async fn drop_older(session: &mut Session, sql: &'static str, partition: i32, than: Timestamp) -> Result<(), Failure> {
    let limits: Params<'_> = &[&partition, &than.0, &TRIM_RECORDS_MAX];
    while session.execute(sql, limits).await? == TRIM_RECORDS_MAX as u64 {}
    Ok(())
}

async fn still_owns(session: &mut Session, partition: i32, owner: OwnerEpoch) -> Result<(), Failure> {
    let rows = session.query(sql::OWNER, &[&partition]).await?;
    match rows.first().map(|row| column::<i64>(row, 0)).transpose()? {
        Some(now) if now as u64 == owner.0 => Ok(()),
        _ => Err(Failure::Fenced),
    }
}

/// The oldest records with their places, and where their streams begin then, in one transaction. How many went, and which was
/// the last.
async fn trim_some(session: &mut Session, partition: i32, horizon: Horizon) -> Result<Option<(u64, Lsn)>, Failure> {
    let upto = horizon.upto.0 as i64;
    let rows = session.query(sql::TRIMMABLE, &[&partition, &upto, &TRIM_RECORDS_MAX]).await?;
    let mut records: Vec<(i64, Record)> = Vec::with_capacity(rows.len());
    for row in &rows {
        if column::<i64>(row, 1)? >= horizon.records.0 {
            break;
        }
        records.push((column(row, 0)?, record(column(row, 2)?)?));
    }
    let Some((last, _)) = records.last() else { return Ok(None) };
    let mut places = (Vec::new(), Vec::new(), Vec::new());
    // Sequence and order matter less than that each stands once: one statement changes a row once.
    let mut firsts: BTreeMap<(&StreamKey, u64), u64> = BTreeMap::new();
    for (stream, Epoch(epoch), seq) in records.iter().flat_map(|(_, record)| places_of(record)) {
        places.0.push(stream.as_str());
        places.1.push(epoch as i64);
        places.2.push(seq.0 as i64);
        let first = firsts.entry((stream, epoch)).or_default();
        *first = seq.0.max(*first);
    }
    let streams: Vec<&str> = firsts.keys().map(|(stream, _)| stream.as_str()).collect();
    let epochs: Vec<i64> = firsts.keys().map(|(_, epoch)| *epoch as i64).collect();
    let seqs: Vec<i64> = firsts.values().map(|seq| *seq as i64).collect();
    session.query(sql::LOCK_HEADS, &[&partition, &streams]).await?;
    session.execute(sql::RAISE_FIRST, &[&partition, &streams, &epochs, &seqs]).await?;
    if let Some(since) = horizon.trail {
        lay_trail(session, partition, &records, since).await?;
    }
    session.execute(sql::TRIM_PLACES, &[&partition, &places.0, &places.1, &places.2]).await?;
    session.execute(sql::TRIM_RECORDS, &[&partition, last]).await?;
    session.execute(sql::TRIMMED, &[&partition, last]).await?;
    Ok(Some((records.len() as u64, Lsn(*last as u64))))
}

/// Rows for the first message of each stream, and for one now and then after it.
async fn lay_trail(
    session: &mut Session,
    partition: i32,
    records: &[(i64, Record)],
    since: Timestamp,
) -> Result<(), Failure> {
    let mut rows = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut newest: BTreeMap<(&StreamKey, u64), (i64, i64)> = BTreeMap::new();
    for (_, record) in records {
        let Record::Append(append) = record else { continue };
        let ts = append.body.ts;
        for (stream, Epoch(epoch), seq) in places_of(record).into_iter().filter(|_| ts >= since) {
            let seq = seq.0 as i64;
            let near = |(last, at): &(i64, i64)| seq < last + TRAIL_MESSAGES && ts.0 < at + TRAIL_MS;
            if newest.get(&(stream, epoch)).is_some_and(near) {
                continue;
            }
            newest.insert((stream, epoch), (seq, ts.0));
            rows.0.push(stream.as_str());
            rows.1.push(epoch as i64);
            rows.2.push(seq);
            rows.3.push(ts.0);
        }
    }
    let trail: Params<'_> = &[&partition, &rows.0, &rows.1, &rows.2, &rows.3, &TRAIL_MESSAGES, &TRAIL_MS];
    session.execute(sql::LAY_TRAIL, trail).await?;
    Ok(())
}
