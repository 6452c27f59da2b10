//! Look-ups, each one statement on a connection of the pool, so that each sees one moment.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tidegate_control_core::domain::{
    Epoch, Fingerprint, Gid, Lsn, MessageId, PartitionId, Record, Seq, StreamKey, Timestamp, Uid,
};
use tidegate_control_core::ports::{
    DedupHit, DeviceMark, Group, Head, Member, Page, PageLimit, ReplayPage, StoreError, StoreReader, Stored,
};
use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

use super::error::Failure;
use super::session::{Engine, Params, Pool};
use super::sql;
use super::tail::Tail;
use crate::adapters::embedded::codec;

/// Cheap to clone; all clones share the pool of their store.
#[derive(Clone, Debug)]
pub struct PostgresReader(Arc<Shared>);

#[derive(Debug)]
pub(super) struct Shared {
    pub engine: Arc<Engine>,
    pub pool: Arc<Pool>,
    pub partition: PartitionId,
    /// The newest record of a commit that has returned.
    pub last_lsn: AtomicU64,
    /// What this owner committed last.
    pub tail: Tail,
}

impl PostgresReader {
    pub(super) fn new(shared: Arc<Shared>) -> PostgresReader {
        PostgresReader(shared)
    }

    fn partition(&self) -> i32 {
        self.0.partition.0 as i32
    }

    fn query(&self, sql: &'static str, params: Params<'_>) -> Result<Vec<Row>, Failure> {
        self.0.pool.query(&self.0.engine, sql, params)
    }

    fn read_head(&self, stream: &StreamKey) -> Result<Option<Head>, Failure> {
        let rows = self.query(sql::HEAD, &[&self.partition(), &stream.as_str()])?;
        let head = |row: &Row| Ok(Head { epoch: epoch(row, 0)?, head: seq(row, 1)?, first: seq(row, 2)? });
        rows.first().map(head).transpose()
    }

    fn read_page(&self, stream: &StreamKey, after: Seq, limit: PageLimit) -> Result<Page, Failure> {
        let (messages, bytes) = limits(limit);
        let rows =
            self.query(sql::PAGE, &[&self.partition(), &stream.as_str(), &(after.0 as i64), &messages, &bytes])?;
        let Some(row) = rows.first() else { return Ok(Page { after, upto: after, messages: Vec::new() }) };
        let after = after.max(Seq(seq(row, 0)?.0 - 1));
        let mut page = Page { after, upto: after, messages: Vec::with_capacity(rows.len()) };
        for row in &rows {
            let Some(at) = column::<Option<i64>>(row, 1)? else { break };
            page.upto = Seq(at as u64);
            page.messages.push(stored(stream, page.upto, column(row, 2)?)?);
        }
        Ok(page)
    }

    /// Times of a stream rise with its seqs, so halving finds the place in a few look-ups, however long the stream is.
    fn find_seq_before(&self, stream: &StreamKey, ts: Timestamp) -> Result<Seq, Failure> {
        let Some(head) = self.read_head(stream)? else { return Ok(Seq::ZERO) };
        let (mut older, mut upto) = (head.first.0 - 1, head.head.0);
        while older < upto {
            let middle = older + (upto - older).div_ceil(2);
            let (epoch, from) = (head.epoch.0 as i64, middle as i64);
            let rows = self.query(sql::PLACE_FROM, &[&self.partition(), &stream.as_str(), &epoch, &from])?;
            let place = rows.first().map(|row| Ok::<_, Failure>((seq(row, 0)?, column::<i64>(row, 1)?))).transpose()?;
            match place {
                Some((at, time)) if time < ts.0 && at.0 <= upto => older = at.0,
                _ => upto = middle - 1,
            }
        }
        Ok(Seq(older))
    }

    fn read_replay(&self, from: Lsn, limit: PageLimit) -> Result<Option<ReplayPage>, Failure> {
        let (records, bytes) = limits(limit);
        let (after, last) = (from.0 as i64, self.last_lsn().0 as i64);
        let rows = self.query(sql::REPLAY, &[&self.partition(), &after, &last, &records, &bytes])?;
        let row = rows.first().ok_or_else(|| Failure::damaged("the partition has no row"))?;
        if from.0 < column::<i64>(row, 0)? as u64 {
            return Ok(None);
        }
        let mut page = ReplayPage { records: Vec::with_capacity(rows.len()), upto: from };
        for row in &rows {
            let Some(lsn) = column::<Option<i64>>(row, 1)? else { break };
            page.upto = Lsn(lsn as u64);
            page.records.push((page.upto, record(column(row, 2)?)?));
        }
        Ok(Some(page))
    }

