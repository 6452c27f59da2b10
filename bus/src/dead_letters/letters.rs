//! `dead-letter list` and `dead-letter replay`.

use std::borrow::Cow;

use crate::history::Pages;
use crate::port::{Bus, BusError, Outgoing, Placed, PublishError, Record};
use crate::records::{DeadLetter, ErrorClass, Form as _, Undecodable};

/// Headers of a replayed record: the dead letter it came from (`topic/partition/offset`), and how often it was replayed.
pub const REPLAYED_FROM: &str = "tidegate-replayed-from";
pub const REPLAYS: &str = "tidegate-replays";

/// Which letters to list; `None` takes all.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Milliseconds since the Unix epoch, by the time of failure.
    pub since_ms: Option<i64>,
    pub until_ms: Option<i64>,
    /// The topic that the record came from.
    pub topic: Option<String>,
    pub class: Option<ErrorClass>,
    /// Part of the reason.
    pub reason: Option<String>,
}

/// A dead letter and where it lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    pub place: Placed,
    pub letter: DeadLetter,
}

impl Letter {
    /// How often the record had been replayed before it died this time.
    pub fn replays(&self) -> u32 {
        let headers = self.letter.headers.iter().rev();
        let count = headers.clone().find(|(name, _)| name == REPLAYS).and_then(|(_, value)| str::from_utf8(value).ok());
        count.and_then(|count| count.parse().ok()).unwrap_or(0)
    }
}

impl Filter {
    fn takes(&self, letter: &DeadLetter) -> bool {
        self.since_ms.is_none_or(|since| letter.failed_at >= since)
            && self.until_ms.is_none_or(|until| letter.failed_at < until)
            && self.topic.as_ref().is_none_or(|topic| letter.topic == *topic)
            && self.class.is_none_or(|class| letter.class == class)
            && self.reason.as_ref().is_none_or(|part| letter.reason.contains(part))
    }
}

/// The newest `newest` letters that the filter takes, newest first. At most `scan_max` records of each partition are looked
/// at, from its end.
pub async fn list(
    bus: &dyn Bus,
    topic: &str,
    filter: &Filter,
    newest: usize,
    scan_max: usize,
) -> Result<Vec<Letter>, BusError> {
    let admin = bus.admin();
    let state = admin.describe(topic).await?.ok_or_else(|| BusError::UnknownTopic(topic.to_owned()))?;
    let since = match filter.since_ms {
        Some(since) => admin.offsets_at(topic, since).await?,
        None => Vec::new(),
    };
    let mut letters: Vec<Letter> = Vec::new();
    for partition in 0..state.partitions {
        let marks = admin.watermarks(topic, partition).await?;
        let not_before = since.iter().find(|(known, _)| *known == partition).map_or(marks.low, |(_, at)| *at);
        let from = not_before.max(marks.high - i64::try_from(scan_max).unwrap_or(i64::MAX)).max(marks.low);
        let mut pages = Pages::open(bus, topic, partition, from, marks.high).await?;
        while let Some(record) = pages.next().await? {
            let Ok(letter) = DeadLetter::decode(&record.value) else {
                tracing::warn!(topic, partition, record.offset, "not a dead letter");
                continue;
            };
            if filter.takes(&letter) {
                letters.push(Letter { place: Placed { partition, offset: record.offset }, letter });
            }
            // Twice as many as are wanted are kept before the older half goes.
            if letters.len() >= newest.saturating_mul(2).max(1024) {
                keep_newest(&mut letters, newest);
            }
        }
    }
    keep_newest(&mut letters, newest);
    Ok(letters)
}

fn keep_newest(letters: &mut Vec<Letter>, newest: usize) {
    letters.sort_by_key(|letter| {
        (std::cmp::Reverse(letter.letter.failed_at), letter.place.partition, letter.place.offset)
    });
    letters.truncate(newest);
}

/// What became of one letter that was to be replayed.
#[derive(Debug)]
pub struct Replayed {
    pub letter: Placed,
    pub outcome: Result<Placed, ReplayError>,
}

#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error("no letter lies there")]
    Missing,
    #[error(transparent)]
    Undecodable(#[from] Undecodable),
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error(transparent)]
    Bus(#[from] BusError),
}

/// Publishes the records of these letters to the topics they came from. Each is a new record with the old key, headers and
/// value, so it keeps its `message_id` and whoever has seen it drops it as a duplicate; two headers say that it was replayed.
pub async fn replay(bus: &dyn Bus, topic: &str, places: &[Placed]) -> Vec<Replayed> {
    let mut replayed = Vec::with_capacity(places.len());
    for place in places {
        let outcome = replay_one(bus, topic, *place).await;
        replayed.push(Replayed { letter: *place, outcome });
    }
    replayed
}

async fn replay_one(bus: &dyn Bus, topic: &str, place: Placed) -> Result<Placed, ReplayError> {
    let record = find(bus, topic, place).await?.ok_or(ReplayError::Missing)?;
    let letter = DeadLetter::decode(&record.value)?;
    let replays = Letter { place, letter: letter.clone() }.replays() + 1;
    let kept = letter.headers.into_iter().filter(|(name, _)| name != REPLAYED_FROM && name != REPLAYS);
    let mut headers: Vec<(Cow<'static, str>, bytes::Bytes)> =
        kept.map(|(name, value)| (Cow::Owned(name), value.into())).collect();
    headers.push((REPLAYED_FROM.into(), format!("{topic}/{}/{}", place.partition, place.offset).into()));
    headers.push((REPLAYS.into(), replays.to_string().into()));
    let placing = bus.publisher().publish(Outgoing {
        topic: letter.topic.into(),
        partition: None,
        key: letter.key.map(Into::into),
        headers,
        value: letter.value.into(),
    })?;
    Ok(placing.await?)
}

async fn find(bus: &dyn Bus, topic: &str, place: Placed) -> Result<Option<Record>, BusError> {
    let marks = bus.admin().watermarks(topic, place.partition).await?;
    if !(marks.low..marks.high).contains(&place.offset) {
        return Ok(None);
    }
    let mut pages = Pages::open(bus, topic, place.partition, place.offset, place.offset + 1).await?;
    pages.next().await
}
