//! Heads, callers' keys and cursors.

use super::fixtures::{EPOCH, OWNER, head, query, run, stream, uid};
use super::{CacheFactory, write};
use crate::domain::{Epoch, Fingerprint, MessageId, OwnerEpoch, Seq};
use crate::ports::DedupHit;
use crate::ports::cache::{Cache, CursorKey, Fact, Queued};

fn head_of<F: CacheFactory>(factory: &mut F, cache: &F::Cache, name: &str) -> Option<(Epoch, Seq)> {
    factory.wait(cache.heads(&[stream(name)])).remove(0)
}

pub fn heads_move_forward_only_within_an_epoch<F: CacheFactory>(factory: &mut F) {
    let cache = factory.open();
    write(factory, &cache, vec![head("g:go", EPOCH, 7, OWNER), head("u:ann", EPOCH, 1, OWNER)]);
    write(factory, &cache, vec![head("g:go", EPOCH, 6, OWNER)]);
    let streams = [stream("g:go"), stream("g:none"), stream("u:ann"), stream("c:ann:bob")];
    let heads = factory.wait(cache.heads(&streams));
    assert_eq!(heads, [Some((EPOCH, Seq(7))), None, Some((EPOCH, Seq(1))), None]);
    write(factory, &cache, vec![head("g:go", EPOCH, 1 << 52, OWNER)]);
    assert_eq!(head_of(factory, &cache, "g:go"), Some((EPOCH, Seq(1 << 52))));
    write(factory, &cache, vec![head("g:go", Epoch(u64::MAX), 1, OWNER)]);
    assert_eq!(head_of(factory, &cache, "g:go"), Some((Epoch(u64::MAX), Seq(1))), "begun anew");
}

pub fn an_older_owner_writes_nothing<F: CacheFactory>(factory: &mut F) {
    let cache = factory.open();
    let (older, newer) = (OwnerEpoch(OWNER.0 - 1), OwnerEpoch(OWNER.0 + 100));
    let cursor = |owner, seq| {
        let key = CursorKey { uid: uid("ann"), device: "d".into(), stream: stream("g:go") };
        Fact::Cursor { key, epoch: EPOCH, seq: Seq(seq), owner }
    };
    write(factory, &cache, vec![head("g:go", EPOCH, 7, OWNER), cursor(OWNER, 7)]);
    write(factory, &cache, vec![head("g:go", EPOCH, 9, older), head("g:go", Epoch(1), 9, older), cursor(older, 9)]);
    assert_eq!(head_of(factory, &cache, "g:go"), Some((EPOCH, Seq(7))));
    let Fact::Cursor { key, .. } = cursor(OWNER, 0) else { return };
    let keys = [key];
    assert_eq!(factory.wait(cache.cursors(&keys)), [Some((EPOCH, Seq(7)))]);
    // A newer owner that says nothing new shuts out the older one all the same.
    write(factory, &cache, vec![head("g:go", EPOCH, 7, newer), head("g:go", EPOCH, 8, OWNER)]);
    assert_eq!(head_of(factory, &cache, "g:go"), Some((EPOCH, Seq(7))));
}

pub fn a_forgotten_stream_is_not_known<F: CacheFactory>(factory: &mut F) {
    let cache = factory.open();
    let facts =
        |name: &str| vec![head(name, EPOCH, 3, OWNER), Fact::Hot(run(name, 1..=3)), Fact::Queue(run(name, 1..=3))];
    write(factory, &cache, [facts("u:ann"), facts("u:bob")].concat());
    write(factory, &cache, vec![Fact::Forget(stream("u:ann"))]);
    let places = [query("u:ann", 0, 10), query("u:bob", 0, 10)];
    assert_eq!(head_of(factory, &cache, "u:ann"), None);
    assert_eq!(head_of(factory, &cache, "u:bob"), Some((EPOCH, Seq(3))));
    let hot = factory.wait(cache.hot(&places));
    assert!(hot[0].is_none() && hot[1].as_ref().is_some_and(|entries| entries.len() == 3));
    let queued = factory.wait(cache.queued(&places));
    assert!(queued[0] == Queued::Unknown && matches!(&queued[1], Queued::Covers { upto: Seq(3), .. }));
}

