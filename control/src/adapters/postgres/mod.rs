//! The store in PostgreSQL: one log per control partition, and what is looked up in it.
//!
//! Invariants:
//! * A commit is one transaction, which begins with the partition's row ([`writer`]). An owner that was followed by another
//!   can commit nothing.
//! * A commit whose outcome was not heard is settled by the next connection: it raises the row's `writer`, after which
//!   nothing of the earlier connection can come into force, and finds whether the batch stands. If it does, committing the
//!   same batch again returns its lsn and writes nothing: no twin. If it does and another batch comes instead, the partition
//!   has given it up meanwhile: that is fatal, since only opening the store again tells what is true.
//! * Each look-up is one statement and sees one moment ([`reader`]); retention moves `first`, places and records at once.
//!
//! Every method blocks: none may be called where futures run.

mod changes;
mod copy;
mod error;
mod migrations;
mod reader;
pub mod records;
mod retention;
mod rows;
mod session;
mod spread;
mod sql;
mod tail;
mod tls;
mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tidegate_control_core::domain::{Epoch, Gid, Lsn, OwnerEpoch, PartitionId, Record, Seq, StreamKey, Timestamp, Uid};
use tidegate_control_core::ports::{
    Consumed, DedupHit, DeviceMark, Group, Head, Member, MessageStore, Page, PageLimit, Progress, ReplayPage,
    StoreError, StoreReader,
};

use changes::Changes;
use reader::{Shared, column};
use retention::{Horizon, Retention};
use session::{Engine, Pool, Session};
use tail::Tail;
use writer::Writer;

pub use error::{Failure, OpenError};
pub use reader::PostgresReader;
pub use spread::SpreadReader;
pub use tls::tls;

/// As PostgreSQL cuts longer names.
const SCHEMA_BYTES_MAX: usize = 63;

#[derive(Clone, Debug)]
pub struct PostgresOptions {
    /// Where, and as whom. Does not show its password.
    pub server: tokio_postgres::Config,
    /// Holds the tables; made if it is missing.
    pub schema: String,
    /// Of the connection, if it is to be encrypted.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// How many partitions there are; the same for as long as the tables live.
    pub partitions: u32,
    pub partition: PartitionId,
    /// Connections for look-ups; one more writes, and one more trims.
    pub read_connections: usize,
    /// For one request; the server gives up after it too.
    pub timeout: Duration,
    /// Records that are older than this go.
    pub retention_age_s: u64,
    /// Retention begins at most this often.
    pub retention_every_s: u64,
    /// For how long a caller's key is remembered.
    pub dedup_horizon_s: u64,
    /// For so long a longer history has what retention took here, and a trail to it is laid; 0: there is none.
    pub trail_s: u64,
}

impl PostgresOptions {
    pub fn new(server: tokio_postgres::Config) -> PostgresOptions {
        PostgresOptions {
            server,
            schema: "tidegate".to_owned(),
            tls: None,
            partitions: 1,
            partition: PartitionId(0),
            read_connections: 4,
            timeout: Duration::from_secs(5),
            retention_age_s: 7 * 86_400,
            retention_every_s: 60,
            dedup_horizon_s: 86_400,
            trail_s: 0,
        }
    }
}

/// A server with the tables of all partitions: one thread and one pool of connections for all that is asked of it here.
#[derive(Clone, Debug)]
pub struct Postgres {
    engine: Arc<Engine>,
    pool: Arc<Pool>,
    options: PostgresOptions,
}

/// The owner's side of one partition.
#[derive(Debug)]
pub struct PostgresStore {
    shared: Arc<Shared>,
    reader: PostgresReader,
    /// `None`: the connection was lost.
    writer: Option<Writer>,
    unsettled: Option<Unsettled>,
    identity: Identity,
    last_timestamp: Timestamp,
    progress: Progress,
    retention: Retention,
    retained_at: Timestamp,
    options: PostgresOptions,
}

#[derive(Clone, Copy, Debug)]
struct Identity {
    base_epoch: Epoch,
    owner_epoch: OwnerEpoch,
}

/// A batch of which it is not known whether it was committed.
#[derive(Debug)]
struct Unsettled {
    upto: Lsn,
    digest: [u8; 32],
}

impl Postgres {
    /// Makes what is missing of the tables. Blocks.
    pub fn connect(options: PostgresOptions) -> Result<Postgres, OpenError> {
        if !is_plain_name(&options.schema) {
            return Err(OpenError::Schema(options.schema));
        }
        let engine =
            Arc::new(Engine::new(options.server.clone(), &options.schema, options.tls.clone(), options.timeout)?);
        let mut session = engine.wait(engine.connect())?;
        let (schema, partitions) = (options.schema.clone(), options.partitions);
        engine.wait(async { Ok(prepare(&mut session, &schema, partitions).await) })??;
        let pool = Arc::new(Pool::new(options.read_connections.max(1)));
        Ok(Postgres { engine, pool, options })
    }

