//! Look-ups of a whole batch made together, before it is decided: for a store that is far away, each alone is a journey.
//!
//! Nothing is decided here, and nothing here is needed: what was not asked ahead is asked when it is wanted.

use std::collections::BTreeSet;

use smallvec::{SmallVec, smallvec};

use super::api::{Command, Errand, Input, Push};
use super::dedup;
use super::heads::{Mode, Standing};
use super::sequencer::Partition;
use crate::domain::names::EVERYBODY;
use crate::domain::{Seq, StreamKey, StreamKind};
use crate::ports::{MessageStore, StoreError};

impl<S: MessageStore> Partition<S> {
    pub(super) fn ask_ahead(&mut self, inputs: &[Input]) -> Result<(), StoreError> {
        if !self.store.is_remote() {
            return Ok(());
        }
        let mut keys: BTreeSet<[u8; 16]> = BTreeSet::new();
        let mut streams: BTreeSet<StreamKey> = BTreeSet::new();
        for input in inputs {
            let (stream, key) = match input {
                Input::Command { command: Command::Push(push), .. } | Input::Appended { push, .. } => {
                    let stream = stream_of(push);
                    let key = if push.ephemeral { None } else { dedup::of_push(push, &stream) };
                    (stream, key)
                }
                Input::Command { command: Command::Errand(Errand::Entry { inbox, place, .. }), .. } => {
                    let stream = inbox.stream();
                    let key = dedup::of_entry(place, &stream);
                    (stream, Some(key))
                }
                _ => continue,
            };
            keys.extend(key.map(|dedup| dedup.key).filter(|key| !self.batch.overlay.dedup.contains_key(key)));
            if self.heads.find(self.heads.hash(&stream), &stream).is_none() {
                streams.insert(stream);
            }
        }
        // One question costs as much alone as when it is wanted.
        if keys.len() > 1 {
            let keys: Vec<[u8; 16]> = keys.into_iter().collect();
            let hits = match self.store.dedup_many(&keys) {
                Ok(hits) => hits,
                Err(StoreError::Unavailable(_)) => return Ok(()),
                Err(error) => return Err(error),
            };
            self.batch.overlay.asked_keys.extend(keys.into_iter().zip(hits));
        }
        if streams.len() > 1 { self.load_heads(streams.into_iter().collect()) } else { Ok(()) }
    }

    /// Of streams whose standing is their head alone. Groups are fewer, and cached.
    fn load_heads(&mut self, mut streams: Vec<StreamKey>) -> Result<(), StoreError> {
        streams.retain(|stream| stream.kind() != StreamKind::Group || stream.as_str() == EVERYBODY);
        let heads = match self.store.heads_of(&streams) {
            Ok(heads) => heads,
            Err(StoreError::Unavailable(_)) => return Ok(()),
            Err(error) => return Err(error),
        };
        for (stream, head) in streams.iter().zip(heads) {
            let mode = if stream.as_str() == EVERYBODY { Mode::OpenGroup } else { Mode::Personal };
            let epoch = head.map_or(self.origin.history, |head| head.epoch);
            let standing = Standing { epoch, head: head.map_or(Seq::ZERO, |head| head.head), mode };
            self.heads.load(self.heads.hash(stream), stream, standing);
        }
        Ok(())
    }
}

/// The streams whose partitions a command is for; one, unless it asks for heads.
pub fn homes_of(command: &Command) -> SmallVec<[StreamKey; 1]> {
    match command {
        // What is not sequenced goes to where the recipient's gateways are known.
        Command::Push(push) if push.ephemeral => smallvec![push.to.clone()],
        Command::Push(push) => smallvec![stream_of(push)],
        Command::CreateGroup { gid, .. }
        | Command::AddMember { gid, .. }
        | Command::RemoveMember { gid, .. }
        | Command::DismissGroup { gid, .. } => smallvec![gid.stream()],
        Command::Ack { stream, .. } | Command::Read { stream, .. } | Command::Pull { stream, .. } => {
            smallvec![stream.clone()]
        }
        Command::Heads { streams, .. } => streams.iter().cloned().collect(),
        Command::Errand(errand) => smallvec![errand.to().stream()],
    }
}

/// Where a push is sequenced.
pub fn stream_of(push: &Push) -> StreamKey {
    match (push.to.uid(), &push.sender) {
        (Some(to), Some(sender)) => StreamKey::conversation(sender, &to),
        _ => push.to.clone(),
    }
}
