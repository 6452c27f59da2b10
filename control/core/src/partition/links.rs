//! The gateways that are attached: what each is owed, how much it may still be sent, and whether it is up to date.
//!
//! Invariants:
//! * A live attachment has been sent everything that its interest selects, up to the record that is being routed. One that
//!   is not live knows the lsn from which it has to be replayed, so nothing is ever queued for it here.
//! * Items that an attachment has not paid back are at most its window plus what one record gives.

use std::collections::VecDeque;

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use super::api::{GatewayId, Input, LinkItem, LinkOpen, Output};
use super::interest::{Interest, Slot};
use super::sequencer::elapsed;
use super::stats::PartitionStats;
use crate::domain::{Lsn, OwnerEpoch, StreamKey, Timestamp};
use crate::planted::{self, Bug};

/// Gateways that one partition serves at once.
pub const ATTACHMENTS_MAX: usize = 1_024;
/// Opens that wait for their attachment to catch up; the ones beyond are refused with OVERLOADED.
pub const OPENS_DEFERRED_MAX: usize = 4_096;
/// Deferred opens that one turn takes up again.
const OPENS_PER_TURN_MAX: usize = 512;
/// Messages that one Deliver holds.
const DELIVER_MESSAGES_MAX: usize = 100;
/// A live link is told its position so often; links promise at least once a second.
const POSITION_EVERY_MS: i64 = 500;

#[derive(Debug)]
pub(super) struct Links {
    pub(super) attachments: Vec<Option<Attachment>>,
    by_id: HashMap<GatewayId, Slot, FixedState>,
    pub(super) interest: Interest,
    interest_max: usize,
    /// Where the next turn begins to catch links up, so that none starves.
    pub(super) next: usize,
}

#[derive(Debug)]
pub(super) struct Attachment {
    pub id: GatewayId,
    window: i64,
    /// Bytes that may still be sent; one record may overdraw it.
    pub credit: i64,
    pub state: State,
    /// Asked while not live: their answers must not overtake what is replayed.
    pub deferred: VecDeque<LinkOpen>,
    position_at: Timestamp,
    /// Where its last item stands in the outputs of this turn, if that is a Deliver.
    last_deliver: Option<usize>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Its interest is being announced.
    Announcing,
    /// Replayed from the log, in turns.
    CatchUp {
        from: Lsn,
    },
    /// It was told to compare heads; these streams' are still to be sent. Then it catches up from `from`.
    Resetting {
        from: Lsn,
        streams: Vec<StreamKey>,
    },
    Live,
}

