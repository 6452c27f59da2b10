//! Every order in which the threads can run, and every value that a relaxed load may see (loom). Compiled to nothing
//! without `--cfg loom`; `cargo xtask test` builds it so.
#![cfg(loom)]

use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use tidegate_gateway_threads::{Bell, Bound, Signal, Sleep, Wait};

/// An eventfd: a counter behind the kernel's lock.
#[derive(Default)]
struct EventFd {
    count: Mutex<u64>,
    readable: Condvar,
}

impl Signal for EventFd {
    fn raise(&self) {
        *self.count.lock().unwrap() += 1;
        self.readable.notify_one();
    }
}

impl Wait for EventFd {
    fn lower(&self) {
        *self.count.lock().unwrap() = 0;
    }

    /// A ring that never comes shows as a deadlock, which loom reports.
    fn wait(&self, _: Option<std::time::Duration>) {
        let mut count = self.count.lock().unwrap();
        while *count == 0 {
            count = self.readable.wait(count).unwrap();
        }
    }
}

/// As little order as a queue gives: what was pushed is seen once its count is, and no sooner.
#[derive(Default)]
struct Queue(AtomicUsize);

impl Queue {
    fn push(&self) {
        self.0.fetch_add(1, Ordering::Release);
    }

    fn pushed(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }
}

/// A shard as other threads see it.
struct Shard {
    queue: Queue,
    sleep: Sleep,
    bell: Bell<EventFd>,
}

impl Shard {
    fn new() -> Arc<Shard> {
        let bell = Bell::new(EventFd::default());
        Arc::new(Shard { queue: Queue::default(), sleep: Sleep::default(), bell })
    }

    fn post(&self) {
        self.queue.push();
        if self.sleep.interrupt() {
            self.bell.ring();
        }
    }

    /// Takes `items`, asleep whenever it may be.
    fn run(&self, items: usize) {
        loop {
            let taken = self.queue.pushed();
            if taken == items {
                return;
            }
            if self.sleep.begin(|| self.queue.pushed() == taken) {
                await_answer(&self.bell);
                self.sleep.end();
            }
            thread::yield_now();
        }
    }
}

fn await_answer(bell: &Bell<EventFd>) {
    while !bell.answer() {
        bell.sleep(None, || false);
        // To loom: the next look sees something newer. A processor's relaxed load does not stay behind for ever either.
        thread::yield_now();
    }
}

/// Bounded where the whole space is out of reach: so many times a thread is interrupted where it would have gone on.
fn explore(preemptions: Option<usize>, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.check(model);
}

#[test]
fn nothing_is_left_in_the_queue_of_a_sleeping_shard() {
    explore(None, || {
        let shard = Shard::new();
        let sender = Arc::clone(&shard);
        let sender = thread::spawn(move || sender.post());
        shard.run(1);
        sender.join().unwrap();
    });
}

#[test]
fn two_senders_wake_it_between_them() {
    explore(Some(3), || {
        let shard = Shard::new();
        let senders = [Arc::clone(&shard), Arc::clone(&shard)].map(|sender| thread::spawn(move || sender.post()));
        shard.run(2);
        senders.into_iter().for_each(|sender| sender.join().unwrap());
    });
}

#[test]
fn two_items_of_one_sender_find_it_awake_or_wake_it() {
    explore(Some(4), || {
        let shard = Shard::new();
        let sender = Arc::clone(&shard);
        let sender = thread::spawn(move || (0..2).for_each(|_| sender.post()));
        shard.run(2);
        sender.join().unwrap();
    });
}

/// What the rings of a thread with several io_urings sleep by.
#[test]
fn what_was_written_before_a_ring_is_seen_after_its_answer() {
    explore(Some(3), || {
        let bell = Arc::new(Bell::new(EventFd::default()));
        let written = Arc::new([AtomicBool::new(false), AtomicBool::new(false)]);
        let ringers: Vec<_> = (0..2)
            .map(|number| {
                let (bell, written) = (Arc::clone(&bell), Arc::clone(&written));
                thread::spawn(move || {
                    written[number].store(true, Ordering::Relaxed);
                    bell.ring();
                })
            })
            .collect();
        // Both writes come to light by answered rings alone, however the rings fall together: otherwise it waits for ever.
        while !written.iter().all(|written| written.load(Ordering::Relaxed)) {
            await_answer(&bell);
        }
        ringers.into_iter().for_each(|ringer| ringer.join().unwrap());
    });
}

/// What a thread with one io_uring does: its ring polls the descriptor, and is lowered, then the bell is answered.
#[test]
fn a_signal_that_is_lowered_before_the_answer_loses_no_ring() {
    explore(None, || {
        let bell = Arc::new(Bell::new(EventFd::default()));
        let queue = Arc::new(Queue::default());
        let ringer = {
            let (bell, queue) = (Arc::clone(&bell), Arc::clone(&queue));
            thread::spawn(move || {
                for _ in 0..2 {
                    queue.push();
                    bell.ring();
                }
            })
        };
        let mut seen = 0;
        while seen < 2 {
            bell.signal().wait(None);
            bell.signal().lower();
            if bell.answer() {
                seen = queue.pushed();
            }
            thread::yield_now();
        }
        ringer.join().unwrap();
    });
}

#[test]
fn never_more_is_held_than_the_bound() {
    explore(None, || {
        let (bound, held) = (Arc::new(Bound::new(2)), Arc::new(AtomicUsize::new(0)));
        let takers = [1, 2].map(|amount| {
            let (bound, held) = (Arc::clone(&bound), Arc::clone(&held));
            thread::spawn(move || {
                if bound.take(amount) {
                    assert!(held.fetch_add(amount, Ordering::Relaxed) + amount <= 2);
                    held.fetch_sub(amount, Ordering::Relaxed);
                    bound.give_back(amount);
                }
            })
        });
        takers.into_iter().for_each(|taker| taker.join().unwrap());
        assert_eq!(bound.held(), 0);
        assert!(bound.take(2) && !bound.take(1));
    });
}

/// A promotion: the shard counts the connection as established, then gives its reservation back.
#[test]
fn what_moves_from_one_count_to_another_is_seen_in_one_of_them() {
    explore(None, || {
        let (under_way, established) = (Arc::new(Bound::new(2)), Arc::new(AtomicUsize::new(0)));
        assert!(under_way.take(1));
        let shard = {
            let (under_way, established) = (Arc::clone(&under_way), Arc::clone(&established));
            thread::spawn(move || {
                established.store(1, Ordering::Relaxed);
                under_way.give_back(1);
            })
        };
        // Another reservation between: the order holds over it, too.
        let taken = under_way.take(1);
        let others = under_way.held() - usize::from(taken);
        assert!(others + established.load(Ordering::Relaxed) >= 1);
        shard.join().unwrap();
    });
}
