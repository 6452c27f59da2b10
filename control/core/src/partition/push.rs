//! A push or a send becomes a message with its places.

use std::sync::Arc;

use smallvec::{SmallVec, smallvec};

use super::api::{Push, Reply, Token};
use super::batch::Effect;
use super::heads::{Mode, Standing};
use super::sequencer::{Denied, Partition, refused};
use super::{dedup, limits};
use crate::domain::names::EVERYBODY;
use crate::domain::record::Dedup;
use crate::domain::{Body, ErrorCode, Gid, MessageId, Place, Seq, StreamKey, StreamKind, Timestamp, Uid};
use crate::planted::{self, Bug};
use crate::ports::{DedupHit, MessageStore};

/// The caller's key for a push.
enum Key {
    None,
    Fresh(Dedup),
    /// The same push was taken before.
    Used(DedupHit),
}

impl<S: MessageStore> Partition<S> {
    pub(super) fn decide_push(&mut self, token: Token, push: Push) -> Result<(), Denied> {
        limits::check_push(&push)?;
        match (push.to.kind(), push.sender.clone(), push.to.uid()) {
            (StreamKind::Conversation, ..) => {
                Err(refused(ErrorCode::BadRequest, "to: conversations are written through u:<uid>"))
            }
            (StreamKind::Inbox, Some(sender), Some(to)) => self.decide_one_to_one(token, push, sender, to),
            _ => self.decide_push_to_one(token, push),
        }
    }

    /// To an inbox by a backend, or to a group by anyone.
    fn decide_push_to_one(&mut self, token: Token, push: Push) -> Result<(), Denied> {
        let stream = push.to.clone();
        let dedup = match self.key_of(&push, &stream)? {
            Key::Used(hit) => return self.answer_again(token, stream, hit),
            Key::Fresh(dedup) => Some(dedup),
            Key::None => None,
        };
        let hash = self.heads.hash(&stream);
        let standing = self.writable(hash, &stream, push.sender.as_ref())?;
        let (id, ts) = self.stamp(&push);
        let ephemeral = push.ephemeral;
        let body = Arc::new(body_of(push, id, ts, ""));
        if ephemeral {
            let (epoch, reply) = (standing.epoch, pushed(&stream, standing, None, id));
            self.batch.effects.push(Effect::Ephemeral { stream, hash, epoch, body });
            self.batch.reply(token, Ok(reply));
            return Ok(());
        }
        let place = self.take_place(hash, &stream, standing);
        self.batch.reply(token, Ok(pushed(&stream, standing, Some(place.seq), id)));
        self.remember(dedup, &place, id);
        self.batch.append(body, smallvec![(place, hash)], dedup);
        Ok(())
    }

    /// A client's message to a user: the conversation and both inboxes, in one record.
    fn decide_one_to_one(&mut self, token: Token, push: Push, sender: Uid, to: Uid) -> Result<(), Denied> {
        let conversation = StreamKey::conversation(&sender, &to);
        let dedup = match self.key_of(&push, &conversation)? {
            Key::Used(hit) => return self.answer_again(token, conversation, hit),
            Key::Fresh(dedup) => Some(dedup),
            Key::None => None,
        };
        let alone = self.config.partitions <= 1;
        let mut streams: SmallVec<[StreamKey; 3]> = smallvec![conversation.clone()];
        // With several partitions the inboxes get their entries by errands; only what is ephemeral goes at once.
        if alone {
            streams.push(sender.stream());
        }
        if (alone && sender != to) || (!alone && push.ephemeral) {
            streams.push(push.to.clone());
        }
        // Every look-up that can fail comes before the first change.
        let mut found: SmallVec<[(u64, Standing); 3]> = SmallVec::new();
        for stream in &streams {
            let hash = self.heads.hash(stream);
            let standing = self.standing(hash, stream)?;
            found.push((hash, standing.ok_or_else(|| refused(ErrorCode::Internal, "no group here"))?));
        }
        let (id, ts) = self.stamp(&push);
        let standing = found[0].1;
        if push.ephemeral {
            let inbox = push.to.clone();
            let (hash, Standing { epoch, .. }) = found[found.len() - 1];
            let body = Arc::new(body_of(push, id, ts, to.as_str()));
            self.batch.effects.push(Effect::Ephemeral { stream: inbox, hash, epoch, body });
            self.batch.reply(token, Ok(pushed(&conversation, standing, None, id)));
            return Ok(());
        }
        let body = Arc::new(body_of(push, id, ts, to.as_str()));
        let mut places: SmallVec<[(Place, u64); 1]> = SmallVec::new();
        for (stream, (hash, standing)) in streams.iter().zip(found) {
            places.push((self.take_place(hash, stream, standing), hash));
        }
        let first = &places[0].0;
        self.batch.reply(token, Ok(pushed(&conversation, standing, Some(first.seq), id)));
        self.remember(dedup, first, id);
        self.batch.append(body, places, dedup);
        if !alone {
            self.batch.owes();
        }
        Ok(())
    }