impl Links {
    pub fn new(seed: u64, interest_max: usize) -> Links {
        Links {
            attachments: Vec::new(),
            by_id: HashMap::with_hasher(FixedState::with_seed(seed)),
            interest: Interest::new(seed),
            interest_max,
            next: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    pub fn interest_len(&self) -> usize {
        self.interest.len()
    }

    pub fn slot(&self, gateway: GatewayId) -> Option<Slot> {
        self.by_id.get(&gateway).copied()
    }

    /// `slot` is of a living attachment: slots are handed out and freed in this module alone.
    pub fn attachment(&mut self, slot: Slot) -> Option<&mut Attachment> {
        self.attachments.get_mut(usize::from(slot))?.as_mut()
    }

    /// The outputs begin anew: no item of an earlier turn can be added to.
    pub fn begin_turn(&mut self) {
        for attachment in self.attachments.iter_mut().flatten() {
            attachment.last_deliver = None;
        }
    }

    pub fn want_turn(&self) -> bool {
        self.attachments.iter().flatten().any(|a| match a.state {
            State::Announcing => false,
            State::CatchUp { .. } => a.credit > 0,
            State::Resetting { .. } => true,
            State::Live => !a.deferred.is_empty(),
        })
    }

    /// Opens of attachments that became live since they were asked.
    pub fn take_deferred(&mut self) -> Vec<(GatewayId, LinkOpen)> {
        let mut taken = Vec::new();
        for attachment in self.attachments.iter_mut().flatten().filter(|a| a.state == State::Live) {
            while taken.len() < OPENS_PER_TURN_MAX
                && let Some(open) = attachment.deferred.pop_front()
            {
                taken.push((attachment.id, open));
            }
        }
        taken
    }

    /// An input that decides nothing. `at`: the newest record before it.
    pub fn input(
        &mut self,
        input: Input,
        owner: OwnerEpoch,
        at: Lsn,
        stats: &mut PartitionStats,
        out: &mut Vec<Output>,
    ) {
        let violated = match input {
            Input::LinkUp { gateway, credit_bytes } => self.attach(gateway, credit_bytes).map_err(|why| (gateway, why)),
            Input::LinkDown { gateway } => {
                self.detach(gateway);
                Ok(())
            }
            Input::Interest { gateway, add, remove } => {
                self.change_interest(gateway, &add, &remove).map_err(|why| (gateway, why))
            }
            Input::InterestEnd { gateway, cursor } => {
                self.end_interest(gateway, cursor, owner, at, stats, out).map_err(|why| (gateway, why))
            }
            Input::Credit { gateway, bytes } => {
                if let Some(attachment) = self.slot(gateway).and_then(|slot| self.attachment(slot)) {
                    let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
                    attachment.credit = attachment.credit.saturating_add(bytes).min(attachment.window);
                }
                Ok(())
            }
            // These are decided, not only done.
            Input::Command { .. }
            | Input::Appended { .. }
            | Input::Open { .. }
            | Input::Tick
            | Input::Consumed(_)
            | Input::Routed(_) => Ok(()),
        };
        if let Err((gateway, why)) = violated {
            self.throw_out(gateway, why, stats, out);
        }
    }

    pub fn throw_out(
        &mut self,
        gateway: GatewayId,
        why: &'static str,
        stats: &mut PartitionStats,
        out: &mut Vec<Output>,
    ) {
        stats.detached += 1;
        self.detach(gateway);
        out.push(Output::Detach { gateway, why });
    }

    /// Tells live links how far they are, if they were not told lately.
    pub fn positions(&mut self, now: Timestamp, last: Lsn, out: &mut Vec<Output>) {
        for attachment in self.attachments.iter_mut().flatten() {
            if attachment.state == State::Live && elapsed(attachment.position_at, now, POSITION_EVERY_MS) {
                attachment.position(now, last, out);
            }
        }
    }

    /// Sends the gateway back to comparing heads, because its place cannot be replayed.
    pub fn reset(&mut self, slot: Slot, at: Lsn, stats: &mut PartitionStats, out: &mut Vec<Output>) {
        let streams = self.interest.of(slot);
        stats.resets += 1;
        if let Some(attachment) = self.attachment(slot) {
            attachment.send(LinkItem::Reset { lsn: at }, out);
            attachment.state = State::Resetting { from: at, streams };
        }
    }

    fn attach(&mut self, gateway: GatewayId, credit_bytes: u64) -> Result<(), &'static str> {
        if self.by_id.contains_key(&gateway) {
            return Err("attached twice");
        }
        let free = self.attachments.iter().position(Option::is_none).unwrap_or(self.attachments.len());
        if free >= ATTACHMENTS_MAX {
            return Err("too many attachments");
        }
        let window = i64::try_from(credit_bytes).unwrap_or(i64::MAX).max(1);
        let attachment = Attachment {
            id: gateway,
            window,
            credit: window,
            state: State::Announcing,
            deferred: VecDeque::new(),
            position_at: Timestamp(i64::MIN),
            last_deliver: None,
        };
        if free == self.attachments.len() {
            self.attachments.push(None);
        }
        self.attachments[free] = Some(attachment);
        self.by_id.insert(gateway, free as Slot);
        Ok(())
    }

    fn detach(&mut self, gateway: GatewayId) {
        if let Some(slot) = self.by_id.remove(&gateway) {
            self.interest.remove_gateway(slot);
            self.attachments[usize::from(slot)] = None;
        }
    }

    fn change_interest(
        &mut self,
        gateway: GatewayId,
        add: &[StreamKey],
        remove: &[StreamKey],
    ) -> Result<(), &'static str> {
        // What an attachment says after it was ended goes nowhere.
        let Some(slot) = self.slot(gateway) else { return Ok(()) };
        remove.iter().for_each(|stream| self.interest.remove(stream, slot));
        add.iter().for_each(|stream| self.interest.add(stream, slot));
        match self.interest.len() > self.interest_max {
            true => Err("too much interest"),
            false => Ok(()),
        }
    }

