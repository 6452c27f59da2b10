//! How a connection is brought from its start to F, and made a member there.

use smallvec::SmallVec;

use super::Hub;
use super::encode::{BatchHead, sees};
use super::open::Entry;
use super::stream::Stream;
use super::tail::message_bytes;
use crate::client::gap_frame;
use crate::client::ops::{PAGE_BYTES_MAX, PAGE_MESSAGES_MAX};
use crate::ids::{ConnRef, Seq, SeqRange, StreamIdx, Uid};
use crate::link::{Message, Recovered};
use crate::messages::{ConnClass, Direct, ToShard};

/// What one connection gets of one stream. Made and carried out within one call: F must not move in between.
#[derive(Debug)]
pub(super) struct Plan {
    pub idx: StreamIdx,
    pub recovered: Recovered,
    pub step: Step,
}

#[derive(Debug)]
pub(super) enum Step {
    Nothing,
    /// The messages of `(after, F]` that this connection sees.
    Batch {
        after: Seq,
        messages: SmallVec<[Message; 4]>,
    },
    Gap {
        from: Seq,
    },
}

impl Hub {
    /// `budget`: bytes that this connection may still get as batches; what does not fit is a gap.
    pub(super) fn plan(&mut self, entry: Entry, class: ConnClass, budget: &mut usize) -> Plan {
        let idx = entry.idx;
        self.tails.touch(&mut self.streams, idx);
        let Some(stream) = self.streams.at(idx) else {
            return Plan { idx, recovered: entry.recovered, step: Step::Nothing };
        };
        if stream.epoch != entry.epoch {
            // The epoch ended while the open waited: the client begins anew.
            return Plan { idx, recovered: Recovered::Expired, step: Step::Gap { from: stream.first } };
        }
        let (start, flushed) = (entry.start, stream.flushed);
        let step = match between(stream, &entry, class, budget) {
            _ if entry.floats || start >= flushed => Step::Nothing,
            Some(messages) => Step::Batch { after: start, messages },
            None => Step::Gap { from: start.next() },
        };
        let recovered = match (entry.recovered, &step) {
            (Recovered::Expired, _) => Recovered::Expired,
            (_, Step::Gap { .. }) => Recovered::Partial,
            _ => Recovered::Full,
        };
        Plan { idx, recovered, step }
    }

    /// Recovery frames and then the membership, in the shard's FIFO.
    pub(super) fn recover(&mut self, conn: ConnRef, class: ConnClass, uid: &Uid, plan: Plan) {
        let Plan { idx, step, .. } = plan;
        let jitter = self.config.gap_jitter_ms;
        let pull_after_ms = if matches!(step, Step::Gap { .. }) { self.jitter_ms(jitter) } else { 0 };
        let Some(stream) = self.streams.at_mut(idx) else { return };
        stream.add_members(conn.shard, 1);
        stream.classes.note(class);
        let (flushed, head, epoch) = (stream.flushed, stream.received, stream.epoch.clone());
        let key = self.streams.key_text(idx);
        let frame = match &step {
            Step::Nothing => None,
            Step::Batch { after, messages } => {
                let range = Some(SeqRange { after: *after, upto: flushed });
                let head = BatchHead { stream: key, epoch: &epoch, range };
                Some(self.encoder.recovery(class, head, messages.iter().map(|message| &*message.body)))
            }
            Step::Gap { from } => {
                self.stats.gaps += 1;
                let gap = gap_frame(key, &epoch, *from, flushed, head, pull_after_ms);
                Some(self.encoder.single(class, &gap))
            }
        };
        let inbox = key.strip_prefix("u:") == Some(uid.as_str());
        let gapped = matches!(step, Step::Gap { .. });
        self.stats.memberships += 1;
        if let Some(frame) = frame {
            self.direct(conn, Direct { conn: conn.conn, frame, finishes: None, reached: None, recovers: Some(idx) });
        }
        self.send(conn.shard, ToShard::AddMember { conn: conn.conn, stream: idx, flushed, gapped, class, inbox });
    }

    pub(super) fn direct(&mut self, conn: ConnRef, direct: Direct) {
        self.send(conn.shard, ToShard::Send(direct));
    }
}

/// The messages of `(start, F]` that the class sees, from the page, the hot tail or both; `None` if they cannot be had
/// here or do not fit a page.
fn between(stream: &Stream, entry: &Entry, class: ConnClass, budget: &mut usize) -> Option<SmallVec<[Message; 4]>> {
    let mut messages: SmallVec<[Message; 4]> = SmallVec::new();
    let mut bytes = 0;
    let bytes_max = PAGE_BYTES_MAX.min(*budget);
    let mut take = |message: &Message| {
        if sees(Some(class.platform), message) {
            bytes += message_bytes(message);
            messages.push(message.clone());
        }
        bytes <= bytes_max && messages.len() <= PAGE_MESSAGES_MAX
    };
    let flushed = stream.flushed;
    let mut from = entry.start;
    if !stream.tail_covers(from) {
        let page = entry.page.as_ref()?;
        let wanted = page.iter().filter(|message| message.seq > from && message.seq <= flushed);
        if !wanted.into_iter().all(&mut take) {
            return None;
        }
        from = entry.head;
    }
    if from < flushed {
        let tail = stream.tail().filter(|_| stream.tail_covers(from))?;
        if !tail.above(from).take_while(|message| message.seq <= flushed).all(&mut take) {
            return None;
        }
    }
    *budget -= bytes;
    Some(messages)
}
