use futures_util::future::join_all;
use tidegate_registry::{Claimed, RegistryError};

use crate::site::{KEPT, LONG, SHORT, Site, in_time, until};

pub async fn keys_go_with_their_session(site: &Site) {
    let ended = site.registry.session(LONG).await.expect("a session");
    ended.hold(&site.key("held"), "").await.expect("hold");
    ended.claim(&site.key("claimed"), "").await.expect("claim");
    site.put("permanent", "").await;
    ended.end().await.expect("end");
    assert_eq!((site.value("held").await, site.value("claimed").await), (None, None), "gone when end returns");

    let dropped = site.registry.session(LONG).await.expect("a session");
    dropped.hold(&site.key("held"), "").await.expect("hold");
    drop(dropped);
    until("a dropped session ends", async || site.value("held").await.is_none().then_some(())).await;

    let mut dead = site.registry.session(SHORT).await.expect("a session");
    dead.hold(&site.key("held"), "").await.expect("hold");
    dead.abandon();
    until("a dead process's session ends", async || site.value("held").await.is_none().then_some(())).await;
    assert_eq!(site.value("permanent").await.as_deref(), Some(""));
    assert!(!dead.is_alive());
    in_time("the loss is told", dead.lost()).await;
    assert!(matches!(dead.hold(&site.key("held"), "").await, Err(RegistryError::SessionLost)));
    assert!(matches!(dead.claim(&site.key("held"), "").await, Err(RegistryError::SessionLost)));
    assert_eq!(site.value("held").await, None);
}

pub async fn a_session_outlasts_its_term(site: &Site) {
    let session = site.registry.session(KEPT).await.expect("a session");
    session.claim(&site.key("a"), "mine").await.expect("claim");
    let first = session.valid_until();
    let other = site.other().session(LONG).await.expect("a session");
    until("another term", async || (session.valid_until() > first + KEPT).then_some(())).await;
    assert!(session.is_alive());
    let Claimed::Theirs(entry) = other.claim(&site.key("a"), "other").await.expect("claim") else {
        panic!("it was lost while its owner was there")
    };
    assert_eq!(entry.value, "mine");
}

pub async fn one_of_eight_claims_succeeds(site: &Site) {
    let sessions = join_all((0..8).map(|_| {
        let registry = site.other();
        async move { registry.session(LONG).await.expect("a session") }
    }));
    let sessions = sessions.await;
    for round in 0..5 {
        let key = site.key(&format!("round {round}"));
        let claims = sessions.iter().enumerate().map(|(n, session)| {
            let key = &key;
            async move { session.claim(key, &n.to_string()).await.expect("claim") }
        });
        let claims = join_all(claims).await;
        let ours: Vec<usize> = (0..8).filter(|n| claims[*n] == Claimed::Ours).collect();
        let [owner] = ours[..] else { panic!("one owner, not {ours:?}") };
        for claim in &claims {
            if let Claimed::Theirs(entry) = claim {
                assert_eq!(entry.value, owner.to_string());
            }
        }
    }
}

pub async fn a_claim_of_ones_own_may_be_repeated(site: &Site) {
    let session = site.registry.session(LONG).await.expect("a session");
    let key = site.key("a");
    assert_eq!(session.claim(&key, "1").await.expect("claim"), Claimed::Ours);
    let first = site.registry.get(&key).await.expect("get").expect("it is there");
    assert_eq!(session.claim(&key, "1").await.expect("claim"), Claimed::Ours);
    let again = site.registry.get(&key).await.expect("get").expect("it is there");
    assert_eq!(again, first, "nothing was written");
    assert_eq!(session.claim(&key, "2").await.expect("claim"), Claimed::Ours);
    assert_eq!(site.value("a").await.as_deref(), Some("2"));
    site.put("permanent", "x").await;
    let Claimed::Theirs(entry) = session.claim(&site.key("permanent"), "y").await.expect("claim") else {
        panic!("it belongs to nobody's session, but it is there")
    };
    assert_eq!(entry.value, "x");
}

pub async fn only_the_owner_can_release(site: &Site) {
    let (owner, other) = (site.registry.session(LONG).await, site.other().session(LONG).await);
    let (owner, other) = (owner.expect("a session"), other.expect("a session"));
    let key = site.key("a");
    assert_eq!(owner.claim(&key, "owner").await.expect("claim"), Claimed::Ours);
    other.release(&key).await.expect("it does nothing");
    assert_eq!(site.value("a").await.as_deref(), Some("owner"));
    owner.release(&key).await.expect("release");
    assert_eq!(other.claim(&key, "other").await.expect("claim"), Claimed::Ours);
    owner.release(&key).await.expect("it does nothing");
    assert_eq!(site.value("a").await.as_deref(), Some("other"));
    other.release(&site.key("never there")).await.expect("it does nothing");
}

pub async fn nobody_can_claim_while_the_owner_believes(site: &Site) {
    let mut owner = site.registry.session(SHORT).await.expect("a session");
    let other = site.other().session(LONG).await.expect("a session");
    let key = site.key("a");
    assert_eq!(owner.claim(&key, "owner").await.expect("claim"), Claimed::Ours);
    owner.abandon();
    let taken = async || match other.claim(&key, "other").await.expect("claim") {
        Claimed::Ours => Some(owner.is_alive()),
        Claimed::Theirs(_) => None,
    };
    let believed = until("the other one's turn", taken).await;
    assert!(!believed, "two owners at once");
}
