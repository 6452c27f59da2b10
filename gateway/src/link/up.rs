//! What goes up to control, gathered into batches, a queue for each partition.
//!
//! The hub thread pushes values as they come and calls [`UpQueues::flush`] once per turn. Without an attachment values are
//! dropped: the hub announces its whole interest to the next one. A control that does not read makes the queue grow; past
//! its bound the attachment counts as broken.

use std::collections::VecDeque;
use std::future::Future as _;
use std::task::{Context, Poll};

use prost::Message as _;
use tidegate_gateway_core::link::{PartitionId, ToLink};
use tidegate_proto::v1;
use tokio::sync::mpsc;

use super::convert::to_wire;

/// Items in one message up.
const BATCH_ITEMS_MAX: usize = 512;
/// Encoded bytes after which a message up is closed; far below the 4 MB that gRPC servers accept by default.
const BATCH_BYTES_MAX: usize = 256 * 1024;
/// Items that wait while control does not read. More, and the attachment is given up.
pub const BACKLOG_ITEMS_MAX: usize = 1 << 20;

/// The ways up to all partitions.
#[derive(Debug, Default)]
pub struct UpQueues {
    queues: Vec<UpQueue>,
    /// Those that may have something to send.
    waiting: Vec<PartitionId>,
}

impl UpQueues {
    pub fn open(&mut self, partition: PartitionId, to: mpsc::Sender<v1::LinkUp>) {
        let at = partition.0 as usize;
        if self.queues.len() <= at {
            self.queues.resize_with(at + 1, UpQueue::default);
        }
        self.queues[at].open(to);
    }

    pub fn close(&mut self, partition: PartitionId) {
        if let Some(queue) = self.queues.get_mut(partition.0 as usize) {
            queue.close();
        }
    }

    pub fn push(&mut self, partition: PartitionId, value: ToLink) {
        let Some(queue) = self.queues.get_mut(partition.0 as usize) else { return };
        if queue.len() == 0 && !self.waiting.contains(&partition) {
            self.waiting.push(partition);
        }
        queue.push(value);
    }

    /// Sends what waits, as far as there is room. `broken`: called for those whose attachment is gone or does not read.
    pub fn flush(&mut self, mut broken: impl FnMut(PartitionId)) -> Flushed {
        let queues = &mut self.queues;
        self.waiting.retain(|partition| match queues[partition.0 as usize].flush() {
            Flushed::All => false,
            Flushed::Behind => true,
            Flushed::Broken => {
                broken(*partition);
                false
            }
        });
        if self.waiting.is_empty() { Flushed::All } else { Flushed::Behind }
    }

    /// Waits until a flush that was behind can go on.
    pub async fn writable(&self) {
        let mut waits: Vec<_> = self.waiting.iter().map(|at| Box::pin(self.queues[at.0 as usize].writable())).collect();
        let any = |context: &mut Context<'_>| {
            let ready = waits.iter_mut().any(|wait| wait.as_mut().poll(context).is_ready());
            if ready { Poll::Ready(()) } else { Poll::Pending }
        };
        std::future::poll_fn(any).await;
    }

    /// Items that wait.
    pub fn len(&self) -> usize {
        self.waiting.iter().map(|at| self.queues[at.0 as usize].len()).sum()
    }
}

/// The way up to one partition, or none.
#[derive(Debug, Default)]
pub struct UpQueue {
    to: Option<mpsc::Sender<v1::LinkUp>>,
    fresh: Vec<v1::LinkUpItem>,
    backlog: VecDeque<v1::LinkUpItem>,
}

/// What a flush found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushed {
    All,
    /// The network is behind: flush again when [`UpQueue::writable`] returns.
    Behind,
    /// The attachment is gone or does not read. The queue is empty and closed.
    Broken,
}

impl UpQueue {
    /// A new attachment begins; nothing older goes to it.
    pub fn open(&mut self, to: mpsc::Sender<v1::LinkUp>) {
        self.close();
        self.to = Some(to);
    }

    /// The attachment ended.
    pub fn close(&mut self) {
        self.to = None;
        self.fresh.clear();
        self.backlog.clear();
    }

    pub fn push(&mut self, value: ToLink) {
        if self.to.is_some() {
            to_wire(value, &mut self.fresh);
        }
    }

