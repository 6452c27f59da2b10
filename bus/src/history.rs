//! What a stream missed, from the long history: the topic that keeps sequenced messages, read by offset.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::port::{Bus, BusError, Record, Start};
use crate::topics::partition_of;

/// How long to wait for a broker that has more and does not say so.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at whether a partition is free.
const TURN: Duration = Duration::from_millis(5);
const PAGE: usize = 1000;

/// A range of one key. The bounds keep a read of days of other streams' messages from taking a node down.
#[derive(Clone, Debug)]
pub struct Query<'a> {
    pub topic: &'a str,
    /// A stream key.
    pub key: &'a [u8],
    /// Where the producer put it; `None`: where its key belongs. After a topic has grown, older records of a key stand where it
    /// belonged before.
    pub partition: Option<i32>,
    /// Milliseconds since the Unix epoch.
    pub since_ms: i64,
    /// Records of any key that are looked at.
    pub scan_max: usize,
    /// Records of this key that are returned.
    pub found_max: usize,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// In order.
    pub records: Vec<Record>,
    /// Where to go on, if a bound ended the read; `None`: everything that was there when it began has been seen.
    pub next: Option<i64>,
}

/// Reads with a partition reader of its own and takes turns with others on that partition; after ten seconds without a turn it
/// is [`BusError::OpenAlready`].
pub async fn read(bus: &dyn Bus, query: &Query<'_>, from: Option<i64>) -> Result<Range, BusError> {
    let admin = bus.admin();
    let topic = query.topic;
    let partition = match query.partition {
        Some(partition) => partition,
        None => {
            let state = admin.describe(topic).await?.ok_or_else(|| BusError::UnknownTopic(topic.to_owned()))?;
            partition_of(query.key, state.partitions)
        }
    };
    let marks = admin.watermarks(topic, partition).await?;
    let from = match from {
        Some(from) => from,
        None => {
            let offsets = admin.offsets_at(topic, query.since_ms).await?;
            offsets.iter().find(|(known, _)| *known == partition).map_or(marks.high, |(_, offset)| *offset)
        }
    };
    let from = from.max(marks.low);
    let mut range = Range::default();
    let mut scanned = 0;
    let mut pages = Pages::open(bus, topic, partition, from, marks.high).await?;
    while let Some(record) = pages.next().await? {
        if scanned >= query.scan_max || range.records.len() >= query.found_max {
            range.next = Some(record.offset);
            break;
        }
        scanned += 1;
        if record.key.as_deref() == Some(query.key) {
            range.records.push(record);
        }
    }
    Ok(range)
}

/// The records `[from, to)` of a partition, one after the other.
pub(crate) struct Pages {
    reader: Box<dyn crate::port::PartitionReader>,
    page: VecDeque<Record>,
    next: i64,
    to: i64,
    about: String,
}

impl Pages {
    /// Readers of one partition take turns.
    pub async fn open(bus: &dyn Bus, topic: &str, partition: i32, from: i64, to: i64) -> Result<Pages, BusError> {
        let deadline = Instant::now() + PATIENCE;
        let reader = loop {
            match bus.open(topic, partition, Start::Offset(from)) {
                Err(BusError::OpenAlready { .. }) if Instant::now() < deadline => tokio::time::sleep(TURN).await,
                opened => break opened?,
            }
        };
        Ok(Pages { reader, page: VecDeque::new(), next: from, to, about: format!("{topic}/{partition}") })
    }

    pub async fn next(&mut self) -> Result<Option<Record>, BusError> {
        if self.next >= self.to {
            return Ok(None);
        }
        if self.page.is_empty() {
            self.page = self.reader.next(PAGE, PATIENCE).await?.into();
        }
        // Offsets may be missing before the end, where a producer of others used transactions: the end is also an answer.
        let Some(record) = self.page.pop_front() else {
            return Err(BusError::Unavailable(format!("{} does not give what it has", self.about)));
        };
        self.next = record.offset + 1;
        Ok((record.offset < self.to).then_some(record))
    }
}
