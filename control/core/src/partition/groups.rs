//! Groups: they begin, change and end. Who is a member is decided by sequenced messages of the group's own stream.

use std::sync::Arc;

use smallvec::{SmallVec, smallvec};

use super::access::mode_of;
use super::api::{Reply, Token};
use super::batch::Effect;
use super::heads::{Mode, Standing};
use super::limits;
use super::sequencer::{Denied, Partition, refused};
use crate::domain::names::EVERYBODY;
use crate::domain::{
    Body, Content, ErrorCode, Gid, GroupChange, LeaveReason, MembershipChange, Priority, Role, Seq, StreamKey, Uid,
};
use crate::ports::{Group, Member, MessageStore};

/// Type of the messages by which a group changes.
pub const SYSTEM_GROUP: &str = "system_group";
/// Members of a dismissed group that are told so one by one; the rest learn it when they ask.
pub const DISMISSAL_NOTICES_MAX: usize = 10_000;

/// A change of a group, as its `system_group` message says it.
struct Change<'a> {
    action: &'static str,
    gid: &'a Gid,
    by: Option<&'a Uid>,
    whom: Option<&'a Uid>,
    membership: Option<MembershipChange>,
}

impl<S: MessageStore> Partition<S> {
    pub(super) fn decide_create_group(
        &mut self,
        token: Token,
        gid: Gid,
        name: Box<str>,
        open: bool,
        creator: Option<Uid>,
        members: Vec<Uid>,
    ) -> Result<(), Denied> {
        limits::at_most("name", name.len(), limits::GROUP_NAME_BYTES_MAX)?;
        if members.len() > limits::GROUP_MEMBERS_MAX {
            return Err(refused(ErrorCode::TooLarge, "members: at most 1000 at once"));
        }
        if open && !members.is_empty() {
            return Err(refused(ErrorCode::BadRequest, "members: an open group begins without members"));
        }
        if gid.stream().as_str() == EVERYBODY || self.group(&gid)?.is_some_and(|group| !group.dismissed) {
            return Err(refused(ErrorCode::BadRequest, "gid: this group exists"));
        }
        let (group, standing) = self.begin_group(&gid, name, open, creator.as_ref());
        if !open {
            self.add_first_members(&gid, standing, creator.as_ref(), members);
        }
        self.batch.reply(token, Ok(Reply::Group(group)));
        Ok(())
    }

    fn add_first_members(&mut self, gid: &Gid, mut standing: Standing, creator: Option<&Uid>, members: Vec<Uid>) {
        let first = creator.cloned().map(|owner| (owner, Role::Owner));
        let rest = members.into_iter().map(|uid| (uid, Role::Member));
        for (uid, role) in first.into_iter().chain(rest) {
            if !self.batch.overlay.members.contains_key(&(gid.clone(), uid.clone())) {
                standing.head = self.join(gid, standing, uid, role, "create", creator);
            }
        }
    }

    pub(super) fn decide_add_member(
        &mut self,
        token: Token,
        gid: Gid,
        uid: Uid,
        by: Option<Uid>,
    ) -> Result<(), Denied> {
        let stream = gid.stream();
        if stream.as_str() == EVERYBODY {
            return Err(refused(ErrorCode::BadRequest, "gid: everybody is in this group"));
        }
        let joins_itself = by.as_ref() == Some(&uid);
        let standing = match self.standing(self.heads.hash(&stream), &stream)? {
            Some(standing) => standing,
            None if joins_itself || by.is_none() => self.begin_group_by_itself(gid.clone())?,
            None => return Err(refused(ErrorCode::NotFound, "no such group")),
        };
        match standing.mode {
            Mode::Dismissed => return Err(refused(ErrorCode::NotFound, "the group was dismissed")),
            Mode::OpenGroup if joins_itself => {}
            _ => self.may_lead(&gid, by.as_ref()).map(drop)?,
        }
        let seq = match self.present(&gid, &uid)? {
            Some(_) => None,
            None => {
                let action = if joins_itself { "join" } else { "add" };
                Some(self.join(&gid, standing, uid, Role::Member, action, by.as_ref()))
            }
        };
        self.batch.reply(token, Ok(Reply::Done { seq }));
        Ok(())
    }