    /// Takes a partition from whoever had it. Blocks.
    pub fn open(&self, partition: PartitionId) -> Result<PostgresStore, OpenError> {
        let engine = &self.engine;
        let session = engine.wait(engine.connect())?;
        let taken = engine.wait(take(session, partition))?;
        let (writer, last) = engine.wait(Writer::connect(engine, partition, taken.identity.owner_epoch))?;
        let shared = Arc::new(Shared {
            engine: Arc::clone(engine),
            pool: Arc::clone(&self.pool),
            partition,
            last_lsn: AtomicU64::new(last.0),
            tail: Tail::new(last),
        });
        Ok(PostgresStore {
            reader: PostgresReader::new(Arc::clone(&shared)),
            shared,
            writer: Some(writer),
            unsettled: None,
            identity: taken.identity,
            last_timestamp: taken.last_timestamp,
            progress: taken.progress,
            retention: Retention::default(),
            retained_at: Timestamp(0),
            options: PostgresOptions { partition, ..self.options.clone() },
        })
    }

    /// Look-ups in one partition, by who does not own it. They know no log: [`StoreReader::last_lsn`] is 0.
    pub fn reader(&self, partition: PartitionId) -> PostgresReader {
        PostgresReader::new(Arc::new(Shared {
            engine: Arc::clone(&self.engine),
            pool: Arc::clone(&self.pool),
            partition,
            last_lsn: AtomicU64::new(0),
            tail: Tail::default(),
        }))
    }

    pub fn partitions(&self) -> u32 {
        self.options.partitions
    }

    /// Where who follows the partition's log under this name has come to. Blocks.
    pub fn place_of(&self, partition: PartitionId, name: &str) -> Result<Option<Lsn>, StoreError> {
        let rows = self.pool.query(&self.engine, sql::PLACE_OF, &[&(partition.0 as i32), &name])?;
        let place = rows.first().map(|row| column::<i64>(row, 0)).transpose()?;
        Ok(place.map(|lsn| Lsn(lsn as u64)))
    }

    /// Places never go back. Blocks.
    pub fn keep_place(&self, partition: PartitionId, name: &str, at: Lsn) -> Result<(), StoreError> {
        let (partition, at) = (partition.0 as i32, at.0 as i64);
        self.pool.query(&self.engine, sql::KEEP_PLACE, &[&partition, &name, &at])?;
        Ok(())
    }
}

impl PostgresStore {
    /// One partition of a server that nothing else here speaks with. Blocks.
    pub fn open(options: PostgresOptions) -> Result<PostgresStore, OpenError> {
        let partition = options.partition;
        Postgres::connect(options)?.open(partition)
    }

    pub fn reader(&self) -> PostgresReader {
        self.reader.clone()
    }

    /// Drops the records up to `upto`, as retention does with old ones, and returns how many there were.
    pub fn trim(&mut self, upto: Lsn) -> Result<u64, StoreError> {
        let trail = (self.options.trail_s > 0).then_some(Timestamp(i64::MIN));
        let horizon = Horizon { records: Timestamp(i64::MAX), dedup: Timestamp(i64::MIN), upto, trail };
        let (shared, owner) = (&self.shared, self.identity.owner_epoch);
        let trimmed = shared.engine.wait(async {
            let mut session = shared.engine.connect().await?;
            retention::trim(&mut session, shared, owner, horizon).await
        });
        Ok(trimmed?)
    }

    /// A writer whose log ends where ours does. A batch that was left unsettled is settled by then: `true` if it stands.
    fn reconnect(&mut self) -> Result<bool, Failure> {
        let engine = &self.shared.engine;
        let connecting = Writer::connect(engine, self.options.partition, self.identity.owner_epoch);
        let (writer, found) = engine.wait(connecting)?;
        self.writer = Some(writer);
        let last = self.last_lsn();
        if found == last {
            return Ok(false);
        }
        match &self.unsettled {
            Some(unsettled) if unsettled.upto == found => Ok(true),
            _ => Err(Failure::damaged(format_args!("the log ends at {found}, though its owner left it at {last}"))),
        }
    }

    /// The batch stands.
    fn advance(&mut self, records: &[Record], newest: Timestamp, progress: Progress) -> Lsn {
        let upto = Lsn(self.last_lsn().0 + records.len() as u64);
        self.unsettled = None;
        self.progress.advance(progress);
        self.last_timestamp = self.last_timestamp.max(newest);
        self.shared.tail.push(upto, records);
        self.shared.last_lsn.store(upto.0, Ordering::Release);
        upto
    }

