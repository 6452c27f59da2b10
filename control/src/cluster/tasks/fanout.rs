//! `group_fanout`: looks through the members of a group and makes an `offline_push` for each who is not there.

use std::collections::HashSet;
use std::sync::Arc;

use tidegate_bus::dead_letters::Failure;
use tidegate_bus::records::{GroupFanout, TaskPayload};
use tidegate_control_core::domain::{Body, Epoch, Gid, MessageId, Seq, StreamKey, Uid};
use tidegate_control_core::ports::{Member, PageLimit, StoreError, StoreReader, Stored};

use super::Outcome;
use super::forms::{self, PushKind};
use super::outlet::TaskOutlet;
use crate::cluster::routes::Routes;

/// Members that a task may ask to be looked at together.
const BATCH_MAX: usize = 1_000;
/// Batches of one task: a group's consumer that is busy for minutes loses its partitions.
const BATCHES_MAX: usize = 50;
/// Messages that are looked through for one whose place the task does not say.
const SEARCHED_MAX: usize = 1_000;
const PAGE: PageLimit = PageLimit { messages: 200, bytes: 1 << 20 };

pub(crate) struct Fanout {
    pub reader: Arc<dyn StoreReader>,
    pub routes: Arc<dyn Routes>,
    pub tasks: Arc<TaskOutlet>,
}

impl Fanout {
    pub async fn carry_out(&self, fanout: GroupFanout) -> Result<Outcome, Failure> {
        let gid: Gid = fanout.group_id.parse().map_err(|_| Failure::invalid("group_id is no gid"))?;
        let mut after: Option<Uid> = match &*fanout.after_user_id {
            "" => None,
            uid => Some(uid.parse().map_err(|_| Failure::invalid("after_user_id is no uid"))?),
        };
        let Some(message) = self.message(&gid, &fanout).await? else { return Ok(Outcome::Nothing) };
        let excluded: HashSet<&str> = fanout.exclude_user_ids.iter().map(String::as_str).collect();
        let size = (fanout.batch_size as usize).clamp(1, BATCH_MAX);
        for _ in 0..BATCHES_MAX {
            let (group, from) = (gid.clone(), after.clone());
            let members = self.look_up(move |reader| reader.members(&group, from.as_ref(), size)).await?;
            let Some(last) = members.last().map(|member| member.uid.clone()) else { return Ok(Outcome::Done) };
            let is_whole = members.len() == size;
            self.batch(members, &excluded, &message).await?;
            after = Some(last);
            if !is_whole {
                return Ok(Outcome::Done);
            }
        }
        // The rest is another task's.
        let after_user_id = after.map(|uid| uid.to_string()).unwrap_or_default();
        let rest = GroupFanout { after_user_id, ..fanout };
        self.tasks.place(vec![(forms::fanout_id(&rest), TaskPayload::GroupFanout(rest))]).await;
        Ok(Outcome::Done)
    }

    async fn batch(&self, members: Vec<Member>, excluded: &HashSet<&str>, message: &Stored) -> Result<(), Failure> {
        let body: &Body = &message.body;
        let meant = |member: &Member| {
            // Who came later has not missed it.
            member.joined <= message.seq
                && !excluded.contains(member.uid.as_str())
                && *body.from != *member.uid.as_str()
        };
        let uids: Vec<Uid> = members.into_iter().filter(meant).map(|member| member.uid).collect();
        if uids.is_empty() {
            return Ok(());
        }
        let online = self.routes.online(&uids).await.map_err(|error| Failure::Dependency(error.to_string()))?;
        let away = uids.iter().zip(online).filter(|(_, online)| !online);
        let pushes = away.map(|(uid, _)| forms::offline_push(uid, body, PushKind::Group)).collect();
        self.tasks.place(pushes).await;
        Ok(())
    }

    /// `None`: it, or its group, is gone.
    async fn message(&self, gid: &Gid, fanout: &GroupFanout) -> Result<Option<Stored>, Failure> {
        let group = gid.clone();
        let known = self.look_up(move |reader| reader.group(&group)).await?;
        let known = known.ok_or_else(|| Failure::refused("there is no such group"))?;
        if known.dismissed || (!fanout.epoch.is_empty() && fanout.epoch.parse::<Epoch>() != Ok(known.epoch)) {
            return Ok(None);
        }
        let stream = gid.stream();
        if fanout.seq > 0 {
            return self.at(stream, Seq(fanout.seq)).await;
        }
        let id =
            fanout.message_id.parse().map(MessageId).map_err(|_| Failure::invalid("message_id is no id of ours"))?;
        let found = self.find(stream, id).await?;
        found.map(Some).ok_or_else(|| Failure::refused("the group's newest messages have no such id"))
    }

    async fn at(&self, stream: StreamKey, seq: Seq) -> Result<Option<Stored>, Failure> {
        let (after, limit) = (Seq(seq.0 - 1), PageLimit { messages: 1, bytes: PAGE.bytes });
        let page = self.look_up(move |reader| reader.page(&stream, after, limit)).await?;
        Ok(page.messages.into_iter().find(|stored| stored.seq == seq))
    }

    async fn find(&self, stream: StreamKey, id: MessageId) -> Result<Option<Stored>, Failure> {
        let of = stream.clone();
        let Some(head) = self.look_up(move |reader| reader.head(&of)).await? else { return Ok(None) };
        let mut after = Seq(head.head.0.saturating_sub(SEARCHED_MAX as u64));
        while after < head.head {
            let (of, from) = (stream.clone(), after);
            let page = self.look_up(move |reader| reader.page(&of, from, PAGE)).await?;
            if page.messages.is_empty() {
                break;
            }
            after = page.upto;
            if let Some(found) = page.messages.into_iter().find(|stored| stored.body.id == id) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    async fn look_up<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&dyn StoreReader) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Failure> {
        let reader = Arc::clone(&self.reader);
        let asked = tokio::task::spawn_blocking(move || ask(&*reader)).await;
        let answer = asked.map_err(|_| Failure::Dependency("the node is stopping".to_owned()))?;
        answer.map_err(|error| Failure::Dependency(error.to_string()))
    }
}