    pub(super) fn decide_remove_member(
        &mut self,
        token: Token,
        gid: Gid,
        uid: Uid,
        by: Option<Uid>,
    ) -> Result<(), Denied> {
        let (_, standing) = self.living(&gid)?;
        let leaves_itself = by.as_ref() == Some(&uid);
        let member = self.present(&gid, &uid)?;
        let role = member.as_ref().map(|m| m.role);
        if leaves_itself {
            if role == Some(Role::Owner) {
                return Err(refused(ErrorCode::Forbidden, "the owner cannot leave, only dismiss the group"));
            }
        } else if let Some(rank) = self.may_lead(&gid, by.as_ref())? {
            let above = role == Some(Role::Owner) || (role == Some(Role::Admin) && rank == Role::Admin);
            if above {
                return Err(refused(ErrorCode::Forbidden, "this member stands above you"));
            }
        }
        let seq = member.map(|member| match leaves_itself {
            true => self.part(standing, member, "leave", LeaveReason::Left, by.as_ref()),
            false => self.part(standing, member, "remove", LeaveReason::Removed, by.as_ref()),
        });
        self.batch.reply(token, Ok(Reply::Done { seq }));
        Ok(())
    }

    pub(super) fn decide_dismiss_group(&mut self, token: Token, gid: Gid, by: Option<Uid>) -> Result<(), Denied> {
        let (group, standing) = self.living(&gid)?;
        if let Some(by) = &by {
            let owner = self.present(&gid, by)?.is_some_and(|m| m.role == Role::Owner);
            let founder = group.open && *group.creator == *by.as_str();
            if !owner && !founder {
                return Err(refused(ErrorCode::Forbidden, "only the owner dismisses the group"));
            }
        }
        let members = self.members_to_tell(&gid)?;
        let stream = gid.stream();
        let hash = self.heads.hash(&stream);
        let change = Change { action: "dismiss", gid: &gid, by: by.as_ref(), whom: None, membership: None };
        let seq = self.say(standing, change);
        let (open, name, creator) = (group.open, group.name.clone(), group.creator.clone());
        let ts = self.clock.time(self.now);
        self.batch.group(GroupChange {
            gid: gid.clone(),
            epoch: group.epoch,
            open,
            name,
            creator,
            ts,
            dismissed: true,
        });
        let record = self.batch.records.len() as u32 - 1;
        self.batch.effects.push(Effect::Dismissed { record, seq, hash, members });
        self.heads.change(hash, &stream, Standing { head: seq, mode: Mode::Dismissed, ..standing });
        let group = Group { dismissed: true, ..group };
        self.set_group(group.clone());
        self.batch.reply(token, Ok(Reply::Group(group)));
        Ok(())
    }

    /// A group that was joined or pushed to before anyone created it.
    pub(super) fn begin_group_by_itself(&mut self, gid: Gid) -> Result<Standing, Denied> {
        match self.config.auto_groups {
            true => Ok(self.begin_group(&gid, "".into(), true, None).1),
            false => Err(refused(ErrorCode::NotFound, "no such group")),
        }
    }

    fn begin_group(&mut self, gid: &Gid, name: Box<str>, open: bool, creator: Option<&Uid>) -> (Group, Standing) {
        let epoch = self.new_epoch();
        let group = Group {
            gid: gid.clone(),
            epoch,
            open,
            name: name.clone(),
            creator: creator.map_or("", Uid::as_str).into(),
            created: self.clock.time(self.now),
            dismissed: false,
        };
        let (creator, ts) = (group.creator.clone(), group.created);
        self.batch.group(GroupChange { gid: gid.clone(), epoch, open, name, creator, ts, dismissed: false });
        let stream = gid.stream();
        let standing = Standing { epoch, head: Seq::ZERO, mode: mode_of(&group) };
        self.heads.change(self.heads.hash(&stream), &stream, standing);
        self.set_group(group.clone());
        (group, standing)
    }

    /// From here on nobody that was a member before is one.
    fn set_group(&mut self, group: Group) {
        let overlay = &mut self.batch.overlay;
        overlay.members.retain(|(gid, _), _| *gid != group.gid);
        overlay.groups.insert(group.gid.clone(), group);
    }

    /// The group, if it exists and was not dismissed, and where its stream stands.
    fn living(&mut self, gid: &Gid) -> Result<(Group, Standing), Denied> {
        let Some(group) = self.group(gid)? else { return Err(refused(ErrorCode::NotFound, "no such group")) };
        let stream = gid.stream();
        match self.standing(self.heads.hash(&stream), &stream)? {
            Some(standing) if standing.mode != Mode::Dismissed => Ok((group, standing)),
            _ => Err(refused(ErrorCode::NotFound, "the group was dismissed")),
        }
    }

