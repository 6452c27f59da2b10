//! A connection wants streams: may it, where does it start, and what did it miss.

use std::sync::Arc;

use super::access::{Purpose, View};
use super::api::{Also, GatewayId, LinkItem, LinkOpen, LinkOpenStream, Opened, OpenedStream, Output, Recovered};
use super::batch::{Effect, Entered, Opening, Wanted};
use super::heads::Mode;
use super::interest::Slot;
use super::limits;
use super::links::{OPENS_DEFERRED_MAX, State};
use super::reads::too_many_streams;
use super::sequencer::{Denied, Partition, refused};
use crate::domain::names::EVERYBODY;
use crate::domain::{Epoch, ErrorCode, Refusal, Seq, StreamKey, StreamKind, Uid};
use crate::planted::{self, Bug};
use crate::ports::{DeviceMark, Head, MessageStore, PageLimit, StoreError, Stored};

const PAGE: PageLimit = PageLimit { messages: limits::OPEN_PAGE_MESSAGES_MAX, bytes: limits::OPEN_PAGE_BYTES_MAX };

impl<S: MessageStore> Partition<S> {
    /// Who may, and where the streams stand at this point; the rest follows after the commit.
    pub(super) fn decide_open(&mut self, gateway: GatewayId, open: LinkOpen) -> Result<(), StoreError> {
        let streams = match self.enter_all(&open) {
            Ok(streams) => Some(streams),
            // A connection must not lack a stream it was not even told of: all of it waits.
            Err(StoreError::Unavailable(_)) => None,
            Err(error) => return Err(error),
        };
        self.batch.effects.push(Effect::Open(Box::new(Opening { gateway, open, streams })));
        Ok(())
    }

    fn enter_all(&mut self, open: &LinkOpen) -> Result<(Entered, Vec<StreamKey>), StoreError> {
        let again =
            |s: &LinkOpenStream| LinkOpenStream { stream: s.stream.clone(), cursor: s.cursor.clone(), auto: s.auto };
        let mut wanted: Vec<Wanted> =
            open.streams.iter().map(|stream| Wanted { stream: again(stream), named: !stream.auto }).collect();
        if open.auto_join {
            wanted.extend(self.joined_by_itself(&open.uid)?);
        }
        let mut streams = Vec::with_capacity(wanted.len());
        let mut elsewhere = Vec::new();
        self.batch.overlay.seen.clear();
        for (at, wanted) in wanted.into_iter().enumerate() {
            if !self.batch.overlay.seen.insert(wanted.stream.stream.clone()) {
                continue;
            }
            if !wanted.named && !self.owns(&wanted.stream.stream) {
                elsewhere.push(wanted.stream.stream);
                continue;
            }
            let view = match at < limits::OPEN_STREAMS_MAX || !wanted.named {
                true => self.enter(&open.uid, &wanted.stream.stream, wanted.named),
                false => Err(too_many_streams().into()),
            };
            match view {
                Ok(view) => streams.push((wanted, Ok(view))),
                Err(Denied::Refused(refusal)) if wanted.named => streams.push((wanted, Err(refusal))),
                // Nobody asked for this one, and it may have ended just now.
                Err(Denied::Refused(_)) => {}
                Err(Denied::Store(error)) => return Err(error),
            }
        }
        Ok((streams, elsewhere))
    }

    /// The inbox, everybody, and the member groups.
    fn joined_by_itself(&mut self, uid: &Uid) -> Result<Vec<Wanted>, StoreError> {
        let mut groups = self.batch.overlay.joined_by(uid);
        groups.extend(self.store.groups_of(uid, limits::AUTO_JOIN_MAX)?);
        groups.truncate(limits::AUTO_JOIN_MAX);
        let everybody = EVERYBODY.parse().into_iter();
        let streams = std::iter::once(uid.stream()).chain(everybody).chain(groups.iter().map(|gid| gid.stream()));
        let wanted = |stream| Wanted { stream: LinkOpenStream { stream, cursor: None, auto: true }, named: false };
        Ok(streams.map(wanted).collect())
    }

