//! Hot lists and short queues.

use super::fixtures::{EPOCH, MESSAGE_BYTES_MAX, OWNER, QUEUE_MAX, entries, query, run};
use super::{CacheFactory, write};
use crate::domain::{Epoch, OwnerEpoch, Seq};
use crate::ports::cache::{Cache, Entry, Fact, HOT_MESSAGES_MAX, OwnedRun, Queued, RunQuery};

fn hot<F: CacheFactory>(factory: &mut F, cache: &F::Cache, after: u64, limit: usize) -> Option<Vec<Entry>> {
    factory.wait(cache.hot(&[query("g:go", after, limit)])).remove(0)
}

fn queued<F: CacheFactory>(factory: &mut F, cache: &F::Cache, after: u64) -> Queued {
    factory.wait(cache.queued(&[query("u:ann", after, 1_000)])).remove(0)
}

fn covers(seqs: std::ops::RangeInclusive<u64>) -> Queued {
    Queued::Covers { upto: Seq(*seqs.end()), entries: entries(seqs) }
}

pub fn a_hot_list_keeps_the_newest<F: CacheFactory>(factory: &mut F) {
    let cache = factory.open();
    let most = HOT_MESSAGES_MAX as u64;
    write(factory, &cache, vec![Fact::Hot(run("g:go", 1..=3)), Fact::Hot(run("g:go", 4..=most + 10))]);
    assert_eq!(hot(factory, &cache, 10, 1_000), Some(entries(11..=most + 10)));
    assert_eq!(hot(factory, &cache, 9, 1_000), None, "it does not reach back that far");
    assert_eq!(hot(factory, &cache, most, 3), Some(entries(most + 1..=most + 3)));
}

pub fn a_hot_list_answers_only_what_it_has_whole<F: CacheFactory>(factory: &mut F) {
    let cache = factory.open();
    assert_eq!(hot(factory, &cache, 0, 10), None);
    write(factory, &cache, vec![Fact::Hot(run("g:go", 5..=6))]);
    assert_eq!(hot(factory, &cache, 4, 10), Some(entries(5..=6)));
    assert_eq!(hot(factory, &cache, 6, 10), Some(Vec::new()), "nothing newer");
    assert_eq!(hot(factory, &cache, 7, 10), None, "older than who asks");
    assert_eq!(hot(factory, &cache, 3, 10), None);
    // What would leave a hole begins the list anew.
    write(factory, &cache, vec![Fact::Hot(run("g:go", 9..=9))]);
    assert_eq!(hot(factory, &cache, 4, 10), None);
    assert_eq!(hot(factory, &cache, 8, 10), Some(entries(9..=9)));
}

pub fn what_is_written_twice_stands_once<F: CacheFactory>(factory: &mut F) {
    let cache = factory.open();
    // A new owner runs the batch again to the same places.
    let again = |name| OwnedRun { owner: OwnerEpoch(OWNER.0 + 1), ..run(name, 3..=6) };
    write(factory, &cache, vec![Fact::Hot(run("g:go", 1..=5)), Fact::Hot(again("g:go"))]);
    write(factory, &cache, vec![Fact::Queue(run("u:ann", 1..=5)), Fact::Queue(again("u:ann"))]);
    assert_eq!(hot(factory, &cache, 0, 100), Some(entries(1..=6)));
    assert_eq!(queued(factory, &cache, 0), covers(1..=6));
    write(factory, &cache, vec![Fact::Queue(OwnedRun { owner: OwnerEpoch(OWNER.0 + 1), ..run("u:ann", 2..=3) })]);
    assert_eq!(queued(factory, &cache, 0), covers(1..=6));
}

pub fn a_queue_covers_from_where_it_reaches_back_to<F: CacheFactory>(factory: &mut F) {
    let cache = factory.open();
    assert_eq!(queued(factory, &cache, 0), Queued::Unknown);
    write(factory, &cache, vec![Fact::Queue(run("u:ann", 4..=5)), Fact::Queue(run("u:ann", 6..=7))]);
    assert_eq!(queued(factory, &cache, 3), covers(4..=7));
    assert_eq!(queued(factory, &cache, 5), covers(6..=7));
    assert_eq!(queued(factory, &cache, 7), Queued::Covers { upto: Seq(7), entries: Vec::new() });
    assert_eq!(queued(factory, &cache, 8), Queued::Unknown, "older than who asks");
    assert_eq!(queued(factory, &cache, 2), Queued::Trimmed { oldest: Seq(4) });
    let other = RunQuery { epoch: Epoch(1), ..query("u:ann", 3, 10) };
    assert_eq!(factory.wait(cache.queued(&[other, query("u:bob", 3, 10)])), [Queued::Unknown, Queued::Unknown]);
}

