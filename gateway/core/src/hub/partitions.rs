//! What the hub keeps per partition: its attachment, the node's place in its log, and what waits to be asked there.
//!
//! Partitions come and go one by one. What one of them cannot answer now waits here, and nothing else does.

use std::collections::VecDeque;

use super::interest::Forgotten;
use super::{HEALS_ASKED_MAX, HEALS_ASKED_MIN, OPENS_ASKED_MAX, OPENS_ASKED_MIN, PRESENCE_MAX, REQUESTS_MAX};
use crate::ids::{PartitionId, Partitions, StreamIdx, Uid};
use crate::link::{Corr, ToLink};

/// The number of partitions was told already, and it was another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there are {known} partitions, and now {told} are told of")]
pub struct PartitionsChanged {
    pub known: u32,
    pub told: u32,
}

/// All partitions, once their number is known.
#[derive(Debug)]
pub(super) struct Links {
    count: Option<Partitions>,
    links: Vec<Link>,
    /// Those that may be able to ask something now.
    stirred: VecDeque<PartitionId>,
    seed: u64,
}

/// One partition.
#[derive(Debug)]
pub(super) struct Link {
    pub up: bool,
    pub history: Option<u64>,
    /// Owner epoch and lsn.
    pub position: Option<(u64, u64)>,
    pub forgotten: Forgotten,
    pub credit: u64,
    /// Presence changes that happened while it was down.
    pub presence: VecDeque<ToLink>,
    /// Parts of opens that it has not been asked yet.
    pub to_ask: VecDeque<Corr>,
    pub opens_asked: usize,
    pub heal_queue: VecDeque<(StreamIdx, u32)>,
    pub heals_asked: usize,
    /// Requests of clients and pulls that it has not answered.
    pub requests: usize,
    stirred: bool,
}

impl Links {
    pub fn new(seed: u64) -> Links {
        Links { count: None, links: Vec::new(), stirred: VecDeque::new(), seed }
    }

    /// True: it was not known before.
    pub fn set_count(&mut self, told: Partitions) -> Result<bool, PartitionsChanged> {
        match self.count {
            Some(known) if known == told => Ok(false),
            Some(known) => Err(PartitionsChanged { known: known.count(), told: told.count() }),
            None => {
                self.count = Some(told);
                self.links = told.all().map(|_| Link::new(self.seed)).collect();
                Ok(true)
            }
        }
    }

    pub fn count(&self) -> Option<Partitions> {
        self.count
    }

    /// Of the stream with this key. Before the number of partitions is known nothing is asked anywhere.
    pub fn of(&self, key: &str) -> PartitionId {
        self.count.map_or(PartitionId(0), |count| count.of(key))
    }

    /// Of the user's inbox.
    pub fn of_inbox(&self, uid: &Uid) -> PartitionId {
        self.count.map_or(PartitionId(0), |count| count.of_inbox(uid.as_str()))
    }

    pub fn at(&self, partition: PartitionId) -> Option<&Link> {
        self.links.get(partition.0 as usize)
    }

    pub fn at_mut(&mut self, partition: PartitionId) -> Option<&mut Link> {
        self.links.get_mut(partition.0 as usize)
    }

    pub fn is_up(&self, partition: PartitionId) -> bool {
        self.at(partition).is_some_and(|link| link.up)
    }

    pub fn up(&self) -> usize {
        self.links.iter().filter(|link| link.up).count()
    }

    /// Something waits there that may be asked now.
    pub fn stir(&mut self, partition: PartitionId) {
        if let Some(link) = self.links.get_mut(partition.0 as usize)
            && !link.stirred
        {
            link.stirred = true;
            self.stirred.push_back(partition);
        }
    }

    pub fn next_stirred(&mut self) -> Option<PartitionId> {
        let partition = self.stirred.pop_front()?;
        if let Some(link) = self.at_mut(partition) {
            link.stirred = false;
        }
        Some(partition)
    }

    /// Most parts of opens that one partition is asked at once. Each has its share, so that a slow one keeps no other waiting.
    pub fn opens_asked_max(&self) -> usize {
        (OPENS_ASKED_MAX / self.links.len().max(1)).max(OPENS_ASKED_MIN)
    }

    pub fn heals_asked_max(&self) -> usize {
        (HEALS_ASKED_MAX / self.links.len().max(1)).max(HEALS_ASKED_MIN)
    }

    pub fn presence_max(&self) -> usize {
        PRESENCE_MAX / self.links.len().max(1)
    }

    /// Most requests that one partition may leave unanswered. One of several never takes all the room there is.
    pub fn requests_max(&self) -> usize {
        if self.links.len() > 1 { REQUESTS_MAX / 2 } else { REQUESTS_MAX }
    }
}

impl Link {
    fn new(seed: u64) -> Link {
        Link {
            up: false,
            history: None,
            position: None,
            forgotten: Forgotten::new(seed),
            credit: 0,
            presence: VecDeque::new(),
            to_ask: VecDeque::new(),
            opens_asked: 0,
            heal_queue: VecDeque::new(),
            heals_asked: 0,
            requests: 0,
            stirred: false,
        }
    }
}
