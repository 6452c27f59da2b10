//! From a committed record to the items that gateways get of it.

use std::sync::Arc;

use smallvec::{SmallVec, smallvec};

use super::api::{LinkItem, Opened, Output};
use super::interest::Slot;
use super::links::{Links, State};
use super::stats::PartitionStats;
use crate::domain::{
    Append, Body, Epoch, ErrorCode, GroupChange, Joined, LeaveReason, Lsn, MembershipChange, Place, Record, Refusal,
    Seq, StreamKey, StreamKind, Timestamp, Uid,
};
use crate::planted::{self, Bug};
use crate::ports::Stored;

/// What a Deliver costs at least beside its texts. Never more than it takes on the link, or credit would leak away: what a
/// gateway gives back is counted there.
const DELIVER_BYTES_MIN: usize = 8;

type Items = SmallVec<[(Slot, LinkItem); 4]>;

impl Links {
    /// Sends a record that was just committed to every live gateway that wants it.
    pub fn route(
        &mut self,
        lsn: Lsn,
        append: &Append,
        hashes: &[u64],
        stats: &mut PartitionStats,
        out: &mut Vec<Output>,
    ) {
        let [place] = append.places.as_slice() else { return self.route_whole(lsn, append, hashes, stats, out) };
        if append.membership.is_some() {
            return self.route_whole(lsn, append, hashes, stats, out);
        }
        for slot in self.interest.gateways(hashes[0], &place.stream) {
            let Some(attachment) = &mut self.attachments[usize::from(*slot)] else { continue };
            if attachment.takes(lsn, stats) {
                stats.deliveries += 1;
                attachment.deliver(deliver(lsn, append, 0, None), bytes(&place.stream, &append.body), out);
            }
        }
    }

    /// A record with several places, or one that changes a membership.
    fn route_whole(
        &mut self,
        lsn: Lsn,
        append: &Append,
        hashes: &[u64],
        stats: &mut PartitionStats,
        out: &mut Vec<Output>,
    ) {
        let mut items = self.items(lsn, append, hashes, None);
        items.retain(|(slot, _)| self.attachment(*slot).is_some_and(|a| a.takes(lsn, stats)));
        self.send_all(lsn, items, stats, out);
    }

    /// Sends a record of the log to one gateway that catches up. False: it has no more credit, and did not get it.
    pub fn replay_to(
        &mut self,
        slot: Slot,
        (lsn, record): (Lsn, &Record),
        now: Timestamp,
        stats: &mut PartitionStats,
        out: &mut Vec<Output>,
    ) -> bool {
        if self.attachment(slot).is_none_or(|a| a.credit <= 0) {
            return false;
        }
        stats.replayed_records += 1;
        match record {
            Record::Append(append) => {
                let hashes: SmallVec<[u64; 3]> =
                    append.places.iter().map(|place| self.interest.hash(&place.stream)).collect();
                let items = self.items(lsn, append, &hashes, Some((slot, now)));
                self.send_all(lsn, items, stats, out);
            }
            Record::Group(change) if change.dismissed => {
                let stream = change.gid.stream();
                if self.interest.gateways(self.interest.hash(&stream), &stream).contains(&slot)
                    && let Some(attachment) = self.attachment(slot)
                {
                    attachment.send(gone(stream), out);
                }
            }
            Record::Joined(joined) => {
                let items = self.joined_items(lsn, joined, Some(slot));
                self.send_all(lsn, items, stats, out);
            }
            Record::Group(_) | Record::Mark(_) | Record::Read(_) => {}
        }
        true
    }

    /// A joining in another partition's group, for gateways that want the user's inbox.
    pub fn route_joined(&mut self, lsn: Lsn, joined: &Joined, stats: &mut PartitionStats, out: &mut Vec<Output>) {
        let mut items = self.joined_items(lsn, joined, None);
        items.retain(|(slot, _)| self.attachment(*slot).is_some_and(|a| a.takes(lsn, stats)));
        self.send_all(lsn, items, stats, out);
    }

    fn joined_items(&self, lsn: Lsn, joined: &Joined, only: Option<Slot>) -> Items {
        let inbox = joined.uid.stream();
        let slots = self.interest.gateways(self.interest.hash(&inbox), &inbox).iter();
        let slots = slots.filter(|slot| only.is_none_or(|only| **slot == only));
        let item = LinkItem::Membership {
            lsn,
            uid: joined.uid.clone(),
            stream: joined.gid.stream(),
            epoch: joined.epoch,
            seq: joined.seq,
            joined: true,
            reason: LeaveReason::default(),
        };
        slots.map(|slot| (*slot, item.clone())).collect()
    }

    /// Ephemeral messages go to live links only: a link that is behind would get them too late, and they are not stored.
    pub fn route_ephemeral(
        &mut self,
        stream: &StreamKey,
        hash: u64,
        epoch: Epoch,
        body: &Arc<Body>,
        stats: &mut PartitionStats,
        out: &mut Vec<Output>,
    ) {
        for slot in self.interest.gateways(hash, stream) {
            let Some(attachment) = &mut self.attachments[usize::from(*slot)] else { continue };
            if attachment.state != State::Live || attachment.credit <= 0 {
                stats.ephemeral_drops += 1;
                continue;
            }
            stats.ephemeral_deliveries += 1;
            attachment.credit -= bytes(stream, body) as i64;
            attachment.send(LinkItem::Ephemeral { stream: stream.clone(), epoch, body: body.clone() }, out);
        }
    }

