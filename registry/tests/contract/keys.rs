use futures_util::future::join_all;
use tidegate_registry::{KEY_BYTES_MAX, RegistryError, VALUE_BYTES_MAX};

use crate::site::{LONG, Site};

pub async fn what_is_put_is_found_until_it_is_deleted(site: &Site) {
    assert_eq!(site.value("a").await, None);
    site.put("a", "1").await;
    let first = site.other().get(&site.key("a")).await.expect("get").expect("it is there");
    assert_eq!((first.key, first.value.as_str()), (site.key("a"), "1"));
    site.put("a", "").await;
    let second = site.registry.get(&site.key("a")).await.expect("get").expect("it is there");
    assert_eq!(second.value, "");
    assert!(second.version > first.version, "versions grow");
    site.registry.delete(&site.key("a")).await.expect("delete");
    site.registry.delete(&site.key("a")).await.expect("nothing to delete is fine");
    assert_eq!(site.value("a").await, None);
    let long = "x".repeat(VALUE_BYTES_MAX);
    site.put("long", &long).await;
    assert_eq!(site.value("long").await, Some(long));
}

pub async fn a_prefix_lists_what_is_below_it_in_order(site: &Site) {
    for name in ["b/2", "b/10", "b/1", "b0", "b", "a/1", "b/"] {
        site.put(name, name).await;
    }
    let listed = site.registry.list(&site.key("b/")).await.expect("list");
    let values: Vec<&str> = listed.iter().map(|entry| entry.value.as_str()).collect();
    assert_eq!(values, ["b/", "b/1", "b/10", "b/2"]);
    assert_eq!(site.registry.list(&site.key("nothing/")).await.expect("list"), []);
    assert!(site.registry.list("").await.expect("all of it").len() >= 7);
}

pub async fn create_is_for_the_first_one_only(site: &Site) {
    let clients: Vec<_> = (0..8).map(|_| site.other()).collect();
    let key = site.key("first");
    let tries = clients.iter().enumerate().map(|(n, client)| {
        let key = &key;
        async move { (n, client.create(key, &n.to_string()).await.expect("create")) }
    });
    let created: Vec<usize> =
        join_all(tries).await.into_iter().filter(|(_, created)| *created).map(|(n, _)| n).collect();
    let [first] = created[..] else { panic!("one, not {created:?}") };
    assert_eq!(site.value("first").await, Some(first.to_string()));
}

pub async fn replace_is_compare_and_set(site: &Site) {
    let key = site.key("counter");
    assert!(!site.registry.replace(&key, 1, "0").await.expect("replace"), "nothing to replace");
    site.put("counter", "0").await;
    let adders = (0..4).map(|_| {
        let (registry, key) = (site.other(), key.clone());
        async move {
            let mut added = 0;
            while added < 5 {
                let entry = registry.get(&key).await.expect("get").expect("it is there");
                let next = entry.value.parse::<u64>().expect("a number") + 1;
                added += u64::from(registry.replace(&key, entry.version, &next.to_string()).await.expect("replace"));
            }
        }
    });
    join_all(adders).await;
    assert_eq!(site.value("counter").await.as_deref(), Some("20"));

    let session = site.registry.session(LONG).await.expect("a session");
    let held = site.key("held");
    session.hold(&held, "a").await.expect("hold");
    let entry = site.registry.get(&held).await.expect("get").expect("it is there");
    assert!(site.registry.replace(&held, entry.version, "b").await.expect("replace"));
    session.end().await.expect("end");
    assert_eq!(site.value("held").await, None, "it still belonged to the session");
}

pub async fn odd_names_are_names(site: &Site) {
    let odd =
        ["a b", "ünïcødé", "*?[a-z]", "{tag}", "quote\"'`", "back\\slash", "%41", "🦀", "$KEYS[1]", "..", "a//b", "-"];
    for name in odd {
        let session = site.registry.session(LONG).await.expect("a session");
        let key = site.key(name);
        session.claim(&key, name).await.expect("claim");
        assert_eq!(site.value(name).await.as_deref(), Some(name));
        let listed = site.registry.list(&key).await.expect("list");
        assert_eq!(listed.iter().map(|entry| &entry.value).collect::<Vec<_>>(), [name]);
        session.release(&key).await.expect("release");
        assert_eq!(site.value(name).await, None, "{name}");
    }
}

pub async fn what_is_no_key_is_refused(site: &Site) {
    for key in ["", "a\nb", "a\0b", "\u{7f}", &"x".repeat(KEY_BYTES_MAX + 1)] {
        let refused = site.registry.put(key, "").await;
        assert!(matches!(refused, Err(RegistryError::InvalidKey { .. })), "{key:?}: {refused:?}");
    }
    let refused = site.registry.put(&site.key("a"), &"x".repeat(VALUE_BYTES_MAX + 1)).await;
    assert!(matches!(refused, Err(RegistryError::InvalidValue { .. })), "{refused:?}");
    let refused = site.registry.session(std::time::Duration::ZERO).await;
    assert!(matches!(refused, Err(RegistryError::InvalidTtl(_))));
}
