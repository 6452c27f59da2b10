//! Who owns which partition, as this node knows it.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tidegate_control_core::domain::{PartitionId, StreamKey};
use tidegate_control_core::partition::Origin;

use crate::runtime::Sequencer;

/// One seat for each partition; read on every request, changed when owners change.
#[derive(Debug)]
pub(crate) struct Seats(Box<[ArcSwap<Seat>]>);

#[derive(Clone, Debug)]
pub(crate) enum Seat {
    /// Nobody, or nobody that we know of.
    Vacant,
    Ours(Hosted),
    Theirs(Arc<str>),
}

/// A partition of this process.
#[derive(Clone)]
pub(crate) struct Hosted {
    pub sequencer: Sequencer,
    pub origin: Origin,
}

impl std::fmt::Debug for Hosted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.origin.fmt(f)
    }
}

impl Seats {
    pub fn new(partitions: u32) -> Seats {
        Seats((0..partitions.max(1)).map(|_| ArcSwap::from_pointee(Seat::Vacant)).collect())
    }

    /// The only partition is here.
    pub fn single(hosted: Hosted) -> Seats {
        let seats = Seats::new(1);
        seats.set(hosted.origin.partition, Seat::Ours(hosted));
        seats
    }

    pub fn count(&self) -> u32 {
        self.0.len() as u32
    }

    pub fn partition_of(&self, stream: &StreamKey) -> PartitionId {
        PartitionId::of(stream, self.count())
    }

    pub fn set(&self, partition: PartitionId, seat: Seat) {
        if let Some(at) = self.0.get(partition.0 as usize) {
            at.store(Arc::new(seat));
        }
    }

    pub fn seat(&self, partition: PartitionId) -> Seat {
        self.0.get(partition.0 as usize).map_or(Seat::Vacant, |at| Seat::clone(&at.load()))
    }

    pub fn hosted(&self, partition: PartitionId) -> Option<Hosted> {
        match self.seat(partition) {
            Seat::Ours(hosted) => Some(hosted),
            Seat::Vacant | Seat::Theirs(_) => None,
        }
    }

    pub fn all_hosted(&self) -> Vec<Hosted> {
        (0..self.count()).filter_map(|partition| self.hosted(PartitionId(partition))).collect()
    }
}
