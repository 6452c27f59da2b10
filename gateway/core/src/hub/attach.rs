//! The attachment to control: up and down, places in partitions, credits, presence.

use super::ops::Asked;
use super::stream::HealStep;
use super::{CREDIT_BYTES, Hub, PRESENCE_MAX};
use crate::client::errors::ErrorCode;
use crate::ids::Now;
use crate::link::{Corr, LinkError, Position, ToLink};

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

    /// False: said by an owner that has a successor, which must be ignored (it may never have been durable).
    pub(super) fn accept_position(&mut self, position: Position) -> bool {
        let known = self.link.positions.get(&position.partition).copied();
        if known.is_some_and(|(owner_epoch, _)| position.owner_epoch < owner_epoch) {
            return false;
        }
        // Ephemeral messages have no place.
        if position.lsn > 0 {
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
