//! What records of one partition owe to others, and how a partition takes it in.
//!
//! A one-to-one message is sequenced in its conversation, whose partition owes an entry to each inbox; who comes into a group
//! must be known where the user's inbox is. An errand may arrive more than once, after a break or a change of owner: an
//! entry has a key like that of a caller, and news of a joining do no harm twice.

use std::sync::Arc;

use smallvec::{SmallVec, smallvec};

use super::api::{Errand, Reply, Token};
use super::dedup;
use super::sequencer::{Denied, Partition, refused};
use crate::domain::record::Dedup;
use crate::domain::{
    Body, ErrorCode, Joined, Lsn, MembershipChange, PartitionId, Place, Record, StreamKey, StreamKind, Uid,
};
use crate::planted::{self, Bug};
use crate::ports::{DedupHit, MessageStore};

/// What this record of the partition `of` owes to others, in the order in which it is to arrive.
pub fn errands_of(record: &Record, of: PartitionId, partitions: u32) -> SmallVec<[Errand; 2]> {
    let Record::Append(append) = record else { return SmallVec::new() };
    if partitions <= 1 {
        return SmallVec::new();
    }
    let Some(place) = append.places.first() else { return SmallVec::new() };
    if let ([_], Some((a, b))) = (append.places.as_slice(), place.stream.pair()) {
        let entry = |inbox: Uid| Errand::Entry { inbox, place: place.clone(), body: Arc::clone(&append.body) };
        return if a == b { smallvec![entry(a)] } else { smallvec![entry(a), entry(b)] };
    }
    match &append.membership {
        Some(MembershipChange { gid, uid, role: Some(_), .. })
            if PartitionId::of(&uid.stream(), partitions) != of && !planted::is(Bug::JoiningUntoldElsewhere) =>
        {
            let (uid, gid, ts) = (uid.clone(), gid.clone(), append.body.ts);
            smallvec![Errand::Joined(Joined { uid, gid, epoch: place.epoch, seq: place.seq, ts })]
        }
        _ => SmallVec::new(),
    }
}

impl<S: MessageStore> Partition<S> {
    pub(super) fn decide_errand(&mut self, token: Token, errand: Errand) -> Result<(), Denied> {
        let inbox = errand.to().stream();
        if !self.owns(&inbox) {
            return Err(refused(ErrorCode::NotFound, "another partition has this inbox"));
        }
        match errand {
            Errand::Entry { place, body, .. } => self.decide_entry(token, inbox, place, body),
            Errand::Joined(joined) => {
                self.batch.joined(joined);
                self.batch.reply(token, Ok(Reply::Done { seq: None }));
                Ok(())
            }
        }
    }

    fn decide_entry(&mut self, token: Token, inbox: StreamKey, place: Place, body: Arc<Body>) -> Result<(), Denied> {
        if place.stream.kind() != StreamKind::Conversation {
            return Err(refused(ErrorCode::BadRequest, "an entry is of a conversation"));
        }
        let dedup: Dedup = dedup::of_entry(&place, &inbox);
        if let Some(hit) = self.used(&dedup.key)?
            && !planted::is(Bug::EntryTwice)
        {
            self.batch.reply(token, Ok(Reply::Done { seq: Some(hit.seq) }));
            return Ok(());
        }
        let hash = self.heads.hash(&inbox);
        let standing =
            self.standing(hash, &inbox)?.ok_or_else(|| refused(ErrorCode::Internal, "an inbox always stands"))?;
        let own = self.take_place(hash, &inbox, standing);
        let hit = DedupHit { epoch: own.epoch, seq: own.seq, id: body.id, fingerprint: dedup.fingerprint };
        self.batch.overlay.dedup.insert(dedup.key, hit);
        self.batch.reply(token, Ok(Reply::Done { seq: Some(own.seq) }));
        let foreign = self.heads.hash(&place.stream);
        self.batch.append(body, smallvec![(place, foreign), (own, hash)], Some(dedup));
        Ok(())
    }

    /// Whether this partition sequences the stream.
    pub(super) fn owns(&self, stream: &StreamKey) -> bool {
        self.config.partitions <= 1 || PartitionId::of(stream, self.config.partitions) == self.origin.partition
    }

    /// Hands out what the record at `lsn` owes.
    pub(super) fn perform_errands(&self, lsn: Lsn, record: &Record, out: &mut Vec<super::api::Output>) {
        let errands = errands_of(record, self.origin.partition, self.config.partitions);
        out.extend(errands.into_iter().map(|errand| super::api::Output::Errand { lsn, errand }));
    }
}
