//! What records of one partition owe to others, and how a partition takes it in.
//!
//! A one-to-one message is sequenced in its conversation, whose partition owes an entry to each inbox; who comes into a group
//! must be known where the user's inbox is. An errand may arrive more than once, after a break or a change of owner: an
//! entry has a key like that of a caller, and news of a joining do no harm twice.
//!
//! Errands come in runs, each decided whole: were one refused for a moment and the next one taken, an inbox would get its
//! entries in another order than their conversation has.

use std::sync::Arc;

use smallvec::{SmallVec, smallvec};

use super::api::{Errand, Reply, Token};
use super::dedup;
use super::heads::Standing;
use super::sequencer::{Denied, Partition, refused};
use crate::domain::record::Dedup;
use crate::domain::{
    Append, Body, ErrorCode, Joined, Lsn, MembershipChange, PartitionId, Place, Record, Seq, StreamKey, StreamKind, Uid,
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

/// The places that a record has in its own log. An inbox's entry begins with the conversation's place, which was given
/// elsewhere, or earlier in the same log.
pub fn own_places(append: &Append) -> &[Place] {
    match append.places.as_slice() {
        [foreign, own] if is_entry(append, foreign, own) => std::slice::from_ref(own),
        places => places,
    }
}

/// Where there is one partition, a user's message to themselves has two places too; an entry has its key.
fn is_entry(append: &Append, foreign: &Place, own: &Place) -> bool {
    match foreign.stream.pair() {
        None => false,
        Some((a, b)) if a != b => true,
        Some(_) => append.dedup.is_some_and(|dedup| dedup.key == dedup::of_entry(foreign, &own.stream).key),
    }
}

/// An errand that was looked at.
enum Taken {
    /// It has arrived before.
    Known(Seq),
    Fresh(Box<Entry>),
    Joined(Joined),
}

struct Entry {
    inbox: StreamKey,
    hash: u64,
    standing: Standing,
    dedup: Dedup,
    place: Place,
    body: Arc<Body>,
}

fn elsewhere() -> Denied {
    refused(ErrorCode::NotFound, "another partition has this inbox")
}

impl<S: MessageStore> Partition<S> {
    pub(super) fn decide_errands(&mut self, token: Token, errands: Vec<Errand>) -> Result<(), Denied> {
        // Every look-up that can fail comes before the first change.
        let mut taken = Vec::with_capacity(errands.len());
        for errand in errands {
            taken.push(match errand {
                Errand::Entry { inbox, place, body } => self.look_at_entry(inbox.stream(), place, body)?,
                Errand::Joined(joined) if self.owns(&joined.uid.stream()) => Taken::Joined(joined),
                Errand::Joined(_) => return Err(elsewhere()),
            });
        }
        let mut seq = None;
        for taken in taken {
            seq = match taken {
                Taken::Known(seq) => Some(seq),
                Taken::Fresh(entry) => Some(self.take_entry(*entry)),
                Taken::Joined(joined) => {
                    self.batch.joined(joined);
                    None
                }
            };
        }
        self.batch.reply(token, Ok(Reply::Done { seq }));
        Ok(())
    }

    fn look_at_entry(&mut self, inbox: StreamKey, place: Place, body: Arc<Body>) -> Result<Taken, Denied> {
        if !self.owns(&inbox) {
            return Err(elsewhere());
        }
        if place.stream.kind() != StreamKind::Conversation {
            return Err(refused(ErrorCode::BadRequest, "an entry is of a conversation"));
        }
        let dedup: Dedup = dedup::of_entry(&place, &inbox);
        if let Some(hit) = self.used(&dedup.key)?
            && !planted::is(Bug::EntryTwice)
        {
            return Ok(Taken::Known(hit.seq));
        }
        let hash = self.heads.hash(&inbox);
        let standing =
            self.standing(hash, &inbox)?.ok_or_else(|| refused(ErrorCode::Internal, "an inbox always stands"))?;
        Ok(Taken::Fresh(Box::new(Entry { inbox, hash, standing, dedup, place, body })))
    }

    fn take_entry(&mut self, entry: Entry) -> Seq {
        let Entry { inbox, hash, standing, dedup, place, body } = entry;
        // An entry before it in this run has moved the inbox's head, and what was moved is still in the cache.
        let standing = self.heads.find(hash, &inbox).unwrap_or(standing);
        let own = self.take_place(hash, &inbox, standing);
        let seq = own.seq;
        let hit = DedupHit { epoch: own.epoch, seq, id: body.id, fingerprint: dedup.fingerprint };
        self.batch.overlay.dedup.insert(dedup.key, hit);
        let foreign = self.heads.hash(&place.stream);
        self.batch.append(body, smallvec![(place, foreign), (own, hash)], Some(dedup));
        seq
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
