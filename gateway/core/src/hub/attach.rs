//! The attachments to control, one per partition: up and down, places in logs, credits, presence.

use smallvec::SmallVec;

use super::open::Stage;
use super::ops::Asked;
use super::partitions::PartitionsChanged;
use super::stream::HealStep;
use super::{CREDIT_BYTES, Hub};
use crate::client::errors::ErrorCode;
use crate::ids::{EVERYBODY, Now, PartitionId, Partitions, ShardId, StreamIdx, Uid};
use crate::link::{Corr, LinkError, Position, ToLink};
use crate::messages::{FrameSet, ToShard};
use crate::planted::{self, Bug};

/// How long a client waits before it asks again after the link broke; spread, so that they do not come all at once.
const RETRY_SPREAD_MS: u32 = 1_000;

impl Hub {
    /// Comes before the first [`FromLink::Up`](crate::link::FromLink::Up); another number later is refused, because every
    /// stream would be elsewhere. Poll both queues afterwards.
    pub fn set_partitions(&mut self, now: Now, partitions: Partitions) -> Result<(), PartitionsChanged> {
        if self.links.set_count(partitions)? {
            for corr in std::mem::take(&mut self.unrouted) {
                self.route(corr);
            }
            self.settle(now);
        }
        Ok(())
    }

    /// The whole interest in the partition and the node's place go first; opens that nobody has answered are asked again
    /// behind them.
    pub(super) fn link_up(&mut self, now: Now, partition: PartitionId) {
        if self.links.is_up(partition) {
            self.link_down(now, partition);
        }
        let keys = self.streams.all_texts().filter(|key| self.links.of(key) == partition);
        let streams = keys.filter_map(|key| key.parse().ok()).collect();
        let Some(link) = self.links.at_mut(partition) else { return };
        (link.up, link.credit) = (true, 0);
        let position = link.position.map(|(owner_epoch, lsn)| Position { partition, owner_epoch, lsn });
        let presence = std::mem::take(&mut link.presence);
        self.to_link.push_back((partition, ToLink::Announce { streams, position }));
        self.to_link.extend(presence.into_iter().map(|change| (partition, change)));
        self.links.stir(partition);
        self.tell_present(now, partition);
    }

    /// Connections stay. What clients have asked of this partition ends with UNAVAILABLE; opens and holes are asked again
    /// after its next `Up`.
    pub(super) fn link_down(&mut self, now: Now, partition: PartitionId) {
        let Some(link) = self.links.at_mut(partition) else { return };
        link.up = false;
        let asked = self.requests.iter().filter(|(_, (of, _))| *of == partition);
        let mut corrs: Vec<Corr> = asked.map(|(corr, _)| *corr).collect();
        corrs.sort_unstable();
        for corr in corrs {
            match self.take_request(corr) {
                Some(Asked::Heal { stream, serial }) => {
                    let heal = self.streams.current(stream, serial).and_then(|s| s.pending_mut()?.heal.as_mut());
                    if let Some(heal) = heal.filter(|heal| heal.step == HealStep::Asked(corr)) {
                        heal.step = HealStep::Queued;
                        self.queue_heal(partition, stream, serial);
                    }
                }
                Some(Asked::Client(asker)) => {
                    let error = self.unavailable();
                    self.answer_error(&asker, &error);
                }
                Some(Asked::Share(gathering)) => {
                    let error = self.unavailable();
                    self.end_gathering(gathering, &error);
                }
                Some(Asked::Nobody) | None => {}
            }
        }
        if let Some(link) = self.links.at_mut(partition) {
            (link.heals_asked, link.requests) = (0, 0);
        }
        self.forget_answers(now, partition);
    }

    pub(super) fn unavailable(&mut self) -> LinkError {
        let retry_after_ms = Some(200 + self.jitter_ms(RETRY_SPREAD_MS));
        LinkError {
            code: ErrorCode::Unavailable,
            message: "control cannot be reached".into(),
            retry_after_ms,
            stands: None,
        }
    }

    pub(super) fn overloaded(&mut self) -> LinkError {
        self.stats.overloaded += 1;
        let retry_after_ms = Some(500 + self.jitter_ms(RETRY_SPREAD_MS));
        LinkError {
            code: ErrorCode::Overloaded,
            message: "too many requests wait".into(),
            retry_after_ms,
            stands: None,
        }
    }

