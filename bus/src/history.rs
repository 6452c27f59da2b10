//! What a stream missed, from the long history: the topic that keeps sequenced messages, read by offset.

use std::collections::VecDeque;
use std::ops::ControlFlow;
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

/// Where a scan begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    Offset(i64),
    /// The first record that is not older, in milliseconds since the Unix epoch.
    Time(i64),
}

/// A way through one partition, record by record.
#[derive(Clone, Debug)]
pub struct Scan<'a> {
    pub topic: &'a str,
    pub partition: i32,
    pub begin: Begin,
    /// Records that are looked at.
    pub scan_max: usize,
}

/// The partition where a key belongs now. Error: there is no such topic.
pub async fn home(bus: &dyn Bus, topic: &str, key: &[u8]) -> Result<i32, BusError> {
    let state = bus.admin().describe(topic).await?.ok_or_else(|| BusError::UnknownTopic(topic.to_owned()))?;
    Ok(partition_of(key, state.partitions))
}

/// Shows records to `look` until it breaks off, or a bound or the end is reached. Returns where to go on; `None`: everything that
/// was there when it began has been seen. What retention took is passed over. Dropping the future loses nothing.
///
/// Reads with a partition reader of its own and takes turns with others on that partition; after ten seconds without a turn it
/// is [`BusError::OpenAlready`].
pub async fn scan(
    bus: &dyn Bus,
    scan: &Scan<'_>,
    mut look: impl FnMut(Record) -> ControlFlow<()> + Send,
) -> Result<Option<i64>, BusError> {
    let &Scan { topic, partition, begin, scan_max } = scan;
    let admin = bus.admin();
    let marks = admin.watermarks(topic, partition).await?;
    let from = match begin {
        Begin::Offset(from) => from,
        Begin::Time(since_ms) => {
            let offsets = admin.offsets_at(topic, since_ms).await?;
            offsets.iter().find(|(known, _)| *known == partition).map_or(marks.high, |(_, offset)| *offset)
        }
    };
    let mut pages = Pages::open(bus, topic, partition, from.max(marks.low), marks.high).await?;
    for _ in 0..scan_max {
        let Some(record) = pages.next().await? else { return Ok(None) };
        if look(record).is_break() {
            break;
        }
    }
    Ok((pages.next < marks.high).then_some(pages.next))
}

/// What a key has in its range, by [`scan`].
pub async fn read(bus: &dyn Bus, query: &Query<'_>, from: Option<i64>) -> Result<Range, BusError> {
    let partition = match query.partition {
        Some(partition) => partition,
        None => home(bus, query.topic, query.key).await?,
    };
    let begin = from.map_or(Begin::Time(query.since_ms), Begin::Offset);
    let way = Scan { topic: query.topic, partition, begin, scan_max: query.scan_max };
    let mut range = Range::default();
    let records = &mut range.records;
    let look = |record: Record| {
        if record.key.as_deref() == Some(query.key) {
            records.push(record);
        }
        if records.len() < query.found_max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    range.next = scan(bus, &way, look).await?;
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
