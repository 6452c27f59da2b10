//! A shard's mailbox: one queue in, the hub's queue out, and the agreement about sleeping.

use std::sync::Arc;

use crossbeam_channel::Receiver;
use tidegate_gateway_core::messages::ToHub;
use tidegate_gateway_core::shard::{Mailbox, ShardInput};
use tidegate_gateway_threads::{Bound, Sleep};

use super::HubInbox;

/// The shard's end.
pub struct QueueMailbox<I> {
    pub queue: Receiver<ShardInput<I>>,
    pub promotions: Arc<Bound>,
    /// Promotions that were taken. Their reservations are given back when the shard comes again, because by then it counts
    /// them among its connections: a connection that nobody counted would make room for one too many.
    pub taken: usize,
    pub sleep: Arc<Sleep>,
    pub hub: HubInbox,
    /// `Stop` was taken: what is left to do is to see the last sockets closed, and nothing would wake a shard for that if
    /// there are none.
    pub stopping: bool,
}

impl<I> Mailbox<I> for QueueMailbox<I> {
    fn next(&mut self) -> Option<ShardInput<I>> {
        self.settle();
        let input = self.queue.try_recv().ok()?;
        match input {
            ShardInput::Promote(_) => self.taken += 1,
            ShardInput::Stop => self.stopping = true,
            ShardInput::Hub(_) | ShardInput::Drain { .. } | ShardInput::Ring(_) | ShardInput::Loads(_) => {}
        }
        Some(input)
    }

    fn to_hub(&mut self, item: ToHub) {
        self.hub.send(item);
    }

    fn may_sleep(&mut self) -> bool {
        self.settle();
        !self.stopping && self.sleep.begin(|| self.queue.is_empty())
    }

    fn awake(&mut self) {
        self.sleep.end();
    }
}

impl<I> QueueMailbox<I> {
    fn settle(&mut self) {
        let taken = std::mem::take(&mut self.taken);
        if taken > 0 {
            self.promotions.give_back(taken);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;
    use tidegate_gateway_core::shard::{Promoted, Promotion};

    use crate::fleet::hub_queue;

    /// Whoever compares the number of connections with its limit between these calls must find the connection.
    #[test]
    fn a_promotion_counts_as_on_its_way_until_the_shard_has_dealt_with_it() {
        let (to, from) = crossbeam_channel::unbounded();
        let promotions = Arc::new(Bound::new(2));
        let (hub, _outlet) = hub_queue();
        let mut mailbox = QueueMailbox {
            queue: from,
            promotions: Arc::clone(&promotions),
            taken: 0,
            sleep: Arc::default(),
            hub,
            stopping: false,
        };
        for _ in 0..2 {
            assert!(promotions.take(1));
            let session = Promoted::Echo { params: None };
            to.send(ShardInput::Promote(Promotion { socket: (), early: Vec::new(), session }))
                .expect("the shard lives");
        }
        for on_their_way in [2, 1] {
            assert!(mailbox.next().is_some());
            assert_eq!(promotions.held(), on_their_way);
        }
        assert!(mailbox.next().is_none());
        assert_eq!(promotions.held(), 0);
    }

    /// Two senders against a shard that sleeps whenever it may. A lost wake-up shows as a sleep without end.
    #[test]
    fn no_item_is_left_with_a_sleeping_shard() {
        const ITEMS: u32 = 20_000;
        let (to, from) = crossbeam_channel::unbounded();
        let (bell, rung) = crossbeam_channel::bounded::<()>(1);
        let sleep = Arc::new(Sleep::default());
        let (hub, _outlet) = hub_queue();
        let mut mailbox: QueueMailbox<()> = QueueMailbox {
            queue: from,
            promotions: Arc::new(Bound::new(0)),
            taken: 0,
            sleep: Arc::clone(&sleep),
            hub,
            stopping: false,
        };
        let senders: Vec<_> = (0..2)
            .map(|_| {
                let (to, bell, sleep) = (to.clone(), bell.clone(), Arc::clone(&sleep));
                thread::spawn(move || {
                    for over_ms in 0..ITEMS {
                        to.send(ShardInput::Drain { over_ms }).expect("the shard lives");
                        if sleep.interrupt() {
                            let _ = bell.try_send(());
                        }
                    }
                })
            })
            .collect();
        let mut taken = 0;
        while taken < 2 * ITEMS {
            while mailbox.next().is_some() {
                taken += 1;
            }
            if taken < 2 * ITEMS && mailbox.may_sleep() {
                rung.recv_timeout(Duration::from_secs(20)).expect("somebody rings for what is queued");
                mailbox.awake();
            }
        }
        senders.into_iter().for_each(|sender| sender.join().expect("sender"));
    }
}