    /// Of a history that was lost nothing is known any more: the node has no place in the new one, and so is told to begin
    /// anew.
    pub(super) fn history(&mut self, partition: PartitionId, history: u64) {
        let Some(link) = self.links.at_mut(partition) else { return };
        let known = link.history.replace(history);
        if known.is_some_and(|known| known != history) && !planted::is(Bug::HistoryIgnored) {
            link.position = None;
            self.stats.histories_lost += 1;
        }
    }

    /// Nobody can say what happened in this partition since the node's place: who came into groups, who was taken out of
    /// them, which groups ended. So its groups are left without a word, opens are asked again, and connections come back,
    /// each with its cursors.
    pub(super) fn reset(&mut self, now: Now, partition: PartitionId, position: Position) {
        if !self.accept_position(partition, position) || planted::is(Bug::ResetKeepsMembers) {
            return;
        }
        let parts = self.opens.values().filter(|open| !open.gone).flat_map(|open| open.parts.iter());
        let ended = parts.filter(|part| part.partition == partition && part.stage == Stage::Ended);
        let mut ended: Vec<Corr> = ended.map(|part| part.corr).collect();
        ended.sort_unstable();
        for corr in ended.into_iter().rev() {
            self.ask_again(now, corr);
        }
        let links = &self.links;
        self.opens.values_mut().for_each(|open| open.doubt_late(links, partition));
        let mut shards: SmallVec<[ShardId; 16]> = SmallVec::new();
        for idx in self.streams.all() {
            let key = self.streams.key_text(idx);
            let dismissed = key.starts_with("g:") && key != EVERYBODY;
            if self.links.of(key) != partition {
                continue;
            }
            let Some(stream) = self.streams.at_mut(idx) else { continue };
            // Until control says so again, nobody but control lets anyone in.
            stream.set_open_group(false);
            shards.extend(stream.members().map(|(shard, _)| shard));
            shards.sort_unstable();
            shards.dedup();
            if dismissed {
                self.flush(now, idx);
                self.command_members(idx, || ToShard::Dismiss { stream: idx, frames: FrameSet::default() });
            }
        }
        for shard in shards {
            self.send(shard, ToShard::Reopen);
        }
    }

    /// False: said by an owner that has a successor, which must be ignored (it may never have been durable).
    pub(super) fn accept_position(&mut self, partition: PartitionId, position: Position) -> bool {
        let Some(link) = self.links.at_mut(partition).filter(|_| position.partition == partition) else { return false };
        let known = link.position;
        let stale = known.is_some_and(|(owner_epoch, _)| position.owner_epoch < owner_epoch);
        if stale && !planted::is(Bug::StaleOwnerAccepted) {
            return false;
        }
        // Ephemeral messages have no place. An empty log has one, and the node must not seem to have none.
        if position.lsn > 0 || known.is_none() {
            let lsn = match known {
                Some((owner_epoch, lsn)) if owner_epoch == position.owner_epoch => lsn.max(position.lsn),
                _ => position.lsn,
            };
            link.position = Some((position.owner_epoch, lsn));
        }
        true
    }

    pub(super) fn credit(&mut self, partition: PartitionId, bytes: u32) {
        let Some(link) = self.links.at_mut(partition) else { return };
        link.credit += u64::from(bytes);
        if link.up && link.credit >= CREDIT_BYTES {
            let bytes = std::mem::take(&mut link.credit);
            self.to_link.push_back((partition, ToLink::Credit { bytes }));
        }
    }

    /// Said to the owner of the user's inbox.
    pub(super) fn presence(&mut self, uid: &Uid, change: ToLink) {
        let partition = self.links.of_inbox(uid);
        let kept_max = self.links.presence_max();
        let Some(link) = self.links.at_mut(partition) else { return };
        if link.up {
            self.to_link.push_back((partition, change));
            return;
        }
        if link.presence.len() >= kept_max {
            link.presence.pop_front();
        }
        link.presence.push_back(change);
    }

    pub(super) fn partition_at(&self, idx: StreamIdx) -> PartitionId {
        self.links.of(self.streams.key_text(idx))
    }
}
