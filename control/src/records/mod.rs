//! Push records: who pushed what to whom, and what became of it; and the words of messages, for search.
//!
//! Both are indexes beside the truth, fed without anybody waiting for them ([`feeder`]). What an index loses, no stream
//! loses. Invariants:
//! * Writing is idempotent, and order does not matter: records of one push to one target merge ([`PushRecord::merge`]) to
//!   the same, whatever comes first and however often.
//! * The time of a record follows from its id, so each event of a push finds the same month or week.
//! * What a text's words are is decided here ([`words`]), so that every index finds the same, and no query language is ever
//!   shown a caller's text.
//!
//! What it does not do: decide who may read what. Searches are given the streams that may be read ([`Scope`]).

mod batch;
mod feeder;
mod follower;
mod form;
mod memory;
mod metrics;
mod port;
mod position;
mod settings;
mod words;

pub use batch::{Batch, Folded, MessageText};
pub use feeder::{BREAKER, Feed, FeedOptions, Feeding};
pub use follower::follow;
pub use form::{Change, PushRecord, RecordId, Status, Text, is_sealed};
pub use memory::MemoryIndex;
pub use metrics::FeedMetrics;
pub use port::{
    Hit, IndexError, PAGE_MAX, Readable, RecordIndex, RecordPage, RecordQuery, Refused, SCOPE_STREAMS_MAX, Scope,
    TextPage, TextQuery, Written,
};
pub use position::{BadCursor, RecordPosition, TextPosition};
pub use settings::{Kind, Settings};
pub use words::{BadQuery, QUERY_WORDS_MAX, WORD_BYTES_MAX, Words};
