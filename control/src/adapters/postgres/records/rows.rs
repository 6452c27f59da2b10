//! Records and texts as rows, and back.

use tidegate_control_core::domain::{Epoch, MessageId, Seq, Timestamp};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::adapters::postgres::error::Failure;
use crate::adapters::postgres::reader::column;
use crate::records::{Hit, MessageText, PushRecord, Text};

/// One array per column of `INSERT` and `UPDATE`.
#[derive(Default)]
pub(super) struct RecordColumns {
    ts: Vec<i64>,
    id: Vec<String>,
    target: Vec<String>,
    sender: Vec<String>,
    key: Vec<String>,
    uids: Vec<String>,
    kind: Vec<String>,
    body: Vec<Option<String>>,
    sealed: Vec<bool>,
    epoch: Vec<Option<i64>>,
    seq: Vec<Option<i64>>,
    online: Vec<Option<i64>>,
    ephemeral: Vec<bool>,
    traceparent: Vec<String>,
    status: Vec<Option<&'static str>>,
    changes: Vec<String>,
    words: Vec<String>,
}

impl RecordColumns {
    pub fn of<'a>(records: impl Iterator<Item = &'a PushRecord>) -> RecordColumns {
        let mut columns = RecordColumns::default();
        records.for_each(|record| columns.push(record));
        columns
    }

    fn push(&mut self, record: &PushRecord) {
        self.ts.push(record.ts().0);
        self.id.push(record.id.to_string());
        self.target.push(record.to.to_string());
        self.sender.push(record.from.to_string());
        self.key.push(record.key.to_string());
        let uids: Vec<&str> = record.uids.iter().map(|uid| uid.as_str()).collect();
        self.uids.push(uids.join(" "));
        self.kind.push(record.kind.to_string());
        self.body.push(match &record.text {
            Text::Shown(text) => Some(text.to_string()),
            Text::Unknown | Text::Sealed => None,
        });
        self.sealed.push(record.text == Text::Sealed);
        self.epoch.push(record.place.map(|(epoch, _)| epoch.0 as i64));
        self.seq.push(record.place.map(|(_, seq)| seq.0 as i64));
        self.online.push(record.online.map(i64::from));
        self.ephemeral.push(record.ephemeral);
        self.traceparent.push(record.traceparent.to_string());
        self.status.push(record.status().map(|status| status.as_str()));
        self.changes.push(serde_json::to_string(&record.changes).expect("changes are plain"));
        self.words.push(record.words().joined());
    }

    pub fn params(&self) -> [&(dyn ToSql + Sync); 17] {
        [
            &self.ts,
            &self.id,
            &self.target,
            &self.sender,
            &self.key,
            &self.uids,
            &self.kind,
            &self.body,
            &self.sealed,
            &self.epoch,
            &self.seq,
            &self.online,
            &self.ephemeral,
            &self.traceparent,
            &self.status,
            &self.changes,
            &self.words,
        ]
    }

    /// Of `LOCK`.
    pub fn keys(&self) -> [&(dyn ToSql + Sync); 3] {
        [&self.ts, &self.id, &self.target]
    }
}

/// One array per column of `INSERT_TEXTS`.
#[derive(Default)]
pub(super) struct TextColumns {
    ts: Vec<i64>,
    stream: Vec<String>,
    seq: Vec<i64>,
    epoch: Vec<i64>,
    id: Vec<i64>,
    words: Vec<String>,
}

impl TextColumns {
    pub fn of<'a>(texts: impl Iterator<Item = &'a MessageText>) -> TextColumns {
        let mut columns = TextColumns::default();
        for text in texts {
            columns.ts.push(text.ts().0);
            columns.stream.push(text.place.stream.to_string());
            columns.seq.push(text.place.seq.0 as i64);
            columns.epoch.push(text.place.epoch.0 as i64);
            columns.id.push(text.id.0 as i64);
            // A stream's key has a colon in it, so it is no word.
            columns.words.push(format!("{} {}", text.place.stream, text.words().joined()).trim_end().to_owned());
        }
        columns
    }

    pub fn params(&self) -> [&(dyn ToSql + Sync); 6] {
        [&self.ts, &self.stream, &self.seq, &self.epoch, &self.id, &self.words]
    }
}

pub(super) fn record(row: &Row) -> Result<PushRecord, Failure> {
    let bad = |what: &str| Failure::damaged(format_args!("{what} of a push record"));
    let id: &str = column(row, 0)?;
    let id = id.parse().map_err(|_| bad("the id"))?;
    let uids: Vec<&str> = column(row, 4)?;
    let body: Option<&str> = column(row, 6)?;
    let (epoch, seq): (Option<i64>, Option<i64>) = (column(row, 8)?, column(row, 9)?);
    let changes: &str = column(row, 13)?;
    let mut record = PushRecord {
        from: column::<&str>(row, 2)?.into(),
        key: column::<&str>(row, 3)?.into(),
        uids: uids.iter().map(|uid| uid.parse()).collect::<Result<_, _>>().map_err(|_| bad("a uid"))?,
        kind: column::<&str>(row, 5)?.into(),
        text: match (column(row, 7)?, body) {
            (true, _) => Text::Sealed,
            (false, Some(text)) => Text::Shown(text.into()),
            (false, None) => Text::Unknown,
        },
        place: epoch.zip(seq).map(|(epoch, seq)| (Epoch(epoch as u64), Seq(seq as u64))),
        online: column::<Option<i64>>(row, 10)?.map(|online| u32::try_from(online).unwrap_or(u32::MAX)),
        ephemeral: column(row, 11)?,
        traceparent: column::<&str>(row, 12)?.into(),
        changes: serde_json::from_str(changes).map_err(|_| bad("the changes"))?,
        ..PushRecord::new(id, column::<&str>(row, 1)?)
    };
    // In the order that comparing two records expects.
    record.clean();
    Ok(record)
}

pub(super) fn hit(row: &Row) -> Result<Hit, Failure> {
    let stream: &str = column(row, 0)?;
    Ok(Hit {
        stream: stream.parse().map_err(|_| Failure::damaged("the stream of a text"))?,
        epoch: Epoch(column::<i64>(row, 1)? as u64),
        seq: Seq(column::<i64>(row, 2)? as u64),
        id: MessageId(column::<i64>(row, 3)? as u64),
        ts: Timestamp(column(row, 4)?),
    })
}
