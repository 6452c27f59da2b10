//! Links that are behind are brought up to date from the log, a piece in each turn; nothing is queued for them.

use std::sync::Arc;

use super::access::Purpose;
use super::api::{LinkItem, Opened, OpenedStream, Output, Recovered};
use super::heads::Mode;
use super::interest::Slot;
use super::links::State;
use super::routing::gone;
use super::sequencer::{Denied, Partition};
use crate::domain::{Lsn, StreamKey};
use crate::ports::{MessageStore, PageLimit, StoreError};

/// Records of the log that one turn reads for all links together.
const TURN_RECORDS_MAX: usize = 8_192;
/// Read from the log at once.
const CHUNK: PageLimit = PageLimit { messages: 1_024, bytes: 1 << 20 };
/// Streams of a reset link that one turn tells the heads of.
const TURN_RESET_STREAMS_MAX: usize = 1_024;

impl<S: MessageStore> Partition<S> {
    /// Gives each link that is behind its share of this turn. `last`: the newest committed record.
    pub(super) fn catch_up(&mut self, last: Lsn, out: &mut Vec<Output>) -> Result<(), StoreError> {
        let slots = self.links.attachments.len();
        let mut records = TURN_RECORDS_MAX;
        for step in 0..slots {
            let slot = ((self.links.next + step) % slots) as Slot;
            self.tell_heads(slot, out)?;
            self.replay(slot, last, &mut records, out)?;
        }
        self.links.next = if slots == 0 { 0 } else { (self.links.next + 1) % slots };
        Ok(())
    }

    fn replay(&mut self, slot: Slot, last: Lsn, budget: &mut usize, out: &mut Vec<Output>) -> Result<(), StoreError> {
        while let Some(attachment) = self.links.attachment(slot)
            && let State::CatchUp { from } = attachment.state
        {
            if from >= last {
                attachment.state = State::Live;
                attachment.position(self.now, last, out);
                return Ok(());
            }
            if attachment.credit <= 0 || *budget == 0 {
                return Ok(());
            }
            let limit = PageLimit { messages: CHUNK.messages.min(*budget), bytes: CHUNK.bytes };
            let page = match self.store.replay(from, limit) {
                Ok(Some(page)) => page,
                Ok(None) => {
                    self.links.reset(slot, last, &mut self.stats, out);
                    return Ok(());
                }
                // The next turn tries again.
                Err(StoreError::Unavailable(_)) => return Ok(()),
                Err(error) => return Err(error),
            };
            *budget = budget.saturating_sub(page.records.len().max(1));
            let mut reached = from;
            for (lsn, record) in &page.records {
                if !self.links.replay_to(slot, (*lsn, record), self.now, &mut self.stats, out) {
                    break;
                }
                reached = *lsn;
            }
            if page.records.last().is_none_or(|(lsn, _)| *lsn == reached) {
                reached = reached.max(page.upto);
            }
            if reached == from && page.records.is_empty() {
                let gateway = self.links.attachment(slot).map(|a| a.id);
                gateway.into_iter().for_each(|id| self.links.throw_out(id, "its replay failed", &mut self.stats, out));
                return Ok(());
            }
            if let Some(attachment) = self.links.attachment(slot) {
                attachment.state = State::CatchUp { from: reached };
            }
        }
        Ok(())
    }

    /// Tells a reset link where its streams stand. All that happens to them meanwhile is replayed afterwards.
    fn tell_heads(&mut self, slot: Slot, out: &mut Vec<Output>) -> Result<(), StoreError> {
        let Some(attachment) = self.links.attachment(slot) else { return Ok(()) };
        let State::Resetting { from, streams } = &mut attachment.state else { return Ok(()) };
        let from = *from;
        let begin = streams.len().saturating_sub(TURN_RESET_STREAMS_MAX);
        let now = streams.split_off(begin);
        if streams.is_empty() {
            attachment.state = State::CatchUp { from };
        }
        for stream in now {
            let item = self.head_after_reset(stream)?;
            if let Some(attachment) = self.links.attachment(slot) {
                attachment.send(item, out);
            }
        }
        Ok(())
    }

    fn head_after_reset(&mut self, stream: StreamKey) -> Result<LinkItem, StoreError> {
        let result = match self.stands_now(&stream) {
            Ok(Some(opened)) => Ok(opened),
            Ok(None) => return Ok(gone(stream)),
            Err(denied) => Err(denied.into_refusal()?),
        };
        Ok(LinkItem::Opened(Arc::new(Opened { corr: 0, stream, result })))
    }

    /// `None`: the group was dismissed.
    fn stands_now(&mut self, stream: &StreamKey) -> Result<Option<OpenedStream>, Denied> {
        let view = self.view(None, stream, Purpose::Read)?;
        if view.mode == Mode::Dismissed {
            return Ok(None);
        }
        let head = self.stands(&view)?;
        let open_group = view.mode == Mode::OpenGroup;
        let (start, recovered) = (head.head, Recovered::Full);
        Ok(Some(OpenedStream { head, start, recovered, page: None, open_group, listed: false }))
    }
}