    /// A trimmed message that is not after this one, as near as the trail has it, otherwise the nearest that is, with its time;
    /// `None`: nothing is known of it.
    pub fn trail(&self, stream: &StreamKey, epoch: Epoch, at: Seq) -> Result<Option<(Seq, Timestamp)>, StoreError> {
        let params: Params<'_> = &[&self.partition(), &stream.as_str(), &(epoch.0 as i64), &(at.0 as i64)];
        let rows = self.query(sql::FIND_TRAIL, params)?;
        let row = |row: &Row| Ok::<_, Failure>((seq(row, 0)?, Timestamp(column(row, 1)?)));
        Ok(rows.first().map(row).transpose()?)
    }

    fn read_members(&self, gid: &Gid, sql: &'static str, params: Params<'_>) -> Result<Vec<Member>, Failure> {
        let member = |row: &Row| {
            Ok(Member {
                gid: gid.clone(),
                uid: name(row, 0)?,
                role: codec::domain_role(column::<i16>(row, 1)? as u32).map_err(Failure::damaged)?,
                joined: seq(row, 2)?,
                left: column::<Option<i64>>(row, 3)?.map(|seq| Seq(seq as u64)),
            })
        };
        self.query(sql, params)?.iter().map(member).collect()
    }
}

impl StoreReader for PostgresReader {
    fn head(&self, stream: &StreamKey) -> Result<Option<Head>, StoreError> {
        Ok(self.read_head(stream)?)
    }

    fn dedup(&self, key: &[u8; 16]) -> Result<Option<DedupHit>, StoreError> {
        let rows = self.query(sql::FIND_DEDUP, &[&self.partition(), &&key[..]])?;
        Ok(rows.first().map(|row| hit(row, 0)).transpose()?)
    }

    fn dedup_many(&self, keys: &[[u8; 16]]) -> Result<Vec<Option<DedupHit>>, StoreError> {
        let wanted: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
        let rows = self.query(sql::FIND_DEDUP_MANY, &[&self.partition(), &wanted])?;
        let mut found: HashMap<&[u8], DedupHit> = HashMap::with_capacity(rows.len());
        for row in &rows {
            found.insert(column(row, 0)?, hit(row, 1)?);
        }
        Ok(keys.iter().map(|key| found.get(&key[..]).copied()).collect())
    }

    fn heads_of(&self, streams: &[StreamKey]) -> Result<Vec<Option<Head>>, StoreError> {
        let wanted: Vec<&str> = streams.iter().map(StreamKey::as_str).collect();
        let rows = self.query(sql::HEADS_OF, &[&self.partition(), &wanted])?;
        let mut found: HashMap<&str, Head> = HashMap::with_capacity(rows.len());
        for row in &rows {
            let head = Head { epoch: epoch(row, 1)?, head: seq(row, 2)?, first: seq(row, 3)? };
            found.insert(column(row, 0)?, head);
        }
        Ok(streams.iter().map(|stream| found.get(stream.as_str()).copied()).collect())
    }

    fn is_remote(&self) -> bool {
        true
    }

    fn page(&self, stream: &StreamKey, after: Seq, limit: PageLimit) -> Result<Page, StoreError> {
        Ok(self.read_page(stream, after, limit)?)
    }

    fn seq_before(&self, stream: &StreamKey, ts: Timestamp) -> Result<Seq, StoreError> {
        Ok(self.find_seq_before(stream, ts)?)
    }

    fn group(&self, gid: &Gid) -> Result<Option<Group>, StoreError> {
        let rows = self.query(sql::GROUP, &[&self.partition(), &gid.as_str()])?;
        let group = |row: &Row| {
            Ok(Group {
                gid: gid.clone(),
                epoch: epoch(row, 0)?,
                open: column(row, 1)?,
                name: column(row, 2)?,
                creator: column(row, 3)?,
                created: Timestamp(column(row, 4)?),
                dismissed: column(row, 5)?,
            })
        };
        rows.first().map(group).transpose()
    }

