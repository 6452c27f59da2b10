//! Who may read what, and how far.

use super::batch::Overlay;
use super::config::GroupHistory;
use super::heads::{Mode, Standing};
use super::sequencer::{Denied, Partition, refused};
use crate::domain::names::EVERYBODY;
use crate::domain::{Epoch, ErrorCode, Gid, Seq, StreamKey, StreamKind, Uid};
use crate::planted::{self, Bug};
use crate::ports::{Group, Head, Member, MessageStore, StoreError};

/// The part of a stream that somebody may read: seqs above `floor`, up to `head`. `head` is where the stream stood when the
/// command was decided, so that an answer given after the commit shows nothing of later commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct View {
    pub stream: StreamKey,
    pub epoch: Epoch,
    pub head: Seq,
    pub floor: Seq,
    pub mode: Mode,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Past members read inside their interval.
    Read,
    /// Present members only.
    Join,
}

impl<S: MessageStore> Partition<S> {
    /// What `uid` (or, without one, the node or a backend) may read of a stream.
    pub(super) fn view(&mut self, uid: Option<&Uid>, stream: &StreamKey, purpose: Purpose) -> Result<View, Denied> {
        if let Some(uid) = uid {
            may_ask(uid, stream)?;
        }
        let hash = self.heads.hash(stream);
        let Some(standing) = self.peek(hash, stream)? else {
            return Err(refused(ErrorCode::NotFound, "no such group"));
        };
        let mut view = View {
            stream: stream.clone(),
            epoch: standing.epoch,
            head: standing.head,
            floor: Seq::ZERO,
            mode: standing.mode,
        };
        let Some(uid) = uid else { return Ok(view) };
        match standing.mode {
            Mode::Personal | Mode::OpenGroup => {}
            Mode::Dismissed => return Err(refused(ErrorCode::NotFound, "the group was dismissed")),
            Mode::MembersGroup => self.narrow(&mut view, uid, purpose)?,
        }
        Ok(view)
    }

    /// Restricts a group's view to the member's interval.
    fn narrow(&mut self, view: &mut View, uid: &Uid, purpose: Purpose) -> Result<(), Denied> {
        let gid = view.stream.gid().ok_or_else(|| refused(ErrorCode::Internal, "not a group"))?;
        let Some(member) = self.member(&gid, uid)? else {
            return Err(refused(ErrorCode::Forbidden, "not a member of this group"));
        };
        match member.left {
            Some(_) if purpose == Purpose::Join => {
                return Err(refused(ErrorCode::Forbidden, "no longer a member of this group"));
            }
            Some(left) if !planted::is(Bug::KickedMemberReadsOn) => view.head = view.head.min(left),
            Some(_) => {}
            None => {}
        }
        if self.config.group_history == GroupHistory::FromJoin {
            view.floor = Seq(member.joined.0.saturating_sub(1));
        }
        Ok(())
    }

    /// Where a view stands now that the batch is committed. If the group began anew in the same batch, nothing of what the
    /// view could show is left.
    pub(super) fn stands(&self, view: &View) -> Result<Head, StoreError> {
        let stored = self.store.head(&view.stream)?.filter(|head| head.epoch == view.epoch);
        let first = stored.map_or(view.head.next(), |head| head.first).max(view.floor.next()).min(view.head.next());
        Ok(Head { epoch: view.epoch, head: view.head, first })
    }

    /// Where a stream stands in the middle of this batch; `None`: no such group. Keeps the answer in the cache.
    pub(super) fn standing(&mut self, hash: u64, stream: &StreamKey) -> Result<Option<Standing>, StoreError> {
        if let Some(standing) = self.heads.find(hash, stream) {
            return Ok(Some(standing));
        }
        let standing = self.look_up(stream)?;
        if let Some(standing) = standing {
            self.heads.load(hash, stream, standing);
        }
        Ok(standing)
    }

    /// The same for readers, who come in great numbers and would push the writers' streams out of the cache.
    pub(super) fn peek(&mut self, hash: u64, stream: &StreamKey) -> Result<Option<Standing>, StoreError> {
        if let Some(standing) = self.heads.find(hash, stream) {
            return Ok(Some(standing));
        }
        self.look_up(stream)
    }

    fn look_up(&mut self, stream: &StreamKey) -> Result<Option<Standing>, StoreError> {
        self.stats.head_misses += 1;
        let (epoch, mode) = match stream.gid() {
            None => (None, Mode::Personal),
            Some(_) if stream.as_str() == EVERYBODY => (None, Mode::OpenGroup),
            Some(gid) => match self.store.group(&gid)? {
                None => return Ok(None),
                Some(group) => (Some(group.epoch), mode_of(&group)),
            },
        };
        // A head of another epoch than its group's is that of the group's earlier life.
        let head = self.store.head(stream)?.filter(|head| epoch.is_none_or(|epoch| head.epoch == epoch));
        let epoch = epoch.or(head.map(|h| h.epoch)).unwrap_or(self.origin.history);
        Ok(Some(Standing { epoch, head: head.map_or(Seq::ZERO, |h| h.head), mode }))
    }

    /// As decided so far, this batch included.
    pub(super) fn group(&mut self, gid: &Gid) -> Result<Option<Group>, StoreError> {
        match self.batch.overlay.groups.get(gid) {
            Some(group) => Ok(Some(group.clone())),
            None => self.store.group(gid),
        }
    }

    /// The user's newest interval in the group's present life.
    pub(super) fn member(&mut self, gid: &Gid, uid: &Uid) -> Result<Option<Member>, StoreError> {
        let overlay = &self.batch.overlay;
        if overlay.members.is_empty() && overlay.groups.is_empty() {
            return self.store.member(gid, uid);
        }
        if let Some(member) = overlay.members.get(&(gid.clone(), uid.clone())) {
            return Ok(Some(member.clone()));
        }
        if overlay.groups.contains_key(gid) {
            return Ok(None);
        }
        self.store.member(gid, uid)
    }

    pub(super) fn present(&mut self, gid: &Gid, uid: &Uid) -> Result<Option<Member>, StoreError> {
        Ok(self.member(gid, uid)?.filter(|m| m.left.is_none()))
    }
}

impl Overlay {
    /// Groups that this batch made `uid` a member of.
    pub fn joined_by(&self, uid: &Uid) -> Vec<Gid> {
        let joined = self.members.values().filter(|m| m.uid == *uid && m.left.is_none());
        let mut groups: Vec<Gid> = joined.map(|m| m.gid.clone()).collect();
        groups.sort();
        groups
    }
}

pub(super) fn mode_of(group: &Group) -> Mode {
    match (group.dismissed, group.open) {
        (true, _) => Mode::Dismissed,
        (false, true) => Mode::OpenGroup,
        (false, false) => Mode::MembersGroup,
    }
}

fn may_ask(uid: &Uid, stream: &StreamKey) -> Result<(), Denied> {
    let own = match stream.kind() {
        StreamKind::Inbox => stream.name() == uid.as_str(),
        StreamKind::Conversation => {
            stream.name().split_once(':').is_some_and(|(a, b)| a == uid.as_str() || b == uid.as_str())
        }
        StreamKind::Group => true,
    };
    match own {
        true => Ok(()),
        false => Err(refused(ErrorCode::Forbidden, "another user's stream")),
    }
}
