//! A batch's changes as statements with their parameters: an array for each column.

use tidegate_control_core::domain::{Gid, Role, Seq, StreamKey, Uid};
use tokio_postgres::types::ToSql;

use super::changes::{Changes, MemberRow};
use super::sql;
use crate::adapters::embedded::codec::role_number;

pub(super) type Column<'a> = Box<dyn ToSql + Sync + Send + 'a>;

/// In the order in which they are to be sent. The partition, which is the first parameter of each, is not among them. Where
/// records and places are `copied`, they are left out.
pub(super) fn statements(changes: &Changes, copied: bool) -> Vec<(&'static str, Vec<Column<'_>>)> {
    let mut all = Vec::new();
    if !changes.records.is_empty() && !copied {
        all.push((sql::RECORDS, records(changes)));
    }
    if !changes.places.is_empty() {
        if !copied {
            all.push((sql::PLACES, places(changes)));
        }
        all.push((sql::HEADS, heads(changes)));
    }
    if !changes.dedup.is_empty() {
        all.push((sql::DEDUP, dedup(changes)));
    }
    if !changes.groups.is_empty() {
        // What came of members after that is in `changes.members`.
        all.push((sql::END_MEMBERS, vec![column(changes.groups.keys(), Gid::as_str)]));
        all.push((sql::GROUPS, groups(changes)));
    }
    if !changes.members.is_empty() {
        all.push((sql::LEFT, left(changes)));
        all.push((sql::JOINED, joined(changes)));
    }
    if !changes.marks.is_empty() {
        all.push((sql::MARKS, marks(changes)));
    }
    if !changes.reads.is_empty() {
        all.push((sql::READS, reads(changes)));
    }
    all
}

fn column<'a, R, T>(rows: impl Iterator<Item = R>, value: impl Fn(R) -> T) -> Column<'a>
where
    T: ToSql + Sync + Send + 'a,
{
    Box::new(rows.map(value).collect::<Vec<T>>())
}

fn records(changes: &Changes) -> Vec<Column<'_>> {
    let rows = || changes.records.iter();
    vec![
        column(rows(), |row| row.lsn.0 as i64),
        column(rows(), |row| row.ts.0),
        column(rows(), |row| row.record.as_slice()),
    ]
}

fn places(changes: &Changes) -> Vec<Column<'_>> {
    let rows = || changes.places.iter();
    vec![
        column(rows(), |row| row.stream.as_str()),
        column(rows(), |row| row.epoch.0 as i64),
        column(rows(), |row| row.seq.0 as i64),
        column(rows(), |row| row.lsn.0 as i64),
        column(rows(), |row| row.ts.0),
        column(rows(), |row| row.size as i32),
    ]
}

fn heads(changes: &Changes) -> Vec<Column<'_>> {
    let rows = || changes.heads.values();
    vec![
        column(changes.heads.keys(), StreamKey::as_str),
        column(rows(), |row| row.epoch.0 as i64),
        column(rows(), |row| row.head.0 as i64),
        column(rows(), |row| row.first.0 as i64),
        column(rows(), |row| row.last_lsn.0 as i64),
        column(rows(), |row| row.last_ts.0),
    ]
}

fn dedup(changes: &Changes) -> Vec<Column<'_>> {
    let rows = || changes.dedup.values();
    vec![
        column(changes.dedup.keys(), |key| &key[..]),
        column(rows(), |(hit, _)| hit.epoch.0 as i64),
        column(rows(), |(hit, _)| hit.seq.0 as i64),
        column(rows(), |(hit, _)| hit.id.0 as i64),
        column(rows(), |(hit, _)| hit.fingerprint.0 as i64),
        column(rows(), |(_, ts)| ts.0),
    ]
}

fn groups(changes: &Changes) -> Vec<Column<'_>> {
    let rows = || changes.groups.values();
    vec![
        column(changes.groups.keys(), Gid::as_str),
        column(rows(), |row| row.change.epoch.0 as i64),
        column(rows(), |row| row.change.open),
        column(rows(), |row| &*row.change.name),
        column(rows(), |row| &*row.change.creator),
        column(rows(), |row| row.created.0),
        column(rows(), |row| row.change.dismissed),
    ]
}

/// Of those who only left.
fn left(changes: &Changes) -> Vec<Column<'_>> {
    let mut rows: Vec<(&Gid, &Uid, Seq)> = Vec::new();
    for ((gid, uid), row) in &changes.members {
        if let MemberRow::Left { left } = row {
            rows.push((gid, uid, *left));
        }
    }
    vec![
        column(rows.iter(), |row| row.0.as_str()),
        column(rows.iter(), |row| row.1.as_str()),
        column(rows.iter(), |row| row.2.0 as i64),
    ]
}

/// Of those who joined, whether or not they left again; the last column says whether the place of joining holds in any case.
fn joined(changes: &Changes) -> Vec<Column<'_>> {
    let mut keys: Vec<&(Gid, Uid)> = Vec::new();
    let mut rows: Vec<(Role, Seq, Option<Seq>, bool)> = Vec::new();
    for (key, row) in &changes.members {
        let row = match *row {
            MemberRow::Joined { role, joined, left } => (role, joined, left, false),
            MemberRow::Anew { role, joined, left } => (role, joined, left, true),
            MemberRow::Left { .. } => continue,
        };
        keys.push(key);
        rows.push(row);
    }
    vec![
        column(keys.iter(), |key| key.0.as_str()),
        column(keys.iter(), |key| key.1.as_str()),
        column(rows.iter(), |row| role_number(row.0) as i16),
        column(rows.iter(), |row| row.1.0 as i64),
        column(rows.iter(), |row| row.2.map(|seq| seq.0 as i64)),
        column(rows.iter(), |row| row.3),
    ]
}

fn marks(changes: &Changes) -> Vec<Column<'_>> {
    let rows = || changes.marks.values();
    vec![
        column(changes.marks.keys(), |(uid, _, _)| uid.as_str()),
        column(changes.marks.keys(), |(_, stream, _)| stream.as_str()),
        column(changes.marks.keys(), |(_, _, device)| &**device),
        column(rows(), |row| row.epoch.0 as i64),
        column(rows(), |row| row.seq.0 as i64),
        column(rows(), |row| row.ts.0),
        column(rows(), |row| row.lsn.0 as i64),
    ]
}

fn reads(changes: &Changes) -> Vec<Column<'_>> {
    vec![
        column(changes.reads.keys(), |(uid, _)| uid.as_str()),
        column(changes.reads.keys(), |(_, stream)| stream.as_str()),
        column(changes.reads.values(), |(epoch, _)| epoch.0 as i64),
        column(changes.reads.values(), |(_, seq)| seq.0 as i64),
    ]
}