    fn commit_batch(&mut self, records: &[Record], progress: Progress) -> Result<Lsn, Failure> {
        let last = self.last_lsn();
        let changes = Changes { progress, ..Changes::of(last, records) };
        if self.writer.is_none() && self.reconnect()? {
            let stands = self.unsettled.as_ref().is_some_and(|unsettled| unsettled.digest == digest(&changes));
            if !stands {
                return Err(Failure::damaged("a batch was committed in doubt, and another one follows it"));
            }
            return Ok(self.advance(records, changes.newest, progress));
        }
        self.unsettled = None;
        let Some(writer) = &mut self.writer else { return Err(Failure::damaged("no connection")) };
        let Err(failure) = self.shared.engine.wait(writer.write(last, &changes)) else {
            return Ok(self.advance(records, changes.newest, progress));
        };
        self.writer = None;
        if matches!(failure, Failure::Fenced | Failure::Damaged(_)) {
            return Err(failure);
        }
        let upto = Lsn(last.0 + records.len() as u64);
        self.unsettled = Some(Unsettled { upto, digest: digest(&changes) });
        tracing::warn!(%failure, "a batch was not committed, or it was not heard that it was");
        // Often the server is there all the same, and then the batch is settled at once.
        match self.reconnect() {
            Ok(true) => Ok(self.advance(records, changes.newest, progress)),
            Err(fenced @ (Failure::Fenced | Failure::Damaged(_))) => Err(fenced),
            Ok(false) | Err(_) => Err(failure),
        }
    }
}

impl MessageStore for PostgresStore {
    fn owner_epoch(&self) -> OwnerEpoch {
        self.identity.owner_epoch
    }

    fn base_epoch(&self) -> Epoch {
        self.identity.base_epoch
    }

    fn last_timestamp(&self) -> Timestamp {
        self.last_timestamp
    }

    fn commit_with(&mut self, records: &[Record], progress: Progress) -> Result<Lsn, StoreError> {
        if records.is_empty() && progress.is_empty() {
            return Ok(self.last_lsn());
        }
        Ok(self.commit_batch(records, progress)?)
    }

    fn progress(&self) -> Progress {
        self.progress
    }

    fn maintain(&mut self, now: Timestamp) -> Result<(), StoreError> {
        let before = |seconds: u64| Timestamp(now.0.saturating_sub_unsigned(seconds.saturating_mul(1_000)));
        if self.retained_at > before(self.options.retention_every_s) {
            return Ok(());
        }
        self.retained_at = now;
        let (records, dedup) = (before(self.options.retention_age_s), before(self.options.dedup_horizon_s));
        // What is still owed to other partitions must be found again after a crash.
        let arrived =
            if self.options.partitions > 1 { self.progress.routed.unwrap_or_default() } else { self.last_lsn() };
        let trail = (self.options.trail_s > 0).then(|| before(self.options.trail_s));
        let horizon = Horizon { records, dedup, upto: self.last_lsn().min(arrived), trail };
        self.retention.begin(&self.shared, self.identity.owner_epoch, horizon);
        Ok(())
    }
}

impl StoreReader for PostgresStore {
    fn head(&self, stream: &StreamKey) -> Result<Option<Head>, StoreError> {
        self.reader.head(stream)
    }

    fn dedup(&self, key: &[u8; 16]) -> Result<Option<DedupHit>, StoreError> {
        self.reader.dedup(key)
    }

    fn dedup_many(&self, keys: &[[u8; 16]]) -> Result<Vec<Option<DedupHit>>, StoreError> {
        self.reader.dedup_many(keys)
    }

    fn heads_of(&self, streams: &[StreamKey]) -> Result<Vec<Option<Head>>, StoreError> {
        self.reader.heads_of(streams)
    }

    fn is_remote(&self) -> bool {
        true
    }

    fn page(&self, stream: &StreamKey, after: Seq, limit: PageLimit) -> Result<Page, StoreError> {
        self.reader.page(stream, after, limit)
    }

    fn seq_before(&self, stream: &StreamKey, ts: Timestamp) -> Result<Seq, StoreError> {
        self.reader.seq_before(stream, ts)
    }

    fn group(&self, gid: &Gid) -> Result<Option<Group>, StoreError> {
        self.reader.group(gid)
    }

    fn member(&self, gid: &Gid, uid: &Uid) -> Result<Option<Member>, StoreError> {
        self.reader.member(gid, uid)
    }

    fn members(&self, gid: &Gid, after: Option<&Uid>, limit: usize) -> Result<Vec<Member>, StoreError> {
        self.reader.members(gid, after, limit)
    }

    fn groups_of(&self, uid: &Uid, limit: usize) -> Result<Vec<Gid>, StoreError> {
        self.reader.groups_of(uid, limit)
    }

    fn marks(&self, uid: &Uid, stream: &StreamKey) -> Result<Vec<DeviceMark>, StoreError> {
        self.reader.marks(uid, stream)
    }