fn hit(seq: u64) -> DedupHit {
    DedupHit { epoch: EPOCH, seq: Seq(seq), id: MessageId(u64::MAX - seq), fingerprint: Fingerprint(u64::MAX) }
}

pub fn dedup_keys_are_found<F: CacheFactory>(factory: &mut F) {
    let cache = factory.open();
    let key = |n: u8| [n; 16];
    let facts = (0..100).map(|n| Fact::Dedup { key: key(n), hit: hit(u64::from(n)), owner: OWNER });
    write(factory, &cache, facts.collect());
    write(factory, &cache, vec![Fact::Dedup { key: key(7), hit: hit(1), owner: OwnerEpoch(OWNER.0 - 1) }]);
    let asked: Vec<[u8; 16]> = [7, 200, 0, 99, 7, b'\n'].into_iter().map(key).collect();
    let found = factory.wait(cache.dedup(&asked));
    assert_eq!(found, [Some(hit(7)), None, Some(hit(0)), Some(hit(99)), Some(hit(7)), Some(hit(10))]);
    assert_eq!(factory.wait(cache.dedup(&[])), []);
}

pub fn cursors_are_per_device_and_stream<F: CacheFactory>(factory: &mut F) {
    let cache = factory.open();
    let key = |device: &str, name: &str| CursorKey { uid: uid("ann"), device: device.into(), stream: stream(name) };
    let strange = "a:b\r\n{c} ä";
    let at = |device: &str, name: &str, seq| Fact::Cursor {
        key: key(device, name),
        epoch: EPOCH,
        seq: Seq(seq),
        owner: OWNER,
    };
    write(factory, &cache, vec![at("phone", "g:go", 5), at("phone", "u:ann", 2), at(strange, "g:go", 9)]);
    write(factory, &cache, vec![at("phone", "g:go", 4)]);
    let keys = [key("phone", "g:go"), key("laptop", "g:go"), key("phone", "u:ann"), key(strange, "g:go")];
    let place = |seq| Some((EPOCH, Seq(seq)));
    assert_eq!(factory.wait(cache.cursors(&keys)), [place(5), None, place(2), place(9)]);
}

pub fn a_flush_is_a_miss<F: CacheFactory>(factory: &mut F) {
    let cache = factory.open();
    let key = CursorKey { uid: uid("ann"), device: "d".into(), stream: stream("u:ann") };
    let facts = || {
        vec![
            head("u:ann", EPOCH, 3, OWNER),
            Fact::Hot(run("u:ann", 1..=3)),
            Fact::Queue(run("u:ann", 1..=3)),
            Fact::Dedup { key: [1; 16], hit: hit(1), owner: OWNER },
            Fact::Cursor { key: key.clone(), epoch: EPOCH, seq: Seq(1), owner: OWNER },
        ]
    };
    write(factory, &cache, facts());
    factory.flush(&cache);
    let (place, keys) = ([query("u:ann", 0, 10)], [key.clone()]);
    assert_eq!(head_of(factory, &cache, "u:ann"), None);
    assert_eq!(factory.wait(cache.hot(&place)), [None]);
    assert_eq!(factory.wait(cache.queued(&place)), [Queued::Unknown]);
    assert_eq!(factory.wait(cache.dedup(&[[1; 16]])), [None]);
    assert_eq!(factory.wait(cache.cursors(&keys)), [None]);
    write(factory, &cache, facts());
    assert_eq!(head_of(factory, &cache, "u:ann"), Some((EPOCH, Seq(3))), "it fills again");
    assert!(matches!(factory.wait(cache.queued(&place))[0], Queued::Covers { upto: Seq(3), .. }));
}

pub fn two_nodes_see_the_same<F: CacheFactory>(factory: &mut F) {
    let cache = factory.open();
    let other = factory.beside(&cache);
    write(factory, &cache, vec![head("g:go", EPOCH, 7, OWNER)]);
    write(factory, &other, vec![head("g:go", EPOCH, 8, OWNER)]);
    assert_eq!(head_of(factory, &cache, "g:go"), Some((EPOCH, Seq(8))));
    assert_eq!(head_of(factory, &other, "g:go"), Some((EPOCH, Seq(8))));
}
