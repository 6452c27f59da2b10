use std::time::UNIX_EPOCH;

use futures_util::future::join_all;
use tidegate_registry::{RegistryError, WorkerIds};

use crate::site::{KEPT, SHORT, Site, in_time, until};

fn now_ms() -> u64 {
    u64::try_from(UNIX_EPOCH.elapsed().expect("a clock after 1970").as_millis()).expect("not yet")
}

pub async fn ids_are_unique(site: &Site) {
    let nodes = (0..6).map(|node| {
        let ids = WorkerIds::new(&site.other(), &site.names).with_count(6);
        async move { ids.lease(&format!("node {node}"), KEPT).await.expect("one for each") }
    });
    let leased = join_all(nodes).await;
    let mut numbers: Vec<u16> = leased.iter().map(|worker| worker.id()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [0, 1, 2, 3, 4, 5]);
    for worker in &leased {
        assert!(worker.is_alive() && worker.covers(now_ms()) && !worker.covers(worker.not_before_ms()));
    }
    let none_left = WorkerIds::new(&site.registry, &site.names).with_count(6).lease("late", KEPT).await;
    assert!(matches!(none_left, Err(RegistryError::NoWorkerId)), "{none_left:?}");
}

pub async fn what_was_lost_cools_down(site: &Site) {
    let ids = WorkerIds::new(&site.registry, &site.names).with_count(1);
    let mut dead = ids.lease("dead", SHORT).await.expect("the only one");
    // As far as it may go.
    let mut last_used = now_ms();
    while dead.covers(last_used + 1) {
        last_used += 1;
    }
    dead.abandon();
    let next = until("the next one's turn", async || match ids.lease("next", SHORT).await {
        Ok(worker) => Some(worker),
        Err(RegistryError::NoWorkerId) => None,
        Err(error) => panic!("{error:?}"),
    });
    let next = next.await;
    assert!(!dead.is_alive(), "two holders at once");
    in_time("the loss is told", dead.lost()).await;
    assert!(next.not_before_ms() >= last_used && now_ms() > last_used);
    assert!(next.covers(now_ms()) && !next.covers(last_used));
}

pub async fn a_released_id_is_free_at_once(site: &Site) {
    let ids = WorkerIds::new(&site.registry, &site.names).with_count(1);
    for node in 0..3 {
        let worker = ids.lease(&node.to_string(), KEPT).await.expect("the only one");
        let last_used = now_ms();
        until("a later millisecond", async || (now_ms() > last_used).then_some(())).await;
        worker.release(last_used).await.expect("release");
    }
    // A stamp goes on being pushed: the lease outlasts the first one.
    let worker = ids.lease("long", KEPT).await.expect("the only one");
    let first = now_ms() + 3 * u64::try_from(KEPT.as_millis()).expect("a small number");
    until("a later stamp", async || worker.covers(first).then_some(())).await;
}
