//! Pages of history from the hot list or the short queue, without asking the store.
//!
//! Invariants:
//! * The partition's owner says who may read, and how far: nothing is shown that its [`Command::Heads`] did not allow. So
//!   a list that is older than the stream only makes a page end earlier.
//! * What stands at a place of an epoch never changes, since it was committed before it was written here. A page is taken from
//!   here only if it goes on from the reader's place without a hole.
//! * Where the short queue was trimmed, the part before it comes from the store; both are joined only if they meet.

use std::future::Future;

use tidegate_control_core::domain::{Epoch, Seq, StreamKey, StreamKind, Uid};
use tidegate_control_core::partition::{Command, Reply, limits};
use tidegate_control_core::ports::cache::{Entry, Queued, RunQuery, SharedCache};
use tidegate_control_core::ports::{Head, Page, Stored};

use super::bounded::Tally;
use super::form;
use crate::api::auth::now_ms;
use crate::runtime::Answer;

/// Whoever reaches a stream's owner.
pub trait Ask: Sync {
    fn ask(&self, command: Command) -> impl Future<Output = Answer> + Send;
}

#[derive(Clone)]
pub struct Recent {
    cache: SharedCache,
    hot: Tally,
    queue: Tally,
}

/// What a list has of `(after, …]`.
enum Run {
    /// Contiguous, from the next seq on.
    Covers(Vec<Entry>),
    /// It begins with this one, which is later.
    Begins(Seq),
    Nothing,
}

impl Recent {
    /// `tally` is asked for each list by its name.
    pub fn new(cache: SharedCache, tally: impl Fn(&'static str) -> Tally) -> Recent {
        Recent { cache, hot: tally("hot"), queue: tally("queue") }
    }

    /// The answer to a pull; `None`: its owner has to be asked.
    pub async fn pull(&self, owner: &impl Ask, command: &Command) -> Option<Answer> {
        let Command::Pull { uid, stream, epoch, after, since_ts: None, limit } = command else { return None };
        let limit = if *limit == 0 { limits::PULL_MESSAGES_MAX } else { (*limit).min(limits::PULL_MESSAGES_MAX) };
        let tally = if stream.kind() == StreamKind::Inbox { &self.queue } else { &self.hot };
        let found = self.find(owner, (uid, stream, *epoch), *after, limit).await;
        if found.is_some() {
            tally.hits.inc()
        } else {
            tally.misses.inc()
        };
        found
    }

    async fn find(
        &self,
        owner: &impl Ask,
        (uid, stream, epoch): (&Option<Uid>, &StreamKey, Option<Epoch>),
        after: Seq,
        limit: usize,
    ) -> Option<Answer> {
        let (known, _) = self.cache.heads(std::slice::from_ref(stream)).await.pop()??;
        if epoch.is_some_and(|epoch| epoch != known) {
            return None;
        }
        match self.run(stream, known, after, limit).await {
            Run::Covers(entries) if !entries.is_empty() => {
                let head = head_of(owner, uid, stream).await?;
                let page = page(stream, head, known, after, &entries, limit)?;
                Some(Ok(Reply::Page { stream: stream.clone(), page, head }))
            }
            Run::Begins(oldest) => {
                let missing = usize::try_from(oldest.0 - 1 - after.0).ok().filter(|missing| *missing < limit)?;
                let (uid, stream) = (uid.clone(), stream.clone());
                let before = Command::Pull { uid, stream, epoch, after, since_ts: None, limit: missing };
                let answer = owner.ask(before).await;
                let Ok(Reply::Page { stream, page, head }) = answer else { return Some(answer) };
                let page = self.go_on(&stream, head, known, page, oldest, limit).await;
                Some(Ok(Reply::Page { stream, page, head }))
            }
            Run::Covers(_) | Run::Nothing => None,
        }
    }

    /// A page of the store and what follows it in the list, if they meet; otherwise the page as it is, which is only shorter.
    async fn go_on(
        &self,
        stream: &StreamKey,
        head: Head,
        known: Epoch,
        mut older: Page,
        oldest: Seq,
        limit: usize,
    ) -> Page {
        let room = limit.saturating_sub(older.messages.len());
        if older.upto.next() != oldest || room == 0 {
            return older;
        }
        let Run::Covers(entries) = self.run(stream, known, older.upto, room).await else { return older };
        if let Some(newer) = page(stream, head, known, older.upto, &entries, room) {
            older.upto = newer.upto;
            older.messages.extend(newer.messages);
        }
        older
    }

    async fn run(&self, stream: &StreamKey, epoch: Epoch, after: Seq, limit: usize) -> Run {
        let place = [RunQuery { stream: stream.clone(), epoch, after, limit }];
        if stream.kind() != StreamKind::Inbox {
            return self.cache.hot(&place).await.pop().flatten().map_or(Run::Nothing, Run::Covers);
        }
        match self.cache.queued(&place).await.pop() {
            Some(Queued::Covers { entries, .. }) => Run::Covers(entries),
            Some(Queued::Trimmed { oldest }) => Run::Begins(oldest),
            Some(Queued::Unknown) | None => Run::Nothing,
        }
    }
}

async fn head_of(owner: &impl Ask, uid: &Option<Uid>, stream: &StreamKey) -> Option<Head> {
    let command = Command::Heads { uid: uid.clone(), streams: vec![stream.clone()] };
    let Ok(Reply::Heads(heads)) = owner.ask(command).await else { return None };
    heads.into_iter().find(|(of, _)| of == stream)?.1.ok()
}

/// Of entries that follow `after` one by one: as much as the reader may see. `None`: nothing, or they do not fit.
fn page(stream: &StreamKey, head: Head, known: Epoch, after: Seq, entries: &[Entry], limit: usize) -> Option<Page> {
    if head.epoch != known {
        return None;
    }
    // Retention, or the reader's joining: what is before is gone for this reader.
    let start = after.max(Seq(head.first.0.saturating_sub(1)));
    let mut page = Page { after, upto: start, messages: Vec::new() };
    let (now, mut bytes) = (now_ms(), 0);
    for entry in entries.iter().filter(|entry| entry.seq > start && entry.seq <= head.head).take(limit) {
        if entry.seq != page.upto.next() {
            return None;
        }
        let stored: Stored = form::decode(stream, entry)?;
        bytes += stored.body.content.len() + stored.body.metadata.len();
        if bytes > limits::PULL_BYTES_MAX && page.upto > start {
            break;
        }
        page.upto = entry.seq;
        if stored.body.expires.is_none_or(|expires| expires.0 > now) {
            page.messages.push(stored);
        }
    }
    (page.upto > start).then_some(page)
}

#[cfg(test)]
mod tests;