    fn end_interest(
        &mut self,
        gateway: GatewayId,
        cursor: Option<(OwnerEpoch, Lsn)>,
        owner: OwnerEpoch,
        at: Lsn,
        stats: &mut PartitionStats,
        out: &mut Vec<Output>,
    ) -> Result<(), &'static str> {
        let Some(slot) = self.slot(gateway) else { return Ok(()) };
        let Some(attachment) = self.attachment(slot) else { return Ok(()) };
        if attachment.state != State::Announcing {
            return Err("announced twice");
        }
        let from = match cursor {
            // A place that this log does not have: its end was lost.
            Some((epoch, lsn)) if epoch > owner || lsn > at => None,
            Some((_, lsn)) if planted::is(Bug::ReplaySkipsSeam) => Some(lsn.next().min(at)),
            Some((_, lsn)) => Some(lsn),
            // It has streams, but no place: they are of another log.
            None => (!self.interest.has(slot)).then_some(at),
        };
        match (from, self.attachment(slot)) {
            (Some(from), Some(attachment)) => attachment.state = State::CatchUp { from },
            _ => self.reset(slot, at, stats, out),
        }
        stats.catch_ups += u64::from(cursor.is_some());
        Ok(())
    }
}

impl Attachment {
    /// Whether the record at `lsn` may be sent now. If it may not for want of credit, the log keeps it.
    pub fn takes(&mut self, lsn: Lsn, stats: &mut PartitionStats) -> bool {
        if self.state != State::Live {
            return false;
        }
        if self.credit <= 0 {
            let skips = planted::is(Bug::CreditSkipsRecord);
            self.state = State::CatchUp { from: if skips { lsn } else { Lsn(lsn.0 - 1) } };
            stats.catch_ups += 1;
            return false;
        }
        true
    }

    pub fn send(&mut self, item: LinkItem, out: &mut Vec<Output>) {
        self.last_deliver = None;
        out.push(Output::Link { gateway: self.id, item });
    }

    /// Sends a Deliver of so many bytes; it joins the one before if that continues the same stream.
    pub fn deliver(&mut self, item: LinkItem, bytes: usize, out: &mut Vec<Output>) {
        self.credit -= bytes as i64;
        let item = match self.last_deliver {
            Some(at) => match extend(&mut out[at], item) {
                Some(item) => item,
                None => return,
            },
            None => item,
        };
        self.last_deliver = Some(out.len());
        out.push(Output::Link { gateway: self.id, item });
    }

    pub fn position(&mut self, now: Timestamp, lsn: Lsn, out: &mut Vec<Output>) {
        self.position_at = now;
        self.send(LinkItem::Position { lsn }, out);
    }
}

/// Adds a Deliver to the one before; gives it back if it does not continue that one.
fn extend(before: &mut Output, item: LinkItem) -> Option<LinkItem> {
    let Output::Link { item: LinkItem::Deliver { lsn, stream, epoch, upto, messages, .. }, .. } = before else {
        return Some(item);
    };
    let fits = match &item {
        LinkItem::Deliver { stream: other, epoch: other_epoch, after, messages: more, .. } => {
            other == stream
                && other_epoch == epoch
                && after == upto
                && messages.len() + more.len() <= DELIVER_MESSAGES_MAX
        }
        _ => false,
    };
    match item {
        LinkItem::Deliver { lsn: new_lsn, upto: new_upto, messages: more, .. } if fits => {
            (*lsn, *upto) = (new_lsn, new_upto);
            messages.extend(more);
            None
        }
        item => Some(item),
    }
}
