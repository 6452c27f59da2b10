//! What happens when the way to the server breaks.

use tidegate_registry::{Claimed, RegistryError};

use crate::site::{KEPT, LONG, SHORT, Site, change, in_time, snapshot, until, until_snapshot};

pub async fn a_watch_survives_a_cut_and_misses_nothing(site: &Site) {
    let (registry, proxy) = site.through_proxy().await;
    site.put("w/a", "1").await;
    site.put("w/b", "1").await;
    let mut watch = registry.watch(&site.key("w/"));
    assert_eq!(snapshot(&mut watch).await.len(), 2);
    proxy.set_away(true);
    proxy.cut();
    site.put("w/a", "2").await;
    site.registry.delete(&site.key("w/b")).await.expect("delete");
    proxy.set_away(false);
    assert_eq!(until_snapshot(&mut watch).await, [(site.key("w/a"), "2".to_owned())]);
    site.put("w/c", "1").await;
    assert_eq!(change(&mut watch).await, (site.key("w/c"), Some("1".into())));
}

pub async fn a_deaf_connection_is_left_for_another(site: &Site) {
    let (registry, proxy) = site.through_proxy().await;
    let mut watch = registry.watch(&site.key("w/"));
    assert_eq!(snapshot(&mut watch).await, []);
    proxy.deafen();
    site.put("w/a", "1").await;
    assert_eq!(until_snapshot(&mut watch).await, [(site.key("w/a"), "1".to_owned())]);
    let found = until("an answer", async || registry.get(&site.key("w/a")).await.ok()).await;
    assert_eq!(found.expect("it is there").value, "1");
}

pub async fn a_request_without_an_answer_fails(site: &Site) {
    let (registry, proxy) = site.through_proxy().await;
    registry.put(&site.key("a"), "1").await.expect("put");
    proxy.deafen_for_good();
    for _ in 0..2 {
        let refused = in_time("a failure", registry.put(&site.key("a"), "2")).await;
        assert!(matches!(refused, Err(RegistryError::Unavailable(_))), "{refused:?}");
    }
    let (registry, proxy) = site.through_proxy().await;
    proxy.set_away(true);
    let refused = in_time("a failure", registry.get(&site.key("a"))).await;
    assert!(matches!(&refused, Err(error) if error.is_temporary()), "{refused:?}");
    proxy.set_away(false);
    let found = until("an answer", async || registry.get(&site.key("a")).await.ok()).await;
    assert_eq!(found.expect("it is there").value, "1");
}

pub async fn a_session_survives_a_cut(site: &Site) {
    let (registry, proxy) = site.through_proxy().await;
    let session = registry.session(KEPT).await.expect("a session");
    session.hold(&site.key("a"), "1").await.expect("hold");
    let first = session.valid_until();
    proxy.cut();
    until("another term", async || (session.valid_until() > first + KEPT).then_some(())).await;
    assert!(session.is_alive());
    assert_eq!(site.value("a").await.as_deref(), Some("1"));
}

/// Both threads of this process's runtime do something else for longer than the session's term.
pub async fn a_session_survives_a_process_without_time(site: &Site) {
    let (session, key) = (site.registry.session(SHORT).await.expect("a session"), site.key("a"));
    assert_eq!(session.claim(&key, "owner").await.expect("claim"), Claimed::Ours);
    let busy = [(); 2].map(|()| tokio::spawn(async { std::thread::sleep(SHORT * 2) }));
    std::thread::sleep(SHORT * 2);
    assert!(session.is_alive());
    for thread in busy {
        thread.await.expect("it only sleeps");
    }
    assert_eq!(site.value("a").await.as_deref(), Some("owner"));
}

pub async fn an_owner_that_is_cut_off_stops_before_others_begin(site: &Site) {
    let (registry, proxy) = site.through_proxy().await;
    let owner = registry.session(SHORT).await.expect("a session");
    let key = site.key("a");
    assert_eq!(owner.claim(&key, "owner").await.expect("claim"), Claimed::Ours);
    let other = site.registry.session(LONG).await.expect("a session");
    proxy.deafen_for_good();
    let taken = async || match other.claim(&key, "other").await.expect("claim") {
        Claimed::Ours => Some(owner.is_alive()),
        Claimed::Theirs(_) => None,
    };
    assert!(!until("the other one's turn", taken).await, "two owners at once");
    in_time("the loss is told", owner.lost()).await;
    assert!(matches!(owner.claim(&key, "owner").await, Err(RegistryError::SessionLost)));
}