    /// After the message of the dismissal: each member's leaving, then that the stream is no more.
    #[expect(clippy::too_many_arguments, reason = "one place of the log, one group, one audience")]
    pub fn route_dismissal(
        &mut self,
        lsn: Lsn,
        change: &GroupChange,
        seq: Seq,
        hash: u64,
        members: &[Uid],
        stats: &mut PartitionStats,
        out: &mut Vec<Output>,
    ) {
        let stream = change.gid.stream();
        let mut items = Items::new();
        for uid in members {
            for slot in self.concerned(&stream, hash, uid) {
                let reason = LeaveReason::Dismissed;
                let (uid, stream, epoch) = (uid.clone(), stream.clone(), change.epoch);
                items.push((slot, LinkItem::Membership { lsn, uid, stream, epoch, seq, joined: false, reason }));
            }
        }
        items.extend(self.interest.gateways(hash, &stream).iter().map(|slot| (*slot, gone(stream.clone()))));
        items.retain(|(slot, _)| self.attachment(*slot).is_some_and(|a| a.takes(lsn, stats)));
        self.send_all(lsn, items, stats, out);
    }

    /// All items that a record gives, by gateway. `replay`: only those of this gateway, without what has expired by then.
    fn items(&self, lsn: Lsn, append: &Append, hashes: &[u64], replay: Option<(Slot, Timestamp)>) -> Items {
        let wanted = |slot: &&Slot| replay.is_none_or(|(only, _)| **slot == only);
        let mut items = Items::new();
        for (at, (place, hash)) in append.places.iter().zip(hashes).enumerate() {
            for slot in self.interest.gateways(*hash, &place.stream).iter().filter(wanted) {
                items.push((*slot, deliver(lsn, append, at, replay.map(|(_, now)| now))));
            }
        }
        if let (Some(change), Some(place), Some(hash)) = (&append.membership, append.places.first(), hashes.first()) {
            let told = change.role.is_some() || !planted::is(Bug::LeavingUntold);
            for slot in self.concerned(&place.stream, *hash, &change.uid).iter().filter(wanted).filter(|_| told) {
                items.push((*slot, membership(lsn, change, place)));
            }
        }
        items
    }

    /// Gateways that want the group or the user's inbox.
    fn concerned(&self, stream: &StreamKey, hash: u64, uid: &Uid) -> SmallVec<[Slot; 4]> {
        let inbox = uid.stream();
        let mut slots: SmallVec<[Slot; 4]> = self.interest.gateways(hash, stream).into();
        for slot in self.interest.gateways(self.interest.hash(&inbox), &inbox) {
            if !slots.contains(slot) {
                slots.push(*slot);
            }
        }
        slots
    }

    /// Sends the items of one record. Only the last item of each gateway says that the record is complete.
    fn send_all(&mut self, lsn: Lsn, mut items: Items, stats: &mut PartitionStats, out: &mut Vec<Output>) {
        let mut complete: SmallVec<[Slot; 4]> = SmallVec::new();
        for (slot, item) in items.iter_mut().rev() {
            if !complete.contains(slot) {
                complete.push(*slot);
            } else if let LinkItem::Deliver { lsn: said, .. } | LinkItem::Membership { lsn: said, .. } = item
                && !planted::is(Bug::CompleteTooEarly)
            {
                *said = Lsn(lsn.0 - 1);
            }
        }
        for (slot, item) in items {
            let Some(attachment) = self.attachment(slot) else { continue };
            match &item {
                LinkItem::Deliver { stream, messages, .. } => {
                    stats.deliveries += messages.len() as u64;
                    let bytes = messages.iter().map(|m| bytes(stream, &m.body)).sum();
                    attachment.deliver(item, bytes, out);
                }
                _ => attachment.send(item, out),
            }
        }
    }
}

fn deliver(lsn: Lsn, append: &Append, at: usize, replayed_at: Option<Timestamp>) -> LinkItem {
    let place = &append.places[at];
    let first = &append.places[0];
    let conversation =
        (at > 0 && first.stream.kind() == StreamKind::Conversation).then(|| (first.stream.clone(), first.seq));
    let gone = replayed_at.is_some_and(|now| append.body.expires.is_some_and(|expires| expires <= now));
    let messages = match gone {
        true => SmallVec::new(),
        false => smallvec![Stored { seq: place.seq, body: append.body.clone(), conversation }],
    };
    LinkItem::Deliver {
        lsn,
        stream: place.stream.clone(),
        epoch: place.epoch,
        after: Seq(place.seq.0 - 1),
        upto: place.seq,
        messages,
    }
}

fn membership(lsn: Lsn, change: &MembershipChange, place: &Place) -> LinkItem {
    LinkItem::Membership {
        lsn,
        uid: change.uid.clone(),
        stream: place.stream.clone(),
        epoch: place.epoch,
        seq: place.seq,
        joined: change.role.is_some(),
        reason: change.reason,
    }
}

/// Nobody asked, but who still has members there must know.
pub(super) fn gone(stream: StreamKey) -> LinkItem {
    let refusal = Refusal::new(ErrorCode::NotFound, "the group was dismissed");
    LinkItem::Opened(Arc::new(Opened { corr: 0, stream, result: Err(refusal) }))
}

fn bytes(stream: &StreamKey, body: &Body) -> usize {
    let texts = body.from.len() + body.to.len() + body.client_msg_id.len() + body.kind.len() + body.title.len();
    DELIVER_BYTES_MIN + stream.as_str().len() + texts + body.content.len() + body.metadata.len()
}
