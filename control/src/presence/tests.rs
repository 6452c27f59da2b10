use super::*;

fn connection(uid: &str, id: &str) -> LinkConnection {
    let (device, platform) = (format!("d{id}"), "web".to_owned());
    LinkConnection { uid: uid.to_owned(), connection_id: id.to_owned(), device, platform, reason: String::new() }
}

fn online(uid: &str, id: &str) -> LinkPresence {
    LinkPresence { online: vec![connection(uid, id)], ..Default::default() }
}

fn present(uid: &str, id: &str) -> LinkPresence {
    LinkPresence { present: vec![connection(uid, id)], ..Default::default() }
}

fn all() -> LinkPresence {
    LinkPresence { all: true, ..Default::default() }
}

fn offline(uid: &str, id: &str) -> LinkPresence {
    let gone = LinkConnection { reason: "eof".to_owned(), ..connection(uid, id) };
    LinkPresence { offline: vec![gone], ..Default::default() }
}

/// Of "a", and of everybody.
fn counts(presence: &Presence) -> (usize, usize) {
    let view = presence.view();
    (view.connections_of("a"), view.connections())
}

/// `+uid/connection` or `-uid/connection/reason`, in a fixed order.
fn said(changes: &[Change]) -> Vec<String> {
    let text = |change: &Change| match change.online {
        true => format!("+{}/{}", change.uid, change.connection_id),
        false => format!("-{}/{}/{}", change.uid, change.connection_id, change.reason),
    };
    let mut said: Vec<String> = changes.iter().map(text).collect();
    said.sort();
    said
}

#[test]
fn connections_come_and_go_once() {
    let presence = Presence::default();
    let (gateway, _) = presence.attach("gw/3", 1);
    let mut changes = Vec::new();
    for told in [online("a", "1"), online("a", "2"), online("a", "2"), online("b", "3")] {
        changes.extend(presence.apply(&gateway, told));
    }
    assert_eq!(said(&changes), ["+a/1", "+a/2", "+b/3"]);
    assert_eq!((&*changes[0].gateway, &*changes[0].device, &*changes[0].platform), ("gw", "d1", "web"));
    assert_eq!(counts(&presence), (2, 3));
    let gone = presence.apply(&gateway, offline("a", "1"));
    assert_eq!((said(&gone), &*gone[0].device), (vec!["-a/1/eof".to_owned()], "d1"));
    assert_eq!(counts(&presence), (1, 2));
}

#[test]
fn a_route_goes_only_with_its_own_connection_and_incarnation() {
    let presence = Presence::default();
    let (gateway, _) = presence.attach("gw/3", 5);
    presence.apply(&gateway, online("a", "1"));
    for (id, name, incarnation) in [("2", "gw", 5), ("1", "gw", 4), ("1", "other", 5)] {
        assert!(!presence.drop_connection("a", id, name, incarnation), "{id} {name} {incarnation}");
    }
    assert!(presence.drop_connection("a", "1", "gw", 5));
    assert!(!presence.drop_connection("a", "1", "gw", 5), "once");
    assert_eq!(counts(&presence), (0, 0));
}

#[test]
fn a_new_incarnation_voids_the_old_ones_routes_and_no_other() {
    let presence = Presence::default();
    let (old, _) = presence.attach("gw", 1);
    let (other, _) = presence.attach("other", 1);
    presence.apply(&old, online("a", "1"));
    presence.apply(&other, online("a", "1"));
    let (again, changes) = presence.attach("gw", 1);
    assert_eq!((again.route, changes.len(), counts(&presence).0), (old.route, 0, 2));
    let (new, changes) = presence.attach("gw", 2);
    assert_ne!(new.route, old.route);
    assert_eq!(said(&changes), ["-a/1/gateway_restarted"]);
    assert_eq!(counts(&presence), (1, 1));
}

#[test]
fn a_gateway_that_stays_away_is_given_up_and_its_return_is_told() {
    let presence = Presence::default();
    let (first, _) = presence.attach("gw", 1);
    presence.apply(&first, online("a", "1"));
    presence.detach(&first);
    let (second, _) = presence.attach("gw", 1);
    assert!(presence.forget(&first).is_empty(), "it came back");
    presence.detach(&second);
    assert_eq!(said(&presence.forget(&second)), ["-a/1/gateway_lost"]);
    assert!(presence.forget(&second).is_empty(), "once");
    assert_eq!(counts(&presence), (0, 0));
    let (third, _) = presence.attach("gw", 1);
    assert_eq!(said(&presence.apply(&third, present("a", "1"))), ["+a/1"]);
}

#[test]
fn what_is_told_again_is_no_change_and_who_is_not_told_again_is_gone() {
    let presence = Presence::default();
    let (first, _) = presence.attach("gw", 1);
    for told in [present("a", "1"), online("a", "2"), online("b", "3")] {
        presence.apply(&first, told);
    }
    presence.detach(&first);
    let (second, _) = presence.attach("gw", 1);
    // The coming of 4 and the going of 3 were lost with the link.
    let mut changes = Vec::new();
    for told in [present("a", "1"), present("a", "2"), present("c", "4"), all(), all()] {
        changes.extend(presence.apply(&second, told));
    }
    assert_eq!(said(&changes), ["+c/4", "-b/3/unheard"]);
    assert_eq!(counts(&presence), (2, 3));
}

#[test]
fn a_partition_that_changes_its_owner_changes_no_users_state() {
    let (before, after) = (Presence::default(), Presence::default());
    let (old, _) = before.attach("gw/0", 1);
    before.apply(&old, online("a", "1"));
    before.apply(&old, online("a", "2"));
    before.detach(&old);
    before.hand_over(&old);
    assert!(before.forget(&old).is_empty());
    assert_eq!(counts(&before), (0, 0));
    let (new, changes) = after.attach("gw/0", 1);
    assert!(changes.is_empty());
    // 2 went while nobody was attached.
    let mut changes = Vec::new();
    for told in [offline("a", "2"), present("a", "1"), all()] {
        changes.extend(after.apply(&new, told));
    }
    assert_eq!(said(&changes), ["-a/2/eof"]);
    assert_eq!(counts(&after), (1, 1));
}