    fn member(&self, gid: &Gid, uid: &Uid) -> Result<Option<Member>, StoreError> {
        let params: Params<'_> = &[&self.partition(), &gid.as_str(), &uid.as_str()];
        Ok(self.read_members(gid, sql::MEMBER, params)?.pop())
    }

    fn members(&self, gid: &Gid, after: Option<&Uid>, limit: usize) -> Result<Vec<Member>, StoreError> {
        let after = after.map_or("", Uid::as_str);
        let params: Params<'_> = &[&self.partition(), &gid.as_str(), &after, &(limit as i64)];
        Ok(self.read_members(gid, sql::MEMBERS, params)?)
    }

    fn groups_of(&self, uid: &Uid, limit: usize) -> Result<Vec<Gid>, StoreError> {
        let rows = self.query(sql::GROUPS_OF, &[&uid.as_str(), &(limit as i64)])?;
        Ok(rows.iter().map(|row| name(row, 0)).collect::<Result<_, Failure>>()?)
    }

    fn marks(&self, uid: &Uid, stream: &StreamKey) -> Result<Vec<DeviceMark>, StoreError> {
        let rows = self.query(sql::FIND_MARKS, &[&self.partition(), &uid.as_str(), &stream.as_str()])?;
        let mark = |row: &Row| {
            let ts = Timestamp(column(row, 3)?);
            Ok(DeviceMark { device: column(row, 0)?, epoch: epoch(row, 1)?, seq: seq(row, 2)?, ts })
        };
        Ok(rows.iter().map(mark).collect::<Result<_, Failure>>()?)
    }

    fn read_cursor(&self, uid: &Uid, stream: &StreamKey) -> Result<Option<(Epoch, Seq)>, StoreError> {
        let rows = self.query(sql::READ_CURSOR, &[&self.partition(), &uid.as_str(), &stream.as_str()])?;
        Ok(rows.first().map(|row| Ok::<_, Failure>((epoch(row, 0)?, seq(row, 1)?))).transpose()?)
    }

    fn last_lsn(&self) -> Lsn {
        Lsn(self.0.last_lsn.load(Ordering::Acquire))
    }

    fn replay(&self, from: Lsn, limit: PageLimit) -> Result<Option<ReplayPage>, StoreError> {
        match self.0.tail.after(from, limit) {
            Some(page) => Ok(Some(page)),
            None => Ok(self.read_replay(from, limit)?),
        }
    }
}

/// From four columns that begin at `at`.
fn hit(row: &Row, at: usize) -> Result<DedupHit, Failure> {
    let id = MessageId(column::<i64>(row, at + 2)? as u64);
    let fingerprint = Fingerprint(column::<i64>(row, at + 3)? as u64);
    Ok(DedupHit { epoch: epoch(row, at)?, seq: seq(row, at + 1)?, id, fingerprint })
}

fn limits(limit: PageLimit) -> (i64, i64) {
    let signed = |limit: usize| i64::try_from(limit).unwrap_or(i64::MAX);
    (signed(limit.messages), signed(limit.bytes))
}

fn stored(stream: &StreamKey, seq: Seq, bytes: &[u8]) -> Result<Stored, Failure> {
    let Record::Append(append) = record(bytes)? else {
        return Err(Failure::damaged(format_args!("{stream} has no message at {seq}")));
    };
    let first = &append.places[0];
    let conversation = (first.stream != *stream).then(|| (first.stream.clone(), first.seq));
    Ok(Stored { seq, body: append.body, conversation })
}

pub(super) fn record(bytes: &[u8]) -> Result<Record, Failure> {
    codec::decode(bytes).map_err(Failure::damaged)
}

pub(super) fn column<'a, T: FromSql<'a>>(row: &'a Row, at: usize) -> Result<T, Failure> {
    Ok(row.try_get(at)?)
}

fn seq(row: &Row, at: usize) -> Result<Seq, Failure> {
    Ok(Seq(column::<i64>(row, at)? as u64))
}

fn epoch(row: &Row, at: usize) -> Result<Epoch, Failure> {
    Ok(Epoch(column::<i64>(row, at)? as u64))
}

fn name<T: FromStr>(row: &Row, at: usize) -> Result<T, Failure> {
    let text: &str = column(row, at)?;
    text.parse().map_err(|_| Failure::damaged(format_args!("{text:?} is not a name")))
}
