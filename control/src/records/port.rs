//! The port: what an index of records and texts must do.

use std::collections::BTreeMap;

use futures_util::future::BoxFuture;
use tidegate_control_core::domain::{Epoch, MessageId, Seq, StreamKey, Timestamp, Uid};

use super::batch::Batch;
use super::form::PushRecord;
use super::position::{RecordPosition, TextPosition};
use super::words::Words;

/// Most records or messages of one page; a greater limit is lowered.
pub const PAGE_MAX: usize = 100;
/// Most streams that one search looks through.
pub const SCOPE_STREAMS_MAX: usize = 1_000;

#[derive(Clone, Debug, thiserror::Error)]
pub enum IndexError {
    /// It is away, or does not do it now: worth trying again, the same.
    #[error("the index is unavailable: {0}")]
    Unavailable(Box<str>),
    /// Trying again changes nothing.
    #[error("the index failed: {0}")]
    Failed(Box<str>),
}

/// A place where records and texts are kept for a while and found again. All calls end within a time of their own.
pub trait RecordIndex: Send + Sync + 'static {
    /// Merges records with those that are there and adds texts that are not. An error: any part of it may have been written,
    /// and writing it again does no harm.
    fn write<'a>(&'a self, batch: &'a Batch, now: Timestamp) -> BoxFuture<'a, Result<Written, IndexError>>;

    /// Newest first, a page at a time. What is written meanwhile comes before the page or not at all, so no record comes twice.
    fn records<'a>(&'a self, query: &'a RecordQuery) -> BoxFuture<'a, Result<RecordPage, IndexError>>;

    /// Messages that have all the words, newest first. A page may be short, or empty, and still not be the last.
    fn search<'a>(&'a self, query: &'a TextQuery) -> BoxFuture<'a, Result<TextPage, IndexError>>;

    /// Makes room for what comes and drops what is too old. Called now and then.
    fn maintain(&self, now: Timestamp) -> BoxFuture<'_, Result<(), IndexError>>;
}

/// What became of a batch.
#[derive(Debug, Default)]
pub struct Written {
    /// Records that were made or changed, and texts that were added.
    pub changed: usize,
    /// Not written now, and worth trying again.
    pub again: Batch,
    /// Never to be written.
    pub refused: Vec<Refused>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Of which record or text.
    pub name: Box<str>,
    pub reason: Box<str>,
}

/// All that is given must hold.
#[derive(Clone, Debug, Default)]
pub struct RecordQuery {
    pub uid: Option<Uid>,
    /// The message's id, or the key of its caller.
    pub message_id: Option<Box<str>>,
    pub stream: Option<StreamKey>,
    pub words: Option<Words>,
    /// Pushed at this time or later.
    pub from: Option<Timestamp>,
    /// Pushed before this time.
    pub to: Option<Timestamp>,
    /// Only what follows this one.
    pub after: Option<RecordPosition>,
    /// 1 to [`PAGE_MAX`]; 0 is [`PAGE_MAX`].
    pub limit: usize,
}

impl RecordQuery {
    pub fn limit(&self) -> usize {
        page_limit(self.limit)
    }

    /// Whether a record is among those asked for. An index without better means looks at each.
    pub fn admits(&self, record: &PushRecord, words: &Words) -> bool {
        let ts = record.ts();
        // Most records have no key, so an empty one finds nothing.
        let id = |wanted: &str| !wanted.is_empty() && (*record.key == *wanted || record.id.to_string() == wanted);
        self.uid.as_ref().is_none_or(|uid| record.uids.contains(uid))
            && self.message_id.as_deref().is_none_or(id)
            && self.stream.as_ref().is_none_or(|stream| stream.as_str() == &*record.to)
            && self.words.as_ref().is_none_or(|wanted| words.has_all(wanted))
            && self.from.is_none_or(|from| ts >= from)
            && self.to.is_none_or(|to| ts < to)
            && self.after.as_ref().is_none_or(|after| RecordPosition::of(record) < *after)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordPage {
    pub records: Vec<PushRecord>,
    /// `None`: nothing follows.
    pub next: Option<RecordPosition>,
}

/// The part of a stream that somebody may read: seqs from `first` to `head`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Readable {
    pub epoch: Epoch,
    pub first: Seq,
    pub head: Seq,
}

/// What a search may show: these streams, at most [`SCOPE_STREAMS_MAX`], each as far as it may be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope(BTreeMap<StreamKey, Readable>);

impl Scope {
    /// Streams beyond the bound, and those of which nothing may be read, are left out.
    pub fn new(streams: impl IntoIterator<Item = (StreamKey, Readable)>) -> Scope {
        let readable = streams.into_iter().filter(|(_, part)| part.first <= part.head);
        Scope(readable.take(SCOPE_STREAMS_MAX).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&StreamKey, &Readable)> {
        self.0.iter()
    }

    pub fn admits(&self, stream: &StreamKey, epoch: Epoch, seq: Seq) -> bool {
        self.0.get(stream).is_some_and(|part| part.epoch == epoch && (part.first..=part.head).contains(&seq))
    }
}

#[derive(Clone, Debug, Default)]
pub struct TextQuery {
    pub words: Words,
    pub scope: Scope,
    pub after: Option<TextPosition>,
    /// As in [`RecordQuery::limit`].
    pub limit: usize,
}

impl TextQuery {
    pub fn limit(&self) -> usize {
        page_limit(self.limit)
    }
}

/// A message that was found; its text is in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    pub stream: StreamKey,
    pub epoch: Epoch,
    pub seq: Seq,
    pub id: MessageId,
    pub ts: Timestamp,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextPage {
    pub hits: Vec<Hit>,
    /// `None`: nothing follows.
    pub next: Option<TextPosition>,
}

fn page_limit(limit: usize) -> usize {
    if limit == 0 { PAGE_MAX } else { limit.min(PAGE_MAX) }
}

impl RecordPage {
    /// Of up to `limit + 1` records in order: one more than asked for says that a page follows.
    pub fn of(mut records: Vec<PushRecord>, limit: usize) -> RecordPage {
        let more = records.len() > limit;
        records.truncate(limit);
        let next = records.last().filter(|_| more).map(RecordPosition::of);
        RecordPage { records, next }
    }
}

impl TextPage {
    /// As [`RecordPage::of`].
    pub fn of(mut hits: Vec<Hit>, limit: usize) -> TextPage {
        let more = hits.len() > limit;
        hits.truncate(limit);
        let next = hits.last().filter(|_| more).map(TextPosition::of);
        TextPage { hits, next }
    }
}