pub fn a_queue_that_was_trimmed_says_so<F: CacheFactory>(factory: &mut F) {
    let cache = factory.open();
    let last = QUEUE_MAX + 5;
    write(factory, &cache, (1..=last).map(|seq| Fact::Queue(run("u:ann", [seq]))).collect());
    assert_eq!(queued(factory, &cache, 4), Queued::Trimmed { oldest: Seq(6) });
    assert_eq!(queued(factory, &cache, 5), covers(6..=last));
    // More at once than is kept.
    write(factory, &cache, vec![Fact::Queue(run("u:ann", last + 1..=last + 2 * QUEUE_MAX))]);
    assert_eq!(queued(factory, &cache, last), Queued::Trimmed { oldest: Seq(last + QUEUE_MAX + 1) });
}

pub fn a_queue_pages<F: CacheFactory>(factory: &mut F) {
    let cache = factory.open();
    write(factory, &cache, vec![Fact::Queue(run("u:ann", 1..=10))]);
    let mut page = |after| factory.wait(cache.queued(&[query("u:ann", after, 4)])).remove(0);
    assert_eq!((page(0), page(4), page(8)), (covers(1..=4), covers(5..=8), covers(9..=10)));
}

pub fn a_queue_begins_anew_after_a_hole<F: CacheFactory>(factory: &mut F) {
    let cache = factory.open();
    write(factory, &cache, vec![Fact::Queue(run("u:ann", 1..=3)), Fact::Queue(run("u:ann", 5..=6))]);
    assert_eq!(queued(factory, &cache, 2), Queued::Trimmed { oldest: Seq(5) });
    assert_eq!(queued(factory, &cache, 4), covers(5..=6));
}

pub fn a_large_message_is_not_kept_and_leaves_no_hole<F: CacheFactory>(factory: &mut F) {
    let cache = factory.open();
    let large = |name| {
        let mut run = run(name, 3..=4);
        run.entries[0].bytes = vec![b'x'; MESSAGE_BYTES_MAX + 1].into();
        run
    };
    write(factory, &cache, vec![Fact::Hot(run("g:go", 1..=2)), Fact::Hot(large("g:go"))]);
    write(factory, &cache, vec![Fact::Queue(run("u:ann", 1..=2)), Fact::Queue(large("u:ann"))]);
    assert_eq!((hot(factory, &cache, 2, 10), hot(factory, &cache, 3, 10)), (None, Some(entries(4..=4))));
    assert_eq!(queued(factory, &cache, 2), Queued::Trimmed { oldest: Seq(4) });
    // Nothing at all is better than what ends before the head.
    let mut alone = run("u:ann", 5..=5);
    alone.entries[0].bytes = vec![b'x'; MESSAGE_BYTES_MAX + 1].into();
    write(factory, &cache, vec![Fact::Queue(alone)]);
    assert_eq!(queued(factory, &cache, 4), Queued::Unknown);
}

pub fn runs_of_an_older_epoch_or_owner_do_not_come_back<F: CacheFactory>(factory: &mut F) {
    let cache = factory.open();
    let older =
        |name, seqs: std::ops::RangeInclusive<u64>| OwnedRun { owner: OwnerEpoch(OWNER.0 - 1), ..run(name, seqs) };
    let anew = |name| OwnedRun { epoch: Epoch(99), ..run(name, 1..=2) };
    write(factory, &cache, vec![Fact::Hot(run("g:go", 1..=3)), Fact::Queue(run("u:ann", 1..=3))]);
    write(factory, &cache, vec![Fact::Hot(older("g:go", 4..=5)), Fact::Queue(older("u:ann", 4..=5))]);
    assert_eq!(hot(factory, &cache, 0, 10), Some(entries(1..=3)));
    assert_eq!(queued(factory, &cache, 0), covers(1..=3));
    write(factory, &cache, vec![Fact::Hot(anew("g:go")), Fact::Queue(anew("u:ann"))]);
    assert_eq!((hot(factory, &cache, 0, 10), queued(factory, &cache, 0)), (None, Queued::Unknown));
    let place = |name| [RunQuery { epoch: Epoch(99), ..query(name, 0, 10) }];
    assert_eq!(factory.wait(cache.hot(&place("g:go"))), [Some(entries(1..=2))]);
    assert_eq!(factory.wait(cache.queued(&place("u:ann"))), [covers(1..=2)]);
    assert_ne!(EPOCH, Epoch(99));
}
