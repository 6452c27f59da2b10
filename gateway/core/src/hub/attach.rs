//! The attachment to control: up and down, places in partitions, credits, presence.

use smallvec::SmallVec;

use super::open::Stage;
use super::ops::Asked;
use super::stream::HealStep;
use super::{CREDIT_BYTES, Hub, PRESENCE_MAX};
use crate::client::errors::ErrorCode;
use crate::ids::{EVERYBODY, Now, ShardId};
use crate::link::{Corr, LinkError, PartitionId, Position, ToLink};
use crate::messages::{FrameSet, ToShard};
use crate::planted::{self, Bug};

/// How long a client waits before it asks again after the link broke; spread, so that they do not come all at once.
const RETRY_SPREAD_MS: u32 = 1_000;

impl Hub {
    /// The whole interest and the node's places go first; opens that nobody has answered are asked again behind them.
    pub(super) fn link_up(&mut self, now: Now) {
        if self.link.up {
            self.link_down(now);
        }
        self.link.up = true;
        self.link.credit = 0;
        let streams = self.streams.all_keys().collect();
        let mut positions: Vec<Position> = self
            .link
            .positions
            .iter()
            .map(|(partition, (owner_epoch, lsn))| Position {
                partition: *partition,
                owner_epoch: *owner_epoch,
                lsn: *lsn,
            })
            .collect();
        positions.sort_by_key(|position| position.partition.0);
        self.to_link.push_back(ToLink::Announce { streams, positions });
        self.to_link.extend(self.link.presence.drain(..));
    }

    /// Connections stay. What clients have asked ends with UNAVAILABLE; opens and holes are asked again after the next `Up`.
    pub(super) fn link_down(&mut self, now: Now) {
        self.link.up = false;
        let mut corrs: Vec<Corr> = self.requests.keys().copied().collect();
        corrs.sort_unstable();
        for corr in corrs {
            match self.requests.remove(&corr) {
                Some(Asked::Heal { stream, serial }) => {
                    let heal = self.streams.current(stream, serial).and_then(|s| s.pending_mut()?.heal.as_mut());
                    if let Some(heal) = heal.filter(|heal| heal.step == HealStep::Asked(corr)) {
                        heal.step = HealStep::Queued;
                        self.heal_queue.push_back((stream, serial));
                    }
                }
                Some(Asked::Client(asker)) => {
                    let error = self.unavailable();
                    self.answer_error(&asker, &error);
                }
                Some(Asked::Nobody) | None => {}
            }
        }
        self.heals_asked = 0;
        self.forget_answers(now);
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
        let known = self.link.histories.insert(partition, history);
        if known.is_some_and(|known| known != history) && !planted::is(Bug::HistoryIgnored) {
            self.link.positions.remove(&partition);
            self.stats.histories_lost += 1;
        }
    }

    /// Nobody can say what happened since the node's place: who came into groups, who was taken out of them, which groups
    /// ended. So groups are left without a word, opens are asked again, and connections come back, each with its cursors.
    pub(super) fn reset(&mut self, now: Now, position: Position) {
        if !self.accept_position(position) || planted::is(Bug::ResetKeepsMembers) {
            return;
        }
        let ended = self.opens.iter().filter(|(_, open)| open.stage == Stage::Ended && !open.gone);
        let mut ended: Vec<Corr> = ended.map(|(corr, _)| *corr).collect();
        ended.sort_unstable();
        for corr in ended.into_iter().rev() {
            self.ask_again(now, corr);
        }
        self.opens.values_mut().for_each(|open| open.late.clear());
        let mut shards: SmallVec<[ShardId; 16]> = SmallVec::new();
        for idx in self.streams.all() {
            let Some(stream) = self.streams.at_mut(idx) else { continue };
            // Until control says so again, nobody but control lets anyone in.
            stream.set_open_group(false);
            shards.extend(stream.members().map(|(shard, _)| shard));
            shards.sort_unstable();
            shards.dedup();
            let key = self.streams.key_text(idx);
            if key.starts_with("g:") && key != EVERYBODY {
                self.flush(now, idx);
                self.command_members(idx, || ToShard::Dismiss { stream: idx, frames: FrameSet::default() });
            }
        }
        for shard in shards {
            self.send(shard, ToShard::Reopen);
        }
    }

    /// False: said by an owner that has a successor, which must be ignored (it may never have been durable).
    pub(super) fn accept_position(&mut self, position: Position) -> bool {
        let known = self.link.positions.get(&position.partition).copied();
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
            self.link.positions.insert(position.partition, (position.owner_epoch, lsn));
        }
        true
    }

    pub(super) fn credit(&mut self, bytes: u32) {
        self.link.credit += u64::from(bytes);
        if self.link.up && self.link.credit >= CREDIT_BYTES {
            self.to_link.push_back(ToLink::Credit { bytes: self.link.credit });
            self.link.credit = 0;
        }
    }

    pub(super) fn presence(&mut self, change: ToLink) {
        if self.link.up {
            self.to_link.push_back(change);
            return;
        }
        if self.link.presence.len() == PRESENCE_MAX {
            self.link.presence.pop_front();
        }
        self.link.presence.push_back(change);
    }
}
