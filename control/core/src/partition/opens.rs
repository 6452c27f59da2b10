//! A connection wants streams: may it, where does it start, and what did it miss.

use std::sync::Arc;

use super::access::{Purpose, View};
use super::api::{GatewayId, LinkItem, LinkOpen, LinkOpenStream, Opened, OpenedStream, Output, Recovered};
use super::batch::{Effect, Opening, Wanted};
use super::heads::Mode;
use super::limits;
use super::links::{OPENS_DEFERRED_MAX, State};
use super::reads::too_many_streams;
use super::sequencer::{Denied, Partition, refused};
use crate::domain::names::EVERYBODY;
use crate::domain::{Epoch, ErrorCode, Refusal, Seq, StreamKey, StreamKind, Uid};
use crate::ports::{DeviceMark, Head, MessageStore, PageLimit, StoreError, Stored};

const PAGE: PageLimit = PageLimit { messages: limits::OPEN_PAGE_MESSAGES_MAX, bytes: limits::OPEN_PAGE_BYTES_MAX };

impl<S: MessageStore> Partition<S> {
    /// Who may, and where the streams stand at this point; the rest follows after the commit.
    pub(super) fn decide_open(&mut self, gateway: GatewayId, mut open: LinkOpen) -> Result<(), StoreError> {
        self.stats.opens += 1;
        let mut wanted = self.named(&mut open);
        if open.auto_join {
            match self.joined_by_itself(&open.uid) {
                Ok(streams) => wanted.extend(streams),
                Err(StoreError::Unavailable(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let mut streams = Vec::with_capacity(wanted.len());
        self.batch.overlay.seen.clear();
        for (at, wanted) in wanted.into_iter().enumerate() {
            if !self.batch.overlay.seen.insert(wanted.stream.stream.clone()) {
                continue;
            }
            let view = match at < limits::OPEN_STREAMS_MAX || !wanted.named {
                true => self.enter(&open.uid, &wanted.stream.stream, wanted.named),
                false => Err(too_many_streams().into()),
            };
            match view {
                Ok(view) => streams.push((wanted, Ok(view))),
                Err(denied) => {
                    let refusal = denied.into_refusal()?;
                    // Nobody asked for this one, and it may have ended just now.
                    if wanted.named {
                        streams.push((wanted, Err(refusal)));
                    }
                }
            }
        }
        self.batch.effects.push(Effect::Open(Box::new(Opening { gateway, open, streams })));
        Ok(())
    }

    fn named(&self, open: &mut LinkOpen) -> Vec<Wanted> {
        let again =
            |stream: &LinkOpenStream| LinkOpenStream { stream: stream.stream.clone(), cursor: stream.cursor.clone() };
        open.streams.iter().map(|stream| Wanted { stream: again(stream), named: true }).collect()
    }

    /// The inbox, everybody, and the member groups.
    fn joined_by_itself(&mut self, uid: &Uid) -> Result<Vec<Wanted>, StoreError> {
        let mut groups = self.batch.overlay.joined_by(uid);
        groups.extend(self.store.groups_of(uid, limits::AUTO_JOIN_MAX)?);
        groups.truncate(limits::AUTO_JOIN_MAX);
        let everybody = EVERYBODY.parse().into_iter();
        let streams = std::iter::once(uid.stream()).chain(everybody).chain(groups.iter().map(|gid| gid.stream()));
        let wanted = |stream| Wanted { stream: LinkOpenStream { stream, cursor: None }, named: false };
        Ok(streams.map(wanted).collect())
    }

    fn enter(&mut self, uid: &Uid, stream: &StreamKey, named: bool) -> Result<View, Denied> {
        if stream.kind() == StreamKind::Conversation {
            return Err(refused(ErrorCode::BadRequest, "stream: conversations come through the inbox"));
        }
        if let Some(gid) = stream.gid()
            && named
            && self.config.auto_groups
            && self.peek(self.heads.hash(stream), stream)?.is_none()
        {
            self.begin_group_by_itself(gid)?;
        }
        self.view(Some(uid), stream, Purpose::Join)
    }

    /// After the commit: registers the interest at this very point of the order, and answers.
    pub(super) fn open(&mut self, opening: Opening, out: &mut Vec<Output>) -> Result<(), StoreError> {
        let Some(slot) = self.links.slot(opening.gateway) else { return Ok(()) };
        let Some(attachment) = self.links.attachment(slot) else { return Ok(()) };
        if attachment.state != State::Live {
            // What is still to be replayed comes first: the hub relies on Opened standing where its stream stands.
            if attachment.deferred.len() < OPENS_DEFERRED_MAX {
                self.stats.opens_deferred += 1;
                attachment.deferred.push_back(opening.open);
            } else {
                let mut refusal = Refusal::new(ErrorCode::Overloaded, "too many opens wait for this link");
                refusal.retry_after_ms = Some(1_000);
                self.refuse_open(opening, &refusal, out);
            }
            return Ok(());
        }
        let Opening { open, streams, .. } = opening;
        for (wanted, view) in streams {
            let stream = wanted.stream.stream.clone();
            let result = match view {
                Err(refusal) => Err(refusal),
                Ok(view) => match self.opened(&open, &wanted, &view) {
                    Ok(opened) => Ok(opened),
                    Err(error) => Err(Denied::from(error).into_refusal()?),
                },
            };
            if result.is_ok() {
                self.links.interest.add(&stream, slot);
            }
            let item = LinkItem::Opened(Arc::new(Opened { corr: open.corr, stream, result }));
            if let Some(attachment) = self.links.attachment(slot) {
                attachment.send(item, out);
            }
        }
        if let Some(attachment) = self.links.attachment(slot) {
            attachment.send(LinkItem::OpenEnd { corr: open.corr }, out);
        }
        Ok(())
    }

    /// Answers an open with the same refusal for every stream that was named.
    pub(super) fn refuse_open(&mut self, opening: Opening, refusal: &Refusal, out: &mut Vec<Output>) {
        let Some(attachment) = self.links.slot(opening.gateway).and_then(|slot| self.links.attachment(slot)) else {
            return;
        };
        let corr = opening.open.corr;
        for (wanted, view) in opening.streams {
            let refusal = view.err().unwrap_or_else(|| refusal.clone());
            let opened = Opened { corr, stream: wanted.stream.stream, result: Err(refusal) };
            attachment.send(LinkItem::Opened(Arc::new(opened)), out);
        }
        attachment.send(LinkItem::OpenEnd { corr }, out);
    }

    fn opened(&self, open: &LinkOpen, wanted: &Wanted, view: &View) -> Result<OpenedStream, StoreError> {
        let head = self.stands(view)?;
        let oldest = Seq(head.first.0 - 1);
        let (start, gone) = match &wanted.stream.cursor {
            None => (self.start(open, view, head)?, false),
            Some((epoch, seq)) => match epoch.parse::<Epoch>() {
                Ok(epoch) if epoch == head.epoch && (oldest..=head.head).contains(seq) => (*seq, false),
                _ => (oldest, true),
            },
        };
        let page = self.recovery(view, head, start)?;
        let recovered = match (gone, &page) {
            (true, _) => Recovered::Expired,
            (false, Some(_)) => Recovered::Full,
            (false, None) => Recovered::Partial,
        };
        let open_group = view.mode == Mode::OpenGroup;
        let listed = wanted.named || start < head.head;
        Ok(OpenedStream { head, start, recovered, page, open_group, listed })
    }

    /// Where a device without a cursor starts.
    ///
    /// In the inbox: at its mark, else at the user's furthest mark (an unknown device), else at the beginning, but never
    /// more than `offline_max` before the head. In a group: at its mark, else at the head.
    fn start(&self, open: &LinkOpen, view: &View, head: Head) -> Result<Seq, StoreError> {
        let mut marks = self.store.marks(&open.uid, &view.stream)?;
        let forgotten = self.now.0.saturating_sub(self.config.mark_age_max_ms);
        marks.retain(|mark| mark.epoch == head.epoch && mark.ts.0 >= forgotten);
        let own = marks.iter().find(|mark| mark.device == open.device).map(|mark| mark.seq);
        let oldest = Seq(head.first.0 - 1);
        let start = match view.stream.kind() {
            StreamKind::Inbox => {
                let nearest = Seq(head.head.0.saturating_sub(self.config.offline_max));
                own.or(furthest(&marks)).unwrap_or(Seq::ZERO).max(nearest)
            }
            _ => own.unwrap_or(head.head),
        };
        Ok(start.max(oldest).min(head.head))
    }

    /// Messages of `(start, head]`, if they fit a page.
    fn recovery(&self, view: &View, head: Head, start: Seq) -> Result<Option<Vec<Stored>>, StoreError> {
        if head.head.0 - start.0 > PAGE.messages as u64 {
            return Ok(None);
        }
        let page = self.page(view, head, start, PAGE)?;
        Ok((page.upto >= head.head).then_some(page.messages))
    }
}

fn furthest(marks: &[DeviceMark]) -> Option<Seq> {
    marks.iter().map(|mark| mark.seq).max()
}