    /// Owners, admins and backends (`None`, without a rank) decide about others.
    fn may_lead(&mut self, gid: &Gid, by: Option<&Uid>) -> Result<Option<Role>, Denied> {
        let Some(by) = by else { return Ok(None) };
        match self.present(gid, by)?.map(|m| m.role) {
            Some(role @ (Role::Owner | Role::Admin)) => Ok(Some(role)),
            _ => Err(refused(ErrorCode::Forbidden, "only an owner or admin decides about members")),
        }
    }

    fn members_to_tell(&mut self, gid: &Gid) -> Result<Vec<Uid>, Denied> {
        let overlay = &self.batch.overlay;
        let begun_now = overlay.groups.contains_key(gid);
        let stored = if begun_now { Vec::new() } else { self.store.members(gid, None, DISMISSAL_NOTICES_MAX)? };
        let decided = |uid: &Uid| overlay.members.contains_key(&(gid.clone(), uid.clone()));
        let mut members: Vec<Uid> = stored.into_iter().map(|m| m.uid).filter(|uid| !decided(uid)).collect();
        let present = overlay.members.values().filter(|m| m.gid == *gid && m.left.is_none());
        members.extend(present.map(|m| m.uid.clone()));
        members.sort();
        members.truncate(DISMISSAL_NOTICES_MAX);
        Ok(members)
    }

    fn join(
        &mut self,
        gid: &Gid,
        standing: Standing,
        uid: Uid,
        role: Role,
        action: &'static str,
        by: Option<&Uid>,
    ) -> Seq {
        let reason = LeaveReason::default();
        let membership = MembershipChange { gid: gid.clone(), uid: uid.clone(), role: Some(role), reason };
        let seq = self.say(standing, Change { action, gid, by, whom: Some(&uid), membership: Some(membership) });
        let member = Member { gid: gid.clone(), uid: uid.clone(), role, joined: seq, left: None };
        self.batch.overlay.members.insert((gid.clone(), uid), member);
        seq
    }

    fn part(
        &mut self,
        standing: Standing,
        member: Member,
        action: &'static str,
        reason: LeaveReason,
        by: Option<&Uid>,
    ) -> Seq {
        let (gid, uid) = (&member.gid, &member.uid);
        let membership = MembershipChange { gid: gid.clone(), uid: uid.clone(), role: None, reason };
        let seq = self.say(standing, Change { action, gid, by, whom: Some(uid), membership: Some(membership) });
        let member = Member { left: Some(seq), ..member };
        self.batch.overlay.members.insert((member.gid.clone(), member.uid.clone()), member);
        seq
    }

    /// Writes the message of a change at the next place of the group's stream.
    fn say(&mut self, standing: Standing, change: Change<'_>) -> Seq {
        let stream: StreamKey = change.gid.stream();
        let hash = self.heads.hash(&stream);
        let (id, ts) = self.clock.stamp(self.now);
        let body = Body {
            id,
            from: change.by.map_or("", Uid::as_str).into(),
            to: "".into(),
            client_msg_id: "".into(),
            kind: SYSTEM_GROUP.into(),
            title: "".into(),
            content: Content::Text("".into()),
            metadata: metadata(&change).into(),
            ts,
            priority: Priority::Normal,
            expires: None,
            platforms: SmallVec::new(),
        };
        let place = self.take_place(hash, &stream, standing);
        let seq = place.seq;
        let joins = change.membership.as_ref().is_some_and(|change| change.role.is_some());
        self.batch.append_with(Arc::new(body), smallvec![(place, hash)], None, change.membership);
        if joins && self.config.partitions > 1 {
            self.batch.owes();
        }
        seq
    }
}

/// Names need no escaping in JSON: they match `[A-Za-z0-9_.@-]`.
fn metadata(change: &Change<'_>) -> String {
    let mut json = format!(r#"{{"action":"{}","group_id":"{}""#, change.action, change.gid);
    if let Some(by) = change.by {
        json.push_str(&format!(r#","inviter_id":"{by}""#));
    }
    if let Some(whom) = change.whom {
        json.push_str(&format!(r#","invitee_id":"{whom}""#));
    }
    json.push('}');
    json
}