    fn enter(&mut self, uid: &Uid, stream: &StreamKey, named: bool) -> Result<View, Denied> {
        if !self.owns(stream) {
            return Err(refused(ErrorCode::NotFound, "stream: another partition has it"));
        }
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
    ///
    /// A link that is not up to date waits: what is still to be replayed comes first, for the hub relies on Opened standing
    /// where its stream stands.
    pub(super) fn open(&mut self, opening: Opening, out: &mut Vec<Output>) -> Result<(), StoreError> {
        let Opening { gateway, open, streams } = opening;
        let Some(slot) = self.links.slot(gateway) else { return Ok(()) };
        let live = self.links.attachment(slot).is_some_and(|attachment| attachment.state == State::Live);
        let answers = match streams {
            Some((streams, elsewhere)) if live => self.opened_all(&open, streams).map(|answers| (answers, elsewhere)),
            _ => Err(StoreError::Unavailable("not ready".into())),
        };
        match answers {
            Ok((answers, elsewhere)) => self.answer_open(slot, open.corr, answers, elsewhere, out),
            Err(StoreError::Unavailable(_)) => self.defer_open(slot, open, out),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn opened_all(&self, open: &LinkOpen, streams: Entered) -> Result<Vec<Opened>, StoreError> {
        let corr = open.corr;
        let answer = |(wanted, view): (Wanted, Result<View, Refusal>)| {
            let result = match view {
                Ok(view) => Ok(self.opened(open, &wanted, &view)?),
                Err(refusal) => Err(refusal),
            };
            Ok(Opened { corr, stream: wanted.stream.stream, result })
        };
        streams.into_iter().map(answer).collect()
    }

    /// Decides it again in a later turn, when the link is up to date and the store is there.
    pub(super) fn defer_open(&mut self, slot: Slot, open: LinkOpen, out: &mut Vec<Output>) {
        let Some(attachment) = self.links.attachment(slot) else { return };
        if attachment.deferred.len() < OPENS_DEFERRED_MAX {
            attachment.deferred.push_back(open);
            self.stats.opens_deferred += 1;
            return;
        }
        let mut refusal = Refusal::new(ErrorCode::Overloaded, "too many opens wait for this link");
        refusal.retry_after_ms = Some(1_000);
        let corr = open.corr;
        let refused = |named: LinkOpenStream| Opened { corr, stream: named.stream, result: Err(refusal.clone()) };
        let answers = open.streams.into_iter().map(refused).collect();
        self.answer_open(slot, corr, answers, Vec::new(), out);
    }

    fn answer_open(
        &mut self,
        slot: Slot,
        corr: u64,
        answers: Vec<Opened>,
        elsewhere: Vec<StreamKey>,
        out: &mut Vec<Output>,
    ) {
        for opened in answers {
            if opened.result.is_ok() && !planted::is(Bug::InterestForgotten) {
                self.links.interest.add(&opened.stream, slot);
            }
            if let Some(attachment) = self.links.attachment(slot) {
                attachment.send(LinkItem::Opened(Arc::new(opened)), out);
            }
        }
        if let Some(attachment) = self.links.attachment(slot) {
            if !elsewhere.is_empty() && !planted::is(Bug::AlsoForgotten) {
                attachment.send(LinkItem::Also(Arc::new(Also { corr, streams: elsewhere })), out);
            }
            attachment.send(LinkItem::OpenEnd { corr }, out);
        }
    }

    fn opened(&self, open: &LinkOpen, wanted: &Wanted, view: &View) -> Result<OpenedStream, StoreError> {
        let head = self.stands(view)?;
        let oldest = Seq(head.first.0 - 1);
        let (start, gone) = match &wanted.stream.cursor {
            None => (self.start(open, view, head)?, false),
            Some((epoch, seq)) => match epoch.parse::<Epoch>() {
                Ok(epoch) if epoch == head.epoch && (oldest..=head.head).contains(seq) => (*seq, false),
                Ok(epoch) if epoch == head.epoch && planted::is(Bug::FutureCursorBelieved) => (*seq, false),
                _ if planted::is(Bug::ForeignCursorBelieved) => ((*seq).min(head.head), false),
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
                let unknown = if planted::is(Bug::NewDeviceAtHead) { head.head } else { Seq::ZERO };
                own.or(furthest(&marks)).unwrap_or(unknown).max(nearest)
            }
            _ => own.unwrap_or(head.head),
        };
        Ok(start.max(oldest).min(head.head))
    }

    /// Messages of `(start, head]`, if they fit a page.
    fn recovery(&self, view: &View, head: Head, start: Seq) -> Result<Option<Vec<Stored>>, StoreError> {
        if head.head.0.saturating_sub(start.0) > PAGE.messages as u64 {
            return Ok(None);
        }
        let start = if planted::is(Bug::PageSkipsFirst) { start.next().min(head.head) } else { start };
        let page = self.page(view, head, start, PAGE)?;
        Ok((page.upto >= head.head).then_some(page.messages))
    }
}

fn furthest(marks: &[DeviceMark]) -> Option<Seq> {
    marks.iter().map(|mark| mark.seq).max()
}