    /// Sends what waits, as far as there is room.
    pub fn flush(&mut self) -> Flushed {
        self.backlog.extend(self.fresh.drain(..));
        let Some(to) = &self.to else { return Flushed::All };
        while !self.backlog.is_empty() {
            match to.try_reserve() {
                Ok(permit) => permit.send(take_batch(&mut self.backlog)),
                Err(mpsc::error::TrySendError::Full(())) if self.backlog.len() <= BACKLOG_ITEMS_MAX => {
                    return Flushed::Behind;
                }
                Err(_) => break,
            }
        }
        if self.backlog.is_empty() {
            return Flushed::All;
        }
        self.close();
        Flushed::Broken
    }

    /// Waits until a flush that was behind can go on.
    pub async fn writable(&self) {
        match &self.to {
            // An error means that the attachment is gone, which the next flush finds out.
            Some(to) => drop(to.reserve().await),
            None => std::future::pending().await,
        }
    }

    pub fn len(&self) -> usize {
        self.backlog.len() + self.fresh.len()
    }
}

fn take_batch(backlog: &mut VecDeque<v1::LinkUpItem>) -> v1::LinkUp {
    let mut items = Vec::new();
    let mut bytes = 0;
    while items.len() < BATCH_ITEMS_MAX && bytes < BATCH_BYTES_MAX {
        let Some(item) = backlog.pop_front() else { break };
        bytes += item.encoded_len();
        items.push(item);
    }
    v1::LinkUp { items }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credits(queue: &mut UpQueue, count: u64) {
        (0..count).for_each(|bytes| queue.push(ToLink::Credit { bytes }));
    }

    #[test]
    fn everything_of_a_turn_travels_together_in_order() {
        let (to, mut from) = mpsc::channel(4);
        let mut queue = UpQueue::default();
        credits(&mut queue, 3);
        assert_eq!((queue.len(), queue.flush()), (0, Flushed::All), "without an attachment values are dropped");
        queue.open(to);
        credits(&mut queue, BATCH_ITEMS_MAX as u64 + 1);
        assert_eq!(queue.flush(), Flushed::All);
        let sizes: Vec<usize> = std::iter::from_fn(|| from.try_recv().ok()).map(|batch| batch.items.len()).collect();
        assert_eq!(sizes, [BATCH_ITEMS_MAX, 1]);
    }

    #[tokio::test]
    async fn a_partition_that_is_behind_keeps_no_other_waiting() {
        let mut queues = UpQueues::default();
        let ((slow, mut from_slow), (quick, mut from_quick)) = (mpsc::channel(1), mpsc::channel(1));
        queues.open(PartitionId(3), slow);
        queues.open(PartitionId(1), quick);
        queues.push(PartitionId(0), ToLink::Credit { bytes: 1 });
        for _ in 0..=BATCH_ITEMS_MAX {
            queues.push(PartitionId(3), ToLink::Credit { bytes: 1 });
        }
        queues.push(PartitionId(1), ToLink::Credit { bytes: 1 });
        let broken = |partition| panic!("{partition:?} is broken");
        assert_eq!((queues.flush(broken), queues.len()), (Flushed::Behind, 1));
        assert_eq!(from_quick.try_recv().map(|batch| batch.items.len()), Ok(1));
        assert_eq!(from_slow.try_recv().map(|batch| batch.items.len()), Ok(BATCH_ITEMS_MAX));
        queues.writable().await;
        assert_eq!((queues.flush(broken), queues.len()), (Flushed::All, 0));
        drop(from_slow);
        queues.push(PartitionId(3), ToLink::Credit { bytes: 1 });
        let mut gone = Vec::new();
        assert_eq!(queues.flush(|partition| gone.push(partition)), Flushed::All);
        assert_eq!(gone, [PartitionId(3)]);
    }

    #[test]
    fn a_control_that_does_not_read_is_given_up() {
        let (to, _from) = mpsc::channel(1);
        let mut queue = UpQueue::default();
        queue.open(to);
        credits(&mut queue, BATCH_ITEMS_MAX as u64 + 1);
        assert_eq!(queue.flush(), Flushed::Behind);
        credits(&mut queue, BACKLOG_ITEMS_MAX as u64);
        assert_eq!(queue.flush(), Flushed::Broken);
        assert_eq!(queue.len(), 0);
    }
}
