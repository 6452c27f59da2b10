use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;

use crate::site::{LONG, SHORT, Site, in_time, until};

/// Until this many tickets stand in the queue.
async fn queued(site: &Site, key: &str, tickets: usize) {
    let prefix = format!("{key}/");
    let stand = async || (site.registry.list(&prefix).await.expect("list").len() == tickets).then_some(());
    until("a place in the queue", stand).await;
}

pub async fn one_at_a_time_in_the_order_of_asking(site: &Site) {
    let key = site.names.lock("a").expect("a name");
    let (busy, turns, last) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let first = site.registry.session(LONG).await.expect("a session");
    let first = first.lock(&key).await.map(|lock| (first, lock)).expect("a free lock");
    last.store(first.1.fencing(), Ordering::SeqCst);
    let mut waiting = Vec::new();
    let go_on = async {
        queued(site, &key, 5).await;
        first.1.release().await.expect("release");
    };
    for place in 0..4 {
        let (registry, key, busy, turns, last) = (site.other(), &key, &busy, &turns, &last);
        waiting.push(async move {
            // One after the other, so that there is an order.
            queued(site, key, place + 1).await;
            let session = registry.session(LONG).await.expect("a session");
            let lock = session.lock(key).await.expect("a turn");
            assert!(!busy.swap(true, Ordering::SeqCst), "two at once");
            assert_eq!(turns.fetch_add(1, Ordering::SeqCst), place as u64, "in order");
            assert!(lock.is_held() && lock.fencing() > last.swap(lock.fencing(), Ordering::SeqCst));
            tokio::time::sleep(Duration::from_millis(20)).await;
            busy.store(false, Ordering::SeqCst);
            if place % 2 == 0 {
                lock.release().await.expect("release");
            } else {
                drop(lock);
            }
        });
    }
    in_time("everybody's turn", async { tokio::join!(go_on, join_all(waiting)) }).await;
}

pub async fn a_dead_holder_makes_way(site: &Site) {
    let key = site.names.lock("a").expect("a name");
    let mut dead = site.registry.session(SHORT).await.expect("a session");
    let held = dead.lock(&key).await.expect("a free lock");
    dead.abandon();
    let next = site.other().session(LONG).await.expect("a session");
    let lock = in_time("the next one's turn", next.lock(&key)).await.expect("a turn");
    assert!(!held.is_held(), "two holders at once");
    in_time("the loss is told", held.lost()).await;
    assert!(lock.fencing() > held.fencing());
}

pub async fn who_gives_up_waiting_holds_nobody_up(site: &Site) {
    let key = site.names.lock("a").expect("a name");
    let holder = site.registry.session(LONG).await.expect("a session");
    let held = holder.lock(&key).await.expect("a free lock");
    let impatient = site.other().session(LONG).await.expect("a session");
    {
        let waiting = impatient.lock(&key);
        tokio::select! {
            _ = waiting => panic!("it is held"),
            () = queued(site, &key, 2) => {}
        }
    }
    queued(site, &key, 1).await;
    held.release().await.expect("release");
    let last = site.other().session(LONG).await.expect("a session");
    in_time("the last one's turn", last.lock(&key)).await.expect("a turn");
    assert!(impatient.is_alive());
}
