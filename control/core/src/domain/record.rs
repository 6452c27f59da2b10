//! What the log holds: the truth, from which every index can be rebuilt.

use std::sync::Arc;

use smallvec::SmallVec;

use super::message::Body;
use super::names::{Epoch, Fingerprint, Gid, Seq, StreamKey, Timestamp, Uid};

/// One log record; it becomes durable whole or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    Append(Append),
    Group(GroupChange),
    /// A device acknowledged up to here.
    Mark(Mark),
    /// A user read up to here (`device` is empty).
    Read(Mark),
    /// A user came into a group whose stream another partition sequences.
    Joined(Joined),
}

impl Record {
    /// Bytes that it takes in memory, about: its content, and what it has beside it.
    pub fn weight(&self) -> usize {
        const RECORD_BYTES: usize = 512;
        let content = match self {
            Record::Append(append) => append.body.content.len() + append.body.metadata.len(),
            _ => 0,
        };
        RECORD_BYTES + content
    }
}

/// Stands in the log of the user's inbox: gateways that know the user, but not the group yet, hear of it from here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    pub uid: Uid,
    pub gid: Gid,
    pub epoch: Epoch,
    /// Place of the joining in the group's stream.
    pub seq: Seq,
    pub ts: Timestamp,
}

/// A message with its place in each stream it belongs to. For a one-to-one message the conversation stands first, then both
/// inboxes (one, if the user writes to themselves). Where there are several partitions, the conversation's log has its place
/// alone, and each inbox's log has the conversation's place, which is foreign there, and its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    pub body: Arc<Body>,
    pub places: SmallVec<[Place; 1]>,
    pub dedup: Option<Dedup>,
    /// A `system_group` message changes who is a member, at its own place in the group's stream.
    pub membership: Option<MembershipChange>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub stream: StreamKey,
    pub epoch: Epoch,
    pub seq: Seq,
}

/// The caller's key, hashed together with app and stream. The seq it maps to is that of the first place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dedup {
    pub key: [u8; 16],
    pub fingerprint: Fingerprint,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MembershipChange {
    pub gid: Gid,
    pub uid: Uid,
    /// `Some(role)`: joined (or changed role); `None`: left.
    pub role: Option<Role>,
    pub reason: LeaveReason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Owner,
    Admin,
    Member,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LeaveReason {
    #[default]
    Left,
    Removed,
    Dismissed,
}

impl LeaveReason {
    pub fn as_str(self) -> &'static str {
        match self {
            LeaveReason::Left => "left",
            LeaveReason::Removed => "removed",
            LeaveReason::Dismissed => "dismissed",
        }
    }
}

/// A group began or ended. Ending keeps the history until retention; creating the gid again begins a new epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupChange {
    pub gid: Gid,
    pub epoch: Epoch,
    pub open: bool,
    pub name: Box<str>,
    /// Empty for groups that began by being joined or pushed to (`auto_groups`).
    pub creator: Box<str>,
    pub ts: Timestamp,
    pub dismissed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    pub uid: Uid,
    pub device: Box<str>,
    pub stream: StreamKey,
    pub epoch: Epoch,
    pub seq: Seq,
    pub ts: Timestamp,
}