    fn stamp(&mut self, push: &Push) -> (MessageId, Timestamp) {
        match push.id {
            Some(id) => (id, self.clock.time(self.now)),
            None => self.clock.stamp(self.now),
        }
    }

    /// The stream's standing, if this sender may write to it. A missing group begins here under `auto_groups`.
    fn writable(&mut self, hash: u64, stream: &StreamKey, sender: Option<&Uid>) -> Result<Standing, Denied> {
        let standing = match self.standing(hash, stream)? {
            Some(standing) => standing,
            None => {
                let gid = stream.gid().ok_or_else(|| refused(ErrorCode::Internal, "not a group"))?;
                return self.begin_group_by_itself(gid);
            }
        };
        match (standing.mode, sender) {
            (Mode::Dismissed, _) => Err(refused(ErrorCode::NotFound, "the group was dismissed")),
            (Mode::OpenGroup, Some(_)) if stream.as_str() == EVERYBODY => {
                Err(refused(ErrorCode::Forbidden, "only backends write to everybody"))
            }
            (Mode::MembersGroup, Some(sender)) if !planted::is(Bug::StrangerWrites) => {
                let gid: Gid = stream.gid().ok_or_else(|| refused(ErrorCode::Internal, "not a group"))?;
                match self.present(&gid, sender)? {
                    Some(_) => Ok(standing),
                    None => Err(refused(ErrorCode::Forbidden, "not a member of this group")),
                }
            }
            _ => Ok(standing),
        }
    }

    /// Gives the stream's next seq. Cannot fail: everything was looked up before.
    pub(super) fn take_place(&mut self, hash: u64, stream: &StreamKey, standing: Standing) -> Place {
        let seq = standing.head.next();
        self.heads.change(hash, stream, Standing { head: seq, ..standing });
        Place { stream: stream.clone(), epoch: standing.epoch, seq }
    }

    fn key_of(&mut self, push: &Push, stream: &StreamKey) -> Result<Key, Denied> {
        if push.ephemeral {
            return Ok(Key::None);
        }
        let Some(dedup) = dedup::of_push(push, stream) else { return Ok(Key::None) };
        match self.used(&dedup.key)? {
            None => Ok(Key::Fresh(dedup)),
            Some(hit) if hit.fingerprint == dedup.fingerprint => Ok(Key::Used(hit)),
            Some(_) => Err(refused(ErrorCode::BadRequest, "message_id: this key was used for other content")),
        }
    }

    /// What a key was used for before, in this batch or ever.
    pub(super) fn used(&mut self, key: &[u8; 16]) -> Result<Option<DedupHit>, Denied> {
        if let Some(hit) = self.batch.overlay.dedup.get(key) {
            return Ok(Some(*hit));
        }
        if planted::is(Bug::DedupLostAtRestart) && self.origin.owner_epoch.0 > 1 {
            return Ok(None);
        }
        match self.batch.overlay.asked_keys.get(key) {
            Some(asked) => Ok(*asked),
            None => Ok(self.store.dedup(key)?),
        }
    }

    fn answer_again(&mut self, token: Token, stream: StreamKey, hit: DedupHit) -> Result<(), Denied> {
        let reply =
            Reply::Pushed { stream, epoch: hit.epoch, seq: Some(hit.seq), id: hit.id, duplicate: true, online: None };
        self.batch.reply(token, Ok(reply));
        Ok(())
    }

    fn remember(&mut self, dedup: Option<Dedup>, place: &Place, id: MessageId) {
        if let Some(dedup) = dedup {
            let hit = DedupHit { epoch: place.epoch, seq: place.seq, id, fingerprint: dedup.fingerprint };
            self.batch.overlay.dedup.insert(dedup.key, hit);
        }
    }
}

fn pushed(stream: &StreamKey, standing: Standing, seq: Option<Seq>, id: MessageId) -> Reply {
    Reply::Pushed { stream: stream.clone(), epoch: standing.epoch, seq, id, duplicate: false, online: None }
}

fn body_of(push: Push, id: MessageId, ts: Timestamp, to: &str) -> Body {
    let expires = (push.ttl_s > 0).then(|| Timestamp(ts.0 + i64::from(push.ttl_s) * 1000));
    Body {
        id,
        from: push.sender.map_or(push.from, |sender| sender.as_str().into()),
        to: to.into(),
        client_msg_id: push.client_msg_id,
        kind: push.kind,
        title: push.title,
        content: push.content,
        metadata: push.metadata,
        ts,
        priority: push.priority,
        expires,
        platforms: push.platforms,
    }
}
