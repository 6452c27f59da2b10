use futures_util::future::join_all;

use crate::site::{LONG, SHORT, Site, change, in_time, snapshot};

pub async fn a_watch_begins_with_what_is_there_and_tells_each_change(site: &Site) {
    site.put("w/a", "1").await;
    site.put("w/b", "1").await;
    let mut watch = site.other().watch(&site.key("w/"));
    let there = [(site.key("w/a"), "1".to_owned()), (site.key("w/b"), "1".to_owned())];
    assert_eq!(snapshot(&mut watch).await, there);
    site.put("w/c", "1").await;
    assert_eq!(change(&mut watch).await, (site.key("w/c"), Some("1".into())));
    site.put("w/a", "2").await;
    assert_eq!(change(&mut watch).await, (site.key("w/a"), Some("2".into())));
    site.registry.delete(&site.key("w/b")).await.expect("delete");
    assert_eq!(change(&mut watch).await, (site.key("w/b"), None));
    let session = site.registry.session(LONG).await.expect("a session");
    session.hold(&site.key("w/d"), "1").await.expect("hold");
    assert_eq!(change(&mut watch).await, (site.key("w/d"), Some("1".into())));
    session.end().await.expect("end");
    assert_eq!(change(&mut watch).await, (site.key("w/d"), None));
    assert!(site.registry.create(&site.key("w/b"), "again").await.expect("create"));
    assert_eq!(change(&mut watch).await, (site.key("w/b"), Some("again".into())));
}

pub async fn a_watch_tells_that_a_process_is_gone(site: &Site) {
    let mut watch = site.other().watch(&site.key("w/"));
    assert_eq!(snapshot(&mut watch).await, []);
    let mut dead = site.registry.session(SHORT).await.expect("a session");
    let alive = site.registry.session(LONG).await.expect("a session");
    dead.hold(&site.key("w/dead"), "1").await.expect("hold");
    assert_eq!(change(&mut watch).await, (site.key("w/dead"), Some("1".into())));
    alive.hold(&site.key("w/alive"), "1").await.expect("hold");
    assert_eq!(change(&mut watch).await, (site.key("w/alive"), Some("1".into())));
    dead.abandon();
    assert_eq!(change(&mut watch).await, (site.key("w/dead"), None));
    assert_eq!(site.value("w/alive").await.as_deref(), Some("1"));
}

pub async fn other_prefixes_are_not_told(site: &Site) {
    let mut watch = site.other().watch(&site.key("w/"));
    assert_eq!(snapshot(&mut watch).await, []);
    for name in ["v/a", "w", "w0", "x"] {
        site.put(name, "1").await;
    }
    site.put("w/a", "1").await;
    assert_eq!(change(&mut watch).await, (site.key("w/a"), Some("1".into())));
}

pub async fn a_table_ends_where_the_keys_end(site: &Site) {
    let mut table = site.other().watch(&site.key("t/")).into_table();
    in_time("the first snapshot", table.ready()).await;
    assert!(table.current().is_empty());
    let writers = (0..4).map(|writer| async move {
        for round in 0..25 {
            site.put(&format!("t/{writer}"), &round.to_string()).await;
            site.put(&format!("t/gone {writer}"), &round.to_string()).await;
            site.registry.delete(&site.key(&format!("t/gone {writer}"))).await.expect("delete");
        }
    });
    join_all(writers).await;
    let mut copy = table.clone();
    drop(table);
    let want: Vec<_> = (0..4).map(|writer| (site.key(&format!("t/{writer}")), "24".to_owned())).collect();
    let settled = async {
        let has = |entries: &std::collections::BTreeMap<String, tidegate_registry::Entry>| {
            entries.values().map(|entry| (entry.key.clone(), entry.value.clone())).collect::<Vec<_>>() == want
        };
        let mut now = copy.current();
        while !has(&now) {
            now = copy.changed().await;
        }
    };
    in_time("the last values", settled).await;
    let listed = site.registry.list(&site.key("t/")).await.expect("list");
    assert_eq!(copy.current().values().cloned().collect::<Vec<_>>(), listed);
}
