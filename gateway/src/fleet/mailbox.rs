//! A shard's mailbox: one queue in, the hub's queue out, and the agreement about sleeping.
//!
//! The agreement (Dekker's): the shard says that it sleeps, then looks once more at its queue; a sender queues, then looks
//! whether the shard sleeps. Both sides are sequentially consistent, so at least one sees the other, and nothing is left in
//! the queue of a sleeping shard without a ring of its doorbell.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};

use crossbeam_channel::Receiver;
use tidegate_gateway_core::messages::ToHub;
use tidegate_gateway_core::shard::{Mailbox, ShardInput};

use super::HubInbox;

/// The shard's end.
pub struct QueueMailbox<I> {
    pub queue: Receiver<ShardInput<I>>,
    pub promotions: Arc<AtomicUsize>,
    pub sleeping: Arc<AtomicBool>,
    pub hub: HubInbox,
    /// `Stop` was taken: what is left to do is to see the last sockets closed, and nothing would wake a shard for that if
    /// there are none.
    pub stopping: bool,
}

impl<I> Mailbox<I> for QueueMailbox<I> {
    fn next(&mut self) -> Option<ShardInput<I>> {
        let input = self.queue.try_recv().ok()?;
        match input {
            ShardInput::Promote(_) => {
                self.promotions.fetch_sub(1, Ordering::Relaxed);
            }
            ShardInput::Stop => self.stopping = true,
            ShardInput::Hub(_) | ShardInput::Drain { .. } => {}
        }
        Some(input)
    }

    fn to_hub(&mut self, item: ToHub) {
        self.hub.send(item);
    }

    fn may_sleep(&mut self) -> bool {
        if self.stopping {
            return false;
        }
        self.sleeping.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if self.queue.is_empty() {
            return true;
        }
        self.awake();
        false
    }

    fn awake(&mut self) {
        self.sleeping.store(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::fleet::hub_queue;

    /// Two senders against a shard that sleeps whenever it may. A lost wake-up shows as a sleep without end.
    #[test]
    fn no_item_is_left_with_a_sleeping_shard() {
        const ITEMS: u32 = 20_000;
        let (to, from) = crossbeam_channel::unbounded();
        let (bell, rung) = crossbeam_channel::bounded::<()>(1);
        let sleeping = Arc::new(AtomicBool::new(false));
        let (hub, _outlet) = hub_queue();
        let mut mailbox: QueueMailbox<()> = QueueMailbox {
            queue: from,
            promotions: Arc::default(),
            sleeping: Arc::clone(&sleeping),
            hub,
            stopping: false,
        };
        let senders: Vec<_> = (0..2)
            .map(|_| {
                let (to, bell, sleeping) = (to.clone(), bell.clone(), Arc::clone(&sleeping));
                thread::spawn(move || {
                    for over_ms in 0..ITEMS {
                        to.send(ShardInput::Drain { over_ms }).expect("the shard lives");
                        fence(Ordering::SeqCst);
                        if sleeping.swap(false, Ordering::SeqCst) {
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
