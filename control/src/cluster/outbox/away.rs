//! Tasks for those who are not there: an `offline_push` for the user of an inbox, one for each such member of a small group,
//! and one `group_fanout` for a big group, whose members are looked through by whoever takes the task.
//!
//! A message that nobody should be woken for makes none: one of low priority, an expired or an old one, a change of
//! membership, and one's own.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tidegate_bus::records::{FANOUT_BATCH, GroupFanout, TaskPayload};
use tidegate_control_core::domain::{Append, Body, Gid, Lsn, PartitionId, Place, Priority, Record, StreamKind, Uid};
use tidegate_control_core::partition::Origin;
use tidegate_control_core::ports::StoreReader;

use super::Teller;
use crate::cluster::ingress::wall_clock_ms;
use crate::cluster::routes::Routes;
use crate::cluster::tasks::forms::{self, PushKind};
use crate::cluster::tasks::outlet::TaskOutlet;

const RETRY: Duration = Duration::from_millis(500);

pub(crate) struct Away {
    /// Of the partition.
    reader: Arc<dyn StoreReader>,
    parts: AwayParts,
}

/// What all partitions of a node share.
#[derive(Clone)]
pub(crate) struct AwayParts {
    pub routes: Arc<dyn Routes>,
    pub tasks: Arc<TaskOutlet>,
    pub partitions: u32,
    /// Groups of more members get one task.
    pub fanout_above: usize,
    /// Of older messages nobody is told any more.
    pub age_max: Duration,
}

impl AwayParts {
    pub fn of(&self, reader: Arc<dyn StoreReader>) -> Away {
        Away { reader, parts: self.clone() }
    }
}

impl Teller for Away {
    fn name(&self) -> &'static str {
        "away"
    }

    fn tell<'a>(&'a self, origin: Origin, page: &'a [(Lsn, Record)]) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let mut tasks = Vec::new();
            for (_, record) in page {
                let Record::Append(append) = record else { continue };
                let ours = |place: &&Place| PartitionId::of(&place.stream, self.parts.partitions) == origin.partition;
                if !self.is_to_be_told(append) {
                    continue;
                }
                for place in append.places.iter().filter(ours) {
                    tasks.extend(self.of(place, append).await);
                }
            }
            self.parts.tasks.place(tasks).await;
        })
    }
}

impl Away {
    fn is_to_be_told(&self, append: &Append) -> bool {
        let (body, now) = (&append.body, wall_clock_ms());
        append.membership.is_none()
            && body.priority != Priority::Low
            && body.expires.is_none_or(|expires| expires.0 > now)
            && body.ts.0 >= now - self.parts.age_max.as_millis() as i64
    }

    async fn of(&self, place: &Place, append: &Append) -> Vec<(String, TaskPayload)> {
        let body = &append.body;
        match (place.stream.kind(), place.stream.uid(), place.stream.gid()) {
            (StreamKind::Inbox, Some(uid), _) if body.to.is_empty() || *body.from != *uid.as_str() => {
                let kind = if body.to.is_empty() { PushKind::Push } else { PushKind::OneToOne };
                self.pushes(std::slice::from_ref(&uid), body, kind).await
            }
            (StreamKind::Group, _, Some(gid)) if place.stream.as_str() != EVERYBODY => {
                self.of_group(&gid, place, body).await
            }
            _ => Vec::new(),
        }
    }

    async fn of_group(&self, gid: &Gid, place: &Place, body: &Body) -> Vec<(String, TaskPayload)> {
        let members = self.members(gid).await;
        if members.len() > self.parts.fanout_above {
            let fanout = GroupFanout {
                group_id: gid.to_string(),
                message_id: body.id.to_string(),
                exclude_user_ids: if body.from.is_empty() { Vec::new() } else { vec![body.from.to_string()] },
                batch_size: FANOUT_BATCH,
                epoch: place.epoch.to_string(),
                seq: place.seq.0,
                ..GroupFanout::default()
            };
            return vec![(forms::fanout_id(&fanout), TaskPayload::GroupFanout(fanout))];
        }
        let others: Vec<Uid> = members.into_iter().filter(|uid| *uid.as_str() != *body.from).collect();
        self.pushes(&others, body, PushKind::Group).await
    }

    /// Up to one more than a small group has; waits while the store is away.
    async fn members(&self, gid: &Gid) -> Vec<Uid> {
        loop {
            let (reader, asked, limit) = (Arc::clone(&self.reader), gid.clone(), self.parts.fanout_above + 1);
            match tokio::task::spawn_blocking(move || reader.members(&asked, None, limit)).await {
                Ok(Ok(members)) => return members.into_iter().map(|member| member.uid).collect(),
                Ok(Err(error)) => tracing::warn!(%error, "members cannot be read"),
                Err(_stopping) => return Vec::new(),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// For those who are not there; waits until that can be said.
    async fn pushes(&self, uids: &[Uid], body: &Body, kind: PushKind) -> Vec<(String, TaskPayload)> {
        if uids.is_empty() {
            return Vec::new();
        }
        let online = loop {
            match self.parts.routes.online(uids).await {
                Ok(online) => break online,
                Err(error) => tracing::debug!(%error, "who is there cannot be said yet"),
            }
            tokio::time::sleep(RETRY).await;
        };
        let away = uids.iter().zip(online).filter(|(_, online)| !online);
        away.map(|(uid, _)| forms::offline_push(uid, body, kind)).collect()
    }
}

/// Reaches those who are there, and wakes nobody.
const EVERYBODY: &str = "g:_all";
