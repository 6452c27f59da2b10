//! An index in memory: the whole contract, and nothing after a restart. For tests, and for one process without servers.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Mutex, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tidegate_control_core::domain::Timestamp;

use super::batch::{Batch, DAY_MS};
use super::form::PushRecord;
use super::port::{Hit, IndexError, RecordIndex, RecordPage, RecordQuery, TextPage, TextQuery, Written};
use super::position::{RecordPosition, TextPosition};
use super::words::Words;

/// Records, and texts, that are kept unless told otherwise.
const KEPT_MAX: usize = 20_000;

#[derive(Debug)]
pub struct MemoryIndex {
    kept: Mutex<Kept>,
    /// The oldest go when there are more.
    kept_max: usize,
    keep_days: u32,
}

#[derive(Debug, Default)]
struct Kept {
    records: BTreeMap<RecordPosition, (PushRecord, Words)>,
    texts: BTreeMap<(TextPosition, u64), (Hit, Words)>,
}

impl MemoryIndex {
    pub fn new(keep_days: u32) -> MemoryIndex {
        MemoryIndex::bounded(keep_days, KEPT_MAX)
    }

    /// At most so many records, and so many texts.
    pub fn bounded(keep_days: u32, kept_max: usize) -> MemoryIndex {
        MemoryIndex { kept: Mutex::default(), kept_max, keep_days }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Kept) -> T) -> T {
        act(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn write_now(&self, batch: &Batch, now: Timestamp) -> Written {
        let folded = batch.fold(now, self.keep_days);
        let mut changed = 0;
        self.with(|kept| {
            for (position, record) in folded.records {
                let merged = match kept.records.get(&position) {
                    None => record,
                    Some((known, _)) => {
                        let mut merged = known.clone();
                        merged.merge(record);
                        if merged == *known {
                            continue;
                        }
                        merged
                    }
                };
                let words = merged.words();
                kept.records.insert(position, (merged, words));
                changed += 1;
            }
            for text in folded.texts.into_values() {
                let place = &text.place;
                let (stream, epoch, seq) = (place.stream.clone(), place.epoch, place.seq);
                let hit = Hit { stream, epoch, seq, id: text.id, ts: text.ts() };
                let key = (TextPosition::of(&hit), epoch.0);
                if let Entry::Vacant(free) = kept.texts.entry(key) {
                    free.insert((hit, text.words()));
                    changed += 1;
                }
            }
            while kept.records.len() > self.kept_max {
                kept.records.pop_first();
            }
            while kept.texts.len() > self.kept_max {
                kept.texts.pop_first();
            }
        });
        Written { changed, again: Batch::default(), refused: folded.refused }
    }

    fn records_now(&self, query: &RecordQuery) -> RecordPage {
        let limit = query.limit();
        let found = self.with(|kept| {
            let newest_first = kept.records.values().rev();
            let wanted = newest_first.filter(|(record, words)| query.admits(record, words));
            wanted.take(limit + 1).map(|(record, _)| record.clone()).collect()
        });
        RecordPage::of(found, limit)
    }

    fn search_now(&self, query: &TextQuery) -> TextPage {
        let limit = query.limit();
        let wanted = |(hit, words): &&(Hit, Words)| {
            query.after.as_ref().is_none_or(|after| TextPosition::of(hit) < *after)
                && query.scope.admits(&hit.stream, hit.epoch, hit.seq)
                && words.has_all(&query.words)
        };
        let found = self.with(|kept| {
            kept.texts.values().rev().filter(wanted).take(limit + 1).map(|(hit, _)| hit.clone()).collect()
        });
        TextPage::of(found, limit)
    }

    fn maintain_now(&self, now: Timestamp) {
        let oldest = Timestamp(now.0 - i64::from(self.keep_days) * DAY_MS);
        self.with(|kept| {
            kept.records.retain(|position, _| position.ts >= oldest);
            kept.texts.retain(|(position, _), _| position.ts >= oldest);
        });
    }
}

impl RecordIndex for MemoryIndex {
    fn write<'a>(&'a self, batch: &'a Batch, now: Timestamp) -> BoxFuture<'a, Result<Written, IndexError>> {
        std::future::ready(Ok(self.write_now(batch, now))).boxed()
    }

    fn records<'a>(&'a self, query: &'a RecordQuery) -> BoxFuture<'a, Result<RecordPage, IndexError>> {
        std::future::ready(Ok(self.records_now(query))).boxed()
    }

    fn search<'a>(&'a self, query: &'a TextQuery) -> BoxFuture<'a, Result<TextPage, IndexError>> {
        std::future::ready(Ok(self.search_now(query))).boxed()
    }

    fn maintain(&self, now: Timestamp) -> BoxFuture<'_, Result<(), IndexError>> {
        std::future::ready({
            self.maintain_now(now);
            Ok(())
        })
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{RecordId, Status};

    #[tokio::test]
    async fn the_oldest_go_when_it_is_full() {
        let index = MemoryIndex::bounded(30, 3);
        let now = Timestamp(crate::api::auth::now_ms());
        let attempt = |n: i64| {
            let at = Timestamp(now.0 - n);
            PushRecord::new(RecordId::Attempt { at, nonce: 0 }, "u:ann").with(Status::Refused, at)
        };
        let batch = Batch { records: (0..5).map(attempt).collect(), texts: Vec::new() };
        assert_eq!(index.write(&batch, now).await.expect("written").changed, 5);
        let page = index.records(&RecordQuery::default()).await.expect("a page");
        assert_eq!(page.records.iter().map(|record| now.0 - record.ts().0).collect::<Vec<_>>(), [0, 1, 2]);
    }
}