    fn read_cursor(&self, uid: &Uid, stream: &StreamKey) -> Result<Option<(Epoch, Seq)>, StoreError> {
        self.reader.read_cursor(uid, stream)
    }

    fn last_lsn(&self) -> Lsn {
        self.reader.last_lsn()
    }

    fn replay(&self, from: Lsn, limit: PageLimit) -> Result<Option<ReplayPage>, StoreError> {
        self.reader.replay(from, limit)
    }
}

/// Brings the tables up to date, and holds the number of partitions against that of those who came before.
async fn prepare(session: &mut Session, schema: &str, partitions: u32) -> Result<(), OpenError> {
    migrations::migrate(session, schema).await?;
    let mut base = [0; 8];
    getrandom::fill(&mut base).map_err(|error| OpenError::Randomness(std::io::Error::other(error)))?;
    // Never 0, which stands for none.
    let base = i64::from_le_bytes(base) | 1;
    let counted = async {
        session.execute("insert into store (base_epoch) values ($1) on conflict do nothing", &[&base]).await?;
        let rows = session.query(sql::COUNT, &[&(partitions as i32)]).await?;
        column::<i32>(rows.first().ok_or_else(|| Failure::damaged("no base epoch"))?, 0)
    };
    let found = counted.await? as u32;
    if found == partitions { Ok(()) } else { Err(OpenError::Partitions { found, asked: partitions }) }
}

struct Taken {
    identity: Identity,
    last_timestamp: Timestamp,
    progress: Progress,
}

/// Makes the partition's own tables, and raises its owner epoch.
async fn take(mut session: Session, partition: PartitionId) -> Result<Taken, Failure> {
    let partition = partition.0 as i32;
    let rows = session.query("select base_epoch from store", &[]).await?;
    let base: i64 = column(rows.first().ok_or_else(|| Failure::damaged("no base epoch"))?, 0)?;
    make_partition(&session, partition).await?;
    session.execute("insert into retention values ($1, 0) on conflict do nothing", &[&partition]).await?;
    let rows = session.query(sql::TAKE, &[&partition]).await?;
    let row = rows.first().ok_or_else(|| Failure::damaged("no owner epoch"))?;
    let (owner, newest): (i64, i64) = (column(row, 0)?, column(row, 1)?);
    let (source, next): (Option<i32>, Option<i64>) = (column(row, 2)?, column(row, 3)?);
    let consumed = source.zip(next).map(|(source, next)| Consumed { source: source as u32, next: next as u64 });
    let routed = Some(Lsn(column::<i64>(row, 4)? as u64));
    Ok(Taken {
        identity: Identity { base_epoch: Epoch(base as u64), owner_epoch: OwnerEpoch(owner as u64) },
        last_timestamp: Timestamp(newest),
        progress: Progress { consumed, routed },
    })
}

/// The parts of the divided tables. To attach one needs a lock that waits for all who read or write, so it is looked first
/// whether it is there.
async fn make_partition(session: &Session, partition: i32) -> Result<(), Failure> {
    for table in ["records", "places"] {
        let part = format!("{table}_{partition}");
        let row = session.client().query_one("select to_regclass($1) is not null", &[&part]).await?;
        if !column::<bool>(&row, 0)? {
            let create = format!("create table if not exists {part} partition of {table} for values in ({partition})");
            session.client().batch_execute(&create).await?;
        }
    }
    Ok(())
}

fn digest(changes: &Changes) -> [u8; 32] {
    let mut hash = Sha256::new();
    for row in &changes.records {
        hash.update((row.record.len() as u64).to_le_bytes());
        hash.update(&row.record);
    }
    hash.finalize().into()
}

fn is_plain_name(name: &str) -> bool {
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b == b'_');
    let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    first && plain && name.len() <= SCHEMA_BYTES_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_has_a_plain_name() {
        for good in ["tidegate", "_t1", "a"] {
            assert!(is_plain_name(good), "{good}");
        }
        for bad in ["", "1a", "Tide", "a-b", "a;b", "a b", "a\"b", &"x".repeat(64)] {
            assert!(!is_plain_name(bad), "{bad}");
        }
    }

    #[test]
    fn a_batch_is_known_again_by_its_bytes() {
        use tidegate_control_core::contract::store::message;
        let of = |records: &[Record]| digest(&Changes::of(Lsn(3), records));
        assert_eq!(of(&[message("u:ann", 1)]), of(&[message("u:ann", 1)]));
        assert_ne!(of(&[message("u:ann", 1)]), of(&[message("u:ann", 2)]));
        assert_ne!(of(&[message("u:ann", 1), message("u:bob", 1)]), of(&[message("u:bob", 1), message("u:ann", 1)]));
    }
}
