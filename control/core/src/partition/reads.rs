//! Pages of history, and where streams stand.

use super::access::{Purpose, View};
use super::api::{Reply, Token};
use super::batch::{Effect, Pull};
use super::limits;
use super::sequencer::{Denied, Partition};
use crate::domain::errors::Stands;
use crate::domain::{Epoch, ErrorCode, Refusal, Seq, StreamKey, Timestamp, Uid};
use crate::ports::{Head, MessageStore, Page, PageLimit, StoreError, Stored};

impl<S: MessageStore> Partition<S> {
    pub(super) fn decide_pull(
        &mut self,
        token: Token,
        view: View,
        epoch: Option<Epoch>,
        after: Seq,
        since_ts: Option<i64>,
        limit: usize,
    ) {
        let limit = if limit == 0 { limits::PULL_MESSAGES_MAX } else { limit.min(limits::PULL_MESSAGES_MAX) };
        let pull = Box::new(Pull { view, epoch, after, since_ts, limit });
        self.batch.effects.push(Effect::Pull { token, pull });
    }

    pub(super) fn decide_heads(
        &mut self,
        token: Token,
        uid: Option<Uid>,
        streams: Vec<StreamKey>,
    ) -> Result<(), Denied> {
        limits::at_most("streams", streams.len(), limits::HEADS_MAX)?;
        let mut views = Vec::with_capacity(streams.len());
        for stream in streams {
            let view = match self.view(uid.as_ref(), &stream, Purpose::Read) {
                Ok(view) => Ok(view),
                Err(denied) => Err(denied.into_refusal()?),
            };
            views.push((stream, view));
        }
        self.batch.effects.push(Effect::Heads { token, views });
        Ok(())
    }

    /// One page after the commit. It covers `(after, upto]`: what of that range is not in it has been trimmed, has expired,
    /// or is not this reader's to see. With `since_ts` it begins where that time begins.
    ///
    /// `after` beyond the head is EXPIRED, as another epoch is: the reader has seen what this stream does not have.
    pub(super) fn pull(&self, pull: Pull) -> Result<Reply, Denied> {
        let Pull { view, epoch, mut after, since_ts, limit } = pull;
        let head = self.stands(&view)?;
        if epoch.is_some_and(|epoch| epoch != view.epoch) || after > view.head {
            return Err(expired(head).into());
        }
        if let Some(since) = since_ts {
            after = after.max(self.store.seq_before(&view.stream, Timestamp(since))?.min(view.head));
        }
        let limit = PageLimit { messages: limit, bytes: limits::PULL_BYTES_MAX };
        let page = self.page(&view, head, after, limit)?;
        Ok(Reply::Page { stream: view.stream, page, head })
    }

    /// What a view holds after `after`, without what has expired.
    pub(super) fn page(&self, view: &View, head: Head, after: Seq, limit: PageLimit) -> Result<Page, StoreError> {
        let start = after.max(Seq(head.first.0 - 1));
        if start >= view.head {
            return Ok(Page { after, upto: after.max(view.head), messages: Vec::new() });
        }
        let mut page = self.store.page(&view.stream, start, limit)?;
        page.messages.retain(|message| message.seq <= view.head && !self.has_expired(message));
        Ok(Page { after, upto: page.upto.min(view.head).max(after), messages: page.messages })
    }

    pub(super) fn heads_of(&self, views: Vec<(StreamKey, Result<View, Refusal>)>) -> Result<Reply, Denied> {
        let mut heads = Vec::with_capacity(views.len());
        for (stream, view) in views {
            let head = match view {
                Ok(view) => Ok(self.stands(&view)?),
                Err(refusal) => Err(refusal),
            };
            heads.push((stream, head));
        }
        Ok(Reply::Heads(heads))
    }

    fn has_expired(&self, message: &Stored) -> bool {
        message.body.expires.is_some_and(|expires| expires <= self.now)
    }
}

pub(super) fn expired(head: Head) -> Refusal {
    Refusal::expired(Stands { epoch: head.epoch, head: head.head, first: head.first })
}

/// Refuses more streams than one question may hold.
pub(super) fn too_many_streams() -> Refusal {
    Refusal::new(ErrorCode::TooLarge, format!("streams: at most {}", limits::OPEN_STREAMS_MAX))
}
