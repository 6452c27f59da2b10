//! Who is here, told once more to a partition that comes up: its owner may be a new one, which has heard of no connection.
//!
//! The hub keeps no table of connections, so shards say it, a slice after a pause after a slice, one shard after the other.
//! Partitions that come up meanwhile are told in the next round. Control knows connections by their id, so what it hears
//! twice changes nothing.

use std::sync::Arc;
use std::time::Duration;

use super::open::OpenKind;
use super::{Hub, PRESENT_PAUSE_MS};
use crate::ids::{ConnRef, Now, PartitionId, ShardId, Uid};
use crate::link::ToLink;
use crate::messages::{PlatformId, Requester, ToShard};

#[derive(Debug, Default)]
pub(super) struct Telling {
    /// Those that have had connections.
    shards: Vec<ShardId>,
    /// Names by their numbers.
    platforms: Vec<Box<str>>,
    /// Came up since the round began.
    wanted: Vec<PartitionId>,
    round: Option<Round>,
    /// When the next slice is asked for.
    next_at: Option<Now>,
}

#[derive(Debug)]
struct Round {
    partitions: Arc<[PartitionId]>,
    /// The last of them is at work.
    shards: Vec<ShardId>,
    from: u32,
}

impl Telling {
    pub fn next_at(&self) -> Option<Now> {
        self.next_at
    }

    pub fn note(&mut self, shard: ShardId, platform: PlatformId, name: &str) {
        if !self.shards.contains(&shard) {
            self.shards.push(shard);
        }
        let at = usize::from(platform.0);
        if self.platforms.len() <= at {
            self.platforms.resize(at + 1, "".into());
        }
        if &*self.platforms[at] != name {
            self.platforms[at] = name.into();
        }
    }
}

impl Hub {
    pub(super) fn tell_present(&mut self, now: Now, partition: PartitionId) {
        let telling = &mut self.telling;
        if telling.shards.is_empty() {
            return;
        }
        if !telling.wanted.contains(&partition) {
            telling.wanted.push(partition);
        }
        if telling.round.is_none() && telling.next_at.is_none() {
            telling.next_at = Some(now + Duration::from_millis(PRESENT_PAUSE_MS));
        }
    }

    pub(super) fn go_on_telling(&mut self, now: Now) {
        let telling = &mut self.telling;
        if telling.next_at.is_none_or(|at| at > now) {
            return;
        }
        telling.next_at = None;
        let round = telling.round.get_or_insert_with(|| Round {
            partitions: std::mem::take(&mut telling.wanted).into(),
            shards: telling.shards.clone(),
            from: 0,
        });
        let (Some(of), Some(shard)) = (self.links.count(), round.shards.last().copied()) else { return };
        let (partitions, from) = (Arc::clone(&round.partitions), round.from);
        self.send(shard, ToShard::TellPresent { of, partitions, from });
    }

    /// A shard has said who is there, up to `next`.
    pub(super) fn present_told(&mut self, now: Now, shard: ShardId, next: Option<u32>) {
        let telling = &mut self.telling;
        let Some(round) = telling.round.as_mut().filter(|round| round.shards.last() == Some(&shard)) else { return };
        round.from = next.unwrap_or(0);
        if next.is_none() {
            round.shards.pop();
        }
        if round.shards.is_empty() {
            telling.round = None;
        }
        if telling.round.is_some() || !telling.wanted.is_empty() {
            telling.next_at = Some(now + Duration::from_millis(PRESENT_PAUSE_MS));
        }
    }

    /// One that is there. Who has no session object yet is told of when it has.
    pub(super) fn present(&mut self, conn: ConnRef, who: Requester, connection_id: Box<str>) {
        let partition = self.links.of_inbox(&who.uid);
        if !self.links.is_up(partition) || self.is_connecting(conn, &who.uid) {
            return;
        }
        let platform = self.telling.platforms.get(usize::from(who.class.platform.0)).cloned().unwrap_or_default();
        let Requester { uid, device, .. } = who;
        self.to_link.push_back((partition, ToLink::Online { uid, device, platform, connection_id }));
    }

    fn is_connecting(&self, conn: ConnRef, uid: &Uid) -> bool {
        let opens = self.opens_of.get(uid).into_iter().flatten().filter_map(|corr| self.opens.get(corr));
        opens.into_iter().any(|open| matches!(&open.kind, OpenKind::Connect { conn: at, .. } if *at == conn))
    }
}
