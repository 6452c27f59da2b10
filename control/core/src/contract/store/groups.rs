//! Groups and who is in them.

use super::StoreFactory;
use super::fixtures::{
    EPOCH, NO_LIMIT, begin_group, dismiss_group, group_begins, join, leave, membership, message, message_of, stream,
    uid,
};
use crate::domain::{Epoch, Gid, LeaveReason, Role, Seq, Timestamp};
use crate::ports::{Head, MessageStore, StoreReader};

fn gid(name: &str) -> Gid {
    name.parse().expect("a valid gid")
}

fn names(store: &impl StoreReader, group: &str, after: Option<&str>, limit: usize) -> Vec<String> {
    let members = store.members(&gid(group), after.map(uid).as_ref(), limit).expect("members");
    members.into_iter().map(|m| m.uid.as_str().to_owned()).collect()
}

pub fn groups_begin_and_are_found<F: StoreFactory>(factory: &mut F) {
    let mut store = factory.open();
    assert_eq!(store.group(&gid("go")).expect("group"), None);
    store.commit(&[group_begins("go", Epoch(77), true, 5), begin_group("club")]).expect("commit");
    for _ in 0..2 {
        let group = store.group(&gid("go")).expect("group").expect("it began");
        assert_eq!((group.epoch, group.open, group.dismissed), (Epoch(77), true, false));
        assert_eq!((&*group.name, &*group.creator, group.created), ("A group", "alice", Timestamp(5)));
        assert!(!store.group(&gid("club")).expect("group").expect("it began").open);
        assert_eq!(store.head(&stream("g:go")).expect("head"), None, "an open group begins without a message");
        store = factory.reopen(store);
    }
}

pub fn members_have_intervals<F: StoreFactory>(factory: &mut F) {
    let mut store = factory.open();
    store
        .commit(&[begin_group("go"), join("go", 1, "ann", Role::Owner), join("go", 2, "bob", Role::Member)])
        .expect("commit");
    let interval = |store: &F::Store, who: &str| {
        let member = store.member(&gid("go"), &uid(who)).expect("member");
        member.map(|m| (m.role, m.joined.0, m.left.map(|s| s.0)))
    };
    assert_eq!(interval(&store, "ann"), Some((Role::Owner, 1, None)));
    assert_eq!(interval(&store, "bob"), Some((Role::Member, 2, None)));
    assert_eq!(interval(&store, "cat"), None);

    store.commit(&[message("g:go", 3), leave("go", 4, "bob")]).expect("commit");
    assert_eq!(interval(&store, "bob"), Some((Role::Member, 2, Some(4))));
    assert_eq!(names(&store, "go", None, 10), ["ann"]);
    assert_eq!(store.groups_of(&uid("bob"), 10).expect("groups_of"), []);

    store.commit(&[join("go", 5, "bob", Role::Member), join("go", 6, "bob", Role::Admin)]).expect("commit");
    store = factory.reopen(store);
    assert_eq!(interval(&store, "bob"), Some((Role::Admin, 5, None)), "a change of role keeps the place of joining");
    assert_eq!(store.groups_of(&uid("bob"), 10).expect("groups_of"), [gid("go")]);
}

pub fn members_page_by_uid<F: StoreFactory>(factory: &mut F) {
    let mut store = factory.open();
    let mut records = vec![begin_group("go"), begin_group("go2")];
    for (at, who) in ["m3", "m1", "m2", "M1", "a.b"].iter().enumerate() {
        records.push(join("go", at as u64 + 1, who, Role::Member));
    }
    records.push(join("go2", 1, "zoe", Role::Member));
    store.commit(&records).expect("commit");
    assert_eq!(names(&store, "go", None, 3), ["M1", "a.b", "m1"]);
    assert_eq!(names(&store, "go", Some("m1"), 3), ["m2", "m3"]);
    assert_eq!(names(&store, "go", Some("m3"), 3), [""; 0]);
    assert_eq!(names(&store, "go2", None, 3), ["zoe"]);
}

pub fn groups_of_a_user_come_most_recently_active_first<F: StoreFactory>(factory: &mut F) {
    let mut store = factory.open();
    let mut records = Vec::new();
    for group in ["g1", "g2", "g3"] {
        records.extend([begin_group(group), join(group, 1, "ann", Role::Member)]);
    }
    records.extend([message("g:g3", 20), message("g:g1", 21), message("g:g2", 22)]);
    store.commit(&records).expect("commit");
    let groups = |store: &F::Store, limit| {
        let groups = store.groups_of(&uid("ann"), limit).expect("groups_of");
        groups.iter().map(|g| g.as_str().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(groups(&store, 10), ["g2", "g1", "g3"]);
    store.commit(&[message("g:g3", 30)]).expect("commit");
    assert_eq!(groups(&store, 2), ["g3", "g2"]);
    store = factory.reopen(store);
    assert_eq!(groups(&store, 2), ["g3", "g2"]);
}

pub fn a_dismissed_group_has_no_members<F: StoreFactory>(factory: &mut F) {
    let mut store = factory.open();
    store
        .commit(&[begin_group("go"), join("go", 1, "ann", Role::Owner), join("go", 2, "bob", Role::Member)])
        .expect("commit");
    store.commit(&[message("g:go", 3), dismiss_group("go")]).expect("commit");
    for _ in 0..2 {
        assert!(store.group(&gid("go")).expect("group").expect("kept").dismissed);
        assert_eq!(names(&store, "go", None, 10), [""; 0]);
        assert_eq!(store.groups_of(&uid("ann"), 10).expect("groups_of"), []);
        assert!(store.member(&gid("go"), &uid("ann")).expect("member").is_none_or(|m| m.left.is_some()));
        let page = store.page(&stream("g:go"), Seq::ZERO, NO_LIMIT).expect("page");
        assert_eq!(page.messages.len(), 3, "the history stays until retention");
        store = factory.reopen(store);
    }
}

pub fn a_group_begun_anew_starts_from_nothing<F: StoreFactory>(factory: &mut F) {
    let mut store = factory.open();
    let anew = Epoch(EPOCH.0 + 1);
    store
        .commit(&[begin_group("go"), join("go", 1, "ann", Role::Owner), message("g:go", 2), dismiss_group("go")])
        .expect("commit");
    store
        .commit(&[
            group_begins("go", anew, false, 9001),
            membership("go", anew, 1, "bob", Some(Role::Owner), LeaveReason::Left),
        ])
        .expect("commit");
    for seq in 2..4 {
        let group = store.group(&gid("go")).expect("group").expect("it began");
        assert_eq!((group.epoch, group.dismissed), (anew, false));
        let head = store.head(&stream("g:go")).expect("head");
        assert_eq!(head, Some(Head { epoch: anew, head: Seq(seq - 1), first: Seq(1) }));
        let page = store.page(&stream("g:go"), Seq::ZERO, NO_LIMIT).expect("page");
        assert_eq!(page.messages.len() as u64, seq - 1, "nothing of the older epoch");
        assert_eq!(names(&store, "go", None, 10), ["bob"]);
        assert!(store.member(&gid("go"), &uid("ann")).expect("member").is_none_or(|m| m.left.is_some()));
        store.commit(&[message_of("g:go", anew, seq)]).expect("commit");
        store = factory.reopen(store);
    }
}
